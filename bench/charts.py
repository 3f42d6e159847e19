"""What the pictures of this folder share: colours and axes of horizontal bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#333333", "#8a8a8a"
STOCK, CONVERTED, ENABLED = "#9db4c6", "#e2a15f", "#c2571a"


def rows(names: Sequence[str], height: float, title: str) -> tuple[Figure, Axes]:
    """Return a figure with a named row, ``height`` inches high, for each set of bars, the last one on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, height * len(names) + 1.2), layout="constrained")
    ax = figure.subplots()
    ax.set_yticks(range(len(names)), names, fontsize=9, color=INK)
    ax.tick_params(colors=FAINT, labelcolor=INK)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold")
    return figure, ax
