"""What a fit asks of the processes it runs in; a single one answers here, several in ``cregkit.mpi``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cregkit.layers import Layer
from cregkit.layers.base import Array
from cregkit.train.evaluation import Accuracy, Data, evaluate, fitted
from cregkit.train.losses import Loss, Targets
from cregkit.train.optimizers import Optimizer

T = TypeVar("T")


def train_step(network: Layer, loss: Loss, optimizer: Optimizer, x: Array, targets: Targets) -> float:
    """Take one step on a batch, in the present mode of ``network``; return the loss before it."""
    outputs = network(x)
    value, gradient = loss(outputs, fitted(targets, outputs))
    network.backward(gradient)
    optimizer.step()
    return value


class Parallel:
    """One process: it holds whole batches, leads, and agrees with itself."""

    leads = True
    """Whether this process writes files and shows progress."""

    def own(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those samples of a batch that this process computes."""
        return rows

    def from_leader(self, function: Callable[[], T]) -> T:
        """Call ``function`` in the process that leads; return its result, or raise its exception, in all."""
        return function()

    def any(self, here: bool) -> bool:
        """Return whether it is so in any process."""
        return here

    def step(self, network: Layer, loss: Loss, optimizer: Optimizer, x: Array, targets: Targets) -> float:
        """Take one step on a batch of which this process has ``x``; return the loss of the batch before it."""
        return train_step(network, loss, optimizer, x, targets)

    def evaluate(self, network: Layer, loss: Loss, data: Data, accuracy: Accuracy) -> tuple[float, float]:
        """Return mean loss and accuracy of ``network`` on ``data``."""
        return evaluate(network, loss, data, accuracy)
