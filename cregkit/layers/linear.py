"""Fully connected layer."""

from __future__ import annotations

import math

import numpy as np

from cregkit import _validate as validate
from cregkit.layers.base import Array, Layer, Tensor
from cregkit.layers.precision import rounded, widened, widened_parameter
from cregkit.layers.seeding import Seed, draw_seed


class Linear(Layer):
    """Fully connected layer over the last axis: ``y = x @ weight.T + bias``.

    ``x`` has shape (..., in_features), ``y`` has shape (..., out_features); both are float32, float16 or bfloat16.
    16-bit arrays save memory, not time: they are multiplied in float32. ``weight`` has shape (out_features,
    in_features), ``bias`` has shape (out_features,). The initial values of both are uniform in
    ``[-b, b]`` with ``b = 1 / sqrt(in_features)``, as in PyTorch. Weight decay applies to ``weight`` alone.

    Parameters
    ----------
    in_features
        Size of the last axis of ``x``, at least 1.
    out_features
        Size of the last axis of ``y``, at least 1.
    bias
        Whether to add a bias. Without it, the attribute ``bias`` is None.
    seed
        Seed of the initial values; see ``draw_seed``.

    Raises
    ------
    TypeError, ValueError
        An argument, ``x`` or ``dy`` has the wrong type, value or shape.

    References
    ----------
    LeCun, Bottou, Orr and Müller (1998), "Efficient BackProp".

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> linear = Linear(3, 2, seed=0)
    >>> x = np.ones((5, 3), dtype=np.float32)
    >>> y = linear(x)
    >>> y.shape
    (5, 2)
    >>> linear.backward(np.ones_like(y)).shape
    (5, 3)
    >>> linear.dweight
    array([[5., 5., 5.],
           [5., 5., 5.]], dtype=float32)
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
        self.weight: Tensor = rng.uniform(-bound, bound, (out_features, in_features)).astype(np.float32)
        self.bias: Tensor | None = rng.uniform(-bound, bound, out_features).astype(np.float32) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x @ weight.T + bias``."""
        validate.tensor("x", x)
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"x must have shape (..., in_features) with in_features={self.in_features}, got {x.shape}")
        weight = self._weight_of_batch(x)
        y: Array = widened(x) @ widened_parameter("weight", weight, x).T
        if self.bias is not None:
            y += widened_parameter("bias", self.bias, x)
        self._saved = x, weight
        return rounded(y, x.dtype)

    def _weight_of_batch(self, x: Tensor) -> Tensor:
        """Return the weight that multiplies ``x``."""
        return self.weight

    def _gradient(self, dy: Tensor, saved: tuple[Tensor, Tensor]) -> Tensor:
        x, weight = saved
        dy32 = widened(validate.gradient(dy, x.dtype, (*x.shape[:-1], self.out_features)))
        rows = dy32.reshape(-1, self.out_features)
        self.dweight = rows.T @ widened(x).reshape(-1, self.in_features)
        if self.bias is not None:
            self.dbias = rows.sum(axis=0)
        return rounded(dy32 @ widened(weight), x.dtype)
