"""L2 penalty, SGD and AdamW steps with weight decay, L1, clipped gradients and averaged weights, and max-norm.

The steps work in place: they compute in float64 and round each array to its dtype once, at the end.

References
----------
Loshchilov and Hutter (2019), "Decoupled Weight Decay Regularization", arXiv:1711.05101 (AdamW).

Kingma and Ba (2015), "Adam: A Method for Stochastic Optimization", arXiv:1412.6980 (moments and bias correction).

Polyak (1964), "Some methods of speeding up the convergence of iteration methods" (momentum).

Parikh and Boyd (2014), "Proximal Algorithms" (the step of the L1 penalty).

Srivastava et al. (2014), "Dropout: A Simple Way to Prevent Neural Networks from Overfitting" (max-norm).

Polyak and Juditsky (1992), "Acceleration of Stochastic Approximation by Averaging" (averaged weights).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import as_float64, ieee, store


@ieee
def l2_penalty(w: ArrayLike, weight_decay: float) -> float:
    """L2 penalty: ``weight_decay / 2 * sum(w**2)``.

    Parameters
    ----------
    w : any shape
        Weights.
    weight_decay
        Coefficient of the penalty.

    Returns
    -------
    float
        The penalty.

    Examples
    --------
    >>> from cregkit import oracle
    >>> oracle.l2_penalty([3.0, 4.0], weight_decay=0.1)
    1.25
    """
    return weight_decay / 2 * float(np.square(as_float64(w)).sum())


@ieee
def sum_squares(x: ArrayLike, *, clipvalue: float | None = None) -> float:
    """Sum of the squares of all elements, first clipped to ``[-clipvalue, clipvalue]`` if that is given.

    It is NaN or infinite if and only if an element is not finite.

    Parameters
    ----------
    x : any shape
        Gradients.
    clipvalue
        Limit of the magnitude of each element, above 0, or None.

    Returns
    -------
    float
        The sum.

    Examples
    --------
    >>> from cregkit import oracle
    >>> oracle.sum_squares([3.0, -4.0]), oracle.sum_squares([3.0, -4.0], clipvalue=1.0)
    (25.0, 2.0)
    """
    x64 = as_float64(x)
    not_finite = 0.0 if clipvalue is None else x64 - x64
    return float((np.square(_clipped(x64, clipvalue)) + not_finite).sum())


def _clipped(dw: ArrayLike, clipvalue: float | None) -> NDArray[np.float64]:
    """Return ``dw`` with elements limited to ``[-clipvalue, clipvalue]``; NaN stays."""
    dw64 = as_float64(dw)
    return dw64 if clipvalue is None else np.clip(dw64, -clipvalue, clipvalue)


def _shrunk(w: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """Return ``sign(w) * max(|w| - threshold, 0)``, the proximal step of the L1 penalty."""
    return w - np.clip(w, -threshold, threshold) if threshold else w


def _store_weights(
    w64: NDArray[np.float64], w: NDArray[Any], average: NDArray[Any] | None, ema_momentum: float
) -> None:
    """Store the new weights, and ``average = ema_momentum * average + (1 - ema_momentum) * w``."""
    if average is not None:
        store(ema_momentum * as_float64(average) + (1.0 - ema_momentum) * w64, average)
    store(w64, w)


@ieee
def l2_gradient(w: ArrayLike, weight_decay: float, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Gradient of ``l2_penalty``: ``dw = weight_decay * w``.

    Parameters
    ----------
    w : any shape
        Weights.
    weight_decay
        Coefficient of the penalty.
    out
        Receives dw, rounded to its dtype.

    Returns
    -------
    dw
        Gradient of w, of its shape.

    Examples
    --------
    >>> from cregkit import oracle
    >>> oracle.l2_gradient([3.0, 4.0], weight_decay=0.5)
    array([1.5, 2. ])
    """
    return store(weight_decay * as_float64(w), out)


@ieee
def sgd_step(
    w: NDArray[Any],
    dw: ArrayLike,
    lr: float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    velocity: NDArray[Any] | None = None,
    clipvalue: float | None = None,
    scale: float = 1.0,
    l1: float = 0.0,
    average: NDArray[Any] | None = None,
    ema_momentum: float = 0.99,
) -> None:
    """Step of stochastic gradient descent, in place on w, velocity and average.

    ::

        g        = dw + weight_decay * w
        velocity = momentum * velocity + g
        w        = w - lr * velocity            (without velocity: w - lr * g)

    Before it, ``dw = scale * clip(dw, -clipvalue, clipvalue)``. After it::

        w        = sign(w) * max(|w| - lr * l1, 0)
        average  = ema_momentum * average + (1 - ema_momentum) * w

    Parameters
    ----------
    w : any shape
        Weights.
    dw
        Gradient of w, of its shape.
    lr
        Learning rate.
    weight_decay
        Coefficient of the L2 penalty.
    momentum
        Factor of the velocity, in [0, 1].
    velocity
        State of the momentum, of the shape of w; None for momentum 0.
    clipvalue
        Limit of the magnitude of each element of dw, above 0, or None.
    scale
        Factor of the clipped gradient, which limits the norm of all gradients.
    l1
        Factor of the L1 penalty.
    average
        Exponential moving average of w, of its shape, or None.
    ema_momentum
        Share of the old average in the new one, in [0, 1].

    Raises
    ------
    ValueError
        Momentum is not 0 and velocity is None.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> w = np.array([1.0, 2.0])
    >>> oracle.sgd_step(w, [0.5, 0.5], lr=0.1)
    >>> w
    array([0.95, 1.95])
    """
    if momentum != 0.0 and velocity is None:
        raise ValueError(f"velocity must be an array for momentum={momentum}, got None; pass np.zeros_like(w)")
    w64 = as_float64(w)
    direction = scale * _clipped(dw, clipvalue) + weight_decay * w64
    if velocity is not None:
        direction = momentum * as_float64(velocity) + direction
        store(direction, velocity)
    _store_weights(_shrunk(w64 - lr * direction, lr * l1), w, average, ema_momentum)


@ieee
def adamw_step(
    w: NDArray[Any],
    dw: ArrayLike,
    m: NDArray[Any],
    v: NDArray[Any],
    step: int,
    lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    decoupled: bool = True,
    clipvalue: float | None = None,
    scale: float = 1.0,
    l1: float = 0.0,
    average: NDArray[Any] | None = None,
    ema_momentum: float = 0.99,
) -> None:
    """Step of AdamW, in place on w, the moments m and v, and average.

    ::

        w = w * (1 - lr * weight_decay)     (decoupled; else g = dw + weight_decay * w, Adam with L2 penalty)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        w = w - lr / (1 - beta1**step) * m / (sqrt(v) / sqrt(1 - beta2**step) + eps)

    with ``g = dw``. m and v start at 0. The factors ``1 - beta**step`` correct the bias of this start.

    Before it, ``dw = scale * clip(dw, -clipvalue, clipvalue)``. After it::

        w = sign(w) * max(|w| - lr * l1, 0)
        average = ema_momentum * average + (1 - ema_momentum) * w

    Parameters
    ----------
    w : any shape
        Weights.
    dw
        Gradient of w, of its shape.
    m, v
        First and second moment, of the shape of w.
    step
        Number of this step, from 1.
    lr
        Learning rate.
    betas
        Decay rates of the moments.
    eps
        Added to the denominator.
    weight_decay
        Coefficient of the decay.
    decoupled
        Whether the decay bypasses the moments (AdamW).
    clipvalue
        Limit of the magnitude of each element of dw, above 0, or None.
    scale
        Factor of the clipped gradient, which limits the norm of all gradients.
    l1
        Factor of the L1 penalty.
    average
        Exponential moving average of w, of its shape, or None.
    ema_momentum
        Share of the old average in the new one, in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> w, m, v = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)
    >>> oracle.adamw_step(w, [0.5, -0.5], m, v, step=1, lr=0.1, weight_decay=0.0)
    >>> w.round(6)
    array([0.9, 2.1])
    """
    beta1, beta2 = betas
    w64, g = as_float64(w), scale * _clipped(dw, clipvalue)
    if decoupled:
        w64 = w64 * (1.0 - lr * weight_decay)
    else:
        g = g + weight_decay * w64
    m64 = beta1 * as_float64(m) + (1.0 - beta1) * g
    v64 = beta2 * as_float64(v) + (1.0 - beta2) * np.square(g)
    denominator = np.sqrt(v64) / math.sqrt(1.0 - beta2**step) + eps
    stepped = w64 - lr / (1.0 - beta1**step) * m64 / denominator
    _store_weights(_shrunk(stepped, lr * l1), w, average, ema_momentum)
    store(m64, m)
    store(v64, v)


@ieee
def max_norm(
    w: NDArray[Any], max_value: float, *, average: NDArray[Any] | None = None, ema_momentum: float = 0.99
) -> None:
    """Limit the norm of the incoming weights of each unit, in place: ``w[i] *= min(1, max_value / norm(w[i]))``.

    A unit whose weights are not all finite stays as it is. Then
    ``average = ema_momentum * average + (1 - ema_momentum) * w``.

    Parameters
    ----------
    w : shape (units, ...)
        Weights.
    max_value
        Largest norm, above 0.
    average
        Exponential moving average of w, of its shape, or None.
    ema_momentum
        Share of the old average in the new one, in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> w = np.array([[3.0, 4.0], [0.0, 2.0]])
    >>> oracle.max_norm(w, 2.5)
    >>> w
    array([[1.5, 2. ],
           [0. , 2. ]])
    """
    w64 = as_float64(w)
    norms = np.sqrt(np.square(w64).sum(axis=tuple(range(1, w64.ndim)), keepdims=True))
    exceeds = np.isfinite(norms) & (norms > max_value)
    _store_weights(w64 * np.divide(max_value, norms, out=np.ones_like(norms), where=exceeds), w, average, ema_momentum)
