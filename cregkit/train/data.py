"""Data sets of ``fit`` and ``evaluate``: arrays, objects whose rows are read batch by batch, iterables of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.train import weights
from cregkit.train.losses import Targets
from cregkit.train.weights import Weights


@runtime_checkable
class Rows(Protocol):
    """Samples that are no array: ``rows[a:b]`` and ``rows[ints]`` (sorted, each once) return rows as arrays."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all samples, (N, ...)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the arrays."""

    def __len__(self) -> int:
        """Return N."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Return the samples at a slice or an array of positions."""


Inputs: TypeAlias = NDArray[Any]
"""Inputs of the network's first layer: float32, float16 or bfloat16, or ids of any integer dtype."""
Data: TypeAlias = tuple[Inputs, Targets]
"""A data set (x, targets), samples on the first axis: ``(np.eye(2, dtype=np.float32), np.array([0, 1]))``."""
WholeData: TypeAlias = Data | tuple[Inputs, Targets, Weights] | tuple[Rows, Targets] | tuple[Rows, Targets, Weights]
DataSet: TypeAlias = WholeData | Iterable[Any]
"""A data set (x, targets) or (x, targets, sample_weight), or an iterable of batches that are such tuples.

Samples are on the first axis. Instead of an array, x may be an object with ``shape``, ``dtype`` and ``len``, whose rows
at a slice or at a sorted array of ints are arrays: an HDF5 data set, a Zarr array, a wrapper of a sparse matrix.
"""


class Samples(NamedTuple):
    """A validated data set."""

    x: Inputs | Rows
    targets: Targets
    sample_weight: Weights | None

    def at(self, rows: slice | NDArray[np.int64]) -> Batch:
        """Return samples as arrays."""
        return Batch(taken(self.x, rows), self.targets[rows], _at(self.sample_weight, rows))

    def between(self, start: int, stop: int) -> WholeData:
        """Return the samples from ``start`` to ``stop`` as a data set; no row is read."""
        rows = slice(start, stop)
        x = self.x[rows] if isinstance(self.x, np.ndarray) else _Between(self.x, start, stop)
        weight = _at(self.sample_weight, rows)
        return (x, self.targets[rows]) if weight is None else (x, self.targets[rows], weight)


class Batch(NamedTuple):
    """Some samples as arrays."""

    x: Inputs
    targets: Targets
    sample_weight: Weights | None


def _at(weight: Weights | None, rows: slice | NDArray[np.int64]) -> Weights | None:
    return None if weight is None else weight[rows]


def taken(x: Inputs | Rows, rows: slice | NDArray[np.int64]) -> Inputs:
    """Return rows of ``x`` as an array; objects that are no arrays are indexed with sorted positions, each once."""
    if isinstance(x, np.ndarray):
        return x[rows]
    if isinstance(rows, slice):
        return np.ascontiguousarray(x[rows])
    positions, of_row = np.unique(rows, return_inverse=True)
    found: Inputs = np.asarray(x[positions])[of_row]
    return found


class _Between:
    """The rows from ``start`` to ``stop`` of an object that is no array."""

    def __init__(self, rows: Rows, start: int, stop: int) -> None:
        self._rows, self._start, self._stop = rows, start, stop
        self.shape, self.dtype = (stop - start, *rows.shape[1:]), rows.dtype

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Any:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            return self._rows[self._start + start : self._start + stop : step]
        return self._rows[self._start + rows]


class Batches:
    """A data set that is an iterable of batches; each pass over it validates every batch."""

    def __init__(self, name: str, batches: Iterable[Any]) -> None:
        """Start the first pass and read its first batch, so that it can be checked before training."""
        self._name, self._batches = name, batches
        started = self._validated(iter(batches))
        self.first = next(started)
        self._started: Iterator[Batch] | None = chain([self.first], started)

    def __iter__(self) -> Iterator[Batch]:
        """Return a pass over the batches: the one that the constructor started, then new ones."""
        started, self._started = self._started, None
        return self._validated(iter(self._batches)) if started is None else started

    def _validated(self, batches: Iterator[Any]) -> Iterator[Batch]:
        number = -1
        for number, batch in enumerate(batches):
            name = f"{self._name} (batch {number})"
            if not isinstance(batch, (tuple, list)):
                raise TypeError(
                    f"{self._name} must be a tuple (x, y) or (x, y, sample_weight), or an iterable of such batches, "
                    f"got {type(self._batches).__name__} whose entry {number} is {type(batch).__name__}"
                )
            samples = checked_data(name, tuple(part if part is None else np.asarray(part) for part in batch))
            yield Batch(np.asarray(samples.x), samples.targets, samples.sample_weight)
        if number < 0:
            raise ValueError(f"{self._name} must yield at least one batch each time it is iterated, got none")


def opened(name: str, data: DataSet | Samples | Batches) -> Samples | Batches:
    """Return a data set after validation."""
    if isinstance(data, Batches):
        return data
    if isinstance(data, tuple) or not isinstance(data, Iterable) or isinstance(data, (np.ndarray, str, bytes, dict)):
        return checked_data(name, data)
    return Batches(name, data)


def check_inputs(name: str, x: object) -> None:
    """Raise unless ``x`` is an array, or an object of rows, of a dtype that layers take: a tensor's, or integer ids."""
    if is_rows(x):
        if x.dtype.kind not in "iu" and not validate.is_tensor_dtype(x.dtype):
            raise TypeError(f"{name} must have dtype float32, float16, bfloat16 or an integer dtype, got {x.dtype}")
    elif not isinstance(x, np.ndarray) or x.dtype.kind not in "iu":
        validate.tensor(name, x)


def is_rows(x: object) -> TypeGuard[Rows]:
    """Return whether ``x`` is an object of rows that is no array."""
    if isinstance(x, np.ndarray) or not isinstance(x, Rows) or not isinstance(x.dtype, np.dtype):
        return False
    try:
        return len(x) == x.shape[0]
    except TypeError:  # a sparse matrix has no length
        return False


def checked_data(name: str, data: Any) -> Samples:
    """Return ``data`` as (x, targets, sample_weight or None) after validating types and lengths."""
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        raise TypeError(f"{name} must be a tuple (x, y) or (x, y, sample_weight), got {validate.shown(data)}")
    x, targets, weight = data if len(data) == 3 else (*data, None)
    check_inputs(f"{name}[0]", x)
    if not isinstance(targets, np.ndarray):
        raise TypeError(f"{name}[1] must be an array, got {type(targets).__name__}; use np.asarray")
    if not len(x.shape) or not targets.ndim or len(x) != len(targets) or not len(x):
        raise ValueError(
            f"{name} must hold one target for each sample, and at least one, got shapes {x.shape} and {targets.shape}"
        )
    if isinstance(x, np.ndarray) and not x.flags.c_contiguous:
        raise ValueError(f"{name}[0] must be C-contiguous; use np.ascontiguousarray({name}[0])")
    if weight is not None:
        _check_weight(name, weight, len(x))
    return Samples(x, targets, weight)


def _check_weight(name: str, weight: Any, n: int) -> None:
    try:
        weights.broadcast(weight, (n, *np.shape(weight)[1:]))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}[2] is not valid: {error}") from None
