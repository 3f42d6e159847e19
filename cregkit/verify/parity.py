"""Oracle parity on this very CPU: every case, every instruction set it has, one and several threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import functional
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


def thread_counts() -> tuple[int, int]:
    """One, and as many as large calls use, but at least two: more than one is the point."""
    return 1, max(2, _threads.get_num_threads())


def check(isas: list[str] | None = None, threads: tuple[int, ...] | None = None) -> Iterator[CheckResult]:
    """Check every case against the oracle, one result for each (case, instruction set, thread count).

    The instruction set in use is restored at the end. By default all that the CPU has, on 1 and on N threads (at least
    2).
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
