"""Following a log that is being written: the advice after each change of it, and one line about its state."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping

from cregkit._files import Path
from cregkit.advice import logs
from cregkit.advice.advisor import Setting, judged
from cregkit.advice.result import Advice

INTERVAL = 0.5
"""Seconds between two looks at the file."""


def follow(path: Path, setting: Setting, columns: Mapping[str, str] | None = None) -> Iterator[Advice | str]:
    """Yield the advice on a log now and after each change; a str says why there is none yet. It does not end.

    A file that does not exist is waited for. A last line without its end is not read: it may be half-written.

    Parameters
    ----------
    path
        A file or a folder of logs.
    setting
        Settings of the training.
    columns
        See ``advise``.

    Yields
    ------
    Advice or str
        The advice, or what is waited for.

    Examples
    --------
    >>> from cregkit.advice.advisor import setting
    >>> from cregkit.advice.watch import follow
    >>> next(follow("no-such-log.csv", setting(None, None, None)))
    'waiting for no-such-log.csv'
    """
    before: object = None
    while True:
        now = _state(path)
        if now != before:
            before = now
            try:
                yield judged(logs.read(path, columns, growing=True), setting)
            except FileNotFoundError:
                yield f"waiting for {os.fspath(path)}"
            except ValueError as error:  # nothing to judge yet, or JSON that is being written
                yield f"waiting: {error}"
        time.sleep(INTERVAL)


def _state(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Return names, sizes and times of change of a file, or of all files in a folder; one entry if there is none."""
    files = [os.fspath(path)]
    if os.path.isdir(path):
        files = [os.path.join(place, name) for place, _, names in os.walk(path) for name in sorted(names)]
    return tuple(map(_state_of_file, files)) or (("", 0, 0),)


def _state_of_file(path: str) -> tuple[str, int, int]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return path, -1, 0
    return path, found.st_size, found.st_mtime_ns


def line(advice: Advice) -> str:
    """Return the state of the latest run in one line: epoch, losses, gap, trend.

    Parameters
    ----------
    advice
        The result of ``advise`` for a history.

    Returns
    -------
    str
        The line.

    Examples
    --------
    >>> from cregkit.advice import advise
    >>> from cregkit.advice.watch import line
    >>> line(advise(history={"loss": [9, 7, 5, 4, 3, 2, 2, 1, 1], "val_loss": [9, 8, 7, 6, 7, 8, 9, 10, 11]}))
    'epoch 8: test loss 11, gap in loss 10; turned up after epoch 3'
    """
    latest = advice.runs[-1] if advice.runs else advice
    found = latest.history
    if found is None:
        return latest.evidence
    figures = [
        ("test loss", _last(latest, "test_loss"), ".4g", ""),
        ("gap in loss", _last(latest, "test_loss") - _last(latest, "train_loss"), ".3g", ""),
        ("test accuracy", math.nan if latest.test_acc is None else latest.test_acc, ".1f", " %"),
        ("gap", math.nan if latest.gap is None else latest.gap, ".1f", " points"),
    ]
    shown = ", ".join(f"{name} {value:{form}}{unit}" for name, value, form, unit in figures if math.isfinite(value))
    return f"{found.unit} {found.last_epoch:.15g}: {shown}; {alarm(advice) or _trend(latest)}"


def alarm(advice: Advice) -> str:
    """Return what has gone wrong in the latest run: a divergence, or a test curve that turned; "" if nothing has.

    Parameters
    ----------
    advice
        The result of ``advise`` for a history.

    Returns
    -------
    str
        What has gone wrong.

    Examples
    --------
    >>> from cregkit.advice import advise
    >>> from cregkit.advice.watch import alarm
    >>> alarm(advise(history={"loss": [1.0, float("inf")], "val_loss": [1.0, None]}))
    'diverged in epoch 1'
    """
    found = (advice.runs[-1] if advice.runs else advice).history
    if found is None:
        return ""
    if found.diverged_epoch is not None:
        return f"diverged in {found.unit} {found.diverged_epoch:.15g}"
    turn = found.acc_turned_down_epoch if found.best_test_loss is None else found.turned_up_epoch
    if turn is None:
        return ""
    return f"turned {'down' if found.best_test_loss is None else 'up'} after {found.unit} {turn:.15g}"


def _trend(advice: Advice) -> str:
    improving = None if advice.history is None else advice.history.test_improving
    if improving is None:
        return "too few epochs for a trend"
    return "still improving" if improving else "level"


def _last(advice: Advice, figure: str) -> float:
    """Return the last value of a figure that was measured, NaN if none was."""
    values = () if advice.curves is None else advice.curves.raw.get(figure, ())
    return next((value for value in reversed(values) if value is not None), math.nan)
