"""The report of busy machines: layer norm beside other processes, on all threads and on one."""

from __future__ import annotations

from record import Section
from report_table import table as markdown
from report_table import target, tuning_link

LIMITS = {"busy-1": 1.18}
"""Largest mean of cregkit in its worst window, as a multiple of one thread, by load."""
OURS = "cregkit"
LIMIT_SECTION = "parallel-loops-cregkitkernels_threadspyx"


def table(section: Section) -> str:
    """The worst window of each contestant over all shapes: mean / 99th percentile, as multiples of one thread's."""
    of = section["figures"]
    names = list(dict.fromkeys(name for rows in of["loads"].values() for row in rows for name in row["worst"]))
    lines = []
    for load, rows in of["loads"].items():
        worst = {name: [max(column) for column in zip(*(row["worst"][name] for row in rows), strict=True)]
                 for name in names}  # fmt: skip
        cells = [f"{mean:.2f} / {percentile:.2f}" for mean, percentile in worst.values()]
        lines.append([load, *cells, _judged(load, worst[OURS][0])])
    return f"""\
Worst of {of["windows"]} windows of {of["seconds"]:g} s over all shapes, mean / 99th percentile, relative to one thread:

{markdown(["load", *names, "target for cregkit's mean"], lines)}"""


def _judged(load: str, mean: float) -> str:
    if load not in LIMITS:
        return "-"
    judged = target(mean, LIMITS[load], at_most=True)
    return judged if mean <= LIMITS[load] else f"{judged}, {tuning_link(LIMIT_SECTION)}"
