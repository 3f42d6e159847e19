"""Runs an experiment seed by seed, so that an interrupted run has complete seeds to compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from cregkit.lab.framework import Experiment, Result, Row, Settings, Table, Trial
from cregkit.lab.spread import t_quantile
from cregkit.train.threads import one_thread


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

    Raises
    ------
    ImportError
        SciPy is not installed, and there are several seeds.
    ValueError
        The trials of a seed do not fit the rows or the columns of the experiment.
    """
    seeds, epochs = settings.seeds or experiment.seeds, settings.epochs or experiment.epochs
    trials: dict[Row, list[Trial]] = {row: [] for row in experiment.rows}
    if seeds > 1:
        t_quantile(seeds - 1)  # without SciPy this fails here, not after the training
    start = time.perf_counter()
    whole, complete = 0, False
    try:
        with one_thread():
            for seed in range(seeds):
                for trial in experiment.trials(seed, epochs):
                    trials.setdefault(trial.row, []).append(trial)
                    step(f"{' '.join(trial.row)}, seed {seed}")
                whole += 1
                _check_trials(experiment, trials, whole)
    except KeyboardInterrupt:
        if whole:  # all rows need the same seeds to be compared
            trials = {row: of_row[:whole] for row, of_row in trials.items()}
    else:
        complete = True
    table = Table(experiment.rows, trials)
    return Result(experiment, seeds, epochs, table, time.perf_counter() - start, complete)


def _check_trials(experiment: Experiment, trials: Mapping[Row, Sequence[Trial]], seeds: int) -> None:
    """Raise an error unless each row, and no other, has one trial per seed, and each column has a metric."""
    if unknown := [row for row in trials if row not in experiment.rows]:
        raise ValueError(f"experiment {experiment.name}: trials yields {unknown}, not in rows: {experiment.rows}")
    for row, of_row in trials.items():
        if len(of_row) != seeds:
            raise ValueError(
                f"experiment {experiment.name}: trials must yield each row once per seed, got {len(of_row)} trials of "
                f"{row!r} for {seeds} {'seed' if seeds == 1 else 'seeds'}"
            )
    keys = {key for of_row in trials.values() for trial in of_row for key in trial.figures}
    if absent := [column.key for column in experiment.columns if column.key not in keys]:
        raise ValueError(
            f"experiment {experiment.name}: no trial has the metrics {absent} of the columns; there are {sorted(keys)}"
        )
