"""Oracle parity on this very CPU: every case, every instruction set it has, one and several threads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import functional
from cregkit.commands.console import Console
from cregkit.kernels import _runtime, _threads
from cregkit.verify import cases

OFFSETS = (0.0, 1e6)
"""Means of the data: where rounding is ordinary, and where a float32 mean is no longer good enough."""


@dataclass(frozen=True)
class CheckResult:
    """The worst of one case under one instruction set and thread count."""

    case: str
    isa: str
    threads: int
    worst: float
    """Largest error as a share of its tolerance; at most 1 is right."""
    where: str
    """Output, shape and offset of that error."""
    same_bits: bool
    """Whether every result has the bits that the first instruction set gave on one thread."""

    @property
    def passed(self) -> bool:
        """Within tolerance, with the same bits."""
        return self.worst <= 1.0 and self.same_bits


def run(console: Console) -> bool:
    """Check everything, print the table of worst errors, and return whether all of it passed."""
    of_case: dict[str, list[CheckResult]] = defaultdict(list)
    isas, threads = _runtime.available_isas(), _thread_counts()
    with console.progress(len(cases.CASES) * len(isas) * len(threads)) as step:
        for result in check(isas, threads):
            of_case[result.case].append(result)
            step(result.case)
    columns = [f"{isa} x{n}" for isa in isas for n in threads]
    rows = [[name, *(f"{result.worst:.1%}" for result in results), _bits(results)] for name, results in of_case.items()]
    console.table(
        "Largest error against the float64 oracle, as a share of the tolerance, by instruction set x threads",
        ["op", *columns, "bits"],
        rows,
    )
    failed = [result for results in of_case.values() for result in results if not result.passed]
    for result in failed:
        console.line(f"FAILED {result.case} on {result.isa} x{result.threads}: {_complaint(result)}")
    n = sum(map(len, of_case.values()))
    console.line(f"{n - len(failed)} of {n} checks passed")
    return not failed


def _bits(results: list[CheckResult]) -> str:
    return "same" if all(result.same_bits for result in results) else "DIFFER"


def _complaint(result: CheckResult) -> str:
    if not result.worst <= 1.0:
        return f"{result.worst:.3g} times the tolerance at {result.where}"
    return "its bits differ from those of the first column"


def _thread_counts() -> tuple[int, int]:
    """One, and as many as large calls use, but at least two: more than one is the point."""
    return 1, max(2, _threads.get_num_threads())


def check(isas: list[str] | None = None, threads: tuple[int, ...] | None = None) -> Iterator[CheckResult]:
    """Check every case against the oracle, one result for each (case, instruction set, thread count).

    The instruction set in use is restored at the end. By default all that the CPU has, on 1 and on N threads (at least
    2).
    """
    isas = isas or _runtime.available_isas()
    threads = threads or _thread_counts()
    before = _runtime.current_isa()
    try:
        for case in cases.CASES:
            yield from _check_case(case, isas, threads)
    finally:
        _runtime.use_isa(before)


def _check_case(case: cases.Case, isas: list[str], threads: tuple[int, ...]) -> Iterator[CheckResult]:
    inputs = [
        (shape, offset, case.arguments(shape, np.random.default_rng([*shape, int(offset)]), offset))
        for shape in case.shapes
        for offset in OFFSETS
    ]
    wanted = [cases.reference(case, arguments) for _, _, arguments in inputs]
    first: list[dict[str, NDArray[Any]]] = []
    for isa in isas:
        _runtime.use_isa(isa)
        for n in threads:
            worst, where, same_bits = 0.0, "", True
            for i, (shape, offset, arguments) in enumerate(inputs):
                with _threads.exact_threads(n):
                    got = cases.run(case, functional, arguments)
                if len(first) <= i:
                    first.append(got)
                same_bits = same_bits and all(_same_bits(got[name], first[i][name]) for name in got)
                for name, share in cases.errors(case, arguments, got, wanted[i]).items():
                    if not share <= worst:
                        worst, where = share, f"{name} {shape} offset {offset:g}"
            yield CheckResult(case.name, isa, n, worst, where, same_bits)


def _same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
