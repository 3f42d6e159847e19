"""Dropout with inverted scaling, of elements, whole channels or whole samples, and alpha dropout.

    y = x / (1 - p) where kept, 0 where dropped

Each element is dropped with probability p. The decision depends on (seed, offset + flat index, p) alone, see
``draws``. Nothing is saved for backward, which draws the same bits again.

Alpha dropout (for SELU) puts alpha, the limit of SELU at minus infinity, in place of a dropped element, and restores
mean and variance by an affine map. For x of mean 0 and variance 1, of which the share q = 1 - p is kept:

    E[x kept, else alpha] = alpha * p        Var = q + alpha^2 * p - (alpha * p)^2 = q * (1 + alpha^2 * p)
    y = a * (x kept, else alpha) + b         a = 1 / sqrt(q * (1 + alpha^2 * p)),  b = -a * alpha * p

References
----------
Srivastava et al. (2014), "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15.

Tompson et al. (2015), "Efficient Object Localization Using Convolutional Networks", arXiv:1411.4280 (spatial dropout).

Huang et al. (2016), "Deep Networks with Stochastic Depth", arXiv:1603.09382 (dropout of samples).

Klambauer et al. (2017), "Self-Normalizing Neural Networks", arXiv:1706.02515 (alpha dropout).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import as_float64, ieee, store
from cregkit.oracle.draws import dropped

ALPHA = -1.7580993408473766
"""The limit of SELU at minus infinity: its scale times its alpha, negated."""


@ieee
def _keep_scaled(x: ArrayLike, keep: NDArray[np.bool_], p: float, out: NDArray[Any] | None) -> NDArray[Any]:
    """Return ``x * (1 / (1 - p))`` where kept, else 0; the selection drops NaN and Inf too."""
    scale = 1.0 / (1.0 - np.float64(p))  # Inf for p = 1, but then nothing is kept
    return store(np.where(keep, as_float64(x) * scale, 0.0), out)


@ieee
def _alpha_kept(x: ArrayLike, keep: NDArray[np.bool_], p: float, out: NDArray[Any] | None) -> NDArray[Any]:
    """Return ``a * x + b`` where kept, else ``a * ALPHA + b``; zeros for p = 1, as in PyTorch."""
    if p == 1:
        return store(np.zeros(np.shape(x)), out)
    a = _alpha_scale(p)
    b = -a * ALPHA * p
    return store(np.where(keep, a * as_float64(x) + b, a * ALPHA + b), out)


@ieee
def _alpha_gradient(dy: ArrayLike, keep: NDArray[np.bool_], p: float, out: NDArray[Any] | None) -> NDArray[Any]:
    """Return ``a * dy`` where kept, else 0."""
    return store(np.where(keep, _alpha_scale(p) * as_float64(dy), 0.0), out)


def _alpha_scale(p: float) -> np.float64:
    return np.float64(1.0 / np.sqrt(np.float64((ALPHA**2 * p + 1.0) * (1.0 - p))))


def _channels_kept(shape: tuple[int, ...], p: float, seed: int, offset: int, channel_axis: int) -> NDArray[np.bool_]:
    """Return the decisions of channels, (N, C), in a shape that broadcasts to that of the array."""
    keep = dropout_keep((shape[0], shape[channel_axis]), p, seed=seed, offset=offset)
    rest = (1,) * (len(shape) - 2)
    return keep.reshape(keep.shape[:1] + (keep.shape[1:] + rest if channel_axis == 1 else rest + keep.shape[1:]))


def dropout_keep(shape: int | Sequence[int], p: float = 0.5, *, seed: int, offset: int = 0) -> NDArray[np.bool_]:
    """Mask of ``dropout``: True where an element is kept.

    Parameters
    ----------
    shape
        Shape of the mask.
    p
        Probability of dropping an element, in [0, 1].
    seed
        Seed in [0, 2**64).
    offset
        Index of the first element; the others follow in C order.

    Returns
    -------
    keep
        Bool array.

    Examples
    --------
    >>> from cregkit import oracle
    >>> oracle.dropout_keep(6, 0.5, seed=0)
    array([ True, False, False,  True,  True, False])
    """
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return ~dropped(math.prod(shape), p, seed, offset).reshape(shape)


def dropout(
    x: ArrayLike, p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Inverted dropout: ``y = x * (1 / (1 - p))`` where ``dropout_keep``, else 0.

    ``E[y] = x``. The index of an element is offset plus its flat index in C order. So for a flat x,
    ``dropout(x[k:], offset=k)`` equals ``dropout(x)[k:]``.

    Parameters
    ----------
    x : any shape
        Input.
    p
        Probability of dropping an element, in [0, 1].
    seed
        Seed in [0, 2**64).
    offset
        Index of the first element.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y
        Output, of the shape of x.

    Examples
    --------
    >>> from cregkit import oracle
    >>> oracle.dropout([1.0, 2.0, 3.0, 4.0], 0.5, seed=0)
    array([2., 0., 0., 8.])
    """
    return _keep_scaled(x, dropout_keep(np.shape(x), p, seed=seed, offset=offset), p, out)


def dropout_backward(
    dy: ArrayLike, p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Gradient of dropout: ``dx = dropout(dy)``, because y is linear in x with a diagonal Jacobian.

    Parameters
    ----------
    dy : any shape
        Gradient of y.
    p, seed, offset
        As in the forward.
    out
        Receives dx, rounded to its dtype.

    Returns
    -------
    dx
        Gradient of x, of its shape.

    Examples
    --------
    >>> from cregkit import oracle
    >>> oracle.dropout_backward([1.0, 1.0, 1.0, 1.0], 0.5, seed=0)
    array([2., 0., 0., 2.])
    """
    return dropout(dy, p, seed=seed, offset=offset, out=out)


def spatial_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Inverted dropout of channels: ``y[n, c] = x[n, c] * (1 / (1 - p))`` where ``dropout_keep((N, C))[n, c]``, else 0.

    Parameters
    ----------
    x : shape (N, C, ...) or (N, ..., C)
        Input.
    p
        Probability of dropping a channel, in [0, 1].
    seed
        Seed in [0, 2**64).
    offset
        Index of the first channel; that of channel ``x[n, c]`` is ``offset + n * C + c``.
    channel_axis
        Axis of the channels, 1 or -1.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y
        Output, of the shape of x.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> oracle.spatial_dropout(np.ones((1, 2, 3)), 0.5, seed=0)
    array([[[2., 2., 2.],
            [0., 0., 0.]]])
    """
    return _keep_scaled(x, _channels_kept(np.shape(x), p, seed, offset, channel_axis), p, out)


def spatial_dropout_backward(
    dy: ArrayLike,
    p: float = 0.5,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Gradient of spatial dropout: ``dx = spatial_dropout(dy)``.

    Parameters
    ----------
    dy : shape (N, C, ...) or (N, ..., C)
        Gradient of y.
    p, seed, offset, channel_axis
        As in the forward.
    out
        Receives dx, rounded to its dtype.

    Returns
    -------
    dx
        Gradient of x, of its shape.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> oracle.spatial_dropout_backward(np.ones((1, 2, 3)), 0.5, seed=0)
    array([[[2., 2., 2.],
            [0., 0., 0.]]])
    """
    return spatial_dropout(dy, p, seed=seed, offset=offset, channel_axis=channel_axis, out=out)


def drop_path(
    x: ArrayLike, p: float = 0.5, *, seed: int, offset: int = 0, mode: str = "row", out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Inverted dropout of samples: ``y[n] = x[n] * (1 / (1 - p))`` where ``dropout_keep(N)[n]``, else 0.

    Parameters
    ----------
    x : shape (N, ...)
        Input.
    p
        Probability of dropping a sample, in [0, 1].
    seed
        Seed in [0, 2**64).
    offset
        Index of the first sample.
    mode
        "row": each sample has its own decision. "batch": all have that of the first.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y
        Output, of the shape of x.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> oracle.drop_path(np.ones((3, 2)), 0.5, seed=0)
    array([[2., 2.],
           [0., 0.],
           [0., 0.]])
    """
    shape = np.shape(x)
    decisions = (shape[0] if mode == "row" else 1,) + (1,) * (len(shape) - 1)
    return _keep_scaled(x, dropout_keep(decisions, p, seed=seed, offset=offset), p, out)


def drop_path_backward(
    dy: ArrayLike, p: float = 0.5, *, seed: int, offset: int = 0, mode: str = "row", out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Gradient of drop_path: ``dx = drop_path(dy)``.

    Parameters
    ----------
    dy : shape (N, ...)
        Gradient of y.
    p, seed, offset, mode
        As in the forward.
    out
        Receives dx, rounded to its dtype.

    Returns
    -------
    dx
        Gradient of x, of its shape.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> oracle.drop_path_backward(np.ones((3, 2)), 0.5, seed=0)
    array([[2., 2.],
           [0., 0.],
           [0., 0.]])
    """
    return drop_path(dy, p, seed=seed, offset=offset, mode=mode, out=out)


def alpha_dropout(
    x: ArrayLike, p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Alpha dropout: ``y = a * x + b`` where ``dropout_keep``, else ``a * ALPHA + b``.

    ``E[y] = 0`` and ``Var[y] = 1`` if x has mean 0 and variance 1. p = 1 gives zeros.

    Parameters
    ----------
    x : any shape
        Input.
    p
        Probability of dropping an element, in [0, 1].
    seed
        Seed in [0, 2**64).
    offset
        Index of the first element.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y
        Output, of the shape of x.

    Examples
    --------
    >>> from cregkit import oracle
    >>> oracle.alpha_dropout([1.0, 2.0, 3.0, 4.0], 0.5, seed=0).round(3)
    array([ 1.666, -0.779, -0.779,  4.325])
    """
    return _alpha_kept(x, dropout_keep(np.shape(x), p, seed=seed, offset=offset), p, out)


def alpha_dropout_backward(
    dy: ArrayLike, p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Gradient of alpha dropout: ``dx = a * dy`` where kept, else 0, because a dropped x has no effect on y.

    Parameters
    ----------
    dy : any shape
        Gradient of y.
    p, seed, offset
        As in the forward.
    out
        Receives dx, rounded to its dtype.

    Returns
    -------
    dx
        Gradient of x, of its shape.

    Examples
    --------
    >>> from cregkit import oracle
    >>> oracle.alpha_dropout_backward([1.0, 1.0, 1.0, 1.0], 0.5, seed=0).round(3)
    array([0.886, 0.   , 0.   , 0.886])
    """
    return _alpha_gradient(dy, dropout_keep(np.shape(dy), p, seed=seed, offset=offset), p, out)


def feature_alpha_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Alpha dropout of the channels that spatial dropout drops.

    Parameters
    ----------
    x : shape (N, C, ...) or (N, ..., C)
        Input.
    p, seed, offset, channel_axis
        As for ``spatial_dropout``.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y
        Output, of the shape of x.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> oracle.feature_alpha_dropout(np.ones((1, 2, 3)), 0.5, seed=0).round(3)
    array([[[ 1.666,  1.666,  1.666],
            [-0.779, -0.779, -0.779]]])
    """
    return _alpha_kept(x, _channels_kept(np.shape(x), p, seed, offset, channel_axis), p, out)


def feature_alpha_dropout_backward(
    dy: ArrayLike,
    p: float = 0.5,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Gradient of feature alpha dropout: ``dx = a * dy`` in channels that were kept, else 0.

    Parameters
    ----------
    dy : shape (N, C, ...) or (N, ..., C)
        Gradient of y.
    p, seed, offset, channel_axis
        As in the forward.
    out
        Receives dx, rounded to its dtype.

    Returns
    -------
    dx
        Gradient of x, of its shape.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> oracle.feature_alpha_dropout_backward(np.ones((1, 2, 3)), 0.5, seed=0).round(3)
    array([[[0.886, 0.886, 0.886],
            [0.   , 0.   , 0.   ]]])
    """
    return _alpha_gradient(dy, _channels_kept(np.shape(dy), p, seed, offset, channel_axis), p, out)
