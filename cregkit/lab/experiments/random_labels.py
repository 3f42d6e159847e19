"""Overfitting of random labels (Zhang et al., 2017, arXiv:1611.03530)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cregkit.lab import figures
from cregkit.lab.experiments import training
from cregkit.lab.framework import (
    TRAIN_TEST_GAP,
    Claim,
    Experiment,
    Row,
    Table,
    Trial,
    difference_of,
    mean_of,
)
from cregkit.train import AdamW

N_TRAIN = 150
HIDDEN = (512, 512, 512)
BATCH_SIZE = 25
REMEDIES: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "dropout": {"dropout": 0.5},
    "weight decay": {"weight_decay": 1.0},
    "dropout + decay": {"dropout": 0.5, "weight_decay": 1.0},
    "BatchNorm": {"norm": "batch"},
}
TRUE: Row = ("true", "none")
SHUFFLED: Row = ("shuffled", "none")
ROWS = [TRUE, *(("shuffled", remedy) for remedy in REMEDIES)]
FITTED = 99.0
"""Training accuracy, in percent, from which the network counts as having fitted all labels."""


def _trials(seed: int, epochs: int) -> Iterator[Trial]:
    task = training.digits(seed, N_TRAIN)
    x, labels = task.train
    shuffled = task._replace(train=(x, np.random.default_rng([seed, 3]).permutation(labels)))
    for row in ROWS:
        options = REMEDIES[row[1]]
        network = training.perceptron(task, HIDDEN, seed, norm=options.get("norm"), dropout=options.get("dropout", 0.0))
        optimizer = AdamW(network, 0.001, weight_decay=options.get("weight_decay", 0.0))
        data = task if row == TRUE else shuffled
        history = training.train(network, data, optimizer, epochs, seed, batch_size=BATCH_SIZE)
        yield Trial(row, training.outcome(network, task, history), {"train_acc": history.train_acc})


def _conclude(table: Table) -> str:
    train, test = (table.mean(SHUFFLED, key) for key in ("train_acc", "test_acc"))
    how = "fits all shuffled labels" if train >= FITTED else "does not fit all shuffled labels"
    remedies = [row for row in ROWS if row[0] == "shuffled" and row != SHUFFLED]
    hardest = min(remedies, key=lambda row: table.mean(row, "train_acc"))
    reduction = table.difference(hardest, SHUFFLED, "train_acc")
    remedy = (
        f"{hardest[1]} reduces the training accuracy most, to {table.mean(hardest, 'train_acc'):.1f} %"
        if reduction.sign < 0
        else "no remedy reduces the training accuracy significantly"
    )
    return (
        f"The network {how}, with a training accuracy of {train:.1f} % and a test accuracy of {test:.1f} % (chance: "
        f"10 %); with true labels its test accuracy is {table.mean(TRUE, 'test_acc'):.1f} %; {remedy}."
    )


def _draw(figure: Any, table: Table) -> None:
    top, bottom = figure.subplots(2, 1)
    figures.gap_bars(top, table, table.rows, [" labels, ".join(row) for row in table.rows])
    top.axvline(10, color=figures.FAINT, linewidth=1, linestyle=(0, (2, 3)), label="chance")
    figures.title(top, "after the last epoch")
    for row, colour in zip(table.rows, figures.PALETTE, strict=True):
        figures.curve_band(bottom, table.curves(row, "train_acc"), colour, " labels, ".join(row))
    figures.title(bottom, "training accuracy (%) by epoch")
    bottom.set_xlabel("epoch", color=figures.INK)
    figures.tidy(bottom)
    for ax, columns in ((top, 3), (bottom, 2)):  # outside the axes, where the legends do not hide the curves
        ax.legend(
            loc="upper center",
            bbox_to_anchor=(0.4, -0.2),
            ncols=columns,
            frameon=False,
            fontsize=8,
            labelcolor=figures.INK,
        )


EXPERIMENT = Experiment(
    name="random-labels",
    question="Does the network fit random labels, and which remedies prevent it?",
    setup=(
        f"digits, {N_TRAIN} training images, the others are the test set, always with true labels; "
        "64-512-512-512-10, AdamW"
    ),
    seeds=5,
    epochs=40,
    labels=("labels", "remedy"),
    rows=ROWS,
    columns=TRAIN_TEST_GAP,
    trials=_trials,
    conclude=_conclude,
    draw=_draw,
    claims=[
        Claim(
            "near 100 % training accuracy on random labels (Zhang et al. 2017, MLP 3x512 on CIFAR-10: 100 %)",
            mean_of(SHUFFLED, "train_acc"),
            unit="%",
            least=FITTED,
        ),
        Claim(
            "test accuracy is then that of chance, 10 % here, within 5 points (Zhang et al. 2017: 10.48 %)",
            mean_of(SHUFFLED, "test_acc"),
            unit="%",
            least=5.0,
            most=15.0,
        ),
        Claim("test accuracy is then zero", mean_of(SHUFFLED, "test_acc"), unit="%", least=-1.0, most=1.0),
        *(
            Claim(
                f"{remedy} reduces the fit to random labels",
                difference_of(SHUFFLED, ("shuffled", remedy), "train_acc"),
            )
            for remedy in ("dropout", "weight decay")
        ),
    ],
    size=(5.6, 7.2),
)
