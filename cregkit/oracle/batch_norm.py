"""Batch normalisation of each channel over the batch and all positions.

    y = gamma * (x - mean) / sqrt(var + eps) + beta

Training takes mean and var (biased) from the batch, inference from running averages.
x is (N, C, ...) with channel_axis=1 or (N, ..., C) with channel_axis=-1, and has at least two axes.
Source: Ioffe & Szegedy (2015), "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift", arXiv:1502.03167.
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
    sum_to_last_axis,
)

Merge: TypeAlias = Callable[[float, Float64Array, Float64Array], tuple[float, Float64Array, Float64Array]]


def _channels_last(x: ArrayLike, channel_axis: int) -> Float64Array:
    """View x with its channels last, where a (C,) array broadcasts by itself."""
    return np.moveaxis(as_float64(x), channel_axis, -1)


def _store_channels(result: Float64Array, channel_axis: int, out: NDArray[Any] | None) -> NDArray[Any]:
    """Put the channels back where the caller has them and hand the result out."""
    return store(np.moveaxis(result, -1, channel_axis), out)


def _update_running(running: NDArray[Any], batch: Float64Array, momentum: float) -> None:
    """running = (1 - momentum) * running + momentum * batch, in place."""
    store((1.0 - momentum) * as_float64(running) + momentum * batch, running)


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
    """Inference: y = gamma * (x - mean) / sqrt(var + eps) + beta with the given statistics.

    Shapes: x, y (N, C, ...) or (N, ..., C); mean, var, gamma, beta (C,), the last two each optional.
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
    """Training: y = gamma * (x - mean) * rstd + beta with rstd = 1 / sqrt(var + eps), channel by channel.

    mean and var are those of the n values of a channel, var = mean((x - mean)**2) being the biased one.
    running_mean and running_var, where given, become (1 - momentum) * running + momentum * batch in place; the batch
    variance they take is var, or var * n / (n - 1) with `unbiased`.

    Shapes: x, y (N, C, ...) or (N, ..., C); gamma, beta, running_mean, running_var (C,), each optional.
    merge(count, mean, m2), where given, turns count, mean and sum((x - mean)**2) of this part of a batch into those of
    the whole batch.

    Saved for backward: mean, rstd, float64 of shape (C,).
    A NaN or Inf makes its whole channel NaN. A constant channel with eps = 0 is 0/0: NaN.
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
        _update_running(running_mean, mean, momentum)
    if running_var is not None:
        _update_running(running_var, var * n / (n - 1) if unbiased else var, momentum)
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
    """Training: dx = rstd * (g - mean(g) - xhat * mean(g * xhat)), g = dy * gamma, xhat = (x - mean) * rstd.

    The means are over the channel; `standardise_backward` derives the formula. (gamma is constant over a channel, so
    this is gamma * rstd * (dy - mean(dy) - xhat * mean(dy * xhat)).)
    dgamma = sum(dy * xhat) and dbeta = sum(dy) over the channel.
    merge(count, sum(dy), sum(dy * (x - mean))), where given, turns the sums of this part of a batch into those of the
    whole batch; dgamma and dbeta stay those of the part.

    Shapes: dy, x, dx (N, C, ...) or (N, ..., C); mean, rstd (C,), as `batch_norm_forward` gave them;
    gamma, dgamma, dbeta (C,). dgamma and dbeta are None where gamma is. `out` receives dx.
    """
    dy, x, rstd = _channels_last(dy, channel_axis), _channels_last(x, channel_axis), as_float64(rstd)
    xhat = (x - as_float64(mean)) * rstd
    dgamma, dbeta = affine_backward(dy, xhat, gamma)
    found = x.size // x.shape[-1], sum_to_last_axis(dy), sum_to_last_axis(dy * (x - as_float64(mean)))
    n, sum_dy, sum_dy_d = found if merge is None else merge(*found)
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
    """Inference: dx = dy * gamma * rstd with rstd = 1 / sqrt(var + eps), since mean and var do not depend on x.

    dgamma = sum(dy * (x - mean) * rstd) and dbeta = sum(dy) over the channel.

    Shapes: dy, x, dx (N, C, ...) or (N, ..., C); mean, var, gamma, dgamma, dbeta (C,).
    dgamma and dbeta are None where gamma is. `out` receives dx.
    """
    dy, x = _channels_last(dy, channel_axis), _channels_last(x, channel_axis)
    rstd = 1.0 / np.sqrt(as_float64(var) + eps)
    dgamma, dbeta = affine_backward(dy, (x - as_float64(mean)) * rstd, gamma)
    dx = affine(dy, gamma, None) * rstd
    return _store_channels(dx, channel_axis, out), dgamma, dbeta
