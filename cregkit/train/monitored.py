"""The metric of ``History`` that a callback monitors: its checks, and what counts as an improvement."""

from __future__ import annotations

import math

from cregkit.train.callbacks import FitState

# The metrics that every history has, with their modes.
_MODES = {"train_loss": "min", "test_loss": "min", "gap": "min", "train_acc": "max", "test_acc": "max"}


def mode_of(monitor: str, mode: str) -> str:
    """Return ``"min"`` or ``"max"``: what is better for the metric ``monitor``; raise if an argument is wrong."""
    if not isinstance(monitor, str) or (monitor not in _MODES and not monitor.startswith(("train_", "test_"))):
        raise ValueError(
            f"monitor must be one of {', '.join(map(repr, _MODES))}, or 'train_NAME' or 'test_NAME' of a metric of "
            f"fit, got {monitor!r}"
        )
    if mode not in ("auto", "min", "max"):
        raise ValueError(f"mode must be 'auto', 'min' or 'max', got {mode!r}")
    if monitor not in _MODES and mode == "auto":
        raise ValueError(f"mode must be 'min' or 'max' for monitor={monitor!r}, a metric of fit, got 'auto'")
    return _MODES.get(monitor, mode) if mode == "auto" else mode


def require(monitor: str, state: FitState) -> None:
    """Raise ValueError if the fit does not measure ``monitor``."""
    if state.test is None and not monitor.startswith("train"):
        raise ValueError(f"monitor={monitor!r} needs a test set, got test=None; monitor 'train_loss' instead")
    known = [*_MODES, *state.history.metrics]
    if monitor not in known:
        raise ValueError(f"monitor must be one of {', '.join(map(repr, known))} in this fit, got {monitor!r}")


def last_value(monitor: str, state: FitState) -> float:
    """Return the metric of the last epoch."""
    history = state.history
    return float((history.metrics[monitor] if monitor in history.metrics else getattr(history, monitor))[-1])


def improves(mode: str, value: float, best: float, min_delta: float) -> bool:
    """Return whether ``value`` is better than ``best`` by more than ``min_delta``; a ``best`` of NaN is none yet."""
    if math.isnan(best):
        return not math.isnan(value)
    return value < best - min_delta if mode == "min" else value > best + min_delta
