"""The choice of threads for each call: its rules on simulated loops, and real calls of two threads on one CPU."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from support import needs_openmp, run_python

import build
import cregkit
from cregkit.kernels import _threads

SOURCE = build.HERE / "thread_choice.c"
SERIAL = 100_000  # nanoseconds of a simulated loop on one thread
STALL = 4_000_000  # a time slice

needs_gcc = pytest.mark.skipif(bool(build.missing_tools(build.VARIANTS["plain"])), reason="not installed: gcc")


class Loop(ctypes.Structure):
    """creg_loop."""

    _fields_ = [
        ("used", ctypes.c_int),
        *((name, ctypes.c_int64) for name in ("elements", "serial", "began", "ended")),
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """csrc/thread_choice.h, compiled."""
    shared = tmp_path_factory.mktemp("choice") / "choice.so"
    subprocess.run(["gcc", *build.FLAGS, "-Werror", "-O1", "-shared", "-fPIC", str(SOURCE), "-o", shared], check=True)
    loaded = ctypes.CDLL(str(shared))
    loaded.choose.argtypes = [ctypes.c_int64, ctypes.c_int]
    loaded.note_fewer.argtypes = [ctypes.c_int64, ctypes.c_int64]
    loaded.loops.restype = loaded.fewer.restype = ctypes.c_int64
    return loaded


@pytest.mark.parametrize("name", ["plain", "clang"])
def test_gcc_and_clang_compile_what_the_loops_and_the_pool_include(name: str, tmp_path: Path) -> None:
    variant = build.VARIANTS[name]
    if missing := build.missing_tools(variant):
        pytest.skip(f"not installed: {', '.join(missing)}")
    headers = ["-include", "platform.h", "-include", "float_mode.h"]
    command = [variant.compiler, *build.FLAGS, "-Wno-unused-function", "-Werror", *headers, "-c", str(SOURCE)]
    subprocess.run([*command, "-o", str(tmp_path / "choice.o")], check=True)


class Machine:
    """Simulates loops in sequence, each on as many threads as the library chooses."""

    def __init__(self, library: ctypes.CDLL, wanted: int = 2, serial: int = SERIAL) -> None:
        library.reset()
        self.library, self.wanted, self.serial = library, wanted, serial
        self.now = 10**12
        self.used: list[int] = []
        self.work = 0

    def loop(self, stall: int = 0, gap: int = 0) -> int:
        """A loop after a gap; on several threads, the last one ends `stall` nanoseconds after the others."""
        self.now += gap
        used = self.library.choose(self.serial, self.wanted)
        share = self.serial // used
        took = share + (stall if used > 1 else 0)
        if used > 1:
            loop = Loop(used, self.serial, self.serial, self.now, self.now + took)
            self.library.note_loop(ctypes.byref(loop))
        if used < self.wanted:
            self.library.note_fewer(self.serial, took)
        self.now += took
        self.work += took
        self.used.append(used)
        return used

    def runs(self) -> list[tuple[int, int]]:
        """Runs of calls on the same number of threads: that number and the length of the run."""
        return [(used, len(list(group))) for used, group in groupby(self.used)]


@needs_gcc
def test_undisturbed_calls_take_all_threads(library: ctypes.CDLL) -> None:
    machine = Machine(library)
    for _ in range(10_000):
        machine.loop(stall=1000)
    assert set(machine.used) == {2}
    assert (library.loops(), library.fewer()) == (10_000, 0)


@needs_gcc
@pytest.mark.parametrize("serial", [20_000, 100_000, 2_000_000])
def test_a_rare_stall_sends_eight_calls_to_one_thread(library: ctypes.CDLL, serial: int) -> None:
    machine = Machine(library, serial=serial)
    for i in range(100_000_000 * 40 // serial):
        machine.loop(stall=STALL if i % (2 * 10**9 // serial) == 100 else 0)
    pauses = [length for used, length in machine.runs() if used == 1]
    assert 1 <= len(pauses) <= 2
    assert all(length == 8 for length in pauses)


@needs_gcc
@pytest.mark.parametrize(
    ("serial", "good"),
    [
        (serial, good)
        for serial in (20_000, 100_000, 1_000_000)
        for good in (0, 1, 30)
        if good * serial // 2 < STALL  # what the good loops gain
    ],
)
def test_contention_sends_calls_to_one_thread(library: ctypes.CDLL, serial: int, good: int) -> None:
    machine = Machine(library, serial=serial)
    on_two = 0
    while machine.now < 10**12 + 10 * 10**9:
        on_two += machine.loop(stall=STALL if on_two % (good + 1) == good else 0) == 2
    pauses = [length for used, length in machine.runs() if used == 1]
    longest = 10**9 // serial
    assert pauses[:-1] == [min(longest, 8 * 4**k) for k in range(len(pauses) - 1)]
    assert pauses[-2] == longest
    assert machine.work / len(machine.used) < 1.1 * serial
    assert machine.used.count(2) < 0.01 * len(machine.used) * (good + 2)


@needs_gcc
@pytest.mark.parametrize(("serial", "stall", "good"), [(20_000, 1_000_000, 200), (1_000_000, STALL, 30)])
def test_stalls_that_gains_cover_send_few_calls_to_one_thread(
    library: ctypes.CDLL, serial: int, stall: int, good: int
) -> None:
    machine = Machine(library, serial=serial)
    on_two = 0
    while machine.now < 10**12 + 10 * 10**9:
        on_two += machine.loop(stall=stall if on_two % (good + 1) == good else 0) == 2
    assert {length for used, length in machine.runs() if used == 1} == {8}
    assert machine.work / len(machine.used) < 0.85 * serial


@needs_gcc
def test_all_threads_are_taken_again_when_contention_ends(library: ctypes.CDLL) -> None:
    machine = Machine(library)
    while machine.now < 10**12 + 5 * 10**9:
        machine.loop(stall=STALL)
    end = machine.work
    while machine.loop() < 2:
        assert machine.work < end + 10**9 + SERIAL
    assert {machine.loop() for _ in range(10_000)} == {2}


@needs_gcc
def test_forgotten_losses_give_all_threads(library: ctypes.CDLL) -> None:
    machine = Machine(library)
    while machine.now < 10**12 + 5 * 10**9:
        machine.loop(stall=STALL)
    assert machine.loop() == 1
    library.forget_losses()
    assert {machine.loop() for _ in range(1000)} == {2}


@needs_gcc
def test_many_small_losses_send_calls_to_one_thread(library: ctypes.CDLL) -> None:
    machine = Machine(library, serial=20_000)
    for _ in range(10_000):
        machine.loop(stall=30_000)
    assert machine.used.count(2) < 0.02 * len(machine.used)


@needs_gcc
def test_rare_calls_that_lose_by_waking_threads_go_to_one_thread(library: ctypes.CDLL) -> None:
    rare = Machine(library)
    for _ in range(5000):
        rare.loop(stall=STALL, gap=10_000_000)
    assert rare.used.count(2) < 0.01 * len(rare.used)


@needs_gcc
def test_bursts_of_calls_pay_for_waking_threads(library: ctypes.CDLL) -> None:
    bursts = Machine(library)
    for i in range(5000):
        bursts.loop(**({"stall": STALL, "gap": 10_000_000} if i % 200 == 0 else {}))
    assert set(bursts.used) == {2}


@needs_gcc
def test_loops_of_each_size_choose_for_themselves(library: ctypes.CDLL) -> None:
    small, large = Machine(library, serial=20_000), Machine(library, serial=2_000_000)
    for _ in range(1000):
        large.now = small.now
        small.loop(stall=60_000, gap=5_000_000)
        large.now = small.now
        large.loop()
        small.now = large.now
    assert set(large.used) == {2}
    assert small.used.count(1) > 900


@needs_gcc
def test_a_lost_time_slice_does_not_matter_to_a_long_loop(library: ctypes.CDLL) -> None:
    machine = Machine(library, serial=100_000_000)
    for _ in range(100):
        machine.loop(stall=STALL)
    assert set(machine.used) == {2}


@needs_gcc
def test_pauses_that_end_together_leave_a_valid_number_of_threads(library: ctypes.CDLL) -> None:
    machine = Machine(library, wanted=4096)
    while machine.loop(stall=STALL) > 1:
        pass
    for _ in range(200):
        library.note_fewer(machine.serial, 10**10)
        assert 1 <= library.choose(machine.serial, 4096) <= 4096


@needs_gcc
def test_the_stall_of_creating_threads_does_not_end_a_trial(library: ctypes.CDLL) -> None:
    machine = Machine(library, wanted=16, serial=1_600_000)
    machine.loop()
    machine.loop(stall=STALL)
    assert machine.loop() == 8
    for _ in range(2000):
        creates = library.choose(machine.serial, 16) > machine.used[-1]
        machine.loop(stall=600_000 if creates else 0)
    assert machine.runs() == [(16, 2), (8, 8), (16, 1993)]


@needs_gcc
def test_contention_halves_the_threads_and_its_end_doubles_them(library: ctypes.CDLL) -> None:
    machine = Machine(library, wanted=16, serial=1_600_000)
    while machine.now < 10**12 + 10 * 10**9:
        machine.loop(stall=0 if machine.library.choose(machine.serial, 16) <= 8 else STALL)
    assert machine.used.count(8) > 0.98 * len(machine.used)
    for _ in range(20_000):
        machine.loop()
    assert machine.used[-1] == 16


@needs_gcc
def test_a_call_that_wants_fewer_threads_than_allowed_gets_them(library: ctypes.CDLL) -> None:
    machine = Machine(library, wanted=16)
    machine.loop()
    for _ in range(2):
        machine.loop(stall=STALL)
    assert machine.used[-1] == 8
    machine.wanted = 4
    assert {machine.loop() for _ in range(100)} == {4}


@needs_gcc
@pytest.mark.skipif(sys.platform != "linux", reason="gcc has ThreadSanitizer on Linux")
def test_concurrent_choices_have_no_data_race(tmp_path: Path) -> None:
    program = tmp_path / "choice"
    flags = ["-Werror", "-O1", "-g1", "-fsanitize=thread", "-pthread"]
    subprocess.run(["gcc", *build.FLAGS, *flags, str(SOURCE), "-o", program], check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("800000 loops")


ONE_CPU = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np, cregkit
from cregkit.kernels import _threads

cregkit.set_num_threads(2)
x = np.random.default_rng(0).standard_normal((256, 512), dtype=np.float32)
with cregkit.num_threads(1):
    wanted = cregkit.layer_norm(x).tobytes()
for _ in range(2000):
    assert cregkit.layer_norm(x).tobytes() == wanted
choice = cregkit.show_config()["thread_choice"]
assert choice["loops"] == 2000 and choice["fewer"] > 500, choice
assert choice["because"].startswith(("a loop on 2 threads took", "waking threads cost")), choice
assert choice["now"] in ({}, {131072: 1}), choice
with _threads.exact_threads(2):
    assert cregkit.layer_norm(x).tobytes() == wanted
assert cregkit.show_config()["thread_choice"]["loops"] == 2000
"""


@needs_openmp
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_calls_on_two_threads_that_share_a_cpu_go_to_one_thread() -> None:
    result = run_python("-c", ONE_CPU)
    assert result.returncode == 0, result.stderr + result.stdout


@needs_openmp
def test_show_config_counts_loops() -> None:
    x = np.zeros((512, 512), np.float32)
    before = cregkit.show_config()["thread_choice"]
    with cregkit.num_threads(2):
        cregkit.layer_norm(x)
    after = cregkit.show_config()["thread_choice"]
    assert after["loops"] == before["loops"] + 1
    assert 0 <= after["fewer"] - before["fewer"] <= 1
    with cregkit.num_threads(1):
        cregkit.layer_norm(x)
        assert cregkit.show_config()["thread_choice"]["now"] == {}
    assert cregkit.show_config()["thread_choice"]["loops"] == after["loops"]


@pytest.mark.parametrize("inner", [False, True])
def test_exact_threads_are_not_counted_by_the_choice(inner: bool) -> None:
    x = np.zeros((512, 512), np.float32)
    before = cregkit.show_config()["thread_choice"]["loops"]
    with _threads.exact_threads(2), cregkit.num_threads(2) if inner else nullcontext():
        for _ in range(10):
            cregkit.layer_norm(x)
    assert cregkit.show_config()["thread_choice"]["loops"] == before


WIDE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np, cregkit

cregkit.set_num_threads(2)
x = np.random.default_rng(0).standard_normal((1, 200_000), dtype=np.float32)
for _ in range(50):
    cregkit.layer_norm(x)
assert cregkit.show_config()["thread_choice"]["loops"] == 100
"""


@needs_openmp
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_a_wide_row_is_split_whatever_was_chosen() -> None:
    result = run_python("-c", WIDE)
    assert result.returncode == 0, result.stderr
