"""The curves of a run, raw and smoothed: what a picture of the advice shows."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cregkit.advice.columns import FIGURES, Series
from cregkit.advice.figures import MIN_EPOCHS, smoothed
from cregkit.advice.logs import Run

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Curves:
    """The figures of a run by epoch; None where a figure was not measured.

    Examples
    --------
    >>> from cregkit.advice import advise
    >>> curves = advise(history={"loss": [0.9, 0.5, 0.3], "val_loss": [0.9, None, 0.6]}).curves
    >>> curves.epochs, curves.raw
    ((0, 1, 2), {'train_loss': (0.9, 0.5, 0.3), 'test_loss': (0.9, None, 0.6)})
    """

    epochs: Values
    """Epochs, as the log numbers them."""
    raw: Mapping[str, Values]
    """Values of "train_loss", "train_acc", "test_loss", "test_acc" by epoch, those that the log has; accuracies in
    percent."""
    smooth: Mapping[str, Values]
    """Centred moving averages, by which a turn is judged: over a tenth of the run, 3 to 9 epochs. None at both ends."""


def curves(run: Run) -> Curves:
    """Return the curves of ``run``."""
    raw = {figure: getattr(run, figure) for figure in FIGURES if run.has(figure)}
    return _of(run.epochs, raw)


def mean(found: Sequence[Curves]) -> Curves:
    """Return the mean of several runs, at the epochs that all of them have."""
    epochs = functools.reduce(np.intersect1d, [np.array(one.epochs, dtype=float) for one in found])
    shared = [figure for figure in FIGURES if all(figure in one.raw for one in found)]
    raw = {
        figure: np.mean(
            [
                np.array(one.raw[figure], dtype=float)[np.searchsorted(np.array(one.epochs, dtype=float), epochs)]
                for one in found
            ],
            axis=0,
        )
        for figure in shared
    }
    return _of(epochs, raw)


def _of(epochs: Series, raw: Mapping[str, Series]) -> Curves:
    return Curves(
        epochs=tuple(int(epoch) if float(epoch).is_integer() else float(epoch) for epoch in epochs),
        raw={figure: _values(series) for figure, series in raw.items()},
        smooth={
            figure: _values(_smooth(series))
            for figure, series in raw.items()
            if np.count_nonzero(np.isfinite(series)) >= MIN_EPOCHS
        },
    )


def _smooth(series: Series) -> Series:
    """Return the moving average of the values that are known, NaN elsewhere."""
    known = np.flatnonzero(np.isfinite(series))
    means, width = smoothed(series[known])
    result = np.full(len(series), np.nan)
    result[known[width // 2 : width // 2 + len(means)]] = means
    return result


def _values(series: Series) -> Values:
    return tuple(float(value) if np.isfinite(value) else None for value in series)
