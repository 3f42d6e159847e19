"""The network of the experiments: one hidden layer, with the regularisation of your choice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from cregkit.functional import sgd_step
from cregkit.layers import (
    BatchNorm,
    Dropout,
    Layer,
    LayerNorm,
    Linear,
    ReLU,
    RMSNorm,
    Seed,
    Sequential,
    draw_seed,
    validate,
)
from cregkit.layers.activations import sigmoid
from cregkit.layers.base import Array
from cregkit.train.history import History
from cregkit.train.losses import binary_cross_entropy

Data: TypeAlias = tuple[Array, Array]

NORMS: dict[str, Callable[[int], Layer]] = {"batch": BatchNorm, "layer": LayerNorm, "rms": RMSNorm}


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
        if norm is not None and norm not in NORMS:
            raise ValueError(f"norm must be None or one of {', '.join(map(repr, NORMS))}, got {norm!r}")
        self.hidden_size = validate.positive_int("hidden_size", hidden_size)
        self.lr = validate.real("lr", lr, 0)
        self.dropout_p = validate.real("dropout_p", dropout_p, 0, 1)
        self.weight_decay = validate.real("weight_decay", weight_decay, 0)
        self.norm = norm
        weight_stream, order_stream, mask_stream = np.random.SeedSequence(draw_seed(seed)).spawn(3)
        weights = np.random.default_rng(weight_stream)
        self._order = np.random.default_rng(order_stream)

        layers: list[Layer] = [_linear(2, hidden_size, weights)]
        if norm is not None:
            layers.append(NORMS[norm](hidden_size))
        layers.append(ReLU())
        if dropout_p > 0:
            layers.append(Dropout(dropout_p, seed=mask_stream))
        layers.append(_linear(hidden_size, 1, weights))
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
        mode.

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
        validate.positive_int("epochs", epochs)
        validate.positive_int("batch_size", batch_size)
        x, y = _checked("train", train)
        _checked("test", test)
        if self.norm == "batch" and min(batch_size, len(x)) < 2:
            raise ValueError(
                f"batch_size must be at least 2, and train too, with norm='batch': one sample has no variance; "
                f"got batch_size={batch_size} and {len(x)} samples"
            )
        history = History()
        for epoch in range(epochs):
            self.train()
            order = self._order.permutation(len(x))
            x_in_order, targets = x[order], y[order, None]
            for batch in self._batches(len(x), batch_size):
                self._step(x_in_order[batch], targets[batch])
            history.record(self.evaluate(train), self.evaluate(test))
            if on_epoch is not None:
                on_epoch(epoch, history)
        return history

    def evaluate(self, data: Data) -> tuple[float, float]:
        """Return the mean cross-entropy in nats and the accuracy in percent on ``data``, in evaluation mode.

        Raises:
            TypeError, ValueError: ``data`` has the wrong type or shape.
        """
        x, y = _checked("data", data)
        logits = self.eval().forward(x)
        loss, _ = binary_cross_entropy(logits, y[:, None])
        return loss, 100 * float(((logits[:, 0] >= 0) == (y >= 0.5)).mean())

    def predict_proba(self, x: Array) -> Array:
        """Return the probability of label 1 for each point of ``x``, float32 of shape (n,), in evaluation mode.

        Raises:
            TypeError, ValueError: ``x`` is not float32 or has not the shape (n, 2).
        """
        return sigmoid(self.eval().forward(x)[:, 0])

    def _batches(self, n: int, batch_size: int) -> Iterator[slice]:
        """Yield the slices of an epoch; see ``fit`` for the last one."""
        last = n - 1 if self.norm == "batch" and n % batch_size == 1 else n
        for start in range(0, last, batch_size):
            stop = start + batch_size
            yield slice(start, n if stop >= last else stop)

    def _step(self, x: Array, targets: Array) -> None:
        """Take one step of SGD on a batch."""
        _, dlogits = binary_cross_entropy(self.forward(x), targets)
        self.backward(dlogits)
        for parameter in self.parameters():
            assert parameter.grad is not None
            sgd_step(
                parameter.value,
                parameter.grad,
                self.lr,
                weight_decay=self.weight_decay if parameter.decay else 0.0,
            )


def _linear(in_features: int, out_features: int, rng: np.random.Generator) -> Linear:
    """Return a Linear with normal weights of deviation 0.5 and biases of 0."""
    layer = Linear(in_features, out_features, seed=rng)
    layer.weight[...] = rng.normal(0, 0.5, layer.weight.shape)
    layer.bias = np.zeros(out_features, dtype=np.float32)
    return layer


def _checked(name: str, data: Data) -> Data:
    """Return ``data`` as (x, y) once its dtypes and shapes are seen to be right."""
    if not isinstance(data, tuple) or len(data) != 2:
        raise TypeError(f"{name} must be a tuple (x, y)")
    x, y = data
    validate.float32(f"{name}[0]", x)
    validate.float32(f"{name}[1]", y)
    if x.ndim != 2 or x.shape[1] != 2 or y.shape != x.shape[:1] or not len(y):
        raise ValueError(f"{name} must have shapes (n, 2) and (n,) with n at least 1, got {x.shape} and {y.shape}")
    if not (y.min() >= 0 and y.max() <= 1):
        raise ValueError(f"{name}[1] must hold labels in [0, 1], got values from {y.min():g} to {y.max():g}")
    return x, y
