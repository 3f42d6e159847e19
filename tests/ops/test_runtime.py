"""The choice of instruction set and threads, beside other Python threads, in other processes and after a fork."""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import itertools
import math
import os
import platform
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import ISAS, needs_openmp, run_python, several_ops

from cregkit import _fork, functional, rms_norm
from cregkit.kernels import _cpu, _runtime, _threads

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

# ---- instruction sets ----

SHOW_ISA = "from cregkit.kernels import _runtime; print(_runtime.current_isa())"


@pytest.mark.parametrize("isa", ISAS)
def test_cregkit_isa_chooses_the_isa(isa: str) -> None:
    for spelling in (isa, f" {isa.upper()} "):
        assert run_python("-c", SHOW_ISA, CREGKIT_ISA=spelling).stdout.split() == [isa]


@pytest.mark.parametrize("isa", ["sse9", "neon" if "neon" not in ISAS else "avx2"])
def test_an_isa_this_cpu_lacks_is_an_import_error(isa: str) -> None:
    done = run_python("-c", SHOW_ISA, CREGKIT_ISA=isa)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ImportError: ")
    assert all(word in message for word in ("CREGKIT_ISA", repr(isa), *ISAS))


def test_use_isa_refuses_an_unknown_isa_and_keeps_the_current_one() -> None:
    before = _runtime.current_isa()
    with pytest.raises(ValueError, match=r"isa must be one of .*scalar.*'sse9'"):
        _runtime.use_isa("sse9")
    assert _runtime.current_isa() == before


@linux
@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86 flags")
def test_the_best_isa_is_the_default() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split())
    wanted = ["avx512"] if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags else []
    wanted += ["avx2"] if "avx2" in flags else []
    assert list(ISAS) == [*wanted, "scalar"]
    assert run_python("-c", SHOW_ISA).stdout.split() == [ISAS[0]]
    assert run_python("-c", SHOW_ISA, CREGKIT_ISA="").stdout.split() == [ISAS[0]]


# ---- how many threads ----

SHOW_THREADS = "from cregkit.kernels import _threads; print(_threads.get_num_threads(), _threads.threads_origin())"


@needs_openmp
@pytest.mark.parametrize(("value", "threads"), [("3", "3"), ("5,2", "5"), (" 4 ", "4")])
def test_omp_num_threads_sets_the_number_of_threads(value: str, threads: str) -> None:
    assert run_python("-c", SHOW_THREADS, OMP_NUM_THREADS=value).stdout.split() == [threads, "OMP_NUM_THREADS"]


@needs_openmp
@pytest.mark.parametrize("value", ["", "0", "-2", "many", "\N{SUPERSCRIPT TWO}"])
def test_an_invalid_omp_num_threads_is_ignored(value: str) -> None:
    assert run_python("-c", SHOW_THREADS, OMP_NUM_THREADS=value).stdout == run_python("-c", SHOW_THREADS).stdout


@linux
@needs_openmp
def test_cpu_affinity_sets_the_default() -> None:
    one = f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}]); {SHOW_THREADS}"
    assert run_python("-c", one).stdout.split()[0] == "1"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1 = "sys/fs/cgroup/cpu"
CGROUPS = [
    ("no files at all", {}, 8),
    ("v2, no limit", {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
    ("v2, whole", {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
    ("v2, a part is one more", {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
    ("v2, at least one", {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1000 100000\n"}, 1),
    ("v2, beyond the affinity", {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 8),
    ("v2, own group", {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "200000 100000\n"}, 2),
    (
        "v2, a group above is tighter",
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/cpu.max": "700000 100000\n",
            "sys/fs/cgroup/a/cpu.max": "400000 100000\n",
        },
        4,
    ),
    ("v2, nonsense", {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "soon 0\n"}, 8),
    ("v1, no limit", {f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"}, 8),
    ("v1, whole", {f"{V1}/cpu.cfs_quota_us": "200000\n", f"{V1}/cpu.cfs_period_us": "100000\n"}, 2),
    (
        "v1, own group",
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/job\n",
            f"{V1},cpuacct/job/cpu.cfs_quota_us": "350000\n",
            f"{V1},cpuacct/job/cpu.cfs_period_us": "100000\n",
        },
        4,
    ),
    (
        "v1, a group above is tighter",
        {
            "proc/self/cgroup": "4:cpuacct,cpu:/a/b\n",
            f"{V1}/a/b/cpu.cfs_quota_us": "700000\n",
            f"{V1}/a/b/cpu.cfs_period_us": "100000\n",
            f"{V1}/a/cpu.cfs_quota_us": "300000\n",
            f"{V1}/a/cpu.cfs_period_us": "100000\n",
        },
        3,
    ),
    ("v1, period 0", {f"{V1}/cpu.cfs_quota_us": "200000\n", f"{V1}/cpu.cfs_period_us": "0\n"}, 8),
]


@pytest.mark.parametrize(("files", "cpus"), [case[1:] for case in CGROUPS], ids=[case[0] for case in CGROUPS])
def test_the_cgroup_quota_limits_the_cpus(
    files: dict[str, str], cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(_cpu, "affinity", lambda: 8)
    root = tree(tmp_path, files)
    assert _cpu.available_cpus(root) == (cpus, "CPU affinity" if cpus == 8 else "cgroup CPU quota")
    assert math.ceil(min(_cpu.cgroup_quota(root), 8)) == cpus
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert _cpu.available_cpus(root) == (6, "OMP_NUM_THREADS")


GROUPS = "sys/fs/cgroup"
MEMORY = [
    ("no files at all", {}, None),
    ("v2, no limit", {"proc/self/cgroup": "0::/\n", f"{GROUPS}/memory.max": "max\n"}, None),
    ("v2, more than there is", {"proc/self/cgroup": "0::/\n", f"{GROUPS}/memory.max": f"{1 << 60}\n"}, None),
    ("v2, own group", {"proc/self/cgroup": "0::/a/b\n", f"{GROUPS}/a/b/memory.max": f"{64 << 20}\n"}, 64),
    (
        "v2, a group above is tighter",
        {
            "proc/self/cgroup": "0::/a/b\n",
            f"{GROUPS}/a/b/memory.max": f"{64 << 20}\n",
            f"{GROUPS}/a/memory.max": f"{48 << 20}\n",
        },
        48,
    ),
    (
        "v2, high is less than max",
        {
            "proc/self/cgroup": "0::/a\n",
            f"{GROUPS}/a/memory.max": f"{64 << 20}\n",
            f"{GROUPS}/a/memory.high": f"{32 << 20}\n",
        },
        32,
    ),
    ("v2, own group not visible", {"proc/self/cgroup": "0::/box/1\n", f"{GROUPS}/memory.max": f"{16 << 20}\n"}, 16),
    ("v2, beside the root", {"proc/self/cgroup": "0::/../a\n", f"{GROUPS}/memory.max": f"{16 << 20}\n"}, 16),
    ("v2, unreadable", {"proc/self/cgroup": "nonsense\n\n0::/\n", f"{GROUPS}/memory.max": "soon\n"}, None),
    (
        "v1, no limit",
        {"proc/self/cgroup": "4:memory:/\n", f"{GROUPS}/memory/memory.limit_in_bytes": "9223372036854771712\n"},
        None,
    ),
    (
        "v1, own group",
        {"proc/self/cgroup": "4:memory:/a\n", f"{GROUPS}/memory/a/memory.limit_in_bytes": f"{64 << 20}\n"},
        64,
    ),
    (
        "v1, a group above is tighter",
        {
            "proc/self/cgroup": "4:hugetlb,memory:/a/b/c\n0::/\n",
            f"{GROUPS}/hugetlb,memory/a/b/c/memory.limit_in_bytes": "9223372036854771712\n",
            f"{GROUPS}/hugetlb,memory/a/memory.limit_in_bytes": f"{24 << 20}\n",
        },
        24,
    ),
    (
        "v1, own group not visible",
        {"proc/self/cgroup": "4:memory:/box/1\n", f"{GROUPS}/memory/memory.limit_in_bytes": f"{16 << 20}\n"},
        16,
    ),
    (
        "v1 and v2, memory in v1",
        {
            "proc/self/cgroup": "4:memory:/a\n0::/b\n",
            f"{GROUPS}/memory/a/memory.limit_in_bytes": f"{64 << 20}\n",
            f"{GROUPS}/unified/b/cgroup.procs": "1\n",
        },
        64,
    ),
    (
        "v1 and v2, memory in v2",
        {
            "proc/self/cgroup": "1:cpu:/a\n0::/b/c\n",
            f"{GROUPS}/cpu/a/cpu.shares": "1024\n",
            f"{GROUPS}/unified/b/memory.max": f"{64 << 20}\n",
        },
        64,
    ),
    ("no number", {"proc/self/cgroup": "0::/a\n", f"{GROUPS}/a/memory.max": "²\n"}, None),
    (
        "another group's",
        {"proc/self/cgroup": "0::/a\n4:memory:/b\n", f"{GROUPS}/memory/a/memory.limit_in_bytes": "1\n"},
        None,
    ),
]


@pytest.mark.parametrize(("files", "mebibytes"), [case[1:] for case in MEMORY], ids=[case[0] for case in MEMORY])
def test_the_cgroup_memory_limit_is_found(files: dict[str, str], mebibytes: int | None, tmp_path: Path) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted = machine if mebibytes is None else mebibytes << 20
    assert _cpu.memory_bytes(tree(tmp_path, files)) == wanted


def test_windows_reports_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Kernel32:
        def GlobalMemoryStatusEx(self, status: Any) -> None:
            assert status._obj[0] == 64  # the size of the record
            status._obj[1] = 3 << 30

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=Kernel32()), raising=False)
    assert _cpu.memory_bytes(tmp_path) == 3 << 30


STAT = "7 (a ) R 1 (b) S 1 7 7 0 -1 {} 102 0 0\n"
MAPS = "7f00-7f01 r-xp 00000000 fe:00 12 /usr/lib/{}\n"
PARENTS = [  # flags of the process, a loaded library, whether a fork may have lost OpenMP's threads
    ("started as a program", "4194304", "libgomp.so.1", False),
    ("forked", "4194368", "libgomp.so.1", True),
    ("forked before there was an OpenMP", "4194368", "libc.so.6", False),
    ("an emulator that does not tell", "0", "libgomp.so.1", False),
    ("another system", "-", "libgomp.so.1", False),
]


@pytest.mark.parametrize(
    ("flags", "library", "forked"), [case[1:] for case in PARENTS], ids=[case[0] for case in PARENTS]
)
def test_a_fork_after_openmp_was_loaded_is_recognised(flags: str, library: str, forked: bool, tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/self/stat": STAT.format(flags), "proc/self/maps": MAPS.format(library)})
    assert _fork.forked_beside_openmp(root) == forked
    assert not _fork.forked_beside_openmp(tmp_path / "without proc")


def test_the_last_cache_is_the_largest_of_the_first_cpu(tmp_path: Path) -> None:
    caches = "sys/devices/system/cpu/cpu0/cache"
    assert _cpu.last_cache_bytes(tree(tmp_path / "none", {"proc/self/cgroup": ""})) == 0
    sizes = {f"{caches}/index0/size": "48K\n", f"{caches}/index2/size": "1024K\n", f"{caches}/uevent": ""}
    assert _cpu.last_cache_bytes(tree(tmp_path / "two", sizes)) == 1 << 20
    sizes |= {f"{caches}/index3/size": "32M\n", f"{caches}/index4/size": "soon\n", f"{caches}/index5/size": "\n"}
    assert _cpu.last_cache_bytes(tree(tmp_path / "all", sizes)) == 32 << 20


@needs_openmp
def test_more_threads_than_tasks_do_every_task_once() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4096, 1024), dtype=np.float32)
    with _threads.num_threads(1):
        expected = rms_norm(x)
    with _threads.exact_threads(100):
        actual = rms_norm(x, out=np.full_like(x, np.nan))
    np.testing.assert_array_equal(actual, expected)


@needs_openmp
def test_num_threads_nests_and_restores() -> None:
    before = _threads.get_num_threads()
    with _threads.num_threads(5) as five:
        assert _threads.get_num_threads() == 5
        with _threads.num_threads(2):
            assert _threads.get_num_threads() == 2
            with five:
                assert _threads.get_num_threads() == 5
            assert _threads.get_num_threads() == 2
        assert _threads.get_num_threads() == 5
    assert _threads.get_num_threads() == before


def test_num_threads_restores_after_an_error() -> None:
    before = _threads.get_num_threads()
    block = _threads.num_threads(before + 1)
    with pytest.raises(ValueError, match="eps"), block:
        functional.layer_norm(np.ones((2, 2), np.float32), eps=-1.0)
    assert _threads.get_num_threads() == before


@needs_openmp
def test_num_threads_holds_for_one_python_thread_and_set_num_threads_for_all() -> None:
    before, seen = _threads.get_num_threads(), []
    try:
        with _threads.num_threads(5):
            _threads.set_num_threads(6)
            other = threading.Thread(target=lambda: seen.append(_threads.get_num_threads()))
            other.start()
            other.join()
            assert (_threads.get_num_threads(), seen) == (5, [6])
        assert _threads.get_num_threads() == 6
    finally:
        _threads.set_num_threads(before)


@needs_openmp
def test_two_threads_may_enter_one_num_threads_object() -> None:
    """Each thread leaves the block with its own former limit, in any order."""
    shared, together, seen = _threads.num_threads(5), threading.Barrier(2), {}

    def work(own: int) -> None:
        with _threads.num_threads(own):
            together.wait()
            with shared:
                together.wait()
                inside = _threads.get_num_threads()
                together.wait()
            seen[own] = (inside, _threads.get_num_threads())

    workers = [threading.Thread(target=work, args=(own,)) for own in (2, 3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert seen == {2: (5, 2), 3: (5, 3)}


@needs_openmp
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_num_threads_blocks_of_generators_end_in_any_order(order: tuple[int, ...]) -> None:
    """The innermost open block sets the limit; after the last one, the former limit holds."""

    def suspended(n: int) -> Iterator[None]:
        with _threads.num_threads(n):
            yield

    with _threads.num_threads(9):
        generators = [suspended(n) for n in range(1, 5)]
        for generator in generators:
            next(generator)
        still_open = [9, 1, 2, 3, 4]
        for i in order:
            assert _threads.get_num_threads() == still_open[-1]
            generators[i].close()  # type: ignore[attr-defined]
            still_open.remove(i + 1)
        assert _threads.get_num_threads() == 9


@needs_openmp
def test_num_threads_of_an_asyncio_task_is_its_own() -> None:
    before = _threads.get_num_threads()
    shared, seen = _threads.num_threads(5), {}

    async def task(n: int) -> None:
        with _threads.num_threads(n):
            await asyncio.sleep(0)
            with shared:
                await asyncio.sleep(0.001 * n)
                inner = (_threads.get_num_threads(), await asyncio.to_thread(_threads.get_num_threads))
            await asyncio.sleep(0.001 * (4 - n))
            seen[n] = (*inner, _threads.get_num_threads())

    async def main() -> None:
        tasks = [asyncio.create_task(task(n)) for n in (1, 2, 3)]
        while not all(done.done() for done in tasks):
            assert _threads.get_num_threads() == before
            await asyncio.sleep(0)

    asyncio.run(main())
    assert seen == {n: (5, 5, n) for n in (1, 2, 3)}
    assert _threads.get_num_threads() == before


@needs_openmp
def test_num_threads_left_by_another_thread_ends() -> None:
    before = _threads.get_num_threads()
    with _threads.num_threads(3):
        block = _threads.num_threads(5).__enter__()
        other = threading.Thread(target=block.__exit__, args=(None, None, None))
        other.start()
        other.join()
        assert _threads.get_num_threads() == 3
    assert _threads.get_num_threads() == before


@needs_openmp
def test_num_threads_decorates_a_function_that_calls_itself() -> None:
    before = _threads.get_num_threads()

    @_threads.num_threads(5)
    def nested(depth: int) -> list[int]:
        return [_threads.get_num_threads(), *(nested(depth - 1) if depth else [])]

    assert nested(3) == [5, 5, 5, 5]
    assert _threads.get_num_threads() == before


@needs_openmp
def test_num_threads_decorates_a_coroutine_function() -> None:
    before = _threads.get_num_threads()

    @_threads.num_threads(5)
    async def limited(waits: int) -> list[int]:
        """Count."""
        counts = []
        for _ in range(waits):
            counts.append(_threads.get_num_threads())
            await asyncio.sleep(0)
        return counts

    async def main() -> tuple[list[list[int]], int]:
        return await asyncio.gather(limited(1), limited(3)), _threads.get_num_threads()

    assert inspect.iscoroutinefunction(limited)
    assert (limited.__name__, limited.__doc__) == ("limited", "Count.")
    assert asyncio.run(main()) == ([[5], [5, 5, 5]], before)


def test_num_threads_refuses_to_decorate_a_generator_function() -> None:
    def generator() -> Iterator[int]:
        yield 1

    async def asynchronous() -> AsyncIterator[int]:
        yield 1

    for function in (generator, asynchronous):
        with pytest.raises(TypeError, match=rf"got .*{function.__name__} .* write `with num_threads\(5\):`"):
            _threads.num_threads(5)(function)


def test_num_threads_not_entered_cannot_be_left() -> None:
    before, block = _threads.get_num_threads(), _threads.num_threads(5)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"num_threads\(5\) has no open block"):
            block.__exit__(None, None, None)
        with block:
            pass
    assert _threads.get_num_threads() == before


LIMITED = """
import asyncio, os
import numpy as np
from support import LARGE, OPS, arguments_of
import cregkit as ck
from cregkit import functional

def threads():
    return len(os.listdir("/proc/self/task"))

def merge(count, mean, m2):
    with ck.num_threads(3):  # the block of a callback ends with it
        ck.get_num_threads()
    return count + 2, mean, m2

async def limited():
    with ck.num_threads(1):
        await asyncio.sleep(0)
        for op, case in OPS.items():
            getattr(functional, op)(**arguments_of(case, LARGE[case.shapes]))
            assert threads() == 1, op
        functional.crop_images(np.ones((1, 3, 9, 9), np.float32), np.zeros((1, 2), np.int64), 600)
        functional.sample_uniform(np.arange(2), 1 << 18, seed=0)
        for rows in (0, 2, 900):
            functional.batch_norm_forward(np.ones((rows, 100_000 if rows < 9 else 900), np.float32), merge=merge)
        functional.rms_norm(np.ones((2, 1 << 20), np.float32))
        assert threads() == 1
        await asyncio.sleep(0)

async def unlimited():
    assert ck.get_num_threads() == 3
    await asyncio.sleep(0)
    functional.rms_norm(np.ones((2048, 2048), np.float32))
    assert threads() == 3

async def main():
    await asyncio.gather(limited(), unlimited())

ck.set_num_threads(3)
asyncio.run(main())
"""


@linux
@needs_openmp
def test_every_op_heeds_the_num_threads_of_its_task() -> None:
    """Another task of the same Python thread has no limit. /proc tells how many threads exist."""
    done = run_python("-c", LIMITED, OPENBLAS_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("call", [_threads.num_threads, _threads.set_num_threads])
@pytest.mark.parametrize(
    ("n", "error"),
    [(0, ValueError), (-1, ValueError), (4097, ValueError), ("2", TypeError), (1.5, TypeError), (None, TypeError)],
)
def test_invalid_numbers_of_threads_are_refused(call: Callable[[Any], Any], n: Any, error: type[Exception]) -> None:
    before = _threads.get_num_threads()
    with pytest.raises(error, match=r"\bn must be"):
        call(n)
    assert _threads.get_num_threads() == before


# ---- beside other Python threads ----


def test_the_gil_is_released() -> None:
    """Another Python thread runs in the middle half of a call, in at least one of twenty calls on a busy machine."""
    stamps: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.001):
            stamps.append(time.perf_counter())

    ops: list[Callable[[], Any]] = [
        lambda: functional.dropout_keep(2**25, 0.3, seed=1),
        lambda: functional.layer_norm(x, out=x),
        lambda: functional.batch_norm_forward(x, out=x),
        lambda: functional.l2_gradient(x, 0.5, out=x),
    ]
    x = np.ones((2**12, 2**12), np.float32)

    def others_ran(op: Callable[[], Any]) -> bool:
        start = time.perf_counter()
        op()
        end = time.perf_counter()
        quarter = (end - start) / 4
        return any(start + quarter < stamp < end - quarter for stamp in list(stamps))

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        with _threads.num_threads(1):
            for op in ops:
                assert any(others_ran(op) for _ in range(20))
    finally:
        stop.set()
        ticker.join()


def test_eight_python_threads_at_once_get_the_same_bits() -> None:
    inputs = [np.random.default_rng(i).standard_normal((301 + i, 517)).astype(np.float32) for i in range(8)]
    with _threads.num_threads(1):
        wanted = [several_ops(x) for x in inputs]
    right = [0] * 8
    together = threading.Barrier(8)

    def work(i: int) -> None:
        together.wait()
        for _ in range(5):
            with _threads.exact_threads(1 + i % 4):
                right[i] += several_ops(inputs[i]) == wanted[i]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert right == [5] * 8


# ---- other processes ----

FORK = """
import os, sys, time
import numpy as np
from support import several_ops
from cregkit.kernels import _threads

_threads.set_num_threads(4)
x = np.random.default_rng(0).standard_normal((700, 517)).astype(np.float32)
wanted = several_ops(x)
child = os.fork()
if child == 0:
    right = several_ops(x) == wanted and _threads.get_num_threads() == 1 and "fork" in _threads.threads_origin()
    os._exit(0 if right else 1)
deadline = time.monotonic() + 20
while time.monotonic() < deadline:
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        break
    time.sleep(0.01)
else:
    os.kill(child, 9)
    sys.exit("the child hangs")
assert several_ops(x) == wanted  # the parent's threads still work
sys.exit(os.waitstatus_to_exitcode(status))
"""

SPAWN = """
import multiprocessing, sys
import numpy as np
from support import several_ops
from cregkit.kernels import _threads

if __name__ == "__main__":
    _threads.set_num_threads(4)
    inputs = [np.random.default_rng(i).standard_normal((700, 517)).astype(np.float32) for i in range(4)]
    wanted = [several_ops(x) for x in inputs]
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        assert pool.map_async(several_ops, inputs).get(timeout=40) == wanted
"""


@linux
def test_a_forked_child_computes_the_same_bits_and_does_not_hang() -> None:
    done = run_python("-c", FORK)
    assert done.returncode == 0, done.stderr


@linux
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_multiprocessing_pool_computes_the_same_bits(method: str, tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(SPAWN)
    done = run_python(str(script), method)
    assert done.returncode == 0, done.stderr
