"""The demonstration: what regularisation does to a network that can learn its training set by heart."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import cregkit
from cregkit import functional, oracle
from cregkit._files import check_writable
from cregkit.commands.console import Console
from cregkit.lab.data import circle_data
from cregkit.lab.spread import Spread
from cregkit.train import Data, History, RegularizedNetwork

# Few points, one label in ten wrong, and far more neurons than the circle needs: a plain network learns the noise too.
TRAIN_SIZE = 60
LABEL_NOISE = 0.1
TEST_SIZE = 1000
TEST_SEED = 2**32  # apart from the training sets, whose seeds count from 0
NETWORK: Mapping[str, Any] = {"hidden_size": 256, "lr": 0.5}
BATCH_SIZE = 12

CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "dropout": {"dropout_p": 0.5},
    "weight decay": {"weight_decay": 0.005},
    "both": {"dropout_p": 0.5, "weight_decay": 0.005},
    "batch norm": {"norm": "batch"},
}

FIGURES = ("train_acc", "test_acc", "gap")

KERNEL_SHAPE = (512, 768)
TIMED_PAIRS = 25


class Run(NamedTuple):
    """A trained network, its history and its training set."""

    network: RegularizedNetwork
    history: History
    train: Data


Runs = Mapping[str, Sequence[Run]]


def run(*, seeds: int, epochs: int, json_path: str | None, png_path: str, quiet: bool) -> None:
    """Train, print, and write the files that were asked for.

    Args:
        seeds: networks per configuration, at least 1.
        epochs: epochs of each, at least 1.
        json_path: file for all numbers, or None.
        png_path: file for the picture, written if matplotlib is installed.
        quiet: print the final table and its conclusion only.

    Raises:
        OSError: a file cannot be written; seen before the training begins where it can be.
    """
    for path in filter(None, (json_path, png_path)):
        check_writable(path)
    console = Console(quiet=quiet)
    console.note(machine_line())
    console.note(
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}, {epochs} epochs: {TRAIN_SIZE} training points with "
        f"{LABEL_NOISE:.0%} wrong labels, {TEST_SIZE} test points with none, {NETWORK['hidden_size']} hidden neurons\n"
    )
    test = circle_data(TEST_SIZE, seed=TEST_SEED)
    runs = _train_all(test, seeds, epochs, console)
    for name, of_seeds in runs.items():
        console.note(f"{name} (seed 0)")
        console.note("\n".join(_epoch_lines(of_seeds[0].history)) + "\n")

    rows = [[name, *(str(_spread(of_seeds, figure)) for figure in FIGURES)] for name, of_seeds in runs.items()]
    deviation = "mean ± standard deviation over seeds" if seeds > 1 else "one seed"
    console.table(f"Accuracy after {epochs} epochs, {deviation}", ["", "train %", "test %", "gap"], rows)
    console.line(_conclusion(runs))
    error, microseconds, ratio = _measure_kernel()
    shape = "x".join(map(str, KERNEL_SHAPE))
    console.note(f"\nparity  layer_norm {shape}: largest error against the float64 oracle {error:.1e}")
    console.note(
        f"speed   layer_norm {shape}: {microseconds:.0f} us on one thread, the NumPy oracle {ratio:.0f} times as long"
    )
    if json_path is not None:
        kernel = {"shape": KERNEL_SHAPE, "max_error": error, "microseconds": microseconds, "oracle_ratio": ratio}
        _write_json(json_path, runs, kernel)
        console.note(f"numbers {os.path.abspath(json_path)}")
    console.note(_draw(png_path, runs))


def machine_line() -> str:
    """Return version, processor, instruction set and threads in a line."""
    config = cregkit.show_config()
    return (
        f"cregkit {config['version']} on {config['cpu']}: {config['isa']} code, "
        f"{config['threads']} {'thread' if config['threads'] == 1 else 'threads'} ({config['threads_from']})"
    )


def _train_all(test: Data, seeds: int, epochs: int, console: Console) -> dict[str, list[Run]]:
    """Train every configuration on every seed: a seed fixes training set, initial weights and order of samples."""
    runs: dict[str, list[Run]] = {name: [] for name in CONFIGURATIONS}
    with console.progress(seeds * len(CONFIGURATIONS)) as step:
        for name, options in CONFIGURATIONS.items():
            for seed in range(seeds):
                train = circle_data(TRAIN_SIZE, seed=seed, noise=LABEL_NOISE)
                network = RegularizedNetwork(**NETWORK, **options, seed=seed)
                history = network.fit(train, test, epochs, batch_size=BATCH_SIZE)
                if history.interrupted:
                    raise KeyboardInterrupt
                runs[name].append(Run(network, history, train))
                step(f"{name}, seed {seed}")
    return runs


def _epoch_lines(history: History) -> list[str]:
    """Return the lines of the first, last and three epochs between."""
    last = len(history) - 1
    epochs = sorted({min(quarter * len(history) // 4, last) for quarter in range(5)})
    return [
        f"  epoch {epoch:3d}   train {history.train_acc[epoch]:5.1f} %   test {history.test_acc[epoch]:5.1f} %   "
        f"gap {history.gap[epoch]:5.1f}"
        for epoch in epochs
    ]


def _final(runs: Sequence[Run], figure: str) -> list[float]:
    """Return a figure of the last epoch, seed by seed."""
    return [getattr(run.history, figure)[-1] for run in runs]


def _spread(runs: Sequence[Run], figure: str) -> Spread:
    return Spread.of(_final(runs, figure))


def _conclusion(runs: Runs) -> str:
    """Say which configuration did best on the test set and what it gained over the plain network."""
    test = {name: _final(of_seeds, "test_acc") for name, of_seeds in runs.items()}
    gap = {name: statistics.mean(_final(of_seeds, "gap")) for name, of_seeds in runs.items()}
    best = max(test, key=lambda name: statistics.mean(test[name]))
    if best == "plain":
        return "No regularisation raised the mean test accuracy over that of the plain network here."
    gain = statistics.mean(test[best]) - statistics.mean(test["plain"])
    wins = sum(ours > plain for ours, plain in zip(test[best], test["plain"], strict=True))
    return (
        f"Best on the test set: {best}, {gain:.1f} points above plain (ahead on {wins} of {len(test[best])} seeds), "
        f"with a gap of {gap[best]:.1f} against {gap['plain']:.1f}."
    )


def _measure_kernel() -> tuple[float, float, float]:
    """Return layer_norm's largest error against the oracle, its microseconds, and the oracle's time over its own.

    Kernel and oracle run in turn, each on one thread, as NumPy does, and into a buffer that is there already. Times and
    ratio are medians, so that what else the machine does counts for both.
    """
    x = np.random.default_rng(0).normal(size=KERNEL_SHAPE).astype(np.float32)
    error = float(np.abs(functional.layer_norm(x) - oracle.layer_norm(x)).max())
    y = np.empty_like(x)
    with cregkit.num_threads(1):
        pairs = [
            (_seconds(lambda: functional.layer_norm(x, out=y)), _seconds(lambda: oracle.layer_norm(x, out=y)))
            for _ in range(TIMED_PAIRS)
        ]
    own = statistics.median(ours for ours, _ in pairs)
    return error, own * 1e6, statistics.median(theirs / ours for ours, theirs in pairs)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _write_json(path: str, runs: Runs, kernel: Mapping[str, object]) -> None:
    content = {
        "machine": cregkit.show_config(),
        "settings": {
            "train_size": TRAIN_SIZE,
            "label_noise": LABEL_NOISE,
            "test_size": TEST_SIZE,
            "batch_size": BATCH_SIZE,
            **NETWORK,
        },
        "configurations": {
            name: {
                "options": dict(CONFIGURATIONS[name]),
                "final": {figure: _spread(of_seeds, figure)._asdict() for figure in FIGURES},
                "histories": [vars(run.history) for run in of_seeds],
            }
            for name, of_seeds in runs.items()
        },
        "layer_norm": kernel,
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")


def _draw(path: str, runs: Runs) -> str:
    """Draw the picture if matplotlib is there; return the line that says where it is, or what to install."""
    try:
        from cregkit.lab import plot
    except ImportError:
        return 'picture none: matplotlib is not installed; pip install "cregkit[lab]"'
    plot.draw(path, runs)
    return f"picture {os.path.abspath(path)}"
