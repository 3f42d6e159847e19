"""Ctrl-C in a long run: it ends within one second of CPU time and saves what was finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import PYTHONPATH, heeds_ctrl_c

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

FIT = """
import sys
import numpy as np
import cregkit as ck
from cregkit import train

network = ck.Sequential(ck.Linear(64, 256, seed=0), ck.BatchNorm(256), ck.ReLU(), ck.Linear(256, 4, seed=1))
x = np.random.default_rng(0).standard_normal((4096, 64), np.float32)
history = train.fit(network, train.softmax_cross_entropy, train.SGD(network), (x, np.arange(4096) % 4), None, 10**6,
                    seed=0, checkpoint=sys.argv[1], callbacks=[lambda state: print("an epoch", flush=True)])
assert history.interrupted
print(len(history))
"""
COMMAND = ["-W", "error", "-m", "cregkit"]


def processor_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def interrupted(arguments: list[str], started: str) -> tuple[int, str]:
    """Press Ctrl-C half a second after a Python printed `started`; return its exit code and further output.

    It must end within one second of its own CPU time, which does not depend on other processes.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": PYTHONPATH,
        },
        preexec_fn=heeds_ctrl_c,
    )
    with process:
        assert process.stdout is not None
        while started not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(0.5)
        before = processor_seconds(process.pid)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert usage.ru_utime + usage.ru_stime - before < 1.0
    return process.returncode, rest


def test_an_interrupted_fit_keeps_its_whole_epochs(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    code, rest = interrupted(["-c", FIT, str(path)], "an epoch")
    assert code == 0
    with np.load(path, allow_pickle=False) as archive:
        assert len(archive["history/train_loss"]) == int(rest.split()[-1]) >= 1


def test_an_interrupted_lab_run_keeps_its_whole_seeds(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path = tmp_path / "cut.csv"
    lab = ["lab", "batchnorm-lr", "--seeds", "1000", "--epochs", "2", "--csv", str(path)]
    code, rest = interrupted([*COMMAND, *lab], "cregkit")
    assert (code, path.exists()) == (130, True)
    assert "Cut short" in rest


def test_an_interrupted_bench_keeps_its_measurements(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    code, rest = interrupted([*COMMAND, "bench", "--peers", "", "--json", str(path)], "cregkit")
    assert (code, path.exists()) == (130, True)
    assert "cut short" in rest
