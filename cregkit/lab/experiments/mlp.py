"""The cost of forgetting ``eval()`` in a network with BatchNorm and dropout."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit.lab import figures
from cregkit.lab.experiments import training
from cregkit.lab.experiments.words import compared
from cregkit.lab.framework import Claim, Column, Experiment, Quantity, Row, Table, Trial, difference_of
from cregkit.layers import BatchNorm, Dropout, Sequential
from cregkit.layers.base import Array
from cregkit.train import AdamW, Data, batches

N_TRAIN, N_TEST = 600, 600
PIXELS, HIDDEN = 784, (256, 128)
P = 0.3
PASSES = 10
ALL = str(N_TEST)
EVAL: Row = ("network.eval()", ALL)
FORGOTTEN = "network.train()"
ROWS: list[Row] = [
    EVAL,
    ("dropout in train()", ALL),
    ("BatchNorm in train()", "32"),
    *((FORGOTTEN, size) for size in ("128", "32", "8", "2")),
    ("eval() after that", ALL),
]


def _trials(seed: int, epochs: int) -> Iterator[Trial]:
    task = training.digits(seed, N_TRAIN, N_TEST)
    task = task._replace(train=_upscaled(task.train), test=_upscaled(task.test), n_in=PIXELS)
    network = training.perceptron(task, HIDDEN, seed, norm="batch", dropout=P)
    training.train(network, task, AdamW(network, 0.002), epochs, seed, batch_size=32)
    for row in ROWS:
        _toggle(network, row[0])
        yield Trial(row, _figures(network, task.test, int(row[1]), seed))


def _upscaled(data: Data) -> Data:
    """Return 28x28 images from 8x8 images: each pixel becomes 3x3, with a margin of 2."""
    x, y = data
    images = x.reshape(-1, 8, 8).repeat(3, axis=1).repeat(3, axis=2)
    return np.ascontiguousarray(np.pad(images, ((0, 0), (2, 2), (2, 2))).reshape(len(x), -1)), y


def _toggle(network: Sequential, mode: str) -> None:
    """Set the network to the mode of a row."""
    if mode == FORGOTTEN:
        network.train()
        return
    network.eval()
    for kind, named in ((Dropout, "dropout in train()"), (BatchNorm, "BatchNorm in train()")):
        if mode == named:
            for layer in network.layers:
                if isinstance(layer, kind):
                    layer.train()


def _figures(network: Sequential, data: Data, batch_size: int, seed: int) -> dict[str, float]:
    """Classify the set several times in random order, in the network's present mode."""
    x, labels = data
    order = np.random.default_rng([seed, 4])
    passes = [_classify(network, x, order.permutation(len(x)), batch_size) for _ in range(PASSES)]
    accuracies = [100 * float((codes == labels).mean()) for codes in passes]
    changed = [100 * float((first != second).mean()) for first, second in itertools.pairwise(passes)]
    return {
        "test_acc": float(np.mean(accuracies)),
        "worst": min(accuracies),
        "deviation": float(np.std(accuracies, ddof=1)),
        "changed": float(np.mean(changed)),
    }


def _classify(network: Sequential, x: Array, order: NDArray[np.int64], batch_size: int) -> NDArray[np.int64]:
    codes = np.empty(len(x), dtype=np.int64)
    for rows in batches(len(x), batch_size, join_single=True):
        codes[order[rows]] = network(x[order[rows]]).argmax(axis=1)
    return codes


def _cost(size: str) -> Quantity:
    """Return a quantity: the accuracy, in points, that forgetting ``eval()`` costs at this batch size."""
    return difference_of(EVAL, (FORGOTTEN, size), "test_acc")


def _conclude(table: Table) -> str:
    costs = [f"{compared(-_cost(size)(table))} with batches of {size}" for size in ("128", "2")]
    return (
        f"Without eval() the test accuracy is {' and '.join(costs)}; with batches of 32 "
        f"{table.mean((FORGOTTEN, '32'), 'changed'):.1f} % of the predictions change from pass to pass, with eval() "
        f"{table.mean(EVAL, 'changed'):.1f} %."
    )


def _draw(figure: Any, table: Table) -> None:
    top, bottom = figure.subplots(2, 1, sharey=True)
    names = [f"{mode}, {size}" for mode, size in table.rows]
    for ax, key, title in (
        (top, "test_acc", "test accuracy (%), mean of ten passes"),
        (bottom, "changed", "predictions that change between passes (%)"),
    ):
        for place, row in enumerate(table.rows):
            colour = figures.TRAIN if "train()" in row[0] else figures.TEST
            values = table.values(row, key)
            ax.scatter(values, np.full(len(values), place), s=14, color=colour, alpha=0.35, linewidths=0)
            ax.scatter(values.mean(), place, s=60, color=colour)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        figures.title(ax, title)
        figures.tidy(ax, grid="x")


EXPERIMENT = Experiment(
    name="mlp",
    question="How much accuracy does forgetting eval() cost?",
    setup=(
        f"digits upscaled to 28x28, {N_TRAIN} training and {N_TEST} test images; 784-256-128-10, each hidden layer "
        f"Linear, BatchNorm, ReLU, Dropout({P}); AdamW; the test set classified {PASSES} times in shuffled batches"
    ),
    seeds=5,
    epochs=10,
    labels=("mode", "batch"),
    rows=ROWS,
    columns=(
        Column("test_acc", "test %"),
        Column("worst", "worst pass"),
        Column("deviation", "between passes", 2),
        Column("changed", "predictions changed %"),
    ),
    trials=_trials,
    conclude=_conclude,
    draw=_draw,
    claims=[
        Claim("forgetting eval() lowers the test accuracy, batches of 32", _cost("32")),
        Claim(
            "without eval() predictions fluctuate, batches of 32",
            difference_of((FORGOTTEN, "32"), EVAL, "changed"),
            unit="% of the predictions",
        ),
        Claim(
            "small batches make it worse: 2 against 128",
            difference_of((FORGOTTEN, "128"), (FORGOTTEN, "2"), "test_acc"),
        ),
    ],
    size=(5.6, 6.0),
)
