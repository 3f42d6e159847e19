"""bench/instructions.py: it counts every instruction, and a count above the stored one fails."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from dataclasses import replace

import pytest
from support import bench_script

from cregkit.kernels import _runtime

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="single steps as of x86-64 Linux"
)

OP = "l2_gradient"
LOOP = """
void loop(void) { __asm__ volatile("mov $1000, %%ecx\\n1: dec %%ecx\\n jnz 1b" ::: "ecx", "cc"); }
void fill(char *p) { long n = 64; __asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(0) : "memory"); }
"""

instructions = bench_script("instructions")


@pytest.fixture(scope="module")
def found():
    return instructions.measure([OP])


@pytest.fixture
def stored(found, monkeypatch, tmp_path):
    """Take this measurement for every run, and store it."""
    monkeypatch.setattr(instructions, "measure", lambda names: found)
    monkeypatch.setattr(instructions, "STORED", tmp_path / "instructions.json")
    assert instructions.main(["--store"]) == 0
    return found


def scaled(parts, factor):
    """Return parts whose counts are multiplied."""
    return {
        name: replace(part, instructions={op: round(factor * n) for op, n in part.instructions.items()})
        for name, part in parts.items()
    }


def test_every_instruction_counts_once(tmp_path):
    source, library = tmp_path / "loop.c", tmp_path / "loop.so"
    source.write_text(LOOP)
    subprocess.run(
        ["cc", "-O2", "-fcf-protection=none", "-shared", "-fPIC", "-o", str(library), str(source)], check=True
    )
    loaded = ctypes.CDLL(str(library))
    counter = instructions.Counter(str(library))
    assert counter(loaded.loop).inside == 1 + 2 * 1000 + 1
    buffer = ctypes.create_string_buffer(b"x" * 64)
    loaded.fill.argtypes = [ctypes.c_char_p]
    steps = counter(lambda: loaded.fill(buffer))
    assert buffer.raw == bytes(65)
    assert steps.inside < 10, "a repeated string instruction counts once"


def test_a_call_that_fails_raises_its_own_error():
    with pytest.raises(ZeroDivisionError):
        instructions.Counter(_runtime.__file__)(lambda: 1 // 0)


def test_kernels_have_the_same_count_again(found):
    again = instructions.measure([OP])
    isas = _runtime.available_isas()
    assert [found[isa] for isa in isas] == [again[isa] for isa in isas]
    assert found.keys() == {*isas, instructions.CALL}


def test_every_op_of_the_table_has_a_stored_count_of_each_part():
    for part in instructions.load().values():
        assert part.instructions.keys() == instructions.CASE_OF.keys()


def test_equal_counts_pass(stored, capsys):
    assert instructions.main([]) == 0
    assert capsys.readouterr().out.endswith(f"\n{len(stored)} counts judged, 0 failed\n")


@pytest.mark.parametrize("part", [*_runtime.available_isas(), instructions.CALL])
def test_a_count_above_the_tolerance_fails(stored, monkeypatch, capsys, part):
    slower = stored | scaled({part: stored[part]}, 1.03)
    monkeypatch.setattr(instructions, "measure", lambda names: slower)
    assert instructions.main([]) == 1
    failures = capsys.readouterr().out.partition("-- failed: more than 2%")[2].splitlines()
    assert failures[1].split()[:2] == [OP, part]
    assert failures[2:] == [f"{len(stored)} counts judged, 1 failed"]


def test_a_lower_count_passes_and_asks_to_be_stored(stored, monkeypatch, capsys):
    monkeypatch.setattr(instructions, "measure", lambda names: scaled(stored, 0.97))
    assert instructions.main([]) == 0
    assert "below the stored count; --store" in capsys.readouterr().out


def test_an_op_without_a_stored_count_fails(stored, monkeypatch, capsys):
    new = {name: replace(part, instructions={"dropout": 1000}) for name, part in stored.items()}
    monkeypatch.setattr(instructions, "measure", lambda names: new)
    assert instructions.main([]) == 1
    assert capsys.readouterr().out.endswith(f"{len(stored)} counts judged, {len(stored)} failed\n")


def test_counts_of_another_compiler_are_not_judged(stored, monkeypatch, capsys):
    other = {name: replace(part, built_with="GCC: 99") for name, part in scaled(stored, 2).items()}
    monkeypatch.setattr(instructions, "measure", lambda names: other)
    assert instructions.main([]) == 0
    said = capsys.readouterr().out
    assert f"scalar: not judged: built with GCC: 99; the stored counts with {stored['scalar'].built_with}\n" in said
    assert said.endswith("0 counts judged, 0 failed\n")


def test_stored_counts_of_an_instruction_set_that_this_cpu_lacks_stay(stored, monkeypatch, capsys):
    fewer = {name: part for name, part in stored.items() if name != "scalar"}
    monkeypatch.setattr(instructions, "measure", lambda names: fewer)
    assert instructions.main([]) == 0
    assert "scalar: not judged: not counted on this CPU\n" in capsys.readouterr().out
    assert instructions.main(["--store"]) == 0
    assert instructions.load() == stored


def test_an_unknown_op_is_an_error(capsys):
    with pytest.raises(SystemExit):
        instructions.main(["--only", "no_such_op"])
    assert "--only must be an op of cregkit.functional, got 'no_such_op'" in capsys.readouterr().err
