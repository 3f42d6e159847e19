"""Layer normalisation over one axis, or over several neighbouring axes together.

    y = gamma * (x - mean) / sqrt(var + eps) + beta

mean and var (biased) are those of each row of x, the values along these axes. gamma and beta have the shape C of these
axes.

References
----------
Ba, Kiros and Hinton (2016), "Layer Normalization", arXiv:1607.06450.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import (
    Axes,
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
    axis: Axes = -1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Layer normalisation: ``y = gamma * (x - mean) / sqrt(var + eps) + beta``.

    Parameters
    ----------
    x
        Input.
    gamma, beta : shape C
        Gain and bias; by default 1 and 0.
    eps
        Added to the variance.
    axis
        The axes of C: one axis, or several neighbouring ones in any order.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y : shape of x
        Output.

    Examples
    --------
    >>> from cregkit import oracle
    >>> oracle.layer_norm([[1.0, 3.0]], eps=0.0)
    array([[-1.,  1.]])
    """
    return layer_norm_forward(x, gamma, beta, eps, axis=axis, out=out)[0]


@ieee
def layer_norm_forward(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    axis: Axes = -1,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array, Float64Array]:
    """Layer normalisation with its statistics: ``y = gamma * (x - mean) * rstd + beta``.

    ``rstd = 1 / sqrt(var + eps)``. A NaN or Inf makes its whole row NaN. A constant row with eps 0 is 0/0: NaN.

    Parameters
    ----------
    x
        Input.
    gamma, beta : shape C
        Gain and bias; by default 1 and 0.
    eps
        Added to the variance.
    axis
        The axes of C: one axis, or several neighbouring ones in any order.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y : shape of x
        Output.
    mean, rstd : shape of x without axis
        Statistics of each row, which backward needs.

    Examples
    --------
    >>> from cregkit import oracle
    >>> y, mean, rstd = oracle.layer_norm_forward([[1.0, 3.0]], eps=0.0)
    >>> mean, rstd
    (array([2.]), array([1.]))
    """
    x = as_float64(x)
    mean, var = moments(x, axis)
    rstd = 1.0 / np.sqrt(var + eps)
    y = affine((x - mean) * rstd, gamma, beta, axis)
    return store(y, out), mean.squeeze(axis), rstd.squeeze(axis)


@ieee
def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    axis: Axes = -1,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array | None, Float64Array | None]:
    """Gradients of layer normalisation: ``dx = rstd * (g - mean(g) - xhat * mean(g * xhat))``.

    ``g = dy * gamma`` and ``xhat = (x - mean) * rstd``; the means are over each row. ``standardise_backward`` derives
    the formula. ``dgamma = sum(dy * xhat)`` and ``dbeta = sum(dy)`` over the rows.

    Parameters
    ----------
    dy : shape of x
        Gradient of y.
    x
        Input of the forward.
    mean, rstd : shape of x without axis
        Statistics from ``layer_norm_forward``.
    gamma : shape C
        Gain of the forward.
    axis
        That of the forward.
    out
        Receives dx, rounded to its dtype.

    Returns
    -------
    dx : shape of x
        Gradient of x.
    dgamma, dbeta : shape C
        Gradients of gamma and beta; None without gamma.

    Examples
    --------
    >>> from cregkit import oracle
    >>> x = [[1.0, 2.0, 6.0]]
    >>> _, mean, rstd = oracle.layer_norm_forward(x)
    >>> dx, dgamma, dbeta = oracle.layer_norm_backward([[1.0, 0.0, 0.0]], x, mean, rstd, gamma=[1.0, 1.0, 1.0])
    >>> dx.round(3)
    array([[ 0.176, -0.22 ,  0.044]])
    """
    dy, x = as_float64(dy), as_float64(x)
    mean, rstd = np.expand_dims(as_float64(mean), axis), np.expand_dims(as_float64(rstd), axis)
    xhat = (x - mean) * rstd
    dgamma, dbeta = affine_backward(dy, xhat, gamma, axis)
    dx = standardise_backward(affine(dy, gamma, None, axis), xhat, rstd, axis)
    return store(dx, out), dgamma, dbeta
