"""Count the instructions of every op, and compare them with those stored in instructions.json.

    python bench/instructions.py                # exit code 1 if a count is more than 2 % above the stored one
    python bench/instructions.py --store        # store the counts of this build

Other load on the machine changes times, but no count. Two parts of each call are counted on one thread:

kernels     The instructions of the C kernels, for each instruction set of this CPU, on about 4096 elements. The same
            compiler and flags give the same count.
call/ISA    Those of everything around the kernels of the instruction set in use: Python, checks, allocation, and
            the kernels' copies, which are libc's; on a few elements. Addresses move it by up to 0.5 %. Collisions in
            Python's dictionaries move it by 2 %, so that strings have the hashes of seed 0.

A count is compared only with one of the same compiler and flags; that of a call, of the same Python, NumPy, Cython and
libc too. The program counts by single steps (instructions.c, compiled with `cc`): valgrind does not run AVX-512. It
needs x86-64 Linux and two minutes of CPU time.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import inspect
import json
import math
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import functional
from cregkit._files import write_json
from cregkit.benchmark import suite
from cregkit.kernels import _runtime, _threads
from cregkit.verify.cases import CASES, FLOAT32_CASES, Case
from cregkit.verify.dtypes import FLOAT32
from cregkit.verify.inputs import Arguments
from cregkit.verify.shapes import Shape

SOURCE = Path(__file__).with_name("instructions.c")
STORED = SOURCE.with_suffix(".json")
TOLERANCE = 0.02
ELEMENTS = 4096
OF_16_BITS = ("layer_norm", "layer_norm_backward", "dropout", "dropout_backward")
CALL = f"call/{_runtime.current_isa()}"
LINE = 64
CALLS_BEFORE = 20  # Python specialises its bytecode after a few calls


class Steps(ctypes.Structure):
    """The record of instructions.c."""

    _fields_ = [
        ("low", ctypes.c_size_t),
        ("high", ctypes.c_size_t),
        ("inside", ctypes.c_int64),
        ("outside", ctypes.c_int64),
    ]


class Counter:
    """Counts a call's instructions inside a library, and outside of it."""

    def __init__(self, library: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "instructions.so"
            subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(path), str(SOURCE)], check=True)
            self._count = ctypes.PyDLL(str(path)).count_instructions
        self._count.restype = ctypes.py_object
        self._count.argtypes = [ctypes.py_object, ctypes.POINTER(Steps)]
        self._code = code_of(library)

    def __call__(self, call: Callable[[], object]) -> Steps:
        """Call the function and return its counts."""
        steps = Steps(*self._code)
        self._count(call, steps)
        return steps


@dataclass(frozen=True)
class Part:
    """Instructions by op: of an instruction set's kernels, or of the calls."""

    built_with: str
    instructions: Mapping[str, int]


@dataclass(frozen=True)
class Line:
    """An op's count beside the stored one."""

    op: str
    part: str
    found: int
    stored: int | None

    @property
    def ratio(self) -> float:
        """The count relative to the stored one; infinite if there is none."""
        return self.found / self.stored if self.stored else math.inf

    def __str__(self) -> str:
        each = f"{self.found / math.prod(shape_of(CASE_OF[self.op])):.2f}" if self.part != CALL else "-"
        ratio = f"{self.ratio:.4f}" if self.stored else "-"
        return f"{self.op:56} {self.part:11} {self.found:10} {each:>12} {self.stored or '-':>10} {ratio:>8}"


HEADER = f"{'op':56} {'part':11} {'count':>10} {'per element':>12} {'stored':>10} {'ratio':>8}"


# ---- what is counted ----

CASE_OF = {
    case.name: case
    for case in (
        *FLOAT32_CASES,
        *(case for case in CASES if case.dtype != FLOAT32 and case.op in OF_16_BITS and not case.label),
    )
}


def shape_of(case: Case) -> Shape:
    """Return the smallest shape on which the op is timed, with as many samples as make `ELEMENTS`, and at least two."""
    rest = case.timed.quick[0][1:]
    return (max(2, ELEMENTS // math.prod(rest)), *rest)


def smallest_shape_of(case: Case) -> Shape:
    """Return the smallest shape on which the op is checked."""
    return min((shape for shape in case.shapes if math.prod(shape)), key=math.prod)


def on_a_line(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy that starts at a cache line: some loops begin with the elements before one."""
    memory = np.empty(array.nbytes + LINE, np.uint8)
    copy = memory[-memory.ctypes.data % LINE :][: array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def arguments_of(case: Case, shape: Shape) -> Arguments:
    """Return the arguments of a call."""
    return case.arguments(shape, np.random.default_rng(0), 0.0)


def aligned_call_of(case: Case, shape: Shape) -> Callable[[], object]:
    """Return a call of the op whose arrays start at a cache line, `out` included if the op has it."""
    function, given = getattr(functional, case.op), arguments_of(case, shape)
    if "out" in inspect.signature(function).parameters:
        given["out"] = np.empty_like(given.get("x", given.get("dy", given.get("w"))))
    return partial(function, **{k: on_a_line(v) if isinstance(v, np.ndarray) else v for k, v in given.items()})


def code_of(library: str) -> tuple[int, int]:
    """Return the addresses of a loaded library's instructions, from the first to beyond the last."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, permissions, *_ = line.split()
        if "x" in permissions and line.endswith(library):
            low, high = (int(address, 16) for address in addresses.split("-"))
            return low, high
    raise RuntimeError(f"{library} is not loaded")


def compiler_of(library: str) -> str:
    """Return the name and version that the compiler left in a library."""
    found = re.search(rb"GCC: \([^\0]*|[^\0]*clang version [^\0]*", Path(library).read_bytes())
    return found[0].decode() if found else "an unknown compiler"


def count(names: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Yield part, op and instructions."""
    counter = Counter(_runtime.__file__)
    before = _runtime.current_isa()
    for name in names:
        call = aligned_call_of(CASE_OF[name], shape_of(CASE_OF[name]))
        for isa in _runtime.available_isas():
            _runtime.use_isa(isa)
            call()
            yield isa, name, counter(call).inside
        _runtime.use_isa(before)
        arguments = arguments_of(CASE_OF[name], smallest_shape_of(CASE_OF[name]))
        call = suite.ours(CASE_OF[name], arguments, 1)[suite.OURS].call
        for _ in range(CALLS_BEFORE):
            call()
        yield CALL, name, counter(call).outside


def built_with() -> dict[str, str]:
    """Return what the counts of each part depend on."""
    compiler = (
        f"{compiler_of(_runtime.__file__)} {sysconfig.get_config_var('CFLAGS')}"  # setuptools adds Python's flags
    )
    cython = next((name for name in sys.modules if name.startswith("_cython_")), "another Cython")
    python = f"Python {sys.version}, NumPy {np.__version__}, {cython.lstrip('_')}, {' '.join(platform.libc_ver())}"
    return {**dict.fromkeys(_runtime.available_isas(), compiler), CALL: f"{compiler}, {python}"}


def measure(names: Sequence[str]) -> dict[str, Part]:
    """Count these ops, on one thread."""
    found: dict[str, dict[str, int]] = {}
    threads, collects = _threads.get_num_threads(), gc.isenabled()
    _threads.set_num_threads(1)
    gc.disable()
    try:
        for part, op, instructions in count(names):
            found.setdefault(part, {})[op] = instructions
    finally:
        _threads.set_num_threads(threads)
        if collects:
            gc.enable()
    return {part: Part(tools, found[part]) for part, tools in built_with().items()}


# ---- the comparison ----


def load() -> dict[str, Part]:
    """Return the stored counts."""
    return {part: Part(**fields) for part, fields in json.loads(STORED.read_text()).items()}


def not_comparable(found: Mapping[str, Part], stored: Mapping[str, Part]) -> dict[str, str]:
    """Return the parts that cannot be judged here, and why."""
    reasons = {part: "not counted on this CPU" for part in stored if part not in found}
    for part in found.keys() & stored.keys():
        now, then = found[part].built_with, stored[part].built_with
        if now != then:
            reasons[part] = f"built with {now}; the stored counts with {then}"
    return reasons


def compare(found: Mapping[str, Part], stored: Mapping[str, Part]) -> list[Line]:
    """Return a line for each count, without the stored one where they are not comparable."""
    known = {part: stored[part].instructions for part in stored.keys() - not_comparable(found, stored).keys()}
    return [
        Line(op, part, number, known.get(part, {}).get(op))
        for part, counts in found.items()
        for op, number in counts.instructions.items()
    ]


def verdict(found: Mapping[str, Part], stored: Mapping[str, Part]) -> tuple[list[str], int]:
    """Return what to say of the counts, and the exit code."""
    reasons = not_comparable(found, stored)
    judged = [line for line in compare(found, stored) if line.part not in reasons]
    more = [line for line in judged if line.ratio > 1 + TOLERANCE]
    fewer = [line for line in judged if line.ratio < 1 - TOLERANCE]
    said = [f"{part}: not judged: {reason}" for part, reason in sorted(reasons.items())]
    if fewer:
        said += [
            f"-- more than {TOLERANCE:.0%} below the stored count; --store makes this the new limit --",
            *map(str, fewer),
        ]
    if more:
        said += [f"-- failed: more than {TOLERANCE:.0%} above the stored count, or none is stored --", *map(str, more)]
    said.append(f"{len(judged)} counts judged, {len(more)} failed")
    return said, int(bool(more))


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, print and compare or store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--store", action="store_true", help="write the counts to instructions.json")
    choice.add_argument("--only", metavar="OP", help="count this op alone")
    asked = parser.parse_args(arguments)
    names = [name for name, case in CASE_OF.items() if asked.only in (None, case.op)]
    if not names:
        parser.error(f"--only must be an op of cregkit.functional, got {asked.only!r}")
    found, stored = measure(names), load() if STORED.exists() else {}
    if asked.store:
        write_json(STORED, {part: asdict(counts) for part, counts in (stored | found).items()})
        return 0
    print(HEADER, *compare(found, stored), sep="\n")
    said, code = verdict(found, stored)
    print(*said, sep="\n")
    return code


if __name__ == "__main__":
    if sys.flags.hash_randomization:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONHASHSEED": "0"})
    sys.exit(main())
