"""What a fit shows to its callbacks, and what a callback may do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cregkit.layers import Layer
from cregkit.train.evaluation import Data, Inputs
from cregkit.train.history import History
from cregkit.train.identity import function_name, lasting
from cregkit.train.optimizers import Optimizer


@dataclass
class FitState:
    """Where a fit stands. A callback may read all of it, set ``stop`` to end the fit, and set ``optimizer.lr``.

    Attributes:
        network, optimizer, train, test: what ``fit`` was given; ``test`` may be None.
        epochs: the number asked for.
        history: the figures of the epochs that are over.
        batch_loss: the loss of the last batch, in training mode, before its step.
        stop: whether to end the fit after this epoch. A fit that diverged ends whatever is set here.
    """

    network: Layer
    optimizer: Optimizer
    train: Data
    test: Data | None
    epochs: int
    history: History
    batch_loss: float = float("nan")
    stop: bool = False

    @property
    def epoch(self) -> int:
        """The number of the last epoch that is over, from 0: its place in the lists of ``history``; -1 before."""
        return len(self.history) - 1


class Callback:
    """Something that watches a fit; a subclass writes the methods it needs.

    A callback with a state of its own gives it as arrays in ``state_dict``, so that checkpoints hold it.
    """

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was made with, by the names of its arguments: a run goes on from a checkpoint with the same alone.

        Plain values, arrays, and objects whose public attributes are such. Unless a subclass says otherwise, its public
        attributes that are floats or strings as the fit begins.
        """
        return lasting(getattr(self, "__dict__", {}))

    @property
    def stopped(self) -> bool:
        """Whether it has ended the fit, by what it has seen so far: asked again when a run is gone on with."""
        return False

    def on_train_begin(self, state: FitState) -> None:
        """Run before the first epoch; what an earlier fit left behind is to be forgotten here."""

    def on_batch_begin(
        self, state: FitState, rows: NDArray[np.int64], x: Inputs, targets: NDArray[Any]
    ) -> tuple[Inputs, NDArray[Any]]:
        """Return the batch to take the step on: this one, samples ``rows`` of ``state.train``, or what it becomes."""
        return x, targets

    def on_batch_end(self, state: FitState) -> None:
        """Run after each step that was taken; ``state.network.parameters()`` still have the gradients of the batch."""

    def on_epoch_end(self, state: FitState) -> None:
        """Run when the figures of an epoch are in ``state.history``; the network is in evaluation mode."""

    def on_train_end(self, state: FitState) -> None:
        """Run after the last epoch, also when the fit was stopped or interrupted."""

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        """Return copies of the arrays that make up the state."""
        return {}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what ``state_dict`` returned; ValueError if it does not fit."""
        if state:
            raise ValueError(f"{type(self).__name__} has no state, got {', '.join(state)}")


AnyCallback: TypeAlias = "Callback | Callable[[FitState], None]"


class EpochEnd(Callback):
    """A plain function as a callback, called at the end of each epoch."""

    def __init__(self, function: Callable[[FitState], None]) -> None:
        """Keep ``function``."""
        self._function = function

    @property
    def settings(self) -> Mapping[str, Any]:
        """The function's name, with what it was given beforehand."""
        return {"function": function_name(self._function)}

    def on_epoch_end(self, state: FitState) -> None:
        """Call the function."""
        self._function(state)
