"""The report of scaling: speed-ups of every op over one thread, beside memcpy's and PyTorch's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any

import numpy as np
from record import Section, machine_in_short
from report_table import table as markdown
from report_table import target
from scaling import COPY, OURS, SIZES, STRONG, TORCH, WEAK, Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIMIT = 1.7
"""Least speed-up of an op in strong scaling, beyond the small size."""


def cells_of(section: Section) -> list[Cell]:
    """The measured cells."""
    return [Cell(**cell) for cell in section["figures"]["cells"]]


def table(section: Section) -> str:
    """Speed-ups on all threads by kind of scaling and size: geometric means, and the worst op."""
    of, cells = section["figures"], cells_of(section)
    caches = ", ".join(f"{count} x {cache}" for cache, count in of["caches"].items())
    loops = ", ".join(f"{name}: {1e6 * seconds:.2f}" for name, seconds in of["loops"].items())
    headers = (
        "scaling",
        "size",
        "ops",
        "cregkit",
        "memcpy",
        "PyTorch's ops",
        "worst op of cregkit",
        "target of the worst",
    )
    return f"""\
Speed-ups over one thread on {cells[0].threads[-1]} threads of {of["cores"]} cores, {caches}, {of["numa_nodes"]} NUMA
nodes, in geometric mean over the ops. An empty parallel loop takes, in us by number of threads, {loops}.

{markdown(headers, _rows(cells))}"""  # fmt: skip


def _rows(cells: Sequence[Cell]) -> Iterator[list[str]]:
    for scaling, size in itertools.product((STRONG, WEAK), SIZES):
        group = [cell for cell in cells if (cell.scaling, cell.size) == (scaling, size)]
        if group:
            means = [_mean(group, name) for name in (OURS, COPY, TORCH)]
            worst = min(group, key=lambda cell: cell.speedups()[-1])
            value = worst.speedups()[-1]
            judged = target(value, LIMIT) if scaling == STRONG and size != SIZES[0] else "-"
            where = f"{value:.2f}, {worst.op} {'x'.join(map(str, worst.shape))}"
            yield [scaling, size, str(len(group)), *means, where, judged]


def _mean(cells: Sequence[Cell], name: str) -> str:
    speedups = [cell.speedups(name)[-1] for cell in cells if name in cell.seconds]
    return f"{geometric_mean(speedups):.2f}" if speedups else "-"


INK, FAINT = "#333333", "#8a8a8a"
FAMILIES = {
    "dropout_add": "#8561a8", "dropout": "#c2571a", "layer_norm": "#1f5f8b", "rms_norm": "#6aa5cc",
    "batch_norm": "#4d8b57", "group_norm": "#9bbf6a", "instance_norm": "#c9a227", "adamw": "#b04a6a", "": FAINT,
}  # fmt: skip
"""The colours of ops whose names begin so."""


def family_of(cell: Cell) -> str:
    return next(prefix for prefix in FAMILIES if cell.op.startswith(prefix))


def draw_panel(ax: Any, cells: Sequence[Cell], threads: Sequence[int]) -> None:
    """Draw a line for each op: cregkit solid, PyTorch dashed, the geometric mean of memcpy black."""
    ax.plot(threads, threads, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)))
    for cell in cells:
        for name, style in ((TORCH, "--"), (OURS, "-")):
            if name in cell.seconds:
                ax.plot(threads, cell.speedups(name), style, color=FAMILIES[family_of(cell)], linewidth=1.1)
    if cells:
        means = np.exp(np.mean(np.log([cell.speedups(COPY) for cell in cells]), axis=0))
        ax.plot(threads, means, color="black", linewidth=2)
    ax.set(xscale="log", yscale="log")
    ax.set_xticks(threads, threads)
    ax.set_yticks(threads, threads)
    ax.minorticks_off()
    ax.tick_params(colors=FAINT, labelcolor=INK)
    ax.spines[["top", "right"]].set_visible(False)


def picture(section: Section) -> Figure:
    """A panel for each kind of scaling and size."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    cells = cells_of(section)
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    for ax, (scaling, size) in zip(axes.flat, itertools.product((STRONG, WEAK), SIZES), strict=True):
        draw_panel(ax, [cell for cell in cells if (cell.scaling, cell.size) == (scaling, size)], cells[0].threads)
        ax.set_title(f"{scaling} scaling, {size}", fontsize=10, color=INK)
    for ax in axes[:, 0]:
        ax.set_ylabel("speed-up over one thread", color=INK)
    for ax in axes[1]:
        ax.set_xlabel("threads", color=INK)
    families = {family_of(cell) for cell in cells}
    handles = [Line2D([], [], color=FAMILIES[name], label=name or "other ops") for name in FAMILIES if name in families]
    handles += [Line2D([], [], color=INK, linestyle="--", label="PyTorch")]
    handles += [Line2D([], [], color="black", linewidth=2, label="memcpy")]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, labelcolor=INK)
    figure.suptitle(machine_in_short(section["circumstances"]), color=INK, fontsize=11)
    return figure
