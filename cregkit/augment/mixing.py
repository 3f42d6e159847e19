"""Mixtures of two samples and their labels: mixup and CutMix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit import functional
from cregkit.augment.base import Index, uniform
from cregkit.augment.images import centred_boxes
from cregkit.kernels.noise import derive_seed
from cregkit.layers.base import Array


@dataclass(frozen=True)
class Mixing:
    """Base class of mixtures with weights w drawn from Beta(alpha, alpha)."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Validate the settings."""
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
        """Mix ``x`` with ``other``, and their soft targets with the same weights.

        Parameters
        ----------
        x, other : shape (N, ...), float32
            Samples.
        targets, other_targets : shape (N, ...), float32
            Soft targets, such as class probabilities.
        index : shape (N,), int64
            Index of each sample of ``x`` in the data set.
        seed
            Seed in [0, 2**64).

        Returns
        -------
        mixed : shape (N, ...), float32
            Mixed samples.
        targets : shape (N, ...), float32
            Mixed targets.

        Raises
        ------
        TypeError
            An array is not float32.
        ValueError
            ``other`` does not have the shape of ``x``, or ``other_targets`` that of ``targets``.
        """
        _check_alike("x", x, "other", other)
        _check_alike("targets", targets, "other_targets", other_targets)
        mixed, weights = self.mix(x, other, index, seed)
        w = weights.astype(np.float32).reshape(-1, *(1,) * (targets.ndim - 1))
        return mixed, w * targets + (np.float32(1) - w) * other_targets

    def mix(self, x: Array, other: Array, index: Index, seed: int) -> tuple[Array, NDArray[Any]]:
        """Return the mixed samples and the weight of ``x`` in each."""
        raise NotImplementedError


def _check_alike(name: str, x: Any, other_name: str, other: Any) -> None:
    validate.float32(name, x)
    validate.float32(other_name, other)
    if other.shape != x.shape:
        raise ValueError(f"{other_name} must have the shape of {name}, {x.shape}, got {other.shape}")


@dataclass(frozen=True)
class Mixup(Mixing):
    """Mixup: ``w * x + (1 - w) * other`` for samples and labels, with w from Beta(alpha, alpha).

    Attributes
    ----------
    alpha
        Parameter of the beta distribution, above 0. Values other than 1 need SciPy.

    References
    ----------
    Zhang et al. (2018), "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import Mixup
    >>> x, other = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    >>> targets, other_targets = np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32)
    >>> mixed, soft = Mixup(alpha=1.0)(x, targets, other, other_targets, index=np.arange(1), seed=0)
    >>> mixed.round(3)
    array([[0.686, 0.686, 0.686]], dtype=float32)
    >>> soft.round(3)
    array([[0.314, 0.686]], dtype=float32)
    """

    alpha: float = 0.2

    def mix(self, x: Array, other: Array, index: Index, seed: int) -> tuple[Array, NDArray[Any]]:
        """Mix samples of any shape."""
        weights = self._weights(index, seed).astype(np.float32)
        flat = (len(x), 1, 1, max(1, x[0].size if len(x) else 1))
        return functional.mixup_images(x.reshape(flat), other.reshape(flat), weights).reshape(x.shape), weights


@dataclass(frozen=True)
class CutMix(Mixing):
    """CutMix: replace a random box of ``x`` by the same box of ``other``; weight labels by pixel area.

    The box covers a fraction 1 - w of the pixels, with w from Beta(alpha, alpha), before the part outside the image is
    clipped. Label weights use the clipped area.

    Attributes
    ----------
    alpha
        Parameter of the beta distribution, above 0. Values other than 1 need SciPy.
    channel_axis
        1 for (N, C, H, W), -1 for (N, H, W, C).

    References
    ----------
    Yun et al. (2019), "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
    arXiv:1905.04899.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import CutMix
    >>> x, other = np.zeros((1, 1, 4, 4), np.float32), np.ones((1, 1, 4, 4), np.float32)
    >>> targets, other_targets = np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32)
    >>> mixed, soft = CutMix()(x, targets, other, other_targets, index=np.arange(1), seed=0)
    >>> mixed[0, 0]
    array([[0., 0., 1., 1.],
           [0., 0., 1., 1.],
           [0., 0., 0., 0.],
           [0., 0., 0., 0.]], dtype=float32)
    >>> soft
    array([[0.75, 0.25]], dtype=float32)
    """

    channel_axis: int = 1

    def __post_init__(self) -> None:
        """Validate the settings."""
        super().__post_init__()
        validate.channel_axis(self.channel_axis)

    def mix(self, x: Array, other: Array, index: Index, seed: int) -> tuple[Array, NDArray[Any]]:
        """Draw the boxes and mix the images."""
        if x.ndim != 4:
            raise ValueError(f"x must be images of shape (N, C, H, W) or (N, H, W, C) for CutMix, got {x.shape}")
        height, width = x.shape[1:3] if self.channel_axis == -1 else x.shape[2:]
        side = np.sqrt(1 - self._weights(index, seed))[:, np.newaxis]
        size = np.floor(side * np.array([height, width])).astype(np.int64)
        boxes = centred_boxes(uniform(index, 2, derive_seed(seed, 1)), size, (height, width))
        inside = np.clip(boxes, 0, np.array([height, width, height, width]))
        pixels = (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])
        return functional.cutmix_images(x, other, boxes, channel_axis=self.channel_axis), 1 - pixels / (height * width)
