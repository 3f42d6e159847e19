"""Contact sheets: augmented samples side by side, for a person to look at."""

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

LONGEST_SIDE = 320  # of the images on the sheet: more pixels than it shows would only take time


class SheetError(Exception):
    """An image that cannot be shown, told in one line."""


def write(path: str, image: Array, rows: Mapping[str, Transform], samples: int, seed: int) -> None:
    """Write a PNG with the image and ``samples`` outcomes beside it, a row for each transform.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    width = 1.3 * (samples + 1)
    figure = Figure(
        figsize=(width + 1.2, 1.35 * len(rows) * image.shape[1] / image.shape[2] + 0.3), layout="constrained"
    )
    draw(figure, image, rows, samples, seed)
    figure.savefig(path, format="png", dpi=110, facecolor="white")


def read(path: str) -> Array:
    """Return the image in the file as float32, shape (1 or 3, H, W), values 0 to 1, upright as its EXIF data say.

    Transparent parts become white. Numbers of 32 bits have 0 for black and 1 for white, or the least and the largest
    value where those lie beyond.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    with open(path, "rb") as file:  # Pillow maps a file that it opens itself, and errs on the size of a turned TIFF
        try:
            image: Any = ImageOps.exif_transpose(Image.open(file))
        except UnidentifiedImageError as error:
            raise SheetError(f"{path} is no image that can be read") from error
        except Exception as error:  # Pillow raises errors of many kinds for damaged files
            raise SheetError(f"{path} is no image that can be read ({error})") from error
    step = -(-max(image.size) // LONGEST_SIDE)
    return np.ascontiguousarray(np.moveaxis(_values(image, step), -1, 0), dtype=np.float32)


def _values(image: Any, step: int) -> Array:
    """Return every ``step``-th pixel of an image of any mode of Pillow: shape (H, W, 1 or 3), values 0 to 1."""
    if image.mode.startswith(("I", "F")):  # one channel of 16 or 32 bits
        gray = np.asarray(image)[::step, ::step, np.newaxis].astype(np.float64)
        known = gray[np.isfinite(gray)]
        low, high = (0, 65535) if image.mode.startswith("I;16") else (known.min(initial=0), known.max(initial=1))
        return np.clip((gray - low) / (high - low), 0, 1).astype(np.float32)
    image = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
    values: Array = np.asarray(image)[::step, ::step].astype(np.float32) / np.float32(255)
    alpha = values[..., -1:]
    return values[..., :-1] * alpha + (1 - alpha)


def transforms(height: int, width: int) -> Mapping[str, Transform]:
    """Return the transforms of the sheet, suited to an image of this size."""
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
    """Draw the image and ``samples`` outcomes beside it, a row for each transform."""
    axes = figure.subplots(len(rows), samples + 1, squeeze=False)
    batch = np.repeat(image[np.newaxis], samples, axis=0)
    for line, (name, transform) in zip(axes, rows.items(), strict=True):
        outcomes = transform(batch, index=np.arange(samples), seed=seed)
        for ax, shown in zip(line, [image, *outcomes], strict=True):
            show(ax, shown)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, color=figures.INK)
    axes[0, 0].set_title("original", fontsize=9, color=figures.INK)


def show(ax: Any, image: Array) -> None:
    """Draw an image of shape (1 or 3, H, W), values 0 to 1, without axes."""
    pixels = np.clip(np.moveaxis(image, 0, -1), 0, 1)
    ax.imshow(pixels[..., 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
