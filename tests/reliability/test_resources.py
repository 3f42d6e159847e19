"""Memory and references: a failed allocation changes nothing, calls leak neither memory nor references."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from defects import DEFECTS, EACH_ARRAY, SHAPE_DEFECTS, leading
from support import OPS, Array, arguments_of, arrays_in, bits, each_case, run_python, small_arguments

import cregkit as ck
from cregkit import functional
from cregkit.kernels._threads import exact_threads
from cregkit.verify import cases
from cregkit.verify.inputs import Arguments

ENDURANCE = str(Path(__file__).with_name("endurance.py"))
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits memory")

# ---- failed allocations ----

LIMIT = """
import resource
import numpy as np
from support import LARGE, OPS, OPS_WITH_OUT, arguments_of, arrays_in, bits
import cregkit as ck
from cregkit import functional
from cregkit.verify import cases, inputs
from cregkit.kernels import _pool

def limit(extra):
    most = resource.RLIM_INFINITY
    if extra:
        with open("/proc/self/statm") as file:
            most = int(file.read().split()[0]) * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
"""

LITTLE_MEMORY = """
def state(layer):
    return {name: value.tobytes() for name, value in layer.state_dict().items()}

failed = []
with ck.num_threads(1):
    for op, case in OPS.items():
        arguments = arguments_of(case, LARGE[case.shapes])
        wanted = None if case.changed else bits(cases.run(case, functional, arguments))
        ck.clear_pool()
        before, pool = bits(arrays_in(arguments)), _pool.pool_statistics()
        limit(1 << 20)
        try:
            getattr(functional, op)(**arguments)
        except MemoryError:
            failed.append(op)
            limit(0)
            assert bits(arrays_in(arguments)) == before, op
            after = _pool.pool_statistics()
            assert (after["blocks"], after["bytes"]) == (pool["blocks"], pool["bytes"]), op
        finally:
            limit(0)
        if wanted is not None:
            assert bits(cases.run(case, functional, arguments)) == wanted, op
    x = np.random.default_rng(0).standard_normal((2048, 2048), np.float32)
    linear = ck.Linear(2048, 2048, seed=0)
    linear(x)  # OpenBLAS ends the process if it cannot have its own buffer, which it then keeps
    norms = [ck.BatchNorm(2048), ck.GroupNorm(32, 2048), ck.LayerNorm(2048), ck.RMSNorm(2048)]
    layers = [*norms, ck.Dropout(0.5, seed=1), linear]
    for layer in [*layers, ck.Sequential(ck.BatchNorm(2048), ck.Dropout(0.5, seed=1))]:
        layer.load_state_dict(layer.state_dict())  # no forward waits for its backward
        ck.clear_pool()
        before = state(layer)
        limit(1 << 20)
        try:
            layer(x)
        except MemoryError:
            failed.append(type(layer).__name__)
        finally:
            limit(0)
        assert state(layer) == before, layer
        try:
            layer.backward(x)
        except RuntimeError:
            failed.append("backward")
print(*failed)
"""


@linux
def test_a_failed_allocation_changes_nothing(record_property: Callable[[str, object], None]) -> None:
    done = run_python("-c", LIMIT + LITTLE_MEMORY, CREGKIT_POOL_MB="256", MALLOC_MMAP_THRESHOLD_="65536")
    assert done.returncode == 0, done.stderr
    failed = done.stdout.split()
    record_property("faults", len(failed))
    assert set(OPS) - set(failed) == {
        "l2_penalty",
        "sum_squares",
        "sgd_step",
        "adamw_step",
        "max_norm",
    }  # they allocate almost nothing
    layers = ["BatchNorm", "GroupNorm", "LayerNorm", "RMSNorm", "Dropout", "Linear", "Sequential"]
    assert failed[-14:] == [word for layer in layers for word in (layer, "backward")]


# The workspace of layer norm's backward on (256, 4096) is 512 KiB: no gap in the heap is that large.
IN_PLACE = """
MEDIUM = {2: (256, 4096), 3: (16, 16, 1024), 4: (3, 3, 170, 171)}
succeeded, failed = set(), set()
with ck.num_threads(1):
    typed = [case.stored_as(dtype) for case in OPS_WITH_OUT.values() for dtype in {case.dtypes[0], case.dtypes[-1]}]
    for case in typed:
        op = case.op
        for extra in (1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24):
            arguments = arguments_of(case, MEDIUM[len(LARGE[case.shapes])])
            arguments["out"] = next(iter(arrays_in(arguments).values()))
            ck.clear_pool()
            before = bits(arrays_in(arguments))
            limit(extra)
            try:
                getattr(functional, op)(**arguments)
                succeeded.add(op)
            except MemoryError:
                limit(0)
                assert bits(arrays_in(arguments)) == before, (case.name, extra)
                failed.add(op)
            finally:
                limit(0)
assert succeeded == set(OPS_WITH_OUT), set(OPS_WITH_OUT) - succeeded
print(*failed)
"""


@linux
def test_a_failed_allocation_in_a_call_in_place_changes_nothing(
    record_property: Callable[[str, object], None],
) -> None:
    """Whichever allocation fails, for results or for workspace, the inputs keep their values."""
    done = run_python("-c", LIMIT + IN_PLACE, CREGKIT_POOL_MB="256", MALLOC_MMAP_THRESHOLD_="4096")
    assert done.returncode == 0, done.stderr
    record_property("faults", len(done.stdout.split()))
    assert {"batch_norm_forward", "batch_norm_backward", "layer_norm_backward"} <= set(done.stdout.split())


FULL_POOL = """
HELD = 160 << 20  # of a size of which no op makes use
SMALL = {2: (60, 1000), 3: (6, 10, 1000), 4: (12, 3, 40, 41)}

def fill_pool():
    ck.clear_pool()
    ck.dropout_keep(HELD, 0.0, seed=0)
    assert _pool.pool_statistics()["bytes"] >= HELD

def gave_way():
    return _pool.pool_statistics()["bytes"] < HELD

with ck.num_threads(1):
    for op, case in OPS.items():
        large = LARGE[case.shapes]
        for size, shape in (("large", large), ("small", SMALL[len(large)])):
            arguments = arguments_of(case, shape)
            own = {name: arguments[name].copy() for name in case.changed}
            wanted = bits(cases.run(case, functional, arguments | own))
            fill_pool()
            limit(1 << 12)
            result = getattr(functional, op)(**arguments)
            limit(0)
            if gave_way():
                print(size, op)
            values = result if isinstance(result, tuple) else (result,)
            got = {name: np.asarray(v) for name, v in zip(case.outputs, values, strict=False) if v is not None}
            assert bits(got | {name: arguments[name] for name in case.changed}) == wanted, op
    y = ck.rms_norm(np.random.default_rng(0).standard_normal((512, 512), np.float32))
    before = y.copy()
    fill_pool()
    limit(1 << 12)
    y.resize((4096, 4096), refcheck=False)
    limit(0)
    assert gave_way() and np.array_equal(y.reshape(-1)[:before.size], before.reshape(-1))
"""


@linux
def test_an_allocation_may_take_the_memory_of_the_pool(record_property: Callable[[str, object], None]) -> None:
    """For outputs, for workspace, for arrays too small for the pool, and for an array that grows."""
    done = run_python("-c", LIMIT + FULL_POOL, CREGKIT_POOL_MB="256", MALLOC_MMAP_THRESHOLD_="4096")
    assert done.returncode == 0, done.stderr
    gave_way = {tuple(line.split()) for line in done.stdout.splitlines()}
    record_property("faults", len(gave_way))
    need_no_memory = {"l2_penalty", "sum_squares", "sgd_step", "adamw_step", "max_norm"}
    assert {op for op in OPS if ("large", op) not in gave_way} == need_no_memory
    assert len({op for op in OPS if ("small", op) in gave_way}) > len(OPS) / 2  # NumPy may have free memory of its own


# ---- what calls leave behind ----


@linux
def test_many_calls_leave_no_memory_behind() -> None:
    """Right, refused and large calls. A leak of 32 bytes per call would add 3 MiB and 1.5 MiB.

    Another process makes the calls: here, memory that earlier tests freed would hide a leak.
    """
    done = run_python(ENDURANCE, "100000", "50000", "60")
    assert done.returncode == 0, done.stdout + done.stderr


@linux
def test_a_leak_of_32_bytes_per_call_is_noticed() -> None:
    leak = "kept = []; print(growth([lambda: kept.append(bytes(32))], 50_000))"
    done = run_python("-c", f"import runpy; growth = runpy.run_path({ENDURANCE!r})['growth']; {leak}")
    assert int(done.stdout) > 1 << 20, done.stderr


def references(arguments: Arguments) -> dict[str, int]:
    """Reference counts of the arguments, except numbers, which the interpreter may share."""
    return {name: sys.getrefcount(value) for name, value in arguments.items() if not isinstance(value, (int, float))}


@pytest.mark.parametrize(("op", "name"), EACH_ARRAY)
def test_a_refused_call_keeps_no_reference(op: str, name: str) -> None:
    good = small_arguments(op)
    for make, _ in DEFECTS + (SHAPE_DEFECTS if name != leading(op) else []):
        arguments = good | {name: make(good[name])}
        before = references(arguments)
        for _ in range(3):
            with pytest.raises((TypeError, ValueError)):
                getattr(functional, op)(**arguments)
        assert references(arguments) == before, make


@each_case
def test_a_call_keeps_no_reference(case: cases.Case) -> None:
    arguments = arguments_of(case, case.shapes[-1])
    before = references(arguments)
    for _ in range(3):
        getattr(functional, case.op)(**arguments)
    assert references(arguments) == before


# ---- sixteen threads on the same arrays ----


def in_threads(n: int, work: Any) -> None:
    """Run ``work(i)`` in ``n`` threads at once, and raise the first exception."""
    together, errors = threading.Barrier(n), []

    def run(i: int) -> None:
        together.wait()
        try:
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_sixteen_threads_on_the_same_arrays_get_the_same_bits(record_property: Callable[[str, object], None]) -> None:
    record_property("inputs", 16 * len(cases.CASES))
    jobs = []
    for case in cases.CASES:
        arguments = arguments_of(case, max(case.shapes, key=np.prod))
        jobs.append((case, arguments, bits(cases.run(case, functional, arguments))))
    before = [bits(arrays_in(arguments)) for _, arguments, _ in jobs]

    def work(i: int) -> None:
        for k in range(len(jobs)):
            case, arguments, wanted = jobs[(i + k) % len(jobs)]
            own = {name: arguments[name].copy() for name in case.changed}
            with exact_threads(1 + i % 3):
                returned = getattr(functional, case.op)(**arguments | own)
            values = returned if isinstance(returned, tuple) else (returned,)
            got = {name: np.asarray(v) for name, v in zip(case.outputs, values, strict=False) if v is not None}
            assert bits(got | own) == wanted, case.name

    in_threads(16, work)
    assert [bits(arrays_in(arguments)) for _, arguments, _ in jobs] == before


def test_threads_that_share_a_layer_get_right_results_or_an_error() -> None:
    """The layer keeps the last forward alone: backward uses it once, or raises."""
    layer = ck.LayerNorm(33)
    inputs = [np.random.default_rng(i).standard_normal((40, 33), np.float32) for i in range(4)]
    outputs = [layer(x).tobytes() for x in inputs]
    dy = np.ones((40, 33), np.float32) + inputs[0]
    gradients = set()
    for x in inputs:
        layer(x)
        gradients.add(layer.backward(dy).tobytes())

    def work(i: int) -> None:
        for _ in range(200):
            assert layer(inputs[i]).tobytes() == outputs[i]
            try:
                dx: Array = layer.backward(dy)
            except RuntimeError:
                continue
            assert dx.tobytes() in gradients

    in_threads(4, work)
