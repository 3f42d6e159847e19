"""What ``cregkit bench`` runs: measure, print, write, compare."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import cregkit
from cregkit._files import check_writable
from cregkit.benchmark import report, suite
from cregkit.benchmark.goals import Goal, call_overhead, import_time, judge, wheel_size
from cregkit.benchmark.peers import PEERS, Peer
from cregkit.benchmark.report import Report
from cregkit.commands.console import Console

ROW_SECONDS, QUICK_ROW_SECONDS = 2.0, 0.1
QUICK_SECONDS = 48.0
"""When a quick run begins no further row: on a busy machine the largest are left out."""
SLOW_TO_START = ("torch.compile", "jax")
"""Peers that compile for seconds: left out of a quick run unless they are named."""


class PeerError(Exception):
    """A peer that is not known or not installed, told in one line."""


@dataclass(frozen=True)
class Options:
    """The options of ``cregkit bench``."""

    quick: bool = False
    held_out: bool = False
    peers: Sequence[str] | None = None
    """None: all that are installed."""
    json_path: str | None = None
    png_path: str | None = None
    compare_path: str | None = None
    wheel_path: str | None = None


def run(options: Options) -> bool:
    """Measure and print; return whether every result was right and nothing became slower than in the older run.

    Whatever ends the run early, what was measured so far is printed and written first.

    Raises:
        OSError: a file cannot be read or written; seen before the measuring begins where it can be.
        PeerError: a peer is not known or not installed.
        ReportError: the file to compare with is no run of this machine.
    """
    for path in filter(None, (options.json_path, options.png_path)):
        check_writable(path)
    old = report.read(options.compare_path) if options.compare_path else None
    goals = [wheel_size(options.wheel_path)] if options.wheel_path else []
    peers = chosen(options.peers, options.quick)
    about = report.machine(peers)
    if old is not None and options.compare_path:
        report.require_same_machine(options.compare_path, old.machine, about)

    console = Console()
    console.line(report.machine_line(about))
    if about["load"] > about["cores"] / 2:
        console.line(
            "other processes are at work here: they disturb calls on several threads most; repeat when it is quiet"
        )
    rows: list[suite.Row] = []
    complete = False
    try:
        _measure(options, peers, console, rows, goals)
        complete = len(rows) == len(suite.plan(quick=options.quick, held_out=options.held_out))
    finally:
        done = Report(about, rows, [*judge(rows), *goals], complete)
        _print(done, console)
        _write(done, options, console)
    right = not any(suite.OURS in row.void for row in rows)
    return right and (old is None or _compare(old, done, console))


def chosen(names: Sequence[str] | None, quick: bool) -> list[Peer]:
    """Return the peers that were asked for, or those that are installed.

    Raises:
        PeerError: a name is not known, or its package not installed.
    """
    known = {peer.name: peer for peer in PEERS}
    if names is None:
        names = [name for name, peer in known.items() if peer.available() and not (quick and name in SLOW_TO_START)]
    for name in names:
        if name not in known:
            raise PeerError(f"--peers: unknown peer {name!r}; there are {', '.join(known)}")
        if not known[name].available():
            raise PeerError(f"--peers: {name} is not installed; see CONTRIBUTING.md, or leave it out")
    n_threads = cregkit.get_num_threads()
    return [peer(n_threads) for name, peer in known.items() if name in names]


def _measure(
    options: Options, peers: Sequence[Peer], console: Console, rows: list[suite.Row], goals: list[Goal]
) -> None:
    """Append to ``rows`` and ``goals`` as they are measured."""
    planned = suite.plan(quick=options.quick, held_out=options.held_out)
    budget = QUICK_ROW_SECONDS if options.quick else ROW_SECONDS
    start = time.perf_counter()
    with console.progress(len(planned) + 1) as step:
        goals += [*call_overhead(budget), import_time()]
        step("calls and import")
        for case, shape in planned:
            if options.quick and time.perf_counter() - start > QUICK_SECONDS:
                break
            rows.append(suite.measure_row(case, shape, peers, cregkit.get_num_threads(), budget))
            step(case.name)


def _print(done: Report, console: Console) -> None:
    console.table(
        "Lower quartiles of the times in microseconds; ratio: best peer over ours; of copy: bandwidth over the fastest "
        "copy's, with out= where there is one",
        report.HEADERS,
        [report.cells(row) for row in done.rows],
    )
    for line in report.void_lines(done.rows):
        console.line(line)
    console.line()
    console.table(
        "What must be reached, and the worst cell", report.GOAL_HEADERS, list(map(report.goal_cells, done.goals))
    )
    if not done.complete:
        console.line("cut short: the tables show what was measured until then")


def _write(done: Report, options: Options, console: Console) -> None:
    if options.json_path:
        report.write(options.json_path, done)
        console.line(f"numbers {os.path.abspath(options.json_path)}")
    if options.png_path:
        try:
            from cregkit.benchmark import plot
        except ImportError:
            console.line('picture none: matplotlib is not installed; pip install "cregkit[lab]"')
            return
        plot.draw(options.png_path, done)
        console.line(f"picture {os.path.abspath(options.png_path)}")


def _compare(old: Report, new: Report, console: Console) -> bool:
    """Print what became slower beyond the noise of the two runs; return whether nothing did."""
    changes = report.compare(old.rows, new.rows)
    slower = [change for change in changes if change.slower]
    for change in sorted(slower, key=lambda change: -change.factor):
        shape = "x".join(map(str, change.shape))
        console.line(
            f"SLOWER {change.contestant} {change.case} {shape}: {change.factor:.2f} times as long against the copy as "
            f"in the older run, where noise is {change.noise:.0%}"
        )
    console.line(f"{len(slower)} of {len(changes)} times became slower beyond the noise of the two runs")
    return not slower
