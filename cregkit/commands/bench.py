"""``cregkit bench``: measure, print, write, compare."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any

import cregkit
from cregkit._files import check_writable
from cregkit.benchmark import report, suite
from cregkit.benchmark.goals import Goal, call_overhead, import_time, judge, wheel_size
from cregkit.benchmark.peers import PEERS, Peer
from cregkit.benchmark.report import Report, ReportError
from cregkit.commands.arguments import CommandError, duration
from cregkit.commands.console import NO_MATPLOTLIB, Console, can_draw
from cregkit.verify.cases import Case
from cregkit.verify.dtypes import DTYPES
from cregkit.verify.shapes import Shape

ROW_SECONDS, QUICK_ROW_SECONDS = 1.0, 0.1
QUICK_SECONDS = 48.0
"""Seconds after which a quick run starts no further row: on a busy machine the largest are omitted."""
TYPES = ("float32", "bfloat16", "float16")
SLOW_TO_START = ("torch.compile", "jax")
"""Peers that compile for seconds: a quick run omits them unless they are named."""

DESCRIPTION = """\
Time every op, interleaved with memory copies of the same size and with each installed peer: PyTorch, torch.compile,
ONNX Runtime, JAX, and the NumPy oracle at small sizes. Results are checked first; wrong ones are not timed. Print the
times (lower quartiles), the speed-up over the best peer, the fraction of the copy bandwidth, and whether the promised
speeds are reached. Takes a quarter of an hour, with --quick under a minute. --quick omits torch.compile and JAX, which
compile for seconds, unless they are named. Ctrl-C ends with the measurements so far.

The exit code is 1 if a result of cregkit is wrong or, with --compare, slower than in the older run beyond the noise.

examples:
  cregkit bench --quick
  cregkit bench --json new.json --png speed.png --compare old.json
  cregkit bench --held-out --peers torch,onnxruntime
  cregkit bench --dtypes bfloat16,float16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the lists of shapes and peers, and the files to write."""
    parser.add_argument("--quick", action="store_true", help="three shapes of each op, in under a minute")
    parser.add_argument("--held-out", action="store_true", help="the shapes that the kernels were not tuned on")
    parser.add_argument(
        "--dtypes",
        type=_names,
        default=["float32"],
        metavar="NAMES",
        help="the types of tensors: some of float32,bfloat16,float16 (default: float32); 16-bit rows are those of "
        "--quick's ops, and also time the op on float32",
    )
    parser.add_argument("--seconds", type=duration, help="to measure a row (default: 1; with --quick 0.1)")
    parser.add_argument(
        "--peers",
        type=_names,
        metavar="NAMES",
        help="some of torch,torch.compile,onnxruntime,jax,oracle (default: all installed)",
    )
    parser.add_argument("--json", metavar="FILE", help="write machine, times and verdicts to FILE")
    parser.add_argument("--png", metavar="FILE", help="plot the fraction of the copy bandwidth by size")
    parser.add_argument("--compare", metavar="OLD.json", help="report the ops that became slower since that run")
    parser.add_argument("--wheel", metavar="FILE", help="also judge the size of this wheel")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def run(options: argparse.Namespace) -> int:
    """Measure and print; return 0 if every result is correct and nothing is slower than in the older run.

    If the run ends early, the measurements so far are printed and written first.

    Parameters
    ----------
    options
        Parsed options.

    Returns
    -------
    int
        Exit code.

    Raises
    ------
    CommandError
        A peer or type is unknown or not installed, or the file to compare with is not a run of this machine.
    OSError
        A file cannot be read or written; detected before measuring if possible.
    """
    for path in filter(None, (options.json, options.png)):
        check_writable(path)
    peers = chosen(options.peers, options.quick)
    check_types(options.dtypes)
    about = report.machine(peers)
    old = _older_run(options.compare, about) if options.compare else None
    goals = [wheel_size(options.wheel)] if options.wheel else []

    console = Console()
    console.line(report.machine_line(about))
    if (about["load"] or 0.0) > about["cores"] / 2:
        console.line("other processes are running and disturb calls on several threads; repeat on an idle machine")
    rows: list[suite.Row] = []
    complete = False
    try:
        _measure(options, peers, console, rows, goals)
        complete = len(rows) == len(_plan(options))
    finally:
        done = Report(about, rows, [*judge(rows), *goals], complete)
        _print(done, console)
        _write(done, options, console)
    right = not any(suite.OURS in row.void for row in rows)
    return 0 if right and (old is None or _compare(old, done, console)) else 1


def _older_run(path: str, about: dict[str, Any]) -> Report:
    """Return the run in the file, taken on the machine described in ``about``."""
    try:
        old = report.read(path)
        report.require_same_machine(path, old.machine, about)
    except ReportError as error:
        raise CommandError(str(error)) from error
    return old


def chosen(names: Sequence[str] | None, quick: bool) -> list[Peer]:
    """Return the named peers, or for None those that are installed; raise CommandError for any other name."""
    known = {peer.name: peer for peer in PEERS}
    if names is None:
        names = [name for name, peer in known.items() if peer.available() and not (quick and name in SLOW_TO_START)]
    for name in names:
        if name not in known:
            raise CommandError(f"--peers: unknown peer {name!r}; there are {', '.join(known)}")
        if not known[name].available():
            raise CommandError(f"--peers: {name} is not installed; install it, or leave it out")
    n_threads = cregkit.get_num_threads()
    return [peer(n_threads) for name, peer in known.items() if name in names]


def check_types(names: Sequence[str]) -> None:
    """Raise CommandError for a type that is unknown or not installed."""
    for name in names:
        if name not in TYPES:
            raise CommandError(f"--dtypes: unknown type {name!r}; there are {', '.join(TYPES)}")
        if name not in (dtype.name for dtype in DTYPES):
            raise CommandError(
                "--dtypes: bfloat16 needs ml_dtypes; install it (pip install ml_dtypes), or leave it out"
            )


def _plan(options: argparse.Namespace) -> list[tuple[Case, Shape]]:
    return suite.plan(quick=options.quick, held_out=options.held_out, types=options.dtypes)


def _measure(
    options: argparse.Namespace, peers: Sequence[Peer], console: Console, rows: list[suite.Row], goals: list[Goal]
) -> None:
    """Append the measurements to ``rows`` and ``goals``."""
    planned = _plan(options)
    budget = options.seconds or (QUICK_ROW_SECONDS if options.quick else ROW_SECONDS)
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
    console.line(
        "Lower quartiles of the times in microseconds; ratio: speed-up over the best peer; of copy: fraction of the "
        "bandwidth of the fastest copy, with out= if the op has it"
    )
    if wide := [row for row in done.rows if not row.is_16_bit]:
        console.table("float32", report.HEADERS, list(map(report.cells, wide)))
    if narrow := [row for row in done.rows if row.is_16_bit]:
        console.table(
            "16 bits, and the speed-up over float32", report.HEADERS_16_BIT, list(map(report.cells_16_bit, narrow))
        )
    for line in report.void_lines(done.rows):
        console.line(line)
    console.line()
    console.table("Promises, and their worst cells", report.GOAL_HEADERS, list(map(report.goal_cells, done.goals)))
    if not done.complete:
        console.line("cut short: the tables show the measurements so far")


def _write(done: Report, options: argparse.Namespace, console: Console) -> None:
    if options.json:
        report.write(options.json, done)
        console.line(f"numbers {os.path.abspath(options.json)}")
    if options.png and can_draw():
        from cregkit.benchmark import plot

        plot.draw(options.png, done)
        console.line(f"picture {os.path.abspath(options.png)}")
    elif options.png:
        console.line(f"picture none: {NO_MATPLOTLIB}")


def _compare(old: Report, new: Report, console: Console) -> bool:
    """Print the times that became slower beyond the noise of the two runs; return whether there are none."""
    changes = report.compare(old.rows, new.rows)
    slower = [change for change in changes if change.slower]
    for change in sorted(slower, key=lambda change: -change.factor):
        shape = "x".join(map(str, change.shape))
        console.line(
            f"SLOWER {change.contestant} {change.case} {shape}: {change.factor:.2f} times the older run's time, "
            f"relative to the copy; noise {change.noise:.0%}"
        )
    console.line(f"{len(slower)} of {len(changes)} times became slower beyond the noise of the two runs")
    return not slower
