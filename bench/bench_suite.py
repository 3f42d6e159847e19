"""Every op on all shapes and types: two runs of ``cregkit bench``, on the shapes that were tuned on and on others.

    python bench/bench_suite.py --record     # about forty minutes
    python bench/bench_suite.py --quick      # under two minutes, fewer shapes and samples

The runs take float32 and bfloat16 on the shapes that the kernels were tuned on, float32 on those held out. ``--record``
keeps the goals of both, which name their worst cells, and of the first run the rows of the ops whose speed is promised.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import add_option, circumstances, store

from cregkit import commands
from cregkit.benchmark.suite import PROMISED

TUNED, HELD_OUT = "tuned", "held out"
RUNS = {TUNED: ("--dtypes", "float32,bfloat16"), HELD_OUT: ("--held-out",)}

ROW = ("--seconds", "0.2")
"""The effort for a row, with which both runs take about forty minutes."""


def kept(run: dict[str, Any], with_rows: bool) -> dict[str, Any]:
    """What is kept of a run, to four significant digits."""
    rows = [row for row in run["rows"] if row["case"] in PROMISED or row["case"].endswith("float16]")]
    found: dict[str, Any] = rounded({**run, "rows": rows if with_rows else []})
    return found


def rounded(value: Any) -> Any:
    """The value with its floats to four significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Run, and keep both runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three shapes of each op")
    add_option(parser)
    arguments = parser.parse_args()
    before, figures = circumstances(), {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        for name, options in RUNS.items():
            effort = ("--quick",) if arguments.quick else ROW
            if code := commands.main(["bench", *options, *effort, "--json", str(path)]):
                sys.exit(code)
            figures[name] = kept(json.loads(path.read_text()), with_rows=name == TUNED)
    if arguments.record:
        store(arguments.record, "ops", before, figures)


if __name__ == "__main__":
    main()
