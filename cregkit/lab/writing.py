"""Results of the experiments as files: JSON with everything, CSV with one value per line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import cregkit
from cregkit.lab.experiments.framework import Result

FORMAT = 1


def write_json(path: str, results: Sequence[Result]) -> None:
    """Write machine, settings, tables with the values of every seed, curves, conclusions and claims as JSON.

    Values that are not finite become null, because JSON cannot represent them.
    """
    content = {
        "format": FORMAT,
        "machine": cregkit.show_config(),
        "experiments": [_experiment(result) for result in results],
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(_finite(content), file, indent=1, allow_nan=False)
        file.write("\n")


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


def _finite(value: Any) -> Any:
    """Return ``value`` as plain JSON, with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


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
