"""What a transform is, and transforms made of others.

Random numbers are addressed, never drawn in turn: a transform gets a seed of its own (``derive_seed`` of the user's
seed, the epoch and its place among the others) and the numbers of the samples in their data set, and asks
``sample_uniform`` for what belongs to them. Batches, their order and the number of workers cannot matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit.functional import sample_uniform
from cregkit.kernels.noise import derive_seed
from cregkit.layers import validate

Index = NDArray[np.int64]
Interval = tuple[float, float]


class Transform:
    """Maps a batch of samples to another; what becomes of each depends on (seed, epoch, sample number) alone.

    A subclass writes ``apply``.
    """

    def __call__(self, x: Any, *, index: Any, seed: int, epoch: int = 0) -> Any:
        """Return the batch, transformed; ``x`` stays as it is.

        Args:
            x: the samples: an array whose first axis they are, or a list.
            index: their numbers in the data set, 0 to 2**32 - 1: whole numbers, one for each sample.
            seed: 0 to 2**64 - 1.
            epoch: 0 to 2**64 - 1.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape or value.
        """
        return self.apply(x, checked_index(index, len(x)), derive_seed(seed, epoch), overwrite=False)

    def apply(self, x: Any, index: Index, seed: int, *, overwrite: bool) -> Any:
        """Return the batch, transformed with the seed that is this transform's own.

        With ``overwrite`` the memory of ``x`` may be used for the result.
        """
        raise NotImplementedError


class Compose(Transform):
    """The transforms one after another; with none, the samples stay as they are."""

    def __init__(self, *transforms: Transform) -> None:
        """Keep the transforms."""
        self.transforms = _checked(transforms)

    def __repr__(self) -> str:
        """Show the transforms."""
        return f"Compose({', '.join(map(repr, self.transforms))})"

    def apply(self, x: Any, index: Index, seed: int, *, overwrite: bool) -> Any:
        """Apply each with a seed derived by its place."""
        y = x
        for place, transform in enumerate(self.transforms):
            y = transform.apply(y, index, derive_seed(seed, place), overwrite=overwrite or y is not x)
        return y


class RandomApply(Transform):
    """The transform with probability ``p`` for each sample; it must not change the shape."""

    def __init__(self, transform: Transform, p: float = 0.5) -> None:
        """Keep the transform and the probability, 0 to 1."""
        (self.transform,) = _checked((transform,))
        self.p = validate.real("p", p, 0, 1)

    def __repr__(self) -> str:
        """Show the transform and the probability."""
        return f"RandomApply({self.transform!r}, p={self.p:g})"

    def apply(self, x: Any, index: Index, seed: int, *, overwrite: bool) -> Any:
        """Apply the transform to the samples that are chosen."""
        chosen = uniform(index, 1, derive_seed(seed, 0))[:, 0] < self.p
        return _apply_to(self.transform, x, index, derive_seed(seed, 1), chosen, x if overwrite else None)


class OneOf(Transform):
    """One of the transforms for each sample, each as likely as its weight says; they must not change the shape."""

    def __init__(self, *transforms: Transform, weights: Sequence[float] | None = None) -> None:
        """Keep the transforms and their weights (default: all alike)."""
        self.transforms = _checked(transforms)
        if not transforms:
            raise ValueError("transforms must hold at least one, got none")
        weights = [1.0] * len(transforms) if weights is None else weights
        if len(weights) != len(transforms):
            raise ValueError(
                f"weights must hold one number for each of {len(transforms)} transforms, got {len(weights)}"
            )
        self.weights = tuple(validate.real("weights", weight, 0) for weight in weights)
        if not sum(self.weights) > 0:
            raise ValueError("weights must not all be 0")

    def __repr__(self) -> str:
        """Show the transforms and weights."""
        return f"OneOf({', '.join(map(repr, self.transforms))}, weights={self.weights})"

    def apply(self, x: Any, index: Index, seed: int, *, overwrite: bool) -> Any:
        """Apply each transform to the samples that chose it."""
        u = uniform(index, 1, derive_seed(seed, 0))[:, 0]
        shares = np.cumsum(self.weights) / sum(self.weights)
        choice = np.minimum(np.searchsorted(shares, u, side="right"), len(shares) - 1)
        y = x if overwrite else None
        for k, transform in enumerate(self.transforms):
            y = _apply_to(transform, x if y is None else y, index, derive_seed(seed, k + 1), choice == k, y)
            y = None if y is x and not overwrite else y
        return x if y is None else y


def _checked(transforms: Sequence[Transform]) -> tuple[Transform, ...]:
    for transform in transforms:
        if not isinstance(transform, Transform):
            raise TypeError(f"transforms must be Transform objects, got {type(transform).__name__}")
    return tuple(transforms)


def _apply_to(transform: Transform, x: Any, index: Index, seed: int, chosen: NDArray[np.bool_], into: Any) -> Any:
    """Return ``x`` with the chosen samples transformed: in ``into`` if there is such memory, else in a new batch."""
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return x
    if len(rows) == len(index):
        return transform.apply(x, index, seed, overwrite=into is x)
    if not isinstance(x, np.ndarray):
        samples = list(x)
        for row, sample in zip(
            rows, transform.apply([x[i] for i in rows], index[rows], seed, overwrite=True), strict=True
        ):
            samples[row] = sample
        return samples
    part = transform.apply(x[rows], index[rows], seed, overwrite=True)
    if part.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"{transform!r} changes the shape of samples from {x.shape[1:]} to {part.shape[1:]}: it cannot be "
            f"applied to some of a batch"
        )
    y = x.copy() if into is None else into
    y[rows] = part
    return y


def checked_index(index: Any, n: int) -> Index:
    """Return the numbers of ``n`` samples as int64, which is exact."""
    numbers = np.asarray(index)
    if numbers.ndim != 1 or len(numbers) != n:
        raise ValueError(
            f"index must have shape ({n},), the number of each sample in the data set, got {numbers.shape}"
        )
    if numbers.size and not np.issubdtype(numbers.dtype, np.integer):
        raise TypeError(f"index must hold whole numbers, got {numbers.dtype}")
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < 2**32):
        raise ValueError(f"index must hold numbers from 0 to 2**32 - 1, got {numbers.min()} to {numbers.max()}")
    return np.ascontiguousarray(numbers, dtype=np.int64)


def uniform(index: Index, n: int, seed: int) -> NDArray[np.float64]:
    """Return ``n`` numbers in [0, 1) for each sample, shape (N, n)."""
    return sample_uniform(index, n, seed=seed)


def between(u: NDArray[np.float64], interval: Interval) -> NDArray[np.float64]:
    """Return uniform numbers in the interval."""
    low, high = interval
    return low + u * (high - low)


def interval(name: str, value: Any, low: float, high: float = float("inf"), *, centre: float | None = None) -> Interval:
    """Return ``value`` as an interval within [low, high]: a pair as it is, a number as itself.

    With ``centre``, a number is a distance to either side of it, cut off at ``low`` and ``high``.
    """
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name} must be a number or a pair (low, high), got {len(value)} numbers")
        first, last = (_finite(name, end, low, high) for end in value)
        if first > last:
            raise ValueError(f"{name} must be a pair (low, high) with low <= high, got {value}")
        return first, last
    if centre is None:
        number = _finite(name, value, low, high)
        return number, number
    distance = validate.real(name, value, 0, high if high < float("inf") else float("inf"))
    return max(low, centre - distance), min(high, centre + distance)


def _finite(name: str, value: Any, low: float, high: float) -> float:
    if low == -float("inf"):
        low, high = -1e300, min(high, 1e300)
    return validate.real(name, value, low, high)
