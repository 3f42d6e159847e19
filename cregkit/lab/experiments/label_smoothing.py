"""Label smoothing against dropout, and both together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cregkit.lab import figures
from cregkit.lab.demo import BATCH_SIZE
from cregkit.lab.experiments import training
from cregkit.lab.experiments.words import narrowest
from cregkit.lab.framework import TRAIN_TEST_GAP, Claim, Column, Experiment, Table, Trial, difference_of
from cregkit.train import SGD, binary_cross_entropy, evaluate

SMOOTHING, P = 0.1, 0.5
HIDDEN = 256
CANCER_TRAIN = 60
REMEDIES: Mapping[str, Mapping[str, float]] = {
    "neither": {},
    "dropout": {"dropout": P},
    "smoothing": {"smoothing": SMOOTHING},
    "dropout + smoothing": {"dropout": P, "smoothing": SMOOTHING},
}
TASKS: Mapping[str, tuple[Callable[..., training.Task], float]] = {
    "circle": (training.circle, 0.5),
    "breast cancer": (functools.partial(training.breast_cancer, n_train=CANCER_TRAIN), 0.1),
}
ROWS = [(data, remedy) for data in TASKS for remedy in REMEDIES]


def _trials(seed: int, epochs: int) -> Iterator[Trial]:
    for data, (make_task, lr) in TASKS.items():
        for remedy, options in REMEDIES.items():
            task = make_task(seed, label_smoothing=options.get("smoothing", 0.0))
            network = training.perceptron(task, (HIDDEN,), seed, dropout=options.get("dropout", 0.0))
            history = training.train(network, task, SGD(network, lr), epochs, seed, batch_size=BATCH_SIZE)
            test_loss, _ = evaluate(network, binary_cross_entropy, task.test)
            yield Trial((data, remedy), {**training.outcome(network, task, history), "test_loss": test_loss})


def _conclude(table: Table) -> str:
    phrases = []
    for data in TASKS:
        rows = [(data, remedy) for remedy in REMEDIES]
        loss = min(rows, key=lambda row: table.mean(row, "test_loss"))
        phrases.append(
            f"on {'the ' if data == 'circle' else ''}{data} {narrowest(table, rows, (data, 'neither'))}, and the "
            f"test loss is lowest with {loss[1]} ({table.mean(loss, 'test_loss'):.2f} against "
            f"{table.mean((data, 'neither'), 'test_loss'):.2f} with neither)"
        )
    sentence = "; ".join(phrases) + "."
    return sentence[0].upper() + sentence[1:]


def _draw(figure: Any, table: Table) -> None:
    axes = figure.subplots(len(TASKS), 1)
    for ax, data in zip(axes, TASKS, strict=True):
        rows = [row for row in table.rows if row[0] == data]
        figures.gap_bars(ax, table, rows, [remedy for _, remedy in rows])
        figures.title(ax, data)
    figures.legend_below(figure, axes[0])


EXPERIMENT = Experiment(
    name="label-smoothing",
    question="Which of dropout, label smoothing and both leaves the smallest gap?",
    setup=(
        f"{training.CIRCLE_SETUP}; breast cancer, {CANCER_TRAIN} training and {569 - CANCER_TRAIN} test rows; {HIDDEN} "
        f"hidden neurons, SGD, dropout {P}, smoothing {SMOOTHING}; the test loss is without smoothing"
    ),
    seeds=5,
    epochs=200,
    labels=("data", "remedy"),
    rows=ROWS,
    columns=(*TRAIN_TEST_GAP, Column("test_loss", "test loss", 2)),
    trials=_trials,
    conclude=_conclude,
    draw=_draw,
    claims=[
        Claim(
            f"{remedy} narrows the gap ({data})",
            difference_of((data, "neither"), (data, remedy), "gap"),
        )
        for data in TASKS
        for remedy in ("dropout", "smoothing")
    ],
    size=(5.6, 5.2),
)
