"""Transforms of images, with one decision for each image.

Shapes: x, y (N, C, H, W), or (N, H, W, C) with channel_axis=-1. What is decided for image i is row i of an array.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import Float64Array, as_float64, ieee, store

GRAY = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601


def _channels_first(x: ArrayLike, channel_axis: int) -> Float64Array:
    return np.moveaxis(as_float64(x), channel_axis, 1)


def _stored(y: Float64Array, channel_axis: int, out: NDArray[Any] | None) -> NDArray[Any]:
    return store(np.moveaxis(y, 1, channel_axis), out)


def crop_images(
    x: ArrayLike,
    corners: NDArray[np.int64],
    size: int | tuple[int, int],
    *,
    mode: str = "zero",
    channel_axis: int = 1,
) -> NDArray[Any]:
    """y[i, :, r, c] = x[i, :, top + r, left + c] with (top, left) = corners[i].

    Beyond the image x is 0, or continued by reflection about its first and last pixels: n pixels have the period
    2 n - 2 then, within which pixel j from n on is pixel 2 n - 2 - j.
    """
    x = _channels_first(x, channel_axis)
    sides = np.broadcast_to(size, 2)
    y = np.zeros((*x.shape[:2], *sides))
    for image, corner, result in zip(x, corners, y, strict=True):
        places = [int(first) + np.arange(side) for first, side in zip(corner, sides, strict=True)]
        inside = [(at >= 0) & (at < n) for at, n in zip(places, image.shape[1:], strict=True)]
        if mode == "reflect":
            places = [_reflected(at, n) for at, n in zip(places, image.shape[1:], strict=True)]
            inside = [np.ones_like(within) for within in inside]
        rows, columns = (at[within] for at, within in zip(places, inside, strict=True))
        result[:, inside[0][:, np.newaxis] & inside[1]] = image[:, rows][:, :, columns].reshape(len(image), -1)
    return _stored(y, channel_axis, None)


def _reflected(i: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    period = max(1, 2 * n - 2)
    at = i % period
    return np.where(at < n, at, period - at)


def flip_images(
    x: ArrayLike, flips: NDArray[np.int64], *, channel_axis: int = 1, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """y[i] = x[i] for flips[i] = 0, left to right for 1, upside down for 2, both for 3."""
    x = _channels_first(x, channel_axis)
    code = np.asarray(flips).reshape(-1, 1, 1, 1)
    y = np.where(code & 1, x[..., ::-1], x)
    return _stored(np.where(code & 2, y[..., ::-1, :], y), channel_axis, out)


@ieee
def rotate_images(x: ArrayLike, degrees: ArrayLike, fill: float = 0.0, *, channel_axis: int = 1) -> NDArray[Any]:
    """Each image turned counterclockwise about its centre (r0, c0), bilinear.

    With dr = r - r0 and dc = c - c0, y[r, c] = x at (r0 + dr cos + dc sin, c0 + dc cos - dr sin). Between pixels, x is
    the mean of the four around, weighted by nearness; beyond them all pixels are `fill`. An angle of 0 copies.
    """
    x = _channels_first(x, channel_axis)
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
    return _stored(y, channel_axis, None)


def _bilinear(image: Float64Array, rows: Float64Array, columns: Float64Array, fill: float) -> Float64Array:
    r, c = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    fr, fc = rows - r, columns - c
    y = np.zeros((len(image), *rows.shape))
    for at_r, at_c, weight in (
        (r, c, (1 - fr) * (1 - fc)),
        (r, c + 1, (1 - fr) * fc),
        (r + 1, c, fr * (1 - fc)),
        (r + 1, c + 1, fr * fc),
    ):
        inside = (at_r >= 0) & (at_r < image.shape[1]) & (at_c >= 0) & (at_c < image.shape[2])
        value = image[:, np.where(inside, at_r, 0), np.where(inside, at_c, 0)]
        y += weight * np.where(inside, value, fill)
    return y


def _inside(boxes: NDArray[np.int64], height: int, width: int) -> NDArray[np.bool_]:
    """Which pixels lie in the box (top, left, bottom, right) of each image: (N, 1, H, W)."""
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
    """y[i] = fill within boxes[i] = (top, left, bottom, right), else x[i].

    DeVries & Taylor (2017), "Improved Regularization of Convolutional Neural Networks with Cutout", arXiv:1708.04552.
    """
    x = _channels_first(x, channel_axis)
    return _stored(np.where(_inside(boxes, *x.shape[2:]), fill, x), channel_axis, out)


def cutmix_images(
    x: ArrayLike,
    other: ArrayLike,
    boxes: NDArray[np.int64],
    *,
    channel_axis: int = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """y[i] = other[i] within boxes[i] = (top, left, bottom, right), else x[i].

    Yun et al. (2019), "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features".
    """
    x, other = _channels_first(x, channel_axis), _channels_first(other, channel_axis)
    return _stored(np.where(_inside(boxes, *x.shape[2:]), other, x), channel_axis, out)


@ieee
def mixup_images(x: ArrayLike, other: ArrayLike, weight: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """y[i] = weight[i] * x[i] + (1 - weight[i]) * other[i].

    Zhang et al. (2018), "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412.
    """
    w = as_float64(weight).reshape(-1, 1, 1, 1)
    return store(w * as_float64(x) + (1 - w) * as_float64(other), out)


def _gray(x: Float64Array) -> Float64Array:
    """(N, C, H, W) to (N, 1, H, W): luma of three channels, the mean of any other number."""
    weights = np.array(GRAY if x.shape[1] == 3 else np.full(x.shape[1], 1 / x.shape[1])).reshape(1, -1, 1, 1)
    gray: Float64Array = (weights * x).sum(axis=1, keepdims=True)
    return gray


def _turn_hue(x: Float64Array, turns: Float64Array) -> Float64Array:
    """Turn the angle of (red, green, blue) in HSV's hexcone: value and chroma stay.

    With V the largest channel, D = V - the smallest and w the angle in sixths of a turn (red at 0, green at 2, blue at
    4), channel n of (5, 3, 1) is V - D clip(min(k, 4 - k)) with k = (n + w) mod 6.
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
    """Brightness b, contrast c, saturation s and hue h, in this order: factors[i] = (b, c, s, h), h in turns.

    x = clip(b x); x = clip(c x + (1 - c) m), m the mean over the image of gray(x); x = clip(s x + (1 - s) gray(x)); the
    hue turned by h. clip is to [0, 1]. A factor of 1 (whole h) leaves its step out; other numbers of channels than
    three have neither saturation nor hue. Hue: Smith (1978), "Color Gamut Transform Pairs".
    """
    x = _channels_first(x, channel_axis)
    b, c, s, h = (column.reshape(-1, 1, 1, 1) for column in as_float64(factors).T)
    y = np.where(b == 1, x, np.clip(b * x, 0, 1))
    y = np.where(c == 1, y, np.clip(c * y + (1 - c) * _gray(y).mean(axis=(1, 2, 3), keepdims=True), 0, 1))
    if x.shape[1] == 3:
        y = np.where(s == 1, y, np.clip(s * y + (1 - s) * _gray(y), 0, 1))
        h = h - np.floor(h)
        y = np.where(h == 0, y, _turn_hue(y, h))
    return _stored(y, channel_axis, out)
