"""The callback interface of ``fit``, and the state that callbacks see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cregkit.layers import Layer
from cregkit.train.data import DataSet, Inputs
from cregkit.train.history import History
from cregkit.train.identity import function_name, lasting
from cregkit.train.optimizers import Optimizer
from cregkit.train.weights import Weights


@dataclass
class FitState:
    """State of a running fit, passed to callbacks.

    A callback may read every attribute, set ``stop`` to end the fit, and set ``optimizer.lr``.

    Attributes
    ----------
    network, optimizer, train, test
        Arguments of ``fit``, or the parts of ``train`` with ``validation_split``; ``test`` may be None.
    epochs
        Number of epochs requested.
    history
        Metrics of the completed epochs.
    batch_loss
        Loss of the last batch in training mode, before its step.
    sample_weight
        Weights of the samples of the present batch, or None; ``on_batch_begin`` may replace them.
    stop
        Whether to end the fit after this epoch. A fit that has diverged ends regardless.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.train import SGD, FitState, fit, mean_squared_error
    >>> def stop_when_accurate(state: FitState) -> None:
    ...     state.stop = state.history.train_loss[-1] < 1e-3
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> network = Linear(1, 1, seed=0)
    >>> optimizer = SGD(network, lr=0.4)
    >>> history = fit(
    ...     network, mean_squared_error, optimizer, (x, 3 * x), None, 50, seed=0, callbacks=[stop_when_accurate]
    ... )
    >>> len(history)
    7
    """

    network: Layer
    optimizer: Optimizer
    train: DataSet
    test: DataSet | None
    epochs: int
    history: History
    batch_loss: float = float("nan")
    sample_weight: Weights | None = None
    stop: bool = False

    @property
    def epoch(self) -> int:
        """Index of the last completed epoch, from 0 as in the lists of ``history``; -1 before the first."""
        return len(self.history) - 1


class Callback:
    """Base class of callbacks: a subclass overrides the hooks it needs.

    A stateful callback returns its state as arrays from ``state_dict``, which checkpoints store.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.train import SGD, Callback, fit, mean_squared_error
    >>> class HalveLearningRate(Callback):
    ...     def on_epoch_end(self, state):
    ...         state.optimizer.lr /= 2
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> network = Linear(1, 1, seed=0)
    >>> optimizer = SGD(network, lr=0.4)
    >>> history = fit(
    ...     network, mean_squared_error, optimizer, (x, 3 * x), None, 3, seed=0, callbacks=[HalveLearningRate()]
    ... )
    >>> optimizer.lr
    0.05
    """

    @property
    def settings(self) -> Mapping[str, Any]:
        """The constructor arguments by name; a run resumes from a checkpoint only if they are equal.

        The default is the callback's public attributes that are floats or strings when the fit starts.

        Returns
        -------
        mapping
            Plain values, arrays, or objects whose public attributes are such, by name.
        """
        return lasting(getattr(self, "__dict__", {}))

    @property
    def stopped(self) -> bool:
        """Whether the callback's state ends the fit; evaluated again when a run resumes."""
        return False

    def on_train_begin(self, state: FitState) -> None:
        """Run before the first epoch; reset the state of an earlier fit here."""

    def on_batch_begin(
        self, state: FitState, rows: NDArray[np.int64], x: Inputs, targets: NDArray[Any]
    ) -> tuple[Inputs, NDArray[Any]]:
        """Return the batch to train on.

        The weights of its samples are ``state.sample_weight``. A hook that returns other samples than ``rows``, or
        mixtures, sets their weights there.

        Parameters
        ----------
        state
            State of the fit.
        rows : shape (N,)
            Indices of the batch's samples in ``state.train``; if that is an iterable, their positions in its pass.
        x : shape (N, ...)
            Inputs of the batch.
        targets : shape (N, ...)
            Targets of the batch.

        Returns
        -------
        x, targets : arrays
            The batch as given, or a replacement.
        """
        return x, targets

    def on_batch_end(self, state: FitState) -> None:
        """Run after each completed step; ``state.network.parameters()`` still hold the gradients of the batch."""

    def on_epoch_end(self, state: FitState) -> None:
        """Run after the metrics of an epoch are recorded in ``state.history``; the network is in evaluation mode."""

    def on_train_end(self, state: FitState) -> None:
        """Run after the last epoch, also if the fit was stopped or interrupted."""

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        """Return copies of the arrays of the state."""
        return {}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Load a state returned by ``state_dict``; raise ValueError if it does not fit."""
        if state:
            raise ValueError(f"state of {type(self).__name__} must be empty, got {', '.join(state)}")


AnyCallback: TypeAlias = "Callback | Callable[[FitState], None]"


class EpochEnd(Callback):
    """Callback that calls a function at the end of each epoch."""

    def __init__(self, function: Callable[[FitState], None]) -> None:
        """Store ``function``."""
        self._function = function

    @property
    def settings(self) -> Mapping[str, Any]:
        """The function's name and bound arguments."""
        return {"function": function_name(self._function)}

    def on_epoch_end(self, state: FitState) -> None:
        """Call the function."""
        self._function(state)
