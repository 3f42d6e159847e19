"""Early stopping: end a fit that no longer improves, and restore the best epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers import Layer
from cregkit.layers.base import matching
from cregkit.train import monitored
from cregkit.train.callbacks import Callback, FitState

_BEST = "best."


class EarlyStopping(Callback):
    """Stop when the monitored metric has not improved for ``patience`` epochs, and restore the best epoch.

    An improvement is a decrease by more than ``min_delta``, or an increase for accuracies; NaN never improves. At the
    end of the fit, however it ended, the network is set to the state of its best epoch: weights, running statistics and
    the dropout offset. Monitoring the test set selects the epoch on it: evaluate on a third set for an unbiased result.

    Parameters
    ----------
    patience
        Epochs without improvement before stopping, at least 1.
    min_delta
        Smallest change that counts as an improvement, at least 0, in the unit of the metric.
    monitor
        Metric of ``History``: ``"test_loss"``, ``"test_acc"``, ``"train_loss"``, ``"train_acc"`` or ``"gap"``.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has the wrong value; when the fit starts, also if ``monitor`` needs a test set and there is none.

    References
    ----------
    Prechelt (1998), "Early Stopping - But When?", in Neural Networks: Tricks of the Trade.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.train import SGD, EarlyStopping, fit, mean_squared_error
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> network = Linear(1, 1, seed=0)
    >>> stopping = EarlyStopping(patience=3, monitor="train_loss", min_delta=0.01)
    >>> optimizer = SGD(network, lr=0.3)
    >>> history = fit(network, mean_squared_error, optimizer, (x, 3 * x), None, 50, seed=0, callbacks=[stopping])
    >>> print(stopping)
    best epoch 5 (train_loss 0.00977); 9 of 50 epochs run, 41 saved
    """

    def __init__(self, patience: int = 20, min_delta: float = 0.0, monitor: str = "test_loss") -> None:
        """Validate the settings; there is no best epoch yet."""
        self.patience = validate.positive_int("patience", patience)
        self.min_delta = validate.real("min_delta", min_delta, 0)
        self.monitor = monitored.checked(monitor)
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
        """Best epoch, from 0 as in the lists of ``History``; None if the metric was always NaN."""
        return self._best_epoch if self._best_epoch >= 0 else None

    @property
    def best_value(self) -> float:
        """Monitored metric of the best epoch; NaN if there is none."""
        return self._best_value

    @property
    def stopped(self) -> bool:
        """Whether there was no improvement for ``patience`` epochs."""
        return self._wait >= self.patience

    @property
    def _wait(self) -> int:
        """Epochs since the best one."""
        return self._seen - 1 - self._best_epoch

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that select the best epoch; ``patience`` may change when a run resumes (``load_state_dict``)."""
        return {"min_delta": self.min_delta, "monitor": self.monitor}

    @property
    def epochs_saved(self) -> int:
        """Number of requested epochs not run because of early stopping; 0 if it did not stop the fit."""
        return self._epochs - self._seen if self.stopped else 0

    def __str__(self) -> str:
        """Summarise in one line."""
        run = f"{self._seen} of {self._epochs} epochs run, {self.epochs_saved} saved"
        if self.best_epoch is None:
            return f"no best epoch: {self.monitor} was NaN in every epoch; {run}"
        return f"best epoch {self.best_epoch} ({self.monitor} {self.best_value:.4g}); {run}"

    def on_train_begin(self, state: FitState) -> None:
        """Reset the state of an earlier fit."""
        monitored.require_set(self.monitor, state)
        self._reset(state.epochs)

    def on_epoch_end(self, state: FitState) -> None:
        """Compare the metric of this epoch with the best; keep the network's state, or stop the fit."""
        value = monitored.last_value(self.monitor, state)
        self._longest_wait = max(self._longest_wait, self._wait)
        self._seen += 1
        if monitored.improves(self.monitor, value, self._best_value, self.min_delta):
            self._best_epoch, self._best_value = self._seen - 1, value
            self._best_state = state.network.state_dict()
        elif self.stopped:
            state.stop = True

    def on_train_end(self, state: FitState) -> None:
        """Restore the best epoch."""
        self.restore(state.network)

    def restore(self, network: Layer) -> None:
        """Load the state of the best epoch into ``network``; do nothing if there is none.

        Parameters
        ----------
        network
            The network of the fit.

        Raises
        ------
        ValueError
            The state belongs to another network.
        """
        if self._best_state:
            network.load_state_dict(self._best_state)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return the counters, the best metric and the state of the best epoch."""
        return {**self._counters(), **{_BEST + name: array.copy() for name, array in self._best_state.items()}}

    def _counters(self) -> dict[str, NDArray[Any]]:
        return {
            "seen": np.array(self._seen, dtype=np.int64),
            "longest_wait": np.array(self._longest_wait, dtype=np.int64),
            "best_epoch": np.array(self._best_epoch, dtype=np.int64),
            "best_value": np.array(self._best_value, dtype=np.float64),
        }

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Load a state from ``state_dict``, all or nothing; ``patience`` keeps its present value.

        Parameters
        ----------
        state
            State returned by ``state_dict``.

        Raises
        ------
        TypeError
            ``state`` is not a mapping.
        ValueError
            An array is missing, unknown or wrong, or the present ``patience`` would have ended the fit before the
            saved epoch.
        """
        best, counters = _split(state)
        found = matching(self._counters(), counters)
        seen, best_epoch, longest_wait = (int(found[name]) for name in ("seen", "best_epoch", "longest_wait"))
        if not (-1 <= best_epoch < max(seen, 1) and 0 <= longest_wait <= seen and (best_epoch >= 0) == bool(best)):
            raise ValueError(
                f"state does not fit, nothing was loaded: seen={seen}, best_epoch={best_epoch}, "
                f"longest_wait={longest_wait} and {len(best)} arrays of the best epoch are inconsistent"
            )
        if longest_wait >= self.patience:
            raise ValueError(
                f"patience must be at least {longest_wait + 1}, got {self.patience}, which would have ended the fit "
                f"before epoch {seen - 1}, the last one of the saved state"
            )
        self._seen, self._best_epoch, self._longest_wait = seen, best_epoch, longest_wait
        self._best_value, self._best_state = float(found["best_value"]), best


def _split(state: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return copies of the best epoch's arrays, by their names in the network, and all other entries."""
    validate.state(state)
    best = {name: array for name, array in state.items() if str(name).startswith(_BEST)}
    if odd := [name for name, array in best.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"state does not fit, nothing was loaded: {', '.join(odd)} must be arrays")
    others = {name: array for name, array in state.items() if name not in best}
    return {name.removeprefix(_BEST): array.copy() for name, array in best.items()}, others
