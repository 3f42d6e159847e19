"""The demonstration: the effect of regularisation on a network that overfits its training set."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cregkit.lab.data import circle_data
from cregkit.lab.network import RegularizedNetwork
from cregkit.lab.spread import Spread
from cregkit.train import Data, History

# Few points, 10 % wrong labels, and far more neurons than the circle needs: a plain network overfits the noise.
TRAIN_SIZE = 60
LABEL_NOISE = 0.1
TEST_SIZE = 1000
TEST_SEED = 2**32  # differs from the seeds of the training sets, which count from 0
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


class Run(NamedTuple):
    """A trained network, its history and its training set."""

    network: RegularizedNetwork
    history: History
    train: Data


Runs = Mapping[str, Sequence[Run]]


def train_all(test: Data, seeds: int, epochs: int, step: Callable[[str], None]) -> dict[str, list[Run]]:
    """Train every configuration on every seed.

    A seed determines the training set, the initial weights and the order of the samples.

    Parameters
    ----------
    test
        Test set.
    seeds
        Networks per configuration, at least 1.
    epochs
        Epochs of each, at least 1.
    step
        Function to call with the name of each completed run.

    Returns
    -------
    dict
        The runs of each configuration, by name.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C ended a training.
    """
    runs: dict[str, list[Run]] = {name: [] for name in CONFIGURATIONS}
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


def _final(runs: Sequence[Run], figure: str) -> list[float]:
    """Return a metric of the last epoch, by seed."""
    return [getattr(run.history, figure)[-1] for run in runs]


def spread(runs: Sequence[Run], figure: str) -> Spread:
    """Return mean and standard deviation of a metric of the last epoch over the seeds."""
    return Spread.of(_final(runs, figure))


def conclusion(runs: Runs) -> str:
    """Name the configuration with the best test accuracy and its gain over the plain network."""
    test = {name: _final(of_seeds, "test_acc") for name, of_seeds in runs.items()}
    gap = {name: statistics.mean(_final(of_seeds, "gap")) for name, of_seeds in runs.items()}
    best = max(test, key=lambda name: statistics.mean(test[name]))
    if best == "plain":
        return "No remedy raised the mean test accuracy above that of the plain network."
    gain = statistics.mean(test[best]) - statistics.mean(test["plain"])
    wins = sum(ours > plain for ours, plain in zip(test[best], test["plain"], strict=True))
    return (
        f"Best on the test set: {best}, {gain:.1f} points above plain (ahead on {wins} of {len(test[best])} seeds), "
        f"with a gap of {gap[best]:.1f} against {gap['plain']:.1f}."
    )


def to_dict(runs: Runs) -> dict[str, Any]:
    """Return settings, final metrics and histories, ready for JSON."""
    return {
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
                "final": {figure: spread(of_seeds, figure)._asdict() for figure in FIGURES},
                "histories": [vars(run.history) for run in of_seeds],
            }
            for name, of_seeds in runs.items()
        },
    }
