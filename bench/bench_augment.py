"""Augmentation of batches against albumentations.

    pip install albumentations opencv-python-headless   # the library to compare with; cregkit does not need it
    python bench/bench_augment.py

Each row is one transform, or five in sequence, on a batch. albumentations processes one image after another, as in a
data set, in its own layout (channels last) and with OpenCV's default number of threads. Samples are interleaved in one
process; times are those of ``cregkit.benchmark.timing``.
"""

from __future__ import annotations

import argparse
import functools

import albumentations as A
import numpy as np
from record import add_option, circumstances, machine, store

from cregkit import augment as aug
from cregkit.benchmark.timing import Contestant, measure
from cregkit.verify.shapes import TIMED_IMAGES

SHAPES = TIMED_IMAGES.quick[1:]


def pairs(size: int) -> dict[str, tuple[aug.Transform, A.Compose]]:
    """Return pairs of equivalent transforms, ours and albumentations', for images of this size."""
    pad, cut = size // 8, size // 4
    ours: dict[str, aug.Transform] = {
        "crop, reflect": aug.RandomCrop(size, pad, "reflect"),
        "flip": aug.HorizontalFlip(),
        "colour jitter": aug.ColorJitter(0.4, 0.4, 0.4, 0.1),
        "cutout": aug.Cutout(cut),
        "noise": aug.GaussianNoise((0.0, 0.1)),
        "rotation": aug.Rotation(15),
    }
    share = (cut / size, cut / size)
    theirs = {
        "crop, reflect": [A.PadIfNeeded(size + 2 * pad, size + 2 * pad, border_mode=4), A.RandomCrop(size, size)],
        "flip": [A.HorizontalFlip(p=0.5)],
        "colour jitter": [A.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1), p=1)],
        "cutout": [A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=share, hole_width_range=share, p=1)],
        "noise": [A.GaussNoise(std_range=(0.0, 0.1), p=1)],
        "rotation": [A.Rotate(15, border_mode=0, p=1)],
    }
    found = {name: (ours[name], A.Compose(theirs[name])) for name in ours}
    names = [name for name in ours if name != "rotation"]
    every = A.Compose([transform for name in names for transform in theirs[name]])
    return {"all but rotation": (aug.Compose(*(ours[name] for name in names)), every), **found}


def one_by_one(transform: A.Compose, images: np.ndarray) -> np.ndarray:
    return np.stack([transform(image=image)["image"] for image in images])


def main() -> None:
    """Print times and speed-ups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_option(parser)
    arguments = parser.parse_args()
    before, rows = circumstances(), []
    print(machine(before))
    print("ms per batch, lower quartile; speed-up of cregkit")
    print(f"{'batch':<20}{'transform':<20}{'cregkit':>10}{'albument.':>12}{'speed-up':>10}")
    for shape in SHAPES:
        x = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
        last, index = np.ascontiguousarray(np.moveaxis(x, 1, -1)), np.arange(shape[0])
        for name, (ours, theirs) in pairs(shape[2]).items():
            contestants = {
                "cregkit": Contestant(functools.partial(ours, x, index=index, seed=1)),
                "albumentations": Contestant(functools.partial(one_by_one, theirs, last)),
            }
            ms = {who: 1000 * measured.quartile for who, measured in measure(contestants, 1.5).items()}
            a, b = ms.values()
            print(f"{shape!s:<20}{name:<20}{a:>10.2f}{b:>12.2f}{b / a:>9.1f}x", flush=True)
            rows.append({"batch": str(shape), "transform": name, "ms": ms})
    if arguments.record:
        store(arguments.record, "augmentation", before, rows)


if __name__ == "__main__":
    main()
