"""Dropout of elements, channels, samples and blocks."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit import functional
from cregkit.layers.base import Layer, Tensor
from cregkit.layers.seeding import Seed, draw_seed

# The draws of a block of the random stream. A forward that starts inside a block first draws the steps before it.
_BLOCK = 4096


class Dropout(Layer):
    """Inverted dropout: in training mode ``y = x / (1 - p)`` where kept, 0 where dropped; in evaluation ``y = x``.

    Each element of ``x``, a float32, float16 or bfloat16 array of any shape, is dropped independently with probability
    ``p``. No mask is stored: the random bits of element i depend on (seed, offset + i) alone, and backward draws them
    again. ``offset`` counts the elements of all training forwards so far, each rounded up to a multiple of 4096.
    Seed and offset are part of the state, so a loaded layer draws the masks that the saved layer would have drawn.

    Parameters
    ----------
    p
        Probability of dropping an element, in [0, 1].
    seed
        Seed of the random bits; see ``draw_seed``.

    Raises
    ------
    TypeError, ValueError
        An argument, ``x`` or ``dy`` has the wrong type, value or shape.

    References
    ----------
    Srivastava et al. (2014), "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Dropout
    >>> dropout = Dropout(0.5, seed=0)
    >>> x = np.ones(8, dtype=np.float32)
    >>> dropout(x)
    array([2., 0., 0., 2., 2., 0., 0., 2.], dtype=float32)
    >>> dropout.backward(x)
    array([2., 0., 0., 2., 2., 0., 0., 2.], dtype=float32)
    >>> dropout.eval()(x) is x
    True
    """

    _buffers = ("_seed", "_offset")

    _part: tuple[int, int] | None = None
    """For a batch split over several processes: the number of samples before ``x``, and of samples in the batch."""

    _of_samples = True
    """Whether the first axis of ``x`` counts samples."""

    _drop = staticmethod(functional.dropout)
    _drop_backward = staticmethod(functional.dropout_backward)
    _arguments: ClassVar[tuple[str, ...]] = ()
    """Attributes that are arguments of the op, besides ``p``."""

    def __init__(self, p: float = 0.5, *, seed: Seed = None) -> None:
        """Draw the seed and start at offset 0."""
        self.p = validate.real("p", p, 0, 1)
        self._seed: NDArray[np.uint64] = np.array(draw_seed(seed), dtype=np.uint64)
        self._offset: NDArray[np.uint64] = np.zeros((), dtype=np.uint64)

    @property
    def seed(self) -> int:
        """The 64-bit seed of all masks."""
        return self._seed.item()

    @property
    def offset(self) -> int:
        """Where the random bits of the next training forward start."""
        return self._offset.item()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with elements dropped (training mode), or ``x`` itself (evaluation mode)."""
        if not self.training:
            validate.tensor("x", x)
            self._saved = (x.dtype, x.shape)
            return x
        p, seed, offset = self.p, self._seed.item(), self._first_draw(x)
        if not self._arguments:  # a call without ** takes 0.8 of the time on a small array
            options: dict[str, Any] = {}
            y = self._drop(x, p, seed=seed, offset=offset)
        else:
            options = {name: getattr(self, name) for name in self._arguments}
            y = self._drop(x, p, seed=seed, offset=offset, **options)
        shape = y.shape
        self._advance(shape)
        self._saved = (y.dtype, shape, p, seed, offset, options)
        return y

    def _first_draw(self, x: Tensor) -> int:
        """Return the offset of the random bits of ``x``: after those of the preceding samples of the batch."""
        offset: int = self._offset.item()
        return offset + self._decisions((self._part[0], *np.shape(x)[1:])) if self._part else offset

    def _advance(self, shape: tuple[int, ...]) -> None:
        """Advance the offset past the batch."""
        decisions = self._decisions((self._part[1], *shape[1:]) if self._part else shape)
        self._offset[()] = self._offset.item() + -(-decisions // _BLOCK) * _BLOCK

    def __copy__(self) -> Dropout:
        """Return a shallow copy whose forwards leave the offset of this layer as it is."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self), _offset=self._offset.copy())
        return twin

    def _gradient(self, dy: Tensor, saved: Any) -> Tensor:
        dtype, shape, *drawn = saved
        validate.gradient(dy, dtype, shape)
        if not drawn:
            return dy
        p, seed, offset, options = drawn
        return self._drop_backward(dy, p, seed=seed, offset=offset, **options)

    def _decisions(self, shape: tuple[int, ...]) -> int:
        """Return the number of keep-or-drop decisions for an array of this shape."""
        return math.prod(shape)


class SpatialDropout(Dropout):
    """Inverted dropout of whole channels, for ``x`` of shape (N, C, ...) or (N, ..., C).

    ``offset`` counts channels, rounded up in the same way. Otherwise it is the same as ``Dropout``.

    Parameters
    ----------
    p
        Probability of dropping a channel, in [0, 1].
    channel_axis
        Axis of the channels, 1 or -1.
    seed
        Seed of the random bits; see ``draw_seed``.

    References
    ----------
    Tompson et al. (2015), "Efficient Object Localization Using Convolutional Networks", arXiv:1411.4280.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import SpatialDropout
    >>> SpatialDropout(0.5, seed=0)(np.ones((1, 4, 3), dtype=np.float32))
    array([[[2., 2., 2.],
            [0., 0., 0.],
            [0., 0., 0.],
            [2., 2., 2.]]], dtype=float32)
    """

    _drop = staticmethod(functional.spatial_dropout)
    _drop_backward = staticmethod(functional.spatial_dropout_backward)
    _arguments = ("channel_axis",)

    def __init__(self, p: float = 0.5, *, channel_axis: int = 1, seed: Seed = None) -> None:
        """Check the axis."""
        super().__init__(p, seed=seed)
        self.channel_axis = validate.channel_axis(channel_axis)

    def _decisions(self, shape: tuple[int, ...]) -> int:
        return shape[0] * shape[self.channel_axis]


class AlphaDropout(Dropout):
    """Dropout for SELU, which keeps a mean of 0 and a variance of 1: see ``cregkit.alpha_dropout``.

    In training mode ``y = a * x + b`` where kept, ``a * alpha + b`` where dropped. Otherwise it is the same as
    ``Dropout``, with the same arguments.

    References
    ----------
    Klambauer et al. (2017), "Self-Normalizing Neural Networks", arXiv:1706.02515.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import AlphaDropout
    >>> AlphaDropout(0.5, seed=0)(np.ones(4, dtype=np.float32)).round(3)
    array([ 1.666, -0.779, -0.779,  1.666], dtype=float32)
    """

    _drop = staticmethod(functional.alpha_dropout)
    _drop_backward = staticmethod(functional.alpha_dropout_backward)


class FeatureAlphaDropout(SpatialDropout):
    """Alpha dropout of whole channels: ``AlphaDropout`` of the channels that ``SpatialDropout`` drops.

    References
    ----------
    Klambauer et al. (2017), "Self-Normalizing Neural Networks", arXiv:1706.02515.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import FeatureAlphaDropout
    >>> FeatureAlphaDropout(0.5, seed=0)(np.ones((1, 3, 2), dtype=np.float32)).round(3)
    array([[[ 1.666,  1.666],
            [-0.779, -0.779],
            [-0.779, -0.779]]], dtype=float32)
    """

    _drop = staticmethod(functional.feature_alpha_dropout)
    _drop_backward = staticmethod(functional.feature_alpha_dropout_backward)


class DropPath(Dropout):
    """Stochastic depth: inverted dropout of whole samples, for the branch of a residual block.

    ``offset`` counts samples, or batches, rounded up in the same way. Otherwise it is the same as ``Dropout``.

    Parameters
    ----------
    p
        Probability of dropping a sample, or the batch, in [0, 1].
    mode
        "row": each sample has its own decision. "batch": all samples have the same.
    seed
        Seed of the random bits; see ``draw_seed``.

    References
    ----------
    Huang et al. (2016), "Deep Networks with Stochastic Depth", arXiv:1603.09382.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import DropPath
    >>> DropPath(0.5, seed=0)(np.ones((4, 2), dtype=np.float32))
    array([[2., 2.],
           [0., 0.],
           [0., 0.],
           [2., 2.]], dtype=float32)
    """

    _drop = staticmethod(functional.drop_path)
    _drop_backward = staticmethod(functional.drop_path_backward)
    _arguments = ("mode",)

    def __init__(self, p: float = 0.5, *, mode: Literal["row", "batch"] = "row", seed: Seed = None) -> None:
        """Check the mode."""
        super().__init__(p, seed=seed)
        if mode not in ("row", "batch"):
            raise ValueError(f"mode must be 'row' or 'batch', got {mode!r}")
        self.mode: Literal["row", "batch"] = mode

    def _first_draw(self, x: Tensor) -> int:
        return super()._first_draw(x) if self.mode == "row" else self.offset

    def _decisions(self, shape: tuple[int, ...]) -> int:
        return shape[0] if self.mode == "row" else 1


class DropBlock(Dropout):
    """Dropout of square blocks of each channel, for ``x`` of shape (N, C, H, W) or (N, H, W, C).

    In training mode ``y = x * scale`` outside all blocks and 0 within; ``scale`` is the number of elements of the batch
    divided by the number of those outside. If several processes hold parts of a batch, each scales its own part.

    Parameters
    ----------
    p
        Share of elements that blocks would cover if they did not overlap, in [0, 1].
    block_size
        Side of a block, at least 1. Smaller maps have smaller blocks.
    channel_axis
        Axis of the channels, 1 or -1.
    seed
        Seed of the random bits; see ``draw_seed``.

    References
    ----------
    Ghiasi, Lin and Le (2018), "DropBlock: A regularization method for convolutional networks", arXiv:1810.12890.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import DropBlock
    >>> DropBlock(0.3, 2, seed=5)(np.ones((1, 1, 4, 6), dtype=np.float32))
    array([[[[1.2, 1.2, 1.2, 1.2, 1.2, 1.2],
             [0. , 0. , 1.2, 1.2, 1.2, 1.2],
             [0. , 0. , 1.2, 1.2, 1.2, 1.2],
             [1.2, 1.2, 1.2, 1.2, 1.2, 1.2]]]], dtype=float32)
    """

    _drop = staticmethod(functional.drop_block)
    _drop_backward = staticmethod(functional.drop_block_backward)
    _arguments = ("block_size", "channel_axis")

    def __init__(self, p: float = 0.1, block_size: int = 7, *, channel_axis: int = 1, seed: Seed = None) -> None:
        """Check the block's size and the axis."""
        super().__init__(p, seed=seed)
        self.block_size = validate.positive_int("block_size", block_size)
        self.channel_axis = validate.channel_axis(channel_axis)
