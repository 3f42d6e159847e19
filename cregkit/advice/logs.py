"""Reader of training logs: cregkit histories, CSV files of Keras and Lightning, and files with similar columns."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cregkit._files import Path

Series: TypeAlias = NDArray[np.float64]

# A column is named PREFIX_METRIC with an optional suffix; the first match is used. "test" comes last: a log that has
# both contains validation metrics for every epoch, but test metrics for the end only.
PREFIXES = {"train": ("train", "training", ""), "test": ("val", "valid", "validation", "test")}
METRICS = {
    "acc": ("acc", "accuracy", "binary_accuracy", "categorical_accuracy", "sparse_categorical_accuracy"),
    "loss": ("loss",),
}
SUFFIXES = ("_epoch", "", "_step")
NEEDED = (
    "expected the accuracies on the training set (train_acc, train_accuracy or accuracy) "
    "and on the test set (val_acc, val_accuracy or test_acc) of each epoch"
)

MISSING = ("", "NA", None)
"""Cells that mean "not measured": Lightning leaves the cell empty, Keras writes NA."""

OWN = "cregkit history"

_ROUNDING = 1e-4  # tolerance for a float32 mean of accuracies that exceeds its limit by rounding
_SHOWN = 160  # most characters of a file that an error message quotes


@dataclass(frozen=True)
class Curves:
    """The metrics of a run by epoch, accuracies in percent; NaN where an epoch lacks the metric."""

    source: str
    epochs: tuple[int, ...]
    """Epoch numbers as in the log."""
    train_loss: Series
    train_acc: Series
    test_loss: Series
    test_acc: Series
    while_training: bool = False
    """Whether the logger measures training metrics during training, with dropout on."""
    notes: list[str] = field(default_factory=list)
    """Assumptions made in reading the log."""


@dataclass(frozen=True)
class _Table:
    """The raw cells of a log by column, and a function that names a row in an error."""

    name: str
    columns: Mapping[str, Sequence[object]]
    row: Callable[[int], str]


def read(path: Path) -> Curves:
    r"""Read the curves from a CSV or JSON file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Curves
        The metrics by epoch.

    Raises
    ------
    OSError
        The file is missing or cannot be read.
    ValueError
        The file is not such a log; the message is one line.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from cregkit.advice import logs
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory) / "log.csv"
    ...     _ = path.write_text("epoch,accuracy,val_accuracy\n0,0.7,0.6\n1,0.9,0.8\n")
    ...     logs.read(path).test_acc
    array([60., 80.])
    """
    name = os.fspath(path)
    with open(path, "rb") as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"{name}: found a binary file; expected a training log as CSV or JSON text in UTF-8")
    if not text.strip():
        raise ValueError(f"{name}: found an empty file; {NEEDED}")
    return _curves(_from_json(name, text) if text.lstrip()[0] in "{[" else _from_csv(name, text))


def from_columns(columns: Mapping[str, object]) -> Curves:
    """Return the curves in a mapping of column names to lists, such as ``history.history`` of Keras.

    Parameters
    ----------
    columns
        The lists by column name.

    Returns
    -------
    Curves
        The metrics by epoch.

    Raises
    ------
    ValueError
        A required column is missing, or a value is not a finite number.
    """
    return _curves(_from_mapping("history", columns))


def _from_csv(name: str, text: str) -> _Table:
    separator = max(",;\t", key=text.lstrip().splitlines()[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows, lines = [], []
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{name}: line {reader.line_num} is not CSV: {error}") from None
    header, cells = rows[0], rows[1:]
    for row, line in zip(cells, lines[1:], strict=True):
        if len(row) > len(header):
            raise ValueError(
                f"{name}: found {len(row)} cells in line {line} and {len(header)} in the header; "
                "expected a training log as CSV with a cell per column"
            )
        row += [""] * (len(header) - len(row))
    columns = {column: [row[i] for row in cells] for i, column in enumerate(header)}
    return _Table(name, columns, lambda i: f"line {lines[i + 1]}")


def _from_json(name: str, text: str) -> _Table:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{name}: found broken JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{name}: found a JSON {type(content).__name__}; expected an object with a list per column")
    return _from_mapping(name, content)


def _from_mapping(name: str, content: Mapping[str, object]) -> _Table:
    """Return the entries of ``content`` that are lists as columns."""
    columns: dict[str, Sequence[object]] = {}
    for column, cells in content.items():
        if isinstance(cells, (list, tuple, np.ndarray)):
            columns[str(column)] = list(cells)
    if not columns and content:
        raise ValueError(f"{name}: found {_listed(list(content))}, and no list among them; {NEEDED}")
    return _Table(name, columns, lambda i: f"entry {i + 1}")


def _curves(table: _Table) -> Curves:
    names = {_canonical(column): column for column in reversed(list(table.columns))}  # of two equal names, the first
    of_figure = {
        f"{part}_{metric}": _find(names, part, metric) for part in ("train", "test") for metric in ("loss", "acc")
    }
    if of_figure["train_acc"] is None or of_figure["test_acc"] is None:
        raise ValueError(f"{table.name}: found {_found(table)}; {NEEDED}")
    cells = {figure: _numbers(table, column) for figure, column in of_figure.items() if column is not None}
    if len({len(column) for column in cells.values()}) > 1:
        lengths = ", ".join(f"{of_figure[figure]} {len(column)}" for figure, column in cells.items())
        raise ValueError(f"{table.name}: found columns of different lengths: {lengths}; expected one entry per epoch")
    source, while_training = _source(names, of_figure["train_acc"])
    if source == OWN:
        _check_divergence(table, cells)
    notes: list[str] = []
    _to_percent(table, of_figure, cells, source, notes)
    epochs, series = _by_epoch(table, names, cells, notes)
    for figure in ("train_acc", "test_acc"):
        if np.isnan(series[figure]).all():
            raise ValueError(f"{table.name}: found no figure in the column {of_figure[figure]}; {NEEDED}")
    unknown = np.full(len(epochs), np.nan)
    curves = {figure: series.get(figure, unknown) for figure in of_figure}
    return Curves(source, epochs, **curves, while_training=while_training, notes=notes)


def _canonical(column: str) -> str:
    """Return ``column`` in canonical spelling: ``Train/Acc`` and ``train-acc`` become ``train_acc``."""
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")


def _find(names: Mapping[str, str], part: str, metric: str) -> str | None:
    """Return the column of a metric, or None."""
    for prefix in PREFIXES[part]:
        for word in METRICS[metric]:
            for suffix in SUFFIXES:
                name = f"{prefix}_{word}".strip("_") + suffix
                if name in names:
                    return names[name]
    return None


def _found(table: _Table) -> str:
    if not table.columns:
        return "no columns"
    return f"the columns {_listed(table.columns)}"


def _listed(names: Iterable[str]) -> str:
    """Return ``names`` as one line of bounded length."""
    shown = ", ".join(name.strip() or "''" for name in names)
    shown = shown if shown.isprintable() else repr(shown)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."


def _source(names: Mapping[str, str], train_acc: str | None) -> tuple[str, bool]:
    """Return the type of the log, and whether its logger measures training metrics during training."""
    if {"train_acc", "test_acc", "gap"} <= names.keys():
        return OWN, False
    if {"epoch", "step"} <= names.keys():
        return "Lightning log", True
    if train_acc is not None and _canonical(train_acc) in METRICS["acc"]:
        return "Keras log", True
    return "training log", False


def _numbers(table: _Table, column: str) -> Series:
    """Return the cells of ``column`` as floats, with NaN for missing cells."""
    numbers = np.full(len(table.columns[column]), np.nan)
    for i, cell in enumerate(table.columns[column]):
        content = cell.strip() if isinstance(cell, str) else cell
        if content is None or content in MISSING:
            continue
        try:
            if isinstance(content, bool):
                raise TypeError
            number = float(content)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            shown = repr(cell)[:_SHOWN]
            raise ValueError(
                f"{table.name}: {table.row(i)}, column {column}: found {shown}; expected a number"
            ) from None
        if not math.isfinite(number):
            raise ValueError(
                f"{table.name}: {table.row(i)}, column {column}: found {number}, so the training diverged there; "
                "expected finite figures: lower the learning rate first"
            )
        numbers[i] = number
    return numbers


def _check_divergence(table: _Table, cells: Mapping[str, Series]) -> None:
    """Raise if the losses of a cregkit history are not all finite; its files omit NaN and infinities.

    Every epoch has training metrics unless it diverged; test metrics exist only with a test set.
    """
    for part in ("train", "test"):
        accuracies = cells[f"{part}_acc"]
        losses = cells.get(f"{part}_loss", accuracies)
        diverged = np.isnan(losses) & (~np.isnan(accuracies) if part == "test" else True)
        if diverged.any():
            first = int(np.argmax(diverged))
            beside = "" if np.isnan(accuracies[first]) else f"a {part}_acc but "
            raise ValueError(
                f"{table.name}: {table.row(first)} has {beside}no finite {part}_loss, "
                "so the training diverged there; expected finite figures: lower the learning rate first"
            )


def _to_percent(
    table: _Table, of_figure: Mapping[str, str | None], cells: dict[str, Series], source: str, notes: list[str]
) -> None:
    """Convert both accuracies to percent; a log without an accuracy above 1 contains fractions."""
    both = np.concatenate([cells["train_acc"], cells["test_acc"]])
    largest = np.nanmax(both, initial=0.0)
    fractions = source != OWN and largest <= 1 + _ROUNDING
    if fractions and largest > 0:
        notes.append("no accuracy exceeds 1, so accuracies are read as fractions: 1 is 100 %")
    limit = 1.0 if fractions else 100.0
    for figure in ("train_acc", "test_acc"):
        wrong = (cells[figure] < 0) | (cells[figure] > limit + _ROUNDING)
        if wrong.any():
            i = int(np.argmax(wrong))
            raise ValueError(
                f"{table.name}: {table.row(i)}, column {of_figure[figure]}: found an accuracy of "
                f"{cells[figure][i]:.15g}; expected one from 0 to 100 (percent) or from 0 to 1 in the whole log"
            )
        cells[figure] = np.minimum(cells[figure] * (100.0 / limit), 100.0)


def _by_epoch(
    table: _Table, names: Mapping[str, str], cells: Mapping[str, Series], notes: list[str]
) -> tuple[tuple[int, ...], dict[str, Series]]:
    """Merge the rows of each epoch: the mean of each metric over the rows that have it."""
    has_any = np.logical_or.reduce([~np.isnan(column) for column in cells.values()])
    kept = np.flatnonzero(has_any)
    if not len(kept):
        raise ValueError(f"{table.name}: found a header without figures; {NEEDED}")
    numbers = _epoch_numbers(table, names, kept, len(has_any))
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1))
    series = {figure: _means(column[kept], starts) for figure, column in cells.items()}
    epochs = tuple(int(numbers[start]) for start in starts)
    if any(after < before for before, after in pairwise(epochs)):
        notes.append("epoch numbers start again, so the log is read as one continued run with epochs counted from 0")
        epochs = tuple(range(len(epochs)))
    return epochs, series


def _epoch_numbers(table: _Table, names: Mapping[str, str], kept: NDArray[np.intp], rows: int) -> Series:
    """Return the epoch (else the step, else the position) of each row in ``kept``."""
    column = names.get("epoch", names.get("step"))
    if column is None:
        return np.arange(len(kept), dtype=np.float64)
    numbers = _numbers(table, column)
    if len(numbers) != rows:
        raise ValueError(f"{table.name}: found {len(numbers)} entries in {column}, but {rows} figures")
    for i in kept:
        if np.isnan(numbers[i]) or numbers[i] % 1:
            came = "no number" if np.isnan(numbers[i]) else f"{numbers[i]:.15g}"
            raise ValueError(
                f"{table.name}: {table.row(int(i))} has figures, but found {came} in the column {column}; "
                "expected a whole number"
            )
    return numbers[kept]


def _means(column: Series, starts: NDArray[np.intp]) -> Series:
    """Return the mean of ``column`` over each group of rows, NaN for a group without values."""
    known = ~np.isnan(column)
    count = np.add.reduceat(known.astype(np.float64), starts)
    total = np.add.reduceat(np.where(known, column, 0.0), starts)
    means: Series = np.divide(total, count, out=np.full(len(starts), np.nan), where=count > 0)
    return means
