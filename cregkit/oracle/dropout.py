"""Dropout with inverted scaling, of elements or of whole channels.

    y = x / (1 - p) where kept, 0 where dropped

Each element is dropped with probability p. The decision depends on (seed, offset + flat index, p) alone, see
``philox``. Nothing is saved for backward, which draws the same bits again.

References
----------
Srivastava et al. (2014), "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15.

Tompson et al. (2015), "Efficient Object Localization Using Convolutional Networks", arXiv:1411.4280 (spatial dropout).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import as_float64, ieee, store
from cregkit.oracle.philox import dropped


@ieee
def _keep_scaled(x: ArrayLike, keep: NDArray[np.bool_], p: float, out: NDArray[Any] | None) -> NDArray[Any]:
    """Return ``x * (1 / (1 - p))`` where kept, else 0; the selection drops NaN and Inf too."""
    scale = 1.0 / (1.0 - np.float64(p))  # Inf for p = 1, but then nothing is kept
    return store(np.where(keep, as_float64(x) * scale, 0.0), out)


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
    array([ True, False,  True,  True,  True, False])
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
    array([2., 0., 6., 8.])
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
    array([2., 0., 2., 2.])
    """
    return dropout(dy, p, seed=seed, offset=offset, out=out)


def spatial_dropout(
    x: ArrayLike, p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Inverted dropout of channels: ``y[n, c] = x[n, c] * (1 / (1 - p))`` where ``dropout_keep((N, C))[n, c]``, else 0.

    Parameters
    ----------
    x : shape (N, C, ...)
        Input.
    p
        Probability of dropping a channel, in [0, 1].
    seed
        Seed in [0, 2**64).
    offset
        Index of the first channel; that of channel ``x[n, c]`` is ``offset + n * C + c``.
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
    x = as_float64(x)
    keep = dropout_keep(x.shape[:2], p, seed=seed, offset=offset)
    return _keep_scaled(x, keep.reshape(keep.shape + (1,) * (x.ndim - 2)), p, out)


def spatial_dropout_backward(
    dy: ArrayLike, p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Gradient of spatial dropout: ``dx = spatial_dropout(dy)``.

    Parameters
    ----------
    dy : shape (N, C, ...)
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
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> oracle.spatial_dropout_backward(np.ones((1, 2, 3)), 0.5, seed=0)
    array([[[2., 2., 2.],
            [0., 0., 0.]]])
    """
    return spatial_dropout(dy, p, seed=seed, offset=offset, out=out)
