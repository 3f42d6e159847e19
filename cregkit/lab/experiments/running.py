"""Running an experiment: seed by seed, so that a run cut short has whole seeds to compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from cregkit import num_threads
from cregkit.lab.framework import Experiment, Result, Row, Settings, Table, Trial


def run(experiment: Experiment, settings: Settings, step: Callable[[str], None] = lambda name: None) -> Result:
    """Run the experiment; call ``step`` with the name of each trial that is over.

    Ctrl-C ends it without an exception: the result has the seeds that were over, or the rows of the first one.
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
        if whole:  # rows with a seed more than others could not be compared
            trials = {row: of_row[:whole] for row, of_row in trials.items()}
    table = Table(experiment.rows, trials)
    return Result(experiment, seeds, epochs, table, time.perf_counter() - start, whole == seeds)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: the products too, if threadpoolctl is there, as it is with scikit-learn.

    These networks are too small to share, and where another process has a core, threads that wait for it make every
    step many times slower. Times are then those of one thread on any machine.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        limits: AbstractContextManager[object] = nullcontext()
    else:
        limits = threadpool_limits(1, "blas")
    with limits, num_threads(1):
        yield
