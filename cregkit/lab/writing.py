"""Results of the experiments as files: JSON with everything, CSV with one value per line."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import Any

import cregkit
from cregkit import _files as files
from cregkit.lab.framework import Result

FORMAT = 1


def write_json(path: str, results: Sequence[Result]) -> None:
    """Write machine, settings, tables with the values of every seed, curves, conclusions and claims as JSON."""
    content = {
        "format": FORMAT,
        "machine": cregkit.show_config(),
        "experiments": [_experiment(result) for result in results],
    }
    files.write_json(path, content)


def _experiment(result: Result) -> dict[str, Any]:
    experiment, table = result.experiment, result.table
    return {
        "name": experiment.name,
        "question": experiment.question,
        "setup": experiment.setup,
        "seeds": result.seeds,
        "epochs": result.epochs,
        "complete": result.complete,
        "seconds": result.seconds,
        "rows": [
            {
                "labels": dict(zip(experiment.labels, row, strict=True)),
                "figures": {
                    column.key: {
                        **table.spread(row, column.key)._asdict(),
                        "values": list(table.values(row, column.key)),
                    }
                    for column in experiment.columns
                },
                "curves": [dict(trial.curves) for trial in table.trials[row]],
            }
            for row in table.rows
        ],
        "sentence": result.sentence,
        "claims": [
            {"claim": claim.text, "verdict": verdict, "unit": claim.unit, **claim.quantity(table)._asdict()}
            for claim, verdict in result.claims
        ],
    }


def write_csv(path: str, results: Iterable[Result]) -> None:
    """Write the columns experiment, row, seed, figure and value as CSV."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("experiment", "row", "seed", "figure", "value"))
        for result in results:
            for row, trials in result.table.trials.items():
                for seed, trial in enumerate(trials):
                    writer.writerows(
                        (result.experiment.name, " / ".join(row), seed, column.key, trial.figures[column.key])
                        for column in result.experiment.columns
                        if column.key in trial.figures
                    )
