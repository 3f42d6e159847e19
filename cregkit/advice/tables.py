"""Training logs as tables of raw cells: CSV, JSON, JSON lines and TensorBoard event files."""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from cregkit._files import Path
from cregkit.advice import names

LIMIT = 64 * 2**20
"""Largest size of a text file, in bytes."""
EVENTS_LIMIT = 2**30
"""Largest size of the event files of a folder, in bytes; most of it is images and histograms, which are skipped."""
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt", ".log")
"""Names of files that are read from a folder end so; event files contain ``EVENTS``."""
EVENTS = "tfevents"

SHOWN = 160
"""Most characters of a file that an error message quotes."""
INDEX_NAMES = ("", "index", "unnamed: 0")
"""Names of the column of row numbers of a ``pandas.DataFrame``."""
_MOST_COLUMNS = 2000
_DEPTH = 8  # most nested levels of JSON that are searched
_EXPORT = re.compile(r"run-(?P<run>.*?)-?tag-(?P<tag>.+)", re.IGNORECASE)  # file of TensorBoard's CSV export


@dataclass
class Table:
    """The raw cells of one log, or of one run of it."""

    name: str
    """The file, for messages."""
    columns: dict[str, list[Any]]
    """Cells by column; a column that cannot matter has none."""
    place: Callable[[int], str] = lambda i: f"entry {i + 1}"
    """Name of a row, for messages."""
    run: str = ""
    """Name of the run within the file."""
    source: str = ""
    """Type of the log, if its form shows it."""
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return max(map(len, self.columns.values()), default=0)


def listed(found: Iterable[str]) -> str:
    """Return names as one line of bounded length."""
    shown = ", ".join(name.strip()[:SHOWN] or "''" for name in found)
    shown = shown if shown.isprintable() else repr(shown)
    return shown if len(shown) <= SHOWN else shown[:SHOWN] + "..."


def read(path: Path, wanted: Collection[str] = (), *, growing: bool = False) -> list[Table]:
    """Return the tables of a file.

    Parameters
    ----------
    path
        A file.
    wanted
        Columns to keep although their names say nothing.
    growing
        Whether the file is being written: a last line without its end is then left out, except in JSON.

    Returns
    -------
    list of Table
        One table, or one for each run.

    Raises
    ------
    OSError
        The file is missing or cannot be read.
    ImportError
        An event file needs TensorBoard.
    ValueError
        The file is not a log; the message is one line.
    """
    name = os.fspath(path)
    if EVENTS in os.path.basename(name):
        return [read_events(os.path.dirname(name), [name])]
    with open(path, "rb") as file:
        content = file.read(LIMIT + 1)
    if len(content) > LIMIT:
        raise ValueError(
            f"{name}: found more than {LIMIT >> 20} MiB; expected a log up to that size, such as one by epoch"
        )
    text = _decoded(name, content).replace("\ufeff", "")
    start = text.lstrip()[:1]
    if growing and start not in "{[":
        text = text[: text.rfind("\n") + 1]
        start = text.lstrip()[:1]
    if not start:
        raise ValueError(f"{name}: found an empty file; expected a training log as CSV or JSON")
    return _from_json(name, text) if start in "{[" else [_from_csv(name, text, wanted)]


def from_mapping(name: str, content: Mapping[str, object]) -> list[Table]:
    """Return the tables in nested mappings and lists, such as ``history.history`` of Keras or ``evals_result``."""
    return _from_object(name, dict(content))


def _decoded(name: str, content: bytes) -> str:
    encoding = "utf-8"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif len(content) >= 4 and not any(content[1:200:2]) and all(content[:200:2]):
        encoding = "utf-16-le"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"{name}: found a binary file; expected a training log as CSV or JSON text in UTF-8 or UTF-16")
    return text if "\n" in text else text.replace("\r", "\n")


# CSV ------------------------------------------------------------------------------------------------------------------


def _from_csv(name: str, text: str, wanted: Collection[str]) -> Table:
    lines = (match[0] for match in re.finditer(r"[^\n]*\n|[^\n]+", text))
    skipped, first = 0, ""
    for first in lines:
        if first.strip() and not first.startswith("sep=") and not _comment(first):
            break
        skipped += 1
    separator = max(",;\t|", key=first.count)
    if separator not in first and sum(map(matters, first.lstrip("# ").split())) > 1:
        separator = " "
    reader = csv.reader(chain([first.lstrip("# ")], lines), delimiter=separator, skipinitialspace=True)
    table = Table(name, {}, source="")
    numbers: list[int] = []
    table.place = lambda i: f"line {numbers[i]}"
    kept: list[tuple[int, list[Any]]] = []
    width = 0
    try:
        for row in reader:
            if not width or (row and not row[0][:1].isdigit() and _is_header(row, table.columns)):
                width, kept = len(row), _headed(row, table, wanted, len(numbers))
                continue
            if not row or (len(row) == 1 and not row[0].strip()):
                continue
            line = reader.line_num + skipped
            if len(row) > width and any(cell.strip() for cell in row[width:]):
                raise ValueError(
                    f"{name}: found {len(row)} cells in line {line} and {width} in the header; "
                    "expected a training log as CSV with a cell per column"
                )
            for i, cells in kept:
                cells.append(row[i] if i < len(row) else "")
            numbers.append(line)
    except csv.Error as error:
        raise ValueError(f"{name}: line {reader.line_num + skipped} is not CSV: {error}") from None
    for _, cells in kept:
        cells += [""] * (len(numbers) - len(cells))
    _name_of_export(table)
    return table


def _comment(line: str) -> bool:
    """Return whether a line that starts with # is no header."""
    return line.startswith("#") and not any(names.meaning(word) for word in re.split(r"[,;\t|]", line))


def _is_header(row: Sequence[str], columns: Mapping[str, object]) -> bool:
    """Return whether a row is a header again: no numbers, and at least two names of columns."""
    cells = row[:100]
    return not any(map(_is_number, cells)) and sum(cell in columns or bool(names.meaning(cell)) for cell in cells) > 1


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell[1:2].isdigit()


def _headed(row: Sequence[str], table: Table, wanted: Collection[str], rows: int) -> list[tuple[int, list[Any]]]:
    """Return position and list of the columns to keep under a new header, every list ``rows`` long."""
    if len(row) > _MOST_COLUMNS:
        raise ValueError(f"{table.name}: found {len(row)} columns; expected at most {_MOST_COLUMNS}")
    kept = []
    seen = set()
    for i, column in enumerate(row):
        if column in seen:  # of two equal names, the first
            continue
        seen.add(column)
        cells = table.columns.setdefault(column, [])
        if column in wanted or matters(column):
            cells += [""] * (rows - len(cells))
            kept.append((i, cells))
    for column in table.columns.keys() - seen:
        table.columns[column] += [""] * (rows - len(table.columns[column]))
    return kept


def matters(column: str) -> bool:
    """Return whether a column of this name can tell a figure, an epoch, a set or a run."""
    parts = names.words(column)
    return (
        names.meaning(column) is not None
        or column.strip().lower() in INDEX_NAMES
        or names.is_index(column, names.EPOCHS)
        or names.is_index(column, names.STEPS)
        or names.is_run(column)
        or (len(parts) == 1 and parts[0] in names.SIDE_COLUMNS | names.METRIC_COLUMNS | {"value"})
    )


def _name_of_export(table: Table) -> None:
    """Give the values of TensorBoard's CSV export the name of the tag, which only the name of the file tells."""
    of_name = {names.canonical(column): column for column in table.columns}
    if {"step", "value"} <= of_name.keys() and len(of_name) == 3:
        stem = os.path.splitext(os.path.basename(table.name))[0]
        found = _EXPORT.fullmatch(stem)
        run, tag = (found["run"], found["tag"]) if found else (names.without_figures(stem), stem)
        words = tag if names.side(tag) else f"{names.side(run)} {tag}".strip()
        table.columns[words] = table.columns.pop(of_name["value"])
        table.run = names.without_figures(run)
        table.source = "TensorBoard log"


# JSON -----------------------------------------------------------------------------------------------------------------


def _from_json(name: str, text: str) -> list[Table]:
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError(f"{name}: found broken JSON: too deep") from None
    except ValueError as error:
        if str(error).startswith("Extra data"):
            return [_from_json_lines(name, text)]
        raise ValueError(f"{name}: found broken JSON: {str(error)[:SHOWN]}") from None
    return _from_object(name, content)


def _from_json_lines(name: str, text: str) -> Table:
    records: list[dict[str, Any]] = []
    numbers: list[int] = []
    notes: list[str] = []
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines) and records:
                notes.append("the last line is cut off, and left out")
                break
            raise ValueError(f"{name}: line {number} is broken JSON: {str(error)[:SHOWN]}") from None
        if not isinstance(record, dict):
            raise ValueError(f"{name}: found {type(record).__name__} in line {number}; expected a JSON object per line")
        records.append(record)
        numbers.append(number)
    table = _from_records(name, records)
    table.place = lambda i: f"line {numbers[i]}"
    table.notes += notes
    return table


def _from_object(name: str, content: Any) -> list[Table]:
    if isinstance(content, list) and not any(isinstance(entry, dict) for entry in content):
        raise ValueError(
            f"{name}: found a JSON list of {len(content)} that are no objects; expected an object per epoch"
        )
    if isinstance(content, dict) and isinstance(content.get("log_history"), list):
        table = _from_records(name, [entry for entry in content["log_history"] if isinstance(entry, dict)])
        table.source = "Hugging Face log"
        return [table]
    lists: dict[tuple[str, ...], list[Any]] = {}
    scalars: dict[tuple[str, ...], Any] = {}
    records: dict[tuple[str, ...], list[Any]] = {}
    for path, value in _leaves(content, ()):
        if not isinstance(value, list):
            scalars[path] = value
        elif any(isinstance(entry, dict) for entry in value):
            records[path] = [entry for entry in value if isinstance(entry, dict)]
        else:
            lists[path] = value
    useful = [
        table
        for path in records
        if any(map(names.meaning, (table := _from_records(name, records[path], path)).columns))
    ]
    if useful and any(names.meaning("/".join(path)) for path in lists):  # {"val_loss": [...], "val_metrics": [{...}]}
        for path, entries in records.items():
            columns = _from_records(name, entries).columns
            lists |= {(*path, column): cells for column, cells in columns.items() if names.meaning(column)}
    elif useful:
        for table in useful if len(useful) == 1 else ():
            table.run = ""
        return useful
    if lists:
        return _from_lists(name, lists)
    if isinstance(content, dict) and any(names.meaning("/".join(path)) for path in scalars):
        keyed = {str(key): value for key, value in content.items() if isinstance(value, dict)}
        if keyed and all(re.fullmatch(r"(epoch\W?|_)*\d+", key.lower()) for key in keyed):
            return [_from_records(name, [{"epoch": re.sub(r"\D", "", key), **value} for key, value in keyed.items()])]
        return [_from_records(name, [content])]
    found = listed(map(str, content)) if isinstance(content, dict) else f"a JSON {type(content).__name__}"
    raise ValueError(
        f"{name}: found {found or 'nothing'}, and no list of figures among them; expected some of each epoch"
    )


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the paths to the lists and scalars in nested objects; a list of lists has a run in each."""
    if isinstance(value, (tuple, np.ndarray)):
        value = list(value)
    if len(path) > _DEPTH:
        return
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _leaves(entry, (*path, str(key)))
    elif isinstance(value, list) and value and all(_holds_lists(entry) for entry in value):
        for i, entry in enumerate(value, 1):
            yield from _leaves(entry, (*path, f"run {i}"))
    else:
        yield path, value


def _holds_lists(entry: Any) -> bool:
    """Return whether an entry of a list is a run: a list, or an object of lists."""
    lists = (list, tuple, np.ndarray)
    return isinstance(entry, lists) or (isinstance(entry, dict) and any(isinstance(x, lists) for x in entry.values()))


def _from_records(name: str, records: Sequence[Mapping[str, Any]], path: tuple[str, ...] = ()) -> Table:
    """Return the table of a list of flat or nested objects; the path to it may name the set or the run."""
    of_set = [part for part in path if names.side(part)]
    columns: dict[str, list[Any]] = {}
    for i, record in enumerate(records):
        for keys, value in _leaves(record, ()):
            column = "/".join(keys)
            if names.meaning(column) and not names.side(column):
                column = "/".join((*of_set, column))
            cells = columns.setdefault(column, [])
            if not isinstance(value, list) and len(cells) <= i:
                cells += [None] * (i - len(cells))
                cells.append(value)
    for cells in columns.values():
        cells += [None] * (len(records) - len(cells))
    return Table(name, columns, run=" ".join(part for part in path if part not in of_set))


def _names_run(part: str) -> bool:
    return part.isdigit() or names.is_run(re.sub(r"\d+", "", part))


def _from_lists(name: str, lists: Mapping[tuple[str, ...], list[Any]]) -> list[Table]:
    """Return a table for each run among lists: ``fold_0/loss``, or ``model a/loss`` beside ``model b/loss``."""
    first_parts = {
        path[0]
        for path in lists
        if len(path) > 1
        and names.meaning("/".join(path[1:]))
        and not names.side(path[0])
        and not names.meaning(path[0])
    }
    tables: dict[str, Table] = {}
    for path, cells in lists.items():
        runs = [part for part in path if _names_run(part)]
        if not runs and len(first_parts) > 1 and path[0] in first_parts:
            runs = [path[0]]
        run = " ".join(runs)
        column = "/".join(part for part in path if part not in runs)
        tables.setdefault(run, Table(name, {}, run=run)).columns[column] = cells
    useful = [table for table in tables.values() if any(map(names.meaning, table.columns))]
    return useful or list(tables.values())


# TensorBoard ----------------------------------------------------------------------------------------------------------


def read_events(folder: str, files: Sequence[str]) -> Table:
    """Return the scalars of the event files of a folder, one row for each scalar and step.

    Parameters
    ----------
    folder
        The folder; its name may be that of a set, such as ``validation``.
    files
        The event files.

    Returns
    -------
    Table
        A column for the steps and one for each scalar of a known name.

    Raises
    ------
    ImportError
        TensorBoard is not installed.
    ValueError
        The files are too large, broken, or without scalars.
    """
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise ImportError(
            f"{files[0]}: event files need TensorBoard: pip install 'cregkit[tensorboard]', or export them as CSV"
        ) from error
    size = sum(map(os.path.getsize, files))
    if size > EVENTS_LIMIT:
        raise ValueError(
            f"{files[0]}: found event files of {size >> 20} MiB; expected at most {EVENTS_LIMIT >> 20} MiB"
        )
    points: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(files):
        try:
            for event in EventFileLoader(file).Load():
                for value in event.summary.value:
                    if matters(value.tag) and value.HasField("tensor") and not value.tensor.tensor_shape.dim:
                        number = make_ndarray(value.tensor)
                        if number.dtype.kind in "fiu":
                            points.setdefault(value.tag, []).append((event.step, float(number)))
        except Exception as error:  # the loader raises what it meets in a broken file
            raise ValueError(f"{file}: found a broken event file: {str(error)[:SHOWN]!r}") from None
    return _from_points(files[0], os.path.basename(folder), points)


def _from_points(name: str, folder: str, points: Mapping[str, list[tuple[int, float]]]) -> Table:
    if not points:
        raise ValueError(f"{name}: found event files without a scalar of a known name, such as val_loss")
    rows = sum(map(len, points.values()))
    of_set = names.side(folder)
    columns: dict[str, list[Any]] = {"step": []}
    for tag, series in points.items():
        column = tag if names.side(tag) or not of_set or not names.meaning(tag) else f"{of_set}/{tag}"
        done = len(columns["step"])
        columns["step"] += [step for step, _ in series]
        columns[column] = [None] * done + [value for _, value in series] + [None] * (rows - done - len(series))
    return Table(name, columns, source="TensorBoard log")
