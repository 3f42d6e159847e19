"""Vectors for tokens and for positions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers.base import Array, Layer
from cregkit.layers.seeding import Seed, draw_seed

DEVIATION = 0.02
"""Of the initial values (Radford et al., 2019, GPT-2)."""


def _draw(rows: int, d_model: int, seed: Seed) -> Array:
    rng = np.random.default_rng(draw_seed(seed))
    return (DEVIATION * rng.standard_normal((rows, d_model))).astype(np.float32)


def check_ids(name: str, ids: object, count: int, of_what: str) -> None:
    """Refuse ``ids`` unless it is an integer array of values from 0 to ``count`` - 1."""
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an integer array of ids, got {validate.kind(ids)}")
    validate.within(f"{name} must hold ids from 0 to {count - 1}, {of_what}", ids, 0, count - 1)


class Embedding(Layer):
    """``y = weight[ids]``: a vector for each of ``num_embeddings`` tokens.

    ``ids`` is an integer array of any shape (...), ``y`` float32 of shape (..., d_model). ``backward`` adds up in
    ``dweight`` what each token's places were given, and returns zeros: ids have no gradient.

    Args:
        num_embeddings: size of the vocabulary.
        d_model: size of a vector.
        seed: what the initial values, normal with deviation 0.02, are drawn from.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value, or an id lies outside the vocabulary.
    """

    _parameters = ("weight",)

    dweight: Array | None = None

    def __init__(self, num_embeddings: int, d_model: int, *, seed: Seed = None) -> None:
        """Draw the initial vectors."""
        self.num_embeddings = validate.positive_int("num_embeddings", num_embeddings)
        self.d_model = validate.positive_int("d_model", d_model)
        self.weight = _draw(num_embeddings, d_model, seed)

    def forward(self, x: NDArray[Any]) -> Array:
        """Return the vectors of the ids ``x``."""
        check_ids("x", x, self.num_embeddings, "the vocabulary")
        self._saved = x
        y: Array = self.weight[x]
        return y

    def _gradient(self, dy: Array, x: NDArray[Any]) -> Array:
        validate.shape_of_gradient(validate.float32("dy", dy), (*x.shape, self.d_model))
        self.dweight = np.zeros_like(self.weight)
        if x.size:
            order = np.argsort(x, axis=None, kind="stable")
            ids, first = np.unique(x.ravel()[order], return_index=True)
            self.dweight[ids] = np.add.reduceat(dy.reshape(-1, self.d_model)[order], first)
        return np.zeros(x.shape, np.float32)


class PositionalEmbedding(Layer):
    """``y[n, t] = x[n, t] + weight[t]``: a learned vector for each position (Gehring et al., 2017, arXiv:1705.03122).

    ``x`` and ``y`` are float32 of shape (N, T, d_model) with T at most ``max_length``.

    Args:
        max_length: number of positions.
        d_model: size of a vector.
        seed: what the initial values, normal with deviation 0.02, are drawn from.

    Raises:
        TypeError, ValueError: an argument, ``x`` or ``dy`` has the wrong type, value or shape, or ``x`` is too long.
    """

    _parameters = ("weight",)

    dweight: Array | None = None

    def __init__(self, max_length: int, d_model: int, *, seed: Seed = None) -> None:
        """Draw the initial vectors."""
        self.max_length = validate.positive_int("max_length", max_length)
        self.d_model = validate.positive_int("d_model", d_model)
        self.weight = _draw(max_length, d_model, seed)

    def forward(self, x: Array) -> Array:
        """Return ``x`` plus the vectors of its positions."""
        validate.float32("x", x)
        if x.ndim != 3 or x.shape[-1] != self.d_model:
            raise ValueError(f"x must have shape (N, T, {self.d_model}), as d_model says, got {x.shape}")
        if x.shape[1] > self.max_length:
            raise ValueError(f"x has {x.shape[1]} positions, PositionalEmbedding was made with {self.max_length}")
        self._saved = x.shape
        return x + self.weight[: x.shape[1]]

    def _gradient(self, dy: Array, shape: tuple[int, ...]) -> Array:
        validate.shape_of_gradient(validate.float32("dy", dy), shape)
        self.dweight = np.zeros_like(self.weight)
        self.dweight[: shape[1]] = dy.sum(axis=0)
        return dy
