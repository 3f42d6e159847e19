"""Activation functions, element by element."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.polynomial.polynomial import polyval
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers.base import Array, Layer, Tensor
from cregkit.layers.precision import rounded, widened

_ZERO = np.float32(0)
Floating = TypeVar("Floating", bound=np.floating)


class _Activation(Layer):
    """``y = f(x)`` and ``dx = dy * f'(x)``; a subclass implements ``_value`` and ``_slope`` in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of ``x``, an array of any shape."""
        y = self._value(widened(validate.tensor("x", x)))
        self._saved = x
        return rounded(y, x.dtype)

    def _gradient(self, dy: Tensor, x: Tensor) -> Tensor:
        validate.gradient(dy, x.dtype, x.shape)
        return rounded(self._slope(widened(dy), widened(x)), x.dtype)

    def _value(self, x: Array) -> Array:
        raise NotImplementedError

    def _slope(self, dy: Array, x: Array) -> Array:
        raise NotImplementedError


class ReLU(_Activation):
    """Rectified linear unit: ``y = max(x, 0)``.

    The gradient is ``dy`` where ``x > 0`` and 0 elsewhere. NaN stays NaN.

    References
    ----------
    Nair and Hinton (2010), "Rectified Linear Units Improve Restricted Boltzmann Machines", ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import ReLU
    >>> ReLU()(np.array([-1, 0, 2], dtype=np.float32))
    array([0., 0., 2.], dtype=float32)
    """

    def _value(self, x: Array) -> Array:
        return np.maximum(x, _ZERO)

    def _slope(self, dy: Array, x: Array) -> Array:
        return np.where(x <= 0, _ZERO, dy)


class Sigmoid(_Activation):
    """Logistic function: ``y = 1 / (1 + exp(-x))``.

    It is computed from ``exp(-|x|)``, which cannot overflow. The gradient is
    ``dy * exp(-|x|) / (1 + exp(-|x|))**2``: the usual ``y * (1 - y)`` is 0 where ``y`` rounds to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Sigmoid
    >>> Sigmoid()(np.array([-100, 0, 100], dtype=np.float32)).round(3)
    array([0. , 0.5, 1. ], dtype=float32)
    """

    def _value(self, x: Array) -> Array:
        return sigmoid(x)

    def _slope(self, dy: Array, x: Array) -> Array:
        e = np.exp(-np.abs(x))
        slope: Array = dy * (e / np.square(1 + e))
        return slope


class GELU(_Activation):
    """Gaussian error linear unit, exact: ``y = x * Phi(x)``, with Phi the standard normal CDF.

    The gradient is ``dy * (Phi(x) + x * phi(x))``, with phi the standard normal density. Phi has a relative error of
    1e-8 in float64 (``_normal_cdf``), so ``y`` is accurate to float32 rounding, in the negative tail too. The tanh
    approximation, ``GELUTanh``, has an error of up to 5e-4.

    References
    ----------
    Hendrycks and Gimpel (2016), "Gaussian Error Linear Units (GELUs)", arXiv:1606.08415.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import GELU
    >>> GELU()(np.array([-1, 0, 1], dtype=np.float32)).round(4)
    array([-0.1587,  0.    ,  0.8413], dtype=float32)
    """

    def _value(self, x: Array) -> Array:
        x64 = _within(40, x)
        return (np.maximum(x, x64) * _normal_cdf(x64)).astype(np.float32)

    def _slope(self, dy: Array, x: Array) -> Array:
        x64 = _within(40, x)
        density = np.exp(-0.5 * x64 * x64) / math.sqrt(2 * math.pi)
        slope: Array = (dy * (_normal_cdf(x64) + x64 * density)).astype(np.float32)
        return slope


class GELUTanh(_Activation):
    """GELU, tanh approximation: ``y = x / 2 * (1 + tanh(u))``, ``u = sqrt(2 / pi) * (x + 0.044715 * x**3)``.

    Use it for weights that were trained with it: "gelu_new" and "gelu_pytorch_tanh" in Hugging Face transformers,
    ``approximate="tanh"`` in PyTorch. It is computed in float64 as ``x * s(2 * u)``, with s the logistic function: this
    form does not cancel in the negative tail. The gradient is ``dy * (s + x * s * (1 - s) * 2 * du/dx)`` with
    ``s = s(2 * u)``.

    References
    ----------
    Hendrycks and Gimpel (2016), "Gaussian Error Linear Units (GELUs)", arXiv:1606.08415.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import GELUTanh
    >>> GELUTanh()(np.array([-1, 0, 1], dtype=np.float32)).round(4)
    array([-0.1588,  0.    ,  0.8412], dtype=float32)
    """

    def _value(self, x: Array) -> Array:
        x64 = _within(40, x)
        return (np.maximum(x, x64) * sigmoid(_gelu_logit(x64))).astype(np.float32)

    def _slope(self, dy: Array, x: Array) -> Array:
        x64 = _within(40, x)
        s = sigmoid(_gelu_logit(x64))
        steepness = _GELU_SCALE * (1 + 3 * _GELU_CUBE * x64 * x64)
        slope: Array = (dy * (s + x64 * s * (1 - s) * steepness)).astype(np.float32)
        return slope


class SiLU(_Activation):
    """Sigmoid linear unit, or swish: ``y = x * s(x)``, with s the logistic function.

    The gradient is ``dy * (s(x) + x * s(x) * (1 - s(x)))``. Both are computed in float64.

    References
    ----------
    Elfwing, Uchibe and Doya (2017), "Sigmoid-Weighted Linear Units for Neural Network Function Approximation in
    Reinforcement Learning", arXiv:1702.03118.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import SiLU
    >>> SiLU()(np.array([-1, 0, 1], dtype=np.float32)).round(4)
    array([-0.2689,  0.    ,  0.7311], dtype=float32)
    """

    def _value(self, x: Array) -> Array:
        x64 = _within(120, x)
        return (np.maximum(x, x64) * sigmoid(x64)).astype(np.float32)

    def _slope(self, dy: Array, x: Array) -> Array:
        x64 = _within(120, x)
        s = sigmoid(x64)
        slope: Array = (dy * (s + x64 * s * (1 - s))).astype(np.float32)
        return slope


def sigmoid(x: NDArray[Floating]) -> NDArray[Floating]:
    """Return ``1 / (1 + exp(-x))`` in the dtype of ``x``, without overflow."""
    e = np.exp(-np.abs(x))
    y: NDArray[Floating] = np.where(x < 0, e, 1) / (1 + e)
    return y


def _within(bound: float, x: Array) -> NDArray[np.float64]:
    """Return ``x`` in float64, clipped to [-bound, bound]: further out ``y`` is 0 or ``x``; inf * 0 is NaN."""
    return np.clip(x.astype(np.float64), -bound, bound)


_GELU_SCALE = 2 * math.sqrt(2 / math.pi)
_GELU_CUBE = 0.044715


def _gelu_logit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``2 * u`` of ``GELUTanh``."""
    return _GELU_SCALE * (x + _GELU_CUBE * x**3)


# P(t) in _normal_cdf: Chebyshev least-squares fit of degree 12 to log(erfc(z) * exp(z*z) / t) for t in (0, 1].
_LOG_ERFC = (
    -1.265512118, 0.9999980469, 0.3751098299, 0.08091932389, -0.05860063989, -0.3254898899, 0.6665116812,
    -2.011027746, 3.642604477, -3.505887369, 1.853980038, -0.5073753168, 0.05476967887,
)  # fmt: skip


def _normal_cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``Phi(x) = erfc(-x / sqrt(2)) / 2`` with a relative error of 1e-8.

    For z >= 0, ``erfc(z) = t * exp(-z*z + P(t))`` with ``t = 1 / (1 + z/2)``. NumPy has no erfc.
    """
    z = np.abs(x) / math.sqrt(2)
    t = 1 / (1 + 0.5 * z)
    tail = 0.5 * t * np.exp(polyval(t, _LOG_ERFC) - z * z)
    return np.where(x < 0, tail, 1 - tail)
