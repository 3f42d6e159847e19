"""Runs an experiment seed by seed, so that an interrupted run has complete seeds to compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from cregkit import num_threads
from cregkit.lab.framework import Experiment, Result, Row, Settings, Table, Trial


def run(experiment: Experiment, settings: Settings, step: Callable[[str], None] = lambda name: None) -> Result:
    """Run an experiment.

    Ctrl-C ends the run without an exception: the result has the completed seeds, or the completed rows of the first.

    Parameters
    ----------
    experiment
        The experiment.
    settings
        Numbers of seeds and epochs.
    step
        Function to call with the name of each completed trial.

    Returns
    -------
    Result
        The table and its conclusions.
    """
    seeds, epochs = settings.seeds or experiment.seeds, settings.epochs or experiment.epochs
    trials: dict[Row, list[Trial]] = {row: [] for row in experiment.rows}
    start = time.perf_counter()
    whole = 0
    try:
        with one_thread():
            for seed in range(seeds):
                for trial in experiment.trials(seed, epochs):
                    trials[trial.row].append(trial)
                    step(f"{' '.join(trial.row)}, seed {seed}")
                whole += 1
    except KeyboardInterrupt:
        if whole:  # all rows need the same seeds to be compared
            trials = {row: of_row[:whole] for row, of_row in trials.items()}
    table = Table(experiment.rows, trials)
    return Result(experiment, seeds, epochs, table, time.perf_counter() - start, whole == seeds)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, including BLAS if threadpoolctl is installed (scikit-learn depends on it).

    The networks are too small for several threads; on a busy machine, waiting for threads makes every step many times
    slower. Times are therefore those of one thread on any machine.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        limits: AbstractContextManager[object] = nullcontext()
    else:
        limits = threadpool_limits(1, "blas")
    with limits, num_threads(1):
        yield
