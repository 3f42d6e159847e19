"""Batch normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from cregkit.functional import batch_norm, batch_norm_backward, batch_norm_forward, batch_norm_inference_backward
from cregkit.layers import validate
from cregkit.layers.base import Array, Layer


class BatchNorm(Layer):
    """``y = gamma * (x - mean) / sqrt(var + eps) + beta``, one mean and variance per channel (Ioffe & Szegedy, 2015).

    In training, mean and (biased) variance are those of the batch, and the running statistics follow them:
    ``running = (1 - momentum) * running + momentum * batch``. In evaluation the running statistics take their place
    and are constants to backward. ``x`` is float32 of shape (N, C, ...), or (..., C) with ``channel_axis=-1``;
    ``gamma``, ``beta``, ``running_mean`` and ``running_var`` are float32 of shape (C,).

    Args:
        num_features: C.
        momentum: weight of the new batch in the running statistics, in [0, 1].
        eps: added to the variance, finite and at least 0.
        unbiased: let ``running_var`` follow the unbiased variance of the batch, as PyTorch does.
        channel_axis: 1 or -1.

    Raises:
        TypeError, ValueError: an argument, ``x`` or ``dy`` has the wrong type, value or shape; in training also when a
            channel has a single value.
    """

    _parameters = ("gamma", "beta")
    _buffers = ("running_mean", "running_var")

    dgamma: Array | None = None
    dbeta: Array | None = None

    def __init__(
        self,
        num_features: int,
        momentum: float = 0.1,
        eps: float = 1e-5,
        *,
        unbiased: bool = False,
        channel_axis: int = 1,
    ) -> None:
        """Start with gamma 1, beta 0, running mean 0 and running variance 1."""
        self.num_features = validate.positive_int("num_features", num_features)
        self.momentum = validate.real("momentum", momentum, 0, 1)
        self.eps = validate.real("eps", eps, 0)
        if channel_axis not in (1, -1):
            raise ValueError(f"channel_axis must be 1 or -1, got {channel_axis!r}")
        self.unbiased = bool(unbiased)
        self.channel_axis = channel_axis
        self.gamma: Array = np.ones(num_features, dtype=np.float32)
        self.beta: Array = np.zeros(num_features, dtype=np.float32)
        self.running_mean: Array = np.zeros(num_features, dtype=np.float32)
        self.running_var: Array = np.ones(num_features, dtype=np.float32)

    def forward(self, x: Array) -> Array:
        """Return ``x`` normalised by the batch's statistics (training) or the running ones (evaluation)."""
        try:
            return self._normalise_batch(x) if self.training else self._normalise(x)
        except ValueError:
            validate.num_features(self, self.num_features, x, self.channel_axis)
            raise

    def _normalise_batch(self, x: Array) -> Array:
        y, mean, rstd = batch_norm_forward(
            x,
            self.gamma,
            self.beta,
            self.running_mean,
            self.running_var,
            self.momentum,
            self.eps,
            unbiased=self.unbiased,
            channel_axis=self.channel_axis,
        )
        self._saved = (x, mean, rstd)
        return y

    def _normalise(self, x: Array) -> Array:
        y = batch_norm(
            x, self.running_mean, self.running_var, self.gamma, self.beta, self.eps, channel_axis=self.channel_axis
        )
        self._saved = (x, None, None)
        return y

    def _gradient(self, dy: Array, saved: Any) -> Array:
        x, mean, rstd = saved
        if mean is None:
            dx, self.dgamma, self.dbeta = batch_norm_inference_backward(
                dy, x, self.running_mean, self.running_var, self.gamma, self.eps, channel_axis=self.channel_axis
            )
        else:
            dx, self.dgamma, self.dbeta = batch_norm_backward(
                dy, x, mean, rstd, self.gamma, channel_axis=self.channel_axis
            )
        return dx
