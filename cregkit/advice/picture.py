"""The picture of the advice: the curves of the run on the left, what follows from them on the right."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cregkit.advice import text
from cregkit.advice.curves import Curves, Values
from cregkit.advice.result import Advice

_TRAIN, _TEST = "#c2571a", "#1f5f8b"  # distinguishable with every common colour blindness, and by their dashes
_INK, _FAINT, _REGION = "#222222", "#8a8a8a", "#d8d8d8"
_STYLES: Mapping[str, dict[str, Any]] = {
    "train": {"color": _TRAIN, "linestyle": (0, (4, 1.6))},
    "test": {"color": _TEST, "linestyle": "-"},
}
_NAMES = {"loss": "loss", "acc": "accuracy (%)"}
_WIDTH, _DPI = 8.0, 150  # inches; points of 10 and more stay readable when the picture is 600 pixels wide
_COLUMN = 34  # characters in a line of the advice
_LOGARITHMIC = 30.0  # ratio of the largest to the smallest loss from which its axis is logarithmic


def png(advice: Advice) -> bytes:
    """Draw the advice as PNG, 1200 pixels wide, legible at 600 and without colours.

    Losses are above, accuracies below, training figures dashed, test figures solid; thin lines are raw, thick lines
    smoothed. Of several runs, thin lines are the runs and thick lines their mean. A vertical line marks the best epoch,
    another one the epoch after which the test curve turned; from there on the region of overfitting is hatched.

    Parameters
    ----------
    advice
        The advice for a history.

    Returns
    -------
    bytes
        Content of the PNG file.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        The advice is not that for a history.

    Examples
    --------
    >>> from cregkit.advice import advise
    >>> from cregkit.advice.picture import png
    >>> png(advise(history={"loss": [0.9, 0.5, 0.3], "val_loss": [0.9, 0.7, 0.8]}))[1:4]
    b'PNG'
    """
    curves = advice.curves
    if curves is None:
        raise ValueError("advice must be that for a history: accuracies alone have no curves")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("matplotlib is not installed; pip install 'cregkit[lab]'") from error
    runs = [run.curves for run in advice.runs if run.curves is not None] or [curves]
    kinds = [kind for kind in _NAMES if any(name.endswith(kind) for run in runs for name in run.raw)]
    figure = Figure(figsize=(_WIDTH, 5.8 if len(kinds) > 1 else 4.4), layout="constrained")
    grid = figure.add_gridspec(max(1, len(kinds)), 2, width_ratios=(1.62, 1))
    axes = [figure.add_subplot(grid[row, 0]) for row in range(len(kinds))]
    for ax, kind in zip(axes, kinds, strict=True):
        _draw_curves(ax, kind, runs, curves)
        _draw_marks(ax, kind, advice)
        _tidy(ax, kind)
    if axes and advice.history is not None:
        axes[-1].set_xlabel(advice.history.unit, color=_INK, fontsize=11)
        handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(
            handles.values(),
            handles,
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
            fontsize=10,
            labelcolor=_INK,
            handlelength=2.4,
            columnspacing=1.2,
        )
    _draw_text(figure.add_subplot(grid[:, 1]), advice)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI, facecolor="white")
    return content.getvalue()


def _draw_curves(ax: Any, kind: str, runs: list[Curves], shown: Curves) -> None:
    largest, smallest = 0.0, np.inf
    for side, style in _STYLES.items():
        name = f"{side}_{kind}"
        for run in runs:
            if name in run.raw:
                x, y = _known(run.epochs, run.raw[name])
                ax.plot(x, y, **style, linewidth=0.8, alpha=0.55, marker="o" if len(x) == 1 else "", markersize=4)
                largest, smallest = max(largest, float(y.max())), min(smallest, float(y.min()))
        thick = shown.smooth.get(name, shown.raw.get(name))
        if thick is not None:
            label = "training" if side == "train" else "test"
            ax.plot(*_known(shown.epochs, thick), **style, linewidth=2.4, label=label)
    if kind == "loss" and smallest > 0 and largest > _LOGARITHMIC * smallest:
        ax.set_yscale("log")


def _draw_marks(ax: Any, kind: str, advice: Advice) -> None:
    """Mark the best epoch, the turn of the test curve, and the region of overfitting after it."""
    found = advice.history
    if found is None:
        return
    losses = found.best_test_loss is not None
    if found.best_epoch is not None:
        ax.axvline(found.best_epoch, color=_INK, linewidth=1.5, linestyle=(0, (1, 1.5)), zorder=1)
        best = found.best_test_loss if losses else found.best_test_acc
        if kind == ("loss" if losses else "acc"):
            ax.plot(
                found.best_epoch,
                best,
                marker="o",
                markersize=8,
                color=_INK,
                markerfacecolor="white",
                zorder=5,
                linestyle=(0, (1, 1.5)),
                label="best epoch",
            )
    turn = found.turned_up_epoch if losses else found.acc_turned_down_epoch
    if turn is not None:
        ax.axvline(turn, color=_INK, linewidth=1.3, linestyle=(0, (7, 2, 1, 2)), label="turning point", zorder=1)
        ax.axvspan(turn, found.last_epoch, facecolor="#f4f4f4", edgecolor=_REGION, hatch="//", linewidth=0,
                   label="overfitting", zorder=0)  # fmt: skip


def _tidy(ax: Any, kind: str) -> None:
    ax.set_ylabel(_NAMES[kind], color=_INK, fontsize=11)
    ax.tick_params(colors=_FAINT, labelcolor=_INK, labelsize=10)
    ax.margins(x=0.02)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(_FAINT)


def _draw_text(ax: Any, advice: Advice) -> None:
    ax.axis("off")
    ax.text(0, 1, advice.regime, transform=ax.transAxes, va="top", fontsize=14, fontweight="bold", color=_INK)
    lines = "\n".join(_advice_lines(advice))
    ax.text(0, 0.92, lines, transform=ax.transAxes, va="top", fontsize=10, color=_INK, linespacing=1.35)


def _advice_lines(advice: Advice) -> Iterator[str]:
    yield from text.paragraph(advice.summary, width=_COLUMN)
    yield ""
    yield from text.paragraph(f"{advice.evidence}.", width=_COLUMN)
    if advice.runs:
        yield f"{len(advice.runs)} runs: thin; their mean: thick"
    yield ""
    for position, remedy in enumerate(advice.remedies, 1):
        first, *others = text.paragraph(f"{position}. {text.heading(remedy)}", width=_COLUMN)
        yield first
        yield from (f"    {line}" for line in others)


def _known(epochs: Values, values: Values) -> tuple[Any, Any]:
    """Return the points that were measured: a line joins them over the epochs between."""
    x, y = np.array(epochs, dtype=float), np.array(values, dtype=float)
    known = np.isfinite(y)
    return x[known], y[known]
