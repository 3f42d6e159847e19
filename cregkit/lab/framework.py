"""What an experiment is: rows and columns, the trial that fills them for a seed, and what follows from the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cregkit.lab.spread import Interval, Spread

Row: TypeAlias = tuple[str, ...]
Figures: TypeAlias = Mapping[str, float]
Curves: TypeAlias = Mapping[str, Sequence[float]]

CONFIRMED, CONTRADICTED, UNDECIDED = "confirmed", "contradicted", "undecided"


@dataclass(frozen=True)
class Column:
    """A figure of the table: the key of its values, what stands above it, and its decimals (None: three digits)."""

    key: str
    header: str
    decimals: int | None = 1


TRAIN_TEST_GAP = (Column("train_acc", "train %"), Column("test_acc", "test %"), Column("gap", "gap"))


@dataclass(frozen=True)
class Trial:
    """The figures of a row for one seed, and the curves by epoch that the picture shows."""

    row: Row
    figures: Figures
    curves: Curves = field(default_factory=dict)


class Table:
    """Figures by row and seed. Seeds are paired: seed i of all rows shares data, initial weights and order."""

    def __init__(self, rows: Sequence[Row], trials: Mapping[Row, Sequence[Trial]]) -> None:
        """Hold the trials of each row, in the order of their seeds; rows without any are left out."""
        self.trials = {row: list(trials.get(row, ())) for row in rows if trials.get(row)}
        self.missing = [row for row in rows if not trials.get(row)]

    @classmethod
    def of(cls, figures: Mapping[Row, Mapping[str, Sequence[float]]]) -> Table:
        """Make a table of the values, one per seed, that each row has of each figure."""
        trials = {
            row: [Trial(row, dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]
            for row, columns in figures.items()
        }
        return cls(list(figures), trials)

    @property
    def rows(self) -> list[Row]:
        """The rows that have trials."""
        return list(self.trials)

    @property
    def seeds(self) -> int:
        """Seeds of the row that has the most."""
        return max(map(len, self.trials.values()), default=0)

    def values(self, row: Row, key: str) -> NDArray[np.float64]:
        """Return a figure seed by seed; NaN where the row does not have it."""
        return np.array([trial.figures.get(key, math.nan) for trial in self.trials[row]], dtype=np.float64)

    def mean(self, row: Row, key: str) -> float:
        """Return the mean of a figure over the seeds."""
        return self.spread(row, key).mean

    def spread(self, row: Row, key: str) -> Spread:
        """Return mean and deviation of a figure over the seeds."""
        return Spread.of(list(self.values(row, key)))

    def curves(self, row: Row, key: str) -> NDArray[np.float64]:
        """Return a curve of each seed: shape (seeds, epochs). Shorter ones are filled up with NaN."""
        curves = [trial.curves[key] for trial in self.trials[row]]
        filled = np.full((len(curves), max(map(len, curves))), math.nan)
        for line, curve in zip(filled, curves, strict=True):
            line[: len(curve)] = curve
        return filled

    def difference(self, row: Row, other: Row, key: str) -> Interval:
        """Return how much more of a figure ``row`` has than ``other``, paired by seed."""
        return Interval.of(list(self.values(row, key) - self.values(other, key)))

    def cells(self, columns: Sequence[Column]) -> list[list[str]]:
        """Return the labels of each row and its figures as text."""
        return [[*row, *(self._cell(row, column) for column in columns)] for row in self.rows]

    def _cell(self, row: Row, column: Column) -> str:
        if all(column.key not in trial.figures for trial in self.trials[row]):
            return ""
        return self.spread(row, column.key).shown(column.decimals)


Quantity: TypeAlias = Callable[[Table], Interval]


def mean_of(row: Row, key: str) -> Quantity:
    """Return the quantity: a figure of a row."""
    return lambda table: Interval.of(list(table.values(row, key)))


def difference_of(row: Row, other: Row, key: str) -> Quantity:
    """Return the quantity: how much more of a figure ``row`` has than ``other``."""
    return lambda table: table.difference(row, other, key)


@dataclass(frozen=True)
class Claim:
    """What is commonly said, as a quantity of the table that should lie between ``least`` and ``most``."""

    text: str
    quantity: Quantity
    unit: str = "points"
    least: float = 0.0
    most: float = math.inf
    decimals: int = 1

    def verdict(self, table: Table) -> str:
        """Return whether the numbers confirm the claim, contradict it, or leave it open."""
        interval = self.quantity(table)
        if self.least < interval.low and interval.high < self.most:
            return CONFIRMED
        if interval.high <= self.least or interval.low >= self.most:
            return CONTRADICTED
        return UNDECIDED

    def shown(self, table: Table) -> str:
        """Return the quantity with its interval."""
        return self.quantity(table).shown(self.decimals, self.unit)


@dataclass(frozen=True)
class Experiment:
    """A question, how a seed answers it, and what follows from all seeds.

    Attributes:
        name: as on the command line.
        question: what the table answers.
        setup: data and network, in a line.
        seeds, epochs: the defaults.
        labels: what stands above the labels of the rows.
        rows: the rows of the table.
        columns: the figures of the table.
        trials: ``trials(seed, epochs)`` yields one trial for each row.
        conclude: returns one sentence that follows from the table.
        claims: what is commonly said and the table can judge.
        draw: ``draw(figure, table)`` draws the picture on a matplotlib Figure.
        size: width and height of the picture in inches.
    """

    name: str
    question: str
    setup: str
    seeds: int
    epochs: int
    labels: tuple[str, ...]
    rows: Sequence[Row]
    columns: Sequence[Column]
    trials: Callable[[int, int], Iterator[Trial]]
    conclude: Callable[[Table], str]
    draw: Callable[[Any, Table], None]
    claims: Sequence[Claim] = ()
    size: tuple[float, float] = (5.6, 4.6)


@dataclass(frozen=True)
class Settings:
    """What a run was asked for; None means the experiment's own default."""

    seeds: int | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Result:
    """A run: the table, and whether it has all the seeds asked for."""

    experiment: Experiment
    seeds: int
    epochs: int
    table: Table
    seconds: float
    complete: bool

    @property
    def caption(self) -> str:
        """What the table shows: how many epochs, seeds and seconds, and whether that is all that was asked for."""
        if not self.complete:
            return (
                f"Cut short after {self.seconds:.0f} s: what {self.seeds} seeds would have filled, {self.epochs} epochs"
            )
        seeds = "one seed" if self.seeds == 1 else f"mean ± standard deviation over {self.seeds} seeds"
        return f"{self.epochs} epochs, {seeds}, {self.seconds:.0f} s on one thread"

    @property
    def sentence(self) -> str | None:
        """What follows from the numbers; None if rows are missing, which no sentence may follow from."""
        return None if self.table.missing else self.experiment.conclude(self.table)

    @property
    def claims(self) -> list[tuple[Claim, str]]:
        """Every claim with its verdict; none if rows are missing."""
        if self.table.missing:
            return []
        return [(claim, claim.verdict(self.table)) for claim in self.experiment.claims]
