"""Dropout of elements and of whole channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit import functional
from cregkit.layers.base import Array, Layer
from cregkit.layers.seeding import Seed, draw_seed

# Elements that share one group of Philox counters: a forward that begins on such a boundary stays on the fast path.
_GROUP = 128


class Dropout(Layer):
    """Inverted dropout: in training ``y = x / (1 - p)`` where kept and 0 where dropped, in evaluation ``y = x`` itself.

    Each element of the float32 array ``x`` is dropped with probability ``p`` on its own (Srivastava et al., 2014). No
    mask is stored: the bits of element i come from (seed, offset + i), ``offset`` counts the decisions of the training
    forwards so far (rounded up to multiples of 128), and backward draws the bits of its forward again. Seed and offset
    are part of the state, so a loaded layer goes on with the very masks the saved one would have drawn.

    Args:
        p: probability of being dropped, in [0, 1].
        seed: int in [0, 2**64), numpy Generator or SeedSequence, or None for fresh entropy; 64 bits are drawn once.

    Raises:
        TypeError, ValueError: an argument, ``x`` or ``dy`` has the wrong type, value or shape.
    """

    _buffers = ("_seed", "_offset")

    _part: tuple[int, int] | None = None
    """Where ``x`` is a part of a batch that several processes hold: the samples before it, and those of the batch."""

    _drop = staticmethod(functional.dropout)
    _drop_backward = staticmethod(functional.dropout_backward)

    def __init__(self, p: float = 0.5, *, seed: Seed = None) -> None:
        """Draw the seed and start at offset 0."""
        self.p = validate.real("p", p, 0, 1)
        self._seed: NDArray[np.uint64] = np.array(draw_seed(seed), dtype=np.uint64)
        self._offset: NDArray[np.uint64] = np.zeros((), dtype=np.uint64)

    @property
    def seed(self) -> int:
        """The 64-bit seed all masks come from."""
        return self._seed.item()

    @property
    def offset(self) -> int:
        """Where the bits of the next training forward begin."""
        return self._offset.item()

    def forward(self, x: Array) -> Array:
        """Return ``x`` with elements dropped (training), or ``x`` itself (evaluation)."""
        if not self.training:
            self._saved = ()
            return x
        p, seed, offset = self.p, self._seed.item(), self._first_draw(x)
        y = self._drop(x, p, seed=seed, offset=offset)
        self._advance(y.shape)
        self._saved = (y.shape, p, seed, offset)
        return y

    def _first_draw(self, x: Array) -> int:
        """Return where the bits for ``x`` begin: behind those of the samples before it in the batch."""
        return self._offset.item() + (self._decisions(np.shape(x), self._part[0]) if self._part else 0)

    def _advance(self, shape: tuple[int, ...]) -> None:
        """Move on past the decisions of the batch, in an array that no shallow copy shares."""
        decisions = self._decisions(shape, self._part[1]) if self._part else self._decisions(shape, *shape[:1])
        self._offset = np.array(self._offset.item() + -(-decisions // _GROUP) * _GROUP, dtype=np.uint64)

    def _gradient(self, dy: Array, saved: Any) -> Array:
        if not saved:
            return dy
        shape, p, seed, offset = saved
        validate.shape_of_gradient(dy, shape)
        return self._drop_backward(dy, p, seed=seed, offset=offset)

    def _decisions(self, shape: tuple[int, ...], samples: int = 1) -> int:
        """Return how many keep-or-drop decisions so many samples of an array of this shape take."""
        return samples * math.prod(shape[1:])


class SpatialDropout(Dropout):
    """Inverted dropout of whole channels ``x[n, c]`` of ``x`` of shape (N, C, ...) (Tompson et al., 2015).

    All else is as in ``Dropout``; the offset counts channels.
    """

    _drop = staticmethod(functional.spatial_dropout)
    _drop_backward = staticmethod(functional.spatial_dropout_backward)

    def _decisions(self, shape: tuple[int, ...], samples: int = 1) -> int:
        return samples * shape[1]
