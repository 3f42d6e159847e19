"""Shared parts of the experiments' plots: colours, axes, gap bars, lines with error bands."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit.lab.framework import Result, Row, Table
from cregkit.lab.spread import Spread

TRAIN, TEST = "#c2571a", "#1f5f8b"  # distinguishable with every common colour blindness
INK, FAINT = "#333333", "#8a8a8a"
PALETTE = (TEST, TRAIN, "#4d8b57", "#8561a8", "#b0902a", "#9a9a9a")
_DPI = 150


def png(result: Result) -> bytes:
    """Plot a result as PNG.

    Parameters
    ----------
    result
        Result of an experiment.

    Returns
    -------
    bytes
        Content of the PNG file.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=result.experiment.size, layout="constrained")
    result.experiment.draw(figure, result.table)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI, facecolor="white")
    return content.getvalue()


def tidy(ax: Any, *, grid: str = "y") -> None:
    """Apply the common style to the axes: no box, light grid."""
    ax.tick_params(colors=FAINT, labelcolor=INK, labelsize=9)
    ax.grid(axis=grid, color="#e4e4e4", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)


def gap_bars(ax: Any, table: Table, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Draw each row as a bar from mean test to mean training accuracy, with the seeds as pale dots."""
    for place, row in enumerate(rows):
        means = {}
        for key, colour in (("test_acc", TEST), ("train_acc", TRAIN)):
            values = table.values(row, key)
            means[key] = values.mean()
            ax.scatter(values, np.full(len(values), place), s=14, color=colour, alpha=0.35, linewidths=0, zorder=3)
        ax.plot([means["test_acc"], means["train_acc"]], [place, place], color="#c9c9c9", linewidth=5, zorder=1)
        ax.scatter(means["test_acc"], place, s=60, color=TEST, zorder=4, label=None if place else "test")
        ax.scatter(means["train_acc"], place, s=60, color=TRAIN, zorder=4, label=None if place else "training")
    ax.set_yticks(range(len(rows)), names)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel("accuracy (%)", color=INK)
    tidy(ax, grid="x")


def band(ax: Any, x: Sequence[float], values: Sequence[Spread], colour: str, label: str, **style: Any) -> None:
    """Draw a line through the means, with a band of one standard deviation."""
    mean = np.array([spread.mean for spread in values])
    deviation = np.array([spread.deviation or 0.0 for spread in values])
    ax.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
    ax.plot(x, mean, color=colour, label=label, **{"linewidth": 1.6, **style})


def curve_band(ax: Any, curves: NDArray[np.float64], colour: str, label: str, **style: Any) -> None:
    """Draw the mean of curves of shape (seeds, epochs) by epoch, with a band of one standard deviation."""
    band(ax, range(1, curves.shape[1] + 1), [Spread.of(list(column)) for column in curves.T], colour, label, **style)


def legend_below(figure: Any, ax: Any, columns: int = 2) -> None:
    """Put the legend of ``ax`` below all axes."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, labelcolor=INK)


def title(ax: Any, text: str) -> None:
    """Set the title of the axes."""
    ax.set_title(text, fontsize=10, color=INK, loc="left")
