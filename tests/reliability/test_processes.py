"""With threads of other libraries, after forks and in worker processes: right results, no hang, few threads."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from support import needs_openmp, run_python

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

FORK_WITH_TORCH = """
import os, signal, sys
import numpy as np
import torch
from support import several_ops
import cregkit

cregkit.set_num_threads(3)
torch.set_num_threads(3)
x = np.random.default_rng(0).standard_normal((700, 517)).astype(np.float32)
for _ in range(3):  # both have their threads running
    torch.nn.functional.layer_norm(torch.from_numpy(x), (517,))
    wanted = several_ops(x)
for _ in range(5):
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that hangs
        os._exit(0 if several_ops(x) == wanted and cregkit.get_num_threads() == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert several_ops(x) == wanted
"""


@linux
def test_a_fork_with_torch_loaded_computes_the_same_bits() -> None:
    pytest.importorskip("torch")
    done = run_python("-c", FORK_WITH_TORCH)
    assert done.returncode == 0, done.stderr


FORK_EARLY = """
import ctypes, hashlib, os, signal, sys, threading
import numpy as np

way, loaded = sys.argv[1:]
x = np.random.default_rng(0).standard_normal((2048, 1024)).astype(np.float32)

def result():
    import cregkit
    cregkit.set_num_threads(2)
    with cregkit.num_threads(2):
        return hashlib.sha256(cregkit.layer_norm(x)).digest()

def fork_in_child():
    child = os.fork()
    if child == 0 and os.fork():
        os._exit(0)
    return child

def fork_within_a_block():
    import cregkit
    with cregkit.num_threads(2):
        return os.fork()

if loaded == "cregkit":
    import cregkit
if loaded == "kernels":
    result()
ctypes.CDLL("libgomp.so.1").GOMP_parallel(ctypes.CDLL(None).free, None, 2, 0)  # as PyTorch does: two threads free(NULL)
# Python does not notice a fork of C. The child would wait for a thread of the parent that had asked for the GIL.
sys.setswitchinterval(60)  # seconds until a thread asks
if loaded == "kernels":  # and another thread is within an op
    threading.Thread(target=lambda: [result() for _ in range(200)], daemon=True).start()
there, here = os.pipe()
forks = {"fork": os.fork, "forkpty": lambda: os.forkpty()[0], "fork of C": ctypes.PyDLL(None).fork,
         "grandchild": fork_in_child, "within a block": fork_within_a_block}
child = forks[way]()
if child == 0:
    signal.alarm(20)  # ends a child that hangs
    import cregkit
    y = result()
    with cregkit.num_threads(2):
        one = cregkit.get_num_threads() == 1 and cregkit.show_config()["threads_from"].startswith("forked process")
    os.write(here, y if one else b"more than one thread")
    os.kill(os.getpid(), signal.SIGKILL)  # without the clean-up functions of the parent
os.close(here)
assert os.read(there, 32) == result()
"""


@linux
@needs_openmp
@pytest.mark.parametrize("loaded", ["nothing", "cregkit", "kernels"])
@pytest.mark.parametrize("way", ["fork", "forkpty", "fork of C", "grandchild", "within a block"])
def test_a_fork_of_an_openmp_process_uses_one_thread(way: str, loaded: str) -> None:
    """For every way to fork, and whatever the parent had loaded. The child does not hang, and show_config says why."""
    done = run_python("-W", "ignore", "-c", FORK_EARLY, way, loaded)
    assert done.returncode == 0, done.stderr


@linux
@needs_openmp
@pytest.mark.parametrize("imports", ["", "import cregkit"])
def test_a_fork_after_torch_computed_uses_one_thread(imports: str) -> None:
    pytest.importorskip("torch")
    computes = "import torch; torch.set_num_threads(2); torch.ones(4096, 1024).softmax(1)"
    code = FORK_EARLY.replace("there, here =", f"{computes}; {imports}\nthere, here =")
    done = run_python("-W", "ignore", "-c", code, "fork", "nothing")
    assert done.returncode == 0, done.stderr


@linux
@needs_openmp
def test_a_fork_before_openmp_was_loaded_is_not_limited() -> None:
    """A daemon, for example. It lost no threads, even if it loads OpenMP after cregkit."""
    code = (
        "import os\n"
        "child = os.fork()\n"
        "if child:\n"
        "    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "import ctypes, signal\n"
        "signal.alarm(20)\n"
        "import cregkit\n"
        "import numpy as np\n"
        "ctypes.CDLL('libgomp.so.1').GOMP_parallel(ctypes.CDLL(None).free, None, 2, 0)\n"
        "cregkit.set_num_threads(2)\n"
        "cregkit.layer_norm(np.ones((2048, 1024), np.float32))\n"
        "assert (cregkit.get_num_threads(), cregkit.show_config()['threads_from']) == (2, 'set_num_threads')"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


DATALOADER = """
import sys
import numpy as np
import torch
import cregkit

class Normalised(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, i):
        x = np.random.default_rng(i).standard_normal((64, 1024)).astype(np.float32)
        return torch.from_numpy(cregkit.layer_norm(x)), cregkit.get_num_threads()

if __name__ == "__main__":
    torch.set_num_threads(3)
    torch.ones(4096, 1024).softmax(1)  # OpenMP's threads run before the workers are forked
    def results():
        cregkit.set_num_threads(3)
        return [Normalised()[i][0] for i in range(8)]
    alone = results() if sys.argv[1] == "loaded" else None
    loader = torch.utils.data.DataLoader(Normalised(), batch_size=None, num_workers=2, multiprocessing_context="fork",
                                         timeout=40)
    loaded = list(loader)
    for wanted, (got, threads) in zip(alone or results(), loaded, strict=True):
        assert torch.equal(wanted, got) and threads == 1, threads
"""


@linux
@pytest.mark.parametrize("kernels", ["loaded", "not loaded"])
def test_forked_torch_data_loader_workers_use_one_thread(kernels: str) -> None:
    pytest.importorskip("torch")
    done = run_python("-c", DATALOADER, kernels, OMP_NUM_THREADS="3")
    assert done.returncode == 0, done.stderr


WORKERS = """
import ctypes, multiprocessing, sys
import numpy as np
import cregkit

def work(_):
    x = np.random.default_rng(0).standard_normal((700, 517)).astype(np.float32)
    return cregkit.layer_norm(x).tobytes(), cregkit.get_num_threads(), cregkit.show_config()["threads_from"]

if __name__ == "__main__":
    method, *preload = sys.argv[1:]
    ctypes.CDLL("libgomp.so.1").GOMP_parallel(ctypes.CDLL(None).free, None, 2, 0)  # two threads free(NULL)
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(preload)  # by default, newer Pythons load this file there
    with context.Pool(2) as pool:
        results = pool.map_async(work, range(8)).get(timeout=40)
    ((y, threads, origin),) = set(results)
    assert y == work(0)[0]
    print(threads, origin)
"""


@linux
@needs_openmp
@pytest.mark.parametrize(
    ("method", "preload", "by_default", "told"),
    [
        ("fork", (), "1 forked process", "1 forked process"),
        ("spawn", (), "1 worker process", "2 OMP_NUM_THREADS"),
        ("forkserver", (), "1 worker process", "2 OMP_NUM_THREADS"),
        ("forkserver", ("cregkit.kernels._threads",), "1 forked process", "1 forked process"),
    ],
)
def test_workers_of_a_pool_use_one_thread_unless_the_environment_sets_more(
    method: str, preload: tuple[str, ...], by_default: str, told: str, tmp_path: Path
) -> None:
    """A pool starts one worker per CPU. One thread each, as in forked workers, makes no more threads than CPUs."""
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    done = run_python(str(script), method, *preload)
    assert (done.stdout.startswith(by_default), done.returncode) == (True, 0), done.stdout + done.stderr
    done = run_python(str(script), method, *preload, OMP_NUM_THREADS="2")
    assert (done.stdout.startswith(told), done.returncode) == (True, 0), done.stdout + done.stderr


LOKY = """
import sys
import numpy as np
import joblib
from support import several_ops
import cregkit

def work(x):
    return several_ops(x), cregkit.get_num_threads()

if __name__ == "__main__":
    cregkit.set_num_threads(3)
    inputs = [np.random.default_rng(i).standard_normal((700, 517)).astype(np.float32) for i in range(4)]
    wanted = [several_ops(x) for x in inputs]
    workers = int(sys.argv[1])
    results = joblib.Parallel(workers, backend="loky")(joblib.delayed(work)(x) for x in inputs)
    assert [result for result, _ in results] == wanted
    print(*{threads for _, threads in results})
"""


@linux
@needs_openmp
def test_joblib_workers_share_the_processors() -> None:
    pytest.importorskip("joblib")
    workers, processors = 2, len(os.sched_getaffinity(0))
    done = run_python("-W", "ignore", "-c", LOKY, str(workers))
    assert done.returncode == 0, done.stderr
    (threads,) = set(done.stdout.split())
    assert workers * int(threads) <= max(processors, workers)
