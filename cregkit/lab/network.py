"""The network of the demonstration: one hidden layer, with selectable regularisation."""

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
from cregkit.train.data import Data, checked_data
from cregkit.train.evaluation import evaluate
from cregkit.train.fit import fit
from cregkit.train.history import History
from cregkit.train.losses import binary_cross_entropy
from cregkit.train.optimizers import SGD


class RegularizedNetwork(Sequential):
    """Binary classifier of points: Linear(2, hidden) -> [norm] -> ReLU -> [Dropout] -> Linear(hidden, 1).

    Initial weights are normal with standard deviation 0.5, biases 0. Initial weights, sample order and dropout masks
    each have their own random stream derived from ``seed``, so networks that differ only in regularisation have the
    same initial weights and sample order. Data sets are tuples (x, y): points x, float32 of shape (N, 2), and labels y,
    float32 of shape (N,) with values in [0, 1].

    Parameters
    ----------
    hidden_size
        Neurons of the hidden layer, at least 1.
    lr
        Learning rate of SGD, at least 0.
    dropout_p
        Dropout probability of the hidden neurons, in [0, 1]; 0 omits the layer.
    weight_decay
        L2 coefficient of the weights, at least 0; biases, gamma and beta do not decay.
    norm
        Normalisation before the ReLU: None, ``"batch"``, ``"layer"`` or ``"rms"``.
    seed
        An int in [0, 2**64), a Generator, a SeedSequence, or None for fresh entropy.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has the wrong value.

    Examples
    --------
    >>> from cregkit import RegularizedNetwork
    >>> from cregkit.lab.data import circle_data
    >>> network = RegularizedNetwork(hidden_size=32, lr=0.5, dropout_p=0.2, seed=0)
    >>> history = network.fit(circle_data(60, seed=0), circle_data(200, seed=1), epochs=20)
    >>> len(history)
    20
    >>> network.evaluate(circle_data(200, seed=2))[1] > 85
    True
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
        """Train by mini-batch SGD on the binary cross-entropy and return the metrics of every epoch.

        See ``cregkit.train.fit`` for evaluation, batches, divergence and Ctrl-C. A second call continues training.

        Parameters
        ----------
        train
            Training set.
        test
            Test set; it is evaluated, never trained on.
        epochs
            Number of passes over ``train``, at least 1.
        batch_size
            Samples per step, at least 1; with ``norm="batch"`` at least 2.
        on_epoch
            Function to call after each epoch with its index, from 0, and the history.

        Returns
        -------
        History
            The metrics of each epoch.

        Raises
        ------
        TypeError
            An argument has the wrong type.
        ValueError
            An argument has the wrong value or shape. Nothing is trained in this case.
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
        """Evaluate the network in evaluation mode.

        Parameters
        ----------
        data
            A data set.

        Returns
        -------
        loss : float
            Mean binary cross-entropy in nats.
        accuracy : float
            Accuracy in percent.

        Raises
        ------
        TypeError
            The data have the wrong type.
        ValueError
            The data have the wrong shape or values.
        """
        _checked("data", data)
        return evaluate(self, binary_cross_entropy, data)

    def predict_proba(self, x: Array) -> Array:
        """Return the probability of label 1 for each point, in evaluation mode.

        Parameters
        ----------
        x : shape (N, 2), float32
            Points.

        Returns
        -------
        array, shape (N,), float32
            Probabilities.

        Raises
        ------
        TypeError
            The array ``x`` is not float32.
        ValueError
            The shape of ``x`` is wrong.
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
    x, y = checked_data(name, data)[:2]
    validate.float32(f"{name}[0]", x)
    validate.float32(f"{name}[1]", y)
    if len(x.shape) != 2 or x.shape[1] != 2 or y.ndim != 1:
        raise ValueError(f"{name} must have shapes (n, 2) and (n,) with n at least 1, got {x.shape} and {y.shape}")
    validate.within(f"{name}[1] must hold labels in [0, 1]", y, 0, 1)
