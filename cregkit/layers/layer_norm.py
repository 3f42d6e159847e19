"""Layer normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from cregkit import _validate as validate
from cregkit.functional import layer_norm, layer_norm_backward, layer_norm_forward
from cregkit.layers.base import Array, Layer


class LayerNorm(Layer):
    """``y = gamma * (x - mean) / sqrt(var + eps) + beta`` over the last axis (Ba, Kiros & Hinton, 2016).

    Mean and (biased) variance are those of each row, in training and in evaluation alike; evaluation keeps ``x`` alone
    and computes them again if backward is called after all. ``x`` is float32 of shape (..., num_features); ``gamma``
    and ``beta`` are float32 of shape (num_features,).

    Args:
        num_features: size of the last axis.
        eps: added to the variance, finite and at least 0.

    Raises:
        TypeError, ValueError: an argument, ``x`` or ``dy`` has the wrong type, value or shape.
    """

    _parameters = ("gamma", "beta")

    dgamma: Array | None = None
    dbeta: Array | None = None

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        """Start with gamma 1 and beta 0."""
        self.num_features = validate.positive_int("num_features", num_features)
        self.eps = validate.real("eps", eps, 0)
        self.gamma: Array = np.ones(num_features, dtype=np.float32)
        self.beta: Array = np.zeros(num_features, dtype=np.float32)

    def forward(self, x: Array) -> Array:
        """Return ``x`` with each row normalised."""
        try:
            if self.training:
                y, mean, rstd = layer_norm_forward(x, self.gamma, self.beta, self.eps)
                self._saved = (x, mean, rstd)
            else:
                y = layer_norm(x, self.gamma, self.beta, self.eps)
                self._saved = (x, None, None)
        except ValueError:
            validate.num_features(self, self.num_features, x, -1)
            raise
        return y

    def _gradient(self, dy: Array, saved: Any) -> Array:
        x, mean, rstd = saved
        if mean is None:
            _, mean, rstd = layer_norm_forward(x, None, None, self.eps)
        dx, self.dgamma, self.dbeta = layer_norm_backward(dy, x, mean, rstd, self.gamma)
        return dx
