"""The network of the experiments: one hidden layer, with the regularisation of your choice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cregkit import _validate as validate
from cregkit.layers import (
    Dropout,
    Layer,
    Linear,
    ReLU,
    Seed,
    Sequential,
    draw_seed,
)
from cregkit.layers.activations import sigmoid
from cregkit.layers.base import Array
from cregkit.layers.norms import norm_layers
from cregkit.train.evaluation import Data, checked_data, evaluate
from cregkit.train.fit import fit
from cregkit.train.history import History
from cregkit.train.losses import binary_cross_entropy
from cregkit.train.optimizers import SGD


class RegularizedNetwork(Sequential):
    """Linear(2, hidden) -> [norm] -> ReLU -> [Dropout] -> Linear(hidden, 1): logits of a yes-or-no question on points.

    Weights start normal with deviation 0.5, biases at 0. All random numbers come from ``seed``: initial weights, the
    order of the samples and the dropout masks from a stream each, so that networks which differ in their
    regularisation alone start and go through the data alike. Data sets are tuples (x, y): points x, float32 of shape
    (n, 2), and labels y, float32 of shape (n,) with values in [0, 1].

    Args:
        hidden_size: neurons of the hidden layer.
        lr: step size of SGD.
        dropout_p: probability of dropping a hidden neuron in training; 0 leaves dropout out.
        weight_decay: L2 coefficient, applied to the weights and never to biases, gamma or beta.
        norm: None, "batch", "layer" or "rms": the normalisation before the ReLU.
        seed: int in [0, 2**64), numpy Generator or SeedSequence, or None for fresh entropy.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value.
    """

    def __init__(
        self,
        hidden_size: int = 16,
        lr: float = 0.05,
        dropout_p: float = 0.0,
        weight_decay: float = 0.0,
        norm: str | None = None,
        *,
        seed: Seed = 0,
    ) -> None:
        """Draw the initial weights."""
        self.hidden_size = validate.positive_int("hidden_size", hidden_size)
        self.lr = validate.real("lr", lr, 0)
        self.dropout_p = validate.real("dropout_p", dropout_p, 0, 1)
        self.weight_decay = validate.real("weight_decay", weight_decay, 0)
        self.norm = norm
        weight_stream, order_stream, mask_stream = np.random.SeedSequence(draw_seed(seed)).spawn(3)
        weights = np.random.default_rng(weight_stream)
        self._order = np.random.default_rng(order_stream)

        layers: list[Layer] = [normal_linear(2, hidden_size, weights), *norm_layers(norm, hidden_size), ReLU()]
        if dropout_p > 0:
            layers.append(Dropout(dropout_p, seed=mask_stream))
        layers.append(normal_linear(hidden_size, 1, weights))
        super().__init__(*layers)

    def fit(
        self,
        train: Data,
        test: Data,
        epochs: int = 300,
        *,
        batch_size: int = 16,
        on_epoch: Callable[[int, History], None] | None = None,
    ) -> History:
        """Train by mini-batch SGD on the binary cross-entropy and return the figures of every epoch.

        Each epoch goes through ``train`` once in a new order, then measures both sets in evaluation mode. The training
        figures are thus those of the same network as the test figures, without dropout and with the running
        statistics: figures taken while training would put dropout's noise into the gap. The losses leave out the
        penalty of weight decay. A second call goes on from where the first ended. The network is left in evaluation
        mode. Training that diverges ends, with a DivergenceWarning, as ``cregkit.train.fit`` says.

        Args:
            train: the training set.
            test: the test set; it is only looked at.
            epochs: how often to go through ``train``.
            batch_size: samples per step; 1 is online SGD. The last batch of an epoch is smaller when the numbers do
                not divide; with norm="batch" a last batch of one sample, which has no variance, joins the one before.
            on_epoch: called after each epoch with its number, from 0, and the history so far.

        Raises:
            TypeError, ValueError: an argument has the wrong type, value or shape; nothing has been trained then. With
                norm="batch" that includes a batch size, or a training set, of one.
        """
        _checked("train", train)
        _checked("test", test)
        return fit(
            self,
            binary_cross_entropy,
            SGD(self, self.lr, weight_decay=self.weight_decay),
            train,
            test,
            epochs,
            batch_size=batch_size,
            seed=self._order,
            callbacks=() if on_epoch is None else [lambda state: on_epoch(state.epoch, state.history)],
        )

    def evaluate(self, data: Data) -> tuple[float, float]:
        """Return the mean cross-entropy in nats and the accuracy in percent on ``data``, in evaluation mode.

        Raises:
            TypeError, ValueError: ``data`` has the wrong type or shape.
        """
        _checked("data", data)
        return evaluate(self, binary_cross_entropy, data)

    def predict_proba(self, x: Array) -> Array:
        """Return the probability of label 1 for each point of ``x``, float32 of shape (n,), in evaluation mode.

        Raises:
            TypeError, ValueError: ``x`` is not float32 or has not the shape (n, 2).
        """
        return sigmoid(self.eval().forward(x)[:, 0])


def normal_linear(in_features: int, out_features: int, rng: np.random.Generator, deviation: float = 0.5) -> Linear:
    """Return a Linear with normal weights of that deviation and biases of 0."""
    layer = Linear(in_features, out_features, seed=rng)
    layer.weight[...] = rng.normal(0, deviation, layer.weight.shape)
    layer.bias = np.zeros(out_features, dtype=np.float32)
    return layer


def _checked(name: str, data: Data) -> None:
    """Refuse data that are not points and labels in [0, 1]."""
    x, y = checked_data(name, data)
    validate.float32(f"{name}[0]", x)
    validate.float32(f"{name}[1]", y)
    if x.ndim != 2 or x.shape[1] != 2 or y.ndim != 1:
        raise ValueError(f"{name} must have shapes (n, 2) and (n,) with n at least 1, got {x.shape} and {y.shape}")
    validate.within(f"{name}[1] must hold labels in [0, 1]", y, 0, 1)
