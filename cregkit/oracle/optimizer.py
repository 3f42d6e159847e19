"""Weight decay as a penalty, and the SGD and AdamW steps that apply it.

Sources: Loshchilov & Hutter (2019), "Decoupled Weight Decay Regularization", arXiv:1711.05101 (decoupled decay, AdamW);
Kingma & Ba (2015), "Adam: A Method for Stochastic Optimization", arXiv:1412.6980 (moments and bias correction);
Polyak (1964), "Some methods of speeding up the convergence of iteration methods" (momentum).

The steps work in place: state is read, advanced in float64, and each array is rounded to its dtype once, at the end.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import as_float64, ieee, store


@ieee
def l2_penalty(w: ArrayLike, weight_decay: float) -> float:
    """weight_decay / 2 * sum(w**2) over an array w of any shape."""
    return weight_decay / 2 * float(np.square(as_float64(w)).sum())


@ieee
def l2_gradient(w: ArrayLike, weight_decay: float, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """dw = weight_decay * w, the gradient of `l2_penalty`; w and dw of any one shape."""
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
    """One step of gradient descent, in place on w and velocity.

        g        = dw + weight_decay * w
        velocity = momentum * velocity + g      (where velocity is given)
        w        = w - lr * velocity            (lr * g without velocity)

    Shapes: w, dw, velocity any one shape. A momentum needs a velocity: ValueError.
    """
    if momentum != 0.0 and velocity is None:
        raise ValueError(f"velocity: momentum={momentum} needs a velocity array, got None; pass np.zeros_like(w)")
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
    """One step of AdamW, in place on w and the moments m and v; `step` counts from 1.

        g = dw,  w = w * (1 - lr * weight_decay)         (decoupled; else g = dw + weight_decay * w: Adam with L2)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        w = w - lr / (1 - beta1**step) * m / (sqrt(v) / sqrt(1 - beta2**step) + eps)

    m and v start at 0, hence too small by the factors 1 - beta**step, which the last line divides out.
    Shapes: w, dw, m, v any one shape.
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
