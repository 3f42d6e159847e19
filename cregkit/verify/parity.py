"""Parity with the oracle on this CPU: every case, every available instruction set, one and several threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import functional
from cregkit.kernels import _runtime, _threads
from cregkit.verify import cases
from cregkit.verify.dtypes import FLOAT32, same_bits

OFFSETS = (0.0, 1e6)
"""Means of the data. At 1e6 a mean in float32 is too inexact for the contract."""


@dataclass(frozen=True)
class CheckResult:
    """The largest error of a case under one instruction set and thread count."""

    case: str
    isa: str
    threads: int
    worst: float
    """Largest error as a fraction of its tolerance; at most 1 passes."""
    where: str
    """Output, shape and offset of that error."""
    same_bits: bool
    """Whether every result has the same bits as the first instruction set on one thread; for 16-bit tensors, as the
    result of float32, rounded."""

    @property
    def passed(self) -> bool:
        """Whether the error is within tolerance and the bits are the same."""
        return self.worst <= 1.0 and self.same_bits


def thread_counts() -> tuple[int, int]:
    """Return one thread and as many as large calls use, at least two."""
    return 1, max(2, _threads.get_num_threads())


def check(isas: list[str] | None = None, threads: tuple[int, ...] | None = None) -> Iterator[CheckResult]:
    """Check every case against the oracle, and restore the instruction set in use at the end.

    Parameters
    ----------
    isas
        Instruction sets to check; default: all that the CPU has.
    threads
        Numbers of threads to check; default: one, and the number that large calls use, at least two.

    Yields
    ------
    CheckResult
        For each case, instruction set and number of threads.
    """
    isas = isas or _runtime.available_isas()
    threads = threads or thread_counts()
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
    if case.dtype != FLOAT32:
        first = [cases.rounded_results(case, functional, arguments) for _, _, arguments in inputs]
    for isa in isas:
        _runtime.use_isa(isa)
        for n in threads:
            worst, where, same = 0.0, "", True
            for i, (shape, offset, arguments) in enumerate(inputs):
                with _threads.exact_threads(n):
                    got = cases.run(case, functional, arguments)
                if len(first) <= i:
                    first.append(got)
                same = same and all(same_bits(got[name], first[i][name]) for name in got)
                for name, share in cases.errors(case, arguments, got, wanted[i]).items():
                    if not share <= worst:
                        worst, where = share, f"{name} {shape} offset {offset:g}"
            yield CheckResult(case.name, isa, n, worst, where, same)
