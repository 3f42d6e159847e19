"""Run every measurement but ``bench_models.py``, keep the figures, and write RESULTS.md and the pages from them.

    python bench/run_all.py                 # over an hour, on an idle machine
    python bench/run_all.py --record FILE   # a trial: where FILE is not in bench/results/, no page is written

A script that fails is named at the end; the others go on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import record
import render

BENCH = Path(__file__).parent
CONTENTION = "idle,busy-1,pytorch-1,cregkit-1"
SCRIPTS: tuple[tuple[int, str, tuple[str, ...]], ...] = (
    (40, "bench_suite.py", ()),
    (9, "bench_torch.py", ()),
    (1, "bench_torch.py", ("--overhead",)),
    (8, "bench_training.py", ()),
    (5, "bench_contention.py", ("--loads", CONTENTION, "--windows", "3", "--seconds", "0.5")),
    (3, "scaling.py", ("--quick",)),
    (1, "bench_augment.py", ()),
    (1, "bench_mpi.py", ()),
    (2, "bench_optimizer.py", ()),
    (3, "bench_estimators.py", ()),
)
"""Minutes on two cores, script and options."""


def run(path: Path) -> list[str]:
    """Run all scripts, which keep their figures in ``path``; return the commands that failed."""
    failed = []
    for minutes, script, options in SCRIPTS:
        command = " ".join([script, *options])
        print(f"\n== {command}, {minutes} minutes ==", flush=True)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, BENCH / script, *options, "--record", path], check=False)
        print(f"== {command}: exit code {done.returncode} after {(time.perf_counter() - start) / 60:.1f} minutes ==")
        if done.returncode:
            failed.append(command)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    record.add_option(parser)
    parser.set_defaults(record=record.file_of_today())
    path = parser.parse_args().record.absolute()
    failed = run(path)
    if path.parent == record.RESULTS.absolute():
        render.write()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
