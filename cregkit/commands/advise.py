"""``cregkit advise``: the advice as text or JSON."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass

from cregkit._files import check_writable
from cregkit.advice import rules
from cregkit.advice.advisor import Advice, advise, prompt
from cregkit.advice.figures import HistoryFigures
from cregkit.commands.console import Console

STDOUT = "-"
_WIDTH = 100


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    train_acc: float | None
    test_acc: float | None
    history_path: str | None
    model: str | None
    batch_size: int | None
    optimizer: str | None
    json_path: str | None
    prompt: bool


def run(options: Options) -> None:
    """Print the advice, or the prompt, or write the advice as JSON.

    Raises:
        ValueError, OSError: as ``advise``; also if arguments are missing or exclude each other.
    """
    console = Console()
    if options.prompt:
        console.line(prompt().rstrip("\n"))
        return
    _check(options)
    if options.json_path not in (None, STDOUT):
        check_writable(options.json_path)
    advice = advise(
        options.train_acc,
        options.test_acc,
        history=options.history_path,
        model=options.model,
        batch_size=options.batch_size,
        optimizer=options.optimizer,
    )
    if options.json_path is None:
        _print(console, advice)
        return
    text = json.dumps(advice.to_dict(), indent=1)
    if options.json_path == STDOUT:
        console.line(text)
        return
    with open(options.json_path, "w", encoding="utf-8") as file:
        file.write(text + "\n")


def _check(options: Options) -> None:
    figures = (options.train_acc, options.test_acc)
    if options.history_path is not None and figures != (None, None):
        raise ValueError("give --train-acc and --test-acc, or --history, not both")
    if options.history_path is None and None in figures:
        missing = " and ".join(
            name for name, value in zip(("--train-acc", "--test-acc"), figures, strict=True) if value is None
        )
        raise ValueError(f"{missing} missing: give --train-acc and --test-acc in percent, or --history FILE")


def _print(console: Console, advice: Advice) -> None:
    console.line(
        f"{advice.regime}: train {advice.train_acc:.1f} %, test {advice.test_acc:.1f} %, gap {advice.gap:.1f} points"
    )
    _paragraph(console, advice.summary)
    if advice.history is not None:
        console.line()
        for line in _history_lines(advice.history):
            _paragraph(console, line)
    for number, remedy in enumerate(advice.remedies, 1):
        console.line()
        start = (
            f", start with {remedy.value:g}" if remedy.value is not None and remedy.rate != f"{remedy.value:g}" else ""
        )
        console.line(f"{number}. {remedy.name}" + (f" {remedy.rate}{start}" if remedy.rate else ""))
        _paragraph(console, remedy.reason, "   ")
        console.line(f"   >>> {remedy.code}")
    if advice.remedies:
        console.line()
        console.line(f"Before such a line: {rules.IMPORTS}")
        console.line("Other names and sizes in it are examples: put in your own.")
    if advice.warnings:
        console.line()
    for warning in advice.warnings:
        _paragraph(console, f"Note: {warning}.")


def _paragraph(console: Console, text: str, indent: str = "") -> None:
    for line in textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False):
        console.line(line)


def _history_lines(found: HistoryFigures) -> list[str]:
    loss = "" if found.best_test_loss is None else f" (test loss {found.best_test_loss:.4g})"
    lines = [
        f"{found.source}, {found.epochs} {'epoch' if found.epochs == 1 else 'epochs'}: best epoch "
        f"{found.best_epoch}{loss}, best test accuracy {found.best_test_acc:.1f} % in epoch "
        f"{found.best_test_acc_epoch}",
    ]
    if found.turned_up_epoch is not None:
        lines.append(
            f"The smoothed test loss turned up after epoch {found.turned_up_epoch}: "
            f"it has risen by {found.rise:.3g} since"
        )
    elif found.test_loss_noise is not None:
        lines.append("The test loss has not turned up beyond its noise")
    else:
        lines.append("Too few epochs with a test loss to see whether it turned up")
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
