"""The README's picture: what dropout adds to a training step in PyTorch, stock, converted and enabled.

    python bench/bench_torch.py --json bench/training_steps.json
    python bench/draw_steps.py

Reads bench/training_steps.json and writes bench/training_steps.png; needs matplotlib.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from charts import CONVERTED, ENABLED, INK, STOCK, rows
from matplotlib.figure import Figure

BENCH = Path(__file__).parent
BARS = {
    "stock": ("PyTorch", STOCK),
    "converted": ("with convert(model)", CONVERTED),
    "enabled": ("with enable()", ENABLED),
}
HEIGHT = 0.27


def picture(run: dict[str, Any]) -> Figure:
    """Return three bars for each step, in per cent of the step without dropout, the most expensive on top."""
    steps = sorted(run["steps"], key=lambda step: step["stock"])
    figure, ax = rows([step["step"] for step in steps], 0.55, "What dropout costs a training step")
    for side, (kind, (label, colour)) in enumerate(BARS.items()):
        added = [round(100 * (step[kind] - 1)) for step in steps]
        places = [y + HEIGHT * (1 - side) for y in range(len(steps))]
        ax.barh(places, added, HEIGHT, label=label, color=colour)
        for y, percent in zip(places, added, strict=True):
            ax.text(max(percent, 0) + 1, y, f"{percent} %", va="center", fontsize=8, color=INK)
    ax.margins(x=0.08)
    ax.axvline(0, color=INK, linewidth=0.9)
    ax.set_xlabel("time that dropout adds to a training step", color=INK)
    ax.xaxis.set_major_formatter("{x:g} %")
    ax.legend(loc="lower right", frameon=False, labelcolor=INK)
    return figure


def main() -> None:
    run = json.loads((BENCH / "training_steps.json").read_text())
    about = {"Description": run["machine"]}
    picture(run).savefig(BENCH / "training_steps.png", dpi=120, facecolor="white", metadata=about)


if __name__ == "__main__":
    main()
