"""Tests every promise of reliability and prints a table: promise, inputs tried, faults injected, failures.

python tests/reliability/soak.py SECONDS

SECONDS is the time of the coverage-guided fuzzer. From 600 on, each random test has 10 000 examples, the C driver tries
all lengths, all tests run with sanitizers, and endurance.py makes a million calls. Below 600: 200 examples, a few
lengths, tests of the kernels alone, a tenth of the calls.
``--readme`` writes the table into tests/README.md, between its two marks. ``--for-ci`` leaves out the promises that
other stages of .ci/run test, with fewer examples.

Ends with 1 if anything failed. A promise that needs a missing tool is a failure, unless --without-tools.
"""

from __future__ import annotations

import argparse
import atexit
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "native"))

import build
from cregkit.kernels._runtime import available_isas, cpu_name

CALLS, REFUSED, LARGE = 1_000_000, 10_000, 1_000
THOROUGH = 600
ALL_LENGTHS = ("release", "avx512", "aarch64")
HERE = Path(__file__).parent
TESTS = HERE.parent
README = TESTS / "README.md"
MARKS = "<!-- written by tests/reliability/soak.py -->\n", "<!-- end -->\n"
SANITIZED = (
    "tests/ops/test_parity.py",
    "tests/ops/test_buffers.py",
    "tests/ops/test_dropout_add_norm.py",
    "tests/ops/test_containment.py",
    "tests/layers/test_layer_machine.py",
    "tests/reliability/test_fuzz.py",
)


@dataclass
class Tally:
    """The result of testing one promise."""

    inputs: int = 0
    faults: int = 0
    failures: int = 0
    missing: str = ""
    output: str = ""
    note: str = ""


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command that finds cregkit and the tests' own modules."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS / "helpers")])
    env = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=TESTS.parent)


def pytest(*arguments: str) -> Callable[[int], Tally]:
    """Run tests: each counts as one input, or as the number it recorded."""

    def tally(seconds: int) -> Tally:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder, "report.xml")
            profile = "nightly" if seconds >= THOROUGH else "thorough"
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-o",
                "junit_family=xunit1",
                "--hypothesis-show-statistics",
                f"--junit-xml={report}",
            ]
            done = run([*command, *arguments], HYPOTHESIS_PROFILE=profile)
            if not report.exists():
                return Tally(failures=1, output=done.stdout + done.stderr)
            return counted(ET.parse(report).getroot(), done)

    return tally


def counted(report: ET.Element, done: subprocess.CompletedProcess[str]) -> Tally:
    """Sums over a JUnit report, plus the examples of random tests that pytest printed."""
    tally = Tally(output=done.stdout if done.returncode else "")
    for case in report.iter("testcase"):
        if case.find("skipped") is not None:
            continue
        properties = {p.get("name"): int(p.get("value", "0")) for p in case.iter("property")}
        tally.faults += properties.get("faults", 0)
        tally.inputs += properties.get("inputs", properties.get("faults", 1))
        tally.failures += any(case.find(kind) is not None for kind in ("failure", "error"))
    examples = [int(n) for n in re.findall(r"(\d+) passing", done.stdout)]
    tally.inputs += sum(examples)
    tally.failures += done.returncode != 0 and tally.failures == 0
    return tally


@cache
def work() -> Path:
    """A folder for compiled files, deleted at the end."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name)


def driver(*variants: str, lengths: str = "few") -> Callable[[int], Tally]:
    """Run these variants of the C driver of the kernel table."""

    def tally(seconds: int) -> Tally:
        total = Tally()
        for name in variants:
            if missing := build.missing_tools(build.VARIANTS[name]):
                total.missing = ", ".join(missing)
                continue
            asked = "all" if seconds >= THOROUGH and name in ALL_LENGTHS else lengths
            try:
                total.inputs += build.check(name, asked, work()).trials
            except RuntimeError as error:
                total.failures += 1
                total.output += str(error)
        return total

    return tally


def libfuzzer(seconds: int) -> Tally:
    """Fuzz the kernels with libFuzzer, under AddressSanitizer and UBSan."""
    variant = build.VARIANTS["sanitized"]
    if missing := build.missing_tools(variant):
        return Tally(missing=", ".join(missing))
    with tempfile.TemporaryDirectory() as folder:
        objects = build.compile_kernels(variant, work())
        program = build.compile_driver(variant, Path(folder), objects, "-fsanitize=fuzzer", source="fuzz.c")
        limits = [f"-max_total_time={seconds}", "-max_len=32", "-print_final_stats=1"]
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        done = run([str(program), *limits, str(corpus)])
        found = re.search(r"number_of_executed_units: (\d+)", done.stderr)
        covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", done.stderr)
        note = "{} edges, {} features, {} inputs in the corpus".format(*covered[-1]) if covered else ""
        wrong = done.returncode != 0
        return Tally(int(found[1]) if found else 0, failures=int(wrong), output=done.stderr if wrong else "", note=note)


def guarded(seconds: int) -> Tally:
    """Run every op between protected pages."""
    done = run([sys.executable, str(HERE / "guarded.py"), "all" if seconds >= THOROUGH else "few"])
    wrong = done.returncode != 0
    return Tally(
        0 if wrong else int(done.stdout), failures=int(wrong), output=done.stdout + done.stderr if wrong else ""
    )


def sanitized(seconds: int) -> Tally:
    """Run the tests with extensions under AddressSanitizer and UBSan."""
    if missing := build.missing_tools(build.VARIANTS["sanitized"]):
        return Tally(missing=", ".join(missing))
    tests = [] if seconds >= THOROUGH else SANITIZED
    done = run([sys.executable, str(HERE / "sanitized.py"), *tests], HYPOTHESIS_PROFILE="local")
    planted, passed = (re.search(rf"(\d+) {what}", done.stdout) for what in ("planted", "passed"))
    failed = re.search(r"(\d+) (failed|error)", done.stdout)
    failures = int(failed[1]) if failed else int(done.returncode != 0)
    output = done.stdout + done.stderr if done.returncode else ""
    return Tally(int(passed[1]) if passed else 0, int(planted[1]) if planted else 0, failures, output=output)


def pythons(seconds: int) -> Tally:
    """Build, install and test the package with other Pythons."""
    done = run([sys.executable, str(HERE / "pythons.py"), *["all"] * (seconds >= THOROUGH)])
    versions = re.findall(r"^Python (\S+): (\d+) passed", done.stdout, re.MULTILINE)
    wrong = done.returncode != 0
    output = done.stdout + done.stderr if wrong else ""
    note = ", ".join(version for version, _ in versions)
    return Tally(sum(int(passed) for _, passed in versions), failures=int(wrong), output=output, note=note)


def endurance(seconds: int) -> Tally:
    """Make very many calls in one process, whose memory must not grow."""
    calls = [n if seconds >= THOROUGH else n // 10 for n in (CALLS, REFUSED, LARGE)]
    done = run([sys.executable, str(HERE / "endurance.py"), *map(str, calls)])
    wrong = done.returncode != 0
    return Tally(calls[0] + calls[2], calls[1], int(wrong), output=done.stdout + done.stderr if wrong else "")


OF_OTHER_STAGES: dict[str, Callable[[int], Tally]] = {
    "the C driver notices broken kernels": pytest("tests/native/test_native.py", "-k", "sees"),
    "access beside an array is detected": pytest("tests/reliability/test_guarded.py", "-k", "seen"),
    "no bit changes between releases": pytest("tests/ops/test_golden.py"),
    "any call is right or raises an error": pytest("tests/reliability/test_fuzz.py"),
    "layers work in any order of calls": pytest("tests/layers/test_layer_machine.py"),
    "errors name argument, value and fix": pytest(
        "tests/reliability/test_bad_calls.py", "tests/ops/test_buffers.py", "-k", "bad or refused"
    ),
    "damaged and hostile files": pytest("tests/reliability/test_untrusted_files.py"),
    "failed allocations, references": pytest("tests/reliability/test_resources.py", "-k", "alloc or reference"),
    "many Python threads": pytest(
        "tests/reliability/test_resources.py", "tests/ops/test_runtime.py", "-k", "threads or gil"
    ),
    "forks and worker processes": pytest(
        "tests/reliability/test_processes.py", "tests/ops/test_runtime.py", "-k", "not gil and not threads"
    ),
    "interrupts": pytest(
        "tests/commands", "tests/train", "tests/benchmark", "tests/lab", "tests/reliability", "-k", "interrupt or ctrl"
    ),
    "interrupted runs resume bit-identically": pytest("tests/train/test_checkpoint.py"),
    "every supported Python found": pythons,
}
OF_THIS_STAGE: dict[str, Callable[[int], Tally]] = {
    "kernels stay within their arrays": driver("release"),
    "no invalid memory, no undefined behaviour": driver("sanitized"),
    "no uninitialised read (valgrind)": driver("valgrind", lengths="smoke"),
    "no data race (ThreadSanitizer)": driver("threads", lengths="smoke"),
    "AArch64 gives the same bits (QEMU)": driver("aarch64"),
    "AVX-512 gives the same bits (SIMDe)": driver("avx512", lengths="smoke"),
    "ops stay within their arrays, from Python": guarded,
    "the tests under ASan and UBSan": sanitized,
    "coverage-guided fuzzing of the kernels": libfuzzer,
    "memory does not grow": endurance,
}


def write_readme(tallies: dict[str, Tally], command: str, seconds: float) -> None:
    """Write the table of a run between the marks of tests/README.md."""
    cpu, isas = cpu_name() or platform.machine(), ", ".join(available_isas())
    lines = [
        f"{date.today().isoformat()}, {cpu} ({isas}), {os.cpu_count()} processors, Python {platform.python_version()}:",
        f"`{command}`, {seconds / 60:.0f} minutes.",
        "",
        "| promise | inputs tried | faults injected | failures |",
        "|---|---:|---:|---:|",
    ]
    for promise, tally in tallies.items():
        note = f"; {tally.note}" * bool(tally.note) + f"; not tried without {tally.missing}" * bool(tally.missing)
        lines.append(f"| {promise}{note} | {tally.inputs:,} | {tally.faults:,} | {tally.failures} |")
    before, _, rest = README.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    README.write_text(before + MARKS[0] + "\n".join(lines) + "\n" + MARKS[1] + after)


def main() -> int:
    """Test every promise, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=int, metavar="SECONDS")
    parser.add_argument("--readme", action="store_true", help="write the table into tests/README.md")
    parser.add_argument("--for-ci", action="store_true", help="leave out what other stages of .ci/run test")
    parser.add_argument("--without-tools", action="store_true", help="a missing tool is no failure")
    asked = parser.parse_args()
    if asked.seconds < 1:
        parser.error(f"SECONDS must be at least 1, got {asked.seconds}")
    print(f"{'promise':42} {'inputs':>9} {'faults':>7} {'failures':>8} {'s':>5}", flush=True)
    start, wrong, tallies = time.monotonic(), 0, {}
    promises = OF_THIS_STAGE if asked.for_ci else {**OF_OTHER_STAGES, **OF_THIS_STAGE}
    for promise, test in promises.items():
        began = time.monotonic()
        tally = tallies[promise] = test(asked.seconds)
        note = f"  not installed: {tally.missing}" if tally.missing else f"  {tally.note}" * bool(tally.note)
        figures = f"{tally.inputs:9} {tally.faults:7} {tally.failures:8} {time.monotonic() - began:5.0f}"
        print(f"{promise:42} {figures}{note}", flush=True)
        print(tally.output, end="", file=sys.stderr)
        wrong += tally.failures + bool(tally.missing and not asked.without_tools)
    seconds = time.monotonic() - start
    print(f"done in {seconds:.0f} s")
    if asked.readme:
        write_readme(tallies, f"python tests/reliability/soak.py {asked.seconds}", seconds)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
