"""Fully connected layer whose weights are dropped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cregkit.layers.base import Layer, Tensor
from cregkit.layers.dropout import Dropout
from cregkit.layers.linear import Linear
from cregkit.layers.precision import widened_parameter
from cregkit.layers.seeding import Seed, draw_seed


class DropConnect(Linear):
    """Fully connected layer that drops weights: ``y = x @ dropped(weight).T + bias``.

    In training mode, each weight is dropped with probability ``p`` and the others are divided by ``1 - p``; in
    evaluation mode, the layer is a ``Linear``. One mask serves all samples of a batch, where the paper draws one for
    each sample; the next batch has another. Biases are not dropped. No mask is stored: backward draws it again. The
    processes that share a batch draw the same mask.

    Parameters
    ----------
    in_features
        Size of the last axis of ``x``, at least 1.
    out_features
        Size of the last axis of ``y``, at least 1.
    p
        Probability of dropping a weight, in [0, 1].
    bias
        Whether to add a bias. Without it, the attribute ``bias`` is None.
    seed
        Seed of the initial values, which are those of a ``Linear`` with the same seed, and of the masks; see
        ``draw_seed``.

    Raises
    ------
    TypeError, ValueError
        An argument, ``x`` or ``dy`` has the wrong type, value or shape.

    References
    ----------
    Wan, Zeiler, Zhang, LeCun and Fergus (2013), "Regularization of Neural Networks using DropConnect", ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import DropConnect
    >>> layer = DropConnect(4, 2, p=0.5, bias=False, seed=0)
    >>> layer.weight[...] = 1
    >>> x = np.eye(4, dtype=np.float32)
    >>> layer(x).T
    array([[2., 0., 0., 0.],
           [0., 2., 0., 0.]], dtype=float32)
    >>> layer.eval()(x).T
    array([[1., 1., 1., 1.],
           [1., 1., 1., 1.]], dtype=float32)
    """

    def __init__(
        self, in_features: int, out_features: int, p: float = 0.5, bias: bool = True, *, seed: Seed = None
    ) -> None:
        """Draw the initial weight and bias, and the seed of the masks."""
        drawn = draw_seed(seed)
        super().__init__(in_features, out_features, bias, seed=drawn)
        self.dropout = _WeightDropout(p, seed=np.random.SeedSequence(drawn))

    def _children(self) -> Iterator[tuple[str, Layer]]:
        yield "dropout", self.dropout

    def _weight_of_batch(self, x: Tensor) -> Tensor:
        return self.dropout(widened_parameter("weight", self.weight, x))

    def _gradient(self, dy: Tensor, saved: tuple[Tensor, Tensor]) -> Tensor:
        dx = super()._gradient(dy, saved)
        assert self.dweight is not None  # the line above computes it
        self.dweight = self.dropout.backward(self.dweight)
        return dx


class _WeightDropout(Dropout):
    """Dropout of an array whose first axis is no axis of samples."""

    _of_samples = False
