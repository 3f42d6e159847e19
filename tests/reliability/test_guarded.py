"""No op touches memory beside its arrays, called from Python; tests/native/ tests the same without Python."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ISAS, run_python

from cregkit.verify import cases
from cregkit.verify.dtypes import DTYPES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="protects memory with mprotect")
GUARDED = str(Path(__file__).parent / "guarded.py")


def test_no_op_touches_memory_beside_its_arrays(record_property: Callable[[str, object], None]) -> None:
    done = run_python(GUARDED, "few")
    assert done.returncode == 0, done.stderr
    record_property("inputs", int(done.stdout))
    # A plane of one value has no variance for running statistics, whatever its type.
    assert int(done.stdout) == 2 * len(ISAS) * (9 * len(cases.CASES) - len(DTYPES))


@pytest.mark.parametrize("shift", ["4", "-4"], ids=["past the end", "before the start"])
def test_touching_memory_beside_an_array_is_seen(shift: str, record_property: Callable[[str, object], None]) -> None:
    record_property("faults", 1)
    done = run_python(GUARDED, "few", shift)
    assert done.returncode != 0
    assert ("Fatal Python error: Segmentation fault" in done.stderr) or ("AddressSanitizer: SEGV" in done.stderr)
