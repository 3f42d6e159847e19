"""What the ops of the oracle share: float64 in, rounding out, and the algebra of normalisation."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64Array: TypeAlias = NDArray[np.float64]
Axes: TypeAlias = int | tuple[int, ...]

# Decorates every op: NaN, Inf and 1/0 have defined results, and a result may round to Inf in a narrower `out`.
ieee = np.errstate(over="ignore", divide="ignore", invalid="ignore")


def as_float64(values: ArrayLike) -> Float64Array:
    """Give the values as a float64 array (exact for float32 and narrower); a float64 array comes back itself."""
    return np.asarray(values, dtype=np.float64)


def store(result: Float64Array, out: NDArray[Any] | None) -> NDArray[Any]:
    """Return the result, or round it into `out` and return that.

    `out` may be one of the op's inputs, so this comes after the last read of any input.
    """
    if out is None:
        return result
    out[...] = result
    return out


def moments(x: Float64Array, axis: Axes) -> tuple[Float64Array, Float64Array]:
    """Mean and biased variance over `axis`, which is kept with length 1.

    The second pass averages what the first left over, so neither a large offset nor the order of summation shows.
    The mean of numbers one of which is Inf is Inf.
    """
    mean = x.mean(axis=axis, keepdims=True)
    left_over = (x - mean).mean(axis=axis, keepdims=True)
    mean = np.where(np.isfinite(mean), mean + left_over, mean)
    var = np.square(x - mean).mean(axis=axis, keepdims=True)
    return mean, var


def affine(xhat: Float64Array, gamma: ArrayLike | None, beta: ArrayLike | None) -> Float64Array:
    """y = gamma * xhat + beta over the last axis; an absent gamma is 1 and an absent beta is 0."""
    y = xhat if gamma is None else xhat * as_float64(gamma)
    return y if beta is None else y + as_float64(beta)


def standardise_backward(dxhat: Float64Array, xhat: Float64Array, rstd: Float64Array, axis: Axes) -> Float64Array:
    """Gradient of xhat = (x - mean) * rstd, where mean and rstd are the statistics of x over `axis`.

    With dmean/dx_j = 1/n and drstd/dx_j = -rstd**2 * xhat_j / n, the Jacobian is
    dxhat_i/dx_j = rstd * ([i = j] - 1/n - xhat_i * xhat_j / n). Summing dxhat_i over i gives
    dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)).
    """
    through_mean = dxhat.mean(axis=axis, keepdims=True)
    through_rstd = xhat * (dxhat * xhat).mean(axis=axis, keepdims=True)
    dx: Float64Array = rstd * (dxhat - through_mean - through_rstd)
    return dx


def sum_to_last_axis(values: Float64Array) -> Float64Array:
    """Sum over every axis but the last: the gradient of a parameter that was broadcast along them."""
    total: Float64Array = values.sum(axis=tuple(range(values.ndim - 1)))
    return total


def affine_backward(
    dy: Float64Array, xhat: Float64Array, gamma: ArrayLike | None
) -> tuple[Float64Array | None, Float64Array | None]:
    """(dgamma, dbeta) = (sum(dy * xhat), sum(dy)) over all axes but the last; both None where there was no gamma."""
    if gamma is None:
        return None, None
    return sum_to_last_axis(dy * xhat), sum_to_last_axis(dy)
