"""What a training history tells: the best epoch, when the test loss turned up, and how noisy the figures are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cregkit.advice.logs import Curves, Series

MIN_EPOCHS = 8
"""Fewer epochs than this show neither noise nor a turn."""
RISE = 0.01
"""A rise of the test loss below this share of its minimum is no turn, however smooth the curve."""


@dataclass(frozen=True)
class HistoryFigures:
    """Figures read from a history. Epochs are numbered as the log numbers them.

    Noise is the standard deviation of a figure from epoch to epoch around its trend: that of the differences between
    neighbouring epochs in the later half of the run, over the square root of 2. None: too few epochs, or no such
    figure.
    """

    source: str
    """Who wrote the log: "cregkit history", "Keras log", "Lightning log" or "training log"."""
    epochs: int
    """How many epochs it has."""
    best_epoch: int
    """Epoch of the lowest test loss; of the highest test accuracy where the log has no test loss."""
    best_test_loss: float | None
    best_test_acc: float
    """Highest test accuracy of any epoch, in percent."""
    best_test_acc_epoch: int
    turned_up_epoch: int | None
    """Epoch at which the smoothed test loss was lowest, if it has risen since by more than its noise; else None."""
    rise: float | None
    """By how much the smoothed test loss has risen since its minimum."""
    test_loss_noise: float | None
    test_acc_noise: float | None
    """In percentage points."""
    gap_noise: float | None
    """In percentage points."""


def figures(curves: Curves) -> HistoryFigures:
    """Return what ``curves`` tell."""
    epochs = np.array(curves.epochs)
    losses, loss_epochs = _known(curves.test_loss, epochs)
    accuracies, acc_epochs = _known(curves.test_acc, epochs)
    best_acc_epoch = int(acc_epochs[np.argmax(accuracies)])
    turn, rise = _turn(losses, loss_epochs)
    return HistoryFigures(
        source=curves.source,
        epochs=len(curves.epochs),
        best_epoch=int(loss_epochs[np.argmin(losses)]) if len(losses) else best_acc_epoch,
        best_test_loss=float(losses.min()) if len(losses) else None,
        best_test_acc=float(accuracies.max()),
        best_test_acc_epoch=best_acc_epoch,
        turned_up_epoch=turn,
        rise=rise,
        test_loss_noise=noise(losses),
        test_acc_noise=noise(accuracies),
        gap_noise=noise(_known(curves.train_acc - curves.test_acc, epochs)[0]),
    )


def final_accuracies(curves: Curves) -> tuple[float, float]:
    """Return training and test accuracy of the last epoch that has both, else the last of each."""
    both = np.flatnonzero(~np.isnan(curves.train_acc - curves.test_acc))
    if len(both):
        return float(curves.train_acc[both[-1]]), float(curves.test_acc[both[-1]])
    train, test = (series[~np.isnan(series)][-1] for series in (curves.train_acc, curves.test_acc))
    return float(train), float(test)


def noise(series: Series) -> float | None:
    """Return the standard deviation around the trend in the later half; see ``HistoryFigures``."""
    if len(series) < MIN_EPOCHS:
        return None
    return float(np.diff(series[len(series) // 2 - 1 :]).std(ddof=1) / np.sqrt(2))


def _turn(losses: Series, epochs: Series) -> tuple[int | None, float | None]:
    """Return where the smoothed loss was lowest if it has risen since, and by how much it has.

    The smoothing is a centred moving average over a tenth of the run, 3 to 9 epochs. The rise must exceed four standard
    deviations of the difference of two such averages: the minimum is a chosen one, so two would be reached by chance.
    """
    deviation = noise(losses)
    if deviation is None:
        return None, None
    width = max(3, min(9, len(losses) // 10 | 1))
    smooth = np.convolve(losses, np.full(width, 1 / width), mode="valid")
    lowest = int(np.argmin(smooth))
    rise = float(smooth[-1] - smooth[lowest])
    if rise <= max(4 * deviation * np.sqrt(2 / width), RISE * abs(float(smooth[lowest]))):
        return None, rise
    return int(epochs[lowest + width // 2]), rise


def _known(series: Series, epochs: Series) -> tuple[Series, Series]:
    """Return the values of ``series`` that are there, with their epochs."""
    known = ~np.isnan(series)
    return series[known], epochs[known]
