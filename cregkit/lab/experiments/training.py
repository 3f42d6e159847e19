"""Shared training code of the experiments: tasks, perceptrons, and one fit with its metrics."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cregkit.lab.data import circle_data
from cregkit.lab.demo import LABEL_NOISE, TEST_SEED, TEST_SIZE, TRAIN_SIZE
from cregkit.lab.framework import Figures
from cregkit.lab.network import normal_linear
from cregkit.layers import Dropout, Layer, Linear, ReLU, Sequential
from cregkit.layers.base import Array
from cregkit.layers.norms import norm_layers
from cregkit.train import Data, History, Loss, Optimizer, binary_cross_entropy, evaluate, fit, softmax_cross_entropy
from cregkit.train.callbacks import AnyCallback

CIRCLE_SETUP = f"circle, {TRAIN_SIZE} training points with {LABEL_NOISE:.0%} wrong labels, {TEST_SIZE} test points"


class Task(NamedTuple):
    """Training set, test set, loss, numbers of inputs and outputs, and initial weights."""

    train: Data
    test: Data
    loss: Loss
    n_in: int
    n_out: int
    deviation: float | None = None
    """Standard deviation of the initial weights; None selects the initialisation of ``Linear``."""


def circle(seed: int, *, label_smoothing: float = 0.0) -> Task:
    """Return noisy training points drawn from the seed, and the same clean test points for every seed."""
    loss = functools.partial(binary_cross_entropy, label_smoothing=label_smoothing)
    train = circle_data(TRAIN_SIZE, seed=seed, noise=LABEL_NOISE)
    return Task(train, circle_data(TEST_SIZE, seed=TEST_SEED), loss, 2, 1, deviation=0.5)


def digits(seed: int, n_train: int, n_test: int | None = None) -> Task:
    """Return scikit-learn's 1797 handwritten digits, 8x8 pixels in [0, 1], split by the seed."""
    x, y = _bundled("load_digits")
    (train, test) = _split((x / np.float32(16), y), seed, n_train, n_test)
    return Task(train, test, softmax_cross_entropy, x.shape[1], 10)


def breast_cancer(seed: int, n_train: int, *, label_smoothing: float = 0.0) -> Task:
    """Return scikit-learn's breast cancer data, 569 rows of 30 features, standardised by the training rows."""
    x, y = _bundled("load_breast_cancer")
    (x_train, y_train), (x_test, y_test) = _split((x, y.astype(np.float32)), seed, n_train, None)
    mean, deviation = x_train.mean(axis=0), x_train.std(axis=0)
    loss = functools.partial(binary_cross_entropy, label_smoothing=label_smoothing)
    return Task(((x_train - mean) / deviation, y_train), ((x_test - mean) / deviation, y_test), loss, x.shape[1], 1)


@functools.cache
def _bundled(loader: str) -> tuple[Array, NDArray[Any]]:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError("this experiment needs scikit-learn: pip install 'cregkit[lab]'") from error
    x, y = getattr(datasets, loader)(return_X_y=True)
    return x.astype(np.float32), y


def _split(data: Data, seed: int, n_train: int, n_test: int | None) -> tuple[Data, Data]:
    order = np.random.default_rng([seed, 1]).permutation(len(data[0]))
    train, test = order[:n_train], order[n_train:][:n_test]
    return (data[0][train], data[1][train]), (data[0][test], data[1][test])


def perceptron(
    task: Task,
    hidden: Sequence[int],
    seed: int,
    *,
    norm: str | None = None,
    dropout: float = 0.0,
    drop: Callable[..., Layer] = Dropout,
) -> Sequential:
    """Return Linear -> [norm] -> ReLU -> [dropout] for each hidden size, then Linear.

    Weights depend on the seed alone, so networks that differ only in norm and dropout start with the same weights.

    Parameters
    ----------
    task
        Task, for the numbers of inputs and outputs.
    hidden
        Hidden sizes.
    seed
        Seed of weights and masks.
    norm
        Name of the norm, or None.
    dropout
        Dropout probability; 0 omits the dropout layers.
    drop
        Function that creates a dropout layer from a probability and ``seed=``.

    Returns
    -------
    Sequential
        The network.
    """
    weights, masks = (np.random.default_rng(child) for child in np.random.SeedSequence([seed, 2]).spawn(2))
    *linear, last = (
        Linear(*ends, seed=weights) if task.deviation is None else normal_linear(*ends, weights, task.deviation)
        for ends in itertools.pairwise((task.n_in, *hidden, task.n_out))
    )
    layers: list[Layer] = []
    for layer, size in zip(linear, hidden, strict=True):
        layers += [layer, *norm_layers(norm, size), ReLU()]
        if dropout:
            layers.append(drop(dropout, seed=masks))
    return Sequential(*layers, last)


def train(
    network: Layer,
    task: Task,
    optimizer: Optimizer,
    epochs: int,
    seed: int,
    *,
    batch_size: int,
    callbacks: Sequence[AnyCallback] = (),
    watch_test: bool = False,
) -> History:
    """Fit the network; evaluate the training set each epoch, and with ``watch_test`` the test set too.

    Parameters
    ----------
    network
        The layer to train.
    task
        Data and loss.
    optimizer, epochs
        As for ``cregkit.train.fit``.
    seed
        Seed of the sample order.
    batch_size, callbacks
        As for ``cregkit.train.fit``.
    watch_test
        Whether to evaluate the test set each epoch.

    Returns
    -------
    History
        Metrics per epoch.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C was pressed.
    """
    history = fit(
        network,
        task.loss,
        optimizer,
        task.train,
        task.test if watch_test else None,
        epochs,
        batch_size=batch_size,
        seed=seed,
        callbacks=callbacks,
    )
    if history.interrupted:
        raise KeyboardInterrupt
    return history


def outcome(network: Layer, task: Task, history: History) -> Figures:
    """Return training accuracy, test accuracy and gap after the last epoch."""
    train_acc = history.train_acc[-1]
    _, test_acc = evaluate(network, task.loss, task.test)
    return {"train_acc": train_acc, "test_acc": test_acc, "gap": train_acc - test_acc}
