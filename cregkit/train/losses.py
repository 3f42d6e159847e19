"""Losses: each returns its mean over the batch and the gradient of that mean.

The mean is over what counts: sum(w * l) / sum(w) over rows of loss l and weight w, which is 1 unless ``sample_weight``,
``class_weight`` or ``ignore_index`` is given. A row of weight 0 may hold NaN and invalid targets: it does not
change the loss and the gradients of other rows, and its own gradient is 0. If all weights are 0, loss and gradient are
0.

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
from numpy.typing import ArrayLike, NDArray

from cregkit import _validate as validate
from cregkit.layers.base import Array, Tensor
from cregkit.layers.precision import rounded
from cregkit.train import weights
from cregkit.train.weights import Weights

Targets: TypeAlias = NDArray[Any]
Loss: TypeAlias = Callable[..., tuple[float, Tensor]]
"""A loss: ``loss(outputs, targets)`` returns the mean over the batch and its gradient with respect to ``outputs``.

For data with weights it is called with ``sample_weight=`` too. Where its mean is not over samples or their weights, its
attribute ``total_weight`` is a function that returns the sum of the weights of a batch: ``loss.total_weight(targets,
sample_weight=None, **bound)``, with the keyword arguments that a ``functools.partial`` binds.
"""


@weights.weighed_by(weights.total_of_elements)
def binary_cross_entropy(
    logits: Tensor,
    targets: Targets,
    *,
    label_smoothing: float = 0.0,
    pos_weight: ArrayLike | None = None,
    sample_weight: Weights | None = None,
) -> tuple[float, Tensor]:
    """Return the mean binary cross-entropy of ``sigmoid(logits)`` and its gradient.

    loss = mean(max(z, 0) - z * t + log(1 + exp(-abs(z)))), which equals
    mean(-t * log(sigmoid(z)) - (1 - t) * log(1 - sigmoid(z))) but does not overflow and needs no clipping;
    dlogits = (sigmoid(z) - t) / z.size. With ``label_smoothing`` s, t is replaced by (1 - s) * t + s / 2. With
    ``pos_weight`` p, the loss of an element is -p * t * log(sigmoid(z)) - (1 - t) * log(1 - sigmoid(z)), as in
    ``torch.nn.BCEWithLogitsLoss``; p is no weight of the mean.

    Parameters
    ----------
    logits : any shape, float32, float16 or bfloat16
        Logits z, not empty.
    targets : same shape, float32
        Targets t in [0, 1].
    label_smoothing
        Smoothing s in [0, 1].
    pos_weight : number, or shape of the last axis of ``logits``
        Weight p of the positive class, at least 0, for all outputs or one for each; None means 1.
    sample_weight : shape (N,), or of more of the leading axes of ``logits``
        Weights in the mean, at least 0, or a bool mask; None means 1.

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

    A mask leaves elements out:

    >>> logits, targets = np.array([2.0, np.nan], np.float32), np.array([1.0, np.nan], np.float32)
    >>> round(binary_cross_entropy(logits, targets, sample_weight=~np.isnan(targets))[0], 4)
    0.1269
    """
    z, t, w = _elements("logits", logits, targets, sample_weight)
    validate.within("targets must be in [0, 1]", t, 0, 1)
    smoothing = validate.real("label_smoothing", label_smoothing, 0, 1)
    t = (1 - smoothing) * t.astype(np.float64) + smoothing / 2
    with np.errstate(invalid="ignore"):
        e = np.exp(-np.abs(z))
        if pos_weight is None:
            loss = _mean(np.maximum(z, 0) - z * t + np.log1p(e), w)
            slopes = np.where(z < 0, e, 1) / (1 + e) - t
        else:
            positive, negative = _positive_weight(pos_weight, z.shape) * t, 1 - t
            loss = _mean(
                negative * np.maximum(z, 0) + positive * np.maximum(-z, 0) + (negative + positive) * np.log1p(e), w
            )
            slopes = (negative * np.where(z < 0, e, 1) - positive * np.where(z < 0, 1, e)) / (1 + e)
        return loss, _per_element(slopes, w, logits.dtype)


@weights.weighed_by(weights.total_of_rows)
def softmax_cross_entropy(
    logits: Tensor,
    targets: Targets,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    class_weight: ArrayLike | None = None,
    sample_weight: Weights | None = None,
) -> tuple[float, Tensor]:
    """Return the mean cross-entropy of ``softmax(logits)`` over the last axis and its gradient.

    A row has one class: it is a sample, or a position of a sequence. With R rows,
    loss = -sum(t * log(p)) / R, where log(p) = z - max(z) - log(sum(exp(z - max(z)))) over the last axis;
    dlogits = (p * sum(t) - t) / R, with sum(t) over the last axis.
    With ``label_smoothing`` s, t is replaced by u = (1 - s) * t + s / C, as in ``torch.nn.CrossEntropyLoss``.
    With weights v of rows and c of classes, loss = -sum(v * c * u * log(p)) / sum(v * c * t). PyTorch differs in two
    cases: for probabilities with class weights it divides by R, and it counts the smoothing of a row whose class has
    the weight 0.

    Parameters
    ----------
    logits : shape (N, C) or (N, ..., C), float32, float16 or bfloat16
        Logits z, not empty.
    targets : shape of ``logits`` without C (any int dtype), or shape of ``logits`` (float32)
        Class indices in [0, C), or probabilities t in [0, 1].
    label_smoothing
        Smoothing s in [0, 1].
    ignore_index
        Class index, also outside [0, C), of rows that do not count, such as -100; None means that all count. It does
        not concern probabilities.
    class_weight : shape (C,)
        Weights c of the classes, at least 0; None means 1. A row whose sum(c * t) is 0 does not count.
    sample_weight : shape (N,), or of more of the leading axes of ``logits`` without C
        Weights v of the rows, at least 0, or a bool mask; None means 1.

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

    Padded positions do not count:

    >>> padded = np.array([[0, -100], [1, 1]])
    >>> loss, dlogits = softmax_cross_entropy(np.zeros((2, 2, 3), np.float32), padded, ignore_index=-100)
    >>> round(loss, 4), dlogits[0, 1].tolist()
    (1.0986, [0.0, 0.0, 0.0])
    """
    validate.tensor("logits", logits)
    if logits.ndim < 2 or not logits.size:
        raise ValueError(f"logits must have shape (N, C) or (N, ..., C), not empty, got {logits.shape}")
    _check_classes(targets, logits.shape)
    smoothing = validate.real("label_smoothing", label_smoothing, 0, 1)
    all_count = ignore_index is class_weight is sample_weight is None
    if not all_count:
        of_class = weights.per_class(class_weight, logits.shape[-1])
        samples, rows = weights.of_rows(targets, ignore_index, of_class, sample_weight)
        counts = samples.ravel() > 0
        if not counts.any():
            return 0.0, np.zeros_like(logits)
        targets = np.where(counts.reshape(samples.shape + (1,) * (targets.ndim - samples.ndim)), targets, 0)
    t = _class_probabilities(targets, logits.shape)
    if smoothing:
        t = (1 - smoothing) * t + smoothing / logits.shape[-1]
    z = logits.reshape(t.shape).astype(np.float64)
    n = len(z)
    if not all_count:
        z[~counts] = 0
        t *= (samples / rows.sum()).reshape(-1, 1)
        t *= 1 if of_class is None else of_class
        n = 1
    with np.errstate(invalid="ignore"):
        z -= z.max(axis=1, keepdims=True)
        e = np.exp(z)
        total = e.sum(axis=1, keepdims=True)
        z -= np.log(total)
        # log(p) may be -inf where t is 0; such a class does not contribute to the loss.
        loss = -float(np.multiply(t, z, where=t != 0, out=np.zeros(t.shape)).sum()) / n
        dlogits: Array = ((e / total * t.sum(axis=1, keepdims=True) - t) / n).astype(np.float32)
    return loss, rounded(dlogits, logits.dtype).reshape(logits.shape)


@weights.weighed_by(weights.total_of_elements)
def mean_squared_error(
    predictions: Tensor, targets: Targets, *, sample_weight: Weights | None = None
) -> tuple[float, Tensor]:
    """Return the mean squared error ``mean((y - t)**2)`` and its gradient ``2 * (y - t) / y.size``.

    Parameters
    ----------
    predictions : any shape, float32, float16 or bfloat16
        Predictions y, not empty.
    targets : same shape, float32
        Targets t.
    sample_weight : shape (N,), or of more of the leading axes of ``predictions``
        Weights in the mean, at least 0, or a bool mask; None means 1.

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
        An argument has the wrong shape or value, or is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.train import mean_squared_error
    >>> loss, gradient = mean_squared_error(np.array([1.0, 3.0], np.float32), np.array([0.0, 3.0], np.float32))
    >>> loss, gradient
    (0.5, array([1., 0.], dtype=float32))
    """
    y, t, w = _elements("predictions", predictions, targets, sample_weight)
    with np.errstate(invalid="ignore"):
        error = y - t
        gradient: Array = (error * (2 / error.size) if w is None else 2 * w * error).astype(np.float32)
        return _mean(np.square(error), w), rounded(gradient, predictions.dtype)


@weights.weighed_by(weights.total_of_elements)
def mean_absolute_error(
    predictions: Tensor, targets: Targets, *, sample_weight: Weights | None = None
) -> tuple[float, Tensor]:
    """Return the mean absolute error ``mean(abs(y - t))`` and its gradient ``sign(y - t) / y.size``.

    The gradient is 0 where y = t.

    Parameters
    ----------
    predictions : any shape, float32, float16 or bfloat16
        Predictions y, not empty.
    targets : same shape, float32
        Targets t.
    sample_weight : shape (N,), or of more of the leading axes of ``predictions``
        Weights in the mean, at least 0, or a bool mask; None means 1.

    Returns
    -------
    loss : float
        Mean over all elements, in the unit of t.
    gradient : shape and dtype of ``predictions``
        Gradient of the loss with respect to ``predictions``.

    Raises
    ------
    TypeError
        An argument has the wrong dtype.
    ValueError
        An argument has the wrong shape or value, or is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.train import mean_absolute_error
    >>> loss, gradient = mean_absolute_error(np.array([1.0, 3.0], np.float32), np.array([0.0, 3.0], np.float32))
    >>> loss, gradient
    (0.5, array([0.5, 0. ], dtype=float32))
    """
    y, t, w = _elements("predictions", predictions, targets, sample_weight)
    with np.errstate(invalid="ignore"):
        error = y - t
        return _mean(np.abs(error), w), _per_element(np.sign(error), w, predictions.dtype)


@weights.weighed_by(weights.total_of_elements)
def huber(
    predictions: Tensor, targets: Targets, *, delta: float = 1.0, sample_weight: Weights | None = None
) -> tuple[float, Tensor]:
    """Return the mean Huber loss, which is quadratic for small errors and linear for large ones, and its gradient.

    With the error e = y - t, the loss of an element is e**2 / 2 where abs(e) <= delta, else
    delta * (abs(e) - delta / 2); the gradient is clip(e, -delta, delta) / y.size, as in ``torch.nn.HuberLoss``.

    Parameters
    ----------
    predictions : any shape, float32, float16 or bfloat16
        Predictions y, not empty.
    targets : same shape, float32
        Targets t.
    delta
        Error at which the loss becomes linear, above 0, in the unit of t.
    sample_weight : shape (N,), or of more of the leading axes of ``predictions``
        Weights in the mean, at least 0, or a bool mask; None means 1.

    Returns
    -------
    loss : float
        Mean over all elements, in the squared unit of t.
    gradient : shape and dtype of ``predictions``
        Gradient of the loss with respect to ``predictions``.

    Raises
    ------
    TypeError
        An argument has the wrong type or dtype.
    ValueError
        An argument has the wrong shape or value, or is empty.

    References
    ----------
    Huber (1964), "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.train import huber
    >>> loss, gradient = huber(np.array([0.5, 3.0], np.float32), np.array([0.0, 0.0], np.float32))
    >>> loss, gradient
    (1.3125, array([0.25, 0.5 ], dtype=float32))
    """
    threshold = validate.real("delta", delta, 0)
    if not threshold:
        raise ValueError(f"delta must be above 0, got {delta}")
    y, t, w = _elements("predictions", predictions, targets, sample_weight)
    with np.errstate(invalid="ignore"):
        error = y - t
        clipped = np.clip(error, -threshold, threshold)
        return _mean(clipped * (error - clipped / 2), w), _per_element(clipped, w, predictions.dtype)


def _elements(
    name: str, outputs: Tensor, targets: Targets, sample_weight: Weights | None
) -> tuple[NDArray[np.float64], Targets, NDArray[np.float64] | None]:
    """Return outputs, targets and the share of each element in the mean (None: equal), all 0 where the weight is 0."""
    _same_shape(name, outputs, targets)
    y = outputs.astype(np.float64)
    if sample_weight is None:
        return y, targets, None
    w = weights.shares(weights.broadcast(sample_weight, outputs.shape))
    y[w == 0] = 0
    return y, np.where(w == 0, 0, targets), w


def _mean(losses: NDArray[np.float64], w: NDArray[np.float64] | None) -> float:
    return float(losses.mean() if w is None else (w * losses).sum())


def _per_element(slopes: NDArray[np.float64], w: NDArray[np.float64] | None, dtype: np.dtype[Any]) -> Tensor:
    """Return the gradient of the mean in ``dtype``, given the slope of the loss of each element."""
    gradient: Array = (slopes / slopes.size if w is None else w * slopes).astype(np.float32)
    return rounded(gradient, dtype)


def _same_shape(name: str, outputs: Tensor, targets: Targets) -> None:
    validate.tensor(name, outputs)
    validate.float32("targets", targets)
    if targets.shape != outputs.shape or not outputs.size:
        raise ValueError(
            f"targets and {name} must have the same shape and not be empty, got {targets.shape} and {outputs.shape}"
        )


def _positive_weight(pos_weight: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return ``pos_weight`` in float64; raise unless it is a number or one for each output."""
    p = weights.real_array("pos_weight", pos_weight)
    if p.ndim and p.shape != shape[-1:]:
        raise ValueError(f"pos_weight must be a number or have shape {shape[-1:]}, one per output, got {p.shape}")
    return p


def _check_classes(targets: Targets, shape: tuple[int, ...]) -> None:
    """Raise unless dtype and shape of ``targets`` are those of class indices or probabilities."""
    of_rows = shape[:-1]
    if not isinstance(targets, np.ndarray) or not (targets.dtype.kind in "iu" or targets.dtype == np.float32):
        raise TypeError(
            "targets must be class indices (an array of any integer dtype) or a float32 array, "
            f"got {validate.kind(targets)}"
        )
    if targets.dtype == np.float32 and targets.shape != shape:
        raise ValueError(f"float32 targets must have the shape of logits, {shape}, got {targets.shape}")
    if targets.dtype != np.float32 and targets.shape != of_rows:
        raise ValueError(f"class indices in targets must have shape {of_rows}, one for each row, got {targets.shape}")


def _class_probabilities(targets: Targets, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return ``targets`` as class probabilities of shape (rows, classes): class indices become one-hot rows."""
    classes = shape[-1]
    if targets.dtype == np.float32:
        validate.within("targets must be in [0, 1]", targets, 0, 1)
        return targets.reshape(-1, classes).astype(np.float64)
    wanted = f"class indices in targets must be from 0 to {classes - 1} for logits of shape {shape}"
    validate.within(wanted, targets, 0, classes - 1)
    t = np.zeros((targets.size, classes))
    t[np.arange(targets.size), targets.ravel()] = 1
    return t
