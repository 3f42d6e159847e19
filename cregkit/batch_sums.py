"""Putting together a batch's sums that several processes hold parts of, in the order of the processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Doubles: TypeAlias = NDArray[np.float64]
Sums: TypeAlias = tuple[float, Doubles, Doubles]
Merge: TypeAlias = Callable[[float, Doubles, Doubles], Sums]
Gather: TypeAlias = Callable[[Doubles], Iterable[Doubles]]
"""Exchanges one row per process for the rows of all, in the order of the processes."""


def merge_moments(gather: Gather, count: float, mean: Doubles, m2: Doubles) -> Sums:
    """Return count, mean and sum of squared deviations of all parts (Chan, Golub and LeVeque, 1983)."""
    total, *parts = _gathered(gather, count, mean, m2)
    for part in parts:
        total = _together(total, part)
    return total


def merge_gradient_sums(gather: Gather, count: float, sum_dy: Doubles, sum_dy_d: Doubles) -> Sums:
    """Return count, sum of dy and sum of ``dy * (x - mean)`` of all parts."""
    total, *parts = _gathered(gather, count, sum_dy, sum_dy_d)
    for part in parts:
        total = total[0] + part[0], total[1] + part[1], total[2] + part[2]
    return total


def _gathered(gather: Gather, count: float, first: Doubles, second: Doubles) -> list[Sums]:
    """The parts of all processes, for one exchange."""
    rows = gather(np.concatenate(([count], first, second)))
    c = first.size
    return [(float(row[0]), row[1 : 1 + c], row[1 + c :]) for row in rows]


def _together(a: Sums, b: Sums) -> Sums:
    """Return the moments of two parts together; an empty one changes nothing."""
    if not a[0] or not b[0]:
        return a if a[0] else b
    count, delta = a[0] + b[0], b[1] - a[1]
    share = b[0] / count
    return count, a[1] + delta * share, a[2] + b[2] + delta * delta * (a[0] * share)
