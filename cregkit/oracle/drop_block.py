"""DropBlock: dropout of square blocks of each channel.

    y = x * scale outside all blocks, 0 within; scale = the number of elements / the number outside all blocks

Each element may be the last of a block of its channel, at the lower right, if a block of block_size x block_size fits.
It is one with probability gamma, which would drop the share p if no blocks overlapped:

    gamma * block_size^2 * (H - block_size + 1) * (W - block_size + 1) = p * H * W

Blocks overlap, so a smaller share is dropped. There is one scale for the whole mask, as in the paper's Algorithm 1.
Nothing is saved for backward, which draws the same bits again.

References
----------
Ghiasi, Lin and Le (2018), "DropBlock: A regularization method for convolutional networks", arXiv:1810.12890.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import as_float64, ieee, store
from cregkit.oracle.dropout import dropout_keep


def _kept(shape: tuple[int, ...], p: float, block_size: int, seed: int, offset: int, rows: int) -> NDArray[np.bool_]:
    """Return where no block lies; axis ``rows`` is the height, the following one the width."""
    height, width = shape[rows], shape[rows + 1]
    side = min(block_size, height, width)
    places = (height - side + 1) * (width - side + 1)
    gamma = p * (height * width) / (side * side * places)
    ends = np.moveaxis(~dropout_keep(shape, gamma, seed=seed, offset=offset), (rows, rows + 1), (-2, -1))
    keep = np.ones(shape, np.bool_)
    rows_last = np.moveaxis(keep, (rows, rows + 1), (-2, -1))  # a view
    for *channel, i, j in np.argwhere(ends[..., side - 1 :, side - 1 :]):
        rows_last[(*channel, slice(i, i + side), slice(j, j + side))] = False
    return keep


@ieee
def drop_block(
    x: ArrayLike,
    p: float = 0.1,
    block_size: int = 7,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """DropBlock: ``y = x * scale`` outside all blocks, 0 within.

    The ends of blocks are the elements that ``dropout_keep(x.shape, gamma)`` drops, except those in the first
    ``block_size - 1`` rows and columns.

    Parameters
    ----------
    x : shape (N, C, H, W) or (N, H, W, C)
        Input.
    p
        Share of elements in blocks, if blocks did not overlap, in [0, 1].
    block_size
        Side of a block; at most H and W are used.
    seed
        Seed in [0, 2**64).
    offset
        Index of the first element.
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
    >>> oracle.drop_block(np.ones((1, 1, 4, 6)), 0.3, 2, seed=5)
    array([[[[1.2, 1.2, 1.2, 1.2, 1.2, 1.2],
             [0. , 0. , 1.2, 1.2, 1.2, 1.2],
             [0. , 0. , 1.2, 1.2, 1.2, 1.2],
             [1.2, 1.2, 1.2, 1.2, 1.2, 1.2]]]])
    """
    x = as_float64(x)
    if x.size == 0:
        return store(x.copy(), out)
    keep = _kept(x.shape, p, block_size, seed, offset, 2 if channel_axis == 1 else 1)
    scale = np.float64(x.size) / np.count_nonzero(keep)  # Inf if nothing is kept
    return store(np.where(keep, x * scale, 0.0), out)


def drop_block_backward(
    dy: ArrayLike,
    p: float = 0.1,
    block_size: int = 7,
    *,
    seed: int,
    offset: int = 0,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Gradient of DropBlock: ``dx = drop_block(dy)``, because y is linear in x.

    Parameters
    ----------
    dy : shape (N, C, H, W) or (N, H, W, C)
        Gradient of y.
    p, block_size, seed, offset, channel_axis
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
    >>> oracle.drop_block_backward(np.ones((1, 1, 4, 6)), 0.3, 2, seed=5)[0, 0, 1]
    array([0. , 0. , 1.2, 1.2, 1.2, 1.2])
    """
    return drop_block(dy, p, block_size, seed=seed, offset=offset, channel_axis=channel_axis, out=out)
