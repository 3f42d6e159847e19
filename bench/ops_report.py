"""The report of single ops, from the runs of ``bench_suite.py``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from record import Section, machine_in_short
from report_table import table as markdown
from report_table import tuning_link

from cregkit.benchmark import report
from cregkit.benchmark.goals import LIMITS, Goal
from cregkit.benchmark.peers import PEER_NAMES, PEERS, Oracle, Unfused
from cregkit.benchmark.report import Report
from cregkit.benchmark.suite import OURS, OURS_OUT, PROMISED, Row
from cregkit.verify.shapes import LADDER, TIMED_GROUPS, TIMED_INSTANCES, TIMED_PLANES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = {*LADDER, *TIMED_PLANES.quick, *TIMED_GROUPS.quick, *TIMED_INSTANCES.quick, (10_000_000,)}
"""The shapes of the table of times: the others are in the run."""
FORMS = (("layer_norm", "rms_norm"), ("layer_norm_forward", "rms_norm_forward"))
HEADLINES = (
    ("LayerNorm", "layer_norm", (4096, 1024)),
    ("LayerNorm, backward", "layer_norm_backward", (4096, 1024)),
    ("RMSNorm", "rms_norm", (4096, 1024)),
    ("BatchNorm, training forward", "batch_norm_forward[N, C, ...]", (32, 64, 56, 56)),
    ("dropout", "dropout", (4096, 1024)),
    ("AdamW step", "adamw_step[decoupled]", (10_000_000,)),
)
"""The README's rows: name, case and shape."""
LIBRARIES = [peer.name for peer in PEERS if peer not in (Unfused, Oracle)]
"""The peers that others wrote."""


def tuned(section: Section) -> Report:
    """The run of the shapes that the kernels were tuned on."""
    return report.decoded(section["figures"]["tuned"], "the section of ops")


def table(section: Section) -> str:
    """The targets and what was measured, the main ops by size, and how RMS norm compares with layer norm."""
    run, held_out = tuned(section), report.decoded(section["figures"]["held out"], "the section of ops")
    peers = ", ".join(f"{name} {version}" for name, version in run.machine["peers"].items())
    wide = [row for row in run.rows if row.case in PROMISED and row.shape in SHOWN]
    narrow = [row for row in run.rows if row.is_16_bit and row.shape in SHOWN]
    return f"""\
[cregkit/benchmark](../cregkit/benchmark/README.md) describes how the times are measured. Most targets are judged by
their worst cell (an op at one shape), which a column names. Nothing was tuned on the held-out shapes. Peers are other
libraries; `unfused` is cregkit's own ops, one after another. Peers: {peers}.

What bounds an op that misses its target stands in the last column; the section of TUNING.md names the CPU on which that
was measured.

### Targets

{markdown(("target", "against", "limit", "measured", "held-out shapes", "verdict", "worst cell", "bound by"),
          _targets(run.goals, held_out.goals))}

### Times

Times are lower quartiles in microseconds. The ratio is the speed-up over the best peer. "of copy" is the bandwidth as a
fraction of the bandwidth of the fastest copy of as many bytes.

{markdown(report.HEADERS, map(report.cells, wide))}

### 16-bit tensors

The last columns compare with the same op on float32 tensors, in the same run.

{markdown(report.HEADERS_16_BIT, map(report.cells_16_bit, narrow))}

### Layer norm against RMS norm

The speed-up of RMS norm over layer norm, with `out=`, by size.

{markdown(("ops", "shape", "MiB moved", "ratio"), _rms_against_layer(run.rows))}"""  # fmt: skip


def headline(section: Section) -> str:
    """The README's table: some ops beside the fastest other library."""
    rows = {(row.case, row.shape): row for row in tuned(section).rows}
    measured = [(name, rows[case, shape]) for name, case, shape in HEADLINES if (case, shape) in rows]
    cells = [_headline(name, row) for name, row in measured if row.best(LIBRARIES)]
    headers = ("op", "shape", "fastest other library", "its time", "cregkit", "speed-up")
    return f"""\
Single ops beside the fastest other library ({machine_in_short(section["circumstances"])}; `cregkit bench`):

{markdown(headers, cells)}"""


def picture(section: Section) -> Figure:
    """The fraction of the fastest copy's bandwidth, by size."""
    from cregkit.benchmark import plot

    return plot.figure(tuned(section))


def _headline(name: str, row: Row) -> list[str]:
    best = row.best(LIBRARIES)
    times = [f"{1e6 * row.seconds(who):.0f} us" for who in (best, OURS)]
    return [name, " x ".join(map(str, row.shape)), PEER_NAMES.get(best, best), *times, f"{row.ratio(best):.1f}x"]


def _targets(goals: Sequence[Goal], held_out: Sequence[Goal]) -> Iterator[list[str]]:
    others = {_same(goal): goal for goal in held_out}
    for goal in goals:
        if goal.reached is None:
            continue
        what, against, limit, measured, verdict, where = report.goal_cells(goal)
        held = report.goal_cells(others[_same(goal)])[3] if _same(goal) in others else "-"
        yield [what, against, limit, measured, held, verdict, where, "" if goal.reached else _bound(goal)]


def _same(goal: Goal) -> tuple[str, str]:
    """What identifies a goal in two runs: not the time that it is relative to, in brackets."""
    return goal.what, goal.against.split(" (")[0]


def _bound(goal: Goal) -> str:
    if goal.what not in LIMITS:
        return "not known"
    anchor, why = LIMITS[goal.what]
    return f"{why} ({tuning_link(anchor)})"


def _rms_against_layer(rows: Sequence[Row]) -> Iterator[list[str]]:
    by_cell = {(row.case, row.shape): row for row in rows}
    for layer, rms in FORMS:
        for shape in LADDER:
            a, b = by_cell.get((layer, shape)), by_cell.get((rms, shape))
            if a is not None and b is not None:
                mebibytes = 8 * math.prod(shape) / (1 << 20)
                ratio = a.seconds(OURS_OUT) / b.seconds(OURS_OUT)
                yield [f"{layer} / {rms}", "x".join(map(str, shape)), f"{mebibytes:.3g}", f"{ratio:.2f}"]
