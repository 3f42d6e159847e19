"""Root mean square normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from cregkit import _validate as validate
from cregkit.functional import rms_norm, rms_norm_backward, rms_norm_forward
from cregkit.layers.base import Array, Layer


class RMSNorm(Layer):
    """Root mean square normalisation over the last axis: ``y = gamma * x / sqrt(mean(x**2) + eps)``.

    The mean square is that of each row, in both modes. In evaluation mode, forward saves ``x`` alone, and backward
    recomputes the mean square. ``x`` is float32 of shape (..., num_features); ``gamma`` is float32 of shape
    (num_features,).

    Parameters
    ----------
    num_features
        Size of the last axis, at least 1.
    eps
        Added to the mean square; finite, at least 0.

    Raises
    ------
    TypeError, ValueError
        An argument, ``x`` or ``dy`` has the wrong type, value or shape.

    References
    ----------
    Zhang and Sennrich (2019), "Root Mean Square Layer Normalization", arXiv:1910.07467.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import RMSNorm
    >>> norm = RMSNorm(2)
    >>> norm(np.array([[3, 4], [30, 40]], dtype=np.float32)).round(3)
    array([[0.849, 1.131],
           [0.849, 1.131]], dtype=float32)
    """

    _parameters = ("gamma",)

    dgamma: Array | None = None

    def __init__(self, num_features: int, eps: float = 1e-6) -> None:
        """Start with gamma 1."""
        self.num_features = validate.positive_int("num_features", num_features)
        self.eps = validate.real("eps", eps, 0)
        self.gamma: Array = np.ones(num_features, dtype=np.float32)

    def forward(self, x: Array) -> Array:
        """Return ``x`` with each row normalised."""
        try:
            if self.training:
                y, rstd = rms_norm_forward(x, self.gamma, self.eps)
                self._saved = (x, rstd)
            else:
                y = rms_norm(x, self.gamma, self.eps)
                self._saved = (x, None)
        except ValueError:
            validate.num_features(self, self.num_features, x, -1)
            raise
        return y

    def _gradient(self, dy: Array, saved: Any) -> Array:
        x, rstd = saved
        if rstd is None:
            _, rstd = rms_norm_forward(x, None, self.eps)
        dx, self.dgamma = rms_norm_backward(dy, x, rstd, self.gamma)
        return dx
