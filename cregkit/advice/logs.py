"""Reader of training logs: the runs in files, folders and mappings, with their figures by epoch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cregkit._files import Path
from cregkit.advice import names, tables
from cregkit.advice.columns import COLUMN_KEYS, FIGURES, MOST_COLUMNS, NEEDED, Series, chosen_columns, figures
from cregkit.advice.points import check_count, labels, segments
from cregkit.advice.tables import Table

OWN = "cregkit history"

_MOST_FILES = 1000


@dataclass(frozen=True)
class Run:
    """The figures of one training run, one value for each point of it; NaN where a figure was not measured.

    Accuracies are in percent. A figure that the log lacks is NaN everywhere.
    """

    name: str
    """Name of the run: that of its file, and what tells it from others in the file."""
    source: str
    """Type of the log, such as "Keras log"."""
    unit: str
    """What ``epochs`` counts: "epoch"; "step" if the log has no epochs or several validations in each; "validation"."""
    epochs: Series
    """Epochs (or steps) as the log numbers them, ascending."""
    train_loss: Series
    train_acc: Series
    test_loss: Series
    test_acc: Series
    columns: Mapping[str, str]
    """The column of the log that was read for each figure."""
    while_training: bool = False
    """Whether the logger measures training figures during training, with dropout on."""
    diverged: float | None = None
    """Epoch from which on a loss is not finite, else None."""
    notes: tuple[str, ...] = ()
    """Assumptions made in reading the log."""

    def has(self, figure: str) -> bool:
        """Return whether ``figure``, one of ``FIGURES``, was measured at all."""
        return bool(np.isfinite(getattr(self, figure)).any())

    @property
    def judged(self) -> bool:
        """Whether the run has a figure on data that it was not trained on, or diverged: something to judge."""
        return self.has("test_loss") or self.has("test_acc") or self.diverged is not None


def read(
    history: Path | Sequence[Path], columns: Mapping[str, str] | None = None, *, growing: bool = False
) -> list[Run]:
    r"""Read the runs from files and folders.

    Parameters
    ----------
    history
        A file or a folder, or several.
    columns
        The column of the log for a figure ("train_loss", "train_acc", "test_loss", "test_acc") or for "epoch", where
        its name does not tell.
    growing
        Whether the files are being written: a last line without its end is then left out.

    Returns
    -------
    list of Run
        At least one.

    Raises
    ------
    OSError
        A file is missing or cannot be read.
    ImportError
        An event file needs TensorBoard, which is not installed.
    ValueError
        A file is not a training log; the message is one line.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from cregkit.advice import logs
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory) / "log.csv"
    ...     _ = path.write_text("epoch,loss,val_loss\n0,0.7,0.6\n1,0.5,\n")
    ...     (run,) = logs.read(path)
    >>> run.test_loss
    array([0.6, nan])
    >>> run.columns
    {'train_loss': 'loss', 'test_loss': 'val_loss'}
    """
    paths = [history] if isinstance(history, (str, os.PathLike)) else list(history)
    if not paths:
        raise ValueError("history names no file; expected at least one")
    _check_columns(columns)
    runs: list[Run] = []
    for path in paths:
        if os.path.isdir(path):
            runs += _read_folder(os.fspath(path), columns, growing)
        else:
            runs += _runs_of(tables.read(path, tuple((columns or {}).values()), growing=growing), columns)
    return _judged(_joined(runs))


def from_columns(content: Mapping[str, object], columns: Mapping[str, str] | None = None) -> list[Run]:
    """Return the runs in a mapping of column names to lists, such as ``history.history`` of Keras.

    Parameters
    ----------
    content
        The lists by column name; mappings may be nested, as ``evals_result`` of XGBoost.
    columns
        See ``read``.

    Returns
    -------
    list of Run
        At least one.

    Raises
    ------
    ValueError
        A figure on the test set is missing, or a value is not a number.
    """
    _check_columns(columns)
    return _judged(_joined(_runs_of(tables.from_mapping("history", content), columns)))


def _check_columns(columns: Mapping[str, str] | None) -> None:
    for figure in columns or {}:
        if figure not in COLUMN_KEYS:
            raise ValueError(f"columns must name columns for {', '.join(COLUMN_KEYS)}, got {figure!r}")


# Files and folders ----------------------------------------------------------------------------------------------------


def _read_folder(folder: str, columns: Mapping[str, str] | None, growing: bool) -> list[Run]:
    """Return the runs of the logs in a folder and its folders; other files are left out."""
    runs: list[Run] = []
    reasons: list[ValueError | ImportError] = []
    for kind, files in _logs_of(folder):
        try:
            if kind:
                found = [tables.read_events(kind, files)]
                parent = os.path.dirname(kind) if names.side(os.path.basename(kind)) else kind
                found[0].name, found[0].run = parent, ""
            else:
                found = tables.read(files[0], tuple((columns or {}).values()), growing=growing)
            runs += _runs_of(found, columns)
        except (ValueError, ImportError) as error:  # an event file does not keep others from being read
            reasons.append(error)
    check_count(folder, len(runs))
    if not runs:
        raise next(iter(reasons), ValueError(f"{folder}: found no log in this folder; expected CSV or JSON files"))
    return _without_copies(runs)


def _logs_of(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the folder of event files with all of them, and "" with each other file that may be a log."""
    count = 0
    for place, folders, files in os.walk(folder):
        folders.sort()
        paths = [os.path.join(place, file) for file in sorted(files)]
        count += len(paths)
        if count > _MOST_FILES:
            raise ValueError(f"{folder}: found over {_MOST_FILES} files; expected a folder of logs")
        events = [path for path in paths if tables.EVENTS in os.path.basename(path)]
        if events:
            yield place, events
        yield from (("", [path]) for path in paths if path not in events and path.lower().endswith(tables.SUFFIXES))


def _without_copies(runs: Sequence[Run]) -> list[Run]:
    """Return the runs without those that are the beginning of another, as in the checkpoints of Hugging Face."""
    kept: list[Run] = []
    for run in sorted(runs, key=lambda run: -len(run.epochs)):
        n = max(1, len(run.epochs) - 1)  # the last point may be half an epoch
        series = [getattr(run, figure)[:n] for figure in ("epochs", *FIGURES)]
        if not any(
            all(
                np.array_equal(values, getattr(other, figure)[:n], equal_nan=True)
                for values, figure in zip(series, ("epochs", *FIGURES), strict=True)
            )
            for other in kept
        ):
            kept.append(run)
    return [run for run in runs if any(run is other for other in kept)]


def _joined(runs: Sequence[Run]) -> list[Run]:
    """Join the pieces of a run: logs of the same name that hold different figures, as the exports of TensorBoard."""
    joined: list[Run] = []
    for run in runs:
        for i, other in enumerate(joined):
            shared = run.columns.keys() & other.columns.keys()
            if not shared and _piece_name(run) == _piece_name(other):
                joined[i] = _join(other, run)
                break
        else:
            joined.append(run)
    return joined


def _piece_name(run: Run) -> str:
    """Return what the names of the pieces of one run share."""
    folder, _, name = run.name.partition(": ")
    return (
        f"{os.path.dirname(folder)}: {name}"
        if name
        else os.path.join(os.path.dirname(folder), names.without_figures(os.path.splitext(os.path.basename(folder))[0]))
    )


def _join(first: Run, second: Run) -> Run:
    epochs = np.union1d(first.epochs, second.epochs)
    series: dict[str, Any] = {}
    for figure in FIGURES:
        series[figure] = np.full(len(epochs), np.nan)
        for run in (first, second):
            if figure in run.columns:
                series[figure][np.searchsorted(epochs, run.epochs)] = getattr(run, figure)
    diverged = [run.diverged for run in (first, second) if run.diverged is not None]
    return replace(
        first,
        epochs=epochs,
        **series,
        columns={**first.columns, **second.columns},
        diverged=min(diverged, default=None),
        notes=tuple(dict.fromkeys(first.notes + second.notes)),
    )


def _judged(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that can be judged; raise if there is none."""
    judged = [run for run in runs if run.judged]
    if not judged:
        run = runs[0]
        found = ", ".join(f"{figure} in {tables.listed([column])}" for figure, column in run.columns.items())
        raise ValueError(f"{run.name}: found {found}, and no figure of the validation or test set; {NEEDED}")
    left = [run.name for run in runs if not run.judged]
    if left:
        note = f"left out {tables.listed(left)}: no figures of the validation or test set"
        judged[0] = replace(judged[0], notes=(*judged[0].notes, note))
    return judged


# Tables to runs -------------------------------------------------------------------------------------------------------


def _runs_of(found: Sequence[Table], columns: Mapping[str, str] | None) -> list[Run]:
    parts = [part for table in found for part in _by_prefix(_wide(table))]
    check_count(found[0].name, len(parts))
    return [run for part in parts for run in _runs(part, columns or {})]


def _wide(table: Table) -> Table:
    """Return the table with a column for each figure and set, where rows name the metric or the set."""
    of_name = {names.canonical(column): column for column in table.columns if table.columns[column]}
    value = of_name.get("value")
    metric = next((c for c in _text_columns(table, names.METRIC_COLUMNS) if _share(table, c, names.meaning) > 0), None)
    where = next((c for c in _text_columns(table, names.SIDE_COLUMNS) if _share(table, c, names.side) > 0.5), None)
    if where is None and (metric is None or value is None):
        return _with_set_of_file(table)
    of_set = [names.side(str(cell)) for cell in table.columns[where]] if where is not None else [""] * table.rows
    wide: dict[str, list[Any]] = {}
    for column, cells in table.columns.items():
        if column == value and metric is not None:
            told = [str(cell) for cell in table.columns[metric]]
        elif where is not None and names.meaning(column) and not names.side(column):
            told = [column] * len(cells)
        else:
            if column not in (metric, where):
                wide[column] = cells
            continue
        if len(set(told)) > MOST_COLUMNS:
            raise ValueError(f"{table.name}: found {len(set(told))} kinds of figures; expected a few")
        for i, (cell, label, part) in enumerate(zip(cells, told, of_set, strict=False)):
            full = f"{part}/{label}" if part and not names.side(label) else label
            if names.meaning(full):
                wide.setdefault(full, [None] * table.rows)[i] = cell
    return replace(table, columns=wide)


def _text_columns(table: Table, known: frozenset[str]) -> Iterator[str]:
    for column, cells in table.columns.items():
        parts = names.words(column)
        if len(parts) == 1 and parts[0] in known and cells and all(isinstance(x, str) for x in cells[:3]):
            yield column


def _share(table: Table, column: str, tells: Any) -> float:
    cells = table.columns[column][:1000]
    return sum(bool(tells(cell)) for cell in cells if isinstance(cell, str)) / len(cells)


def _with_set_of_file(table: Table) -> Table:
    """Return the table with the set in its columns' names where only the name of the file tells it: ``val_log.csv``."""
    stem = os.path.splitext(os.path.basename(table.name))[0]
    of_set = names.side(stem)
    figures = [column for column in table.columns if names.meaning(column)]
    if not of_set or any(names.side(column) for column in figures) or table.source == "Hugging Face log":
        return table
    return replace(table, columns={f"{of_set}/{c}" if c in figures else c: cells for c, cells in table.columns.items()})


def _by_prefix(table: Table) -> list[Table]:
    """Return a table for each run of an export of Weights & Biases, whose columns are named "RUN - METRIC"."""
    prefixed: dict[str, dict[str, list[Any]]] = {}
    shared = {}
    for column, cells in table.columns.items():
        run, separator, metric = column.rpartition(" - ")
        if separator and names.meaning(metric) and not (names.side(run) and not names.side(metric)):
            prefixed.setdefault(run, {})[metric] = cells
        elif separator and names.is_index(metric, names.STEPS):
            prefixed.setdefault(run, {})
        else:
            shared[column] = cells
    if not prefixed:
        return [table]
    source = "Weights & Biases log"
    return [replace(table, columns={**shared, **own}, run=run, source=source) for run, own in prefixed.items() if own]


def _runs(table: Table, columns: Mapping[str, str]) -> list[Run]:
    """Return the runs of a table whose columns are figures: one, or one for each value of a column such as ``fold``."""
    chosen, cells, notes = chosen_columns(table, columns)
    own = {"train_acc", "test_acc", "gap"} <= {names.canonical(column) for column in table.columns}
    source = OWN if own else table.source or _source(table, chosen)
    series = figures(table, chosen, cells, own, notes)
    shared: dict[str, Any] = {
        "source": source,
        "columns": chosen,
        "while_training": source in ("Keras log", "Lightning log", "Hugging Face log"),
    }
    runs = []
    for label, rows in labels(table, series):
        part = {figure: values[rows] for figure, values in series.items()}
        unit, found = segments(table, columns.get("epoch"), rows, part, notes)
        for number, (epochs, points) in enumerate(found, 1):
            told = [table.run, label, f"run {number}" if len(found) > 1 else ""]
            name = ": ".join(filter(None, [table.name, " ".join(filter(None, told))]))
            runs.append(_run(points, epochs=epochs, name=name, unit=unit, **shared))
    every = tuple(dict.fromkeys((*table.notes, *notes)))
    return [replace(run, notes=every) for run in runs]


def _run(points: Mapping[str, Series], *, epochs: Series, **rest: Any) -> Run:
    unknown = np.full(len(epochs), np.nan)
    found = [
        _divergence(epochs, points[figure], sure=figure == "train_loss")
        for figure in ("train_loss", "test_loss")
        if figure in points
    ]
    every = {figure: points.get(figure, unknown) for figure in FIGURES}
    series: dict[str, Any] = {name: np.where(np.isfinite(values), values, np.nan) for name, values in every.items()}
    diverged = min((epoch for epoch in found if epoch is not None), default=None)
    return Run(epochs=epochs, **series, diverged=diverged, **rest)


def _source(table: Table, chosen: Mapping[str, str]) -> str:
    of_name = {names.canonical(column) for column in table.columns}
    if {"epoch", "step"} <= of_name:
        return "Lightning log"
    training = [chosen[figure] for figure in ("train_acc", "train_loss") if figure in chosen]
    if training and not names.side(training[0]) and any(name.startswith("val_") for name in of_name):
        return "Keras log"
    return "training log"


def _divergence(epochs: Series, loss: Series, *, sure: bool) -> float | None:
    """Return the epoch from which on a loss is not finite, None if it is finite again or was only not measured.

    A NaN is "not measured" if finite figures follow, or if it ends a run whose earlier gaps were as long.
    """
    wrong = np.flatnonzero(np.isinf(loss))
    finite = np.flatnonzero(np.isfinite(loss))
    if not len(finite):
        return float(epochs[wrong[0]]) if len(wrong) and (sure or (loss[wrong] > 0).any()) else None
    tail = wrong[wrong > finite[-1]]
    if not len(tail):
        return None
    before = np.concatenate([[-1], finite])
    gaps = [np.count_nonzero((wrong > a) & (wrong < b)) for a, b in zip(before, finite, strict=False) if b - a > 1]
    certain = sure or len(finite) > 1
    if (loss[tail] > 0).any() or (certain and len(tail) > max(gaps, default=0)):
        return float(epochs[tail[0]])
    return None
