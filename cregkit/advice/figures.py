"""Metrics derived from a training run: the best epoch, where the test loss starts to rise, and the noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean, median_low

import numpy as np

from cregkit.advice import rules
from cregkit.advice.columns import Series
from cregkit.advice.logs import Run

MIN_EPOCHS = 8
"""Fewest epochs from which noise, a rise and a fall are estimated."""


@dataclass(frozen=True)
class HistoryFigures:
    """Metrics derived from a run. Epochs are numbered as in the log.

    The noise of a metric is its standard deviation around its trend: the standard deviation of the differences between
    consecutive epochs in the second half of the run, divided by sqrt(2). Values are None if there are too few epochs or
    the log lacks the metric. Of several runs, these are the means over the runs, and the medians of the epochs.

    Examples
    --------
    >>> from cregkit.advice import advise
    >>> history = {"accuracy": [0.7, 0.9, 0.95], "val_accuracy": [0.7, 0.8, 0.8], "val_loss": [0.6, 0.5, 0.6]}
    >>> figures = advise(history=history).history
    >>> figures.source, figures.best_epoch, figures.best_test_loss, figures.best_test_acc
    ('Keras log', 1, 0.5, 80.0)
    >>> figures.columns
    {'train_acc': 'accuracy', 'test_loss': 'val_loss', 'test_acc': 'val_accuracy'}
    """

    source: str
    """Type of the log: "cregkit history", "Keras log", "Lightning log" ... or "training log"."""
    unit: str
    """What the log counts: "epoch"; "step" if it has no epochs or several validations in each; "validation"."""
    columns: Mapping[str, str]
    """The column that was read for each figure."""
    epochs: int
    """Number of epochs."""
    best_epoch: float | None
    """Epoch of the lowest test loss, or of the highest test accuracy if the log has no test loss."""
    best_test_loss: float | None
    """Lowest test loss."""
    best_test_acc: float | None
    """Highest test accuracy, in percent."""
    best_test_acc_epoch: float | None
    """Epoch of the highest test accuracy."""
    turned_up_epoch: float | None
    """Epoch of the minimum of the smoothed test loss if it has risen since by more than its noise; else None."""
    rise: float | None
    """Rise of the smoothed test loss since its minimum."""
    acc_turned_down_epoch: float | None
    """Epoch of the maximum of the smoothed test accuracy if it has fallen since by more than its noise; else None."""
    judged_epoch: float | None
    """Epoch of the accuracies that are judged: the last one with both, else with a test accuracy."""
    last_epoch: float
    """Last epoch of the log."""
    wasted_epochs: int | None
    """Number of epochs after the best one."""
    patience: int | None
    """Smallest patience with which early stopping reaches a test loss (else accuracy) as good as the best one but for
    its noise: the most epochs between two improvements before."""
    loss_gap: float | None
    """Test loss minus training loss in the best epoch, or in the last epoch before it with a training loss."""
    train_improving: bool | None
    """Whether the training loss (else accuracy) still improves at the end by more than its noise."""
    test_improving: bool | None
    """Whether the test loss (else accuracy) still improves at the end by more than its noise."""
    diverged_epoch: float | None
    """Epoch from which on a loss is NaN or infinite; None if it stays finite."""
    test_loss_noise: float | None
    """Noise of the test loss."""
    test_acc_noise: float | None
    """Noise of the test accuracy, in percentage points."""
    gap_noise: float | None
    """Noise of the gap, in percentage points."""


def figures(run: Run) -> HistoryFigures:
    """Return the metrics derived from ``run``."""
    losses, loss_epochs = _known(run.test_loss, run.epochs)
    accuracies, acc_epochs = _known(run.test_acc, run.epochs)
    best_acc_epoch = _whole(acc_epochs[np.argmax(accuracies)]) if len(accuracies) else None
    turn, rise = _turn(losses, loss_epochs)
    train = run.train_loss if run.has("train_loss") else -run.train_acc
    return HistoryFigures(
        source=run.source,
        unit=run.unit,
        columns=run.columns,
        epochs=len(run.epochs),
        best_epoch=_whole(loss_epochs[np.argmin(losses)]) if len(losses) else best_acc_epoch,
        best_test_loss=float(losses.min()) if len(losses) else None,
        best_test_acc=float(accuracies.max()) if len(accuracies) else None,
        best_test_acc_epoch=best_acc_epoch,
        turned_up_epoch=turn,
        rise=rise,
        acc_turned_down_epoch=_turn(100.0 - accuracies, acc_epochs)[0],
        loss_gap=_loss_gap(run),
        train_improving=_improving(_known(train, run.epochs)[0]),
        test_improving=_improving(losses if len(losses) else -accuracies),
        judged_epoch=_judged_epoch(run),
        last_epoch=_whole(run.epochs[-1]),
        wasted_epochs=_wasted(run),
        patience=_patience(losses if len(losses) else -accuracies),
        diverged_epoch=None if run.diverged is None else _whole(run.diverged),
        test_loss_noise=noise(losses),
        test_acc_noise=noise(accuracies),
        gap_noise=noise(_known(run.train_acc - run.test_acc, run.epochs)[0]),
    )


def together(found: Sequence[HistoryFigures]) -> HistoryFigures:
    """Return the means over several runs; of epochs the medians, and a turn only if most runs have one."""
    merged: dict[str, object] = {}
    for name in (entry.name for entry in fields(HistoryFigures)):
        values = [value for value in (getattr(one, name) for one in found) if value is not None]
        if name == "columns":
            merged[name] = {figure: column for one in found for figure, column in one.columns.items()}
        elif name in ("source", "unit"):
            merged[name] = max(values, key=values.count)
        elif name == "patience" and values:
            merged[name] = max(values)
        elif not values or (name in _RARE and 2 * len(values) <= len(found)):
            merged[name] = None
        elif name.endswith(("epoch", "epochs")):
            merged[name] = median_low(values)
        elif name.endswith("improving"):
            merged[name] = 2 * sum(values) > len(values)
        else:
            merged[name] = fmean(values)
    return HistoryFigures(**merged)  # type: ignore[arg-type]


_RARE = ("turned_up_epoch", "acc_turned_down_epoch", "diverged_epoch")  # None says "it did not happen"


def final_accuracies(run: Run) -> tuple[float | None, float | None]:
    """Return training and test accuracy of the last epoch that has both, else the last value of each."""
    both = np.flatnonzero(~np.isnan(run.train_acc - run.test_acc))
    if len(both):
        return float(run.train_acc[both[-1]]), float(run.test_acc[both[-1]])
    known = [series[~np.isnan(series)] for series in (run.train_acc, run.test_acc)]
    train, test = (float(series[-1]) if len(series) else None for series in known)
    return train, test


def _judged_epoch(run: Run) -> float | None:
    both = ~np.isnan(run.train_acc - run.test_acc)
    known = np.flatnonzero(both if both.any() else ~np.isnan(run.test_acc))
    return _whole(run.epochs[known[-1]]) if len(known) else None


def _wasted(run: Run) -> int | None:
    series = run.test_loss if run.has("test_loss") else -run.test_acc
    return None if np.isnan(series).all() else len(series) - 1 - int(np.nanargmin(series))


def _patience(losses: Series) -> int | None:
    """Return the patience that reaches the minimum but for its noise; see ``HistoryFigures``."""
    if len(losses) < MIN_EPOCHS:
        return None
    lowest = float(losses.min())
    records = np.flatnonzero(losses < np.minimum.accumulate(np.concatenate([[np.inf], losses[:-1]])))
    near = losses[records] <= lowest + max(noise(losses) or 0.0, rules.RISE * abs(lowest))
    return int(np.diff(records[: int(np.argmax(near)) + 1]).max(initial=1))


def noise(series: Series) -> float | None:
    """Return the standard deviation around the trend in the second half; see ``HistoryFigures``."""
    if len(series) < MIN_EPOCHS:
        return None
    return float(np.diff(series[len(series) // 2 - 1 :]).std(ddof=1) / np.sqrt(2))


def _turn(losses: Series, epochs: Series) -> tuple[float | None, float | None]:
    """Return the epoch of the minimum of the smoothed loss if it has risen since (else None), and the rise.

    Smoothing is a centred moving average over a tenth of the run, 3 to 9 epochs. The rise must exceed four standard
    deviations of the difference of two such averages. Two would be exceeded by chance, because the minimum is selected.
    """
    if len(losses) < MIN_EPOCHS:
        return None, None
    smooth, width = smoothed(losses)
    lowest = int(np.argmin(smooth))
    rise = float(smooth[-1] - smooth[lowest])
    if rise <= _limit(losses, width, float(smooth[lowest])):
        return None, rise
    return _whole(epochs[lowest + width // 2]), rise


def _improving(losses: Series) -> bool | None:
    """Return whether the smoothed loss fell in the last fifth of the run by more than its noise."""
    if len(losses) < MIN_EPOCHS:
        return None
    smooth, width = smoothed(losses)
    before = smooth[max(0, len(smooth) - 1 - max(width, len(losses) // 5))]
    return bool(before - smooth[-1] > _limit(losses, width, float(smooth[-1])))


def smoothed(losses: Series) -> tuple[Series, int]:
    """Return the centred moving average, where all of it is known, and its width."""
    width = max(3, min(9, len(losses) // 10 | 1))
    return np.convolve(losses, np.full(width, 1 / width), mode="valid"), width


def _limit(losses: Series, width: int, level: float) -> float:
    """Return the difference of two means over ``width`` epochs that noise does not explain."""
    return max(4 * (noise(losses) or 0.0) * float(np.sqrt(2 / width)), rules.RISE * abs(level))


def _loss_gap(run: Run) -> float | None:
    """Return test loss minus training loss in the best epoch; see ``HistoryFigures``."""
    if not (run.has("test_loss") and run.has("train_loss")):
        return None
    best = int(np.nanargmin(run.test_loss))
    known = np.flatnonzero(~np.isnan(run.train_loss))
    train = known[known <= best]
    return float(run.test_loss[best] - run.train_loss[train[-1] if len(train) else known[0]])


def _whole(epoch: float) -> float:
    """Return a whole number as an int."""
    return int(epoch) if float(epoch).is_integer() else float(epoch)


def _known(series: Series, epochs: Series) -> tuple[Series, Series]:
    """Return the values of ``series`` that are not NaN, with their epochs."""
    known = ~np.isnan(series)
    return series[known], epochs[known]
