"""The tables and the picture of a run of bench_training.py, from its stored section; imports no PyTorch.

A section has the ``circumstances`` of ``record.py`` and the ``figures``: ``trainings`` (by name: ``states`` with the
curves ``train_loss``, ``test_loss``, ``accuracy`` and ``seconds``, a list of epochs for each seed), ``offsets`` (by
offset: the curves of the test loss of each state) and ``threads`` (``models``, ``ops``, ``fit``). A part that was not
run is missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cregkit.lab.spread import Interval, Spread

STOCK, CONVERT, ENABLE = "PyTorch", "convert", "enable"
FLOAT64, CENTRED = "PyTorch, float64", "PyTorch, centred times"
INK, FAINT = "#333333", "#8a8a8a"
STYLES: dict[str, dict[str, Any]] = {
    STOCK: {"color": "#5b7f9c"},
    CONVERT: {"color": "#e2a15f"},
    ENABLE: {"color": "#c2571a"},
    FLOAT64: {"color": "black", "linestyle": "--", "linewidth": 1},
    CENTRED: {"color": "#4d8b57", "linestyle": ":"},
}
SHARE = 0.75
"""All states reach the loss, the time to which is compared, within this share of the epochs."""

# ---- statistics ----


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Return the mean of the differences of the same seeds, with its 95 % confidence interval."""
    return Interval.of([a - b for a, b in zip(ours, theirs, strict=True)])


def verdict(difference: Interval) -> str:
    """Return "agree" if the interval contains 0; one in twenty does not by chance."""
    return "differ" if difference.sign else "agree"


def last(curves: Iterable[Sequence[float]]) -> list[float]:
    return [curve[-1] for curve in curves]


def seconds_to(loss: float, curve: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the time at which a curve first reaches a loss, linear between the ends of two epochs."""
    ends = np.cumsum(seconds)
    epoch = next(i for i, value in enumerate(curve) if value <= loss)
    if epoch == 0:
        return float(ends[0])
    share = (curve[epoch - 1] - loss) / (curve[epoch - 1] - curve[epoch])
    return float(ends[epoch - 1] + share * seconds[epoch])


def times_to_loss(states: Mapping[str, Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return for each state and seed the time to the lowest training loss that all states reach in SHARE of the run."""
    found: dict[str, list[float]] = {state: [] for state in states}
    for seed in range(len(states[STOCK]["train_loss"])):
        curves = {state: of["train_loss"][seed] for state, of in states.items()}
        target = max(min(curve[: max(1, round(SHARE * len(curve)))]) for curve in curves.values())
        for state, curve in curves.items():
            found[state].append(seconds_to(target, curve, states[state]["seconds"][seed]))
    return found


# ---- tables ----


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_error(values: Sequence[float], decimals: int) -> str:
    """Format the mean and its standard error."""
    spread = Spread.of(values)
    error = "" if spread.deviation is None else f" ± {spread.deviation / len(values) ** 0.5:.{decimals}f}"
    return f"{spread.mean:.{decimals}f}{error}"


def ranged(interval: Interval, decimals: int, sign: str = "") -> str:
    low, mean, high = (f"{value:{sign}.{decimals}f}" for value in (interval.low, interval.mean, interval.high))
    return f"{mean} ({low} to {high})"


def training_rows(trainings: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, training in trainings.items():
        stock = training["states"][STOCK]
        for state, of in training["states"].items():
            cells = [name, state]
            for quantity, decimals in (("test_loss", 4), ("accuracy", 2)):
                ours, theirs = last(of[quantity]), last(stock[quantity])
                found = paired(ours, theirs)
                shown = "-" if state == STOCK else f"{ranged(found, decimals, '+')}: {verdict(found)}"
                cells += [with_error(ours, decimals), shown]
            yield cells


def time_rows(trainings: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, training in trainings.items():
        states = training["states"]
        medians = {state: np.median(of["seconds"], axis=1) for state, of in states.items()}
        to_loss = times_to_loss(states)
        for state, median in medians.items():
            ms = f"{1e3 * float(np.median(median)) / training['steps_per_epoch']:.2f}"
            ratios = [Interval.of(list(np.divide(of[STOCK], of[state]))) for of in (medians, to_loss)]
            cells = ["-", "-"] if state == STOCK else [ranged(ratio, 2) for ratio in ratios]
            yield [name, state, ms, f"{np.mean(to_loss[state]):.2f}", *cells]


def relative(curves: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> Any:
    """Return the relative differences of losses, of shape (seeds, epochs)."""
    return np.abs(np.array(curves) / np.array(reference) - 1)


def offset_rows(offsets: Mapping[str, Any]) -> Iterator[list[str]]:
    for offset, curves in offsets.items():
        reference = curves[FLOAT64]
        for state, of in curves.items():
            change = Interval.of(list(100 * (np.divide(last(of), last(reference)) - 1)))
            compared = ["-", "-"]
            if state != FLOAT64:
                largest = relative(of, reference).max()
                compared = [f"{ranged(change, 3, '+')}: {verdict(change)}", f"{100 * largest:.3g}"]
            yield [f"{float(offset):,.0f} s", state, with_error([1e6 * error for error in last(of)], 1), *compared]


def deviation(run: Mapping[str, Any]) -> str:
    """Say how the losses of a run differ from those on one thread, from which step on (the first is 1)."""
    if run["first"] is None:
        return f"losses identical, weights up to {run['weights']:.0e}" if run["weights"] else "identical"
    return f"step {run['first'] + 1}: {run['at_first']:.0e}, at most {run['largest']:.0e}, weights {run['weights']:.0e}"


def model_rows(models: Iterable[Mapping[str, Any]]) -> Iterator[list[str]]:
    for model in models:
        yield [model["name"], model["state"], *map(deviation, model["runs"])]


def op_rows(ops: Iterable[Mapping[str, Any]]) -> Iterator[list[str]]:
    for op in ops:
        found = [op[state] for state in (STOCK, ENABLE) if state in op]
        cells = [", ".join(f"{key} ({by:.0e})" for key, by in of.items()) or "identical" for of in found]
        yield [f"{op['op']} {tuple(op['shape'])}", *cells]


def fit_rows(runs: Iterable[Mapping[str, Any]]) -> Iterator[list[str]]:
    for which, group in itertools.groupby(runs, key=lambda run: run["of"]):
        yield [f"of the {which}", *map(deviation, group)]


def training_tables(trainings: Mapping[str, Any]) -> Iterator[str]:
    seeds = len(next(iter(trainings.values()))["states"][STOCK]["test_loss"])
    compared = 2 * sum(len(training["states"]) - 1 for training in trainings.values())
    yield (
        f"Test loss and accuracy after the last epoch: mean ± standard error over {seeds} seeds. Differences are those "
        "of the same seed from PyTorch, with the 95 % interval of their mean; they agree if it contains 0. Of "
        f"{compared} comparisons of equal means, {0.05 * compared:.1f} on average differ by chance."
    )
    head = "training, state, test loss, difference, accuracy %, difference"
    yield markdown(head.split(", "), training_rows(trainings))
    yield (
        "Time of training, evaluation excluded, and the time to the lowest training loss that all states reach in "
        f"{100 * SHARE:.0f} % of the epochs. Speed-ups are those of the same seed over PyTorch, with the 95 % interval."
    )
    head = "training, state, ms per step, s to the loss, speed-up per step, speed-up to the loss"
    yield markdown(head.split(", "), time_rows(trainings))


def offset_tables(offsets: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "Mean squared test error at the end, in millionths of the target's variance, by offset of the times; the mean "
        "change from the float64 run of the same seed, with its 95 % interval, and the largest one of any epoch."
    )
    head = "times from, state, test error, change at the end %, largest change %"
    yield markdown(head.split(", "), offset_rows(offsets))


def thread_tables(threads: Mapping[str, Any]) -> Iterator[str]:
    numbers = [run["threads"] for run in threads["models"][0]["runs"]]
    yield (
        "The same training on several numbers of threads (1 is a repetition): the first step whose loss differs from "
        "that on one thread, by how much, the largest difference of a loss, and of a weight at the end."
    )
    yield markdown(["training", "state", *map(str, numbers)], model_rows(threads["models"]))
    yield "Results of single ops that depend on the number of threads (1, 2, 3), and the largest difference."
    states = [state for state in (STOCK, ENABLE) if state in threads["ops"][0]]
    yield markdown(["op", *states], op_rows(threads["ops"]))
    yield "`cregkit.train.fit` on several threads, beside one: losses of the epochs, and weights."
    numbers = sorted({run["threads"] for run in threads["fit"]})
    yield markdown(["threads", *map(str, numbers)], fit_rows(threads["fit"]))


TABLES = {"trainings": training_tables, "offsets": offset_tables, "threads": thread_tables}


def table(section: Mapping[str, Any]) -> str:
    """Return the Markdown of a section: its tables, each below a sentence."""
    figures = section["figures"]
    return "\n\n".join(part for kind, of in TABLES.items() if kind in figures for part in of(figures[kind])) + "\n"


# ---- the picture ----


def tidy(ax: Any, title: str, x: str, y: str) -> None:
    ax.set_yscale("log")
    ax.set_title(title, loc="left", fontsize=11, color=INK)
    ax.set_xlabel(x, color=INK)
    ax.set_ylabel(y, color=INK)
    ax.tick_params(which="both", colors=FAINT, labelcolor=INK)
    ax.spines[["top", "right"]].set_visible(False)


def draw_training(ax: Any, name: str, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw the training loss against the time: thin lines for the seeds, and their mean."""
    for state, of in states.items():
        ends = np.cumsum(of["seconds"], axis=1)
        for x, y in zip(ends, of["train_loss"], strict=True):
            ax.plot(x, y, **STYLES[state] | {"linewidth": 0.5, "alpha": 0.25})
        ax.plot(ends.mean(0), np.mean(of["train_loss"], axis=0), **STYLES[state], label=state)
    tidy(ax, name, "seconds of training", "training loss")


def draw_offsets(ax: Any, offset: str, curves: Mapping[str, Any]) -> None:
    """Draw the geometric mean of the test errors after each epoch."""
    for state, of in curves.items():
        means = np.exp(np.mean(np.log(of), axis=0))
        ax.plot(range(1, len(means) + 1), means, **STYLES[state], label=state)
    tidy(ax, f"regression, times from {float(offset):,.0f} s", "epoch", "test error")


def draw_change(ax: Any, offset: str, curves: Mapping[str, Any]) -> None:
    """Draw the median of the relative differences of the test errors from the float64 run."""
    for state in (name for name in curves if name != FLOAT64):
        medians = np.median(relative(curves[state], curves[FLOAT64]), axis=0)
        ax.plot(range(1, len(medians) + 1), medians, **STYLES[state], label=state)
    ax.set_ylim(1e-7, 10)
    tidy(ax, f"the same from {float(offset):,.0f} s, beside float64", "epoch", "relative change of test error")


def picture(section: Mapping[str, Any]) -> Figure:
    """Return the curves of a section.

    A panel for each training shows its loss against the time; the others show the regression at the largest offset, and
    how its errors differ from those in float64 at the smallest and at the largest offset.
    """
    figures = section["figures"]
    panels = [(draw_training, name, of["states"]) for name, of in figures.get("trainings", {}).items()]
    if offsets := sorted(figures.get("offsets", {}).items(), key=lambda item: float(item[0])):
        panels += [(draw_offsets, *offsets[-1]), (draw_change, *offsets[0]), (draw_change, *offsets[-1])]
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(8.4, 2.9 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    for ax, (draw, name, of) in zip(axes, panels, strict=False):
        draw(ax, name, of)
    labelled = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(labelled.values(), labelled, loc="outside lower center", ncols=5, frameon=False, labelcolor=INK)
    for ax in axes[len(panels) :]:
        ax.remove()
    return figure
