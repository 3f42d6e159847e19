"""Batch normalisation of each channel over the batch and all positions.

    y = gamma * (x - mean) / sqrt(var + eps) + beta

mean and var (biased) are those of the batch in training and running averages in inference. x has shape (N, C, ...) with
channel_axis=1, or (N, ..., C) with channel_axis=-1.

References
----------
Ioffe and Szegedy (2015), "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
Shift", arXiv:1502.03167.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import (
    Float64Array,
    affine,
    affine_backward,
    as_float64,
    ieee,
    moments,
    store,
    sum_to_axis,
    update_running,
)

Merge: TypeAlias = Callable[[float, Float64Array, Float64Array], tuple[float, Float64Array, Float64Array]]


def _channels_last(x: ArrayLike, channel_axis: int) -> Float64Array:
    """Return x in float64 with its channels last, so that arrays of shape (C,) broadcast."""
    return np.moveaxis(as_float64(x), channel_axis, -1)


def _store_channels(result: Float64Array, channel_axis: int, out: NDArray[Any] | None) -> NDArray[Any]:
    """Move the channels back to ``channel_axis`` and store the result."""
    return store(np.moveaxis(result, -1, channel_axis), out)


@ieee
def batch_norm(
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Batch normalisation in inference: ``y = gamma * (x - mean) / sqrt(var + eps) + beta``.

    Parameters
    ----------
    x : shape (N, C, ...) or (N, ..., C)
        Input.
    mean, var : shape (C,)
        Statistics of each channel.
    gamma, beta : shape (C,)
        Gain and bias; by default 1 and 0.
    eps
        Added to the variance.
    channel_axis
        Axis of the channels: 1 or -1.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y
        Output, of the shape of x.

    Examples
    --------
    >>> from cregkit import oracle
    >>> oracle.batch_norm([[1.0, 5.0]], mean=[0.0, 1.0], var=[1.0, 4.0], eps=0.0)
    array([[1., 2.]])
    """
    rstd = 1.0 / np.sqrt(as_float64(var) + eps)
    y = affine((_channels_last(x, channel_axis) - as_float64(mean)) * rstd, gamma, beta)
    return _store_channels(y, channel_axis, out)


@ieee
def batch_norm_forward(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    running_mean: NDArray[Any] | None = None,
    running_var: NDArray[Any] | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    unbiased: bool = False,
    channel_axis: int = 1,
    merge: Merge | None = None,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array, Float64Array]:
    """Batch normalisation in training: ``y = gamma * (x - mean) * rstd + beta`` with ``rstd = 1 / sqrt(var + eps)``.

    mean and var (biased) are those of the n values of each channel. The running statistics are updated in place:
    ``running = (1 - momentum) * running + momentum * batch``. A NaN or Inf makes its whole channel NaN. A constant
    channel with eps 0 is 0/0: NaN.

    Parameters
    ----------
    x : shape (N, C, ...) or (N, ..., C)
        Input.
    gamma, beta : shape (C,)
        Gain and bias; by default 1 and 0.
    running_mean, running_var : shape (C,)
        Running statistics; None if not tracked.
    momentum
        Weight of the batch in the running statistics.
    eps
        Added to the variance.
    unbiased
        Whether running_var takes ``var * n / (n - 1)`` instead of var.
    channel_axis
        Axis of the channels: 1 or -1.
    merge
        For a batch split over processes: maps count, mean and ``sum((x - mean)**2)`` of this part to those of
        the batch.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y
        Output, of the shape of x.
    mean, rstd : shape (C,)
        Statistics of each channel, which backward needs.

    Examples
    --------
    >>> from cregkit import oracle
    >>> y, mean, rstd = oracle.batch_norm_forward([[1.0], [3.0]], eps=0.0)
    >>> y, mean, rstd
    (array([[-1.],
           [ 1.]]), array([2.]), array([1.]))
    """
    x = _channels_last(x, channel_axis)
    n = x.size // x.shape[-1]
    if n:
        mean, var = (statistic.reshape(-1) for statistic in moments(x, axis=tuple(range(x.ndim - 1))))
    else:
        mean, var = np.zeros(x.shape[-1]), np.zeros(x.shape[-1])
    if merge is not None:
        n, mean, m2 = merge(n, mean, var * n)
        var = m2 / n
    rstd = 1.0 / np.sqrt(var + eps)
    y = affine((x - mean) * rstd, gamma, beta)

    if running_mean is not None:
        update_running(running_mean, mean, momentum)
    if running_var is not None:
        update_running(running_var, var * n / (n - 1) if unbiased else var, momentum)
    return _store_channels(y, channel_axis, out), mean, rstd


@ieee
def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    channel_axis: int = 1,
    merge: Merge | None = None,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array | None, Float64Array | None]:
    """Gradients in training: ``dx = gamma * rstd * (dy - mean(dy) - xhat * mean(dy * xhat))``.

    ``xhat = (x - mean) * rstd``; the means are over each channel. ``standardise_backward`` derives the formula without
    gamma, which is constant over a channel. ``dgamma = sum(dy * xhat)`` and ``dbeta = sum(dy)`` over each channel.

    Parameters
    ----------
    dy
        Gradient of y, of the shape of x.
    x : shape (N, C, ...) or (N, ..., C)
        Input of the forward.
    mean, rstd : shape (C,)
        Statistics from ``batch_norm_forward``.
    gamma : shape (C,)
        Gain of the forward.
    channel_axis
        Axis of the channels: 1 or -1.
    merge
        For a batch split over processes: maps count, ``sum(dy)`` and ``sum(dy * (x - mean))`` of this part to those of
        the batch. dgamma and dbeta stay those of this part.
    out
        Receives dx, rounded to its dtype.

    Returns
    -------
    dx
        Gradient of x, of its shape.
    dgamma, dbeta : shape (C,)
        Gradients of gamma and beta; None without gamma.

    Examples
    --------
    >>> from cregkit import oracle
    >>> x = [[1.0], [2.0], [6.0]]
    >>> _, mean, rstd = oracle.batch_norm_forward(x)
    >>> dx, dgamma, dbeta = oracle.batch_norm_backward([[1.0], [0.0], [0.0]], x, mean, rstd, gamma=[1.0])
    >>> dx.round(3).ravel(), dbeta
    (array([ 0.176, -0.22 ,  0.044]), array([1.]))
    """
    dy, x, rstd = _channels_last(dy, channel_axis), _channels_last(x, channel_axis), as_float64(rstd)
    xhat = (x - as_float64(mean)) * rstd
    dgamma, dbeta = affine_backward(dy, xhat, gamma)
    sums = x.size // x.shape[-1], sum_to_axis(dy), sum_to_axis(dy * (x - as_float64(mean)))
    n, sum_dy, sum_dy_d = sums if merge is None else merge(*sums)
    dx = affine(dy - sum_dy / n - xhat * (sum_dy_d * rstd / n), gamma, None) * rstd
    return _store_channels(dx, channel_axis, out), dgamma, dbeta


@ieee
def batch_norm_inference_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    gamma: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array | None, Float64Array | None]:
    """Gradients in inference: ``dx = dy * gamma * rstd`` with ``rstd = 1 / sqrt(var + eps)``.

    mean and var do not depend on x. ``dgamma = sum(dy * (x - mean) * rstd)`` and ``dbeta = sum(dy)`` over each channel.

    Parameters
    ----------
    dy
        Gradient of y, of the shape of x.
    x : shape (N, C, ...) or (N, ..., C)
        Input of the forward.
    mean, var : shape (C,)
        Statistics of each channel.
    gamma : shape (C,)
        Gain of the forward.
    eps
        Added to the variance.
    channel_axis
        Axis of the channels: 1 or -1.
    out
        Receives dx, rounded to its dtype.

    Returns
    -------
    dx
        Gradient of x, of its shape.
    dgamma, dbeta : shape (C,)
        Gradients of gamma and beta; None without gamma.

    Examples
    --------
    >>> from cregkit import oracle
    >>> dx, _, _ = oracle.batch_norm_inference_backward([[1.0]], [[5.0]], mean=[0.0], var=[4.0], gamma=[3.0], eps=0.0)
    >>> dx
    array([[1.5]])
    """
    dy, x = _channels_last(dy, channel_axis), _channels_last(x, channel_axis)
    rstd = 1.0 / np.sqrt(as_float64(var) + eps)
    dgamma, dbeta = affine_backward(dy, (x - as_float64(mean)) * rstd, gamma)
    dx = affine(dy, gamma, None) * rstd
    return _store_channels(dx, channel_axis, out), dgamma, dbeta
