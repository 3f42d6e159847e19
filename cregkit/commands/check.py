"""``cregkit check``: every op against the float64 oracle on this CPU."""

from __future__ import annotations

import argparse
from collections import defaultdict

from cregkit.commands.console import Console
from cregkit.kernels import _runtime
from cregkit.verify.cases import CASES
from cregkit.verify.dtypes import bfloat16
from cregkit.verify.parity import CheckResult, check, thread_counts

DESCRIPTION = """\
Run every op with every instruction set this CPU has, on one and on several threads, and compare with the float64
oracle. Print the largest error of each as a share of its tolerance (100% is the limit) and whether all of them gave the
same bits: for float16 and bfloat16 tensors, those of the float32 result, rounded. Exit code 1 if an error exceeds its
tolerance or bits differ. Takes about 20 seconds.

example:
  cregkit check
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add none."""


def run(options: argparse.Namespace) -> int:
    """Check everything and print the table of worst errors."""
    console = Console()
    of_case: dict[str, list[CheckResult]] = defaultdict(list)
    isas, threads = _runtime.available_isas(), thread_counts()
    with console.progress(len(CASES) * len(isas) * len(threads)) as step:
        for result in check(isas, threads):
            of_case[result.case].append(result)
            step(result.case)
    columns = [f"{isa} x{n}" for isa in isas for n in threads]
    rows = [[name, *(f"{result.worst:.1%}" for result in results), _bits(results)] for name, results in of_case.items()]
    console.table(
        "Largest error against the float64 oracle, as a share of the tolerance, by instruction set x threads",
        ["op", *columns, "bits"],
        rows,
    )
    failed = [result for results in of_case.values() for result in results if not result.passed]
    for result in failed:
        console.line(f"FAILED {result.case} on {result.isa} x{result.threads}: {_complaint(result)}")
    if bfloat16() is None:
        console.line("bfloat16 was not checked: ml_dtypes is not installed")
    n = sum(map(len, of_case.values()))
    console.line(f"{n - len(failed)} of {n} checks passed")
    return 1 if failed else 0


def _bits(results: list[CheckResult]) -> str:
    return "same" if all(result.same_bits for result in results) else "DIFFER"


def _complaint(result: CheckResult) -> str:
    if not result.worst <= 1.0:
        return f"{result.worst:.3g} times the tolerance at {result.where}"
    return "its bits differ from those of the first column, or from those of float32's result, rounded to 16 bits"
