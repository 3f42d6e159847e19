"""Image transforms: float32 batches of shape (N, C, H, W), or (N, H, W, C) with ``channel_axis=-1``."""

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
    """Base class of image transforms, channels first or channels last."""

    def _sides(self, x: Array, channel_axis: int) -> tuple[int, int]:
        if not isinstance(x, np.ndarray):
            raise TypeError(f"x must be a float32 array of images, got {type(x).__name__}; use np.stack(images)")
        if x.ndim != 4:
            raise ValueError(
                f"x must have shape (samples, channels, height, width), or (samples, height, width, channels) with "
                f"channel_axis=-1, got {x.shape}"
            )
        return (x.shape[1], x.shape[2]) if channel_axis == -1 else (x.shape[2], x.shape[3])


def sides_of(size: Any) -> tuple[int, int]:
    """Return a size, one number or a tuple (height, width), as (height, width)."""
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"size must be a whole number or a pair of them (height, width), got {size}")
    height, width = (validate.positive_int("size", side) for side in sides)
    return height, width


@dataclass(frozen=True)
class RandomCrop(ImageTransform):
    """Crop a window at a uniformly random position of the padded image.

    Attributes
    ----------
    size
        Height and width of the window in pixels: one number, or a tuple (height, width).
    padding
        Pixels added to each side before cropping, at least 0.
    padding_mode
        ``"zero"``, or ``"reflect"`` to mirror the image about its edge pixels.
    channel_axis
        1 for (N, C, H, W), -1 for (N, H, W, C).

    Raises
    ------
    TypeError
        A setting or ``x`` has the wrong type.
    ValueError
        A setting or the shape of ``x`` is wrong, or the window is larger than the padded image.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import RandomCrop
    >>> image = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> RandomCrop(3, padding=1)(image, index=[0], seed=0)[0, 0]
    array([[0., 0., 0.],
           [0., 0., 1.],
           [0., 3., 4.]], dtype=float32)
    """

    size: int | tuple[int, int]
    padding: int = 0
    padding_mode: str = "zero"
    channel_axis: int = 1

    def __post_init__(self) -> None:
        """Validate the settings."""
        _ = self._size
        validate.integer("padding", self.padding, 0)
        if self.padding_mode not in ("zero", "reflect"):
            raise ValueError(f"padding_mode must be 'zero' or 'reflect', got {self.padding_mode!r}")
        validate.channel_axis(self.channel_axis)

    @property
    def _size(self) -> tuple[int, int]:
        return sides_of(self.size)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the corners and crop."""
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
    """Flip each image left to right with probability ``p``.

    Attributes
    ----------
    p
        Probability per image, in [0, 1].
    channel_axis
        1 for (N, C, H, W), -1 for (N, H, W, C).

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import HorizontalFlip
    >>> image = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    >>> HorizontalFlip(p=1.0)(image, index=[0], seed=0)[0, 0]
    array([[1., 0.],
           [3., 2.]], dtype=float32)
    """

    p: float = 0.5
    channel_axis: int = 1
    _code = 1

    def __post_init__(self) -> None:
        """Validate the settings."""
        validate.real("p", self.p, 0, 1)
        validate.channel_axis(self.channel_axis)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw which images to flip, and flip them."""
        flips = self._code * (uniform(index, 1, seed)[:, 0] < self.p).astype(np.int64)
        return functional.flip_images(x, flips, channel_axis=self.channel_axis, out=x if overwrite else None)


@dataclass(frozen=True)
class VerticalFlip(HorizontalFlip):
    """Flip each image top to bottom with probability ``p``.

    Attributes
    ----------
    p
        Probability per image, in [0, 1].
    channel_axis
        1 for (N, C, H, W), -1 for (N, H, W, C).

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import VerticalFlip
    >>> image = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    >>> VerticalFlip(p=1.0)(image, index=[0], seed=0)[0, 0]
    array([[2., 3.],
           [0., 1.]], dtype=float32)
    """

    _code = 2


@dataclass(frozen=True)
class Rotation(ImageTransform):
    """Rotate each image about its centre by a random angle, with bilinear interpolation.

    ``cregkit.functional.rotate_images`` gives the formula.

    Attributes
    ----------
    degrees
        Interval (low, high) of the angle in degrees, counter-clockwise, within [-360, 360]; a number ``a`` means
        (-a, a).
    fill
        Value of pixels that come from outside the image.
    channel_axis
        1 for (N, C, H, W), -1 for (N, H, W, C).

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import Rotation
    >>> image = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    >>> Rotation((90, 90))(image, index=[0], seed=0)[0, 0]
    array([[1., 3.],
           [0., 2.]], dtype=float32)
    """

    degrees: float | Interval
    fill: float = 0.0
    channel_axis: int = 1

    def __post_init__(self) -> None:
        """Validate the settings."""
        _ = self._degrees
        validate.real("fill", self.fill, -1e38, 1e38)
        validate.channel_axis(self.channel_axis)

    @property
    def _degrees(self) -> Interval:
        return interval("degrees", self.degrees, -360, 360, centre=0)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the angles and rotate."""
        degrees = between(uniform(index, 1, seed)[:, 0], self._degrees)
        return functional.rotate_images(x, degrees, self.fill, channel_axis=self.channel_axis)


@dataclass(frozen=True)
class ColorJitter(ImageTransform):
    """Randomly change brightness, contrast, saturation and hue, in this order.

    ``cregkit.functional.jitter_images`` gives the formulas. Pixel values must be in [0, 1]: standardise images and add
    noise after this transform. Brightness and contrast accept any number of channels. Saturation and hue need three
    channels (red, green, blue), or one, which they leave unchanged.

    Attributes
    ----------
    brightness, contrast, saturation
        Interval (low, high) of the factor, at least 0; a number ``a`` means (max(0, 1 - a), 1 + a).
    hue
        Interval (low, high) of the hue shift in turns, within [-0.5, 0.5]; a number ``a`` means (-a, a).
    channel_axis
        1 for (N, C, H, W), -1 for (N, H, W, C).

    Raises
    ------
    TypeError
        A setting or ``x`` has the wrong type.
    ValueError
        A setting or the shape of ``x`` is wrong, or ``x`` has values outside [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import ColorJitter
    >>> images = np.full((2, 1, 1, 2), 0.4, np.float32)
    >>> ColorJitter(brightness=(0.5, 0.5))(images, index=[0, 1], seed=0)[:, 0, 0]
    array([[0.2, 0.2],
           [0.2, 0.2]], dtype=float32)
    """

    brightness: float | Interval = 0.0
    contrast: float | Interval = 0.0
    saturation: float | Interval = 0.0
    hue: float | Interval = 0.0
    channel_axis: int = 1

    def __post_init__(self) -> None:
        """Validate the settings."""
        _ = self._intervals
        validate.channel_axis(self.channel_axis)

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
                f"{x.shape} with channel_axis={self.channel_axis}: use only brightness and contrast"
            )
        low, high = np.array(self._intervals).T
        factors = (low + uniform(index, 4, seed) * (high - low)).astype(np.float32)
        return functional.jitter_images(x, factors, channel_axis=self.channel_axis, out=x if overwrite else None)


@dataclass(frozen=True)
class Cutout(ImageTransform):
    """Set a box centred at a random pixel to ``fill``.

    The centre is uniform over the image. The part of the box beyond the edge is clipped.

    Attributes
    ----------
    size
        Height and width of the box in pixels: one number, or a tuple (height, width).
    fill
        Value inside the box.
    channel_axis
        1 for (N, C, H, W), -1 for (N, H, W, C).

    References
    ----------
    DeVries and Taylor (2017), "Improved Regularization of Convolutional Neural Networks with Cutout",
    arXiv:1708.04552.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import Cutout
    >>> image = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> Cutout(2, fill=-1)(image, index=[0], seed=1)[0, 0]
    array([[ 0.,  1.,  2.],
           [-1.,  4.,  5.],
           [-1.,  7.,  8.]], dtype=float32)
    """

    size: int | tuple[int, int]
    fill: float = 0.0
    channel_axis: int = 1

    def __post_init__(self) -> None:
        """Validate the settings."""
        sides_of(self.size)
        validate.real("fill", self.fill, -1e38, 1e38)
        validate.channel_axis(self.channel_axis)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the boxes and fill them."""
        size = np.array(sides_of(self.size))
        boxes = centred_boxes(uniform(index, 2, seed), size, self._sides(x, self.channel_axis))
        return functional.cutout_images(
            x, boxes, self.fill, channel_axis=self.channel_axis, out=x if overwrite else None
        )


@dataclass(frozen=True)
class GaussianNoise(ImageTransform):
    """Add Gaussian noise with standard deviation ``sigma``.

    ``x + sigma * z`` with z from N(0, 1), by ``cregkit.functional.gaussian_noise``. Accepts float32 batches of any
    shape (N, ...). The result is not clipped.

    Attributes
    ----------
    sigma
        Standard deviation, at least 0: a number, or an interval (low, high) from which each sample draws its own.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import GaussianNoise
    >>> GaussianNoise(0.1)(np.zeros((1, 4), np.float32), index=[0], seed=0).round(3)
    array([[ 0.154, -0.027, -0.065, -0.246]], dtype=float32)
    """

    sigma: float | Interval

    def __post_init__(self) -> None:
        """Validate the settings."""
        _ = self._sigma

    @property
    def _sigma(self) -> Interval:
        return interval("sigma", self.sigma, 0)

    def apply(self, x: Array, index: Index, seed: int, *, overwrite: bool) -> Array:
        """Draw the standard deviations and add the noise."""
        sigma = between(uniform(index, 1, derive_seed(seed, 0))[:, 0], self._sigma).astype(np.float32)
        return functional.gaussian_noise(x, sigma, index, seed=derive_seed(seed, 1), out=x if overwrite else None)


def centred_boxes(u: Any, size: Any, sides: tuple[int, int]) -> Index:
    """Return boxes (top, left, bottom, right) of ``size``, centred at pixels selected by ``u`` of shape (N, 2)."""
    first = np.floor(u * np.array(sides)).astype(np.int64) - size // 2
    return np.ascontiguousarray(np.concatenate([first, first + size], axis=1))
