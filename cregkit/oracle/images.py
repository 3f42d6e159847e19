"""Transforms of images, with separate parameters for each image.

x and y have shape (N, C, H, W), or (N, H, W, C) with channel_axis=-1. Row i of a parameter array belongs to image i.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import Float64Array, as_float64, channels_first, ieee, store, store_channels

GRAY = (0.299, 0.587, 0.114)  # luma weights of red, green and blue (ITU-R BT.601)


def crop_images(
    x: ArrayLike,
    corners: NDArray[np.int64],
    size: int | tuple[int, int],
    *,
    mode: str = "zero",
    channel_axis: int = 1,
) -> NDArray[Any]:
    """Crop: ``y[i, :, r, c] = x[i, :, top + r, left + c]`` with ``(top, left) = corners[i]``.

    Outside the image, x is 0 or the reflection about its first and last pixels. Reflected n pixels have the period
    2 n - 2, in which pixel j >= n is pixel 2 n - 2 - j.

    Parameters
    ----------
    x : shape (N, C, H, W) or (N, H, W, C)
        Images.
    corners : shape (N, 2)
        Top and left pixel of each crop; may lie outside the image.
    size
        Height and width of the crops.
    mode
        Either "zero" or "reflect".
    channel_axis
        Axis of the channels: 1 or -1.

    Returns
    -------
    y
        Crops.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> x = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    >>> oracle.crop_images(x, np.array([[1, 1]]), 2)[0, 0]
    array([[5., 6.],
           [8., 9.]])
    """
    x = channels_first(x, channel_axis)
    sides = np.broadcast_to(size, 2)
    y = np.zeros((*x.shape[:2], *sides))
    for image, corner, result in zip(x, corners, y, strict=True):
        indices = [int(first) + np.arange(side) for first, side in zip(corner, sides, strict=True)]
        inside = [(i >= 0) & (i < n) for i, n in zip(indices, image.shape[1:], strict=True)]
        if mode == "reflect":
            indices = [_reflected(i, n) for i, n in zip(indices, image.shape[1:], strict=True)]
            inside = [np.ones_like(mask) for mask in inside]
        rows, columns = (i[mask] for i, mask in zip(indices, inside, strict=True))
        result[:, inside[0][:, np.newaxis] & inside[1]] = image[:, rows][:, :, columns].reshape(len(image), -1)
    return store_channels(y, channel_axis, None)


def _reflected(i: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    period = max(1, 2 * n - 2)
    j = i % period
    return np.where(j < n, j, period - j)


def flip_images(
    x: ArrayLike, flips: NDArray[np.int64], *, channel_axis: int = 1, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Flip each image.

    Parameters
    ----------
    x : shape (N, C, H, W) or (N, H, W, C)
        Images.
    flips : shape (N,)
        0 copies an image, 1 flips it left to right, 2 upside down, 3 both ways.
    channel_axis
        Axis of the channels: 1 or -1.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y
        Images, of the shape of x.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> x = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    >>> oracle.flip_images(x, np.array([1]))[0, 0]
    array([[3., 2., 1.],
           [6., 5., 4.],
           [9., 8., 7.]])
    """
    x = channels_first(x, channel_axis)
    code = np.asarray(flips).reshape(-1, 1, 1, 1)
    y = np.where(code & 1, x[..., ::-1], x)
    return store_channels(np.where(code & 2, y[..., ::-1, :], y), channel_axis, out)


@ieee
def rotate_images(x: ArrayLike, degrees: ArrayLike, fill: float = 0.0, *, channel_axis: int = 1) -> NDArray[Any]:
    """Rotate each image counterclockwise about its centre (r0, c0), with bilinear interpolation.

    With ``dr = r - r0`` and ``dc = c - c0``, ``y[r, c]`` is x at ``(r0 + dr cos + dc sin, c0 + dc cos - dr sin)``,
    interpolated between the four nearest pixels. An angle of 0 copies.

    Parameters
    ----------
    x : shape (N, C, H, W) or (N, H, W, C)
        Images.
    degrees : shape (N,)
        Angle of each image, in degrees.
    fill
        Value of pixels outside the image.
    channel_axis
        Axis of the channels: 1 or -1.

    Returns
    -------
    y
        Images, of the shape of x.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> x = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    >>> oracle.rotate_images(x, [90.0])[0, 0].round(3)
    array([[3., 6., 9.],
           [2., 5., 8.],
           [1., 4., 7.]])
    """
    x = channels_first(x, channel_axis)
    height, width = x.shape[2:]
    y = np.empty_like(x)
    for image, angle, result in zip(x, np.deg2rad(as_float64(degrees)), y, strict=True):
        if angle == 0:
            result[...] = image
            continue
        dr, dc = np.ogrid[:height, :width]
        dr, dc = dr - (height - 1) / 2, dc - (width - 1) / 2
        rows = (height - 1) / 2 + dr * np.cos(angle) + dc * np.sin(angle)
        columns = (width - 1) / 2 + dc * np.cos(angle) - dr * np.sin(angle)
        result[...] = _bilinear(image, rows, columns, fill)
    return store_channels(y, channel_axis, None)


def _bilinear(image: Float64Array, rows: Float64Array, columns: Float64Array, fill: float) -> Float64Array:
    r, c = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    fr, fc = rows - r, columns - c
    y = np.zeros((len(image), *rows.shape))
    for row, column, weight in (
        (r, c, (1 - fr) * (1 - fc)),
        (r, c + 1, (1 - fr) * fc),
        (r + 1, c, fr * (1 - fc)),
        (r + 1, c + 1, fr * fc),
    ):
        inside = (row >= 0) & (row < image.shape[1]) & (column >= 0) & (column < image.shape[2])
        value = image[:, np.where(inside, row, 0), np.where(inside, column, 0)]
        y += weight * np.where(inside, value, fill)
    return y


def _inside(boxes: NDArray[np.int64], height: int, width: int) -> NDArray[np.bool_]:
    """Return a mask, of shape (N, 1, H, W), of the pixels in the box (top, left, bottom, right) of each image."""
    top, left, bottom, right = (side.reshape(-1, 1, 1, 1) for side in np.asarray(boxes).T)
    r, c = np.ogrid[:height, :width]
    inside: NDArray[np.bool_] = (top <= r) & (r < bottom) & (left <= c) & (c < right)
    return inside


def cutout_images(
    x: ArrayLike,
    boxes: NDArray[np.int64],
    fill: float = 0.0,
    *,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Cutout: ``y[i] = fill`` in ``boxes[i]``, else ``x[i]``.

    Parameters
    ----------
    x : shape (N, C, H, W) or (N, H, W, C)
        Images.
    boxes : shape (N, 4)
        Top, left, bottom and right of each box; bottom and right are exclusive.
    fill
        Value of pixels in a box.
    channel_axis
        Axis of the channels: 1 or -1.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y
        Images, of the shape of x.

    References
    ----------
    DeVries and Taylor (2017), "Improved Regularization of Convolutional Neural Networks with Cutout", arXiv:1708.04552.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> x = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    >>> oracle.cutout_images(x, np.array([[0, 0, 2, 2]]))[0, 0]
    array([[0., 0., 3.],
           [0., 0., 6.],
           [7., 8., 9.]])
    """
    x = channels_first(x, channel_axis)
    return store_channels(np.where(_inside(boxes, *x.shape[2:]), fill, x), channel_axis, out)


def cutmix_images(
    x: ArrayLike,
    other: ArrayLike,
    boxes: NDArray[np.int64],
    *,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """CutMix: ``y[i] = other[i]`` in ``boxes[i]``, else ``x[i]``.

    Parameters
    ----------
    x, other : shape (N, C, H, W) or (N, H, W, C)
        Images.
    boxes : shape (N, 4)
        Top, left, bottom and right of each box; bottom and right are exclusive.
    channel_axis
        Axis of the channels: 1 or -1.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y
        Images, of the shape of x.

    References
    ----------
    Yun et al. (2019), "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
    arXiv:1905.04899.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> x = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    >>> oracle.cutmix_images(x, -x, np.array([[0, 0, 2, 2]]))[0, 0]
    array([[-1., -2.,  3.],
           [-4., -5.,  6.],
           [ 7.,  8.,  9.]])
    """
    x, other = channels_first(x, channel_axis), channels_first(other, channel_axis)
    return store_channels(np.where(_inside(boxes, *x.shape[2:]), other, x), channel_axis, out)


@ieee
def mixup_images(x: ArrayLike, other: ArrayLike, weight: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Mixup: ``y[i] = weight[i] * x[i] + (1 - weight[i]) * other[i]``.

    Parameters
    ----------
    x, other : shape (N, C, H, W) or (N, H, W, C)
        Images.
    weight : shape (N,)
        Weight of each x, in [0, 1].
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y
        Images, of the shape of x.

    References
    ----------
    Zhang et al. (2018), "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> x = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    >>> oracle.mixup_images(x, np.zeros_like(x), [0.5])[0, 0]
    array([[0.5, 1. , 1.5],
           [2. , 2.5, 3. ],
           [3.5, 4. , 4.5]])
    """
    w = as_float64(weight).reshape(-1, 1, 1, 1)
    return store(w * as_float64(x) + (1 - w) * as_float64(other), out)


def _gray(x: Float64Array) -> Float64Array:
    """Return luma for three channels, else the mean over channels; maps (N, C, H, W) to (N, 1, H, W)."""
    weights = np.array(GRAY if x.shape[1] == 3 else np.full(x.shape[1], 1 / x.shape[1])).reshape(1, -1, 1, 1)
    gray: Float64Array = (weights * x).sum(axis=1, keepdims=True)
    return gray


def _turn_hue(x: Float64Array, turns: Float64Array) -> Float64Array:
    """Rotate the hue of (red, green, blue) in the HSV hexcone; value and chroma do not change.

    V is the largest channel, D the difference to the smallest, w the hue in sixths of a turn (red 0, green 2, blue 4).
    The channels are ``V - D * clip(min(k, 4 - k))`` with ``k = (n + w) mod 6`` for n = 5, 3, 1.
    """
    red, green, blue = np.moveaxis(x, 1, 0)
    largest = x.max(axis=1)
    range_ = largest - x.min(axis=1)
    safe = np.where(range_ == 0, 1.0, range_)
    w = np.select(
        [largest == red, largest == green],
        [(green - blue) / safe, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    k = (np.array([5.0, 3.0, 1.0]).reshape(1, 3, 1, 1) + (w + 6 * turns[:, 0])[:, np.newaxis]) % 6
    turned: Float64Array = largest[:, np.newaxis] - range_[:, np.newaxis] * np.clip(np.minimum(k, 4 - k), 0, 1)
    return turned


@ieee
def jitter_images(
    x: ArrayLike, factors: ArrayLike, *, channel_axis: int = 1, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Colour jitter: change brightness, contrast, saturation and hue, in this order.

    ``x = clip(b x)``; ``x = clip(c x + (1 - c) m)`` with m the mean of ``gray(x)`` over the image;
    ``x = clip(s x + (1 - s) gray(x))``; hue rotated by h. clip is to [0, 1]. A factor of 1, or a whole number h, skips
    its step. Saturation and hue apply to images with three channels only.

    Parameters
    ----------
    x : shape (N, C, H, W) or (N, H, W, C)
        Images with values in [0, 1].
    factors : shape (N, 4)
        Factors b, c and s and hue rotation h of each image, h in turns.
    channel_axis
        Axis of the channels: 1 or -1.
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y
        Images, of the shape of x.

    References
    ----------
    Smith (1978), "Color Gamut Transform Pairs".

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> red = np.array([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    >>> oracle.jitter_images(red, [[0.5, 1.0, 1.0, 1 / 3]]).ravel()
    array([0. , 0.5, 0. ])
    """
    x = channels_first(x, channel_axis)
    b, c, s, h = (column.reshape(-1, 1, 1, 1) for column in as_float64(factors).T)
    y = np.where(b == 1, x, np.clip(b * x, 0, 1))
    y = np.where(c == 1, y, np.clip(c * y + (1 - c) * _gray(y).mean(axis=(1, 2, 3), keepdims=True), 0, 1))
    if x.shape[1] == 3:
        y = np.where(s == 1, y, np.clip(s * y + (1 - s) * _gray(y), 0, 1))
        h = h - np.floor(h)
        y = np.where(h == 0, y, _turn_hue(y, h))
    return store_channels(y, channel_axis, out)
