"""Metrics derived from a training history: the best epoch, where the test loss starts to rise, and the noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cregkit.advice.logs import Curves, Series

MIN_EPOCHS = 8
"""Fewest epochs from which noise and a rise are estimated."""
RISE = 0.01
"""Smallest rise of the test loss that counts, as a fraction of its minimum, however smooth the curve is."""


@dataclass(frozen=True)
class HistoryFigures:
    """Metrics derived from a history. Epochs are numbered as in the log.

    The noise of a metric is its standard deviation around its trend: the standard deviation of the differences between
    consecutive epochs in the second half of the run, divided by sqrt(2). Values are None if there are too few epochs or
    the log lacks the metric.

    Examples
    --------
    >>> from cregkit.advice import advise
    >>> history = {"accuracy": [0.7, 0.9, 0.95], "val_accuracy": [0.7, 0.8, 0.8], "val_loss": [0.6, 0.5, 0.6]}
    >>> figures = advise(history=history).history
    >>> figures.source, figures.best_epoch, figures.best_test_loss, figures.best_test_acc
    ('Keras log', 1, 0.5, 80.0)
    """

    source: str
    """Type of the log: "cregkit history", "Keras log", "Lightning log" or "training log"."""
    epochs: int
    """Number of epochs."""
    best_epoch: int
    """Epoch of the lowest test loss, or of the highest test accuracy if the log has no test loss."""
    best_test_loss: float | None
    """Lowest test loss."""
    best_test_acc: float
    """Highest test accuracy, in percent."""
    best_test_acc_epoch: int
    """Epoch of the highest test accuracy."""
    turned_up_epoch: int | None
    """Epoch of the minimum of the smoothed test loss if it has risen since by more than its noise; else None."""
    rise: float | None
    """Rise of the smoothed test loss since its minimum."""
    test_loss_noise: float | None
    """Noise of the test loss."""
    test_acc_noise: float | None
    """Noise of the test accuracy, in percentage points."""
    gap_noise: float | None
    """Noise of the gap, in percentage points."""


def figures(curves: Curves) -> HistoryFigures:
    """Return the metrics derived from ``curves``."""
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
    """Return training and test accuracy of the last epoch that has both, else the last value of each."""
    both = np.flatnonzero(~np.isnan(curves.train_acc - curves.test_acc))
    if len(both):
        return float(curves.train_acc[both[-1]]), float(curves.test_acc[both[-1]])
    train, test = (series[~np.isnan(series)][-1] for series in (curves.train_acc, curves.test_acc))
    return float(train), float(test)


def noise(series: Series) -> float | None:
    """Return the standard deviation around the trend in the second half; see ``HistoryFigures``."""
    if len(series) < MIN_EPOCHS:
        return None
    return float(np.diff(series[len(series) // 2 - 1 :]).std(ddof=1) / np.sqrt(2))


def _turn(losses: Series, epochs: Series) -> tuple[int | None, float | None]:
    """Return the epoch of the minimum of the smoothed loss if it has risen since (else None), and the rise.

    Smoothing is a centred moving average over a tenth of the run, 3 to 9 epochs. The rise must exceed four standard
    deviations of the difference of two such averages. Two would be exceeded by chance, because the minimum is selected.
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
    """Return the values of ``series`` that are not NaN, with their epochs."""
    known = ~np.isnan(series)
    return series[known], epochs[known]
