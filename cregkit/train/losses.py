"""Losses: each returns its mean over the batch and the gradient of that mean.

Losses compute in float64 and do not overflow for any float32 logits. Logits that are NaN or infinite, from a network
that has diverged, give a loss of NaN or infinity without a warning. ``functools.partial`` fixes an argument:
``partial(softmax_cross_entropy, label_smoothing=0.1)``.

Logits may be float32, float16 or bfloat16, and the gradient is that of their values in float32, rounded to their dtype.
float16 rounds gradients below 3e-8 to 0; bfloat16 has the range of float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers.base import Array, Tensor
from cregkit.layers.precision import rounded

Targets: TypeAlias = NDArray[Any]
Loss: TypeAlias = Callable[[Tensor, Targets], tuple[float, Tensor]]
"""A loss: ``loss(outputs, targets)`` returns the mean over the batch and its gradient with respect to ``outputs``."""


def binary_cross_entropy(logits: Tensor, targets: Targets, *, label_smoothing: float = 0.0) -> tuple[float, Tensor]:
    """Return the mean binary cross-entropy of ``sigmoid(logits)`` and its gradient.

    loss = mean(max(z, 0) - z * t + log(1 + exp(-abs(z)))), which equals
    mean(-t * log(sigmoid(z)) - (1 - t) * log(1 - sigmoid(z))) but does not overflow and needs no clipping;
    dlogits = (sigmoid(z) - t) / z.size. With ``label_smoothing`` s, t is replaced by (1 - s) * t + s / 2.

    Parameters
    ----------
    logits : any shape, float32, float16 or bfloat16
        Logits z, not empty.
    targets : same shape, float32
        Targets t in [0, 1].
    label_smoothing
        Smoothing s in [0, 1].

    Returns
    -------
    loss : float
        Mean loss in nats.
    dlogits : shape and dtype of ``logits``
        Gradient of the loss with respect to ``logits``.

    Raises
    ------
    TypeError
        An argument has the wrong dtype.
    ValueError
        An argument has the wrong shape or value, or is empty.

    References
    ----------
    Bishop (2006), "Pattern Recognition and Machine Learning", section 4.3.2.
    Szegedy et al. (2016), "Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567
    (label smoothing).

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.train import binary_cross_entropy
    >>> loss, dlogits = binary_cross_entropy(np.array([2.0, -1.0], np.float32), np.array([1.0, 0.0], np.float32))
    >>> round(loss, 4)
    0.2201
    >>> dlogits.round(4)
    array([-0.0596,  0.1345], dtype=float32)
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
    return loss, rounded(dlogits, logits.dtype)


def softmax_cross_entropy(logits: Tensor, targets: Targets, *, label_smoothing: float = 0.0) -> tuple[float, Tensor]:
    """Return the mean cross-entropy of ``softmax(logits)`` over the last axis and its gradient.

    A row has one class: it is a sample, or a position of a sequence. With R rows,
    loss = -sum(t * log(p)) / R, where log(p) = z - max(z) - log(sum(exp(z - max(z)))) over the last axis;
    dlogits = (p * sum(t) - t) / R, with sum(t) over the last axis.
    With ``label_smoothing`` s, t is replaced by (1 - s) * t + s / C, as in ``torch.nn.CrossEntropyLoss``.

    Parameters
    ----------
    logits : shape (N, C) or (N, ..., C), float32, float16 or bfloat16
        Logits z, not empty.
    targets : shape of ``logits`` without C (any int dtype), or shape of ``logits`` (float32)
        Class indices in [0, C), or probabilities t in [0, 1].
    label_smoothing
        Smoothing s in [0, 1].

    Returns
    -------
    loss : float
        Mean loss in nats.
    dlogits : shape and dtype of ``logits``
        Gradient of the loss with respect to ``logits``.

    Raises
    ------
    TypeError
        An argument has the wrong dtype.
    ValueError
        An argument has the wrong shape or value, or is empty.

    References
    ----------
    Bishop (2006), "Pattern Recognition and Machine Learning", section 4.3.4.
    Szegedy et al. (2016), "Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567
    (label smoothing).

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.train import softmax_cross_entropy
    >>> logits = np.array([[2.0, -1.0], [0.5, 0.0]], np.float32)
    >>> loss, dlogits = softmax_cross_entropy(logits, np.array([0, 1]))
    >>> round(loss, 4)
    0.5113
    >>> dlogits.round(4)
    array([[-0.0237,  0.0237],
           [ 0.3112, -0.3112]], dtype=float32)
    """
    validate.tensor("logits", logits)
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
        # log(p) may be -inf where t is 0; such a class does not contribute to the loss.
        loss = -float(np.multiply(t, z, where=t != 0, out=np.zeros(t.shape)).sum()) / len(z)
        dlogits: Array = ((e / total * t.sum(axis=1, keepdims=True) - t) / len(z)).astype(np.float32)
    return loss, rounded(dlogits, logits.dtype).reshape(logits.shape)


def mean_squared_error(predictions: Tensor, targets: Targets) -> tuple[float, Tensor]:
    """Return the mean squared error ``mean((y - t)**2)`` and its gradient ``2 * (y - t) / y.size``.

    Parameters
    ----------
    predictions : any shape, float32, float16 or bfloat16
        Predictions y, not empty.
    targets : same shape, float32
        Targets t.

    Returns
    -------
    loss : float
        Mean over all elements, in the squared unit of t.
    gradient : shape and dtype of ``predictions``
        Gradient of the loss with respect to ``predictions``.

    Raises
    ------
    TypeError
        An argument has the wrong dtype.
    ValueError
        An argument has the wrong shape, or is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.train import mean_squared_error
    >>> loss, gradient = mean_squared_error(np.array([1.0, 3.0], np.float32), np.array([0.0, 3.0], np.float32))
    >>> loss, gradient
    (0.5, array([1., 0.], dtype=float32))
    """
    _same_shape("predictions", predictions, targets)
    with np.errstate(invalid="ignore"):
        error = predictions.astype(np.float64) - targets
        gradient: Array = (error * (2 / error.size)).astype(np.float32)
        return float(np.square(error).mean()), rounded(gradient, predictions.dtype)


def _same_shape(name: str, outputs: Tensor, targets: Targets) -> None:
    validate.tensor(name, outputs)
    validate.float32("targets", targets)
    if targets.shape != outputs.shape or not outputs.size:
        raise ValueError(
            f"targets and {name} must have the same shape and not be empty, got {targets.shape} and {outputs.shape}"
        )


def _class_probabilities(targets: Targets, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return ``targets`` as class probabilities of shape (rows, classes): class indices become one-hot rows."""
    *of_rows, classes = shape
    if not isinstance(targets, np.ndarray) or not (targets.dtype.kind in "iu" or targets.dtype == np.float32):
        raise TypeError(
            "targets must be class indices (an array of any integer dtype) or a float32 array, "
            f"got {validate.kind(targets)}"
        )
    if targets.dtype == np.float32:
        if targets.shape != shape:
            raise ValueError(f"float32 targets must have the shape of logits, {shape}, got {targets.shape}")
        validate.within("targets must be in [0, 1]", targets, 0, 1)
        return targets.reshape(-1, classes).astype(np.float64)
    if targets.shape != tuple(of_rows):
        raise ValueError(
            f"class indices in targets must have shape {tuple(of_rows)}, one for each row, got {targets.shape}"
        )
    wanted = f"class indices in targets must be from 0 to {classes - 1} for logits of shape {shape}"
    validate.within(wanted, targets, 0, classes - 1)
    t = np.zeros((targets.size, classes))
    t[np.arange(targets.size), targets.ravel()] = 1
    return t
