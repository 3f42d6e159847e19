"""The advice as lines of text."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator

from cregkit.advice import rules
from cregkit.advice.figures import HistoryFigures
from cregkit.advice.result import Advice, Remedy

_WIDTH = 100


def lines(advice: Advice) -> Iterator[str]:
    r"""Yield the lines of the whole advice.

    Parameters
    ----------
    advice
        The result of ``advise``.

    Yields
    ------
    str
        A line, without its end.

    Examples
    --------
    >>> from cregkit.advice import advise
    >>> from cregkit.advice.text import lines
    >>> print(*list(lines(advise(80, 90)))[:4], sep="\n")
    test above train: train 80.0 %, test 90.0 %, gap -10.0 points
    The test set looks easier than the training set: find out why before changing the network.
    Evidence: training accuracy 80.0 %, test accuracy 90.0 %: generalisation gap -10.0 points.
    <BLANKLINE>
    """
    yield f"{advice.regime}: {_figures_line(advice)}"
    yield from paragraph(advice.summary)
    yield from paragraph(f"Evidence: {advice.evidence}.")
    for line in _run_lines(advice):
        yield from paragraph(line, "   ")
    if advice.history is not None:
        yield ""
        for line in _curve_lines(advice.history, len(advice.runs)):
            yield from paragraph(line)
    for position, remedy in enumerate(advice.remedies, 1):
        yield ""
        yield f"{position}. {heading(remedy)}"
        yield from paragraph(remedy.reason, "   ")
        if remedy.evidence not in ("", advice.evidence):
            yield from paragraph(f"Evidence: {remedy.evidence}.", "   ")
        yield f"   >>> {remedy.code}"
    if advice.remedies:
        yield ""
        yield f"These lines need: {rules.IMPORTS}"
        yield "Other names and sizes in them are examples; replace them with yours."
    if advice.warnings:
        yield ""
    for warning in advice.warnings:
        yield from paragraph(f"Note: {warning}.")


def history_lines(advice: Advice) -> Iterator[str]:
    """Yield a line for each of several runs, and what the history shows."""
    yield from _run_lines(advice)
    if advice.history is not None:
        yield from _curve_lines(advice.history, len(advice.runs))


def _run_lines(advice: Advice) -> Iterator[str]:
    shared = len(os.path.commonpath([os.path.dirname(run.name) for run in advice.runs])) if advice.runs else 0
    for run in advice.runs:
        yield f"{run.name[shared:].lstrip(os.sep)}: {run.regime}: {_figures_line(run)}"


def paragraph(text: str, indent: str = "", width: int = _WIDTH) -> list[str]:
    """Return ``text`` in lines of at most ``width`` characters."""
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False)


def heading(remedy: Remedy) -> str:
    """Return the name of a remedy with its rate and the value to start with."""
    if remedy.rate is None:
        return remedy.name
    known = remedy.value is None or remedy.rate == f"{remedy.value:g}"
    return f"{remedy.name} {remedy.rate}" + ("" if known else f", start with {remedy.value:g}")


def _figures_line(advice: Advice) -> str:
    """Return the figures that set the regime in one line, with their spread over several runs."""
    found = advice.history
    figures = [
        ("train", advice.train_acc, ".1f", " %", "train_acc"),
        ("test", advice.test_acc, ".1f", " %", "test_acc"),
        ("gap", advice.gap, ".1f", " points", "gap"),
    ]
    if advice.gap is None and found is not None:
        figures += [("lowest test loss", found.best_test_loss, ".4g", "", "best_test_loss")]
        figures += [("gap in loss", found.loss_gap, ".3g", "", "loss_gap")]
    return ", ".join(
        f"{name} {value:{form}}" + (f" ± {advice.spread[key]:{form}}" if key in advice.spread else "") + unit
        for name, value, form, unit, key in figures
        if value is not None
    )


def _curve_lines(found: HistoryFigures, runs: int) -> list[str]:
    unit = found.unit
    best = []
    if found.best_epoch is not None:
        loss = "" if found.best_test_loss is None else f" (test loss {found.best_test_loss:.4g})"
        best.append(f"best {unit} {found.best_epoch:.15g}{loss}")
    if found.best_test_acc is not None and found.best_test_acc_epoch is not None:
        best.append(f"best test accuracy {found.best_test_acc:.1f} % in {unit} {found.best_test_acc_epoch:.15g}")
    several = f"{runs} runs (medians and means): " if runs else ""
    lines = [
        f"{several}{found.source}, {found.epochs} {unit if found.epochs == 1 else unit + 's'}: {', '.join(best)}"
        if best
        else f"{several}{found.source}, {found.epochs} {unit if found.epochs == 1 else unit + 's'}",
        "Read: " + ", ".join(f"{figure} from {column}" for figure, column in found.columns.items()),
    ]
    if found.turned_up_epoch is not None:
        lines.append(
            f"The smoothed test loss turned up after {unit} {found.turned_up_epoch:.15g}: "
            f"it has risen by {found.rise:.3g} since"
        )
    elif found.test_loss_noise is not None:
        lines.append("The test loss has not turned up beyond its noise")
    elif found.best_test_loss is not None:
        lines.append(f"Too few {unit}s with a test loss to see whether it turned up")
    if found.best_test_loss is None and found.acc_turned_down_epoch is not None:
        lines.append(f"The smoothed test accuracy turned down after {unit} {found.acc_turned_down_epoch:.15g}")
    if found.wasted_epochs is not None:
        after = f"{found.wasted_epochs} of {found.epochs} {unit}s came after the best one"
        lines.append(
            after + ("" if found.patience is None else f"; a patience of {found.patience} reaches it but for its noise")
        )
    for name, improving in (("training", found.train_improving), ("test", found.test_improving)):
        if improving is not None:
            lines.append(f"The {name} curve {'still improves' if improving else 'has stopped improving'} at the end")
    noises = [
        f"{name} {value:.2g}{unit}"
        for name, value, unit in (
            ("test loss", found.test_loss_noise, ""),
            ("test accuracy", found.test_acc_noise, " points"),
            ("gap", found.gap_noise, " points"),
        )
        if value is not None
    ]
    if noises:
        lines.append(f"Noise from epoch to epoch (standard deviation): {', '.join(noises)}")
    return lines
