"""Beside other libraries' threads and worker processes: right results, no hang, no more threads than processors."""

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
from test_runtime import several_ops
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
        signal.alarm(20)  # a child that hangs dies of it
        os._exit(0 if several_ops(x) == wanted and cregkit.get_num_threads() == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert several_ops(x) == wanted
"""


@linux
def test_fork_with_torch_loaded() -> None:
    pytest.importorskip("torch")
    done = run_python("-c", FORK_WITH_TORCH)
    assert done.returncode == 0, done.stderr


DATALOADER = """
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
    cregkit.set_num_threads(3)
    alone = [Normalised()[i][0] for i in range(8)]  # on three threads, before the workers are forked
    loader = torch.utils.data.DataLoader(Normalised(), batch_size=None, num_workers=2, multiprocessing_context="fork",
                                         timeout=40)
    for wanted, (got, threads) in zip(alone, loader, strict=True):
        assert torch.equal(wanted, got) and threads == 1, threads
"""


@linux
def test_torch_data_loader_workers() -> None:
    pytest.importorskip("torch")
    done = run_python("-c", DATALOADER)
    assert done.returncode == 0, done.stderr


WORKERS = """
import multiprocessing, os, sys
import cregkit

def threads(_):
    import cregkit
    return cregkit.get_num_threads()

if __name__ == "__main__":
    assert cregkit.get_num_threads() == len(os.sched_getaffinity(0))
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        print(*pool.map_async(threads, range(8)).get(timeout=40))
"""


@linux
@needs_openmp
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_of_a_pool_use_one_thread_unless_told(method: str, tmp_path: Path) -> None:
    """As forked ones do, which cannot use more: so many workers as processors, and no more threads than those."""
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    done = run_python(str(script), method)
    assert (done.stdout.split(), done.returncode) == (["1"] * 8, 0), done.stderr
    told = run_python(str(script), method, OMP_NUM_THREADS=str(len(os.sched_getaffinity(0))))
    assert told.stdout.split() == [str(len(os.sched_getaffinity(0)))] * 8, told.stderr


LOKY = """
import sys
import numpy as np
import joblib
from test_runtime import several_ops
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
