"""LayerNorm against RMSNorm: accuracy, time, gradients, and the kernels alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cregkit import functional
from cregkit.benchmark.timing import Contestant, Measurement, measure
from cregkit.lab import figures
from cregkit.lab.experiments import training
from cregkit.lab.experiments.words import compared
from cregkit.lab.framework import Claim, Column, Experiment, Row, Table, Trial, mean_of
from cregkit.lab.spread import Interval
from cregkit.layers import Linear
from cregkit.layers.base import Array
from cregkit.train import SGD, Callback, FitState

N_TRAIN, N_TEST = 200, 400
HIDDEN = (64, 64, 64)  # with the output, four layers
NORMS = {"ln": "layer", "rms": "rms"}
NAMES = {"ln": "LayerNorm", "rms": "RMSNorm"}
SHAPES = ((64, 64), (512, 768), (4096, 1024))
KERNEL_SECONDS = 0.05
SAME_ACCURACY = 1.0
"""Differences of accuracy up to this many points count as equal."""

TRAIN_ACC: Row = ("training accuracy %",)
TEST_ACC: Row = ("test accuracy %",)
EPOCH_TIME: Row = ("ms per epoch",)
GRADIENT: Row = ("gradient norm, layer 1",)
FORWARD: Mapping[Row, tuple[int, int]] = {(f"us forward {rows}x{cols}",): (rows, cols) for rows, cols in SHAPES}
BACKWARD: Mapping[Row, tuple[int, int]] = {(f"us backward {rows}x{cols}",): (rows, cols) for rows, cols in SHAPES}
ROWS: list[Row] = [TRAIN_ACC, TEST_ACC, EPOCH_TIME, GRADIENT, *FORWARD, *BACKWARD]


class FirstGradient(Callback):
    """Callback that records the mean norm of the first layer's weight gradient per epoch."""

    def __init__(self, layer: Linear) -> None:
        """Record the gradient of ``layer``."""
        self._layer = layer
        self._norms: list[float] = []
        self.by_epoch: list[float] = []

    def on_batch_end(self, state: FitState) -> None:
        """Record the norm of the batch."""
        assert self._layer.dweight is not None
        self._norms.append(float(np.linalg.norm(self._layer.dweight)))

    def on_epoch_end(self, state: FitState) -> None:
        """Record the mean of the epoch."""
        self.by_epoch.append(statistics.mean(self._norms))
        self._norms.clear()


def _trials(seed: int, epochs: int) -> Iterator[Trial]:
    task = training.digits(seed, N_TRAIN, N_TEST)
    histories, gradients = {}, {}
    # The order alternates with the seed, so that drift of the machine affects both norms.
    for key, norm in list(NORMS.items())[:: -1 if seed % 2 else 1]:
        network = training.perceptron(task, HIDDEN, seed, norm=norm)
        first = network.layers[0]
        assert isinstance(first, Linear)
        watch = FirstGradient(first)
        histories[key] = training.train(
            network, task, SGD(network, 0.05), epochs, seed, batch_size=20, callbacks=[watch], watch_test=True
        )
        gradients[key] = watch.by_epoch
    yield _pair(TRAIN_ACC, {key: history.train_acc[-1] for key, history in histories.items()})
    test_curves = {key: history.test_acc for key, history in histories.items()}
    yield _pair(TEST_ACC, {key: history.test_acc[-1] for key, history in histories.items()}, test_curves)
    yield _pair(EPOCH_TIME, {key: 1e3 * Measurement.of(history.seconds).quartile for key, history in histories.items()})
    yield _pair(GRADIENT, {key: statistics.mean(norms) for key, norms in gradients.items()}, gradients)
    for row, shape in FORWARD.items():
        yield _pair(row, _time_forward(shape))
    for row, shape in BACKWARD.items():
        yield _pair(row, _time_backward(shape))


def _pair(row: Row, pair: Mapping[str, float], curves: Mapping[str, Sequence[float]] | None = None) -> Trial:
    return Trial(row, {**pair, "ratio": pair["rms"] / pair["ln"] if pair["ln"] else float("nan")}, curves or {})


def _arrays(shape: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Return an input (x or dy), gamma, beta and an output."""
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    gamma = np.ones(shape[1], dtype=np.float32)
    return x, gamma, np.zeros_like(gamma), np.empty_like(x)


def _time_forward(shape: tuple[int, int]) -> dict[str, float]:
    x, gamma, beta, y = _arrays(shape)
    return _microseconds(
        Contestant(lambda: functional.layer_norm(x, gamma, beta, out=y)),
        Contestant(lambda: functional.rms_norm(x, gamma, out=y)),
    )


def _time_backward(shape: tuple[int, int]) -> dict[str, float]:
    x, gamma, beta, dx = _arrays(shape)
    _, mean, rstd = functional.layer_norm_forward(x, gamma, beta)
    _, rms_rstd = functional.rms_norm_forward(x, gamma)
    return _microseconds(
        Contestant(lambda: functional.layer_norm_backward(x, x, mean, rstd, gamma, out=dx)),
        Contestant(lambda: functional.rms_norm_backward(x, x, rms_rstd, gamma, out=dx)),
    )


def _microseconds(ln: Contestant, rms: Contestant) -> dict[str, float]:
    times = measure({"ln": ln, "rms": rms}, KERNEL_SECONDS)
    return {key: 1e6 * time.quartile for key, time in times.items()}


def _accuracy_difference(table: Table) -> Interval:
    """Return RMSNorm's test accuracy minus LayerNorm's, in points."""
    return Interval.of(list(table.values(TEST_ACC, "rms") - table.values(TEST_ACC, "ln")))


def _kernel_ratio(table: Table) -> Interval:
    """Return RMSNorm's time relative to LayerNorm's, averaged over all kernels and sizes."""
    return Interval.of(list(np.mean([table.values(row, "ratio") for row in (*FORWARD, *BACKWARD)], axis=0)))


def _conclude(table: Table) -> str:
    ratios = [table.mean(row, "ratio") for row in (*FORWARD, *BACKWARD)]
    gradient = table.mean(GRADIENT, "ratio")
    return (
        f"RMSNorm's test accuracy is {compared(_accuracy_difference(table))}; its speed-up over LayerNorm is "
        f"{1 / table.mean(EPOCH_TIME, 'ratio'):.2f}x for an epoch and {1 / max(ratios):.2f}x to "
        f"{1 / min(ratios):.2f}x for the kernels; the gradient at the first layer is {gradient:.2f} times as large."
    )


def _draw(figure: Any, table: Table) -> None:
    accuracy, gradient, kernels = figure.subplots(3, 1)
    for (key, label), colour in zip(NAMES.items(), (figures.TEST, figures.TRAIN), strict=True):
        for ax, row in ((accuracy, TEST_ACC), (gradient, GRADIENT)):
            figures.curve_band(ax, table.curves(row, key), colour, label)
    figures.title(accuracy, "test accuracy (%) by epoch")
    figures.title(gradient, "gradient norm at the first layer by epoch")
    gradient.set_yscale("log")
    for kind, places, colour in ((FORWARD, -0.2, "#4d8b57"), (BACKWARD, 0.2, "#8561a8")):
        ratios = [table.spread(row, "ratio") for row in kind]
        kernels.bar(
            [index + places for index in range(len(kind))],
            [ratio.mean for ratio in ratios],
            0.38,
            yerr=[ratio.deviation or 0.0 for ratio in ratios],
            color=colour,
            ecolor=figures.FAINT,
            label="forward" if kind is FORWARD else "backward",
        )
    kernels.axhline(1, color=figures.INK, linewidth=1, linestyle=(0, (2, 3)))
    kernels.set_xticks(range(len(SHAPES)), [f"{rows}x{cols}" for rows, cols in SHAPES])
    kernels.legend(frameon=False, fontsize=8, labelcolor=figures.INK, ncols=2)
    kernels.set_ylim(0, 1.4)
    figures.title(kernels, "kernel time, RMSNorm relative to LayerNorm")
    for ax in (accuracy, gradient, kernels):
        figures.tidy(ax)
    figures.legend_below(figure, accuracy)


EXPERIMENT = Experiment(
    name="ln-vs-rms",
    question="Is RMSNorm as good as LayerNorm, and how much faster is it?",
    setup=(
        f"digits, {N_TRAIN} training and {N_TEST} test images; 64-64-64-64-10, the same initial weights, SGD; kernels "
        "interleaved on one thread, lower quartiles"
    ),
    seeds=5,
    epochs=200,
    labels=("figure",),
    rows=ROWS,
    columns=(Column("ln", "LayerNorm", None), Column("rms", "RMSNorm", None), Column("ratio", "RMS / LN", 2)),
    trials=_trials,
    conclude=_conclude,
    draw=_draw,
    claims=[
        Claim(
            f"the same test accuracy, within {SAME_ACCURACY:g} point",
            _accuracy_difference,
            least=-SAME_ACCURACY,
            most=SAME_ACCURACY,
        ),
        Claim("an epoch is faster with RMSNorm", mean_of(EPOCH_TIME, "ratio"), "of LayerNorm's time", -1, 1, 2),
        Claim("RMSNorm's kernels are faster", _kernel_ratio, "of LayerNorm's time", -1, 1, 2),
        Claim(
            "RMSNorm's kernels take about 10 % less time (5 to 15 %)",
            _kernel_ratio,
            "of LayerNorm's time",
            0.85,
            0.95,
            2,
        ),
    ],
    size=(5.6, 7.6),
)
