"""What several test files share: the instruction sets to try, arguments and results of a case, a Python of its own."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

import cregkit
from cregkit import functional
from cregkit.kernels import _runtime, _threads
from cregkit.verify import cases
from cregkit.verify.inputs import Arguments
from cregkit.verify.shapes import COLUMNS, ELEMENTS, IMAGES, IMAGES_LAST, MAPS, ROWS, Shape

Array: TypeAlias = np.ndarray[Any, Any]

ISAS = tuple(_runtime.available_isas())
THREADS = (1, 2, 3, 7)

# The first case of each op: enough where layouts make no difference.
OPS = {case.op: case for case in reversed(cases.CASES)}
OPS_WITH_OUT = {op: case for op, case in OPS.items() if "out" in inspect.signature(getattr(functional, op)).parameters}

needs_openmp = pytest.mark.skipif(not _threads.openmp_version(), reason="built without OpenMP")
each_case = pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
each_op = pytest.mark.parametrize("case", OPS.values(), ids=OPS)
each_op_with_out = pytest.mark.parametrize("case", OPS_WITH_OUT.values(), ids=OPS_WITH_OUT)


def each_isa() -> Iterator[str]:
    """Put each instruction set of this CPU to use in turn, and the one before back at the end."""
    before = _runtime.current_isa()
    try:
        for isa in ISAS:
            _runtime.use_isa(isa)
            yield isa
    finally:
        _runtime.use_isa(before)


def arguments_of(case: cases.Case, shape: Shape, offset: float = 0.0) -> Arguments:
    return case.arguments(shape, np.random.default_rng([*shape, int(offset)]), offset)


# Shapes that any case of a family takes; each with few numbers, and with four million.
SMALL = {
    **dict.fromkeys((ROWS, COLUMNS, ELEMENTS, MAPS), (4, 5)),
    IMAGES: (4, 3, 5, 2),
    IMAGES_LAST: (4, 5, 2, 3),
}
LARGE = {
    **dict.fromkeys((ROWS, COLUMNS, ELEMENTS), (2048, 2048)),
    MAPS: (64, 64, 1024),
    IMAGES: (12, 3, 341, 342),
    IMAGES_LAST: (12, 341, 342, 3),
}


def small_arguments(op: str) -> Arguments:
    """Few numbers, with every optional array."""
    return arguments_of(OPS[op], SMALL[OPS[op].shapes])


def results_of(case: cases.Case, arguments: Arguments) -> dict[str, Array]:
    return cases.run(case, functional, arguments)


def bits(results: Mapping[str, Array]) -> dict[str, tuple[Any, ...]]:
    """Results to be compared bit by bit: a NaN equals itself, and -0 is not 0."""
    return {name: (value.dtype, value.shape, value.tobytes()) for name, value in results.items()}


def arrays_in(arguments: Arguments) -> dict[str, Array]:
    return {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}


def first_of(returned: Any) -> Any:
    """What `out` receives: the first or only thing that an op returns."""
    return returned[0] if isinstance(returned, tuple) else returned


def heeds_ctrl_c() -> None:
    """For a process's ``preexec_fn``: Ctrl-C ends it, also where the tests were started in the background.

    Whoever does not end is killed, after a minute of its own.
    """
    import resource  # Unix alone has it

    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python of its own that finds cregkit, with these variables and no others that choose ISA or threads."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("CREGKIT_ISA", "OMP_NUM_THREADS")}
    folders = [str(Path(cregkit.__file__).parents[1]), str(Path(__file__).parent)]
    return subprocess.run(
        [sys.executable, *arguments],
        env={**inherited, "PYTHONPATH": os.pathsep.join(folders), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
