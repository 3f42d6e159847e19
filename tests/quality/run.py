"""Tests dropout's random numbers with dieharder, a battery of statistical tests.

python tests/quality/run.py [SOURCE...] [--seeds SEED...] [--battery small|crush|big] [--tests NUMBER...]

A SOURCE is one of stream.c, with its number behind a colon: ``words``, ``decisions:0.1``. ``aes`` is dieharder's own
AES, to compare with. Each statistic is a line of results.txt. A test whose lines are there does not run again, so an
interrupted run resumes. At the end, the table of all results is printed and written into README.md.
Needs gcc, dieharder and scipy.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from scipy.stats import kstest

HERE = Path(__file__).parent
RESULTS = HERE / "results.txt"
README = HERE / "README.md"
MARKS = "<!-- written by tests/quality/run.py -->\n", "<!-- end -->\n"

BATTERIES = {"small": 0.1, "crush": 1, "big": 10}
"""How many samples a test takes, as a multiple of dieharder's default, which is 100 for most tests."""
ONCE = (0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 15, 16, 17, 100, 101, 204, 205, 206, 207, 208, 209)
PARAMETERS = {102: [16], 200: range(1, 13), 201: range(2, 6), 202: range(2, 6), 203: [0, 1, 3, 7, 15, 31]}
TESTS = [*((test, 0) for test in ONCE), *((test, n) for test, each in PARAMETERS.items() for n in each)]
"""dieharder's tests (-d), each with its parameter (-n), without those that it calls suspect (5-7) or unusable (14)."""
FIELDS = 8 + 32 + 64 + 128 + 65536
"""dieharder prints a statistic's name, size, number of samples and p-value, and then its samples."""
STATISTIC = re.compile(r"^ *(\w+), *(\d+), *\d+,.*\n((?:[#,].*\n)+)", re.MULTILINE)
SAMPLE = re.compile(r"^,([\d.]+),$", re.MULTILINE)
SUSPICIOUS, FAILED = 1e-3, 1e-10


class Result(NamedTuple):
    """A line of results.txt; the first five fields say what ran."""

    battery: str
    source: str
    seed: str
    test: str
    n: str
    name: str
    size: str
    samples: str
    p: str
    seconds: str

    def outside(self, tail: float) -> bool:
        """Whether p is nearer to 0 or 1 than that."""
        return not tail <= float(self.p) <= 1 - tail


def read_results() -> list[Result]:
    """Every statistic so far."""
    return [Result(*line.split()) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def append_results(results: list[Result]) -> None:
    """Write statistics to the end of results.txt."""
    with RESULTS.open("a") as file:
        file.writelines(" ".join(result) + "\n" for result in results)


def build(folder: str) -> Path:
    """Compile stream.c."""
    program = Path(folder, "stream")
    flags = ["-std=gnu11", "-O3", "-march=native", "-Wall", "-Wextra", "-Wno-psabi", "-Werror"]
    subprocess.run(["gcc", *flags, HERE / "stream.c", "-o", program, "-lm"], check=True)
    return program


def run_test(program: Path, battery: str, source: str, seed: int, test: int, n: int) -> list[Result]:
    """Run one test. Its samples are p-values; their own p-value is that of a Kolmogorov-Smirnov test.

    dieharder's Kolmogorov-Smirnov test is not used: for few samples, its p-values are too near to 1.
    """
    command = f"dieharder -d {test} -n {n} -m {BATTERIES[battery]} -D {FIELDS} -c ,"
    if source == "aes":
        command += f" -g 205 -S {seed + 1}"  # 0 would be a random seed
    else:
        command = f"{program} {seed} {source.replace(':', ' ')} | {command} -g 200"
    start = time.monotonic()
    output = subprocess.run(command, shell=True, check=True, text=True, stdout=subprocess.PIPE).stdout
    seconds = f"{time.monotonic() - start:.1f}"
    results = []
    for name, size, printed in STATISTIC.findall(output):
        samples = [float(sample) for sample in SAMPLE.findall(printed)]
        p = samples[0] if len(samples) == 1 else kstest(samples, "uniform").pvalue
        fields = (battery, source, seed, test, n, name, size, len(samples), f"{p:.10g}", seconds)
        results.append(Result(*map(str, fields)))
    if not results:
        raise RuntimeError(f"{command} printed no statistic: {output}")
    return results


def table(results: list[Result]) -> str:
    """A row for each battery and source, then the number of suspicious p-values to expect."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.battery, result.source].append(result)
    lines = [
        "| battery | source | seeds | tests | statistics | suspicious | failed | minutes |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for battery, source in sorted(groups, key=lambda key: list(BATTERIES).index(key[0])):
        group = groups[battery, source]
        seeds = {result.seed for result in group}
        seconds = {(result.seed, result.test, result.n): float(result.seconds) for result in group}
        suspicious, failed = (sum(result.outside(tail) for result in group) for tail in (SUSPICIOUS, FAILED))
        lines.append(
            f"| {battery} | `{source}` | {len(seeds)} | {len(seconds)} of {len(seeds) * len(TESTS)} | {len(group)} "
            f"| {suspicious} | {failed} | {sum(seconds.values()) / 60:.0f} |"
        )
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
    parser.add_argument("--tests", nargs="+", type=int, metavar="NUMBER", help="dieharder's numbers; default: all")
    asked = parser.parse_args()
    results = read_results()
    done = {result[:5] for result in results}
    with tempfile.TemporaryDirectory() as folder:
        program = build(folder)
        for source, seed, (test, n) in itertools.product(asked.sources, asked.seeds, TESTS):
            key = (asked.battery, source, str(seed), str(test), str(n))
            if key in done or (asked.tests and test not in asked.tests):
                continue
            new = run_test(program, asked.battery, source, seed, test, n)
            append_results(new)
            results += new
            for result in new:
                if result.outside(SUSPICIOUS):
                    print("suspicious:", *result, flush=True)
    print(table(results), end="")
    write_readme(table(results))


if __name__ == "__main__":
    main()
