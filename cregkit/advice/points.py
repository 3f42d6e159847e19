"""Rows of a log to the points of curves: which run and which epoch, step or validation a row belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cregkit.advice import names, tables
from cregkit.advice.columns import Series, parsed
from cregkit.advice.tables import Table

_OFTEN = 1.5  # validations per epoch from which the steps, not the epochs, are the points of a curve
_MOST_RUNS = 200


def check_count(name: str, runs: int) -> None:
    """Raise if there are more runs than anyone compares."""
    if runs > _MOST_RUNS:
        raise ValueError(f"{name}: found {runs} runs; expected at most {_MOST_RUNS}")


def labels(table: Table, series: Mapping[str, Series]) -> list[tuple[str, NDArray[np.intp]]]:
    """Return the rows of each run that a column such as ``fold`` tells apart, in their order."""
    rows = max(map(len, series.values()))
    measured = np.flatnonzero(np.logical_or.reduce([~np.isnan(values) for values in series.values()]))
    for column, cells in table.columns.items():
        if names.is_run(column) and len(cells) == rows:
            told = np.array([str(cells[i]).strip()[:40] for i in measured])
            found = list(dict.fromkeys(told.tolist()))
            if 1 < len(found) <= len(measured) / 2:
                check_count(table.name, len(found))
                head = names.words(column)[0]
                return [(f"{head} {label}", measured[told == label]) for label in found]
    return [("", measured)]


def segments(
    table: Table, given: str | None, rows: NDArray[np.intp], series: Mapping[str, Series], notes: list[str]
) -> tuple[str, list[tuple[Series, dict[str, Series]]]]:
    """Return the unit, and for each run in ``rows`` (one after the other) its epochs and the figures there."""
    epoch = _index(table, rows, [given] if given else _index_columns(table, names.EPOCHS))
    step = _index(table, rows, _index_columns(table, names.STEPS))
    counted = epoch if epoch is not None else step
    if counted is None:
        counted = _index(table, rows, [c for c in table.columns if c.strip().lower() in tables.INDEX_NAMES])
    if counted is None:
        counted = np.arange(len(rows), dtype=np.float64)
    unit = "epoch" if epoch is not None or step is None else "step"
    found = []
    for chosen, x in _restarts(table, counted, series, notes):
        part = {figure: values[chosen] for figure, values in series.items()}
        key, unit = _points(x, None if step is None else step[chosen], part, unit, epoch is not None)
        found.append(_grouped(key, part))
    return unit, found


def _index_columns(table: Table, heads: frozenset[str]) -> list[str]:
    found = [column for column in table.columns if table.columns[column] and names.is_index(column, heads)]
    return sorted(found, key=lambda column: len(names.words(column)))


def _index(table: Table, rows: NDArray[np.intp], columns: Sequence[str]) -> Series | None:
    """Return the numbers of the first column that counts the rows; a row without one has that of the row before."""
    for column in columns:
        entries = table.columns[column]
        if len(entries) <= rows[-1]:
            raise ValueError(f"{table.name}: found {len(entries)} entries in {column}, but {rows[-1] + 1} figures")
        numbers, wrong = parsed(entries)
        for i in wrong:  # "3/20" and "epoch 3" count as well
            digits = re.search(r"\d{1,15}", entries[i]) if isinstance(entries[i], str) else None
            numbers[i] = float(digits[0]) if digits else np.nan
        numbers[np.abs(numbers) > 2.0**53] = np.nan
        known = np.flatnonzero(~np.isnan(numbers))
        if len(known):
            places = np.maximum(np.searchsorted(known, np.arange(len(numbers)), side="right") - 1, 0)
            filled: Series = numbers[known[places]][rows]
            return filled
    return None


def _restarts(
    table: Table, counted: Series, series: Mapping[str, Series], notes: list[str]
) -> list[tuple[NDArray[np.intp], Series]]:
    """Return the rows of each run and their epochs, where epoch numbers start again.

    A figure measured again at an earlier epoch begins a new run, unless it goes on where the last run ended; epochs
    that were repeated after a crash replace the earlier ones.
    """
    starts = _starts(counted, series)
    if len(starts) >= _MOST_RUNS:
        raise ValueError(
            f"{table.name}: found {len(starts)} places where epoch numbers go back; expected at most {_MOST_RUNS} runs"
        )
    runs: list[tuple[NDArray[np.intp], Series]] = []
    for start, end in pairwise([0, *starts, len(counted)]):
        rows, epochs = np.arange(start, end), counted[start:end]
        if runs:
            earlier, before = runs[-1]
            kept = np.ones(len(before), dtype=np.bool_)
            if epochs[0] > before.min():
                kept = before < epochs[0]
                notes.append("epochs were repeated after a restart: the later figures are read")
            elif _goes_on(series, earlier, rows):
                epochs = epochs + (before.max() + 1 - epochs.min())
                notes.append(
                    "epoch numbers start again, so the log is read as one continued run with epochs counted on"
                )
            else:
                runs.append((rows, epochs))
                continue
            runs[-1] = np.concatenate([earlier[kept], rows]), np.concatenate([before[kept], epochs])
        else:
            runs.append((rows, epochs))
    return runs


def _starts(counted: Series, series: Mapping[str, Series]) -> list[int]:
    """Return the rows where a figure is measured again at an earlier epoch of the same run."""
    before: dict[int, int] = {}  # for each such row, the last row before it with the figure
    for values in series.values():
        measured = np.flatnonzero(~np.isnan(values))
        for i in np.flatnonzero(np.diff(counted[measured]) < 0):
            row = int(measured[i + 1])
            before[row] = max(int(measured[i]), before.get(row, -1))
    starts: list[int] = []
    for row in sorted(before):
        if not starts or before[row] >= starts[-1]:
            starts.append(row)
    return starts


def _goes_on(series: Mapping[str, Series], earlier: NDArray[np.intp], later: NDArray[np.intp]) -> bool:
    """Return whether every figure begins in ``later`` where it ended in ``earlier``: within two of its last steps."""
    near = []
    for values in series.values():
        old, new = (values[rows][np.isfinite(values[rows])] for rows in (earlier, later))
        if len(old) > 1 and len(new):
            jump = abs(new[0] - old[-1])
            near.append(jump < abs(new[0] - old[0]) and jump <= 2 * np.abs(np.diff(old[-4:])).max())
    return bool(near) and all(near)


def _points(
    x: Series, steps: Series | None, series: Mapping[str, Series], unit: str, by_epoch: bool
) -> tuple[Series, str]:
    """Return the point of the curves that each row belongs to, and the unit.

    The points are the epochs. Where the log has none, or several validations in each, they are the validations: a
    training figure belongs to the next one.
    """
    judged = next((figure for figure in ("test_loss", "test_acc") if figure in series), None)
    measured = ~np.isnan(series[judged]) if judged is not None else np.zeros(len(x), dtype=np.bool_)
    whole = np.ceil(x - 1e-6) if by_epoch and (x % 1).any() else x
    if by_epoch and np.count_nonzero(measured) <= _OFTEN * len(np.unique(whole[measured])):
        return whole, unit
    if by_epoch and steps is not None:
        x, unit = steps, "step"
    elif by_epoch and whole is x:
        x, unit = np.arange(len(x), dtype=np.float64), "validation"
    training = [values for figure, values in series.items() if figure.startswith("train")]
    if not measured.any() or any((measured & ~np.isnan(values)).any() for values in training):
        return x, unit
    grid = np.unique(x[measured])
    following = np.searchsorted(grid, x)
    if steps is None and whole is x:  # rows count nothing: number the validations
        return following.astype(np.float64), unit
    return np.append(grid, max(x.max(), grid[-1]))[following], unit


def _grouped(key: Series, series: Mapping[str, Series]) -> tuple[Series, dict[str, Series]]:
    """Return the points, and the mean of each figure over the rows of each; infinite if no row is finite."""
    order = np.argsort(key, kind="stable")
    key = key[order]
    starts = np.flatnonzero(np.diff(key, prepend=key[0] - 1))
    points = {}
    for figure, values in series.items():
        values = values[order]
        finite = np.isfinite(values)
        count = np.add.reduceat(finite.astype(np.float64), starts)
        total = np.add.reduceat(np.where(finite, values, 0.0), starts)
        worst = np.fmax.reduceat(np.where(finite, np.nan, values), starts)  # NaN if nothing was measured
        points[figure] = np.divide(total, count, out=worst, where=count > 0)
    return key[starts], points
