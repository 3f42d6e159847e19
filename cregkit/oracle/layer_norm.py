"""Layer normalisation over the last axis.

    y = gamma * (x - mean) / sqrt(var + eps) + beta

mean and var (biased) are those of each row of x, a row being one vector along the last axis.
Source: Ba, Kiros & Hinton (2016), "Layer Normalization", arXiv:1607.06450.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import (
    Float64Array,
    affine,
    affine_backward,
    as_float64,
    ieee,
    moments,
    standardise_backward,
    store,
)


def layer_norm(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """y of `layer_norm_forward`, without the statistics."""
    return layer_norm_forward(x, gamma, beta, eps, out=out)[0]


@ieee
def layer_norm_forward(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array, Float64Array]:
    """y = gamma * (x - mean) * rstd + beta with rstd = 1 / sqrt(var + eps), row by row.

    Shapes: x, y (..., C); gamma, beta (C,), each optional.
    Saved for backward: mean, rstd, float64 of shape x.shape[:-1].
    A NaN or Inf makes its whole row NaN. A constant row with eps = 0 is 0/0: NaN.
    """
    x = as_float64(x)
    mean, var = moments(x, axis=-1)
    rstd = 1.0 / np.sqrt(var + eps)
    y = affine((x - mean) * rstd, gamma, beta)
    return store(y, out), mean[..., 0], rstd[..., 0]


@ieee
def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array | None, Float64Array | None]:
    """dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) with g = dy * gamma and xhat = (x - mean) * rstd.

    The means are over the row; `standardise_backward` derives the formula.
    dgamma = sum(dy * xhat) and dbeta = sum(dy) over the rows.

    Shapes: dy, x, dx (..., C); mean, rstd x.shape[:-1], as `layer_norm_forward` gave them; gamma, dgamma, dbeta (C,).
    dgamma and dbeta are None where gamma is. `out` receives dx.
    """
    dy, x = as_float64(dy), as_float64(x)
    mean, rstd = as_float64(mean)[..., np.newaxis], as_float64(rstd)[..., np.newaxis]
    xhat = (x - mean) * rstd
    dgamma, dbeta = affine_backward(dy, xhat, gamma)
    dx = standardise_backward(affine(dy, gamma, None), xhat, rstd, axis=-1)
    return store(dx, out), dgamma, dbeta
