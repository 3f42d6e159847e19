"""Ghost batch normalisation: a large batch is split into virtual batches, and each has its own statistics.

    y = gamma * (x - mean) / sqrt(var + eps) + beta

mean and var (biased) are those of a channel over the samples and positions of a virtual batch. In inference, normalise
with ``batch_norm`` and the running statistics. x has shape (N, C, ...) with channel_axis=1, or (N, ..., C) with
channel_axis=-1.

References
----------
Hoffer, Hubara and Soudry (2017), "Train longer, generalize better: closing the generalization gap in large batch
training of neural networks", arXiv:1705.08741.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import Float64Array, as_float64, ieee, store
from cregkit.oracle.batch_norm import batch_norm_backward, batch_norm_forward


def _parts(x: ArrayLike, virtual_batch_size: int) -> list[Float64Array]:
    """Return the virtual batches of x in float64; the last one may be smaller."""
    x = as_float64(x)
    return [x[i : i + virtual_batch_size] for i in range(0, len(x), virtual_batch_size)]


def _wide(running: NDArray[Any] | None) -> Float64Array | None:
    """Return a float64 copy, which collects the updates."""
    return None if running is None else as_float64(running).copy()


@ieee
def ghost_batch_norm_forward(
    x: ArrayLike,
    virtual_batch_size: int,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    running_mean: NDArray[Any] | None = None,
    running_var: NDArray[Any] | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    unbiased: bool = False,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array, Float64Array]:
    """Batch normalisation in training of each virtual batch by itself.

    Each virtual batch updates the running statistics in turn, which are rounded to their dtype once, at the end:
    ``running = (1 - momentum) * running + momentum * batch``. A NaN or Inf makes its channel NaN in its virtual batch.

    Parameters
    ----------
    x : shape (N, C, ...) or (N, ..., C)
        Input.
    virtual_batch_size
        Samples of a virtual batch. The last one has the rest.
    gamma, beta : shape (C,)
        Gain and bias; by default 1 and 0.
    running_mean, running_var : shape (C,)
        Running statistics; None if not tracked.
    momentum
        Weight of a virtual batch in the running statistics.
    eps
        Added to the variance.
    unbiased
        Whether running_var takes ``var * n / (n - 1)`` instead of var, for n values per channel of a virtual batch.
    channel_axis
        Axis of the channels: 1 or -1.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y
        Output, of the shape of x.
    mean, rstd : shape (virtual batches, C)
        Mean and ``1 / sqrt(var + eps)`` of each channel of each virtual batch.

    Examples
    --------
    >>> from cregkit import oracle
    >>> y, mean, rstd = oracle.ghost_batch_norm_forward([[1.0], [3.0], [10.0], [30.0]], 2, eps=0.0)
    >>> y.ravel(), mean.ravel()
    (array([-1.,  1., -1.,  1.]), array([ 2., 20.]))
    """
    means, variances = _wide(running_mean), _wide(running_var)
    results = [
        batch_norm_forward(
            part, gamma, beta, means, variances, momentum, eps, unbiased=unbiased, channel_axis=channel_axis
        )
        for part in _parts(x, virtual_batch_size)
    ]
    if running_mean is not None and means is not None:
        store(means, running_mean)
    if running_var is not None and variances is not None:
        store(variances, running_var)
    y, mean, rstd = zip(*results, strict=True)
    return store(np.concatenate(y), out), np.stack(mean), np.stack(rstd)


@ieee
def ghost_batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    virtual_batch_size: int,
    mean: ArrayLike,
    rstd: ArrayLike,
    gamma: ArrayLike | None = None,
    *,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Float64Array | None, Float64Array | None]:
    """Gradients: dx of each virtual batch by itself; dgamma and dbeta summed over all of them.

    No output of a virtual batch depends on another one, so its dx is that of ``batch_norm_backward``.

    Parameters
    ----------
    dy
        Gradient of y, of the shape of x.
    x : shape (N, C, ...) or (N, ..., C)
        Input of the forward.
    virtual_batch_size
        That of the forward.
    mean, rstd : shape (virtual batches, C)
        Statistics from ``ghost_batch_norm_forward``.
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
    >>> x, dy = [[1.0], [2.0], [6.0]] * 2, [[1.0], [0.0], [0.0]] * 2
    >>> _, mean, rstd = oracle.ghost_batch_norm_forward(x, 3)
    >>> dx, dgamma, dbeta = oracle.ghost_batch_norm_backward(dy, x, 3, mean, rstd, gamma=[1.0])
    >>> dx.round(3).ravel(), dbeta
    (array([ 0.176, -0.22 ,  0.044,  0.176, -0.22 ,  0.044]), array([2.]))
    """
    parts = zip(
        _parts(dy, virtual_batch_size),
        _parts(x, virtual_batch_size),
        as_float64(mean),
        as_float64(rstd),
        strict=True,
    )
    gradients = [batch_norm_backward(*part, gamma, channel_axis=channel_axis) for part in parts]
    dx, dgamma, dbeta = zip(*gradients, strict=True)
    sums = (None, None) if gamma is None else (np.sum(dgamma, axis=0), np.sum(dbeta, axis=0))
    return store(np.concatenate(dx), out), *sums
