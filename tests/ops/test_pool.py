"""The pool of recycled outputs: what it reuses, its limit, and what goes back to the system."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from support import run_python

import cregkit
from cregkit.kernels import _pool

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

LARGE = (1024, 1024)  # 4 MiB


@pytest.fixture(autouse=True)
def empty_pool():
    gc.collect()
    cregkit.clear_pool()
    yield
    cregkit.clear_pool()


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal(LARGE, dtype=np.float32)


def held() -> tuple[int, int]:
    statistics = _pool.pool_statistics()
    return statistics["blocks"], statistics["bytes"]


def test_the_memory_of_a_deleted_output_is_reused(x):
    y = cregkit.rms_norm(x)
    address = y.ctypes.data
    assert address % 64 == 0
    del y
    assert held()[0] == 1
    again = cregkit.rms_norm(x)
    assert again.ctypes.data == address
    assert held() == (0, 0)


def test_the_memory_of_a_live_output_is_not_reused(x):
    ys = [cregkit.dropout(x, 0.5, seed=seed) for seed in range(4)]
    assert len({y.ctypes.data for y in ys}) == 4
    for seed, y in enumerate(ys):
        np.testing.assert_array_equal(y, cregkit.dropout(x, 0.5, seed=seed))


def test_the_memory_of_a_viewed_output_is_not_reused(x):
    view = cregkit.rms_norm(x)[3:5]
    copy = view.copy()
    for _ in range(3):
        cregkit.dropout(x, 0.5, seed=1)
    np.testing.assert_array_equal(view, copy)


def test_outputs_own_their_data_and_can_be_resized(x):
    y = cregkit.rms_norm(x)
    assert y.flags.owndata
    assert y.base is None
    assert type(y) is np.ndarray
    expected = y[:512].copy()
    y.resize((512, 1024), refcheck=False)
    np.testing.assert_array_equal(y, expected)
    y.resize(LARGE, refcheck=False)
    np.testing.assert_array_equal(y[:512], expected)
    assert not y[512:].any()


def test_small_outputs_do_not_enter_the_pool():
    del_me = cregkit.rms_norm(np.ones((8, 1024), np.float32))
    del del_me
    assert held() == (0, 0)


def test_clear_pool_empties_the_pool(x):
    for n in (1, 2, 3):
        cregkit.rms_norm(np.repeat(x, n, axis=0))
    assert held()[0] > 0
    cregkit.clear_pool()
    assert held() == (0, 0)


GIVEN_BACK = """
import resource

import numpy as np
import cregkit

def pages(field):
    with open("/proc/self/statm") as file:
        return int(file.read().split()[field])

large, x = np.ones((7168, 1024), np.float32), np.ones((256, 1024), np.float32)
cregkit.rms_norm(large)
cregkit.clear_pool()
del large  # from now on glibc's malloc takes blocks of up to this size from its heap
before = pages(0), pages(1)
outputs, others = [], []
for _ in range(100):
    outputs.append(cregkit.rms_norm(x))
    others.append(np.ones(20000, np.float32))  # between the outputs if malloc made them
del outputs
assert cregkit.show_config()["pool"]["bytes"] >= 100 << 20
cregkit.clear_pool()
mapped, resident = pages(0) - before[0], pages(1) - before[1]
assert max(mapped, resident) * resource.getpagesize() < 20 << 20, (mapped, resident)
"""


@linux
def test_cleared_blocks_go_back_to_the_system():
    done = run_python("-c", GIVEN_BACK, CREGKIT_POOL_MB="256", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr


def test_a_long_loop_holds_no_more_than_one_turn(x):
    dy = x.copy()
    gamma = np.ones(LARGE[1], np.float32)

    def turn() -> None:
        _, mean, rstd = cregkit.layer_norm_forward(x, gamma)
        cregkit.layer_norm_backward(dy, x, mean, rstd, gamma)

    turn()
    after_one = held()
    for _ in range(50):
        turn()
    assert held() == after_one


def test_show_config_shows_the_pool(x):
    cregkit.rms_norm(x)
    pool = cregkit.show_config()["pool"]
    assert pool["blocks"] == 1
    assert x.nbytes <= pool["bytes"] <= pool["limit_bytes"]
    hits = pool["hits"]
    cregkit.rms_norm(x)
    assert cregkit.show_config()["pool"]["hits"] == hits + 1


def in_child(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def test_above_its_limit_the_pool_frees_the_oldest_blocks():
    done = in_child(
        "import numpy as np, cregkit\n"
        "from cregkit.kernels import _pool\n"
        "xs = [np.ones((k, 1 << 20), np.float32) for k in (1, 2, 3)]\n"  # 4, 8, 12 MiB and a little
        "ys = [cregkit.rms_norm(x) for x in xs]\n"
        "while ys: del ys[0]\n"
        "s = _pool.pool_statistics(); print(s['blocks'], s['bytes'] <= s['limit_bytes'] == 20 << 20)\n"
        "hits = s['hits']; y = cregkit.rms_norm(xs[2]); print(_pool.pool_statistics()['hits'] - hits)\n"
        "z = cregkit.rms_norm(xs[0]); print(_pool.pool_statistics()['hits'] - hits)",
        CREGKIT_POOL_MB="20",
    )
    assert done.stdout.split("\n")[:3] == ["1 True", "1", "1"], done.stderr


@pytest.mark.parametrize(
    ("mebibytes", "setting", "limit"), [(160, "", 10), (1 << 20, "", 1024), (0, "", 0), (160, "64", 64)]
)
def test_the_limit_comes_from_the_environment_or_the_memory_of_the_process(mebibytes, setting, limit):
    done = in_child(
        "from cregkit.kernels import _cpu\n"
        f"_cpu.memory_bytes = lambda: {mebibytes} << 20\n"  # as a control group limits it
        "import cregkit; print(cregkit.show_config()['pool']['limit_bytes'])",
        CREGKIT_POOL_MB=setting,
    )
    assert done.stdout.split() == [str(limit << 20)], done.stderr


def test_a_limit_of_0_turns_the_pool_off():
    done = in_child(
        "import numpy as np, cregkit\n"
        "for _ in range(3): cregkit.rms_norm(np.ones((1024, 1024), np.float32))\n"
        "print(cregkit.show_config()['pool'])",
        CREGKIT_POOL_MB="0",
    )
    assert done.stdout.strip() == "{'blocks': 0, 'bytes': 0, 'limit_bytes': 0, 'hits': 0, 'misses': 0}", done.stderr


@pytest.mark.parametrize("setting", ["many", "-1", "1.5", "\N{SUPERSCRIPT TWO}"])
def test_an_invalid_limit_is_refused(setting):
    done = in_child("import cregkit; cregkit.rms_norm", CREGKIT_POOL_MB=setting)
    assert done.returncode != 0
    assert "CREGKIT_POOL_MB must be a whole number of MiB" in done.stderr
    assert repr(setting) in done.stderr


def test_outputs_may_be_freed_on_any_thread(x):
    expected = cregkit.rms_norm(x)
    wrong = []

    def work() -> None:
        for _ in range(20):
            if not np.array_equal(cregkit.rms_norm(x), expected):
                wrong.append(threading.get_ident())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_pool_works_in_a_forked_child(x):
    expected = cregkit.rms_norm(x)
    cregkit.rms_norm(x)
    child = os.fork()
    if child == 0:
        y = cregkit.rms_norm(x)
        fine = np.array_equal(y, expected)
        del y
        cregkit.clear_pool()
        os._exit(0 if fine and held() == (0, 0) else 1)
    assert os.waitpid(child, 0)[1] == 0
