"""Losses: each returns its mean over the batch and the gradient of that mean.

All compute in float64, so a loss is exact to float32 logits and holds where ``exp`` would overflow. Logits that are NaN
or infinite (a network that diverged) give a loss of NaN or inf, without a warning. ``functools.partial`` sets a
smoothing once and for all: ``partial(softmax_cross_entropy, label_smoothing=0.1)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers.base import Array

Targets: TypeAlias = NDArray[Any]
Loss: TypeAlias = Callable[[Array, Targets], tuple[float, Array]]


def binary_cross_entropy(logits: Array, targets: Array, *, label_smoothing: float = 0.0) -> tuple[float, Array]:
    """Return the binary cross-entropy of ``sigmoid(logits)``, averaged, and its gradient ``dlogits``.

    loss = mean(max(z, 0) - z * t + log(1 + exp(-|z|))), which equals
    mean(-t * log(sigmoid(z)) - (1 - t) * log(1 - sigmoid(z))) without its overflow and without clipping;
    dlogits = (sigmoid(z) - t) / z.size (Bishop, "Pattern Recognition and Machine Learning", 4.3.2).
    With ``label_smoothing`` s, t is replaced by (1 - s) * t + s / 2 (Szegedy et al., 2016, for two classes).

    Args:
        logits: z, float32 of any shape with at least one element.
        targets: t in [0, 1], float32 of the same shape.
        label_smoothing: s in [0, 1].

    Returns:
        The loss in nats (computed in float64) and ``dlogits``, float32 of the shape of ``logits``.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or value, or is empty.
    """
    _same_shape("logits", logits, targets)
    validate.within("targets must be in [0, 1]", targets, 0, 1)
    smoothing = validate.real("label_smoothing", label_smoothing, 0, 1)
    z = logits.astype(np.float64)
    t = (1 - smoothing) * targets.astype(np.float64) + smoothing / 2
    with np.errstate(invalid="ignore"):
        e = np.exp(-np.abs(z))
        loss = float((np.maximum(z, 0) - z * t + np.log1p(e)).mean())
        dlogits: Array = ((np.where(z < 0, e, 1) / (1 + e) - t) / z.size).astype(np.float32)
    return loss, dlogits


def softmax_cross_entropy(logits: Array, targets: Targets, *, label_smoothing: float = 0.0) -> tuple[float, Array]:
    """Return the cross-entropy of ``softmax(logits)`` over the last axis, averaged, and its gradient ``dlogits``.

    A row is what has a class: a sample, or a position of a sequence.
    loss = mean over the N rows of -sum_c(t_c * log p_c), with log p = z - max(z) - log(sum(exp(z - max(z))));
    dlogits = (p * sum_c(t_c) - t) / N (Bishop, "Pattern Recognition and Machine Learning", 4.3.4).
    With ``label_smoothing`` s, t is replaced by (1 - s) * t + s / C (Szegedy et al., "Rethinking the Inception
    Architecture", 2016), as in PyTorch's ``CrossEntropyLoss``.

    Args:
        logits: z, float32 of shape (N, C) or, with more axes of rows, (N, ..., C); not empty.
        targets: class numbers 0 to C - 1 of any integer dtype, of the shape of ``logits`` without C; or probabilities
            t in [0, 1], float32 of the shape of ``logits``.
        label_smoothing: s in [0, 1].

    Returns:
        The loss in nats (computed in float64) and ``dlogits``, float32 of the shape of ``logits``.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or value, or is empty.
    """
    validate.float32("logits", logits)
    if logits.ndim < 2 or not logits.size:
        raise ValueError(f"logits must have shape (N, C) or (N, ..., C), not empty, got {logits.shape}")
    t = _class_probabilities(targets, logits.shape)
    smoothing = validate.real("label_smoothing", label_smoothing, 0, 1)
    if smoothing:
        t = (1 - smoothing) * t + smoothing / logits.shape[-1]
    z = logits.reshape(t.shape).astype(np.float64)
    with np.errstate(invalid="ignore"):
        z -= z.max(axis=1, keepdims=True)
        e = np.exp(z)
        total = e.sum(axis=1, keepdims=True)
        z -= np.log(total)
        # Where t is 0, log p may be -inf: a class ruled out by its logit costs nothing.
        loss = -float(np.multiply(t, z, where=t != 0, out=np.zeros(t.shape)).sum()) / len(z)
        dlogits: Array = ((e / total * t.sum(axis=1, keepdims=True) - t) / len(z)).astype(np.float32)
    return loss, dlogits.reshape(logits.shape)


def mean_squared_error(predictions: Array, targets: Array) -> tuple[float, Array]:
    """Return mean((y - t)**2) over all elements and its gradient ``2 * (y - t) / y.size``.

    Args:
        predictions: y, float32 of any shape with at least one element.
        targets: t, float32 of the same shape.

    Returns:
        The loss (computed in float64) in the unit of t, squared, and the gradient, float32 of the shape of
        ``predictions``.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype or shape, or is empty.
    """
    _same_shape("predictions", predictions, targets)
    with np.errstate(invalid="ignore"):
        error = predictions.astype(np.float64) - targets
        return float(np.square(error).mean()), (error * (2 / error.size)).astype(np.float32)


def _same_shape(name: str, outputs: Array, targets: Array) -> None:
    validate.float32(name, outputs)
    validate.float32("targets", targets)
    if targets.shape != outputs.shape or not outputs.size:
        raise ValueError(f"targets and {name} must have one shape, not empty, got {targets.shape} and {outputs.shape}")


def _class_probabilities(targets: Targets, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return ``targets`` as an array of a row for each class number, with a one where it points."""
    *of_rows, classes = shape
    if not isinstance(targets, np.ndarray) or not (targets.dtype.kind in "iu" or targets.dtype == np.float32):
        raise TypeError(
            f"targets must be an array of class numbers (any integer dtype) or float32, got {validate.kind(targets)}"
        )
    if targets.dtype == np.float32:
        if targets.shape != shape:
            raise ValueError(f"float32 targets must have the shape of logits, {shape}, got {targets.shape}")
        validate.within("targets must be in [0, 1]", targets, 0, 1)
        return targets.reshape(-1, classes).astype(np.float64)
    if targets.shape != tuple(of_rows):
        raise ValueError(
            f"class numbers in targets must have shape {tuple(of_rows)}, one for each row, got {targets.shape}"
        )
    wanted = f"class numbers in targets must be from 0 to {classes - 1}, as logits of shape {shape} say"
    validate.within(wanted, targets, 0, classes - 1)
    t = np.zeros((targets.size, classes))
    t[np.arange(targets.size), targets.ravel()] = 1
    return t
