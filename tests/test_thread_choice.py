"""The choice of threads, call by call: its rules on simulated calls, and real calls on a CPU that two threads share."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from support import needs_openmp, run_python

import cregkit
from cregkit.kernels import _threads

sys.path.insert(0, str(Path(__file__).parent / "native"))

import build

SOURCE = build.HERE / "thread_choice.c"
SERIAL = 100_000  # nanoseconds of a simulated call on one thread
STALL = 4_000_000  # a time slice
TASKS = 64

needs_gcc = pytest.mark.skipif(bool(build.missing_tools(build.VARIANTS["plain"])), reason="not installed: gcc")


class Call(ctypes.Structure):
    """creg_call."""

    _fields_ = [("used", ctypes.c_int)] + [
        (name, ctypes.c_int64)
        for name in ("tasks", "first_tasks", "own_tasks", "began", "first_ended", "own_ended", "ended")
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """csrc/thread_choice.h, compiled."""
    shared = tmp_path_factory.mktemp("choice") / "choice.so"
    subprocess.run(["gcc", *build.FLAGS, "-Werror", "-O1", "-shared", "-fPIC", str(SOURCE), "-o", shared], check=True)
    loaded = ctypes.CDLL(str(shared))
    loaded.note_fewer.argtypes = [ctypes.c_int64]
    loaded.calls.restype = loaded.fewer.restype = ctypes.c_int64
    return loaded


class Machine:
    """Simulated calls, one after another, each on as many threads as the library chooses."""

    def __init__(self, library: ctypes.CDLL, wanted: int = 2, serial: int = SERIAL) -> None:
        library.reset()
        self.library, self.wanted, self.serial = library, wanted, serial
        self.now = 10**12
        self.used: list[int] = []
        self.work = 0

    def call(self, stall: int = 0, gap: int = 0) -> int:
        """A call after a gap, whose last thread is done so much later than the others, if it takes several."""
        self.now += gap
        used = self.library.choose(self.wanted)
        share = self.serial // used
        if used > 1:
            times = [self.now + share // 2, self.now + share, self.now + share + stall]
            self.note(Call(used, TASKS, TASKS // used // 2, TASKS // used, self.now, *times))
        if used < self.wanted:
            self.library.note_fewer(share + (stall if used > 1 else 0))
        self.now += share + (stall if used > 1 else 0)
        self.work += share + (stall if used > 1 else 0)
        self.used.append(used)
        return used

    def note(self, call: Call) -> None:
        """Tell the library of a call on several threads."""
        self.library.note_call(ctypes.byref(call))

    def runs(self) -> list[tuple[int, int]]:
        """Numbers of threads that calls took, and how many calls in a row."""
        return [(used, len(list(group))) for used, group in groupby(self.used)]


@needs_gcc
def test_calls_that_nothing_disturbs_take_all_threads(library: ctypes.CDLL) -> None:
    machine = Machine(library)
    for _ in range(10_000):
        machine.call(stall=1000)
    assert set(machine.used) == {2}
    assert (library.calls(), library.fewer()) == (10_000, 0)


@needs_gcc
@pytest.mark.parametrize("serial", [20_000, 100_000, 2_000_000])
def test_a_stall_now_and_then_costs_a_few_calls(library: ctypes.CDLL, serial: int) -> None:
    machine = Machine(library, serial=serial)
    for i in range(100_000_000 * 40 // serial):
        machine.call(stall=STALL if i % (2 * 10**9 // serial) == 100 else 0)
    pauses = [length for used, length in machine.runs() if used == 1]
    assert 1 <= len(pauses) <= 2
    assert all(length == 8 for length in pauses)


@needs_gcc
@pytest.mark.parametrize("serial", [20_000, 100_000, 1_000_000])
@pytest.mark.parametrize("good", [0, 1, 30])
def test_contention_sends_calls_to_one_thread(library: ctypes.CDLL, serial: int, good: int) -> None:
    machine = Machine(library, serial=serial)
    on_two = 0
    while machine.now < 10**12 + 10 * 10**9:
        on_two += machine.call(stall=STALL if on_two % (good + 1) == good else 0) == 2
    pauses = [length for used, length in machine.runs() if used == 1]
    longest = 10**9 // serial
    assert pauses[:-1] == [min(longest, 8 * 4**k) for k in range(len(pauses) - 1)]
    assert pauses[-2] == longest
    assert machine.work / len(machine.used) < 1.1 * serial
    assert machine.used.count(2) < 0.01 * len(machine.used) * (good + 2)


@needs_gcc
def test_when_contention_ends_all_threads_are_taken_again(library: ctypes.CDLL) -> None:
    machine = Machine(library)
    while machine.now < 10**12 + 5 * 10**9:
        machine.call(stall=STALL)
    end = machine.work
    while machine.call() < 2:
        assert machine.work < end + 10**9 + SERIAL
    assert {machine.call() for _ in range(10_000)} == {2}


@needs_gcc
def test_small_losses_add_up(library: ctypes.CDLL) -> None:
    machine = Machine(library, serial=20_000)
    for _ in range(10_000):
        machine.call(stall=30_000)
    assert machine.used.count(2) < 0.02 * len(machine.used)


@needs_gcc
def test_waking_threads_must_pay(library: ctypes.CDLL) -> None:
    rare = Machine(library)
    for _ in range(5000):
        rare.call(stall=STALL, gap=10_000_000)
    assert rare.used.count(2) < 0.01 * len(rare.used)

    bursts = Machine(library)
    for i in range(5000):
        bursts.call(**({"stall": STALL, "gap": 10_000_000} if i % 200 == 0 else {}))
    assert set(bursts.used) == {2}


@needs_gcc
@pytest.mark.parametrize("stopped", ["in its first tasks", "in its other tasks", "before its first task"])
def test_a_caller_that_is_stopped_itself_sees_the_loss(library: ctypes.CDLL, stopped: str) -> None:
    machine = Machine(library)
    machine.call()
    now = machine.now
    first = now + 25_000 + (STALL if stopped == "in its first tasks" else 0)
    own = first + 25_000 + (STALL if stopped == "in its other tasks" else 0)
    tasks = (0, 0) if stopped == "before its first task" else (TASKS // 4, TASKS // 2)
    machine.note(Call(2, TASKS, *tasks, now, first, own, own + STALL))
    assert machine.call() == 1


@needs_gcc
def test_many_threads_are_halved_and_doubled(library: ctypes.CDLL) -> None:
    machine = Machine(library, wanted=16, serial=1_600_000)
    while machine.now < 10**12 + 10 * 10**9:
        machine.call(stall=0 if machine.library.choose(16) <= 8 else STALL)
    assert machine.used.count(8) > 0.98 * len(machine.used)
    for _ in range(20_000):
        machine.call()
    assert machine.used[-1] == 16


@needs_gcc
def test_a_call_that_wants_fewer_threads_than_are_allowed_gets_them(library: ctypes.CDLL) -> None:
    machine = Machine(library, wanted=16)
    machine.call()
    for _ in range(2):
        machine.call(stall=STALL)
    assert machine.used[-1] == 8
    machine.wanted = 4
    assert {machine.call() for _ in range(100)} == {4}


@needs_gcc
@pytest.mark.skipif(sys.platform != "linux", reason="gcc has ThreadSanitizer on Linux")
def test_threads_choose_at_once(tmp_path: Path) -> None:
    program = tmp_path / "choice"
    flags = ["-Werror", "-O1", "-g1", "-fsanitize=thread", "-pthread"]
    subprocess.run(["gcc", *build.FLAGS, *flags, str(SOURCE), "-o", program], check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("800000 calls")


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
print(choice)
assert choice["calls"] == 2000 and choice["fewer"] > 1000, choice
assert "a call on 2 threads took" in choice["because"], choice
with _threads.exact_threads(2):
    assert cregkit.layer_norm(x).tobytes() == wanted
    assert cregkit.show_config()["thread_choice"]["threads"] == 2
assert cregkit.show_config()["thread_choice"]["calls"] == 2000
"""


@needs_openmp
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_two_threads_on_one_cpu_choose_one() -> None:
    result = run_python("-c", ONE_CPU)
    assert result.returncode == 0, result.stderr + result.stdout


@needs_openmp
def test_show_config_tells_the_choice() -> None:
    x = np.zeros((512, 512), np.float32)
    with cregkit.num_threads(1):
        assert cregkit.show_config()["thread_choice"]["threads"] == 1
        assert cregkit.show_config()["thread_choice"]["because"] == "calls may use one thread only"
    before = cregkit.show_config()["thread_choice"]
    with cregkit.num_threads(2):
        cregkit.layer_norm(x)
        assert 1 <= cregkit.show_config()["thread_choice"]["threads"] <= 2
    after = cregkit.show_config()["thread_choice"]
    assert after["calls"] == before["calls"] + 1
    assert 0 <= after["fewer"] - before["fewer"] <= 1


def test_exact_threads_are_taken_whatever_they_cost() -> None:
    x = np.zeros((512, 512), np.float32)
    before = cregkit.show_config()["thread_choice"]["calls"]
    with _threads.exact_threads(2):
        for _ in range(10):
            cregkit.layer_norm(x)
    assert cregkit.show_config()["thread_choice"]["calls"] == before
