"""The report of training steps in PyTorch: what dropout adds to a step, stock, converted and enabled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import charts
from record import Section
from report_table import table as markdown
from report_table import target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = {
    "stock": ("PyTorch", charts.STOCK),
    "converted": ("with convert(model)", charts.CONVERTED),
    "enabled": ("with enable()", charts.ENABLED),
}
HEIGHT = 0.27


def table(section: Section) -> str:
    """The steps as multiples of PyTorch's step without dropout; the faster of the last two is judged."""
    rows = []
    for step in section["figures"]:
        value = min(step["converted"], step["enabled"]) / (step["stock"] if step["against"] == "stock" else 1.0)
        judged = target(value, step["limit"], at_most=True) + " (of PyTorch's)" * (step["against"] == "stock")
        rows.append([step["step"], *(f"{step[bar]:.2f}" for bar in BARS), judged])
    return markdown(["training step", "PyTorch with dropout", "converted", "enabled", "target"], rows)


def picture(section: Section) -> Figure:
    """Three bars for each step, in per cent of the step without dropout, the most expensive on top."""
    steps = sorted(section["figures"], key=lambda step: step["stock"])
    figure, ax = charts.rows([step["step"] for step in steps], 0.55, "What dropout costs a training step")
    for side, (kind, (label, colour)) in enumerate(BARS.items()):
        added = [round(100 * (step[kind] - 1)) for step in steps]
        places = [y + HEIGHT * (1 - side) for y in range(len(steps))]
        ax.barh(places, added, HEIGHT, label=label, color=colour)
        for y, percent in zip(places, added, strict=True):
            ax.text(max(percent, 0) + 1, y, f"{percent} %", va="center", fontsize=8, color=charts.INK)
    ax.margins(x=0.08)
    ax.axvline(0, color=charts.INK, linewidth=0.9)
    ax.set_xlabel("time that dropout adds to a training step", color=charts.INK)
    ax.xaxis.set_major_formatter("{x:g} %")
    ax.legend(loc="lower right", frameon=False, labelcolor=charts.INK)
    return figure
