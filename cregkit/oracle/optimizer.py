"""L2 penalty, and SGD and AdamW steps with weight decay.

The steps work in place: they compute in float64 and round each array to its dtype once, at the end.

References
----------
Loshchilov and Hutter (2019), "Decoupled Weight Decay Regularization", arXiv:1711.05101 (AdamW).

Kingma and Ba (2015), "Adam: A Method for Stochastic Optimization", arXiv:1412.6980 (moments and bias correction).

Polyak (1964), "Some methods of speeding up the convergence of iteration methods" (momentum).
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
) -> None:
    """Step of stochastic gradient descent, in place on w and velocity.

    ::

        g        = dw + weight_decay * w
        velocity = momentum * velocity + g
        w        = w - lr * velocity            (without velocity: w - lr * g)

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
    direction = as_float64(dw) + weight_decay * w64
    if velocity is not None:
        direction = momentum * as_float64(velocity) + direction
        store(direction, velocity)
    store(w64 - lr * direction, w)


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
) -> None:
    """Step of AdamW, in place on w and the moments m and v.

    ::

        w = w * (1 - lr * weight_decay)     (decoupled; else g = dw + weight_decay * w, Adam with L2 penalty)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        w = w - lr / (1 - beta1**step) * m / (sqrt(v) / sqrt(1 - beta2**step) + eps)

    with ``g = dw``. m and v start at 0. The factors ``1 - beta**step`` correct the bias of this start.

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
    w64, g = as_float64(w), as_float64(dw)
    if decoupled:
        w64 = w64 * (1.0 - lr * weight_decay)
    else:
        g = g + weight_decay * w64
    m64 = beta1 * as_float64(m) + (1.0 - beta1) * g
    v64 = beta2 * as_float64(v) + (1.0 - beta2) * np.square(g)
    scale = np.sqrt(v64) / math.sqrt(1.0 - beta2**step) + eps
    store(w64 - lr / (1.0 - beta1**step) * m64 / scale, w)
    store(m64, m)
    store(v64, v)
