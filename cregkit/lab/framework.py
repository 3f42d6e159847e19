"""The parts of an experiment: table, trials by seed, conclusion and claims."""

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
    """A column of the table: the key of its values, the header, and the decimals (None: three digits)."""

    key: str
    header: str
    decimals: int | None = 1


TRAIN_TEST_GAP = (Column("train_acc", "train %"), Column("test_acc", "test %"), Column("gap", "gap"))


@dataclass(frozen=True)
class Trial:
    """The metrics of a row for one seed, and the curves by epoch for the plot."""

    row: Row
    figures: Figures
    curves: Curves = field(default_factory=dict)


class Table:
    """Metrics by row and seed. Seeds are paired: seed i has the same data, initial weights and order in all rows."""

    def __init__(self, rows: Sequence[Row], trials: Mapping[Row, Sequence[Trial]]) -> None:
        """Store the trials of each row in the order of their seeds; rows without trials are omitted."""
        self.trials = {row: list(trials.get(row, ())) for row in rows if trials.get(row)}
        self.missing = [row for row in rows if not trials.get(row)]

    @classmethod
    def of(cls, figures: Mapping[Row, Mapping[str, Sequence[float]]]) -> Table:
        """Return a table from the values of each metric, one per seed, by row."""
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
        """Largest number of seeds of any row."""
        return max(map(len, self.trials.values()), default=0)

    def values(self, row: Row, key: str) -> NDArray[np.float64]:
        """Return a metric by seed; NaN if the row lacks it. A row or metric that the table lacks is an error."""
        if row not in self.trials:
            raise ValueError(f"no row {row!r} in the table; there are {self.rows}")
        keys = {key for of_row in self.trials.values() for trial in of_row for key in trial.figures}
        if key not in keys and not self.missing:
            raise ValueError(f"no trial has the metric {key!r}; there are {sorted(keys)}")
        return np.array([trial.figures.get(key, math.nan) for trial in self.trials[row]], dtype=np.float64)

    def mean(self, row: Row, key: str) -> float:
        """Return the mean of a metric over the seeds."""
        return self.spread(row, key).mean

    def spread(self, row: Row, key: str) -> Spread:
        """Return mean and standard deviation of a metric over the seeds."""
        return Spread.of(list(self.values(row, key)))

    def curves(self, row: Row, key: str) -> NDArray[np.float64]:
        """Return a curve of each seed as shape (seeds, epochs), padded with NaN."""
        curves = [trial.curves[key] for trial in self.trials[row]]
        filled = np.full((len(curves), max(map(len, curves))), math.nan)
        for line, curve in zip(filled, curves, strict=True):
            line[: len(curve)] = curve
        return filled

    def difference(self, row: Row, other: Row, key: str) -> Interval:
        """Return the difference ``row`` minus ``other`` of a metric, paired by seed."""
        return Interval.of(list(self.values(row, key) - self.values(other, key)))

    def cells(self, columns: Sequence[Column]) -> list[list[str]]:
        """Return the labels and formatted metrics of each row."""
        return [[*row, *(self._cell(row, column) for column in columns)] for row in self.rows]

    def _cell(self, row: Row, column: Column) -> str:
        if all(column.key not in trial.figures for trial in self.trials[row]):
            return ""
        return self.spread(row, column.key).shown(column.decimals)


Quantity: TypeAlias = Callable[[Table], Interval]


def mean_of(row: Row, key: str) -> Quantity:
    """Return a quantity: the metric of a row."""
    return lambda table: Interval.of(list(table.values(row, key)))


def difference_of(row: Row, other: Row, key: str) -> Quantity:
    """Return a quantity: the difference ``row`` minus ``other`` of a metric."""
    return lambda table: table.difference(row, other, key)


@dataclass(frozen=True)
class Claim:
    """A common claim, as a quantity of the table that should lie between ``least`` and ``most``."""

    text: str
    quantity: Quantity
    unit: str = "points"
    least: float = 0.0
    most: float = math.inf
    decimals: int = 1

    def verdict(self, table: Table) -> str:
        """Return whether the confidence interval confirms or contradicts the claim, or leaves it undecided."""
        interval = self.quantity(table)
        if self.least < interval.low and interval.high < self.most:
            return CONFIRMED
        if interval.high <= self.least or interval.low >= self.most:
            return CONTRADICTED
        return UNDECIDED

    def shown(self, table: Table) -> str:
        """Format the quantity and its interval."""
        return self.quantity(table).shown(self.decimals, self.unit)


@dataclass(frozen=True)
class Experiment:
    """An experiment: a question, the trials that answer it, and the conclusion.

    Attributes
    ----------
    name
        Name on the command line.
    question
        Question that the table answers.
    setup
        Data and network, in one line.
    seeds, epochs
        Defaults.
    labels
        Headers of the row labels.
    rows
        Rows of the table.
    columns
        Columns of the table.
    trials
        ``trials(seed, epochs)`` yields one trial per row.
    conclude
        Returns one sentence that follows from the table.
    draw
        ``draw(figure, table)`` draws the plot on a matplotlib Figure.
    claims
        Common claims that the table can judge.
    size
        Width and height of the plot in inches.

    Examples
    --------
    Each row is a tuple with a text for each label. Each trial has the metrics that the columns name by their keys.

    >>> from cregkit.lab import figures
    >>> from cregkit.lab.experiments import running, training
    >>> from cregkit.lab.experiments.words import compared
    >>> from cregkit.lab.framework import TRAIN_TEST_GAP, Claim, Experiment, Settings, Trial, difference_of
    >>> from cregkit.train import SGD
    >>> NARROW, WIDE = ROWS = [("8",), ("128",)]
    >>> def trials(seed, epochs):
    ...     task = training.circle(seed)
    ...     for row in ROWS:
    ...         network = training.perceptron(task, (int(row[0]),), seed)
    ...         history = training.train(network, task, SGD(network, 0.5), epochs, seed, batch_size=16)
    ...         yield Trial(row, training.outcome(network, task, history))
    >>> def conclude(table):
    ...     gap = compared(table.difference(WIDE, NARROW, "gap"), "wider", "narrower")
    ...     return f"With 128 neurons instead of 8, the gap is {gap}."
    >>> def draw(figure, table):
    ...     figures.gap_bars(figure.subplots(), table, table.rows, [name for (name,) in table.rows])
    >>> experiment = Experiment(
    ...     name="width",
    ...     question="Does a wider hidden layer overfit more?",
    ...     setup=f"{training.CIRCLE_SETUP}; one hidden layer, SGD",
    ...     seeds=5,
    ...     epochs=300,
    ...     labels=("neurons",),
    ...     rows=ROWS,
    ...     columns=TRAIN_TEST_GAP,
    ...     trials=trials,
    ...     conclude=conclude,
    ...     draw=draw,
    ...     claims=[Claim("a wider layer has a wider gap", difference_of(WIDE, NARROW, "gap"))],
    ... )
    >>> result = running.run(experiment, Settings(seeds=1, epochs=2))
    >>> result.table.rows
    [('8',), ('128',)]
    >>> result.sentence.startswith("With 128 neurons instead of 8, the gap is ")
    True
    >>> [verdict for _, verdict in result.claims]
    ['undecided']
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

    def __post_init__(self) -> None:
        """Refuse rows that are not tuples with a text for each label."""
        for row in self.rows:
            if not isinstance(row, tuple) or len(row) != len(self.labels):
                raise ValueError(
                    f"experiment {self.name}: each row must be a tuple with a text for each of the labels "
                    f"{self.labels!r}, got {row!r}"
                )


@dataclass(frozen=True)
class Settings:
    """Settings of a run; None selects the default of the experiment."""

    seeds: int | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Result:
    """The result of a run; ``complete`` is False if seeds are missing."""

    experiment: Experiment
    seeds: int
    epochs: int
    table: Table
    seconds: float
    complete: bool

    @property
    def caption(self) -> str:
        """Caption of the table: epochs, seeds and duration, and whether the run was interrupted."""
        if not self.complete:
            return (
                f"Cut short after {self.seconds:.0f} s: {self.table.seeds} of {self.seeds} seeds, {self.epochs} epochs"
            )
        seeds = "one seed" if self.seeds == 1 else f"mean ± standard deviation over {self.seeds} seeds"
        return f"{self.epochs} epochs, {seeds}, {self.seconds:.0f} s on one thread"

    @property
    def sentence(self) -> str | None:
        """The conclusion; None if rows are missing."""
        return None if self.table.missing else self.experiment.conclude(self.table)

    @property
    def claims(self) -> list[tuple[Claim, str]]:
        """The claims with their verdicts; empty if rows are missing."""
        if self.table.missing:
            return []
        return [(claim, claim.verdict(self.table)) for claim in self.experiment.claims]
