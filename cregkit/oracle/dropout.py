"""Dropout with inverted scaling, of elements or of whole channels.

    y = x / (1 - p) where kept, 0 where dropped

Each element is dropped with probability p, decided by (seed, offset + flat index, p) alone; see `philox`. Nothing is
saved for backward, which draws the same bits again.
Source: Srivastava et al. (2014), "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15.
Spatial dropout: Tompson et al. (2015), "Efficient Object Localization Using Convolutional Networks", arXiv:1411.4280.
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
    """x * (1 / (1 - p)) where kept; elsewhere 0 by selection, so that NaN and Inf are dropped too."""
    scale = 1.0 / (1.0 - np.float64(p))  # Inf for p = 1, where nothing is kept
    return store(np.where(keep, as_float64(x) * scale, 0.0), out)


def dropout_keep(shape: int | Sequence[int], p: float = 0.5, *, seed: int, offset: int = 0) -> NDArray[np.bool_]:
    """The mask of `dropout`: a bool array of the shape, True where the element is kept, in C order from `offset`."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return ~dropped(math.prod(shape), p, seed, offset).reshape(shape)


def dropout(
    x: ArrayLike, p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """y = x * (1 / (1 - p)) where dropout_keep(x.shape, p, seed, offset), else 0.

    Shapes: x, y any. E[y] = x. The index of an element is offset plus its flat C-order index, so for a flat x
    dropout(x[k:], offset=k) equals dropout(x)[k:].
    """
    return _keep_scaled(x, dropout_keep(np.shape(x), p, seed=seed, offset=offset), p, out)


def dropout_backward(
    dy: ArrayLike, p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """dx = dy * (1 / (1 - p)) where kept, else 0: y is linear in x with this diagonal Jacobian, so dx = dropout(dy)."""
    return dropout(dy, p, seed=seed, offset=offset, out=out)


def spatial_dropout(
    x: ArrayLike, p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """y[n, c] = x[n, c] * (1 / (1 - p)) where dropout_keep((N, C), p, seed, offset)[n, c], else 0.

    Shapes: x, y (N, C, ...). `offset` counts channels: the index of channel x[n, c] is offset + n * C + c.
    """
    x = as_float64(x)
    keep = dropout_keep(x.shape[:2], p, seed=seed, offset=offset)
    return _keep_scaled(x, keep.reshape(keep.shape + (1,) * (x.ndim - 2)), p, out)


def spatial_dropout_backward(
    dy: ArrayLike, p: float = 0.5, *, seed: int, offset: int = 0, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """dx = dy * (1 / (1 - p)) in kept channels, else 0: as for dropout, dx = spatial_dropout(dy)."""
    return spatial_dropout(dy, p, seed=seed, offset=offset, out=out)
