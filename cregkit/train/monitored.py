"""The metric of ``History`` that a callback monitors: its checks, and what counts as an improvement."""

from __future__ import annotations

import math

from cregkit.train.callbacks import FitState

# The metrics that can be monitored, with the sign that makes smaller better.
_SIGNS = {"train_loss": 1.0, "test_loss": 1.0, "gap": 1.0, "train_acc": -1.0, "test_acc": -1.0}


def checked(monitor: str) -> str:
    """Return ``monitor``, which must be a metric of ``History``."""
    if monitor not in _SIGNS:
        raise ValueError(f"monitor must be one of {', '.join(map(repr, _SIGNS))}, got {monitor!r}")
    return monitor


def require_set(monitor: str, state: FitState) -> None:
    """Raise ValueError if ``monitor`` needs a test set and the fit has none."""
    if state.test is None and not monitor.startswith("train"):
        raise ValueError(f"monitor={monitor!r} needs a test set, got test=None; monitor 'train_loss' instead")


def last_value(monitor: str, state: FitState) -> float:
    """Return the metric of the last epoch."""
    return float(getattr(state.history, monitor)[-1])


def improves(monitor: str, value: float, best: float, min_delta: float) -> bool:
    """Return whether ``value`` is better than ``best`` by more than ``min_delta``; a ``best`` of NaN is none yet."""
    if math.isnan(best):
        return not math.isnan(value)
    sign = _SIGNS[monitor]
    return sign * value < sign * best - min_delta
