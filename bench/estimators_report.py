"""The report of the estimators: scores and fit times beside those of MLPClassifier and MLPRegressor."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Any

from record import Section
from report_table import table as markdown
from report_table import target

LIMIT = 1.0
"""Least speed-up over scikit-learn."""
HEADERS = (
    "data", "batch", "scikit-learn", "cregkit", "difference", "regularised", "difference", "scikit-learn, s",
    "cregkit, s", "speed-up", "target",
)  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """Scores in per cent with standard deviation, differences of pairs with standard error, smallest fit times."""
    theirs, *others = row["scores"]
    found = [f"{fmean(scores):.2f} ± {stdev(scores):.2f}" for scores in row["scores"]]
    gains = [[a - b for a, b in zip(scores, theirs, strict=True)] for scores in others]
    differences = [f"{fmean(gain):+.2f} ± {stdev(gain) / len(gain) ** 0.5:.2f}" for gain in gains]
    sklearn, ours = (min(seconds) for seconds in row["seconds"][:2])
    scores = [found[0], found[1], differences[0], found[2], differences[1]]
    times = [f"{sklearn:.3f}", f"{ours:.3f}", f"{sklearn / ours:.2f}", target(sklearn / ours, LIMIT)]
    return [row["data"], str(row["batch"]), *scores, *times]


def table(section: Section) -> str:
    """A row for each data set and batch size."""
    return markdown(HEADERS, map(cells, section["figures"]["rows"]))
