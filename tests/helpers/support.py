"""Shared by the tests: instruction sets to try, arguments and results of a case, another Python process."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, TypeAlias

import numpy as np
import pytest

from cregkit import functional
from cregkit.kernels import _runtime, _threads
from cregkit.verify import cases
from cregkit.verify.dtypes import FLOAT32
from cregkit.verify.inputs import Arguments, virtual_batch_size
from cregkit.verify.shapes import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    COLUMNS,
    ELEMENTS,
    GROUPS,
    IMAGES,
    IMAGES_LAST,
    LEADING,
    MAPS,
    MATRICES,
    PLANES,
    ROWS,
    WEIGHTS,
    Shape,
)

Array: TypeAlias = np.ndarray[Any, Any]

# With it another process finds the same modules: cregkit and these helpers.
PYTHONPATH = os.pathsep.join(sys.path)

ISAS = tuple(_runtime.available_isas())
THREADS = (1, 2, 3, 7)

# The first case of each op, for tests where the layout makes no difference.
OPS = {case.op: case for case in reversed(cases.CASES)}

# The ops on rows, and of these the norms: rms_norm stands for rms_norm_forward and rms_norm_backward too.
ROW_OPS = tuple(dict.fromkeys(case.op for case in cases.CASES if case.shapes is ROWS))
ROW_NORMS = tuple(op for op in ROW_OPS if f"{op}_forward" in ROW_OPS)
OPS_WITH_OUT = {op: case for op, case in OPS.items() if "out" in inspect.signature(getattr(functional, op)).parameters}

needs_openmp = pytest.mark.skipif(not _threads.openmp_version(), reason="built without OpenMP")
each_case = pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
each_op = pytest.mark.parametrize("case", OPS.values(), ids=OPS)
each_op_with_out = pytest.mark.parametrize("case", OPS_WITH_OUT.values(), ids=OPS_WITH_OUT)


def bench_script(name: str) -> ModuleType:
    """The module of a script in bench/."""
    return importlib.import_module(name)


def each_isa() -> Iterator[str]:
    """Use each instruction set of this CPU in turn, and restore the former one."""
    before = _runtime.current_isa()
    try:
        for isa in ISAS:
            _runtime.use_isa(isa)
            yield isa
    finally:
        _runtime.use_isa(before)


def arguments_of(case: cases.Case, shape: Shape, offset: float = 0.0) -> Arguments:
    return case.arguments(shape, np.random.default_rng([*shape, int(offset)]), offset)


def some_shapes(case: cases.Case) -> tuple[Shape, ...]:
    """All shapes of a case in float32, a third of them in 16 bits."""
    return case.shapes if case.dtype == FLOAT32 else case.shapes[1::3]


def lacks_variance(case: cases.Case, shape: Shape) -> bool:
    """Whether a channel (of a sample, of a virtual batch) has one value: training then refuses the shape."""
    if case.op not in ("batch_norm_forward", "ghost_batch_norm_forward", "instance_norm_forward"):
        return False
    values = math.prod(shape) // shape[-1 if case.shapes is CHANNELS_LAST else 1]
    size = virtual_batch_size(shape[0])
    least = {"batch": shape[0], "ghost": shape[0] % size or size, "instance": 1}[case.op.partition("_")[0]]
    return values // max(1, shape[0]) * least < 2


# A shape of each family in OPS with few elements, and one with about four million.
SMALL = {
    **dict.fromkeys((ROWS, COLUMNS, LEADING, ELEMENTS, MAPS, WEIGHTS), (4, 5)),
    **dict.fromkeys((MATRICES, CHANNELS_FIRST), (4, 5, 3)),
    PLANES: (4, 5, 3, 2),
    GROUPS: (4, 6, 3, 2),
    IMAGES: (4, 3, 5, 2),
    IMAGES_LAST: (4, 5, 2, 3),
}
LARGE = {
    **dict.fromkeys((ROWS, COLUMNS, LEADING, ELEMENTS, WEIGHTS), (2048, 2048)),
    **dict.fromkeys((MATRICES, CHANNELS_FIRST, MAPS, PLANES, GROUPS), (64, 64, 1024)),
    IMAGES: (12, 3, 341, 342),
    IMAGES_LAST: (12, 341, 342, 3),
}


def small_arguments(op: str, dtype: Any = FLOAT32) -> Arguments:
    """Arguments of few elements, with every optional array."""
    return arguments_of(OPS[op].stored_as(dtype), SMALL[OPS[op].shapes])


def results_of(case: cases.Case, arguments: Arguments) -> dict[str, Array]:
    return cases.run(case, functional, arguments)


def bits(results: Mapping[str, Array]) -> dict[str, tuple[Any, ...]]:
    """Results as bytes, to compare bit by bit: a NaN equals itself, and -0 differs from 0."""
    return {name: (value.dtype, value.shape, value.tobytes()) for name, value in results.items()}


def huge(array: Array) -> float:
    """A value whose square overflows in float32, or in float16 the largest."""
    return 65504.0 if array.dtype == np.float16 else 1e30


def arrays_in(arguments: Arguments) -> dict[str, Array]:
    return {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}


def along(axis: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """A norm along an axis of matrices, called with matrices whose rows it normalises."""

    def call(*arrays: Array | None, **options: Any) -> Any:
        given = [turned(array, axis) if isinstance(array, np.ndarray) and array.ndim > 1 else array for array in arrays]
        returned = function(*given, axis=axis, **options)
        if not isinstance(returned, tuple):
            return np.moveaxis(returned, axis, -1)
        return np.moveaxis(returned[0], axis, -1), *returned[1:]

    return call


def turned(rows: Array, axis: int) -> Array:
    """A copy whose rows lie along the axis."""
    return np.ascontiguousarray(np.moveaxis(rows, -1, axis))


def first_of(returned: Any) -> Any:
    """The result that `out` receives: the first or only one of an op."""
    return returned[0] if isinstance(returned, tuple) else returned


def several_ops(x: Array) -> bytes:
    gamma = np.linspace(0.5, 1.5, x.shape[1], dtype=np.float32)
    y, mean, rstd = functional.layer_norm_forward(x, gamma)
    results = [y, *functional.layer_norm_backward(y, x, mean, rstd, gamma)]
    results += functional.batch_norm_forward(x, gamma)
    results += [functional.dropout(x, 0.3, seed=4), functional.rms_norm(x), np.float64(functional.l2_penalty(x, 0.1))]
    return b"".join(result.tobytes() for result in results)


def heeds_ctrl_c() -> None:
    """As ``preexec_fn`` of a process: Ctrl-C ends it, even if the tests run in the background.

    After a minute of CPU time it is killed.
    """
    import resource  # on Unix alone

    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))


@contextmanager
def ctrl_c_at_line(line: int, path: str) -> Iterator[Callable[[], bool]]:
    """Press Ctrl-C just before the given line, counted from 0, of those executed in a file; yields whether it was.

    Headers of ``with`` do not count: at the end of a block, Python calls ``__exit__`` before it looks for signals.
    """
    left = line
    headers = {
        number
        for node in ast.walk(ast.parse(Path(path).read_text()))
        if isinstance(node, ast.With)
        for number in range(node.lineno, node.body[0].lineno)
    }

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != path or left < 0:
            return None
        if event == "line" and frame.f_lineno not in headers:
            left -= 1
            if left < 0:
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lambda: left < 0
    finally:
        sys.settrace(before)


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run another Python that finds the same modules; only these variables choose its ISA and threads."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("CREGKIT_ISA", "OMP_NUM_THREADS")}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**inherited, "PYTHONPATH": PYTHONPATH, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
