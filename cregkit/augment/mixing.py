"""Mixtures of a sample with another of the data set, labels included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit import functional
from cregkit.augment.base import Index, uniform
from cregkit.augment.images import centred_boxes, check_channel_axis
from cregkit.kernels.noise import derive_seed
from cregkit.layers.base import Array


@dataclass(frozen=True)
class Mixing:
    """A mixture with weights from Beta(``alpha``, ``alpha``)."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        if not validate.real("alpha", self.alpha, 0) > 0:
            raise ValueError(f"alpha must be above 0, got {self.alpha}")

    def _weights(self, index: Index, seed: int) -> NDArray[np.float64]:
        u = uniform(index, 1, derive_seed(seed, 0))[:, 0]
        if self.alpha == 1:
            return u
        try:
            from scipy.special import betaincinv
        except ImportError as error:
            raise ImportError("alpha other than 1 needs SciPy: pip install 'cregkit[augment]'") from error
        weights: NDArray[np.float64] = betaincinv(self.alpha, self.alpha, u)
        return weights

    def __call__(
        self, x: Array, targets: Array, other: Array, other_targets: Array, *, index: Index, seed: int
    ) -> tuple[Array, Array]:
        """Return the mixtures of ``x`` with ``other`` and of their soft targets, float32 of shape (N, ...).

        Raises:
            TypeError: an array is not float32.
            ValueError: ``other`` has not the shape of ``x``, or the targets' shapes differ.
        """
        _check_alike("x", x, "other", other)
        _check_alike("targets", targets, "other_targets", other_targets)
        mixed, weights = self.mix(x, other, index, seed)
        w = weights.astype(np.float32).reshape(-1, *(1,) * (targets.ndim - 1))
        return mixed, w * targets + (np.float32(1) - w) * other_targets

    def mix(self, x: Array, other: Array, index: Index, seed: int) -> tuple[Array, NDArray[Any]]:
        """Return the mixtures and the share of ``x`` in each."""
        raise NotImplementedError


def _check_alike(name: str, x: Any, other_name: str, other: Any) -> None:
    validate.float32(name, x)
    validate.float32(other_name, other)
    if other.shape != x.shape:
        raise ValueError(f"{other_name} must have the shape of {name}, {x.shape}, got {other.shape}")


@dataclass(frozen=True)
class Mixup(Mixing):
    """``w x + (1 - w) other``, and so the labels. Zhang et al. (2018), arXiv:1710.09412."""

    alpha: float = 0.2

    def mix(self, x: Array, other: Array, index: Index, seed: int) -> tuple[Array, NDArray[Any]]:
        """Mix whole samples, of any shape."""
        weights = self._weights(index, seed).astype(np.float32)
        flat = (len(x), 1, 1, max(1, x[0].size if len(x) else 1))
        return functional.mixup_images(x.reshape(flat), other.reshape(flat), weights).reshape(x.shape), weights


@dataclass(frozen=True)
class CutMix(Mixing):
    """A box of ``other`` in ``x``; the labels by the shares of pixels. Yun et al. (2019), arXiv:1905.04899."""

    channel_axis: int = 1

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        check_channel_axis(self.channel_axis)

    def mix(self, x: Array, other: Array, index: Index, seed: int) -> tuple[Array, NDArray[Any]]:
        """Mix images: the box has 1 - w of the pixels, before what lies outside the image is cut off."""
        if x.ndim != 4:
            raise ValueError(f"x must be images of shape (N, C, H, W) or (N, H, W, C) for CutMix, got {x.shape}")
        height, width = x.shape[1:3] if self.channel_axis == -1 else x.shape[2:]
        side = np.sqrt(1 - self._weights(index, seed))[:, np.newaxis]
        size = np.floor(side * np.array([height, width])).astype(np.int64)
        boxes = centred_boxes(uniform(index, 2, derive_seed(seed, 1)), size, (height, width))
        inside = np.clip(boxes, 0, np.array([height, width, height, width]))
        pixels = (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])
        return functional.cutmix_images(x, other, boxes, channel_axis=self.channel_axis), 1 - pixels / (height * width)
