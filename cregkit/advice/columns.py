"""Columns of a log: which of them is which figure, their cells as numbers, accuracies in percent."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

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

_MISSING = frozenset(["", "na", "n/a", "none", "null", "-", "--", "<na>", "missing", "no log"])
_NOT_FINITE = -np.inf
"""Stands for a NaN in a log until it is known whether nothing was measured there or the training diverged."""
_TOO_LARGE = 1e150  # a figure beyond it counts as infinite: its square does not fit float64
_ROUNDING = 1e-4  # tolerance for a float32 mean of accuracies that exceeds its limit by rounding
_FACTOR = 5.0  # a test accuracy that many times the training accuracy is not believed
_JUMP = (40.0, 250.0)  # a factor of an accuracy from row to row that tells a change of scale, about 100
MOST_COLUMNS = 300


def figures(
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


def chosen_columns(table: Table, columns: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Series], list[str]]:
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
    if len(meanings) > MOST_COLUMNS:
        raise ValueError(f"{table.name}: found {len(meanings)} columns of figures; expected at most {MOST_COLUMNS}")
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
    numbers, wrong = parsed(entries)
    numbers[np.abs(numbers) > _TOO_LARGE] *= np.inf
    error = ""
    if len(wrong):
        shown = repr(entries[wrong[0]])[: tables.SHOWN]
        error = f"{table.name}: {table.place(wrong[0])}, column {column}: found {shown}; expected a number"
    return numbers, error


def parsed(entries: Sequence[Any]) -> tuple[Series, list[int]]:
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
        number = _as_number(cell)
        if number is None:
            wrong.append(i)
        else:
            numbers[i] = _NOT_FINITE if np.isnan(number) else number
    return numbers, wrong


def _as_number(content: Any) -> float | None:
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
