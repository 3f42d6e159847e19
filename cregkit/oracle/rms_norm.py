"""Root-mean-square normalisation over one axis, or over several neighbouring axes together.

    y = (gain_offset + gamma) * x / sqrt(mean(x**2) + eps)

The mean is over each row of x, the values along these axes. gamma has the shape C of these axes.

References
----------
Zhang and Sennrich (2019), "Root Mean Square Layer Normalization", arXiv:1910.07467.

Gemma Team (2024), "Gemma: Open Models Based on Gemini Research and Technology", arXiv:2403.08295 (a gain of 1 + gamma).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import Axes, Float64Array, affine, as_float64, ieee, store, sum_to_axis


def _gain(gamma: ArrayLike | None, gain_offset: float) -> Float64Array | None:
    """Return ``gain_offset + gamma``; None without gamma."""
    return None if gamma is None else gain_offset + as_float64(gamma)


def rms_norm(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    eps: float = 1e-6,
    *,
    axis: Axes = -1,
    gain_offset: float = 0.0,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Root mean square normalisation: ``y = (gain_offset + gamma) * x / sqrt(mean(x**2) + eps)``.

    Parameters
    ----------
    x
        Input.
    gamma : shape C
        Gain, less ``gain_offset``; without it the gain is 1.
    eps
        Added to the mean square.
    axis
        The axes of C: one axis, or several neighbouring ones in any order.
    gain_offset
        Added to gamma.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y : shape of x
        Output.

    Examples
    --------
    >>> from cregkit import oracle
    >>> oracle.rms_norm([[1.0, 7.0]], eps=0.0)
    array([[0.2, 1.4]])
    """
    return rms_norm_forward(x, gamma, eps, axis=axis, gain_offset=gain_offset, out=out)[0]


@ieee
def rms_norm_forward(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    eps: float = 1e-6,
    *,
    axis: Axes = -1,
    gain_offset: float = 0.0,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array]:
    """Root mean square normalisation with its statistic: ``y = (gain_offset + gamma) * x * rstd``.

    ``rstd = 1 / sqrt(mean(x**2) + eps)``. A NaN makes its whole row NaN. An Inf makes rstd 0: the Inf becomes NaN, and
    the finite values of its row become 0. A row of zeros with eps 0 is 0/0: NaN.

    Parameters
    ----------
    x
        Input.
    gamma : shape C
        Gain, less ``gain_offset``; without it the gain is 1.
    eps
        Added to the mean square.
    axis
        The axes of C: one axis, or several neighbouring ones in any order.
    gain_offset
        Added to gamma.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y : shape of x
        Output.
    rstd : shape of x without axis
        Statistic of each row, which backward needs.

    Examples
    --------
    >>> from cregkit import oracle
    >>> oracle.rms_norm_forward([[1.0, 7.0]], eps=0.0)
    (array([[0.2, 1.4]]), array([0.2]))
    """
    x = as_float64(x)
    rstd = 1.0 / np.sqrt(np.square(x).mean(axis=axis, keepdims=True) + eps)
    y = affine(x * rstd, _gain(gamma, gain_offset), None, axis)
    return store(y, out), rstd.squeeze(axis)


@ieee
def rms_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    rstd: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    axis: Axes = -1,
    gain_offset: float = 0.0,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array | None]:
    """Gradients of root mean square normalisation: ``dx = rstd * (g - xhat * mean(g * xhat))``.

    ``g = dy * (gain_offset + gamma)`` and ``xhat = x * rstd``; the mean is over each row. Derivation: with
    ``drstd/dx_j = -rstd**3 * x_j / C = -rstd**2 * xhat_j / C``, the Jacobian is
    ``dxhat_i/dx_j = rstd * ([i = j] - xhat_i * xhat_j / C)``; its product with g is dx.
    ``dgamma = sum(dy * xhat)`` over the rows.

    Parameters
    ----------
    dy : shape of x
        Gradient of y.
    x
        Input of the forward.
    rstd : shape of x without axis
        Statistic from ``rms_norm_forward``.
    gamma : shape C
        That of the forward.
    axis, gain_offset
        Those of the forward.
    out
        Receives dx, rounded to its dtype.

    Returns
    -------
    dx : shape of x
        Gradient of x.
    dgamma : shape C
        Gradient of gamma; None without gamma.

    Examples
    --------
    >>> from cregkit import oracle
    >>> x = [[1.0, 7.0]]
    >>> _, rstd = oracle.rms_norm_forward(x)
    >>> dx, dgamma = oracle.rms_norm_backward([[1.0, 0.0]], x, rstd, gamma=[1.0, 1.0])
    >>> dx.round(3)
    array([[ 0.196, -0.028]])
    """
    dy, x, rstd = as_float64(dy), as_float64(x), np.expand_dims(as_float64(rstd), axis)
    xhat = x * rstd
    g = affine(dy, _gain(gamma, gain_offset), None, axis)
    dgamma = None if gamma is None else sum_to_axis(dy * xhat, axis)
    dx = rstd * (g - xhat * (g * xhat).mean(axis=axis, keepdims=True))
    return store(dx, out), dgamma
