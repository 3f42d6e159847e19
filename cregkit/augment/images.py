"""Transforms of batches of images: float32, shape (N, C, H, W), or (N, H, W, C) with ``channel_axis=-1``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cregkit import _validate as validate
from cregkit import functional
from cregkit.augment.base import ArrayTransform, Index, Interval, between, interval, uniform
from cregkit.kernels.noise import derive_seed
from cregkit.layers.base import Array


@dataclass(frozen=True)
class ImageTransform(ArrayTransform):
    """A transform of images in either layout."""

    def _sides(self, x: Array, channel_axis: int) -> tuple[int, int]:
        if not isinstance(x, np.ndarray):
            raise TypeError(f"x must be a float32 array of images, got {type(x).__name__}; use np.stack(images)")
        if x.ndim != 4:
            raise ValueError(
                f"x must have shape (samples, channels, height, width), or (samples, height, width, channels) with "
                f"channel_axis=-1, got {x.shape}"
            )
        return (x.shape[1], x.shape[2]) if channel_axis == -1 else (x.shape[2], x.shape[3])


def check_channel_axis(value: Any) -> None:
    """Refuse what is neither 1 nor -1."""
    if value not in (1, -1):
        raise ValueError(f"channel_axis must be 1 (channels first) or -1 (channels last), got {value!r}")


def sides_of(size: Any) -> tuple[int, int]:
    """Return the height and width that a size is: one number, or a tuple of two."""
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"size must be a whole number or a pair of them (height, width), got {size}")
    height, width = (validate.positive_int("size", side) for side in sides)
    return height, width


@dataclass(frozen=True)
class RandomCrop(ImageTransform):
    """A window of ``size`` (one number, or height and width), anywhere in the image and ``padding`` pixels around it.

    ``padding_mode``: "zero", or "reflect" for the image's reflection about its first and last pixels.
    """

    size: int | tuple[int, int]
    padding: int = 0
    padding_mode: str = "zero"
    channel_axis: int = 1

    def __post_init__(self) -> None:
        """Check the settings."""
        _ = self._size
        validate.integer("padding", self.padding, 0)
        if self.padding_mode not in ("zero", "reflect"):
            raise ValueError(f"padding_mode must be 'zero' or 'reflect', got {self.padding_mode!r}")
        check_channel_axis(self.channel_axis)

    @property
    def _size(self) -> tuple[int, int]:
        return sides_of(self.size)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the corners and cut."""
        sides = self._sides(x, self.channel_axis)
        room = np.array(sides) + 2 * self.padding - np.array(self._size) + 1
        if room.min() < 1:
            raise ValueError(
                f"size {self.size} is larger than the image with its padding: x has {sides[0]} x {sides[1]} pixels, "
                f"padding is {self.padding}; use a smaller size or more padding"
            )
        corners = np.floor(uniform(index, 2, seed) * room).astype(np.int64) - self.padding
        return functional.crop_images(x, corners, self._size, mode=self.padding_mode, channel_axis=self.channel_axis)


@dataclass(frozen=True)
class HorizontalFlip(ImageTransform):
    """Left becomes right with probability ``p``."""

    p: float = 0.5
    channel_axis: int = 1
    _code = 1

    def __post_init__(self) -> None:
        """Check the settings."""
        validate.real("p", self.p, 0, 1)
        check_channel_axis(self.channel_axis)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw which images are flipped."""
        flips = self._code * (uniform(index, 1, seed)[:, 0] < self.p).astype(np.int64)
        return functional.flip_images(x, flips, channel_axis=self.channel_axis, out=x if overwrite else None)


@dataclass(frozen=True)
class VerticalFlip(HorizontalFlip):
    """Top becomes bottom with probability ``p``."""

    _code = 2


@dataclass(frozen=True)
class Rotation(ImageTransform):
    """A turn about the centre by ``degrees``: a pair, or a number for so far each way. See ``rotate_images``."""

    degrees: float | Interval
    fill: float = 0.0
    channel_axis: int = 1

    def __post_init__(self) -> None:
        """Check the settings."""
        _ = self._degrees
        validate.real("fill", self.fill, -1e38, 1e38)
        check_channel_axis(self.channel_axis)

    @property
    def _degrees(self) -> Interval:
        return interval("degrees", self.degrees, -360, 360, centre=0)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the angles and turn."""
        degrees = between(uniform(index, 1, seed)[:, 0], self._degrees)
        return functional.rotate_images(x, degrees, self.fill, channel_axis=self.channel_axis)


@dataclass(frozen=True)
class ColorJitter(ImageTransform):
    """Brightness, contrast, saturation and hue, in this order; see ``jitter_images``.

    Values of ``x`` are 0 to 1: standardise images and add noise after it. Brightness and contrast take any number of
    channels, saturation and hue three (red, green, blue), or one, which they do not change.

    The first three are factors, drawn from [max(0, 1 - value), 1 + value] or from a pair; the hue is turned by a
    part of a whole turn, drawn from [-hue, hue], hue at most 0.5, or from a pair.
    """

    brightness: float | Interval = 0.0
    contrast: float | Interval = 0.0
    saturation: float | Interval = 0.0
    hue: float | Interval = 0.0
    channel_axis: int = 1

    def __post_init__(self) -> None:
        """Check the settings."""
        _ = self._intervals
        check_channel_axis(self.channel_axis)

    @property
    def _intervals(self) -> list[Interval]:
        factors = [
            interval(name, getattr(self, name), 0, centre=1) for name in ("brightness", "contrast", "saturation")
        ]
        return [*factors, interval("hue", self.hue, -0.5, 0.5, centre=0)]

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the factors and apply them."""
        self._sides(x, self.channel_axis)
        channels = x.shape[self.channel_axis]
        if channels not in (1, 3) and self._intervals[2:] != [(1, 1), (0, 0)]:
            raise ValueError(
                f"x must have 3 channels (red, green, blue) or 1 for saturation and hue, got {channels} in shape "
                f"{x.shape} with channel_axis={self.channel_axis}: use brightness and contrast alone"
            )
        low, high = np.array(self._intervals).T
        factors = (low + uniform(index, 4, seed) * (high - low)).astype(np.float32)
        return functional.jitter_images(x, factors, channel_axis=self.channel_axis, out=x if overwrite else None)


@dataclass(frozen=True)
class Cutout(ImageTransform):
    """A box of ``size`` (one number, or height and width) about a random pixel becomes ``fill``.

    What lies beyond an edge is cut off.

    DeVries and Taylor (2017), arXiv:1708.04552.
    """

    size: int | tuple[int, int]
    fill: float = 0.0
    channel_axis: int = 1

    def __post_init__(self) -> None:
        """Check the settings."""
        sides_of(self.size)
        validate.real("fill", self.fill, -1e38, 1e38)
        check_channel_axis(self.channel_axis)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the boxes and fill them."""
        size = np.array(sides_of(self.size))
        boxes = centred_boxes(uniform(index, 2, seed), size, self._sides(x, self.channel_axis))
        return functional.cutout_images(
            x, boxes, self.fill, channel_axis=self.channel_axis, out=x if overwrite else None
        )


@dataclass(frozen=True)
class GaussianNoise(ImageTransform):
    """Noise of the standard deviation ``sigma``: a number, or a pair from which each image draws its own.

    See ``gaussian_noise``; any float32 batch will do. Nothing is clipped.
    """

    sigma: float | Interval

    def __post_init__(self) -> None:
        """Check the settings."""
        _ = self._sigma

    @property
    def _sigma(self) -> Interval:
        return interval("sigma", self.sigma, 0)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the deviations and add the noise."""
        sigma = between(uniform(index, 1, derive_seed(seed, 0))[:, 0], self._sigma).astype(np.float32)
        return functional.gaussian_noise(x, sigma, index, seed=derive_seed(seed, 1), out=x if overwrite else None)


def centred_boxes(u: Any, size: Any, sides: tuple[int, int]) -> Index:
    """Return boxes (top, left, bottom, right) of ``size`` about pixels that ``u``, shape (N, 2), chooses."""
    first = np.floor(u * np.array(sides)).astype(np.int64) - size // 2
    return np.ascontiguousarray(np.concatenate([first, first + size], axis=1))
