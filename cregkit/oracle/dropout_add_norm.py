"""Dropout, addition to the residual stream and a norm.

    h = residual + dropout(x),  y = norm(h)

The ops chain those of ``dropout`` and of ``layer_norm`` or ``rms_norm``.

References
----------
Vaswani et al. (2017), "Attention Is All You Need", arXiv:1706.03762, section 5.4.
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
    """Return ``h = residual + dropout(x)``; for p 0 the seed has no effect."""
    h: Float64Array = as_float64(residual) + dropout(x, p, seed=seed or 0, offset=offset)
    return h


def _split(
    through_norm: Float64Array, dh: ArrayLike | None, p: float, seed: int | None, offset: int
) -> tuple[Float64Array, Float64Array]:
    """Return dx and dresidual; the total gradient of h is ``through_norm + dh``."""
    total = through_norm if dh is None else through_norm + as_float64(dh)
    return dropout_backward(total, p, seed=seed or 0, offset=offset), total


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
    """Fused dropout, addition and layer norm: ``h = residual + dropout(x)``, ``y = layer_norm(h)``.

    Parameters
    ----------
    x, residual : shape (..., C)
        Inputs.
    gamma, beta : shape (C,)
        Gain and bias; by default 1 and 0.
    p
        Probability of dropping an element of x, in [0, 1].
    eps
        Added to the variance.
    seed
        Seed in [0, 2**64); not needed for p 0.
    offset
        Index of the first element in the random stream.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y : shape (..., C)
        Output.
    h : shape (..., C)
        The sum, which backward needs.
    mean, rstd : shape (...)
        Statistics of each row, which backward needs.

    Examples
    --------
    >>> from cregkit import oracle
    >>> y, h, mean, rstd = oracle.dropout_add_layer_norm_forward([[1.0, 2.0]], [[10.0, 20.0]], eps=0.0)
    >>> y, h
    (array([[-1.,  1.]]), array([[11., 22.]]))
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
    """Gradients: ``dresidual = layer_norm_backward(dy, h) + dh``, ``dx = dropout_backward(dresidual)``.

    Parameters
    ----------
    dy : shape (..., C)
        Gradient of y.
    h : shape (..., C)
        Sum from the forward.
    mean, rstd : shape (...)
        Statistics from the forward.
    gamma : shape (C,)
        Gain of the forward.
    p
        As in the forward.
    dh : shape (..., C)
        Gradient of h that bypasses the norm; by default 0.
    seed, offset
        As in the forward.

    Returns
    -------
    dx, dresidual : shape (..., C)
        Gradients of x and residual.
    dgamma, dbeta : shape (C,)
        Gradients of gamma and beta; None without gamma.

    Examples
    --------
    >>> from cregkit import oracle
    >>> y, h, mean, rstd = oracle.dropout_add_layer_norm_forward([[1.0, 2.0, 3.0]], [[0.0, 0.0, 3.0]])
    >>> dx, dresidual, _, _ = oracle.dropout_add_layer_norm_backward([[1.0, 0.0, 0.0]], h, mean, rstd)
    >>> dx.round(3)
    array([[ 0.176, -0.22 ,  0.044]])
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
    gain_offset: float = 0.0,
    seed: int | None = None,
    offset: int = 0,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array, Float64Array]:
    """Fused dropout, addition and RMS norm: ``h = residual + dropout(x)``, ``y = rms_norm(h)``.

    Parameters
    ----------
    x, residual : shape (..., C)
        Inputs.
    gamma : shape (C,)
        Gain, less ``gain_offset``; without it the gain is 1.
    p
        Probability of dropping an element of x, in [0, 1].
    eps
        Added to the mean square.
    gain_offset
        Added to gamma.
    seed
        Seed in [0, 2**64); not needed for p 0.
    offset
        Index of the first element in the random stream.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y : shape (..., C)
        Output.
    h : shape (..., C)
        The sum, which backward needs.
    rstd : shape (...)
        Statistic of each row, which backward needs.

    Examples
    --------
    >>> from cregkit import oracle
    >>> y, h, rstd = oracle.dropout_add_rms_norm_forward([[1.0, 2.0]], [[0.0, 5.0]], eps=0.0)
    >>> y, h
    (array([[0.2, 1.4]]), array([[1., 7.]]))
    """
    h = _add(residual, x, p, seed, offset)
    y, rstd = rms_norm_forward(h, gamma, eps, gain_offset=gain_offset, out=out)
    return y, h, rstd


def dropout_add_rms_norm_backward(
    dy: ArrayLike,
    h: ArrayLike,
    rstd: ArrayLike,
    gamma: ArrayLike | None = None,
    p: float = 0.0,
    *,
    gain_offset: float = 0.0,
    dh: ArrayLike | None = None,
    seed: int | None = None,
    offset: int = 0,
) -> tuple[Float64Array, Float64Array, Float64Array | None]:
    """Gradients: ``dresidual = rms_norm_backward(dy, h) + dh``, ``dx = dropout_backward(dresidual)``.

    Parameters
    ----------
    dy : shape (..., C)
        Gradient of y.
    h : shape (..., C)
        Sum from the forward.
    rstd : shape (...)
        Statistic from the forward.
    gamma : shape (C,)
        That of the forward.
    p, gain_offset
        As in the forward.
    dh : shape (..., C)
        Gradient of h that bypasses the norm; by default 0.
    seed, offset
        As in the forward.

    Returns
    -------
    dx, dresidual : shape (..., C)
        Gradients of x and residual.
    dgamma : shape (C,)
        Gradient of gamma; None without gamma.

    Examples
    --------
    >>> from cregkit import oracle
    >>> y, h, rstd = oracle.dropout_add_rms_norm_forward([[1.0, 2.0]], [[0.0, 5.0]])
    >>> dx, dresidual, _ = oracle.dropout_add_rms_norm_backward([[1.0, 0.0]], h, rstd)
    >>> dx.round(3)
    array([[ 0.196, -0.028]])
    """
    through_norm, dgamma = rms_norm_backward(dy, h, rstd, gamma, gain_offset=gain_offset)
    return *_split(through_norm, dh, p, seed, offset), dgamma
