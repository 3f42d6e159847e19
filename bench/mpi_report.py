"""The report of data-parallel training: steps measured on a few ranks, and the model's prediction for more."""

from __future__ import annotations

from record import Section
from report_table import table as markdown


def table(section: Section) -> str:
    """What was measured, and what the model predicts from it."""
    of = section["figures"]
    one, samples = of["measured"][0], of["samples"]
    measured = markdown(
        ["ranks", "ms per step", "of these in messages", "samples per second"],
        [
            [str(row["ranks"]), _ms(row["step"]), _ms(row["messages"]), f"{samples * row['ranks'] / row['step']:.0f}"]
            for row in of["measured"]
        ],
    )
    predicted = markdown(
        ["ranks, one core each", "ms per step", "of these in messages", "efficiency"],
        [
            [str(row["ranks"]), _ms(row["step"]), _ms(row["visible"]), f"{one['step'] / row['step']:.0%}"]
            for row in of["predicted"]
        ],
    )
    return f"""\
Measured on {of["cores"]} cores, {samples} samples per rank, {one["gradient_bytes"] / 1e6:.1f} MB of gradients:

{measured}

Predicted from a latency of {1e6 * of["latency"]:.1f} us and a bandwidth of {of["bandwidth"] / 1e9:.1f} GB/s:

{predicted}"""


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"
