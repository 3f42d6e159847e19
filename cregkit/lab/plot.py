"""The plot of the demonstration: decision boundaries above, accuracy curves below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from cregkit.lab.data import RADIUS_SQUARED, inside_circle
from cregkit.lab.demo import Run, Runs
from cregkit.lab.figures import FAINT, INK, TEST, TRAIN

_GRID = 200


def draw(path: str, runs: Runs) -> None:
    """Plot the runs as PNG, one column per configuration.

    Above: the predicted probability of label 1 for the first seed, its boundary at 0.5, the training points (wrong
    labels ringed) and the true circle. Below: training and test accuracy by epoch, as the mean over the seeds with a
    band of one standard deviation.

    Parameters
    ----------
    path
        The file.
    runs
        The runs of each configuration, by name.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    figure = Figure(figsize=(3.0 * len(runs), 6.8), layout=ConstrainedLayoutEngine(h_pad=0.12))
    axes = figure.subplots(2, len(runs), height_ratios=(1.12, 1), squeeze=False)
    lowest = _lowest_accuracy(runs)
    for column, (name, of_seeds) in enumerate(runs.items()):
        _draw_boundary(axes[0, column], of_seeds[0])
        _draw_curves(axes[1, column], of_seeds)
        axes[1, column].set_ylim(lowest, 100.5)
        axes[0, column].set_title(name, fontsize=13, color=INK, fontweight="bold", pad=8)
        if column:
            axes[1, column].set_yticklabels([])
    axes[1, 0].set_ylabel("accuracy (%)", color=INK)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=6, frameon=False, fontsize=10, labelcolor=INK)
    figure.savefig(path, format="png", dpi=150, facecolor="white")


def _draw_boundary(ax: Any, run: Run) -> None:
    ticks = np.linspace(-2, 2, _GRID, dtype=np.float32)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    probability = run.network.predict_proba(grid).reshape(_GRID, _GRID)
    ax.imshow(
        probability,
        extent=(-2, 2, -2, 2),
        origin="lower",
        interpolation="bilinear",
        cmap="RdBu_r",
        vmin=-0.5,
        vmax=1.5,
    )
    ax.contour(ticks, ticks, probability, levels=[0.5], colors=INK, linewidths=1.6)
    ax.add_patch(Circle((0, 0), math.sqrt(RADIUS_SQUARED), fill=False, color=INK, linestyle=(0, (4, 3)), linewidth=1))
    points, labels = run.train
    colours = np.where(labels == 1, "#a50f15", "#08519c")
    ax.scatter(*points.T, s=20, c=colours, edgecolors="white", linewidths=0.7, zorder=3)
    wrong = points[inside_circle(points) != (labels == 1)]
    ax.scatter(*wrong.T, s=80, facecolors="none", edgecolors="black", linewidths=1.3, zorder=4)
    ax.set(aspect="equal", xlim=(-2, 2), ylim=(-2, 2), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _draw_curves(ax: Any, runs: Sequence[Run]) -> None:
    for figure, colour in (("train_acc", TRAIN), ("test_acc", TEST)):
        curves = np.array([getattr(run.history, figure) for run in runs])
        mean, deviation = curves.mean(axis=0), curves.std(axis=0, ddof=1 if len(runs) > 1 else 0)
        epochs = np.arange(len(mean))
        ax.fill_between(epochs, mean - deviation, np.minimum(mean + deviation, 100), color=colour, alpha=0.15, lw=0)
        ax.plot(epochs, mean, color=colour, linewidth=1.2)
    gap = np.mean([run.history.gap[-1] for run in runs])
    label = f"final gap {gap:.1f}".replace("-", "\N{MINUS SIGN}")
    ax.text(0.97, 0.06, label, transform=ax.transAxes, ha="right", fontsize=12, color=INK)
    ax.set_xlabel("epoch", color=INK)
    ax.tick_params(colors=FAINT, labelcolor=INK)
    ax.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)


def _lowest_accuracy(runs: Runs) -> float:
    """Return the lower limit of the accuracy axes: all curves are visible, except for their first third."""
    histories = [run.history for of_seeds in runs.values() for run in of_seeds]
    settled = [curve[len(curve) // 3 :] for history in histories for curve in (history.train_acc, history.test_acc)]
    return min(70.0, min(map(min, settled)) - 5)


def _legend() -> list[Line2D]:
    def marker(label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle="", marker="o", label=label, **style)

    return [
        Line2D([], [], color=TRAIN, label="training accuracy"),
        Line2D([], [], color=TEST, label="test accuracy"),
        marker("label 1", color="#a50f15", markersize=5),
        marker("label 0", color="#08519c", markersize=5),
        marker("wrong label", markerfacecolor="none", markeredgecolor="black", markersize=9),
        Line2D([], [], color=INK, linestyle=(0, (4, 3)), linewidth=1, label="true boundary"),
    ]
