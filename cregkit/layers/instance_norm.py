"""Instance normalisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cregkit import _validate as validate
from cregkit.functional import (
    batch_norm,
    batch_norm_inference_backward,
    instance_norm_backward,
    instance_norm_forward,
)
from cregkit.layers.base import Array, Layer, Tensor


class InstanceNorm(Layer):
    """Instance normalisation: ``y = gamma * (x - mean) / sqrt(var + eps) + beta`` in each channel of each sample.

    Mean and biased variance are those of a channel of one sample over all positions. With ``track_running_stats``,
    training mode also updates the running statistics: ``running = (1 - momentum) * running + momentum * batch``, where
    batch is the mean over the samples of the means (unbiased variances). Evaluation mode then normalises with the
    running statistics, and backward treats them as constants. ``x`` is float32, float16 or bfloat16 of shape
    (N, C, ...), or (N, ..., C) with ``channel_axis=-1``. ``gamma``, ``beta``, ``running_mean`` and ``running_var`` are
    float32 of shape (C,).

    Parameters
    ----------
    num_features
        Number of channels C, at least 1.
    eps
        Added to the variance; finite, at least 0.
    momentum
        Weight of the batch in the running statistics, in [0, 1].
    affine
        Whether to apply a gain and a bias. Without them, ``gamma`` and ``beta`` are None.
    track_running_stats
        Whether to keep running statistics. Without them, ``running_mean`` and ``running_var`` are None, and both modes
        are the same.
    channel_axis
        Axis of the channels: 1 or -1.

    Raises
    ------
    TypeError, ValueError
        An argument, ``x`` or ``dy`` has the wrong type, value or shape; or a channel of a sample has only one position,
        except in evaluation with running statistics.

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky (2016), "Instance Normalization: The Missing Ingredient for Fast Stylization",
    arXiv:1607.08022.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import InstanceNorm
    >>> norm = InstanceNorm(2)
    >>> norm(np.array([[[1, 3], [10, 30]]], dtype=np.float32)).round(3)
    array([[[-1.,  1.],
            [-1.,  1.]]], dtype=float32)
    >>> list(norm.parameters())
    []
    """

    _parameters = ("gamma", "beta")
    _buffers = ("running_mean", "running_var")

    dgamma: Array | None = None
    dbeta: Array | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        channel_axis: int = 1,
    ) -> None:
        """Start with gamma 1, beta 0, running mean 0 and running variance 1."""
        self.num_features = validate.positive_int("num_features", num_features)
        self.eps = validate.real("eps", eps, 0)
        self.momentum = validate.real("momentum", momentum, 0, 1)
        self.affine = bool(affine)
        self.track_running_stats = bool(track_running_stats)
        self.channel_axis = validate.channel_axis(channel_axis)
        self.gamma: Tensor | None = np.ones(num_features, dtype=np.float32) if affine else None
        self.beta: Tensor | None = np.zeros(num_features, dtype=np.float32) if affine else None
        self.running_mean: Array | None = np.zeros(num_features, dtype=np.float32) if track_running_stats else None
        self.running_var: Array | None = np.ones(num_features, dtype=np.float32) if track_running_stats else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with the statistics of each sample, or in evaluation with the running statistics, if tracked."""
        validate.num_features(self, self.num_features, x, self.channel_axis)
        if self.running_mean is not None and self.running_var is not None and not self.training:
            y = batch_norm(
                x, self.running_mean, self.running_var, self.gamma, self.beta, self.eps, channel_axis=self.channel_axis
            )
            self._saved = (x, self.running_mean, self.running_var, True)
            return y
        shape = np.shape(x)
        if math.prod(shape[2:] if self.channel_axis == 1 else shape[1:-1]) == 1:
            raise ValueError(f"x must have at least two positions per channel of a sample, got shape {shape}")
        y, mean, rstd = instance_norm_forward(
            x,
            self.gamma,
            self.beta,
            self.running_mean,
            self.running_var,
            self.momentum,
            self.eps,
            channel_axis=self.channel_axis,
        )
        self._saved = (x, mean, rstd, False)
        return y

    def _gradient(self, dy: Tensor, saved: Any) -> Tensor:
        x, mean, spread, running = saved
        if running:
            dx, self.dgamma, self.dbeta = batch_norm_inference_backward(
                dy, x, mean, spread, self.gamma, self.eps, channel_axis=self.channel_axis
            )
        else:
            dx, self.dgamma, self.dbeta = instance_norm_backward(
                dy, x, mean, spread, self.gamma, channel_axis=self.channel_axis
            )
        return dx
