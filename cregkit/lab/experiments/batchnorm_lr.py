"""The learning rates at which a network still trains, with and without BatchNorm."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from cregkit.lab import figures
from cregkit.lab.demo import BATCH_SIZE
from cregkit.lab.experiments import training
from cregkit.lab.framework import Claim, Column, Experiment, Row, Table, Trial, mean_of
from cregkit.lab.spread import Interval
from cregkit.layers.base import Array
from cregkit.train import SGD, DivergenceWarning

HIDDEN = 16
RATES = (0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
NETWORKS = {"plain": None, "bn": "batch"}
NAMES = {"plain": "plain", "bn": "BatchNorm"}
ROWS: list[Row] = [(f"{rate:g}",) for rate in RATES]


def _trials(seed: int, epochs: int) -> Iterator[Trial]:
    task = training.circle(seed)
    guess = _guessing_loss(task.train[1])
    for row, rate in zip(ROWS, RATES, strict=True):
        figures_of_row: dict[str, float] = {}
        for name, norm in NETWORKS.items():
            network = training.perceptron(task, (HIDDEN,), seed, norm=norm)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DivergenceWarning)  # divergence is counted below
                history = training.train(network, task, SGD(network, rate), epochs, seed, batch_size=BATCH_SIZE)
            figures_of_row[f"{name}_test"] = training.outcome(network, task, history)["test_acc"]
            figures_of_row[f"{name}_failed"] = 0.0 if history.train_loss[-1] < guess else 100.0
        yield Trial(row, figures_of_row)


def _guessing_loss(labels: Array) -> float:
    """Return the loss of the best constant guess, in nats; a network that ends no lower, or at NaN, has failed."""
    share = float(np.mean(labels))
    return -sum(p * math.log(p) for p in (share, 1 - share) if p)


def _first_failure(table: Table, name: str) -> float | None:
    """Return the lowest rate at which at least half of the seeds fail."""
    failing = [float(row[0]) for row in table.rows if table.mean(row, f"{name}_failed") >= 50]
    return min(failing, default=None)


def _conclude(table: Table) -> str:
    plain, bn = (_first_failure(table, name) for name in NETWORKS)
    highest = float(table.rows[-1][0])
    if plain is None and bn is None:
        return f"Neither network fails to learn at any rate up to {highest:g}."
    if plain is None or bn is None:
        fails, trains = ("BatchNorm", "plain") if plain is None else ("plain", "BatchNorm")
        return (
            f"The {fails} network fails to learn at rates of {plain if bn is None else bn:g} and above, the {trains} "
            f"network at none up to {highest:g}."
        )
    gain = "the same rate" if plain == bn else f"{max(plain, bn) / min(plain, bn):g} times the rate"
    order = "" if plain == bn else f", so {'BatchNorm' if bn > plain else 'the plain network'} tolerates {gain}"
    return (
        f"The plain network fails to learn at rates of {plain:g} and above, the BatchNorm network at {bn:g} and "
        f"above{order}."
    )


def _avoided(table: Table) -> Interval:
    """Return the percentage of failures that BatchNorm avoids at the rates where some network fails."""
    plain, bn = (np.array([table.values(row, f"{name}_failed") for row in table.rows]) for name in NETWORKS)
    failing = (plain + bn).any(axis=1)
    if not failing.any():
        return Interval(math.nan, -math.inf, math.inf)
    return Interval.of(list((plain - bn)[failing].mean(axis=0)))


def _draw(figure: Any, table: Table) -> None:
    top, bottom = figure.subplots(2, 1, sharex=True)
    rates = [float(row[0]) for row in table.rows]
    for (name, label), colour in zip(NAMES.items(), (figures.TRAIN, figures.TEST), strict=True):
        spreads = [table.spread(row, f"{name}_test") for row in table.rows]
        figures.band(top, rates, spreads, colour, label, marker="o", markersize=4)
        failed = [table.mean(row, f"{name}_failed") for row in table.rows]
        bottom.plot(rates, failed, color=colour, marker="o", markersize=4)
    figures.title(top, "test accuracy (%)")
    figures.title(bottom, "seeds that fail to learn (%)")
    bottom.set_xscale("log")
    bottom.set_ylim(-5, 105)
    bottom.set_xlabel("learning rate", color=figures.INK)
    for ax in (top, bottom):
        figures.tidy(ax)
    figures.legend_below(figure, top)


EXPERIMENT = Experiment(
    name="batchnorm-lr",
    question="Does BatchNorm before the activation allow learning rates at which the plain network fails?",
    setup=(
        f"{training.CIRCLE_SETUP}; {HIDDEN} hidden neurons, SGD; failed: the final training loss is not below that of "
        "the best constant guess, or not finite"
    ),
    seeds=5,
    epochs=100,
    labels=("rate",),
    rows=ROWS,
    columns=[
        column
        for name, label in NAMES.items()
        for column in (Column(f"{name}_test", f"{label} test %"), Column(f"{name}_failed", f"{label} failed %", 0))
    ],
    trials=_trials,
    conclude=_conclude,
    draw=_draw,
    claims=[
        Claim(
            "the plain network fails at rate 0.1",
            mean_of(("0.1",), "plain_failed"),
            unit="% of seeds",
            least=50,
        ),
        Claim(
            "BatchNorm tolerates higher rates: failures avoided where some network fails",
            _avoided,
            unit="% of seeds",
        ),
    ],
    size=(5.6, 5.2),
)
