"""The estimators of ``cregkit.train`` against MLPClassifier and MLPRegressor: scores on test data, and fit times.

    pip install -e '.[lab]'
    python bench/bench_estimators.py

Both have the same hidden layer, learning rate, batch size and number of epochs; everything else has its default value.
A seed splits off 30 % of the data for the test (stratified by class) and is the estimators' ``random_state``. Features,
and the targets of regressions, are scaled to unit variance on the training part. Fits alternate; both estimators have
the machine's threads at their disposal. A score is accuracy or R2, in percent: mean and standard deviation over seeds,
and the mean difference of the pairs with its standard error. The last columns have the smallest times over the seeds.
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from estimators_report import HEADERS, cells
from record import add_option, circumstances, machine, store
from sklearn import datasets
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cregkit.train import RegularizedMLPClassifier, RegularizedMLPRegressor

Load = Callable[[], tuple[Any, Any]]
# Eight features, of which five matter, and as many samples as the California housing data set has.
HOUSES = functools.partial(datasets.make_friedman1, 20640, 8, noise=1.0, random_state=0)
CLASSES: dict[str, tuple[Load, int]] = {
    "digits": (functools.partial(datasets.load_digits, return_X_y=True), 100),
    "breast cancer": (functools.partial(datasets.load_breast_cancer, return_X_y=True), 100),
    "wine": (functools.partial(datasets.load_wine, return_X_y=True), 100),
}
NUMBERS: dict[str, tuple[Load, int]] = {
    "diabetes": (functools.partial(datasets.load_diabetes, return_X_y=True), 100),
    "friedman1, 20640 x 8": (HOUSES, 10),
}


def contestants(regression: bool, epochs: int, batch_size: int, regularised: dict[str, Any]) -> list[Any]:
    """Return scikit-learn's estimator, ours, and ours with more regularisation."""
    ours = functools.partial(
        RegularizedMLPRegressor if regression else RegularizedMLPClassifier,
        (64,),
        lr=0.003,
        epochs=epochs,
        batch_size=batch_size,
    )
    theirs = (MLPRegressor if regression else MLPClassifier)(
        hidden_layer_sizes=(64,),
        learning_rate_init=0.003,
        max_iter=epochs,
        n_iter_no_change=epochs,  # never stops before max_iter
        batch_size=batch_size,
    )
    return [theirs, ours(), ours(**regularised)]


def run(estimator: Any, seed: int, X: Any, y: Any, regression: bool) -> tuple[float, float]:
    """Return the score in percent and the seconds of a fit."""
    parts = train_test_split(X, y, test_size=0.3, random_state=seed, stratify=None if regression else y)
    X_train, X_test, y_train, y_test = parts
    model = clone(estimator).set_params(random_state=seed)
    if regression:
        model = TransformedTargetRegressor(model, transformer=StandardScaler())
    pipeline = make_pipeline(StandardScaler(), model)
    start = time.perf_counter()
    pipeline.fit(X_train, y_train)
    seconds = time.perf_counter() - start
    return 100 * pipeline.score(X_test, y_test), seconds


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32, 200])
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    add_option(parser)
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error(f"argument --seeds: must be at least 2, for standard deviations, got {arguments.seeds}")
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.filterwarnings("ignore", "Got `batch_size`")  # it clips the batch to the data
    regularised = {"dropout": arguments.dropout, "weight_decay": arguments.weight_decay}
    before, rows = circumstances(), []
    print(machine(before))
    print(f"regularised: {regularised}; {arguments.seeds} seeds")
    print(f"| {' | '.join(HEADERS)} |\n{'|---' * len(HEADERS)}|")
    for name, (load, epochs) in {**CLASSES, **NUMBERS}.items():
        X, y = load()
        for batch_size in arguments.batch_size:
            models = contestants(name in NUMBERS, epochs, batch_size, regularised)
            found = np.array(
                [[run(model, seed, X, y, name in NUMBERS) for model in models] for seed in range(arguments.seeds)]
            )
            scores, seconds = (of.tolist() for of in found.T)  # by model and seed
            rows.append({"data": name, "batch": batch_size, "scores": scores, "seconds": seconds})
            print(f"| {' | '.join(cells(rows[-1]))} |", flush=True)
    if arguments.record:
        store(arguments.record, "estimators", before, {"regularised": regularised, "rows": rows})


if __name__ == "__main__":
    main()
