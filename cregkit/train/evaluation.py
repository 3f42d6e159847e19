"""Evaluation of a network: outputs, loss and accuracy over a data set, in evaluation mode."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers import Layer
from cregkit.layers.base import Tensor
from cregkit.layers.precision import widened
from cregkit.train import weights
from cregkit.train.losses import Loss, Targets, binary_cross_entropy, softmax_cross_entropy
from cregkit.train.weights import Weights

Inputs: TypeAlias = NDArray[Any]
"""Inputs of the network's first layer: float32, float16 or bfloat16, or ids of any integer dtype."""
Data: TypeAlias = tuple[Inputs, Targets]
"""A data set (x, targets), samples on the first axis: ``(np.eye(2, dtype=np.float32), np.array([0, 1]))``."""
Accuracy: TypeAlias = Callable[..., float]
"""An accuracy: ``accuracy(outputs, targets)`` returns percent; for weighted data it may take ``sample_weight=`` too."""

# Rows per forward in an evaluation (each id counts as a row) and numbers per call of a loss. They bound the memory for
# any size of the data set.
ROWS = 4096
NUMBERS = 1 << 22


def evaluate(network: Layer, loss: Loss, data: Data, accuracy: Accuracy | None = None) -> tuple[float, float]:
    """Return the mean loss and the accuracy of a network on a data set, in evaluation mode.

    Parameters, running statistics and dropout offsets are not changed. The network is left in evaluation mode.

    Parameters
    ----------
    network
        Layer that maps x to the outputs that ``loss`` takes.
    loss
        ``loss(outputs, targets)`` returns the mean over the batch and a gradient.
    data
        (x, targets), as for ``fit``.
    accuracy
        ``accuracy(outputs, targets)`` in percent. None selects the accuracy of ``loss``, as for ``fit``.

    Returns
    -------
    loss : float
        Mean loss.
    accuracy : float
        Accuracy in percent; NaN if ``loss`` has none.

    Raises
    ------
    TypeError
        ``data`` has the wrong type.
    ValueError
        ``data`` has the wrong shape.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.train import evaluate, softmax_cross_entropy
    >>> data = (np.eye(2, dtype=np.float32), np.array([0, 1]))
    >>> loss, accuracy = evaluate(Linear(2, 2, seed=0), softmax_cross_entropy, data)
    >>> round(loss, 3), accuracy
    (0.605, 50.0)
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


def predict(network: Layer, x: Inputs) -> Tensor:
    """Return the outputs of a network in evaluation mode, computed a few thousand samples at a time.

    Parameters
    ----------
    network
        Any layer; it is left in evaluation mode.
    x : shape (N, ...)
        Samples: float32, float16 or bfloat16, or ids of any integer dtype.

    Returns
    -------
    array, shape (N, ...)
        The outputs, of the dtype that the network returns.

    Raises
    ------
    TypeError
        ``x`` has another dtype.
    ValueError
        The shape or values of ``x`` do not match the network.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.train import predict
    >>> predict(Linear(4, 2, seed=0), np.zeros((3, 4), np.float32)).shape
    (3, 2)
    """
    _check_inputs("x", x)
    return np.concatenate([outputs for _, outputs in _outputs(network, x)])


def _outputs(network: Layer, x: Inputs) -> Iterator[tuple[slice, Tensor]]:
    network.eval()
    ids = math.prod(x.shape[1:]) if x.dtype.kind in "iu" else 1
    step = max(ROWS // max(ids, 1), 1)
    for start in range(0, max(len(x), 1), step):
        rows = slice(start, start + step)
        yield rows, network(x[rows])


@weights.weighed_by(weights.total_of_elements)
def binary_accuracy(logits: Tensor, targets: Targets, *, sample_weight: Weights | None = None) -> float:
    """Return the percentage of logits with the right sign: ``(logits >= 0) == (targets >= 0.5)``.

    Parameters
    ----------
    logits : any shape, float32, float16 or bfloat16
        Logits; NaN counts as wrong.
    targets : same shape
        Targets in [0, 1].
    sample_weight : shape (N,), or of more of the leading axes of ``logits``
        Weights, at least 0, or a bool mask; None means 1.

    Returns
    -------
    float
        Accuracy in percent of the weight; NaN if all weights are 0.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.train import binary_accuracy
    >>> binary_accuracy(np.array([2.0, -1.0], np.float32), np.array([1.0, 1.0], np.float32))
    50.0
    """
    logits = widened(logits)
    right = ((logits >= 0) == (targets >= 0.5)) & ~np.isnan(logits)
    return _percentage(right, None if sample_weight is None else weights.broadcast(sample_weight, right.shape))


@weights.weighed_by(weights.total_of_rows)
def class_accuracy(
    logits: Tensor, targets: Targets, *, ignore_index: int | None = None, sample_weight: Weights | None = None
) -> float:
    """Return the percentage of rows whose largest logit belongs to the target class.

    Parameters
    ----------
    logits : shape (N, C) or (N, ..., C), float32, float16 or bfloat16
        Logits; a row that contains NaN counts as wrong.
    targets : shape of ``logits`` without C, or shape of ``logits``
        Class indices, or class probabilities, of which the largest is the target class.
    ignore_index
        Class index of rows that do not count; None means that all count.
    sample_weight : shape (N,), or of more of the leading axes of ``logits`` without C
        Weights of the rows, at least 0, or a bool mask; None means 1.

    Returns
    -------
    float
        Accuracy in percent of the weight; NaN if nothing counts.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.train import class_accuracy
    >>> class_accuracy(np.array([[2.0, -1.0], [0.5, 0.0]], np.float32), np.array([0, 1]))
    50.0
    """
    logits = widened(logits)
    wanted = targets if targets.ndim < logits.ndim else targets.argmax(axis=-1)
    right = (logits.argmax(axis=-1) == wanted) & ~np.isnan(logits.max(axis=-1))
    if ignore_index is None and sample_weight is None:
        return _percentage(right, None)
    return _percentage(right, weights.of_rows(targets, ignore_index, None, sample_weight)[1])


def _percentage(right: NDArray[np.bool_], w: NDArray[np.float64] | None) -> float:
    if w is None:
        return 100 * float(right.mean())
    total = float(w.sum())
    return 100 * float(w[right].sum()) / total if total else math.nan


def accuracy_of(loss: Loss) -> Accuracy:
    """Return the accuracy of a loss of this package, or of a ``partial`` of one; for other losses, one that is NaN."""
    known: dict[Any, Accuracy] = {binary_cross_entropy: binary_accuracy, softmax_cross_entropy: class_accuracy}
    function, bound = (loss.func, loss.keywords) if isinstance(loss, functools.partial) else (loss, {})
    accuracy = known.get(function, _no_accuracy)
    if accuracy is class_accuracy and "ignore_index" in bound:
        return functools.partial(accuracy, ignore_index=bound["ignore_index"])
    return accuracy


def _no_accuracy(outputs: Tensor, targets: Targets) -> float:
    return float("nan")


def fitted(targets: Targets, outputs: Tensor) -> Targets:
    """Return float targets of shape (N,) as shape (N, 1) if the outputs have that shape, else unchanged."""
    if targets.ndim == 1 and outputs.shape == (len(targets), 1) and np.issubdtype(targets.dtype, np.floating):
        return targets[:, None]
    return targets


def _check_inputs(name: str, x: object) -> None:
    """Raise TypeError unless ``x`` is an array of a dtype that layers take: a tensor's, or integer for ids."""
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "iu":
        validate.tensor(name, x)


def checked_data(name: str, data: Data) -> Data:
    """Return ``data`` as (x, targets) after validating types and lengths."""
    if not isinstance(data, tuple) or len(data) != 2:
        raise TypeError(f"{name} must be a tuple (x, y), got {validate.shown(data)}")
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
