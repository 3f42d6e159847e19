"""What a transform is, and transforms made of others.

Random numbers are addressed, never drawn in turn: a transform gets a seed of its own (``derive_seed`` of the user's
seed, the epoch and its place among the others) and the numbers of the samples in their data set, and asks
``sample_uniform`` for what belongs to them. Batches, their order and the number of workers cannot matter.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.functional import sample_uniform
from cregkit.kernels.noise import derive_seed

Index = NDArray[np.int64]
Interval = tuple[float, float]


class Transform:
    """Maps a batch of samples to another; what becomes of each depends on (seed, epoch, sample number) alone.

    A subclass writes ``apply``. Within ``RandomApply`` and ``OneOf`` it must keep the shape and the dtype of samples.
    """

    def __call__(self, x: Any, *, index: Any, seed: int, epoch: int = 0) -> Any:
        """Return the batch, transformed; ``x`` stays as it is.

        Args:
            x: the samples: an array (or a CPU tensor) whose first axis they are, or a list.
            index: their numbers in the data set, 0 to 2**32 - 1: whole numbers, one for each sample.
            seed: 0 to 2**64 - 1.
            epoch: 0 to 2**64 - 1.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape or value.
        """
        if hasattr(x, "__dlpack__") and not isinstance(x, np.ndarray):
            x = np.asarray(x)
        return self.apply(x, checked_index(index, len(x)), seed_of_epoch(seed, epoch), overwrite=False)

    def apply(self, x: Any, index: Index, seed: int, *, overwrite: bool) -> Any:
        """Return the batch, transformed with the seed that is this transform's own.

        With ``overwrite`` the memory of ``x`` may be used for the result.
        """
        raise NotImplementedError

    def outcome(self, x: Any) -> Any:
        """Return a batch of the shape and dtype that samples like those of ``x`` get; samples of lists may differ.

        The transform is tried on one sample of numbers from 0 to 1, so that none of ``x`` is computed.
        """
        if not isinstance(x, np.ndarray):
            return x
        sample = np.linspace(0, 1, math.prod(x.shape[1:])).astype(x.dtype).reshape(1, *x.shape[1:])
        return self.apply(sample, np.zeros(1, np.int64), 0, overwrite=False)


class ArrayTransform(Transform):
    """A transform of arrays, whose ``apply`` checks an empty batch as it does any other."""

    def outcome(self, x: Any) -> Any:
        """Return what becomes of no samples."""
        return self.apply(x[:0], np.zeros(0, np.int64), 0, overwrite=False)


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
            y = transform.apply(y, index, derive_seed(seed, place), overwrite=overwrite or not _shares_memory(x, y))
        return y

    def outcome(self, x: Any) -> Any:
        """Return what one transform after another makes of it."""
        return functools.reduce(lambda y, transform: transform.outcome(y), self.transforms, x)


class RandomApply(Transform):
    """The transform with probability ``p`` for each sample; of arrays it must keep shape and dtype."""

    def __init__(self, transform: Transform, p: float = 0.5) -> None:
        """Keep the transform and the probability, 0 to 1."""
        (self.transform,) = _checked((transform,))
        self.p = validate.real("p", p, 0, 1)

    def __repr__(self) -> str:
        """Show the transform and the probability."""
        return f"RandomApply({self.transform!r}, p={self.p:g})"

    def apply(self, x: Any, index: Index, seed: int, *, overwrite: bool) -> Any:
        """Apply the transform to the samples that are chosen."""
        y = _own(self.outcome(x), overwrite)
        chosen = uniform(index, 1, derive_seed(seed, 0))[:, 0] < self.p
        return _apply_to(self.transform, y, index, derive_seed(seed, 1), chosen)

    def outcome(self, x: Any) -> Any:
        """Return ``x`` if the transform keeps what its samples are."""
        _check_kept(self.transform, x, self.transform.outcome(x))
        return x


class OneOf(Transform):
    """One of the transforms for each sample, each as likely as its weight says; of arrays they keep shape and dtype."""

    def __init__(self, *transforms: Transform, weights: Sequence[float] | None = None) -> None:
        """Keep the transforms and their weights (default: all alike)."""
        self.transforms = _checked(transforms)
        if not transforms:
            raise ValueError("transforms must hold at least one, got none")
        weights = [1.0] * len(transforms) if weights is None else weights
        if len(weights) != len(transforms):
            raise ValueError(f"weights must hold one number for each of {len(transforms)} transforms, got {weights}")
        self.weights = tuple(validate.real("weights", weight, 0) for weight in weights)
        if not sum(self.weights) > 0:
            raise ValueError(f"weights must not all be 0, got {weights}")

    def __repr__(self) -> str:
        """Show the transforms and weights."""
        return f"OneOf({', '.join(map(repr, self.transforms))}, weights={self.weights})"

    def apply(self, x: Any, index: Index, seed: int, *, overwrite: bool) -> Any:
        """Apply each transform to the samples that chose it."""
        u = uniform(index, 1, derive_seed(seed, 0))[:, 0]
        shares = np.cumsum(self.weights) / sum(self.weights)
        choice = np.minimum(np.searchsorted(shares, u, side="right"), len(shares) - 1)
        y = _own(self.outcome(x), overwrite)
        for k, transform in enumerate(self.transforms):
            y = _apply_to(transform, y, index, derive_seed(seed, k + 1), choice == k)
        return y

    def outcome(self, x: Any) -> Any:
        """Return ``x`` if all transforms keep what its samples are."""
        for transform in self.transforms:
            _check_kept(transform, x, transform.outcome(x))
        return x


def _checked(transforms: Sequence[Transform]) -> tuple[Transform, ...]:
    for transform in transforms:
        if not isinstance(transform, Transform):
            raise TypeError(f"transforms must be Transform objects, got {validate.shown(transform)}")
    return tuple(transforms)


def _shares_memory(x: Any, y: Any) -> bool:
    """Whether writing to ``y`` may change ``x``."""
    return y is x or (isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and np.may_share_memory(x, y))


def _own(x: Any, overwrite: bool) -> Any:
    """Return ``x``, or a copy where its memory must not be used or cannot."""
    if not isinstance(x, np.ndarray):
        return list(x)
    return x if overwrite and x.flags.writeable else np.array(x, order="C")


def _apply_to(transform: Transform, y: Any, index: Index, seed: int, chosen: NDArray[np.bool_]) -> Any:
    """Return the batch ``y``, whose memory is used, with the chosen samples transformed."""
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return y
    is_array = isinstance(y, np.ndarray)
    some = y.take(rows, axis=0) if is_array else [y[row] for row in rows]
    part = transform.apply(some, index[rows], seed, overwrite=True)
    _check_kept(transform, y, part)
    if len(part) != len(rows):
        raise ValueError(f"{transform!r} made {len(part)} samples of {len(rows)}: it must keep their number")
    if is_array:
        y[rows] = part
        return y
    for row, sample in zip(rows, part, strict=True):
        y[row] = sample
    return y


def _check_kept(transform: Transform, x: Any, y: Any) -> None:
    """Refuse a transform that makes ``y``, other than ``x`` in type, dtype or shape of samples, of an array ``x``."""
    if not isinstance(x, np.ndarray):
        return
    of_all = "RandomApply and OneOf transform some samples of a batch; use it where it transforms all, as in Compose"
    if not isinstance(y, np.ndarray):
        raise TypeError(f"{transform!r} changes the type of a batch from ndarray to {type(y).__name__}: {of_all}")
    if y.dtype != x.dtype:
        raise TypeError(f"{transform!r} changes the dtype of samples from {x.dtype} to {y.dtype}: {of_all}")
    if y.shape[1:] != x.shape[1:]:
        raise ValueError(f"{transform!r} changes the shape of samples from {x.shape[1:]} to {y.shape[1:]}: {of_all}")


def seed_of_epoch(seed: int, epoch: Any) -> int:
    """Return the seed derived by the number of an epoch, 0 to 2**64 - 1."""
    return derive_seed(seed, validate.integer("epoch", epoch, 0, 2**64 - 1))


def checked_index(index: Any, n: int) -> Index:
    """Return the numbers of ``n`` samples as int64, which is exact."""
    numbers = np.asarray(index)
    if numbers.ndim != 1 or len(numbers) != n:
        raise ValueError(
            f"index must have shape ({n},), the number of each sample in the data set, got {numbers.shape}"
        )
    if numbers.size and not np.issubdtype(numbers.dtype, np.integer):
        first = next((i for i in index if not isinstance(i, (int, np.integer)) or not 0 <= i < 2**64), numbers[0])
        raise TypeError(f"index must hold whole numbers below 2**64, got {first} ({numbers.dtype})")
    validate.within("index must hold numbers from 0 to 2**32 - 1", numbers, 0, 2**32 - 1)
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
            raise ValueError(f"{name} must be a number or a pair (low, high), got {value}")
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
