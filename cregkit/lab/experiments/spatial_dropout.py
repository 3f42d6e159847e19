"""Dropout of groups of features against dropout of single features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cregkit.lab import figures
from cregkit.lab.demo import BATCH_SIZE
from cregkit.lab.experiments import training
from cregkit.lab.experiments.words import compared, narrowest
from cregkit.lab.framework import TRAIN_TEST_GAP, Experiment, Row, Table, Trial
from cregkit.layers import Layer, Seed, SpatialDropout
from cregkit.layers.base import Array
from cregkit.train import SGD

HIDDEN = 32
P = 0.5
NONE: Row = ("no dropout",)
PLAIN: Row = ("dropout",)
GROUPS: Mapping[Row, int] = {(f"groups of {size}",): size for size in (2, 4, 8)}
ROWS = [NONE, PLAIN, *GROUPS]


class GroupDropout(Layer):
    """Spatial dropout of flat features: ``group_size`` neighbouring features of x (N, features) form one channel."""

    def __init__(self, group_size: int, p: float, *, seed: Seed = None) -> None:
        """Create the inner spatial dropout."""
        self.group_size = group_size
        self.dropout = SpatialDropout(p, seed=seed)

    def _children(self) -> Iterator[tuple[str, Layer]]:
        yield "dropout", self.dropout

    def forward(self, x: Array) -> Array:
        """Return ``x`` with groups of features dropped (training), or ``x`` itself (evaluation)."""
        self._saved = x.shape
        return self.dropout(self._grouped(x)).reshape(x.shape)

    def _gradient(self, dy: Array, saved: tuple[int, ...]) -> Array:
        return self.dropout.backward(self._grouped(dy)).reshape(saved)

    def _grouped(self, x: Array) -> Array:
        return x.reshape(len(x), -1, self.group_size)


def _trials(seed: int, epochs: int) -> Iterator[Trial]:
    task = training.circle(seed)
    for row in ROWS:
        options: dict[str, Any] = {} if row == NONE else {"dropout": P}
        if row in GROUPS:
            options["drop"] = lambda p, seed, size=GROUPS[row]: GroupDropout(size, p, seed=seed)
        network = training.perceptron(task, (HIDDEN,), seed, **options)
        history = training.train(network, task, SGD(network, 0.5), epochs, seed, batch_size=BATCH_SIZE)
        yield Trial(row, training.outcome(network, task, history))


def _conclude(table: Table) -> str:
    four = ("groups of 4",)
    gap = compared(table.difference(four, PLAIN, "gap"), "wider", "narrower")
    test = compared(table.difference(four, PLAIN, "test_acc"))
    return (
        f"Compared with plain dropout, dropping groups of 4 features leaves a gap {gap}, with a test accuracy {test}; "
        f"over all rows, {narrowest(table, ROWS, NONE)}."
    )


def _draw(figure: Any, table: Table) -> None:
    ax = figure.subplots()
    figures.gap_bars(ax, table, table.rows, [name for (name,) in table.rows])
    figures.legend_below(figure, ax)


EXPERIMENT = Experiment(
    name="spatial-dropout",
    question="Does it matter whether dropout drops single features or groups of features?",
    setup=f"{training.CIRCLE_SETUP}; {HIDDEN} hidden neurons, p = {P}, neighbouring neurons as channels, SGD",
    seeds=10,
    epochs=300,
    labels=("dropped",),
    rows=ROWS,
    columns=TRAIN_TEST_GAP,
    trials=_trials,
    conclude=_conclude,
    draw=_draw,
    size=(5.6, 3.6),
)
