"""A converted nn.SyncBatchNorm on several processes of torch.distributed (gloo); every test has a time limit."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import PYTHONPATH

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="PyTorch without gloo"
)

from torch_support import resizable  # noqa: E402

import cregkit  # noqa: E402
import cregkit.torch  # noqa: E402
from cregkit.torch import dispatch  # noqa: E402

SIZES = (1, 2, 3, 4)
SECONDS = 240  # less than a process waits for another in gloo_programs.py


def started(ranks: int, name: str) -> list[subprocess.CompletedProcess[str]]:
    """Run a program in this number of processes, on one thread each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH}
    program = str(Path(__file__).with_name("gloo_programs.py"))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, program, "RANK", str(ranks), f"{folder}/meeting", name]
        processes = [
            subprocess.Popen(
                [*command[:2], str(rank), *command[3:]],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(ranks)
        ]
        try:
            outputs = [process.communicate(timeout=SECONDS) for process in processes]
        finally:
            for process in processes:
                process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


@functools.cache
def run(ranks: int, name: str) -> Any:
    """The result that rank 0 prints."""
    done = started(ranks, name)
    assert all(process.returncode == 0 for process in done), [process.stderr for process in done]
    return json.loads(done[0].stdout.splitlines()[-1])


@pytest.mark.parametrize("ranks", SIZES)
def test_sync_batch_norm_is_batch_norm_of_the_whole_batch(ranks: int) -> None:
    errors = run(ranks, "batch_norm")
    assert errors["y"] <= 1e-6
    assert errors["dx"] <= 2e-6  # gradients of up to 4
    assert errors["weight"] <= 1e-5  # sums of up to 72 products of numbers up to 10
    assert errors["bias"] <= 1e-5
    assert errors["running"] <= 1e-6


@pytest.mark.parametrize("ranks", SIZES)
def test_the_loss_curve_is_that_of_one_process(ranks: int) -> None:
    found = run(ranks, "training")
    np.testing.assert_allclose(found["together"], found["alone"], rtol=0, atol=1e-4)
    assert found["alone"][-1] < 0.5 * found["alone"][0]
    assert found["same"]


def test_evaluation_exchanges_nothing() -> None:
    assert run(3, "evaluation")["error"] <= 1e-6


@resizable
@pytest.mark.parametrize("name", ["fsdp1", "fsdp2"])
def test_a_sharded_model_trains_as_with_the_modules_of_pytorch(name: str) -> None:
    if name == "fsdp2" and not hasattr(pytest.importorskip("torch.distributed.fsdp"), "fully_shard"):
        pytest.skip("this PyTorch has no fully_shard")
    found = run(2, name)
    np.testing.assert_allclose(found["converted"], found["stock"], rtol=0, atol=1e-5)
    assert found["stock"][-1] < found["stock"][0]


@pytest.mark.skipif(dispatch.library is None, reason="cregkit was built without PyTorch")
@pytest.mark.parametrize("name", ["ddp_enabled", "ddp_converted", "fsdp1_flat", "fsdp1_original", "fsdp2_enabled"])
def test_processes_train_on_parts_as_one_does_on_the_whole(name: str) -> None:
    """With the kernels, against PyTorch's in one process: losses, and the parameters at the end."""
    found = run(2, name)
    np.testing.assert_allclose(found["parts"], found["whole"], rtol=0, atol=1e-5)
    assert found["parameters"] <= 1e-6
    assert found["whole"][-1] < found["whole"][0]
    with_kernels, without = found["calls"]
    assert with_kernels > 0
    assert without == 0


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("one value", "ValueError: x must have at least two values per channel in training, got 1 in all processes"),
        ("float64", "ValueError: SyncBatchNorm expected input tensor to be on GPU"),
        ("gradient twice", "RuntimeError: SyncBatchNorm supports first-order gradients only: call backward without"),
        ("one axis", "ValueError: expected at least 2D input (got 1D input)"),
    ],
)
def test_wrong_calls_are_refused_in_all_processes(mistake: str, message: str) -> None:
    assert run(2, "mistakes")[mistake].startswith(message)


def test_a_lost_process_is_an_error_in_the_others() -> None:
    """They notice the closed connection, and do not wait for the timeout of gloo."""
    first, second, third = started(3, "lost")
    assert third.returncode == -9
    for process in (first, second):
        assert process.returncode == 0, process.stderr
    error = json.loads(first.stdout.splitlines()[-1])
    assert error.startswith("RuntimeError: ")
    assert "timed out" not in error.lower()


def test_without_processes_sync_batch_norm_is_batch_norm() -> None:
    layer = torch.nn.SyncBatchNorm(5)
    twin = torch.nn.BatchNorm2d(5)
    cregkit.torch.convert(layer)
    assert repr(layer) == repr(torch.nn.SyncBatchNorm(5))
    assert layer.state_dict().keys() == twin.state_dict().keys()
    for shape in ((2, 5, 3, 3), (16, 5, 64, 64)):
        x = torch.randn(shape)
        torch.testing.assert_close(layer(x), twin(x), rtol=0, atol=2e-6)
    torch.testing.assert_close(layer.running_var, twin.running_var, rtol=0, atol=1e-6)
    assert type(cregkit.torch.revert(layer)) is torch.nn.SyncBatchNorm
