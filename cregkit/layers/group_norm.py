"""Group normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from cregkit import _validate as validate
from cregkit.functional import group_norm_backward, group_norm_forward
from cregkit.layers.base import Array, Layer, Tensor


class GroupNorm(Layer):
    """Group normalisation: ``y = gamma * (x - mean) / sqrt(var + eps) + beta`` in each group of channels of a sample.

    The channels are divided into ``num_groups`` groups of neighbours. Mean and biased variance are those of a group of
    one sample over all positions, in both modes. ``x`` is float32, float16 or bfloat16 of shape (N, C, ...), or
    (N, ..., C) with ``channel_axis=-1``; ``gamma`` and ``beta`` are float32 of shape (C,).

    Parameters
    ----------
    num_groups
        Number of groups, at least 1.
    num_channels
        Number of channels C, a multiple of ``num_groups``.
    eps
        Added to the variance; finite, at least 0.
    affine
        Whether to apply a gain and a bias. Without them, ``gamma`` and ``beta`` are None.
    channel_axis
        Axis of the channels: 1 or -1.

    Raises
    ------
    TypeError, ValueError
        An argument, ``x`` or ``dy`` has the wrong type, value or shape.

    References
    ----------
    Wu and He (2018), "Group Normalization", arXiv:1803.08494.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import GroupNorm
    >>> norm = GroupNorm(2, 6)
    >>> norm(np.array([[1, 2, 6, 10, 20, 60]], dtype=np.float32)).round(3)
    array([[-0.926, -0.463,  1.389, -0.926, -0.463,  1.389]], dtype=float32)
    >>> norm.backward(np.array([[1, 0, 0, 10, 0, 0]], dtype=np.float32)).round(3)
    array([[ 0.176, -0.22 ,  0.044,  0.176, -0.22 ,  0.044]], dtype=float32)
    >>> norm.dbeta
    array([ 1.,  0.,  0., 10.,  0.,  0.], dtype=float32)
    """

    _parameters = ("gamma", "beta")

    dgamma: Array | None = None
    dbeta: Array | None = None

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *, channel_axis: int = 1
    ) -> None:
        """Start with gamma 1 and beta 0."""
        self.num_groups = validate.positive_int("num_groups", num_groups)
        self.num_channels = validate.positive_int("num_channels", num_channels)
        if num_channels % num_groups:
            raise ValueError(f"num_channels must be a multiple of num_groups={num_groups}, got {num_channels}")
        self.eps = validate.real("eps", eps, 0)
        self.affine = bool(affine)
        self.channel_axis = validate.channel_axis(channel_axis)
        self.gamma: Tensor | None = np.ones(num_channels, dtype=np.float32) if affine else None
        self.beta: Tensor | None = np.zeros(num_channels, dtype=np.float32) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with each group normalised."""
        validate.num_features(self, self.num_channels, x, self.channel_axis, "num_channels")
        y, mean, rstd = group_norm_forward(
            x, self.num_groups, self.gamma, self.beta, self.eps, channel_axis=self.channel_axis
        )
        self._saved = (x, mean, rstd)
        return y

    def _gradient(self, dy: Tensor, saved: Any) -> Tensor:
        x, mean, rstd = saved
        dx, self.dgamma, self.dbeta = group_norm_backward(dy, x, mean, rstd, self.gamma, channel_axis=self.channel_axis)
        return dx
