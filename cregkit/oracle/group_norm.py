"""Group normalisation: each sample's channels are divided into groups, and each group is normalised over all positions.

    y = gamma * (x - mean) / sqrt(var + eps) + beta

mean and var (biased) are those of a group of one sample; gamma and beta are per channel. x has shape (N, C, ...) with
channel_axis=1, or (N, ..., C) with channel_axis=-1. With one group per channel this is instance normalisation, and with
one group it is layer normalisation over all axes except the first.

References
----------
Wu and He (2018), "Group Normalization", arXiv:1803.08494.
Ulyanov, Vedaldi and Lempitsky (2016), "Instance Normalization: The Missing Ingredient for Fast Stylization",
arXiv:1607.08022.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import (
    Float64Array,
    affine,
    affine_backward,
    as_float64,
    channels_first,
    ieee,
    moments,
    standardise_backward,
    store_channels,
    update_running,
)


def _groups(x: Float64Array, num_groups: int) -> Float64Array:
    """Return x, of shape (N, C, ...), with one row per group: shape (N, G, values of a group)."""
    return x.reshape(len(x), num_groups, math.prod(x.shape[1:]) // num_groups)


def _affine(xhat: Float64Array, gamma: ArrayLike | None, beta: ArrayLike | None) -> Float64Array:
    """Return ``gamma * xhat + beta`` for xhat of shape (N, C, ...)."""
    return np.moveaxis(affine(np.moveaxis(xhat, 1, -1), gamma, beta), -1, 1)


def _normalise(
    x: Float64Array, num_groups: int, gamma: ArrayLike | None, beta: ArrayLike | None, eps: float
) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
    """Return y of x, of shape (N, C, ...), and the mean, var and rstd of its groups."""
    groups = _groups(x, num_groups)
    mean, var = moments(groups, axis=2)
    rstd = 1.0 / np.sqrt(var + eps)
    y = _affine(((groups - mean) * rstd).reshape(x.shape), gamma, beta)
    return y, mean[..., 0], var[..., 0], rstd[..., 0]


@ieee
def group_norm(
    x: ArrayLike,
    num_groups: int,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Group normalisation: ``y = gamma * (x - mean) / sqrt(var + eps) + beta``.

    Parameters
    ----------
    x : shape (N, C, ...) or (N, ..., C)
        Input.
    num_groups
        Number of groups G; C is a multiple of it.
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
    >>> oracle.group_norm([[1.0, 3.0, 10.0, 30.0]], num_groups=2, eps=0.0)
    array([[-1.,  1., -1.,  1.]])
    """
    return group_norm_forward(x, num_groups, gamma, beta, eps, channel_axis=channel_axis, out=out)[0]


@ieee
def group_norm_forward(
    x: ArrayLike,
    num_groups: int,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array, Float64Array]:
    """Group normalisation, with what backward needs.

    A NaN or Inf makes its group NaN. A constant group with eps 0 is 0/0: NaN.

    Parameters
    ----------
    x : shape (N, C, ...) or (N, ..., C)
        Input.
    num_groups
        Number of groups G; C is a multiple of it.
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
    mean, rstd : shape (N, G)
        Mean and ``1 / sqrt(var + eps)`` of each group.

    Examples
    --------
    >>> from cregkit import oracle
    >>> y, mean, rstd = oracle.group_norm_forward([[1.0, 3.0, 10.0, 30.0]], num_groups=2, eps=0.0)
    >>> mean, rstd
    (array([[ 2., 20.]]), array([[1. , 0.1]]))
    """
    y, mean, _, rstd = _normalise(channels_first(x, channel_axis), num_groups, gamma, beta, eps)
    return store_channels(y, channel_axis, out), mean, rstd


@ieee
def group_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array | None, Float64Array | None]:
    """Gradients: with ``g = gamma * dy``, ``dx = rstd * (g - mean(g) - xhat * mean(g * xhat))``.

    ``xhat = (x - mean) * rstd``; the means are over each group. ``standardise_backward`` derives the formula.
    ``dgamma = sum(dy * xhat)`` and ``dbeta = sum(dy)`` over the samples and positions of each channel.

    Parameters
    ----------
    dy
        Gradient of y, of the shape of x.
    x : shape (N, C, ...) or (N, ..., C)
        Input of the forward.
    mean, rstd : shape (N, G)
        Statistics from ``group_norm_forward``.
    gamma : shape (C,)
        Gain of the forward.
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
    >>> x = [[1.0, 2.0, 6.0]]
    >>> _, mean, rstd = oracle.group_norm_forward(x, num_groups=1)
    >>> dx, dgamma, dbeta = oracle.group_norm_backward([[1.0, 0.0, 0.0]], x, mean, rstd, gamma=[1.0, 1.0, 1.0])
    >>> dx.round(3), dbeta
    (array([[ 0.176, -0.22 ,  0.044]]), array([1., 0., 0.]))
    """
    dy, x = channels_first(dy, channel_axis), channels_first(x, channel_axis)
    mean, rstd = as_float64(mean)[..., np.newaxis], as_float64(rstd)[..., np.newaxis]
    num_groups = mean.shape[1]
    xhat = (_groups(x, num_groups) - mean) * rstd
    dgamma, dbeta = affine_backward(dy, xhat.reshape(x.shape), gamma, axis=1)
    dxhat = _groups(_affine(dy, gamma, None), num_groups)
    dx = standardise_backward(dxhat, xhat, rstd, axis=2).reshape(x.shape)
    return store_channels(dx, channel_axis, out), dgamma, dbeta


@ieee
def instance_norm(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Instance normalisation, which is group normalisation with one group per channel.

    Parameters
    ----------
    x : shape (N, C, ...) or (N, ..., C)
        Input.
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
    >>> oracle.instance_norm([[[1.0, 3.0], [10.0, 30.0]]], eps=0.0)
    array([[[-1.,  1.],
            [-1.,  1.]]])
    """
    return instance_norm_forward(x, gamma, beta, eps=eps, channel_axis=channel_axis, out=out)[0]


@ieee
def instance_norm_forward(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    running_mean: NDArray[Any] | None = None,
    running_var: NDArray[Any] | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array, Float64Array]:
    """Instance normalisation, with what backward needs.

    The running statistics are updated in place: ``running = (1 - momentum) * running + momentum * batch``, where
    batch is the mean over the samples of each channel's means (unbiased variances). Without samples they stay. In
    inference, ``batch_norm`` normalises with them.

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
    channel_axis
        Axis of the channels: 1 or -1.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y
        Output, of the shape of x.
    mean, rstd : shape (N, C)
        Mean and ``1 / sqrt(var + eps)`` of each channel of each sample.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> running_mean = np.zeros(2)
    >>> x = [[[1.0, 3.0], [10.0, 30.0]]]
    >>> _, mean, rstd = oracle.instance_norm_forward(x, running_mean=running_mean, eps=0.0)
    >>> mean, rstd, running_mean
    (array([[ 2., 20.]]), array([[1. , 0.1]]), array([0.2, 2. ]))
    """
    x = channels_first(x, channel_axis)
    y, mean, var, rstd = _normalise(x, x.shape[1], gamma, beta, eps)
    if running_mean is not None and len(x):
        update_running(running_mean, mean.mean(axis=0), momentum)
    if running_var is not None and len(x):
        n = math.prod(x.shape[2:])
        update_running(running_var, var.mean(axis=0) * n / (n - 1), momentum)
    return store_channels(y, channel_axis, out), mean, rstd


@ieee
def instance_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array | None, Float64Array | None]:
    """Gradients of instance normalisation: those of group normalisation with one group per channel.

    Parameters
    ----------
    dy
        Gradient of y, of the shape of x.
    x : shape (N, C, ...) or (N, ..., C)
        Input of the forward.
    mean, rstd : shape (N, C)
        Statistics from ``instance_norm_forward``.
    gamma : shape (C,)
        Gain of the forward.
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
    >>> x = [[[1.0, 2.0, 6.0]]]
    >>> _, mean, rstd = oracle.instance_norm_forward(x)
    >>> oracle.instance_norm_backward([[[1.0, 0.0, 0.0]]], x, mean, rstd)[0].round(3)
    array([[[ 0.176, -0.22 ,  0.044]]])
    """
    return group_norm_backward(dy, x, mean, rstd, gamma, channel_axis=channel_axis, out=out)
