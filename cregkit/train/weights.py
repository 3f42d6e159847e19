"""Weights of samples, rows and classes, and the total weight over which a loss or an accuracy takes its mean.

Means of parts merge exactly by their total weights: the mean of all is sum(total * mean) / sum(total). A function whose
mean is not over samples has an attribute ``total_weight`` that returns the total of a part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit import _validate as validate

Weights: TypeAlias = NDArray[Any]
"""Weights in [0, 3.4e38], or a bool mask, of any real dtype: one per sample, or one per row of the targets."""

_LARGEST = float(np.finfo(np.float32).max)
_Function = TypeVar("_Function", bound=Callable[..., Any])


def weighed_by(total: Callable[..., float]) -> Callable[[_Function], _Function]:
    """Return a decorator that gives a loss or an accuracy its ``total_weight``."""

    def mark(function: _Function) -> _Function:
        function.total_weight = total  # type: ignore[attr-defined]
        return function

    return mark


def total_weight(function: Callable[..., Any], targets: NDArray[Any], sample_weight: Weights | None = None) -> float:
    """Return the total weight of the mean that a loss or an accuracy, or a ``partial`` of one, takes on ``targets``."""
    base, bound = (function.func, function.keywords) if isinstance(function, partial) else (function, {})
    total = getattr(base, "total_weight", None)
    if total is not None:
        return float(total(targets, sample_weight=sample_weight, **bound))
    return float(len(targets) if sample_weight is None else sample_weight.sum(dtype=np.float64))


def counts_samples(function: Callable[..., Any], sample_weight: Weights | None) -> bool:
    """Return whether every sample has the same part in the mean, whatever the targets."""
    base, bound = (function.func, function.keywords) if isinstance(function, partial) else (function, {})
    plain = getattr(base, "total_weight", None) in (None, total_of_elements, total_of_rows)
    return plain and sample_weight is None and not {"ignore_index", "class_weight"} & bound.keys()


def broadcast(sample_weight: Weights, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return ``sample_weight`` in float64, broadcast over the last axes of ``shape``; raise if it is not valid."""
    if not isinstance(sample_weight, np.ndarray) or not (
        sample_weight.dtype.kind in "biuf" or validate.is_bfloat16(sample_weight.dtype)
    ):
        raise TypeError(f"sample_weight must be an array of numbers or bools, got {validate.kind(sample_weight)}")
    axes = sample_weight.ndim
    if not axes or sample_weight.shape != shape[:axes]:
        raise ValueError(
            f"sample_weight must have shape {shape[:1]}, one per sample, or that of the targets' rows, {shape}, "
            f"got {sample_weight.shape}"
        )
    w = sample_weight.astype(np.float64)
    validate.within("sample_weight must be from 0 to 3.4e38", w, 0, _LARGEST)
    return np.broadcast_to(w.reshape(w.shape + (1,) * (len(shape) - axes)), shape)


def of_rows(
    targets: NDArray[Any],
    ignore_index: int | None,
    of_class: NDArray[np.float64] | None,
    sample_weight: Weights | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return for each row its sample weight, 0 where the row does not count, and its weight in the mean."""
    # The weight in the mean is sample_weight * c[class], or sample_weight * sum(c * t) for probabilities t.
    of_classes = targets.dtype.kind in "iu"
    rows = targets.shape if of_classes else targets.shape[:-1]
    samples = np.ones(rows) if sample_weight is None else broadcast(sample_weight, rows)
    if ignore_index is not None and of_classes:
        ignored = validate.integer("ignore_index", ignore_index, -(2**63), 2**64 - 1)
        samples = np.where(targets == ignored, 0, samples)
    if of_class is None:
        return samples, samples
    counts = samples > 0
    if of_classes:
        classes = np.where(counts, targets, 0)
        wanted = f"class indices in targets must be from 0 to {len(of_class) - 1} for {len(of_class)} class weights"
        validate.within(wanted, classes, 0, len(of_class) - 1)
        in_mean = samples * of_class[classes]
    else:
        in_mean = samples * (np.where(counts[..., None], targets, 0) @ of_class)
    return np.where(in_mean > 0, samples, 0), in_mean


def per_class(class_weight: ArrayLike | None, classes: int | None = None) -> NDArray[np.float64] | None:
    """Return ``class_weight`` in float64; raise if it is not valid, or not one for each of ``classes``."""
    if class_weight is None:
        return None
    of_class = real_array("class_weight", class_weight)
    if of_class.ndim != 1 or len(of_class) != (classes or len(of_class)):
        wanted = "C" if classes is None else classes
        raise ValueError(f"class_weight must have shape ({wanted},), one weight per class, got {of_class.shape}")
    return of_class


def real_array(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return weights of an argument, an array or a list of numbers, in float64; raise if one is not valid."""
    try:
        weights = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be an array of numbers, got {validate.shown(values)}") from None
    validate.within(f"{name} must be from 0 to 3.4e38", weights, 0, _LARGEST)
    return weights


def shares(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights divided by their total, or zeros if the total is 0."""
    total = weights.sum()
    return weights / total if total else weights


def total_of_elements(targets: NDArray[Any], *, sample_weight: Weights | None = None, **_: object) -> float:
    """Return the total weight of a mean over the elements of ``targets``."""
    return targets.size if sample_weight is None else float(broadcast(sample_weight, targets.shape).sum())


def total_of_rows(
    targets: NDArray[Any],
    *,
    ignore_index: int | None = None,
    class_weight: ArrayLike | None = None,
    sample_weight: Weights | None = None,
    **_: object,
) -> float:
    """Return the total weight of a mean over rows, each of a class or of probabilities of classes."""
    if ignore_index is class_weight is sample_weight is None:
        return math.prod(targets.shape if targets.dtype.kind in "iu" else targets.shape[:-1])
    return float(of_rows(targets, ignore_index, per_class(class_weight), sample_weight)[1].sum())
