"""Contact sheets: augmented samples of an image side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cregkit.augment import (
    ColorJitter,
    Compose,
    Cutout,
    GaussianNoise,
    HorizontalFlip,
    RandomCrop,
    Rotation,
    Transform,
    VerticalFlip,
)
from cregkit.lab import figures
from cregkit.layers.base import Array

LONGEST_SIDE = 320  # pixels of an image on the sheet, which shows no more


class SheetError(Exception):
    """An image cannot be shown; the message is one line."""


def write(path: str, image: Array, rows: Mapping[str, Transform], samples: int, seed: int) -> None:
    """Write a PNG with one row per transform: the image and ``samples`` augmented samples.

    Parameters
    ----------
    path
        The PNG to write.
    image : shape (1 or 3, H, W), float32
        The image, with values in [0, 1].
    rows
        The transforms by name.
    samples
        Samples per transform, at least 1.
    seed
        Seed in [0, 2**64).

    Raises
    ------
    ImportError
        matplotlib is not installed.
    OSError
        The file cannot be written.
    """
    from matplotlib.figure import Figure

    width = 1.3 * (samples + 1)
    figure = Figure(
        figsize=(width + 1.2, 1.35 * len(rows) * image.shape[1] / image.shape[2] + 0.3), layout="constrained"
    )
    draw(figure, image, rows, samples, seed)
    figure.savefig(path, format="png", dpi=110, facecolor="white")


def read(path: str) -> Array:
    """Read an image; apply its EXIF orientation, and make transparency white.

    In 32-bit images black is 0 and white is 1, or the smallest and largest value if they lie outside.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    array, shape (1 or 3, H, W), float32
        The image, with values in [0, 1].

    Raises
    ------
    SheetError
        The file is not a readable image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    with open(path, "rb") as file:  # given a path, Pillow uses mmap and fails for rotated TIFF files
        try:
            image: Any = ImageOps.exif_transpose(Image.open(file))
        except UnidentifiedImageError as error:
            raise SheetError(f"{path} is not a readable image") from error
        except Exception as error:  # Pillow raises many kinds of errors for damaged files
            raise SheetError(f"{path} is not a readable image ({error})") from error
    step = -(-max(image.size) // LONGEST_SIDE)
    return np.ascontiguousarray(np.moveaxis(_values(image, step), -1, 0), dtype=np.float32)


def _values(image: Any, step: int) -> Array:
    """Return every ``step``-th pixel of a Pillow image of any mode: shape (H, W, 1 or 3), values in [0, 1]."""
    if image.mode.startswith(("I", "F")):  # one 16-bit or 32-bit channel
        gray = np.asarray(image)[::step, ::step, np.newaxis].astype(np.float64)
        known = gray[np.isfinite(gray)]
        low, high = (0, 65535) if image.mode.startswith("I;16") else (known.min(initial=0), known.max(initial=1))
        return np.clip((gray - low) / (high - low), 0, 1).astype(np.float32)
    image = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
    values: Array = np.asarray(image)[::step, ::step].astype(np.float32) / np.float32(255)
    alpha = values[..., -1:]
    return values[..., :-1] * alpha + (1 - alpha)


def transforms(height: int, width: int) -> Mapping[str, Transform]:
    """Return the transforms of the sheet for an image of this size."""
    part = max(1, min(height, width) // 8)
    crop, cut = RandomCrop((height, width), 2 * part, "reflect"), Cutout(3 * part, fill=0.5)
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1)
    every = Compose(crop, HorizontalFlip(), Rotation(15), jitter, cut, GaussianNoise((0, 0.1)))
    return {
        "crop, reflect": crop,
        "crop, zero": RandomCrop((height, width), 2 * part),
        "flips": Compose(HorizontalFlip(), VerticalFlip()),
        "rotation": Rotation(30, fill=0.5),
        "colour jitter": jitter,
        "cutout": cut,
        "noise": GaussianNoise((0.05, 0.2)),
        "all of them": every,
    }


def draw(figure: Any, image: Array, rows: Mapping[str, Transform], samples: int, seed: int) -> None:
    """Draw one row per transform: the image and ``samples`` augmented samples."""
    axes = figure.subplots(len(rows), samples + 1, squeeze=False)
    batch = np.repeat(image[np.newaxis], samples, axis=0)
    for line, (name, transform) in zip(axes, rows.items(), strict=True):
        outcomes = transform(batch, index=np.arange(samples), seed=seed)
        for ax, shown in zip(line, [image, *outcomes], strict=True):
            show(ax, shown)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, color=figures.INK)
    axes[0, 0].set_title("original", fontsize=9, color=figures.INK)


def show(ax: Any, image: Array) -> None:
    """Draw an image of shape (1 or 3, H, W) with values in [0, 1], without axes."""
    pixels = np.clip(np.moveaxis(image, 0, -1), 0, 1)
    ax.imshow(pixels[..., 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
