"""Shared parts of the oracle: conversion to float64, layouts, rounding into ``out``, the algebra of normalisation."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.typing import ArrayLike, NDArray

Float64Array: TypeAlias = NDArray[np.float64]
Axes: TypeAlias = int | tuple[int, ...]

# Decorates every op: NaN, Inf and 1/0 have defined results, and a result may overflow in a narrower ``out``.
ieee = np.errstate(over="ignore", divide="ignore", invalid="ignore")


def as_float64(values: ArrayLike) -> Float64Array:
    """Convert to float64, which is exact for float32 and narrower; return a float64 array itself."""
    return np.asarray(values, dtype=np.float64)


def store(result: Float64Array, out: NDArray[Any] | None) -> NDArray[Any]:
    """Return ``result``, or round it into ``out`` and return ``out``.

    ``out`` may be an input of the op, so call this after the last read of the inputs.

    Parameters
    ----------
    result
        Result of the op.
    out
        Array of the same shape, or None.

    Returns
    -------
    array
        ``result`` or ``out``.
    """
    if out is None:
        return result
    out[...] = result
    return out


def channels_first(x: ArrayLike, channel_axis: int) -> Float64Array:
    """Return x in float64 with its channels on axis 1."""
    return np.moveaxis(as_float64(x), channel_axis, 1)


def store_channels(result: Float64Array, channel_axis: int, out: NDArray[Any] | None) -> NDArray[Any]:
    """Move the channels from axis 1 back to ``channel_axis`` and store the result."""
    return store(np.moveaxis(result, 1, channel_axis), out)


def update_running(running: NDArray[Any], batch: Float64Array, momentum: float) -> None:
    """Compute ``running = (1 - momentum) * running + momentum * batch`` in place."""
    store((1.0 - momentum) * as_float64(running) + momentum * batch, running)


def moments(x: Float64Array, axis: Axes) -> tuple[Float64Array, Float64Array]:
    """Return mean and biased variance.

    A second pass adds the mean of ``x - mean``, the rounding error of the first pass: a large offset does not cost
    accuracy. A mean that is not finite stays.

    Parameters
    ----------
    x
        Input.
    axis
        Axes of the values; they are kept with length 1.

    Returns
    -------
    mean, var
        The moments.
    """
    mean = x.mean(axis=axis, keepdims=True)
    correction = (x - mean).mean(axis=axis, keepdims=True)
    mean = np.where(np.isfinite(mean), mean + correction, mean)
    var = np.square(x - mean).mean(axis=axis, keepdims=True)
    return mean, var


def other_axes(ndim: int, axis: Axes) -> tuple[int, ...]:
    """Return all of ``ndim`` axes except ``axis``."""
    named = normalize_axis_tuple(axis, ndim)
    return tuple(a for a in range(ndim) if a not in named)


def affine(xhat: Float64Array, gamma: ArrayLike | None, beta: ArrayLike | None, axis: Axes = -1) -> Float64Array:
    """Return ``gamma * xhat + beta``, with gamma and beta along ``axis``; by default gamma is 1 and beta is 0."""
    others = other_axes(xhat.ndim, axis)
    y = xhat if gamma is None else xhat * np.expand_dims(as_float64(gamma), others)
    return y if beta is None else y + np.expand_dims(as_float64(beta), others)


def standardise_backward(dxhat: Float64Array, xhat: Float64Array, rstd: Float64Array, axis: Axes) -> Float64Array:
    """Return the gradient of ``xhat = (x - mean) * rstd``, where mean and rstd depend on x.

    With ``dmean/dx_j = 1/n`` and ``drstd/dx_j = -rstd**2 * xhat_j / n``, the Jacobian is
    ``dxhat_i/dx_j = rstd * ([i = j] - 1/n - xhat_i * xhat_j / n)``. Its product with dxhat is
    ``dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))``.

    Parameters
    ----------
    dxhat
        Gradient of xhat.
    xhat
        Normalised input.
    rstd
        ``1 / sqrt(var + eps)``, of a shape that broadcasts to x.
    axis
        Axes of the statistics.

    Returns
    -------
    dx
        Gradient of x.
    """
    through_mean = dxhat.mean(axis=axis, keepdims=True)
    through_rstd = xhat * (dxhat * xhat).mean(axis=axis, keepdims=True)
    dx: Float64Array = rstd * (dxhat - through_mean - through_rstd)
    return dx


def sum_to_axis(values: Float64Array, axis: Axes = -1) -> Float64Array:
    """Sum over all axes except ``axis``: the gradient of a parameter that was broadcast along them."""
    total: Float64Array = values.sum(axis=other_axes(values.ndim, axis))
    return total


def affine_backward(
    dy: Float64Array, xhat: Float64Array, gamma: ArrayLike | None, axis: Axes = -1
) -> tuple[Float64Array | None, Float64Array | None]:
    """Return ``dgamma = sum(dy * xhat)`` and ``dbeta = sum(dy)`` over all axes except ``axis``; None without gamma."""
    if gamma is None:
        return None, None
    return sum_to_axis(dy * xhat, axis), sum_to_axis(dy, axis)
