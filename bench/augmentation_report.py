"""The report of augmented batches: speed-ups over albumentations."""

from __future__ import annotations

from record import Section
from report_table import table as markdown
from report_table import target

LIMIT = 1.0
"""Least speed-up of every transform."""


def table(section: Section) -> str:
    """Milliseconds for a batch and the speed-up, by transform; the slowest batch is judged."""
    rows = section["figures"]
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    ms = {(row["transform"], row["batch"]): row["ms"] for row in rows}
    lines = []
    for name in dict.fromkeys(row["transform"] for row in rows):
        of = [ms[name, batch] for batch in batches]
        ratios = [each["albumentations"] / each["cregkit"] for each in of]
        cells = [f"{each['cregkit']:.2f} ms, {ratio:.1f}x" for each, ratio in zip(of, ratios, strict=True)]
        lines.append([name, *cells, target(min(ratios), LIMIT)])
    return markdown(["transform", *(f"batch {batch}" for batch in batches), "target"], lines)
