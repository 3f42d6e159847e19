"""The table and the picture of bench_models.py, from its section of a file in bench/results/. Needs no PyTorch.

A row of the figures is a model in a mode (float32, bfloat16 or compiled) and a phase (training or inference):

    model, library, batch, mode, phase   texts
    stock_ms, converted_ms, enabled_ms   lower quartiles of the time, in ms
    without_dropout_ms                   stock with every dropout rate 0: training, if the model has dropout
    without_both_ms                      stock without dropout and norms: training, unless compiled
    converted, enabled, ...              these times relative to stock's
    converted_interval, enabled_interval their 95 % intervals, [low, high]
    spread, rounds                       the largest relative standard deviation (robust); samples of each state
    failed                               instead of the times: what the checks found
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import charts
from record import Section, machine_in_short
from report_table import table as markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATES = STOCK, CONVERTED, ENABLED, WITHOUT_DROPOUT, WITHOUT_BOTH = (
    "stock",
    "converted",
    "enabled",
    "without_dropout",
    "without_both",
)
EXAMPLES = ("BERT", "tabular ResNet", "ResNet-50")
SLOWER = 1.02
"""The relative time above which a model is listed as slower, if the interval of that time is above 1."""
CHANCE = 0.025
"""The share of intervals that are above the true relative time."""
HEADER = (
    f"{'model':34}{'mode':10}{'phase':11}{'stock ms':>9}{'converted':>11}{'enabled':>9}"
    f"{'no dropout':>12}{'share':>7}{'spread':>8}"
)
COLUMNS = (
    "batch", "training, ms", "converted", "enabled", "no dropout", "share", "inference, ms", "converted", "enabled",
)  # fmt: skip


def share(row: dict[str, Any]) -> str:
    """The share of dropout and norms in a stock step, where it was measured."""
    return f"{100 * (1 - row[WITHOUT_BOTH]):.0f} %" if WITHOUT_BOTH in row else ""


def ratio(row: dict[str, Any], state: str) -> str:
    """The time in a state, relative to stock's, where it was measured."""
    return f"{row[state]:.2f}" if state in row else ""


def line(row: dict[str, Any]) -> str:
    """A row as text, below ``HEADER``."""
    start = f"{row['model']:34}{row['mode']:10}{row['phase']:11}"
    if "failed" in row:
        return f"{start}FAILED: {row['failed']}"
    return (
        f"{start}{row['stock_ms']:9.2f}{ratio(row, CONVERTED):>11}{ratio(row, ENABLED):>9}"
        f"{ratio(row, WITHOUT_DROPOUT):>12}{share(row):>7}{100 * row['spread']:6.1f} %"
    )


def phase(figures: Iterable[dict[str, Any]], name: str, mode: str = "float32") -> dict[str, dict[str, Any]]:
    """The rows with times of a phase, by model."""
    wanted = (row for row in figures if row["phase"] == name and row["mode"] == mode and "failed" not in row)
    return {row["model"]: row for row in wanted}


def mean(rows: Iterable[dict[str, Any]], state: str) -> float:
    """The geometric mean of the times in a state, relative to stock's."""
    return statistics.geometric_mean([row[state] for row in rows])


def slower(figures: Iterable[dict[str, Any]]) -> str:
    """A sentence about what is slower than stock: model, mode unless float32, phase, state, relative time."""
    compared = [(row, state) for row in figures if "failed" not in row for state in (CONVERTED, ENABLED)]
    above = [(row, state) for row, state in compared if row[state] > SLOWER]
    names = []
    for row, state in above:
        low, high = row[f"{state}_interval"]
        if low > 1.0:
            mode = "" if row["mode"] == "float32" else f" {row['mode']}"
            names.append(f"{row['model']}{mode} {row['phase']} {state} {row[state]:.2f} ({low:.2f} to {high:.2f})")
    return (
        f"More than 2 % slower than stock, with a 95 % interval above 1: {'; '.join(names) or 'none'}. "
        f"Chance alone gives {CHANCE * len(compared):.0f} such intervals in {len(compared)} comparisons. "
        f"Others above {SLOWER}, with an interval that contains 1: {len(above) - len(names)}."
    )


def table(section: Section) -> str:
    """Markdown: a table of the models, the geometric means, what is slower, and what failed."""
    figures = section["figures"]
    parts = []
    for mode, title in (("float32", "model"), ("bfloat16", "bfloat16 autocast"), ("compiled", "torch.compile")):
        training, inference = phase(figures, "training", mode), phase(figures, "inference", mode)
        if not training:
            continue
        lines = []
        for model, row in training.items():
            cells = [f"{model} ({row['library']})", row["batch"], f"{row['stock_ms']:.1f}"]
            cells += [ratio(row, state) for state in (CONVERTED, ENABLED, WITHOUT_DROPOUT)] + [share(row)]
            evaluated = inference.get(model, {})
            cells += [f"{evaluated['stock_ms']:.1f}" if evaluated else ""]
            cells += [ratio(evaluated, state) for state in (CONVERTED, ENABLED)]
            lines.append(cells)
        parts.append(markdown([title, *COLUMNS], lines))
        means = [
            f"{name} {mean(rows.values(), CONVERTED):.2f} converted, {mean(rows.values(), ENABLED):.2f} enabled"
            for name, rows in (("training", training), ("inference", inference))
            if rows
        ]
        parts.append(f"Geometric means of these {len(training)} models: {'; '.join(means)}.")
    parts.append(
        "Times in ms are PyTorch's; those converted, enabled and without dropout are relative to them. Share: what "
        "dropout and norms take of PyTorch's training step, by a step without both; below 0 if that step took longer."
    )
    spread = max((row["spread"] for row in figures if "failed" not in row), default=math.nan)
    parts.append(f"The largest spread of a row is {100 * spread:.0f} %.")
    parts.append(slower(figures))
    if failed := [f"{row['model']}, {row['mode']} ({row['failed']})" for row in figures if "failed" in row]:
        parts.append(f"Failed, and not timed: {'; '.join(failed)}.")
    return "\n\n".join(parts)


def headline(section: Section) -> str:
    """The README's picture and what it shows of a language model, a tabular network and a CNN."""
    steps = phase(section["figures"], "training")
    named = [f"{steps[model][ENABLED]:.2f} for {model}" for model in EXAMPLES if model in steps]
    about = section["circumstances"]
    return f"""\
![Training steps of {len(steps)} models with cregkit, relative to PyTorch's](models.png)

With `cregkit.torch.enable()`, a training step takes this part of PyTorch's time: {", ".join(named)};
{mean(steps.values(), ENABLED):.2f} in the geometric mean of {len(steps)} models
({machine_in_short(about)}, PyTorch {about["versions"]["torch"]}; `python bench/bench_models.py`)."""


def picture(section: Section) -> Figure:
    """A bar for each model: the time of a float32 training step in an enable block, relative to stock's.

    A circle marks the converted model, a line stock without dropout: what is left of it is gained by faster norms.
    """
    steps = sorted(phase(section["figures"], "training").values(), key=lambda row: -row[ENABLED])
    figure, ax = charts.rows([row["model"] for row in steps], 0.24, "A training step with cregkit, PyTorch's step = 1")
    places = range(len(steps))
    ax.barh(places, [row[ENABLED] for row in steps], 0.66, color=charts.ENABLED, label="with enable()")
    ax.plot(
        [row[CONVERTED] for row in steps], places, "o", markersize=5, markerfacecolor="white",
        markeredgecolor=charts.INK, label="with convert(model)",
    )  # fmt: skip
    floors = [(y, row[WITHOUT_DROPOUT]) for y, row in zip(places, steps, strict=True) if WITHOUT_DROPOUT in row]
    ax.plot(
        [x for _, x in floors], [y for y, _ in floors], "|", markersize=12, markeredgewidth=2,
        color="black", label="PyTorch without dropout",
    )  # fmt: skip
    for y, row in zip(places, steps, strict=True):
        end = max(row[state] for state in (CONVERTED, ENABLED, WITHOUT_DROPOUT) if state in row)
        ax.text(max(end, 1.0) + 0.02, y, f"{row[ENABLED]:.2f}", va="center", fontsize=8, color=charts.INK)
    ax.axvline(1.0, color=charts.INK, linewidth=0.9)
    ax.set_ylim(-0.7, len(steps) - 0.3)
    ax.set_xlabel("time of a training step, relative to PyTorch's", color=charts.INK)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, labelcolor=charts.INK)
    return figure
