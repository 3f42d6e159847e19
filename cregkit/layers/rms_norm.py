"""Root mean square normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from cregkit import _validate as validate
from cregkit.functional import rms_norm, rms_norm_backward, rms_norm_forward
from cregkit.layers.base import Array, Layer, Tensor


class RMSNorm(Layer):
    """Root mean square normalisation: ``y = (gain_offset + gamma) * x / sqrt(mean(x**2) + eps)``.

    The mean square is that of each row, in both modes. In evaluation mode, forward saves ``x`` alone, and backward
    recomputes the mean square. ``x`` is float32, float16 or bfloat16 of shape (..., num_features), or
    (N, num_features, ...) with ``channel_axis=1``; ``gamma`` is float32 of shape (num_features,). With a tuple, these
    shapes are (..., *num_features) and num_features.

    Parameters
    ----------
    num_features
        Size of the normalised axis, at least 1; or the sizes of the last axes, which are normalised together.
    eps
        Added to the mean square; finite, at least 0.
    gain_offset
        Added to ``gamma``; finite. With 1, ``gamma`` is the weight of Gemma's norms. A new layer has a gain of 1.
    channel_axis
        Axis that is normalised: -1, or 1 for images (N, C, H, W). A tuple of sizes needs -1.

    Raises
    ------
    TypeError, ValueError
        An argument, ``x`` or ``dy`` has the wrong type, value or shape.

    References
    ----------
    Zhang and Sennrich (2019), "Root Mean Square Layer Normalization", arXiv:1910.07467.

    Gemma Team (2024), "Gemma: Open Models Based on Gemini Research and Technology", arXiv:2403.08295.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import RMSNorm
    >>> norm = RMSNorm(2)
    >>> norm(np.array([[3, 4], [30, 40]], dtype=np.float32)).round(3)
    array([[0.849, 1.131],
           [0.849, 1.131]], dtype=float32)
    >>> RMSNorm(2, gain_offset=1.0).gamma
    array([0., 0.], dtype=float32)
    """

    _parameters = ("gamma",)

    dgamma: Array | None = None

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        eps: float = 1e-6,
        *,
        gain_offset: float = 0.0,
        channel_axis: int = -1,
    ) -> None:
        """Start with gamma ``1 - gain_offset``."""
        self.channel_axis = validate.channel_axis(channel_axis)
        self.num_features, self._axis = validate.features("num_features", num_features, channel_axis)
        self.eps = validate.real("eps", eps, 0)
        self.gain_offset = validate.float32_real("gain_offset", gain_offset)
        self.gamma: Tensor = np.full(self.num_features, np.float32(1.0) - np.float32(gain_offset))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with each row normalised."""
        try:
            if self.training:
                y, rstd = rms_norm_forward(x, self.gamma, self.eps, axis=self._axis, gain_offset=self.gain_offset)
                self._saved = (x, rstd)
            else:
                y = rms_norm(x, self.gamma, self.eps, axis=self._axis, gain_offset=self.gain_offset)
                self._saved = (x, None)
        except ValueError:
            validate.num_features(self, self.num_features, x, self._axis)
            raise
        return y

    def _gradient(self, dy: Tensor, saved: Any) -> Tensor:
        x, rstd = saved
        if rstd is None:
            _, rstd = rms_norm_forward(x, None, self.eps, axis=self._axis)
        dx, self.dgamma = rms_norm_backward(dy, x, rstd, self.gamma, axis=self._axis, gain_offset=self.gain_offset)
        return dx
