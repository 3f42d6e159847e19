"""The interface between ``fit`` and its processes: one process here, several in ``cregkit.mpi``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cregkit.layers import Layer
from cregkit.train.data import Batches, Inputs, Samples
from cregkit.train.divergence import DivergenceError
from cregkit.train.evaluation import Accuracy, Figures, Metric, called, evaluation, fitted, metric_values
from cregkit.train.losses import Loss, Targets
from cregkit.train.optimizers import Optimizer
from cregkit.train.weights import Weights

T = TypeVar("T")


def train_step(
    network: Layer,
    loss: Loss,
    optimizer: Optimizer,
    x: Inputs,
    targets: Targets,
    sample_weight: Weights | None = None,
) -> float:
    """Take one optimiser step on a batch, in the present mode of ``network``.

    Parameters
    ----------
    network
        The layer to train.
    loss
        ``loss(outputs, targets)`` returns the mean over the batch and its gradient.
    optimizer
        Optimiser of ``network`` or of a layer in it.
    x : shape (N, ...)
        Inputs of the batch.
    targets : shape (N, ...)
        Targets of the batch.
    sample_weight : shape (N, ...)
        Weights of the batch for ``loss``, or None.

    Returns
    -------
    float
        Loss of the batch before the step.

    Raises
    ------
    DivergenceError
        The loss or a gradient is not finite. No parameter is changed in this case, but the forward has updated running
        statistics and dropout offsets.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.train import SGD, mean_squared_error, train_step
    >>> network = Linear(1, 1, bias=False, seed=0)
    >>> network.weight[...] = 1
    >>> optimizer = SGD(network, lr=0.25)
    >>> x, targets = np.ones((1, 1), np.float32), np.full((1, 1), 3, np.float32)
    >>> [train_step(network, mean_squared_error, optimizer, x, targets) for _ in range(3)]
    [4.0, 1.0, 0.25]
    """
    outputs = network(x)
    value: float
    value, gradient = called(loss, outputs, fitted(targets, outputs), sample_weight)
    check_loss(value)
    network.backward(gradient)
    optimizer.step()
    return value


def check_loss(value: float) -> None:
    """Raise DivergenceError if a loss is not finite."""
    if not math.isfinite(value):
        raise DivergenceError(f"the loss is {value}")


class Parallel:
    """Base class of the ``parallel`` argument of ``fit``, for a single process; subclasses add communication.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.train import Parallel
    >>> parallel = Parallel()
    >>> parallel.leads, parallel.own(np.arange(4))
    (True, array([0, 1, 2, 3]))
    """

    leads = True
    """Whether this process is the leader, which writes files and shows progress."""

    def own(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the samples of a batch that this process computes."""
        return rows

    def from_leader(self, function: Callable[[], T]) -> T:
        """Call ``function`` in the leader; return its result, or raise its exception, in all processes."""
        return function()

    def in_all(self, function: Callable[[], T]) -> T:
        """Call ``function`` in every process and return its result; if any raise, all raise the first exception."""
        return function()

    def any(self, here: bool) -> bool:
        """Return whether ``here`` is true in any process."""
        return here

    def step(
        self,
        network: Layer,
        loss: Loss,
        optimizer: Optimizer,
        x: Inputs,
        targets: Targets,
        sample_weight: Weights | None = None,
    ) -> float:
        """Take one optimiser step on a batch of which this process holds ``x`` and ``targets``.

        Parameters
        ----------
        network, loss, optimizer
            As for ``train_step``.
        x, targets, sample_weight
            This process's samples of the batch, and their weights or None.

        Returns
        -------
        float
            Loss of the whole batch before the step.

        Raises
        ------
        DivergenceError
            The loss or a gradient is not finite, in any process; raised in all.
        """
        return train_step(network, loss, optimizer, x, targets, sample_weight)

    def evaluate(
        self,
        network: Layer,
        loss: Loss,
        data: Samples | Batches,
        accuracy: Accuracy,
        metrics: Mapping[str, Metric] = MappingProxyType({}),
    ) -> Figures:
        """Return the mean loss, the accuracy and the metrics of ``network`` on ``data``."""
        found = evaluation(network, loss, accuracy, data, keep=bool(metrics))
        return Figures(found.loss[1], found.accuracy[1], metric_values(metrics, found.kept))
