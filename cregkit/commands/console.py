"""What the commands print: lines, tables and a progress bar, by rich on a terminal if installed, else plain."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from cregkit._progress import progress, rich_console

NO_MATPLOTLIB = "matplotlib is not installed; pip install 'cregkit[lab]'"


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


class Console:
    """Output to ``stdout``; the progress bar goes to ``stderr`` so that the output can be kept in a file."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Use rich if it is installed and the output goes to a terminal; ``quiet`` drops notes and the bar."""
        self._quiet = quiet
        self._rich = rich_console(sys.stdout)

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


class Status:
    """One line about work in progress: drawn anew on a terminal, where it may ring the bell; else a line per change."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``."""
        self._stream = stream
        self._terminal = stream.isatty()
        self._shown = ""

    def show(self, text: str, *, bell: bool = False) -> None:
        """Show ``text`` instead of the last one, if it differs."""
        text = _encodable(text, self._stream)
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]}\x1b[K" + ("\a" if bell else ""), end="", file=self._stream, flush=True)
        elif text != self._shown:
            print(text, file=self._stream, flush=True)
        self._shown = text

    def end(self) -> None:
        """Leave the line as it is; what is written next begins a new one."""
        if self._terminal and self._shown:
            print(file=self._stream, flush=True)


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
