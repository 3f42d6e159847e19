"""Activations: element by element, without state."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.polynomial.polynomial import polyval
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers.base import Array, Layer

_ZERO = np.float32(0)
Floating = TypeVar("Floating", bound=np.floating)


class _Activation(Layer):
    """``y = f(x)`` and ``dx = dy * f'(x)``; the functions themselves are the subclass's."""

    def forward(self, x: Array) -> Array:
        """Return the activation of the float32 array ``x``, of any shape."""
        y = self._value(validate.float32("x", x))
        self._saved = x
        return y

    def _gradient(self, dy: Array, x: Array) -> Array:
        validate.shape_of_gradient(validate.float32("dy", dy), x.shape)
        return self._slope(dy, x)

    def _value(self, x: Array) -> Array:
        raise NotImplementedError

    def _slope(self, dy: Array, x: Array) -> Array:
        raise NotImplementedError


class ReLU(_Activation):
    """``y = max(x, 0)``; the gradient at 0 is 0 (Nair & Hinton, 2010). NaN stays NaN."""

    def _value(self, x: Array) -> Array:
        return np.maximum(x, _ZERO)

    def _slope(self, dy: Array, x: Array) -> Array:
        return np.where(x <= 0, _ZERO, dy)


class Sigmoid(_Activation):
    """``y = 1 / (1 + exp(-x))``, computed from ``exp(-|x|)`` so that no ``x`` overflows.

    The gradient is ``exp(-|x|) / (1 + exp(-|x|))**2``: the textbook ``y * (1 - y)`` cancels to 0 where y rounds to 1.
    """

    def _value(self, x: Array) -> Array:
        return sigmoid(x)

    def _slope(self, dy: Array, x: Array) -> Array:
        e = np.exp(-np.abs(x))
        slope: Array = dy * (e / np.square(1 + e))
        return slope


class GELU(_Activation):
    """``y = x * Phi(x)`` with Phi the normal distribution function: the exact form (Hendrycks & Gimpel, 2016).

    The exact form rather than its tanh approximation (``GELUTanh``), which is off by up to 5e-4: Phi comes from a fit
    that is right to 1e-8 of its value (see ``_normal_cdf``) in float64, so y is right to float32 rounding, in the
    negative tail too.
    The gradient is ``Phi(x) + x * phi(x)`` with phi the normal density.
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
    """``y = x / 2 * (1 + tanh(u))``, ``u = sqrt(2 / pi) * (x + 0.044715 * x**3)``: GELU's tanh approximation.

    For weights that were trained with it (Hendrycks & Gimpel, 2016; "gelu_new" and "gelu_pytorch_tanh" of transformers,
    ``approximate="tanh"`` of PyTorch). Computed as ``x * s(2 * u)`` with s the logistic function, which does not cancel
    in the negative tail. The gradient is ``s(2 * u) + x * s(2 * u) * (1 - s(2 * u)) * 2 * du/dx``. float64 inside.
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
    """``y = x * s(x)`` with s the logistic function, also called swish (Elfwing et al., 2017, arXiv:1702.03118).

    The gradient is ``s(x) + x * s(x) * (1 - s(x))``. float64 inside.
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
    """Return ``x`` in float64, held to [-bound, bound]: beyond, an activation is 0 or ``x``, and inf * 0 is NaN."""
    return np.clip(x.astype(np.float64), -bound, bound)


_GELU_SCALE = 2 * math.sqrt(2 / math.pi)
_GELU_CUBE = 0.044715


def _gelu_logit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 2 * u of ``GELUTanh``."""
    return _GELU_SCALE * (x + _GELU_CUBE * x**3)


# P(t) of _normal_cdf: a Chebyshev least-squares fit of degree 12 of log(erfc(z) * exp(z*z) / t) over t in (0, 1].
_LOG_ERFC = (
    -1.265512118, 0.9999980469, 0.3751098299, 0.08091932389, -0.05860063989, -0.3254898899, 0.6665116812,
    -2.011027746, 3.642604477, -3.505887369, 1.853980038, -0.5073753168, 0.05476967887,
)  # fmt: skip


def _normal_cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Phi(x) = erfc(-x / sqrt 2) / 2, to a relative 1e-8.

    For z >= 0, erfc(z) = t * exp(-z*z + P(t)) with t = 1 / (1 + z/2); NumPy has no erfc of its own.
    """
    z = np.abs(x) / math.sqrt(2)
    t = 1 / (1 + 0.5 * z)
    tail = 0.5 * t * np.exp(polyval(t, _LOG_ERFC) - z * z)
    return np.where(x < 0, tail, 1 - tail)
