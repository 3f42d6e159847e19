"""Reader of training logs: the runs in files, folders and mappings, with their figures by epoch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cregkit._files import Path
from cregkit.advice import names, tables
from cregkit.advice.names import TEST, TRAIN, Meaning
from cregkit.advice.tables import Table

Series: TypeAlias = NDArray[np.float64]

FIGURES = ("train_loss", "train_acc", "test_loss", "test_acc")
COLUMN_KEYS = (*FIGURES, "epoch")
"""What ``columns`` may name."""
NEEDED = (
    "expected figures of each epoch on the validation or test set (val_loss, val_acc, val_accuracy or test_acc), best "
    "also on the training set; if other names hold them: --columns test_loss=NAME (columns={'test_loss': 'NAME'})"
)
OWN = "cregkit history"

_MISSING = frozenset(["", "na", "n/a", "none", "null", "-", "--", "<na>", "missing", "no log"])
_NOT_FINITE = -np.inf
"""Stands for a NaN in a log until it is known whether nothing was measured there or the training diverged."""
_TOO_LARGE = 1e150  # a figure beyond it counts as infinite: its square does not fit float64
_ROUNDING = 1e-4  # tolerance for a float32 mean of accuracies that exceeds its limit by rounding
_FACTOR = 5.0  # a test accuracy that many times the training accuracy is not believed
_JUMP = (40.0, 250.0)  # a factor of an accuracy from row to row that tells a change of scale, about 100
_OFTEN = 1.5  # validations per epoch from which the steps, not the epochs, are the points of a curve
_MOST_FILES = 1000
_MOST_RUNS = 200
_MOST_COLUMNS = 300


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


def read(history: Path | Sequence[Path], columns: Mapping[str, str] | None = None) -> list[Run]:
    r"""Read the runs from files and folders.

    Parameters
    ----------
    history
        A file or a folder, or several.
    columns
        The column of the log for a figure ("train_loss", "train_acc", "test_loss", "test_acc") or for "epoch", where
        its name does not tell.

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
            runs += _read_folder(os.fspath(path), columns)
        else:
            runs += _runs_of(tables.read(path, tuple((columns or {}).values())), columns)
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


def _read_folder(folder: str, columns: Mapping[str, str] | None) -> list[Run]:
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
                found = tables.read(files[0], tuple((columns or {}).values()))
            runs += _runs_of(found, columns)
        except (ValueError, ImportError) as error:  # an event file does not keep others from being read
            reasons.append(error)
    _check_count(folder, len(runs))
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
    _check_count(found[0].name, len(parts))
    return [run for part in parts for run in _runs(part, columns or {})]


def _check_count(name: str, runs: int) -> None:
    if runs > _MOST_RUNS:
        raise ValueError(f"{name}: found {runs} runs; expected at most {_MOST_RUNS}")


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
            labels = [str(cell) for cell in table.columns[metric]]
        elif where is not None and names.meaning(column) and not names.side(column):
            labels = [column] * len(cells)
        else:
            if column not in (metric, where):
                wide[column] = cells
            continue
        if len(set(labels)) > _MOST_COLUMNS:
            raise ValueError(f"{table.name}: found {len(set(labels))} kinds of figures; expected a few")
        for i, (cell, label, part) in enumerate(zip(cells, labels, of_set, strict=False)):
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
    chosen, cells, notes = _chosen(table, columns)
    own = {"train_acc", "test_acc", "gap"} <= {names.canonical(column) for column in table.columns}
    source = OWN if own else table.source or _source(table, chosen)
    series = _figures(table, chosen, cells, own, notes)
    shared: dict[str, Any] = {
        "source": source,
        "columns": chosen,
        "while_training": source in ("Keras log", "Lightning log", "Hugging Face log"),
    }
    runs = []
    for label, rows in _labels(table, series):
        part = {figure: values[rows] for figure, values in series.items()}
        unit, segments = _segments(table, columns.get("epoch"), rows, part, notes)
        for number, (epochs, points) in enumerate(segments, 1):
            told = [table.run, label, f"run {number}" if len(segments) > 1 else ""]
            name = ": ".join(filter(None, [table.name, " ".join(filter(None, told))]))
            runs.append(_run(points, epochs=epochs, name=name, unit=unit, **shared))
    every = tuple(dict.fromkeys((*table.notes, *notes)))
    return [replace(run, notes=every) for run in runs]


def _figures(
    table: Table, chosen: Mapping[str, str], cells: Mapping[str, Series], own: bool, notes: list[str]
) -> dict[str, Series]:
    """Return the figures of each row: accuracies in percent, losses as they are; raise if there is none."""
    kinds = {figure: names.meaning(column) for figure, column in chosen.items()}
    series = {figure: cells[column].copy() for figure, column in chosen.items()}
    for figure, meaning in kinds.items():
        if own:  # files of our history write None for what is not finite
            series[figure][np.isnan(series[figure])] = _NOT_FINITE
        if figure.endswith("loss") and meaning is not None and meaning.kind == "R2":
            series[figure] = np.where(np.isfinite(series[figure]), 1 - series[figure], series[figure])
            notes.append(f"{chosen[figure]} is judged as a loss, 1 - R2")
    _to_percent(table, chosen, kinds, series, own, notes)
    if all(np.isnan(values).all() for values in series.values()):
        raise ValueError(f"{table.name}: found {tables.listed(chosen.values())} without figures; {NEEDED}")
    return series


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


# Columns --------------------------------------------------------------------------------------------------------------


def _chosen(table: Table, columns: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Series], list[str]]:
    """Return the column of each figure, the numbers in the columns that may be figures, and notes."""
    given = {figure: column for figure, column in columns.items() if figure in FIGURES}
    for figure, column in columns.items():
        if column not in table.columns:
            raise ValueError(f"{table.name}: found {_found(table)}, and no column {column!r} for {figure}")
    meanings = {
        column: meaning
        for column, entries in table.columns.items()
        if len(entries) and (meaning := names.meaning(column)) is not None
    }
    if len(meanings) > _MOST_COLUMNS:
        raise ValueError(f"{table.name}: found {len(meanings)} columns of figures; expected at most {_MOST_COLUMNS}")
    if not meanings and not given:
        known = any(map(names.meaning, table.columns))
        raise ValueError(f"{table.name}: found {_found(table)}{' without a figure in them' if known else ''}; {NEEDED}")
    cells, wrong = {}, {}
    _even_lengths(table, [*meanings, *given.values()])
    for column in dict.fromkeys([*meanings, *given.values()]):
        cells[column], wrong[column] = _numbers(table, column)
    counts = {column: int(np.count_nonzero(~np.isnan(values))) for column, values in cells.items()}
    notes: list[str] = []
    usable = {column: meaning for column, meaning in meanings.items() if counts[column] or wrong[column]}
    sided = _with_sides(usable, cells, notes)
    chosen = _choose(sided, counts, notes)
    chosen = {figure: column for figure, column in chosen.items() if column not in given.values()} | given
    chosen = {figure: chosen[figure] for figure in FIGURES if figure in chosen}
    for column in chosen.values():
        if wrong[column]:
            raise ValueError(wrong[column])
    if not any(counts[column] for column in chosen.values()):
        raise ValueError(f"{table.name}: found {_found(table)} without a figure in them; {NEEDED}")
    for figure, column in chosen.items():
        meaning = sided.get(column)
        if meaning is None or figure in given:
            continue
        if meaning.kind in ("F1", "AUC", "overlap"):
            notes.append(f"{column} is judged as an accuracy, for there is none")
        others = [name for name, m in sided.items() if (m.kind, m.side) == (meaning.kind, meaning.side)]
        if meaning.extra and len(others) > 1:
            notes.append(f"of {tables.listed(others)}, {column} is judged; columns can choose another")
    return chosen, cells, notes


def _found(table: Table) -> str:
    return f"the columns {tables.listed(table.columns)}" if table.columns else "no columns"


def _even_lengths(table: Table, columns: Sequence[str]) -> None:
    """Spread columns of JSON that were measured in every k-th epoch; raise if the lengths do not tell which."""
    lengths = {column: len(table.columns[column]) for column in columns}
    rows = max(lengths.values())
    for column, length in lengths.items():
        step, rest = divmod(rows, length) if length else (1, 0)
        if rest or (step > 1 and length < 2):
            shown = ", ".join(f"{tables.listed([name])} {number}" for name, number in list(lengths.items())[:8])
            raise ValueError(f"{table.name}: found columns of different lengths: {shown}; expected one entry per epoch")
        if step > 1:
            spread: list[Any] = [None] * rows
            spread[step - 1 :: step] = table.columns[column]
            table.columns[column] = spread
            table.notes.append(f"{column} has {length} entries for {rows}, so it is read as measured every {step} rows")


def _with_sides(meanings: Mapping[str, Meaning], cells: Mapping[str, Series], notes: list[str]) -> dict[str, Meaning]:
    """Return the meanings with a set for the columns whose names tell none, such as ``loss`` beside ``val_loss``."""
    of_side = {side: [m for m in meanings.values() if m.side == side] for side in (TRAIN, TEST)}
    losses = [column for column, m in meanings.items() if m.figure == "loss" and m.side in ("", TRAIN)]
    sided = {}
    for column, meaning in meanings.items():
        side = meaning.side
        if not side:
            measured = ~np.isnan(cells[column])
            apart = not any((measured & ~np.isnan(cells[loss])).any() for loss in losses)
            if any(other.kind == meaning.kind and other.extra == meaning.extra for other in of_side[TEST]):
                side = TRAIN
            elif any(other.kind == meaning.kind and other.extra == meaning.extra for other in of_side[TRAIN]):
                side = TEST
            elif meaning.figure == "acc" and (of_side[TRAIN] or (losses and apart)):
                side = TEST  # fastai, Ultralytics and MMEngine print the validation accuracy without a prefix
                notes.append(f"{column} is read as that of the validation set")
            else:
                side = TRAIN
        sided[column] = replace(meaning, side=side)
    if meanings and not of_side[TRAIN] and all(re.match(r"validation_\d", column) for column in meanings):
        first = min(meanings)[: len("validation_0")]
        if not all(column.startswith(first) for column in meanings):
            notes.append(f"{first} is read as the training set, the first of eval_set; another order needs columns")
            for column in sided:
                side = TRAIN if column.startswith(first) else TEST
                extra = tuple(word for word in sided[column].extra if not word.isdigit())
                sided[column] = replace(sided[column], side=side, extra=extra)
    return sided


def _choose(meanings: Mapping[str, Meaning], counts: Mapping[str, int], notes: list[str]) -> dict[str, str]:
    """Return the column of each figure: of comparable columns of both sets, the pair that is preferred."""
    chosen: dict[str, str] = {}
    for figure in ("loss", "acc"):
        of_side = {}
        for side in (TRAIN, TEST):
            found = [column for column, m in meanings.items() if (m.figure, m.side) == (figure, side)]
            several = [column for column in found if counts[column] > 1]
            of_side[side] = sorted(several or found, key=lambda column: meanings[column].rank)
        pairs = [
            (train, test)
            for train in of_side[TRAIN]
            for test in of_side[TEST]
            if meanings[train].comparable(meanings[test])
        ]
        if pairs:
            train, test = min(pairs, key=lambda pair: _rank_of_pair(meanings[pair[0]], meanings[pair[1]]))
            chosen |= {f"train_{figure}": train, f"test_{figure}": test}
        elif of_side[TEST]:
            chosen[f"test_{figure}"] = of_side[TEST][0]
            if of_side[TRAIN]:
                notes.append(f"{of_side[TRAIN][0]} is left out: another figure than {of_side[TEST][0]}")
        elif of_side[TRAIN]:
            chosen[f"train_{figure}"] = of_side[TRAIN][0]
    return chosen


def _rank_of_pair(train: Meaning, test: Meaning) -> tuple[Any, ...]:
    return set(train.extra) != set(test.extra), train.kind != test.kind, test.rank, train.rank


def _numbers(table: Table, column: str) -> tuple[Series, str]:
    """Return the cells as floats, NaN where nothing was measured, and an error for the first that is no number."""
    entries = table.columns[column]
    numbers, wrong = _parsed(entries)
    numbers[np.abs(numbers) > _TOO_LARGE] *= np.inf
    error = ""
    if len(wrong):
        shown = repr(entries[wrong[0]])[: tables.SHOWN]
        error = f"{table.name}: {table.place(wrong[0])}, column {column}: found {shown}; expected a number"
    return numbers, error


def _parsed(entries: Sequence[Any]) -> tuple[Series, list[int]]:
    """Return cells as floats, NaN for empty ones and ``_NOT_FINITE`` for NaN, and the places of those that are none."""
    numbers = np.full(len(entries), np.nan)
    wrong: list[int] = []
    places = [i for i, cell in enumerate(entries) if cell is not None and cell != ""]
    cells = [entries[i] for i in places]
    try:
        found = np.array(list(map(float, cells)))
        plain = bool not in set(map(type, cells))
    except (TypeError, ValueError, OverflowError):
        plain = False
    if plain:
        numbers[places] = np.where(np.isnan(found), _NOT_FINITE, found)
        return numbers, wrong
    for i, cell in zip(places, cells, strict=True):
        if isinstance(cell, str) and cell.strip().lower() in _MISSING:
            continue
        number = _number(cell)
        if number is None:
            wrong.append(i)
        else:
            numbers[i] = _NOT_FINITE if np.isnan(number) else number
    return numbers, wrong


def _number(content: Any) -> float | None:
    """Return a cell as a float: "0,5", "50 %" and "tensor(0.5)" are numbers too; None if it is no number."""
    if isinstance(content, bool):
        return None
    try:
        return float(content)
    except (TypeError, ValueError, OverflowError):
        pass
    if not isinstance(content, str):
        return None
    tensor = re.match(r"\s*tensor\(([^,()]{1,40})[,)]", content)
    content = tensor[1] if tensor else content.strip().removesuffix("%").strip()
    if content.count(",") == 1 and "." not in content:
        content = content.replace(",", ".")
    try:
        return float(content)
    except ValueError:
        return None


# Scales ---------------------------------------------------------------------------------------------------------------


def _to_percent(
    table: Table,
    chosen: Mapping[str, str],
    kinds: Mapping[str, Meaning | None],
    series: dict[str, Series],
    own: bool,
    notes: list[str],
) -> None:
    """Convert accuracies to percent, and error rates to accuracies; without one above 1, they are fractions."""
    figures = [figure for figure in ("train_acc", "test_acc") if figure in series]
    series.update({figure: np.where(np.isinf(series[figure]), np.nan, series[figure]) for figure in figures})
    largest = {figure: float(np.nanmax(series[figure], initial=0.0)) for figure in figures}
    signed = {figure: own or _in_percent(table, chosen[figure], kinds[figure]) for figure in figures}
    unsigned = [figure for figure in figures if not signed[figure]]
    fractions = [figure for figure in unsigned if largest[figure] <= 1 + _ROUNDING]
    if 0 < len(fractions) < len(unsigned):
        small, large = fractions[0], next(figure for figure in unsigned if figure not in fractions)
        if small == "train_acc" or 100 * largest[small] <= _FACTOR * largest[large]:
            raise ValueError(
                f"{table.name}: found {chosen[small]} up to {largest[small]:.4g} and {chosen[large]} up to "
                f"{largest[large]:.4g}: the first is either a fraction ({100 * largest[small]:.4g} %) or in percent "
                f"({largest[small]:.4g} %); write both in one scale, or % in the name of a column in percent"
            )
        fractions = []
    if any(largest[figure] > 0 for figure in fractions):
        notes.append("no accuracy exceeds 1, so accuracies are read as fractions: 1 is 100 %")
    for figure in figures:
        limit = 1.0 if figure in fractions else 100.0
        values = series[figure]
        wrong = (values < 0) | (values > limit + _ROUNDING)
        if wrong.any():
            i = int(np.argmax(wrong))
            raise ValueError(
                f"{table.name}: {table.place(i)}, column {chosen[figure]}: found an accuracy of "
                f"{values[i]:.15g}; expected one from 0 to 100 (percent) or from 0 to 1 in the whole log"
            )
        if figure not in fractions:
            _check_scale(table, chosen[figure], values)
        values = np.minimum(values * (100.0 / limit), 100.0)
        meaning = kinds[figure]
        if meaning is not None and meaning.kind == "error rate":
            values = 100.0 - values
            notes.append(f"{chosen[figure]} is an error rate: the accuracy is 100 % minus it")
        series[figure] = values


def _in_percent(table: Table, column: str, meaning: Meaning | None) -> bool:
    """Return whether a column says that it is in percent."""
    cells = table.columns[column][:1000]
    return (meaning is not None and meaning.percent) or any(isinstance(x, str) and x.strip()[-1:] == "%" for x in cells)


def _check_scale(table: Table, column: str, values: Series) -> None:
    """Raise if a column changes from fractions to percent between two rows."""
    rows = np.flatnonzero(~np.isnan(values))
    before, after = values[rows[:-1]], values[rows[1:]]
    low, high = np.minimum(before, after), np.maximum(before, after)
    jumps = (low >= 0.2) & (low <= 1) & (high > _JUMP[0] * low) & (high < _JUMP[1] * low)
    if jumps.any():
        i = int(np.argmax(jumps))
        raise ValueError(
            f"{table.name}: column {column}: found {before[i]:.4g} in {table.place(int(rows[i]))} and {after[i]:.4g} "
            f"in {table.place(int(rows[i + 1]))}: {low[i]:.4g} is either a fraction ({100 * low[i]:.4g} %) or in "
            "percent; write the whole column in one scale"
        )


# Rows to points -------------------------------------------------------------------------------------------------------


def _labels(table: Table, series: Mapping[str, Series]) -> list[tuple[str, NDArray[np.intp]]]:
    """Return the rows of each run that a column such as ``fold`` tells apart, in their order."""
    rows = max(map(len, series.values()))
    measured = np.flatnonzero(np.logical_or.reduce([~np.isnan(values) for values in series.values()]))
    for column, cells in table.columns.items():
        if names.is_run(column) and len(cells) == rows:
            labels = np.array([str(cells[i]).strip()[:40] for i in measured])
            found = list(dict.fromkeys(labels.tolist()))
            if 1 < len(found) <= len(measured) / 2:
                _check_count(table.name, len(found))
                head = names.words(column)[0]
                return [(f"{head} {label}", measured[labels == label]) for label in found]
    return [("", measured)]


def _segments(
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
    segments = []
    for chosen, x in _restarts(table, counted, series, notes):
        part = {figure: values[chosen] for figure, values in series.items()}
        key, unit = _points(x, None if step is None else step[chosen], part, unit, epoch is not None)
        segments.append(_grouped(key, part))
    return unit, segments


def _index_columns(table: Table, heads: frozenset[str]) -> list[str]:
    found = [column for column in table.columns if table.columns[column] and names.is_index(column, heads)]
    return sorted(found, key=lambda column: len(names.words(column)))


def _index(table: Table, rows: NDArray[np.intp], columns: Sequence[str]) -> Series | None:
    """Return the numbers of the first column that counts the rows; a row without one has that of the row before."""
    for column in columns:
        entries = table.columns[column]
        if len(entries) <= rows[-1]:
            raise ValueError(f"{table.name}: found {len(entries)} entries in {column}, but {rows[-1] + 1} figures")
        numbers, wrong = _parsed(entries)
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
