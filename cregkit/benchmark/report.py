"""The results of a run: as tables, as a JSON file, and compared with an older run."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import cregkit
from cregkit._files import write_json
from cregkit.benchmark.goals import Goal
from cregkit.benchmark.peers import Peer
from cregkit.benchmark.suite import COPY, OURS, OURS_FLOAT32, OURS_OUT, OURS_SERIAL, Row
from cregkit.benchmark.timing import Measurement

FORMAT = 1
NOISE_LIMIT = 3.0
"""Changes of up to this many standard deviations (both runs combined) are noise."""
LEAST_CHANGE = 0.1
"""Smallest change that is reported: memory layout alone can cause a smaller one."""
SAME_MACHINE = ("cpu", "isa", "threads")
"""Settings that must be equal in two runs that are compared."""


class ReportError(Exception):
    """A file is not a run that can be compared; the message is one line."""


@dataclass(frozen=True)
class Report:
    """A run: the machine, the measured rows and the judged goals. ``complete`` is False for an interrupted run."""

    machine: dict[str, Any]
    rows: list[Row]
    goals: list[Goal]
    complete: bool = True


def machine(peers: Sequence[Peer]) -> dict[str, Any]:
    """Return the configuration, machine, versions and date of the run."""
    return {
        **cregkit.show_config(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "peers": {peer.name: peer.version for peer in peers},
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def machine_line(described: dict[str, Any]) -> str:
    """Return the machine as one line."""
    peers = ", ".join(f"{name} {version}" for name, version in described["peers"].items()) or "none"
    threads = described["threads"]
    load = "" if described["load"] is None else f", load {described['load']:.1f}"
    return (
        f"cregkit {described['version']} on {described['cpu']}: {described['isa']} code, {threads} "
        f"{'thread' if threads == 1 else 'threads'}{load}; peers: {peers}"
    )


HEADERS = ("op", "shape", "ours us", "out= us", "best peer", "its us", "ratio", "of copy")
HEADERS_16_BIT = (*HEADERS, "float32 us", "speed-up")


def cells(row: Row) -> list[str]:
    """Return the table cells of a row: times are lower quartiles, the fraction of the copy is that with ``out=``."""
    shape = "x".join(map(str, row.shape))
    if OURS in row.void:
        return [row.case, shape, "WRONG", "", "", "", "", ""]
    own = (OURS, OURS_OUT, OURS_SERIAL, OURS_FLOAT32)
    others = [name for name in row.times if name not in own and not name.startswith(COPY)]
    best = row.best(others)
    share = row.share(OURS_OUT if OURS_OUT in row.times else OURS)
    return [
        row.case,
        shape,
        _microseconds(row.seconds(OURS)),
        _microseconds(row.seconds(OURS_OUT)),
        best or "-",
        _microseconds(row.seconds(best)),
        f"{row.ratio(best):.2f}" if best else "-",
        f"{share:.0%}",
    ]


def cells_16_bit(row: Row) -> list[str]:
    """Return the table cells of a row of 16-bit tensors: the last are the op's time on float32, and the speed-up."""
    if OURS in row.void:
        return [*cells(row), "", ""]
    return [*cells(row), _microseconds(row.seconds(OURS_FLOAT32)), f"{row.ratio(OURS_FLOAT32):.2f}"]


def void_lines(rows: Sequence[Row]) -> list[str]:
    """Return a line for each contestant that was not timed because of a wrong result."""
    return [
        f"VOID {name} in {row.case} {'x'.join(map(str, row.shape))}: {reason}"
        for row in rows
        for name, reason in row.void.items()
    ]


GOAL_HEADERS = ("promise", "against", "limit", "measured", "", "where")


def goal_cells(goal: Goal) -> list[str]:
    """Return the table cells of a goal; ``where`` is the worst cell."""
    sign = "\N{LESS-THAN OR EQUAL TO}" if goal.at_most else "\N{GREATER-THAN OR EQUAL TO}"
    measured = "-" if goal.value is None else f"{goal.value:.2f}{goal.unit}"
    verdict = {None: "not measured", True: "reached", False: "MISSED"}[goal.reached]
    return [goal.what, goal.against, f"{sign} {goal.limit:g}{goal.unit}", measured, verdict, goal.where]


def _microseconds(seconds: float) -> str:
    if math.isinf(seconds):
        return "-"
    microseconds = seconds * 1e6
    return f"{microseconds:.2f}" if microseconds < 100 else f"{microseconds:.0f}"


def write(path: str, report: Report) -> None:
    """Write a run as JSON."""
    content = {"format": FORMAT, **asdict(report)}
    for goal, judged in zip(content["goals"], report.goals, strict=True):
        goal["reached"] = judged.reached
    write_json(path, content)


def read(path: str) -> Report:
    """Read a run.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Report
        The run.

    Raises
    ------
    OSError
        The file is missing or cannot be read.
    ReportError
        The file was not written by ``write``.
    """
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ReportError(f"{path}: must be a run written by cregkit bench --json ({error!r})") from error
    return decoded(content, path)


def decoded(content: Any, path: str) -> Report:
    """Return the run that ``write`` wrote.

    Parameters
    ----------
    content
        What is in the file.
    path
        The file, for the message.

    Returns
    -------
    Report
        The run.

    Raises
    ------
    ReportError
        The content was not written by ``write``.
    """
    try:
        if content["format"] != FORMAT:
            raise ReportError(f"{path}: must have format {FORMAT}, got {content['format']}: measure again")
        rows = [_row(row) for row in content["rows"]]
        goals = [Goal(**{name: goal[name] for name in Goal.__dataclass_fields__}) for goal in content["goals"]]
        return Report(content["machine"], rows, goals, content["complete"])
    except (TypeError, KeyError) as error:
        raise ReportError(f"{path}: must be a run written by cregkit bench --json ({error!r})") from error


def _row(content: dict[str, Any]) -> Row:
    times = {name: Measurement(**fields) for name, fields in content["times"].items()}
    return Row(content["case"], tuple(content["shape"]), content["n_bytes"], times, content["void"])


def require_same_machine(path: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise if a run comes from another machine or setting.

    Parameters
    ----------
    path
        File of the older run, for the message.
    old, new
        Machines of the older and of the present run.

    Raises
    ------
    ReportError
        Processor, instruction set or number of threads differ.
    """
    differences = [
        f"{name} was {old.get(name)!r}, is {new[name]!r}" for name in SAME_MACHINE if old.get(name) != new[name]
    ]
    if differences:
        raise ReportError(f"{path}: must be from the same machine and settings: {'; '.join(differences)}")


@dataclass(frozen=True)
class Change:
    """The change of an op's time from an old to a new run, relative to the fastest copy, and its noise."""

    case: str
    shape: tuple[int, ...]
    contestant: str
    factor: float
    noise: float
    best_factor: float
    """The same factor from the best sample of the new run and the median of the old one."""

    @property
    def slower(self) -> bool:
        """Whether the op is slower beyond the noise, and its best sample is slower than the old median."""
        # The second condition is for machines that delay most calls by milliseconds, which the noise does not show.
        return self.factor > 1.0 + max(LEAST_CHANGE, NOISE_LIMIT * self.noise) and self.best_factor > 1.0


def compare(old: Sequence[Row], new: Sequence[Row]) -> list[Change]:
    """Compare the cells that both runs measured, relative to the fastest copy in their rows."""
    # Times drift between runs; relative times do not. The noise is the standard deviation of the quotient of both runs,
    # from the noise of the four times.
    before = {(row.case, row.shape): row for row in old}
    changes = []
    for row in new:
        earlier = before.get((row.case, row.shape))
        if earlier is None:
            continue
        for name in (OURS, OURS_OUT):
            if name in row.times and name in earlier.times and row.copy and earlier.copy:
                spreads = (r.times[n].noise for r in (row, earlier) for n in (name, r.copy))
                factor = earlier.share(name) / row.share(name)
                best = row.times[name].best / earlier.times[name].median
                best_factor = best * earlier.seconds(earlier.copy) / row.seconds(row.copy)
                changes.append(Change(row.case, row.shape, name, factor, math.hypot(*spreads), best_factor))
    return changes
