"""Tests dropout's random numbers with TestU01, a library of statistical tests.

python tests/quality/run.py [SOURCE...] [--seeds SEED...] [--battery small|reversed|crush|big] [--tests NUMBER...]

A SOURCE is one of testu01.c, with its number behind a colon: ``words``, ``decisions:0.1``. Each statistic is a line of
results.txt. A test whose lines are there does not run again, so an interrupted run resumes. At the end, the table of
all results is printed and written into README.md. Needs gcc and TestU01, which CFLAGS and LDFLAGS help to find.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
RESULTS = HERE / "results.txt"
README = HERE / "README.md"
MARKS = "<!-- written by tests/quality/run.py -->\n", "<!-- end -->\n"

BATTERIES = {"small": 10, "reversed": 10, "crush": 96, "big": 106}
"""How many tests a battery has."""
SUSPICIOUS, FAILED = 1e-3, 1e-10


class Result(NamedTuple):
    """A line of results.txt; the first four fields say what ran."""

    battery: str
    source: str
    seed: str
    test: str
    p: str
    seconds: str
    name: str

    def outside(self, tail: float) -> bool:
        """Whether p is nearer to 0 or 1 than that."""
        return not tail <= float(self.p) <= 1 - tail


def read_results() -> list[Result]:
    """Every statistic so far."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return [Result(*line.split(" ", len(Result._fields) - 1)) for line in lines]


def append_results(results: list[Result]) -> None:
    """Write statistics to the end of results.txt."""
    with RESULTS.open("a") as file:
        file.writelines(" ".join(result) + "\n" for result in results)


def build(folder: str) -> Path:
    """Compile testu01.c."""
    program = Path(folder, "testu01")
    flags = ["-std=gnu11", "-O3", "-march=native", "-Wall", "-Wextra", "-Wno-unused-function", "-Werror"]
    libraries = ["-ltestu01", "-ltestu01probdist", "-ltestu01mylib", "-lm"]
    cflags, ldflags = (shlex.split(os.environ.get(name, "")) for name in ("CFLAGS", "LDFLAGS"))
    command = ["gcc", *flags, *cflags, HERE / "testu01.c", "-o", program, *ldflags, *libraries]
    subprocess.run(command, check=True)
    return program


def _cpu_seconds() -> float:
    """Return the CPU time of all child processes that have ended."""
    return os.times().children_user


def run_test(program: Path, battery: str, source: str, seed: int, test: int) -> list[Result]:
    """Run one test."""
    what = [battery, source, str(seed), str(test)]
    start = _cpu_seconds()
    command = [program, battery, str(test), str(seed), *source.split(":")]
    output = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    seconds = f"{_cpu_seconds() - start:.1f}"
    statistics = [line.split(" ", 1) for line in output.splitlines()]
    return [Result(*what, p, seconds, name) for p, name in statistics]


def table(results: list[Result]) -> str:
    """A row for each source, then the number of suspicious p-values to expect."""
    lines = [
        "| source | " + " | ".join(BATTERIES) + " | statistics | suspicious | failed | minutes |",
        "|---|" + "---:|" * (len(BATTERIES) + 4),
    ]
    for source in dict.fromkeys(result.source for result in results):
        row = [result for result in results if result.source == source]
        seconds = {result[:4]: float(result.seconds) for result in row}
        cells = [f"`{source}`"]
        for battery, tests in BATTERIES.items():
            seeds = [seed for ran, _, seed, _ in seconds if ran == battery]
            cells.append(f"{len(seeds)} of {tests * max(1, len(set(seeds)))}")
        suspicious, failed = (sum(result.outside(tail) for result in row) for tail in (SUSPICIOUS, FAILED))
        cells += [str(len(row)), str(suspicious), str(failed), f"{sum(seconds.values()) / 60:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    expected = f"By chance, {2 * SUSPICIOUS * len(results):.1f} of {len(results)} statistics are suspicious."
    return "\n".join([*lines, "", expected, ""])


def write_readme(text: str) -> None:
    """Put the table between the marks of README.md."""
    before, _, rest = README.read_text().partition(MARKS[0])
    README.write_text(before + MARKS[0] + text + MARKS[1] + rest.partition(MARKS[1])[2])


def main() -> None:
    """Run the tests on the command line, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="SOURCE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="default: 0")
    parser.add_argument("--battery", choices=BATTERIES, default="small", help="default: small")
    parser.add_argument("--tests", nargs="+", type=int, metavar="NUMBER", help="TestU01's numbers; default: all")
    asked = parser.parse_args()
    results = read_results()
    done = {result[:4] for result in results}
    tests = asked.tests or range(1, BATTERIES[asked.battery] + 1)
    with tempfile.TemporaryDirectory() as folder:
        program = build(folder)
        for source, seed, test in itertools.product(asked.sources, asked.seeds, tests):
            if (asked.battery, source, str(seed), str(test)) in done:
                continue
            new = run_test(program, asked.battery, source, seed, test)
            append_results(new)
            results += new
            for result in new:
                if result.outside(SUSPICIOUS):
                    print("suspicious:", *result, flush=True)
    print(table(results), end="")
    write_readme(table(results))


if __name__ == "__main__":
    main()
