"""The report of optimiser steps with clipped gradients and averaged weights, beside PyTorch's."""

from __future__ import annotations

from statistics import median
from typing import Any

from record import Section
from report_table import table as markdown
from report_table import target

LIMIT = 1.0
"""Least speed-up over PyTorch."""
HEADERS = ("arrays", "cregkit, ms", "speed-up over PyTorch, median (range)", "share of memcpy's rate", "target")


def cells(row: dict[str, Any]) -> list[str]:
    """The row of a number of arrays of a size."""
    ratios = row["ratios"]
    spread = f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    return [row["arrays"], f"{row['ms']:.2f}", spread, f"{row['of_memcpy']:.2f}", target(median(ratios), LIMIT)]


def table(section: Section) -> str:
    """Times and speed-ups."""
    return markdown(HEADERS, map(cells, section["figures"]))
