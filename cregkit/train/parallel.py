"""What a fit asks of the processes it runs in; a single one answers here, several in ``cregkit.mpi``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cregkit.layers import Layer
from cregkit.train.divergence import DivergenceError
from cregkit.train.evaluation import Accuracy, Data, Inputs, evaluate, fitted
from cregkit.train.losses import Loss, Targets
from cregkit.train.optimizers import Optimizer

T = TypeVar("T")


def train_step(network: Layer, loss: Loss, optimizer: Optimizer, x: Inputs, targets: Targets) -> float:
    """Take one step on a batch, in the present mode of ``network``; return the loss before it.

    Raises:
        DivergenceError: the loss or a gradient is not finite; ``optimizer`` has not changed anything then, but the
            forward has moved running statistics and dropout's position on.
    """
    outputs = network(x)
    value, gradient = loss(outputs, fitted(targets, outputs))
    check_loss(value)
    network.backward(gradient)
    optimizer.step()
    return value


def check_loss(value: float) -> None:
    """Refuse a loss that is not finite: DivergenceError."""
    if not math.isfinite(value):
        raise DivergenceError(f"the loss is {value}")


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

    def in_all(self, function: Callable[[], T]) -> T:
        """Call ``function`` in every process; return its own result, or raise in all what it raised in the first."""
        return function()

    def any(self, here: bool) -> bool:
        """Return whether it is so in any process."""
        return here

    def step(self, network: Layer, loss: Loss, optimizer: Optimizer, x: Inputs, targets: Targets) -> float:
        """Take one step on a batch of which this process has ``x``; return the loss of the batch before it.

        Raises:
            DivergenceError: as ``train_step``, in all processes.
        """
        return train_step(network, loss, optimizer, x, targets)

    def evaluate(self, network: Layer, loss: Loss, data: Data, accuracy: Accuracy) -> tuple[float, float]:
        """Return mean loss and accuracy of ``network`` on ``data``."""
        return evaluate(network, loss, data, accuracy)
