"""Token and position embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers.base import Array, Layer, Tensor
from cregkit.layers.precision import rounded, widened, widened_parameter
from cregkit.layers.seeding import Seed, draw_seed

DEVIATION = 0.02
"""Standard deviation of the initial values, as in GPT-2 (Radford et al., 2019)."""


def _draw(rows: int, d_model: int, seed: Seed) -> Array:
    rng = np.random.default_rng(draw_seed(seed))
    return (DEVIATION * rng.standard_normal((rows, d_model))).astype(np.float32)


def check_ids(name: str, ids: object, count: int, of_what: str) -> None:
    """Raise an error unless ``ids`` is an integer array of values in [0, count)."""
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an integer array of ids, got {validate.kind(ids)}")
    validate.within(f"{name} must hold ids from 0 to {count - 1}, {of_what}", ids, 0, count - 1)


class Embedding(Layer):
    """Token embedding: ``y = weight[ids]``.

    ``ids`` is an integer array of any shape (...), ``y`` has shape (..., d_model) and the dtype of ``weight``, which is
    float32 unless the layer comes from ``astype``. The initial ``weight`` is normal with standard deviation 0.02.
    Backward sums ``dy`` over all occurrences of an id into ``dweight[id]`` and returns zeros, because ids have no
    gradient.

    Parameters
    ----------
    num_embeddings
        Size of the vocabulary, at least 1.
    d_model
        Size of an embedding vector, at least 1.
    seed
        Seed of the initial weights; see ``draw_seed``.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or value, or an id lies outside the vocabulary.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Embedding
    >>> embedding = Embedding(num_embeddings=3, d_model=2, seed=0)
    >>> y = embedding(np.array([[2, 0, 2]]))
    >>> y.shape
    (1, 3, 2)
    >>> _ = embedding.backward(np.ones_like(y))
    >>> embedding.dweight
    array([[1., 1.],
           [0., 0.],
           [2., 2.]], dtype=float32)
    """

    _parameters = ("weight",)

    dweight: Array | None = None

    def __init__(self, num_embeddings: int, d_model: int, *, seed: Seed = None) -> None:
        """Draw the initial weights."""
        self.num_embeddings = validate.positive_int("num_embeddings", num_embeddings)
        self.d_model = validate.positive_int("d_model", d_model)
        self.weight: Tensor = _draw(num_embeddings, d_model, seed)

    def forward(self, x: NDArray[Any]) -> Tensor:
        """Return the embedding vectors of the ids ``x``."""
        check_ids("x", x, self.num_embeddings, "the vocabulary")
        self._saved = x
        y: Tensor = self.weight[x]
        return y

    def _gradient(self, dy: Tensor, x: NDArray[Any]) -> Tensor:
        validate.gradient(dy, self.weight.dtype, (*x.shape, self.d_model))
        self.dweight = np.zeros(self.weight.shape, np.float32)
        if x.size:
            order = np.argsort(x, axis=None, kind="stable")
            ids, first = np.unique(x.ravel()[order], return_index=True)
            self.dweight[ids] = np.add.reduceat(widened(dy).reshape(-1, self.d_model)[order], first)
        return np.zeros(x.shape, dy.dtype)


class PositionalEmbedding(Layer):
    """Learned position embedding: ``y[n, t] = x[n, t] + weight[t]``.

    ``x`` and ``y`` are float32, float16 or bfloat16 of shape (N, T, d_model), with T at most ``max_length``. The
    initial ``weight`` is normal with standard deviation 0.02.

    Parameters
    ----------
    max_length
        Number of positions, at least 1.
    d_model
        Size of an embedding vector, at least 1.
    seed
        Seed of the initial weights; see ``draw_seed``.

    Raises
    ------
    TypeError, ValueError
        An argument, ``x`` or ``dy`` has the wrong type, value or shape.

    References
    ----------
    Gehring et al. (2017), "Convolutional Sequence to Sequence Learning", arXiv:1705.03122.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import PositionalEmbedding
    >>> positions = PositionalEmbedding(max_length=8, d_model=2, seed=0)
    >>> y = positions(np.zeros((1, 3, 2), dtype=np.float32))
    >>> np.array_equal(y[0], positions.weight[:3])
    True
    """

    _parameters = ("weight",)

    dweight: Array | None = None

    def __init__(self, max_length: int, d_model: int, *, seed: Seed = None) -> None:
        """Draw the initial weights."""
        self.max_length = validate.positive_int("max_length", max_length)
        self.d_model = validate.positive_int("d_model", d_model)
        self.weight: Tensor = _draw(max_length, d_model, seed)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` plus the embedding vectors of its positions."""
        validate.tensor("x", x)
        if x.ndim != 3 or x.shape[-1] != self.d_model:
            raise ValueError(f"x must have shape (N, T, d_model) with d_model={self.d_model}, got {x.shape}")
        if x.shape[1] > self.max_length:
            raise ValueError(f"x must have at most max_length={self.max_length} positions, got {x.shape[1]}")
        y = widened(x) + widened_parameter("weight", self.weight[: x.shape[1]], x)
        self._saved = x.dtype, x.shape
        return rounded(y, x.dtype)

    def _gradient(self, dy: Tensor, saved: Any) -> Tensor:
        dtype, shape = saved
        self.dweight = np.zeros(self.weight.shape, np.float32)
        self.dweight[: shape[1]] = widened(validate.gradient(dy, dtype, shape)).sum(axis=0)
        return dy
