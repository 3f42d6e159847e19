"""The kernel table without Python: build.py builds and runs its driver, here on a few lengths."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import build

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="protects memory with mprotect")


def needs(name: str) -> pytest.MarkDecorator:
    missing = build.missing_tools(build.VARIANTS[name])
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All of csrc/, compiled once."""
    return build.compile_kernels(build.VARIANTS["plain"], tmp_path_factory.mktemp("objects"))


@needs("plain")
def test_the_kernels_give_the_golden_bits_within_their_arrays(kernels: list[Path], tmp_path: Path) -> None:
    plain = build.VARIANTS["plain"]
    result = build.run_driver(plain, build.compile_driver(plain, tmp_path, kernels), "few")
    assert result.hashes == build.read_golden("few")
    assert "scalar" in result.tables
    assert result.trials > 5000


def test_the_driver_calls_every_kernel() -> None:
    listed = (build.CSRC / "kernels.def").read_text()
    kernels = re.findall(r"^CREG_(?:FLOAT32_)?KERNEL\(\w+, (\w+),", listed, re.MULTILINE)
    trials = (build.HERE / "trials.h").read_text()
    assert len(kernels) > 20
    assert [name for name in kernels if name != "isa" and not re.search(rf"(kernels|\bk)->{name}\b", trials)] == []


# Errors planted in a kernel, and how the driver must end: a fault, a changed sentinel or other bits.
FAULTS = {
    "a write past the end": ("y[n] = 1", "ended with (1|3|-6)\n"),
    "a write before the start": ("y[-1] = 1", "ended with (1|3|-6)\n"),
    "a read past the end": ("y[0] += 0 * ((const volatile STORED *)x)[n]", "ended with (1|3|-6)\n"),
    "a write to an input": ("((STORED *)x)[0] = x[0]", "ended with 3\n"),
    "bits that depend on the instruction set": ("y[0] += (STORED)rank", "ended with 1\n"),
    "bits that depend on streaming": ("y[0] += (STORED)stream", "ended with 1\n"),
}
OTHER_THAN_FLOAT32 = {"bits other than float32's": ("y[0] += 1", "ended with 1\n")}
STORED = {"float32": ("float", FAULTS), "float16": ("uint16_t", FAULTS | OTHER_THAN_FLOAT32)}


@needs("plain")
@pytest.mark.parametrize(("type_", "fault"), [(type_, fault) for type_ in STORED for fault in STORED[type_][1]])
def test_the_driver_sees_a_broken_kernel(
    type_: str, fault: str, kernels: list[Path], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("faults", 1)
    stored, faults = STORED[type_]
    statement, outcome = faults[fault]
    plain = build.VARIANTS["plain"]
    faulty = tmp_path / "faulty.o"
    defined = [f"-DTYPE=CREG_{type_.upper()}", f"-DSTORED={stored}", f"-DFAULT={statement}"]
    command = [plain.compiler, *build.FLAGS, *defined, "-c", str(build.HERE / "faulty.c"), "-o"]
    subprocess.run([*command, str(faulty)], check=True)
    program = build.compile_driver(plain, tmp_path, [*kernels, faulty], "-Dcreg_kernels_ranked=faulty_ranked")
    with pytest.raises(RuntimeError, match=outcome):
        build.run_driver(plain, program, "few", "dropout")
