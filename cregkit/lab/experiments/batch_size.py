"""Noise of the batch statistics in small batches: BatchNorm against LayerNorm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cregkit.lab import figures
from cregkit.lab.experiments import training
from cregkit.lab.experiments.words import compared
from cregkit.lab.framework import Claim, Column, Experiment, Row, Table, Trial, mean_of
from cregkit.lab.spread import Interval
from cregkit.train import AdamW

N_TRAIN, N_TEST = 256, 1000
HIDDEN = (128, 64)
SIZES = (2, 4, 8, 32, 128)
NORMS = {"bn": "batch", "ln": "layer"}
NAMES = {"bn": "BatchNorm", "ln": "LayerNorm"}
ROWS: list[Row] = [(str(size),) for size in SIZES]
SMALL, LARGE = (("2",), ("4",), ("8",)), (("32",), ("128",))


def _trials(seed: int, epochs: int) -> Iterator[Trial]:
    task = training.digits(seed, N_TRAIN, N_TEST)
    for row, size in zip(ROWS, SIZES, strict=True):
        accuracy = {}
        for key, norm in NORMS.items():
            network = training.perceptron(task, HIDDEN, seed, norm=norm)
            history = training.train(network, task, AdamW(network, 0.003), epochs, seed, batch_size=size)
            accuracy[key] = training.outcome(network, task, history)["test_acc"]
        yield Trial(row, {**accuracy, "lead": accuracy["bn"] - accuracy["ln"]})


def _loss_at_small(table: Table) -> Interval:
    """Return how much BatchNorm's lead decreases from large to small batches."""
    large, small = (np.mean([table.values(row, "lead") for row in rows], axis=0) for rows in (LARGE, SMALL))
    return Interval.of(list(large - small))


def _conclude(table: Table) -> str:
    behind = [row[0] for row in table.rows if mean_of(row, "lead")(table).sign < 0]
    ahead = [row[0] for row in table.rows if mean_of(row, "lead")(table).sign > 0]

    two, most = (mean_of((size,), "lead")(table) for size in ("2", "128"))

    def at(sizes: list[str]) -> str:
        return f"at batch size {', '.join(sizes)}" if sizes else "at no batch size"

    return (
        f"BatchNorm is significantly worse than LayerNorm {at(behind)} and significantly better {at(ahead)}; with 2 "
        f"samples per batch its test accuracy is {compared(two)}, with 128 it is {compared(most)}."
    )


def _draw(figure: Any, table: Table) -> None:
    ax = figure.subplots()
    sizes = [int(row[0]) for row in table.rows]
    for (key, label), colour in zip(NAMES.items(), (figures.TRAIN, figures.TEST), strict=True):
        spreads = [table.spread(row, key) for row in table.rows]
        figures.band(ax, sizes, spreads, colour, label, marker="o", markersize=4)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, list(map(str, sizes)))
    ax.set_xlabel("batch size", color=figures.INK)
    figures.title(ax, "test accuracy (%)")
    figures.tidy(ax)
    figures.legend_below(figure, ax)


EXPERIMENT = Experiment(
    name="batch-size",
    question="At which batch sizes does BatchNorm suffer from noisy batch statistics?",
    setup=f"digits, {N_TRAIN} training and {N_TEST} test images; 64-128-64-10, AdamW, lr 0.003 at every batch size",
    seeds=5,
    epochs=15,
    labels=("batch size",),
    rows=ROWS,
    columns=(Column("bn", "BatchNorm test %"), Column("ln", "LayerNorm test %"), Column("lead", "difference")),
    trials=_trials,
    conclude=_conclude,
    draw=_draw,
    claims=[
        Claim(
            "BatchNorm is worse than LayerNorm with 2 samples per batch", lambda table: -mean_of(("2",), "lead")(table)
        ),
        Claim("batches under 32 reduce BatchNorm's accuracy more than LayerNorm's", _loss_at_small),
    ],
    size=(5.6, 3.8),
)
