"""An augmented data set, and functions on it that worker processes import by name."""

from __future__ import annotations

from typing import Any

import numpy as np

from cregkit import augment as aug

X = np.random.default_rng(0).random((12, 3, 8, 8), dtype=np.float32)

_held: Any = None


def data_set() -> aug.AugmentedDataset:
    pipeline = aug.Compose(aug.RandomCrop(8, padding=2), aug.GaussianNoise((0, 0.1)))
    return aug.AugmentedDataset((X, np.arange(12)), aug.Augmentation(pipeline, seed=1))


def hold(dataset: Any) -> None:
    global _held
    _held = dataset


def of_held(i: int) -> bytes:
    sample: bytes = _held[i][0].tobytes()
    return sample


def sample_of(dataset: Any, i: int) -> bytes:
    sample: bytes = dataset[i][0].tobytes()
    return sample
