"""The page bench/RESULTS.md, from runs of ``cregkit bench --json``.

``python -m cregkit.benchmark.markdown RUN.json [HELD_OUT.json] > bench/RESULTS.md`` writes it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence

from cregkit.benchmark import report
from cregkit.benchmark.report import Report
from cregkit.benchmark.suite import OURS_OUT, PROMISED, Row
from cregkit.verify.shapes import LADDER, TIMED_GROUPS, TIMED_INSTANCES, TIMED_PLANES

SHOWN = {*LADDER, *TIMED_PLANES.quick, *TIMED_GROUPS.quick, *TIMED_INSTANCES.quick, (10_000_000,)}
"""The shapes of the table of times: the others are in the run."""
HEAD = """\
# Results

<!-- written by python -m cregkit.benchmark.markdown: edit that, not this page -->
[cregkit/benchmark](../cregkit/benchmark/README.md) describes how the times are measured. `MISSED` marks a target of the
project that this CPU does not reach. Most targets are judged by their worst cell (an op at one shape), which the last
column names. Nothing was tuned on the held-out shapes. Peers are other libraries; `unfused` is cregkit's own ops, one
after another.
"""
FOOT = """\
![Fraction of the fastest copy's bandwidth, by size](performance.png)
"""
FORMS = (("layer_norm", "rms_norm"), ("layer_norm_forward", "rms_norm_forward"))


def page(tuned: Report, held_out: Report | None = None) -> str:
    """Return the targets and what was measured, the main ops by size, and how RMS norm compares with layer norm."""
    lines = [
        HEAD,
        f"{report.machine_line(tuned.machine)}; {tuned.machine['date']}.",
        "",
        "## Targets",
        "",
        *_targets(tuned, held_out),
        "",
        "## Times",
        "",
        "Times are lower quartiles in microseconds. The ratio is the speed-up over the best peer. The last",
        "column is the bandwidth as a fraction of the bandwidth of the fastest copy of as many bytes.",
        "",
        *_table(report.HEADERS, [report.cells(row) for row in tuned.rows if _is_shown(row)]),
        "",
        *_of_16_bits([row for row in tuned.rows if row.is_16_bit and row.shape in SHOWN]),
        "## Layer norm against RMS norm",
        "",
        *rms_against_layer(tuned.rows),
        "",
        FOOT,
    ]
    return "\n".join(lines)


def _is_shown(row: Row) -> bool:
    return row.case in PROMISED and row.shape in SHOWN


def _targets(tuned: Report, held_out: Report | None) -> Iterator[str]:
    others = {goal.what + goal.against.split(" (")[0]: goal for goal in held_out.goals} if held_out else {}
    rows = []
    for goal in tuned.goals:
        what, against, limit, measured, verdict, where = report.goal_cells(goal)
        if goal.reached is None:
            continue
        other = others.get(goal.what + goal.against.split(" (")[0])
        held = [] if held_out is None else [report.goal_cells(other)[3] if other else "-"]
        rows.append([what, against, limit, measured, *held, verdict, where])
    headers = ("target", "against", "limit", "measured", *(["held-out shapes"] if held_out else []), "", "worst cell")
    yield from _table(headers, rows)


def _of_16_bits(rows: Sequence[Row]) -> Iterator[str]:
    if rows:
        yield "## 16-bit tensors"
        yield ""
        yield "The last columns compare with the same op on float32 tensors, in the same run."
        yield ""
        yield from _table(report.HEADERS_16_BIT, [report.cells_16_bit(row) for row in rows])
        yield ""


def rms_against_layer(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table of RMS norm's speed-up over layer norm, by size."""
    by_cell = {(row.case, row.shape): row for row in rows}
    cells = []
    for layer, rms in FORMS:
        for shape in LADDER:
            a, b = by_cell.get((layer, shape)), by_cell.get((rms, shape))
            if a is not None and b is not None:
                mebibytes = 8 * math.prod(shape) / (1 << 20)
                ratio = a.seconds(OURS_OUT) / b.seconds(OURS_OUT)
                cells.append([f"{layer} / {rms}", "x".join(map(str, shape)), f"{mebibytes:.3g}", f"{ratio:.2f}"])
    yield "The speed-up of RMS norm over layer norm, with `out=`, by size."
    yield ""
    yield from _table(("ops", "shape", "MiB moved", "ratio"), cells)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(headers) + " |"
    yield "|" + "---|" * len(headers)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def main(paths: Sequence[str]) -> int:
    """Print the page made from one run, or from one run of each list of shapes."""
    if len(paths) not in (1, 2):
        print("usage: python -m cregkit.benchmark.markdown RUN.json [HELD_OUT.json]", file=sys.stderr)
        return 2
    try:
        print(page(*map(report.read, paths)), end="")
    except (OSError, report.ReportError) as error:
        print(f"cregkit.benchmark.markdown: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
