"""Evaluation of a network: outputs, loss and accuracy over a data set, in evaluation mode."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cregkit.layers import Layer
from cregkit.layers.base import Tensor
from cregkit.layers.precision import widened
from cregkit.train import weights
from cregkit.train.data import Batch, Batches, DataSet, Inputs, Rows, Samples, check_inputs, opened, taken
from cregkit.train.losses import Loss, Targets, binary_cross_entropy, softmax_cross_entropy
from cregkit.train.weights import Weights, total_weight

Accuracy: TypeAlias = Callable[..., float]
"""An accuracy: ``accuracy(outputs, targets)`` returns percent; for weighted data it may take ``sample_weight=`` too."""
Metric: TypeAlias = Callable[..., float]
"""A metric: ``metric(outputs, targets)``; for weighted data it may take ``sample_weight=`` too."""

# Rows per forward in an evaluation (each id counts as a row) and numbers per call of a loss. They bound the memory for
# any size of the data set.
ROWS = 4096
NUMBERS = 1 << 22


class Figures(NamedTuple):
    """Mean loss, accuracy in percent and metrics by name of a network on a data set."""

    loss: float
    accuracy: float
    metrics: dict[str, float]


def evaluate(network: Layer, loss: Loss, data: DataSet, accuracy: Accuracy | None = None) -> tuple[float, float]:
    """Return the mean loss and the accuracy of a network on a data set, in evaluation mode.

    Parameters, running statistics and dropout offsets are not changed. The network is left in evaluation mode. Both
    means are exact for weighted data: parts of the data set are merged by their total weights.

    Parameters
    ----------
    network
        Layer that maps x to the outputs that ``loss`` takes.
    loss
        ``loss(outputs, targets)`` returns the mean over the batch and a gradient.
    data
        (x, targets) or (x, targets, sample_weight), or an iterable of such batches, as for ``fit``.
    accuracy
        ``accuracy(outputs, targets)`` in percent. None selects the accuracy of ``loss``, as for ``fit``.

    Returns
    -------
    loss : float
        Mean loss; 0 if the total weight is 0.
    accuracy : float
        Accuracy in percent; NaN if ``loss`` has none, or the total weight is 0.

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
    found = evaluation(network, loss, accuracy or accuracy_of(loss), opened("data", data))
    return found.loss[1], found.accuracy[1]


class Evaluation(NamedTuple):
    """Total weight and mean of the loss and of the accuracy over a part of a data set, and the kept outputs."""

    loss: tuple[float, float]
    accuracy: tuple[float, float]
    kept: list[Batch]
    """Outputs, targets and weights."""


def evaluation(
    network: Layer,
    loss: Loss,
    accuracy: Accuracy,
    data: Samples | Batches,
    *,
    keep: bool = False,
    bounds: Callable[[int], tuple[int, int]] = lambda n: (0, n),
) -> Evaluation:
    """Evaluate the samples from ``bounds(n)`` of a data set, or of each of its batches, of n samples."""
    network.eval()
    losses, accuracies, kept = [], [], []
    for x, targets, weight in _parts(data, bounds):
        outputs = network(x)
        wanted = fitted(targets, outputs)
        losses.append((total_weight(loss, wanted, weight), called(loss, outputs, wanted, weight)[0]))
        own = None if weight is None or not takes_weights(accuracy) else weight
        accuracies.append((total_weight(accuracy, wanted, own), called(accuracy, outputs, wanted, own)))
        if keep:
            kept.append(Batch(outputs, wanted, weight))
    return Evaluation(merged(losses), merged(accuracies), kept)


def _parts(data: Samples | Batches, bounds: Callable[[int], tuple[int, int]]) -> Iterator[Batch]:
    """Yield a data set in parts small enough for one forward."""
    if isinstance(data, Batches):
        for batch in data:
            yield from _parts(Samples(*batch), bounds)
        return
    start, stop = bounds(len(data.targets))
    step = _rows_at_once(data.x)
    for first in range(start, stop, step):
        yield data.at(slice(first, min(first + step, stop)))


def merged(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the total weight and the mean of parts, given those of each; parts of weight 0 do not count."""
    total = sum(weight for weight, _ in parts)
    if not total:
        return 0.0, parts[0][1] if parts else 0.0
    mean = 0.0
    for weight, value in parts:
        if weight:
            mean += weight / total * value
    return total, mean


def metric_values(metrics: Mapping[str, Metric], kept: Sequence[Batch]) -> dict[str, float]:
    """Return each metric of the outputs and targets of a whole data set."""
    if not metrics:
        return {}
    outputs, targets = (np.concatenate(arrays) for arrays in list(zip(*kept, strict=True))[:2])
    weight = None if kept[0].sample_weight is None else np.concatenate([batch.sample_weight for batch in kept])
    return {
        name: float(called(metric, outputs, targets, weight if takes_weights(metric) else None))
        for name, metric in metrics.items()
    }


def called(function: Callable[..., Any], outputs: Tensor, targets: Targets, weight: Weights | None) -> Any:
    """Call a loss, an accuracy or a metric, with ``sample_weight`` if there are weights."""
    return function(outputs, targets) if weight is None else function(outputs, targets, sample_weight=weight)


def takes_weights(function: Callable[..., Any]) -> bool:
    """Return whether a function has an argument ``sample_weight``."""
    try:
        return "sample_weight" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a function of an extension module may have no signature
        return False


def predict(network: Layer, x: Inputs | Rows) -> Tensor:
    """Return the outputs of a network in evaluation mode, computed a few thousand samples at a time.

    Parameters
    ----------
    network
        Any layer; it is left in evaluation mode.
    x : shape (N, ...)
        Samples: float32, float16 or bfloat16, or ids of any integer dtype; or an object of rows, as for ``fit``.

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
    check_inputs("x", x)
    network.eval()
    step = _rows_at_once(x)
    parts = (slice(start, start + step) for start in range(0, max(len(x), 1), step))
    return np.concatenate([network(taken(x, rows)) for rows in parts])


def _rows_at_once(x: Inputs | Rows) -> int:
    ids = math.prod(x.shape[1:]) if x.dtype.kind in "iu" else 1
    return max(ROWS // max(ids, 1), 1)


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
