"""Dropout, addition to the residual stream and a norm: the ops of `dropout`, `layer_norm` and `rms_norm` in a row.

    h = residual + dropout(x),  y = norm(h)

Source: Vaswani et al. (2017), "Attention Is All You Need", arXiv:1706.03762, section 5.4.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import Float64Array, as_float64, ieee
from cregkit.oracle.dropout import dropout, dropout_backward
from cregkit.oracle.layer_norm import layer_norm_backward, layer_norm_forward
from cregkit.oracle.rms_norm import rms_norm_backward, rms_norm_forward


@ieee
def _add(residual: ArrayLike, x: ArrayLike, p: float, seed: int | None, offset: int) -> Float64Array:
    """h = residual + dropout(x); p = 0 draws nothing, so any seed will do."""
    h: Float64Array = as_float64(residual) + dropout(x, p, seed=seed or 0, offset=offset)
    return h


def _split(
    dh: Float64Array, more: ArrayLike | None, p: float, seed: int | None, offset: int
) -> tuple[Float64Array, Float64Array]:
    """(dx, dresidual): h depends on residual with Jacobian 1 and on x with dropout's, so dresidual = dh in all."""
    if more is not None:
        dh = dh + as_float64(more)
    return dropout_backward(dh, p, seed=seed or 0, offset=offset), dh


def dropout_add_layer_norm_forward(
    x: ArrayLike,
    residual: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    p: float = 0.0,
    eps: float = 1e-5,
    *,
    seed: int | None = None,
    offset: int = 0,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array, Float64Array, Float64Array]:
    """(y, h, mean, rstd) with h = residual + dropout(x, p) and y, mean, rstd = layer_norm_forward(h).

    Shapes: x, residual, y, h (..., C); gamma, beta (C,), each optional; mean, rstd x.shape[:-1]. `out` receives y.
    """
    h = _add(residual, x, p, seed, offset)
    y, mean, rstd = layer_norm_forward(h, gamma, beta, eps, out=out)
    return y, h, mean, rstd


def dropout_add_layer_norm_backward(
    dy: ArrayLike,
    h: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    gamma: ArrayLike | None = None,
    p: float = 0.0,
    *,
    dh: ArrayLike | None = None,
    seed: int | None = None,
    offset: int = 0,
) -> tuple[Float64Array, Float64Array, Float64Array | None, Float64Array | None]:
    """(dx, dresidual, dgamma, dbeta): dresidual = layer_norm_backward(dy, h) + dh, dx = dropout_backward(dresidual).

    Shapes: as in the forward; dh is what flows into h past the norm.
    """
    through_norm, dgamma, dbeta = layer_norm_backward(dy, h, mean, rstd, gamma)
    return *_split(through_norm, dh, p, seed, offset), dgamma, dbeta


def dropout_add_rms_norm_forward(
    x: ArrayLike,
    residual: ArrayLike,
    gamma: ArrayLike | None = None,
    p: float = 0.0,
    eps: float = 1e-6,
    *,
    seed: int | None = None,
    offset: int = 0,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array, Float64Array]:
    """(y, h, rstd) with h = residual + dropout(x, p) and y, rstd = rms_norm_forward(h).

    Shapes: x, residual, y, h (..., C); gamma (C,), optional; rstd x.shape[:-1]. `out` receives y.
    """
    h = _add(residual, x, p, seed, offset)
    y, rstd = rms_norm_forward(h, gamma, eps, out=out)
    return y, h, rstd


def dropout_add_rms_norm_backward(
    dy: ArrayLike,
    h: ArrayLike,
    rstd: ArrayLike,
    gamma: ArrayLike | None = None,
    p: float = 0.0,
    *,
    dh: ArrayLike | None = None,
    seed: int | None = None,
    offset: int = 0,
) -> tuple[Float64Array, Float64Array, Float64Array | None]:
    """(dx, dresidual, dgamma): dresidual = rms_norm_backward(dy, h) + dh, dx = dropout_backward(dresidual).

    Shapes: as in the forward; dh is what flows into h past the norm.
    """
    through_norm, dgamma = rms_norm_backward(dy, h, rstd, gamma)
    return *_split(through_norm, dh, p, seed, offset), dgamma
