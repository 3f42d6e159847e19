"""The generalisation gap of a network that overfits, and the effect of each remedy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cregkit.lab import figures
from cregkit.lab.demo import BATCH_SIZE
from cregkit.lab.experiments import training
from cregkit.lab.experiments.words import narrowest
from cregkit.lab.framework import TRAIN_TEST_GAP, Claim, Experiment, Table, Trial, difference_of
from cregkit.train import SGD

DIGITS_TRAIN = 100
HIDDEN = 256
REMEDIES: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "dropout": {"dropout": 0.5},
    "weight decay": {"weight_decay": True},
    "dropout + decay": {"dropout": 0.5, "weight_decay": True},
    "BatchNorm": {"norm": "batch"},
    "LayerNorm": {"norm": "layer"},
    "RMSNorm": {"norm": "rms"},
}
# Task, learning rate, L2 coefficient and batch size of each data set.
TASKS: Mapping[str, tuple[Callable[[int], training.Task], float, float, int]] = {
    "circle": (training.circle, 0.5, 0.005, BATCH_SIZE),
    "digits": (functools.partial(training.digits, n_train=DIGITS_TRAIN, n_test=1500), 0.1, 0.01, 25),
}
ROWS = [(data, remedy) for data in TASKS for remedy in REMEDIES]


def _trials(seed: int, epochs: int) -> Iterator[Trial]:
    for data, (make_task, lr, decay, batch_size) in TASKS.items():
        task = make_task(seed)
        for remedy, options in REMEDIES.items():
            network = training.perceptron(
                task,
                (HIDDEN,),
                seed,
                norm=options.get("norm"),
                dropout=options.get("dropout", 0.0),
            )
            optimizer = SGD(network, lr, weight_decay=decay if options.get("weight_decay") else 0.0)
            history = training.train(network, task, optimizer, epochs, seed, batch_size=batch_size)
            yield Trial((data, remedy), training.outcome(network, task, history))


def _conclude(table: Table) -> str:
    phrases = [
        f"on the {data} {narrowest(table, [(data, remedy) for remedy in REMEDIES], (data, 'none'))}" for data in TASKS
    ]
    sentence = "; ".join(phrases) + "."
    return sentence[0].upper() + sentence[1:]


def _draw(figure: Any, table: Table) -> None:
    axes = figure.subplots(len(TASKS), 1)
    for ax, data in zip(axes, TASKS, strict=True):
        rows = [row for row in table.rows if row[0] == data]
        figures.gap_bars(ax, table, rows, [remedy for _, remedy in rows])
        figures.title(ax, data)
    figures.legend_below(figure, axes[0])


def _narrows(data: str, remedy: str) -> Claim:
    return Claim(f"{remedy} narrows the gap on the {data}", difference_of((data, "none"), (data, remedy), "gap"))


EXPERIMENT = Experiment(
    name="overfit",
    question="How large is the gap between training and test accuracy, and how does each remedy change it?",
    setup=(
        f"{training.CIRCLE_SETUP}; digits, {DIGITS_TRAIN} training and 1500 test images; {HIDDEN} hidden neurons, SGD, "
        "dropout 0.5, weight decay 0.005 (circle) and 0.01 (digits)"
    ),
    seeds=5,
    epochs=200,
    labels=("data", "remedy"),
    rows=ROWS,
    columns=TRAIN_TEST_GAP,
    trials=_trials,
    conclude=_conclude,
    draw=_draw,
    claims=[_narrows(data, remedy) for data, remedy in ROWS if remedy != "none"],
    size=(5.6, 6.4),
)
