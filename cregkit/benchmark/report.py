"""The numbers of a run: as tables, as a JSON file, and beside those of an older run."""

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
from cregkit.benchmark.suite import COPY, OURS, OURS_OUT, OURS_SERIAL, Row
from cregkit.benchmark.timing import Measurement

FORMAT = 1
NOISE_LIMIT = 3.0
"""How many standard deviations of both runs together are still noise."""
LEAST_CHANGE = 0.1
"""A smaller change than this is never reported: memory layout alone can make it."""
SAME_MACHINE = ("cpu", "isa", "threads")
"""What must agree for two runs to be compared."""


class ReportError(Exception):
    """A file that is not a run to compare with, told in one line."""


@dataclass(frozen=True)
class Report:
    """A run: the machine, what was measured, and what was judged. ``complete`` is false for one that was cut short."""

    machine: dict[str, Any]
    rows: list[Row]
    goals: list[Goal]
    complete: bool = True


def machine(peers: Sequence[Peer]) -> dict[str, Any]:
    """Describe where and when the run takes place."""
    return {
        **cregkit.show_config(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "peers": {peer.name: peer.version for peer in peers},
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def machine_line(described: dict[str, Any]) -> str:
    """Return the machine in a line."""
    peers = ", ".join(f"{name} {version}" for name, version in described["peers"].items()) or "none"
    threads = described["threads"]
    return (
        f"cregkit {described['version']} on {described['cpu']}: {described['isa']} code, {threads} "
        f"{'thread' if threads == 1 else 'threads'}, load {described['load']:.1f}; peers: {peers}"
    )


HEADERS = ("op", "shape", "ours us", "out= us", "best peer", "its us", "ratio", "of copy")


def cells(row: Row) -> list[str]:
    """Return the row's line of the table: times are lower quartiles, the share of the copy is that with ``out=``."""
    shape = "x".join(map(str, row.shape))
    if OURS in row.void:
        return [row.case, shape, "WRONG", "", "", "", "", ""]
    others = [name for name in row.times if name not in (OURS, OURS_OUT, OURS_SERIAL) and not name.startswith(COPY)]
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


def void_lines(rows: Sequence[Row]) -> list[str]:
    """Say who was not timed because of a wrong result."""
    return [
        f"VOID {name} in {row.case} {'x'.join(map(str, row.shape))}: {reason}"
        for row in rows
        for name, reason in row.void.items()
    ]


GOAL_HEADERS = ("promise", "against", "limit", "measured", "", "where")


def goal_cells(goal: Goal) -> list[str]:
    """Return the goal's line of the table; ``where`` is the worst cell."""
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
    """Write the run as JSON."""
    content = {"format": FORMAT, **asdict(report)}
    for goal, judged in zip(content["goals"], report.goals, strict=True):
        goal["reached"] = judged.reached
    write_json(path, content)


def read(path: str) -> Report:
    """Read a run.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ReportError: it is not what ``write`` wrote.
    """
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
            if content["format"] != FORMAT:
                raise ReportError(f"{path}: has format {content['format']}, this version reads {FORMAT}: measure again")
            rows = [_row(row) for row in content["rows"]]
            goals = [Goal(**{name: goal[name] for name in Goal.__dataclass_fields__}) for goal in content["goals"]]
            return Report(content["machine"], rows, goals, content["complete"])
        except (ValueError, TypeError, KeyError) as error:
            raise ReportError(f"{path}: not a run written by cregkit bench --json ({error!r})") from error


def _row(content: dict[str, Any]) -> Row:
    times = {name: Measurement(**fields) for name, fields in content["times"].items()}
    return Row(content["case"], tuple(content["shape"]), content["n_bytes"], times, content["void"])


def require_same_machine(path: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse to compare with a run from elsewhere.

    Raises:
        ReportError: processor, instruction set or number of threads differ.
    """
    differences = [
        f"{name} {old.get(name)!r} there, {new[name]!r} here" for name in SAME_MACHINE if old.get(name) != new[name]
    ]
    if differences:
        raise ReportError(f"{path}: taken on another machine or setting: {'; '.join(differences)}")


@dataclass(frozen=True)
class Change:
    """An op's time over the fastest copy's, new run over old, and what of it may be noise."""

    case: str
    shape: tuple[int, ...]
    contestant: str
    factor: float
    noise: float
    best_factor: float
    """The same for the best sample of the new run over the median of the old one."""

    @property
    def slower(self) -> bool:
        """Whether the op became slower beyond the noise, and even its best sample is slower than half the old ones.

        The second rule is for a machine that holds up most calls by milliseconds: spreads say little about that.
        """
        return self.factor > 1.0 + max(LEAST_CHANGE, NOISE_LIMIT * self.noise) and self.best_factor > 1.0


def compare(old: Sequence[Row], new: Sequence[Row]) -> list[Change]:
    """Compare what both runs measured.

    Times drift from run to run, so each is taken relative to the fastest copy in its row. The noise is the standard
    deviation of that quotient over both runs, from the spread of all four times.
    """
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
