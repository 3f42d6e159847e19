"""The plot of a run: fraction of copy bandwidth by size, with a panel per promised op and a line per peer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cregkit.benchmark.peers import PEER_NAMES
from cregkit.benchmark.report import Report
from cregkit.benchmark.suite import OURS, OURS_OUT, PROMISED, Row

_STYLES: dict[str, dict[str, Any]] = {
    OURS_OUT: {"color": "#c2571a", "marker": "o", "linewidth": 2.2, "zorder": 5},
    OURS: {"color": "#c2571a", "marker": "o", "linewidth": 1.4, "linestyle": (0, (4, 2)), "mfc": "white", "zorder": 4},
    "torch": {"color": "#1f5f8b", "marker": "s"},
    "torch.compile": {"color": "#6aa5cc", "marker": "D"},
    "onnxruntime": {"color": "#4d8b57", "marker": "^"},
    "jax": {"color": "#8561a8", "marker": "v"},
    "oracle": {"color": "#9a9a9a", "marker": "x"},
}
_LABELS = {**PEER_NAMES, OURS_OUT: "cregkit, out=", "oracle": "NumPy oracle"}
_INK, _FAINT = "#333333", "#8a8a8a"
_COLUMNS = 4


def draw(path: str, report: Report) -> None:
    """Plot a run as PNG.

    Parameters
    ----------
    path
        The file.
    report
        The run.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    figure(report).savefig(path, format="png", dpi=150, facecolor="white")


def figure(report: Report) -> Figure:
    """Plot a run: where an op has several shapes of about the same size, through their geometric mean."""
    measured = {row.case for row in report.rows if row.times}
    ops = [name for name in PROMISED if name in measured]
    n_rows = max(1, math.ceil(len(ops) / _COLUMNS))
    n_columns = max(1, min(_COLUMNS, len(ops)))
    plotted = Figure(figsize=(3.3 * n_columns + 0.4, 2.5 * n_rows + 1.4), layout="constrained")
    axes = plotted.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True)
    drawn = set()
    for index, ax in enumerate(axes.flat):
        if index >= len(ops):
            ax.set_visible(False)
            continue
        drawn |= _panel(ax, ops[index], [row for row in report.rows if row.case == ops[index]])
        if index + n_columns >= len(ops):
            ax.set_xlabel("bytes moved", color=_INK)
            ax.tick_params(labelbottom=True)
    for ax in axes[:, 0]:
        ax.set_ylabel("fraction of copy bandwidth", color=_INK)
    plotted.legend(
        handles=[Line2D([], [], label=_LABELS.get(name, name), **_STYLES[name]) for name in _STYLES if name in drawn],
        loc="outside lower center",
        ncols=7,
        frameon=False,
        labelcolor=_INK,
    )
    about = report.machine
    plotted.suptitle(
        f"Bandwidth against the fastest copy of the same bytes \N{EM DASH} {about['cpu']}, {about['threads']} threads, "
        f"{about['date'].split()[0]}",
        color=_INK,
        fontsize=11,
    )
    return plotted


def _panel(ax: Any, op: str, rows: Sequence[Row]) -> set[str]:
    """Draw the panel of an op; return the names of its lines."""
    drawn = set()
    for name, style in _STYLES.items():
        points = _line(rows, name)
        if points:
            ax.plot(*zip(*points, strict=True), **{"markersize": 4, "linewidth": 1.2, **style})
            drawn.add(name)
    ax.axhline(1.0, color=_FAINT, linewidth=0.8, linestyle=(0, (2, 3)))
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_title(op, fontsize=10, color=_INK)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _size(value)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:g}%"))
    ax.xaxis.set_major_locator(FixedLocator([2.0**power for power in range(8, 32, 4)]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_locator(NullLocator())
    ax.tick_params(colors=_FAINT, labelcolor=_INK, labelsize=8)
    ax.grid(axis="y", color="#e8e8e8", linewidth=0.7)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(_FAINT)
    return drawn


def _line(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    """Return (bytes, fraction) of a contestant, one point per power of two of the size."""
    of_size: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        if name in row.times and row.copy:
            of_size.setdefault(round(math.log2(row.n_bytes)), []).append((row.n_bytes, row.share(name)))
    return sorted(
        (_geometric_mean([size for size, _ in points]), _geometric_mean([share for _, share in points]))
        for points in of_size.values()
    )


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _size(n_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.0f} GiB"
