"""Phrases that describe a comparison, and whether it is significant."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cregkit.lab.framework import Row, Table
from cregkit.lab.spread import Interval


def compared(
    interval: Interval, more: str = "higher", less: str = "lower", unit: str = "points", decimals: int = 1
) -> str:
    """Describe the size and direction of a difference, and whether it is significant."""
    amount = f"{abs(interval.mean):.{decimals}f} {unit} {more if interval.mean > 0 else less}"
    return amount + _doubt(interval)


def narrowest(table: Table, rows: Sequence[Row], baseline: Row) -> str:
    """Describe the row with the smallest gap, compared with ``baseline``, and its test accuracy."""
    best = min(rows, key=lambda row: table.mean(row, "gap"))
    gap = table.mean(baseline, "gap")
    if best == baseline:
        return f"the gap is smallest with {best[-1]}: {gap:.1f} points"
    narrower = table.difference(best, baseline, "gap")
    test = compared(table.difference(best, baseline, "test_acc"))
    return (
        f"the gap is smallest with {best[-1]}: {table.mean(best, 'gap'):.1f} points against {gap:.1f} with "
        f"{baseline[-1]}{_doubt(narrower)}; its test accuracy is {test}"
    )


def _doubt(interval: Interval) -> str:
    if not math.isfinite(interval.mean):
        return " (not finite)"
    if interval.sign:
        return ""
    return " (one seed)" if math.isinf(interval.high) else " (not significant)"
