"""Early stopping: end a fit that no longer gets better, and go back to the best epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers import Layer
from cregkit.layers.base import matching
from cregkit.train.callbacks import Callback, FitState

# What can be monitored, and the sign that makes smaller better.
_SIGNS = {"train_loss": 1.0, "test_loss": 1.0, "gap": 1.0, "train_acc": -1.0, "test_acc": -1.0}
_BEST = "best."


class EarlyStopping(Callback):
    """Stop when the monitored figure has not got better for ``patience`` epochs in a row; keep the best epoch's state.

    Better means lower by more than ``min_delta``, higher for accuracies; NaN is never better. At the end of the fit,
    however it ended, the network gets the state of its best epoch back: weights, running statistics and dropout's
    position (Prechelt, "Early Stopping - But When?", 1998). Monitoring the test set chooses by it: for an unbiased
    figure at the end, measure on a third set.

    Args:
        patience: epochs without improvement to wait for, at least 1.
        min_delta: smallest change that counts, at least 0, in the unit of the figure.
        monitor: "test_loss", "test_acc", "train_loss", "train_acc" or "gap", as in ``History``.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value; also, as the fit begins, if ``monitor`` needs a
            test set and there is none.
    """

    def __init__(self, patience: int = 20, min_delta: float = 0.0, monitor: str = "test_loss") -> None:
        """Start without a best epoch."""
        self.patience = validate.positive_int("patience", patience)
        self.min_delta = validate.real("min_delta", min_delta, 0)
        if monitor not in _SIGNS:
            raise ValueError(f"monitor must be one of {', '.join(map(repr, _SIGNS))}, got {monitor!r}")
        self.monitor = monitor
        self._reset()

    def _reset(self, epochs: int = 0) -> None:
        self._epochs = epochs
        self._seen = 0
        self._longest_wait = 0
        self._best_epoch = -1
        self._best_value = math.nan
        self._best_state: dict[str, NDArray[Any]] = {}

    @property
    def best_epoch(self) -> int | None:
        """The epoch whose state was kept, from 0 as in the lists of ``History``; None if every figure was NaN."""
        return self._best_epoch if self._best_epoch >= 0 else None

    @property
    def best_value(self) -> float:
        """The monitored figure of the best epoch; NaN if there is none."""
        return self._best_value

    @property
    def stopped(self) -> bool:
        """Whether the patience has run out."""
        return self._wait >= self.patience

    @property
    def _wait(self) -> int:
        """Epochs since the best one."""
        return self._seen - 1 - self._best_epoch

    @property
    def settings(self) -> Mapping[str, Any]:
        """What chooses the best epoch; a run may go on with another patience, see ``load_state_dict``."""
        return {"min_delta": self.min_delta, "monitor": self.monitor}

    @property
    def epochs_saved(self) -> int:
        """The epochs asked for that were not run, because the patience had run out; 0 while it has not."""
        return self._epochs - self._seen if self.stopped else 0

    def __str__(self) -> str:
        """Say what happened, in one line."""
        run = f"{self._seen} of {self._epochs} epochs run, {self.epochs_saved} saved"
        if self.best_epoch is None:
            return f"no best epoch: {self.monitor} was never a number; {run}"
        return f"best epoch {self.best_epoch} ({self.monitor} {self.best_value:.4g}); {run}"

    def on_train_begin(self, state: FitState) -> None:
        """Forget an earlier fit."""
        if state.test is None and not self.monitor.startswith("train"):
            raise ValueError(f"monitor={self.monitor!r} needs a test set, got test=None; monitor 'train_loss' instead")
        self._reset(state.epochs)

    def on_epoch_end(self, state: FitState) -> None:
        """Look at the figure of this epoch; keep the network's state if it is the best, or stop the fit."""
        value = getattr(state.history, self.monitor)[-1]
        self._longest_wait = max(self._longest_wait, self._wait)
        self._seen += 1
        if self._is_better(value):
            self._best_epoch, self._best_value = self._seen - 1, value
            self._best_state = state.network.state_dict()
        elif self.stopped:
            state.stop = True

    def _is_better(self, value: float) -> bool:
        if self.best_epoch is None:
            return not math.isnan(value)
        sign = _SIGNS[self.monitor]
        return sign * value < sign * self._best_value - self.min_delta

    def on_train_end(self, state: FitState) -> None:
        """Give the network the state of its best epoch back."""
        self.restore(state.network)

    def restore(self, network: Layer) -> None:
        """Load the best epoch's state into ``network``; without a best epoch, leave it as it is.

        Raises:
            ValueError: the state is that of another network.
        """
        if self._best_state:
            network.load_state_dict(self._best_state)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return the epochs seen, the longest wait before the last of them, the best one, its figure and its state."""
        return {**self._counters(), **{_BEST + name: array.copy() for name, array in self._best_state.items()}}

    def _counters(self) -> dict[str, NDArray[Any]]:
        return {
            "seen": np.array(self._seen, dtype=np.int64),
            "longest_wait": np.array(self._longest_wait, dtype=np.int64),
            "best_epoch": np.array(self._best_epoch, dtype=np.int64),
            "best_value": np.array(self._best_value, dtype=np.float64),
        }

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from where the saved one was, all or nothing; ``patience`` counts as it is here.

        Raises:
            TypeError: ``state`` is not a mapping.
            ValueError: something is missing or of the wrong kind; or the ``patience`` here would have ended the fit
                before the epoch that the saved one had reached.
        """
        best, counters = _split(state)
        found = matching(self._counters(), counters)
        seen, best_epoch, longest_wait = (int(found[name]) for name in ("seen", "best_epoch", "longest_wait"))
        if not (-1 <= best_epoch < max(seen, 1) and 0 <= longest_wait <= seen and (best_epoch >= 0) == bool(best)):
            raise ValueError(
                f"state does not fit, nothing was loaded: {seen} epochs with the best at {best_epoch}, the longest "
                f"wait {longest_wait} and {len(best)} arrays of the best epoch cannot be"
            )
        if longest_wait >= self.patience:
            raise ValueError(
                f"patience must be at least {longest_wait + 1}, got {self.patience}, which would have ended the fit "
                f"before epoch {seen - 1}, the last one of the saved state"
            )
        self._seen, self._best_epoch, self._longest_wait = seen, best_epoch, longest_wait
        self._best_value, self._best_state = float(found["best_value"]), best


def _split(state: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return copies of the best epoch's arrays, by their own names, and all others."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping of names to arrays, got {type(state).__name__}")
    best = {name: array for name, array in state.items() if str(name).startswith(_BEST)}
    if odd := [name for name, array in best.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"state does not fit, nothing was loaded: {', '.join(odd)} must be arrays")
    others = {name: array for name, array in state.items() if name not in best}
    return {name.removeprefix(_BEST): array.copy() for name, array in best.items()}, others
