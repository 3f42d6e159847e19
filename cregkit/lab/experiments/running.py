"""Running an experiment: seed by seed, so that a run cut short has whole seeds to compare."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from cregkit.lab.experiments.framework import Experiment, Result, Row, Settings, Table, Trial


def run(experiment: Experiment, settings: Settings, step: Callable[[str], None] = lambda name: None) -> Result:
    """Run the experiment; call ``step`` with the name of each trial that is over.

    Ctrl-C ends it without an exception: the result has the seeds that were over, or the rows of the first one.
    """
    seeds, epochs = settings.seeds or experiment.seeds, settings.epochs or experiment.epochs
    trials: dict[Row, list[Trial]] = {row: [] for row in experiment.rows}
    start = time.perf_counter()
    whole = 0
    try:
        with _blas_on_one_thread():
            for seed in range(seeds):
                for trial in experiment.trials(seed, epochs):
                    trials[trial.row].append(trial)
                    step(f"{' '.join(trial.row)}, seed {seed}")
                whole += 1
    except KeyboardInterrupt:
        if whole:  # rows with a seed more than others could not be compared
            trials = {row: of_row[:whole] for row, of_row in trials.items()}
    table = Table(experiment.rows, trials)
    return Result(experiment, seeds, epochs, table, time.perf_counter() - start, whole == seeds)


def _blas_on_one_thread() -> AbstractContextManager[object]:
    """Keep matrix products on one thread, if threadpoolctl is there, as it is with scikit-learn.

    Those of these networks are too small to share, and where another process has a core, a pool that waits for it makes
    them many times slower.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    limits: AbstractContextManager[object] = threadpool_limits(1, "blas")
    return limits
