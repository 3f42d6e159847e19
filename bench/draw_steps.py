"""The README's picture: what dropout adds to a training step in PyTorch, stock, converted and enabled.

    python bench/bench_torch.py --json bench/training_steps.json
    python bench/draw_steps.py

Reads bench/training_steps.json and writes bench/training_steps.png; needs matplotlib.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

BENCH = Path(__file__).parent
BARS = {
    "stock": ("PyTorch", "#9db4c6"),
    "converted": ("with convert(model)", "#e2a15f"),
    "enabled": ("with enable()", "#c2571a"),
}
INK, FAINT = "#333333", "#8a8a8a"
HEIGHT = 0.27


def picture(run: dict[str, Any]) -> Figure:
    """Return three bars for each step, in per cent of the step without dropout, the most expensive on top."""
    steps = sorted(run["steps"], key=lambda step: step["stock"])
    figure = Figure(figsize=(8.4, 0.55 * len(steps) + 1.2), layout="constrained")
    ax = figure.subplots()
    for side, (kind, (label, colour)) in enumerate(BARS.items()):
        added = [round(100 * (step[kind] - 1)) for step in steps]
        places = [y + HEIGHT * (1 - side) for y in range(len(steps))]
        ax.barh(places, added, HEIGHT, label=label, color=colour)
        for y, percent in zip(places, added, strict=True):
            ax.text(max(percent, 0) + 1, y, f"{percent} %", va="center", fontsize=8, color=INK)
    ax.margins(x=0.08)
    ax.axvline(0, color=INK, linewidth=0.9)
    ax.set_yticks(range(len(steps)), [step["step"] for step in steps], fontsize=9, color=INK)
    ax.set_xlabel("time that dropout adds to a training step", color=INK)
    ax.xaxis.set_major_formatter("{x:g} %")
    ax.tick_params(colors=FAINT, labelcolor=INK)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.legend(loc="lower right", frameon=False, labelcolor=INK)
    ax.set_title("What dropout costs a training step", loc="left", color=INK, fontsize=12, fontweight="bold")
    return figure


def main() -> None:
    run = json.loads((BENCH / "training_steps.json").read_text())
    about = {"Description": run["machine"]}
    picture(run).savefig(BENCH / "training_steps.png", dpi=120, facecolor="white", metadata=about)


if __name__ == "__main__":
    main()
