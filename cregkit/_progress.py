"""Progress bar on ``stderr``, with rich if it is installed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_BAR_WIDTH = 30


@contextmanager
def progress(total: int, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show a bar of ``total`` steps if ``stderr`` is a terminal; see ``Console.progress``."""
    if quiet or not sys.stderr.isatty():  # no bar in logs
        bar = _no_bar
    elif rich_console(sys.stderr) is None:
        bar = _plain_bar
    else:
        bar = _rich_bar
    with bar(total) as step:
        yield step


def rich_console(stream: TextIO) -> Any:
    """Return a rich Console for ``stream``; None without rich or a terminal."""
    if not stream.isatty():
        return None
    try:
        from rich.console import Console as RichConsole
    except ImportError:
        return None
    return RichConsole(file=stream, highlight=False)


@contextmanager
def _rich_bar(total: int) -> Iterator[Callable[[str], None]]:
    from rich.console import Console as RichConsole
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=RichConsole(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda name: progress.update(task, description=name, advance=1)


@contextmanager
def _no_bar(total: int) -> Iterator[Callable[[str], None]]:
    yield lambda name: None


@contextmanager
def _plain_bar(total: int) -> Iterator[Callable[[str], None]]:
    """Redraw one line."""
    done, start = 0, time.monotonic()

    def step(name: str) -> None:
        nonlocal done
        done += 1
        filled = _BAR_WIDTH * done // total
        bar = "#" * filled + "." * (_BAR_WIDTH - filled)
        left = round((time.monotonic() - start) * (total - done) / done)
        line = f"[{bar}] {done}/{total} {name:<24} {left // 60}:{left % 60:02} left"
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)  # and clear the rest of a longer line

    try:
        yield step
    finally:
        print(file=sys.stderr)
