"""Merge the sums of a batch that is split over several processes, in the order of the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Doubles: TypeAlias = NDArray[np.float64]
Sums: TypeAlias = tuple[float, Doubles, Doubles]
Merge: TypeAlias = Callable[[float, Doubles, Doubles], Sums]
Gather: TypeAlias = Callable[[Doubles], Iterable[Doubles]]
"""All-gather: takes the row of this process and returns the rows of all processes in the order of the ranks."""


def merge_moments(gather: Gather, count: float, mean: Doubles, m2: Doubles) -> Sums:
    """Merge the moments of each channel over all processes.

    Parameters
    ----------
    gather
        All-gather over the processes.
    count
        Number of values per channel in this process; may be 0.
    mean : shape (C,)
        Mean of these values.
    m2 : shape (C,)
        Sum of squared deviations from the mean.

    Returns
    -------
    count, mean, m2
        The same quantities for the whole batch, bit-identical in all processes.

    References
    ----------
    Chan, Golub and LeVeque (1983), "Algorithms for Computing the Sample Variance", The American Statistician 37.

    Examples
    --------
    With two processes that hold the values 1, 3 and 5, 7:

    >>> import numpy as np
    >>> from cregkit.batch_sums import merge_moments
    >>> other = np.array([2.0, 6.0, 2.0])  # count, mean, m2
    >>> merge_moments(lambda own: [own, other], 2.0, np.array([2.0]), np.array([2.0]))
    (4.0, array([4.]), array([20.]))
    """
    total, *parts = _gathered(gather, count, mean, m2)
    for part in parts:
        total = _merged(total, part)
    return total


def merge_gradient_sums(gather: Gather, count: float, sum_dy: Doubles, sum_dy_d: Doubles) -> Sums:
    """Sum the gradient sums of each channel over all processes.

    Parameters
    ----------
    gather
        All-gather over the processes.
    count
        Number of values per channel in this process; may be 0.
    sum_dy : shape (C,)
        Sum of ``dy``.
    sum_dy_d : shape (C,)
        Sum of ``dy * (x - mean)``.

    Returns
    -------
    count, sum_dy, sum_dy_d
        The same quantities for the whole batch, bit-identical in all processes.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.batch_sums import merge_gradient_sums
    >>> other = np.array([2.0, 6.0, 2.0])  # count, sum_dy, sum_dy_d
    >>> merge_gradient_sums(lambda own: [own, other], 2.0, np.array([1.0]), np.array([0.5]))
    (4.0, array([7.]), array([2.5]))
    """
    total, *parts = _gathered(gather, count, sum_dy, sum_dy_d)
    for part in parts:
        total = total[0] + part[0], total[1] + part[1], total[2] + part[2]
    return total


def _gathered(gather: Gather, count: float, first: Doubles, second: Doubles) -> list[Sums]:
    """Return the sums of all processes, with one call of ``gather``."""
    rows = gather(np.concatenate(([count], first, second)))
    c = first.size
    return [(float(row[0]), row[1 : 1 + c], row[1 + c :]) for row in rows]


def _merged(a: Sums, b: Sums) -> Sums:
    """Return the moments of the union of two parts, either of which may be empty."""
    if not a[0] or not b[0]:
        return a if a[0] else b
    count, delta = a[0] + b[0], b[1] - a[1]
    share = b[0] / count
    return count, a[1] + delta * share, a[2] + b[2] + delta * delta * (a[0] * share)
