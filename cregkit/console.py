"""What the commands print: lines, tables and a progress bar, by rich on a terminal if installed, else plain."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

_BAR_WIDTH = 30


class Console:
    """Output to ``stdout``; the progress bar goes to ``stderr`` so that the output can be kept in a file."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Use rich if it is installed and the output goes to a terminal; ``quiet`` drops notes and the bar."""
        self._quiet = quiet
        self._rich = _rich_console(sys.stdout)

    def line(self, text: str = "") -> None:
        """Print a line."""
        print(_encodable(text, sys.stdout))

    def note(self, text: str = "") -> None:
        """Print a line unless the console is quiet."""
        if not self._quiet:
            self.line(text)

    def table(self, title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table: the first column to the left, the others, numbers, to the right."""
        if self._rich is None:
            self.line("\n".join(_plain_table(title, headers, rows)))
            return
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for index, header in enumerate(headers):
            table.add_column(header, justify="right" if index else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(_encodable(cell, sys.stdout)) for cell in row))
        self._rich.print(Text(_encodable(title, sys.stdout), style="bold"), table, sep="\n")

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[str], None]]:
        """Show a bar of ``total`` steps while the block runs; call the function it gives with the name of each step."""
        with progress(total, quiet=self._quiet) as step:
            yield step


@contextmanager
def progress(total: int, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show a bar of ``total`` steps on a terminal at ``stderr``, by rich if installed; see ``Console.progress``."""
    if quiet or not sys.stderr.isatty():  # in a log, a bar is noise
        bar = _no_bar
    else:
        bar = _plain_bar if _rich_console(sys.stderr) is None else _rich_bar
    with bar(total) as step:
        yield step


def check_writable(path: str) -> None:
    """Raise the OSError that writing ``path`` would end in, without leaving a file behind."""
    existed = os.path.exists(path)
    with open(path, "ab"):
        pass
    if not existed:
        os.unlink(path)


def _rich_console(stream: TextIO) -> Any:
    """Return a rich Console for ``stream``, or None where plain text is in place."""
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
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)  # and clear what a longer line left behind

    try:
        yield step
    finally:
        print(file=sys.stderr)


def _plain_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]

    def joined(cells: Sequence[str]) -> str:
        first, *others = (cell.ljust(width) if not index else cell.rjust(width)
                          for index, (cell, width) in enumerate(zip(cells, widths, strict=True)))  # fmt: skip
        return "  ".join([first, *others]).rstrip()

    yield title
    yield joined(headers)
    yield "  ".join("-" * width for width in widths)
    yield from map(joined, rows)


def _encodable(text: str, stream: TextIO) -> str:
    """Return ``text`` with the signs ``stream`` cannot show replaced by ASCII."""
    encoding = stream.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("±", "+-").encode(encoding, "replace").decode(encoding)
    return text
