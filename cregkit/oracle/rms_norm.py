"""Root-mean-square normalisation over the last axis.

    y = gamma * x / sqrt(mean(x**2) + eps)

The mean is over each row of x, a row being one vector along the last axis.
Source: Zhang & Sennrich (2019), "Root Mean Square Layer Normalization", arXiv:1910.07467.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import Float64Array, affine, as_float64, ieee, store, sum_to_last_axis


def rms_norm(
    x: ArrayLike, gamma: ArrayLike | None = None, eps: float = 1e-6, *, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """y of `rms_norm_forward`, without the statistic."""
    return rms_norm_forward(x, gamma, eps, out=out)[0]


@ieee
def rms_norm_forward(
    x: ArrayLike, gamma: ArrayLike | None = None, eps: float = 1e-6, *, out: NDArray[Any] | None = None
) -> tuple[NDArray[Any], Float64Array]:
    """y = gamma * x * rstd with rstd = 1 / sqrt(mean(x**2) + eps), row by row.

    Shapes: x, y (..., C); gamma (C,), optional.
    Saved for backward: rstd, float64 of shape x.shape[:-1].
    A NaN makes its whole row NaN. An Inf makes rstd 0: itself NaN, the finite rest of its row 0.
    A row of zeros with eps = 0 is 0/0: NaN.
    """
    x = as_float64(x)
    rstd = 1.0 / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + eps)
    y = affine(x * rstd, gamma, None)
    return store(y, out), rstd[..., 0]


@ieee
def rms_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    rstd: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array | None]:
    """dx = rstd * (g - xhat * mean(g * xhat)) with g = dy * gamma and xhat = x * rstd.

    Since drstd/dx_j = -rstd**3 * x_j / C = -rstd**2 * xhat_j / C, the Jacobian is
    dxhat_i/dx_j = rstd * ([i = j] - xhat_i * xhat_j / C); summing g_i over i gives dx.
    dgamma = sum(dy * xhat) over the rows.

    Shapes: dy, x, dx (..., C); rstd x.shape[:-1], as `rms_norm_forward` gave it; gamma, dgamma (C,).
    dgamma is None where gamma is. `out` receives dx.
    """
    dy, x, rstd = as_float64(dy), as_float64(x), as_float64(rstd)[..., np.newaxis]
    xhat = x * rstd
    g = affine(dy, gamma, None)
    dgamma = None if gamma is None else sum_to_last_axis(dy * xhat)
    dx = rstd * (g - xhat * (g * xhat).mean(axis=-1, keepdims=True))
    return store(dx, out), dgamma
