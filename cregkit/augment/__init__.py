"""Bit-reproducible data augmentation: the result depends on (seed, epoch, sample index) alone.

Transforms for images, text and audio; ``Compose``, ``RandomApply`` and ``OneOf`` to combine them; ``Augmentation`` for
a whole data set, with mixup and CutMix; ``AugmentBatches`` for ``cregkit.train.fit``; ``AugmentedDataset`` for
PyTorch's ``DataLoader``.
"""

from cregkit.augment.audio import AddNoise, Gain, PitchShift, TimeShift, TimeStretch, pitch_shift, time_stretch
from cregkit.augment.base import Compose, OneOf, RandomApply, Transform
from cregkit.augment.data import Augmentation, AugmentBatches, AugmentedDataset
from cregkit.augment.images import (
    ColorJitter,
    Cutout,
    GaussianNoise,
    HorizontalFlip,
    RandomCrop,
    Rotation,
    VerticalFlip,
)
from cregkit.augment.mixing import CutMix, Mixup
from cregkit.augment.text import BackTranslation, RandomDeletion, RandomSwap, SynonymReplacement, wordnet_synonyms
from cregkit.kernels.noise import derive_seed

__all__ = [
    "AddNoise",
    "AugmentBatches",
    "Augmentation",
    "AugmentedDataset",
    "BackTranslation",
    "ColorJitter",
    "Compose",
    "CutMix",
    "Cutout",
    "Gain",
    "GaussianNoise",
    "HorizontalFlip",
    "Mixup",
    "OneOf",
    "PitchShift",
    "RandomApply",
    "RandomCrop",
    "RandomDeletion",
    "RandomSwap",
    "Rotation",
    "SynonymReplacement",
    "TimeShift",
    "TimeStretch",
    "Transform",
    "VerticalFlip",
    "derive_seed",
    "pitch_shift",
    "time_stretch",
    "wordnet_synonyms",
]
