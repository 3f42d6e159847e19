"""Measuring a network: outputs in evaluation mode, loss and accuracy over a data set."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers import Layer
from cregkit.layers.base import Array
from cregkit.train.losses import Loss, Targets, binary_cross_entropy, softmax_cross_entropy

Inputs: TypeAlias = NDArray[Any]
"""float32, or ids of any integer dtype: whatever the network's first layer takes."""
Data: TypeAlias = tuple[Inputs, Targets]
Accuracy: TypeAlias = Callable[[Array, Targets], float]

# Rows per forward of an evaluation, where each id is a row to the network, and numbers per call of a loss: memory stays
# bounded whatever the size of the set.
ROWS = 4096
NUMBERS = 1 << 22


def evaluate(network: Layer, loss: Loss, data: Data, accuracy: Accuracy | None = None) -> tuple[float, float]:
    """Return the mean loss and the accuracy in percent of ``network`` on ``data``, in evaluation mode.

    Running statistics, dropout's position and parameters stay as they are; the network is left in evaluation mode.

    Args:
        network: the layer that maps x, float32 or ids, to the loss's outputs.
        loss: ``loss(outputs, targets)`` returns the mean over the batch and a gradient.
        data: (x, targets), as for ``fit``.
        accuracy: ``accuracy(outputs, targets)`` in percent; None: the one that belongs to ``loss``, as for ``fit``.

    Raises:
        TypeError, ValueError: ``data`` has the wrong type or shape.
    """
    x, targets = checked_data("data", data)
    measure = accuracy or accuracy_of(loss)
    mean_loss = mean_accuracy = 0.0
    for rows, outputs in _outputs(network, x):
        wanted = fitted(targets[rows], outputs)
        weight = len(outputs) / len(x)
        mean_loss += weight * loss(outputs, wanted)[0]
        mean_accuracy += weight * measure(outputs, wanted)
    return mean_loss, mean_accuracy


def predict(network: Layer, x: Inputs) -> Array:
    """Return the outputs of ``network`` for the samples of ``x``, in evaluation mode, a few thousand at a time.

    Raises:
        TypeError, ValueError: ``x`` is neither float32 nor integers, or does not suit the network.
    """
    _check_inputs("x", x)
    return np.concatenate([outputs for _, outputs in _outputs(network, x)])


def _outputs(network: Layer, x: Inputs) -> Iterator[tuple[slice, Array]]:
    network.eval()
    ids = math.prod(x.shape[1:]) if x.dtype.kind in "iu" else 1
    step = max(ROWS // max(ids, 1), 1)
    for start in range(0, max(len(x), 1), step):
        rows = slice(start, start + step)
        yield rows, network(x[rows])


def binary_accuracy(logits: Array, targets: Targets) -> float:
    """Return the percentage of ``logits`` on the side of 0 that ``targets``, in [0, 1], are on of 0.5.

    A logit that is NaN is on neither.
    """
    return 100 * float((((logits >= 0) == (targets >= 0.5)) & ~np.isnan(logits)).mean())


def class_accuracy(logits: Array, targets: Targets) -> float:
    """Return the percentage of rows whose largest logit is that of the class wanted; a row with a NaN has none.

    Args:
        logits: shape (N, C) or (N, ..., C).
        targets: class numbers, of that shape without C; or probabilities of that shape, whose largest counts.
    """
    wanted = targets if targets.ndim < logits.ndim else targets.argmax(axis=-1)
    return 100 * float(((logits.argmax(axis=-1) == wanted) & ~np.isnan(logits.max(axis=-1))).mean())


def accuracy_of(loss: Loss) -> Accuracy:
    """Return the accuracy that belongs to a loss of this package, or to a partial of one; for others, always NaN."""
    known: dict[Any, Accuracy] = {binary_cross_entropy: binary_accuracy, softmax_cross_entropy: class_accuracy}
    function = loss.func if isinstance(loss, functools.partial) else loss
    return known.get(function, _no_accuracy)


def _no_accuracy(outputs: Array, targets: Targets) -> float:
    return float("nan")


def fitted(targets: Targets, outputs: Array) -> Targets:
    """Return float targets of shape (N,) as a column where the outputs are one; all others as they are."""
    if targets.ndim == 1 and outputs.shape == (len(targets), 1) and np.issubdtype(targets.dtype, np.floating):
        return targets[:, None]
    return targets


def _check_inputs(name: str, x: object) -> None:
    """Refuse what no layer takes."""
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "iu":
        validate.float32(name, x)


def checked_data(name: str, data: Data) -> Data:
    """Return ``data`` as (x, targets) once types and lengths are seen to be right."""
    if not isinstance(data, tuple) or len(data) != 2:
        raise TypeError(f"{name} must be a tuple (x, y), got {type(data).__name__}")
    x, targets = data
    _check_inputs(f"{name}[0]", x)
    if not isinstance(targets, np.ndarray):
        raise TypeError(f"{name}[1] must be an array, got {type(targets).__name__}; use np.asarray")
    if not x.ndim or not targets.ndim or len(x) != len(targets) or not len(x):
        raise ValueError(
            f"{name} must hold one target for each sample, and at least one, got shapes {x.shape} and {targets.shape}"
        )
    if not x.flags.c_contiguous:
        raise ValueError(f"{name}[0] must be C-contiguous; use np.ascontiguousarray({name}[0])")
    return x, targets
