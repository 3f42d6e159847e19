"""Layer normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from cregkit import _validate as validate
from cregkit.functional import layer_norm, layer_norm_backward, layer_norm_forward
from cregkit.layers.base import Array, Layer, Tensor


class LayerNorm(Layer):
    """Layer normalisation over features or channels: ``y = gamma * (x - mean) / sqrt(var + eps) + beta``.

    Mean and biased variance are those of each row, in both modes. In evaluation mode, forward saves ``x`` alone, and
    backward recomputes the statistics. ``x`` is float32, float16 or bfloat16 of shape (..., num_features), or
    (N, num_features, ...) with ``channel_axis=1``; ``gamma`` and ``beta`` are float32 of shape (num_features,). With a
    tuple, these shapes are (..., *num_features) and num_features.

    Parameters
    ----------
    num_features
        Size of the normalised axis, at least 1; or the sizes of the last axes, which are normalised together.
    eps
        Added to the variance; finite, at least 0.
    channel_axis
        Axis that is normalised: -1, or 1 for images (N, C, H, W), as in ConvNeXt. A tuple of sizes needs -1.

    Raises
    ------
    TypeError, ValueError
        An argument, ``x`` or ``dy`` has the wrong type, value or shape.

    References
    ----------
    Ba, Kiros and Hinton (2016), "Layer Normalization", arXiv:1607.06450.

    Liu et al. (2022), "A ConvNet for the 2020s", arXiv:2201.03545 (over channels).

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import LayerNorm
    >>> norm = LayerNorm(3)
    >>> x = np.array([[1, 2, 3], [10, 20, 30]], dtype=np.float32)
    >>> norm(x).round(3)
    array([[-1.225,  0.   ,  1.225],
           [-1.225,  0.   ,  1.225]], dtype=float32)
    >>> norm.backward(np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)).round(3)
    array([[ 0.204, -0.408,  0.204],
           [-0.041,  0.082, -0.041]], dtype=float32)
    >>> norm.dbeta
    array([1., 1., 0.], dtype=float32)
    >>> LayerNorm(3, channel_axis=1)(x.reshape(2, 3, 1)).shape
    (2, 3, 1)
    """

    _parameters = ("gamma", "beta")

    dgamma: Array | None = None
    dbeta: Array | None = None

    def __init__(self, num_features: int | tuple[int, ...], eps: float = 1e-5, *, channel_axis: int = -1) -> None:
        """Start with gamma 1 and beta 0."""
        self.channel_axis = validate.channel_axis(channel_axis)
        self.num_features, self._axis = validate.features("num_features", num_features, channel_axis)
        self.eps = validate.real("eps", eps, 0)
        self.gamma: Tensor = np.ones(self.num_features, dtype=np.float32)
        self.beta: Tensor = np.zeros(self.num_features, dtype=np.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with each row normalised."""
        try:
            if self.training:
                y, mean, rstd = layer_norm_forward(x, self.gamma, self.beta, self.eps, axis=self._axis)
                self._saved = (x, mean, rstd)
            else:
                y = layer_norm(x, self.gamma, self.beta, self.eps, axis=self._axis)
                self._saved = (x, None, None)
        except ValueError:
            validate.num_features(self, self.num_features, x, self._axis)
            raise
        return y

    def _gradient(self, dy: Tensor, saved: Any) -> Tensor:
        x, mean, rstd = saved
        if mean is None:
            _, mean, rstd = layer_norm_forward(x, None, None, self.eps, axis=self._axis)
        dx, self.dgamma, self.dbeta = layer_norm_backward(dy, x, mean, rstd, self.gamma, axis=self._axis)
        return dx
