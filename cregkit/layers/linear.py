"""The fully connected layer."""

from __future__ import annotations

import math

import numpy as np

from cregkit import _validate as validate
from cregkit.layers.base import Array, Layer
from cregkit.layers.seeding import Seed, draw_seed


class Linear(Layer):
    """``y = x @ weight.T + bias`` over the last axis.

    ``x`` is float32 of shape (..., in_features), ``y`` float32 of shape (..., out_features). ``weight`` has shape
    (out_features, in_features) and ``bias`` (out_features,); both start uniform in +-1/sqrt(in_features), as in
    PyTorch (LeCun et al., "Efficient BackProp", 1998, gives the scale). Weight decay applies to ``weight`` alone.

    Args:
        in_features: size of the last axis of ``x``.
        out_features: size of the last axis of ``y``.
        bias: whether there is a bias; ``bias`` is None otherwise.
        seed: what the initial values are drawn from; see ``draw_seed``.

    Raises:
        TypeError, ValueError: an argument, ``x`` or ``dy`` has the wrong type, value or shape.
    """

    _parameters = ("weight", "bias")
    _decayed = ("weight",)

    dweight: Array | None = None
    dbias: Array | None = None

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, seed: Seed = None) -> None:
        """Draw the initial weight and bias."""
        self.in_features = validate.positive_int("in_features", in_features)
        self.out_features = validate.positive_int("out_features", out_features)
        rng = np.random.default_rng(draw_seed(seed))
        bound = 1 / math.sqrt(in_features)
        self.weight: Array = rng.uniform(-bound, bound, (out_features, in_features)).astype(np.float32)
        self.bias: Array | None = rng.uniform(-bound, bound, out_features).astype(np.float32) if bias else None

    def forward(self, x: Array) -> Array:
        """Return ``x @ weight.T + bias``."""
        validate.float32("x", x)
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"x must have shape (..., {self.in_features}), as in_features says, got {x.shape}")
        y: Array = x @ self.weight.T
        if self.bias is not None:
            y += self.bias
        self._saved = x
        return y

    def _gradient(self, dy: Array, x: Array) -> Array:
        validate.float32("dy", dy)
        validate.shape_of_gradient(dy, (*x.shape[:-1], self.out_features))
        rows = dy.reshape(-1, self.out_features)
        self.dweight = rows.T @ x.reshape(-1, self.in_features)
        if self.bias is not None:
            self.dbias = rows.sum(axis=0)
        return dy @ self.weight
