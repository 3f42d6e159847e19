"""The transform interface, and transforms composed of others.

Random numbers are counter-based, not drawn from a sequential generator. Each transform has its own seed, derived by
``derive_seed`` from the user's seed, the epoch and the transform's position. ``sample_uniform`` computes the numbers of
a sample from that seed and the sample's index in the data set. Batch size, batch order and the number of workers
therefore do not change the result.
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
    """Base class of all transforms: maps a batch of samples to a batch of transformed samples.

    The result for a sample depends on (seed, epoch, sample index) alone. A subclass implements ``apply``. Inside
    ``RandomApply`` and ``OneOf`` a transform must preserve the shape and dtype of the samples.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import Transform
    >>> class Negate(Transform):
    ...     def apply(self, x, index, seed, *, overwrite):
    ...         return -x
    >>> Negate()(np.ones((1, 3), np.float32), index=[0], seed=0)
    array([[-1., -1., -1.]], dtype=float32)
    """

    def __call__(self, x: Any, *, index: Any, seed: int, epoch: int = 0) -> Any:
        """Return the transformed batch; ``x`` is not modified.

        Parameters
        ----------
        x : shape (N, ...)
            Samples: an array or CPU tensor with samples on the first axis, or a list of N samples.
        index : shape (N,), integers
            Index of each sample in the data set, in [0, 2**32).
        seed
            Seed of the run, in [0, 2**64).
        epoch
            Epoch number, in [0, 2**64).

        Returns
        -------
        array or list
            The N transformed samples.

        Raises
        ------
        TypeError
            An argument has the wrong type.
        ValueError
            An argument has the wrong shape or value.
        """
        if hasattr(x, "__dlpack__") and not isinstance(x, np.ndarray):
            x = np.asarray(x)
        return self.apply(x, checked_index(index, len(x)), seed_of_epoch(seed, epoch), overwrite=False)

    def apply(self, x: Any, index: Index, seed: int, *, overwrite: bool) -> Any:
        """Return the transformed batch.

        Parameters
        ----------
        x : shape (N, ...)
            Samples.
        index : shape (N,)
            Index of each sample in the data set.
        seed
            Seed of this transform alone: derived from the user's seed, the epoch and the transform's position.
        overwrite
            Whether the result may reuse the memory of ``x``.

        Returns
        -------
        array or list
            The N transformed samples.
        """
        raise NotImplementedError

    def outcome(self, x: Any) -> Any:
        """Return a batch with the sample shape and dtype that this transform gives for batches like ``x``.

        The transform runs on one synthetic sample with values from 0 to 1; the samples of ``x`` are not transformed.

        Parameters
        ----------
        x : shape (N, ...)
            Samples.

        Returns
        -------
        array or list
            A batch of one transformed sample; ``x`` itself if it is a list.
        """
        if not isinstance(x, np.ndarray):
            return x
        sample = np.linspace(0, 1, math.prod(x.shape[1:])).astype(x.dtype).reshape(1, *x.shape[1:])
        return self.apply(sample, np.zeros(1, np.int64), 0, overwrite=False)


class ArrayTransform(Transform):
    """A transform of arrays whose ``apply`` validates empty batches too."""

    def outcome(self, x: Any) -> Any:
        """Return the result for an empty batch."""
        return self.apply(x[:0], np.zeros(0, np.int64), 0, overwrite=False)


class Compose(Transform):
    """Apply transforms in sequence.

    Parameters
    ----------
    *transforms
        Transforms in order of application. Without any, samples are unchanged.

    Raises
    ------
    TypeError
        An argument is not a ``Transform``.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import Compose, HorizontalFlip, VerticalFlip
    >>> transform = Compose(HorizontalFlip(p=1.0), VerticalFlip(p=1.0))
    >>> images = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    >>> transform(images, index=[0], seed=0)[0, 0]
    array([[3., 2.],
           [1., 0.]], dtype=float32)
    """

    def __init__(self, *transforms: Transform) -> None:
        """Validate and store the transforms."""
        self.transforms = _checked(transforms)

    def __repr__(self) -> str:
        """Return the constructor call."""
        return f"Compose({', '.join(map(repr, self.transforms))})"

    def apply(self, x: Any, index: Index, seed: int, *, overwrite: bool) -> Any:
        """Apply each transform with a seed derived from its position."""
        y = x
        for place, transform in enumerate(self.transforms):
            y = transform.apply(y, index, derive_seed(seed, place), overwrite=overwrite or not _shares_memory(x, y))
        return y

    def outcome(self, x: Any) -> Any:
        """Return the outcome of all transforms in sequence."""
        return functools.reduce(lambda y, transform: transform.outcome(y), self.transforms, x)


class RandomApply(Transform):
    """Apply a transform to each sample with probability ``p``.

    Parameters
    ----------
    transform
        The transform; for arrays it must preserve the shape and dtype of the samples.
    p
        Probability per sample, in [0, 1].

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        ``p`` lies outside [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import HorizontalFlip, RandomApply
    >>> images = np.array([[[[1, 2]]], [[[3, 4]]]], np.float32)
    >>> RandomApply(HorizontalFlip(p=1.0), p=0.5)(images, index=[0, 1], seed=0)[:, 0, 0]
    array([[2., 1.],
           [3., 4.]], dtype=float32)
    """

    def __init__(self, transform: Transform, p: float = 0.5) -> None:
        """Validate and store the settings."""
        (self.transform,) = _checked((transform,))
        self.p = validate.real("p", p, 0, 1)

    def __repr__(self) -> str:
        """Return the constructor call."""
        return f"RandomApply({self.transform!r}, p={self.p:g})"

    def apply(self, x: Any, index: Index, seed: int, *, overwrite: bool) -> Any:
        """Apply the transform to the selected samples."""
        y = _own(self.outcome(x), overwrite)
        chosen = uniform(index, 1, derive_seed(seed, 0))[:, 0] < self.p
        return _apply_to(self.transform, y, index, derive_seed(seed, 1), chosen)

    def outcome(self, x: Any) -> Any:
        """Return ``x`` if the transform preserves the shape and dtype of its samples."""
        _check_kept(self.transform, x, self.transform.outcome(x))
        return x


class OneOf(Transform):
    """Apply one randomly selected transform to each sample.

    Parameters
    ----------
    *transforms
        Transforms to select from, at least one; for arrays they must preserve the shape and dtype of the samples.
    weights
        Relative probability of each transform, each at least 0, not all 0. None selects uniformly.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        There are no transforms, or ``weights`` has the wrong length or values.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import Compose, HorizontalFlip, OneOf
    >>> images = np.array([[[[1, 2]]], [[[3, 4]]]], np.float32)
    >>> identity = Compose()
    >>> OneOf(HorizontalFlip(p=1.0), identity)(images, index=[0, 1], seed=1)[:, 0, 0]
    array([[1., 2.],
           [4., 3.]], dtype=float32)
    """

    def __init__(self, *transforms: Transform, weights: Sequence[float] | None = None) -> None:
        """Validate and store the settings."""
        self.transforms = _checked(transforms)
        if not transforms:
            raise ValueError("transforms must hold at least one transform, got none")
        weights = [1.0] * len(transforms) if weights is None else weights
        if len(weights) != len(transforms):
            raise ValueError(f"weights must hold one number for each of {len(transforms)} transforms, got {weights}")
        self.weights = tuple(validate.real("weights", weight, 0) for weight in weights)
        if not sum(self.weights) > 0:
            raise ValueError(f"weights must not all be 0, got {weights}")

    def __repr__(self) -> str:
        """Return the constructor call."""
        return f"OneOf({', '.join(map(repr, self.transforms))}, weights={self.weights})"

    def apply(self, x: Any, index: Index, seed: int, *, overwrite: bool) -> Any:
        """Apply each transform to the samples that selected it."""
        u = uniform(index, 1, derive_seed(seed, 0))[:, 0]
        shares = np.cumsum(self.weights) / sum(self.weights)
        choice = np.minimum(np.searchsorted(shares, u, side="right"), len(shares) - 1)
        y = _own(self.outcome(x), overwrite)
        for k, transform in enumerate(self.transforms):
            y = _apply_to(transform, y, index, derive_seed(seed, k + 1), choice == k)
        return y

    def outcome(self, x: Any) -> Any:
        """Return ``x`` if all transforms preserve the shape and dtype of its samples."""
        for transform in self.transforms:
            _check_kept(transform, x, transform.outcome(x))
        return x


def _checked(transforms: Sequence[Transform]) -> tuple[Transform, ...]:
    for transform in transforms:
        if not isinstance(transform, Transform):
            raise TypeError(f"transforms must be Transform objects, got {validate.shown(transform)}")
    return tuple(transforms)


def _shares_memory(x: Any, y: Any) -> bool:
    """Return whether writing to ``y`` may change ``x``."""
    return y is x or (isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and np.may_share_memory(x, y))


def _own(x: Any, overwrite: bool) -> Any:
    """Return ``x`` if it may be overwritten and is writeable, else a copy."""
    if not isinstance(x, np.ndarray):
        return list(x)
    return x if overwrite and x.flags.writeable else np.array(x, order="C")


def _apply_to(transform: Transform, y: Any, index: Index, seed: int, chosen: NDArray[np.bool_]) -> Any:
    """Transform the chosen samples of ``y`` in place; return ``y``."""
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return y
    is_array = isinstance(y, np.ndarray)
    some = y.take(rows, axis=0) if is_array else [y[row] for row in rows]
    part = transform.apply(some, index[rows], seed, overwrite=True)
    _check_kept(transform, y, part)
    if len(part) != len(rows):
        raise ValueError(f"{transform!r} must return as many samples as it is given, {len(rows)}, got {len(part)}")
    if is_array:
        y[rows] = part
        return y
    for row, sample in zip(rows, part, strict=True):
        y[row] = sample
    return y


def _check_kept(transform: Transform, x: Any, y: Any) -> None:
    """Raise if ``transform`` changed the type, dtype or sample shape of an array ``x`` to those of ``y``."""
    if not isinstance(x, np.ndarray):
        return
    of_all = "RandomApply and OneOf transform part of a batch; use this transform on whole batches, as in Compose"
    if not isinstance(y, np.ndarray):
        raise TypeError(f"{transform!r} changes the type of a batch from ndarray to {type(y).__name__}: {of_all}")
    if y.dtype != x.dtype:
        raise TypeError(f"{transform!r} changes the dtype of samples from {x.dtype} to {y.dtype}: {of_all}")
    if y.shape[1:] != x.shape[1:]:
        raise ValueError(f"{transform!r} changes the shape of samples from {x.shape[1:]} to {y.shape[1:]}: {of_all}")


def seed_of_epoch(seed: int, epoch: Any) -> int:
    """Return the seed of an epoch, whose number is in [0, 2**64)."""
    return derive_seed(seed, validate.integer("epoch", epoch, 0, 2**64 - 1))


def checked_index(index: Any, n: int) -> Index:
    """Return the indices of ``n`` samples as int64, in [0, 2**32)."""
    numbers = np.asarray(index)
    if numbers.ndim != 1 or len(numbers) != n:
        raise ValueError(f"index must have shape ({n},), the index of each sample in the data set, got {numbers.shape}")
    if numbers.size and not np.issubdtype(numbers.dtype, np.integer):
        first = next((i for i in index if not isinstance(i, (int, np.integer)) or not 0 <= i < 2**64), numbers[0])
        raise TypeError(f"index must hold whole numbers below 2**64, got {first} ({numbers.dtype})")
    validate.within("index must hold numbers from 0 to 2**32 - 1", numbers, 0, 2**32 - 1)
    return np.ascontiguousarray(numbers, dtype=np.int64)


def uniform(index: Index, n: int, seed: int) -> NDArray[np.float64]:
    """Return ``n`` uniform numbers in [0, 1) per sample, shape (N, n)."""
    return sample_uniform(index, n, seed=seed)


def between(u: NDArray[np.float64], interval: Interval) -> NDArray[np.float64]:
    """Map uniform numbers in [0, 1) to the interval."""
    low, high = interval
    return low + u * (high - low)


def interval(name: str, value: Any, low: float, high: float = float("inf"), *, centre: float | None = None) -> Interval:
    """Return a setting, a number or a pair, as an interval within [low, high].

    Parameters
    ----------
    name
        Name of the setting, for errors.
    value
        A pair (first, last), or a number ``a``, which gives (a, a), or with ``centre`` the interval
        (centre - a, centre + a), clipped to [low, high].
    low, high
        Limits of the interval.
    centre
        Centre of the interval of a number, or None.

    Returns
    -------
    first, last : float
        The interval.
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
