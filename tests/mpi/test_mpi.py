"""Training on several processes: each test starts the ranks of a program, with a time limit."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import PYTHONPATH

import cregkit

pytest.importorskip("mpi4py")
beside = Path(sys.executable).with_name("mpiexec")
MPIEXEC = str(beside) if beside.exists() else shutil.which("mpiexec")
pytestmark = pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec is installed")

SIZES = (1, 2, 3, 4)
SECONDS = 60


def started(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program on this number of ranks, on one thread each."""
    environment = {
        **os.environ,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": PYTHONPATH,
    }
    command = [str(MPIEXEC), "-n", str(ranks), sys.executable, str(Path(__file__).with_name("mpi_programs.py"))]
    return subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def run(ranks: int, *arguments: str) -> Any:
    """The result that rank 0 prints."""
    done = started(ranks, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def fitted(ranks: int, *arguments: str) -> Any:
    return run(ranks, "training", *arguments)


@pytest.mark.parametrize("ranks", SIZES)
def test_batch_norm_is_that_of_one_process_on_the_whole_batch(ranks: int) -> None:
    errors = run(ranks, "batch_norm")
    assert errors["y"] <= 1e-6
    assert errors["dx"] <= 2e-6  # gradients of up to 4
    assert errors["dgamma"] <= 1e-5  # sums of up to 72 products of numbers up to 10
    assert errors["dbeta"] <= 1e-5
    assert errors["running"] <= 1e-6


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_single_value_in_all_ranks_is_refused(ranks: int) -> None:
    assert "at least two values per channel in training, got 1 in all processes" in run(ranks, "one_value")


@pytest.mark.parametrize("ranks", SIZES[1:])
def test_masks_are_those_of_the_samples(ranks: int) -> None:
    assert run(ranks, "masks") == run(1, "masks")


@pytest.mark.parametrize("fixed_order", ["", "yes"])
@pytest.mark.parametrize("ranks", SIZES[1:])
def test_the_loss_curve_is_that_of_one_rank(ranks: int, fixed_order: str) -> None:
    alone, together = fitted(1), fitted(ranks, fixed_order)
    assert len(alone["loss"]) == 10
    np.testing.assert_allclose(together["loss"], alone["loss"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(together["test"], alone["test"], rtol=0, atol=1e-4)
    assert alone["loss"][-1] < 0.8 * alone["loss"][0]


@pytest.mark.parametrize("ranks", SIZES[1:])
def test_samples_are_augmented_as_in_one_rank(ranks: int) -> None:
    alone, together = fitted(1, "", "2000", "yes"), fitted(ranks, "", "2000", "yes")
    np.testing.assert_allclose(together["loss"], alone["loss"], rtol=0, atol=1e-4)
    assert alone["loss"] != fitted(1)["loss"]


@pytest.mark.parametrize("kind", ["weights", "ignored", "iterable"])
def test_a_weighted_fit_is_that_of_one_rank(kind: str) -> None:
    alone = run(1, "weighted", kind)
    for ranks in SIZES[1:]:
        together = run(ranks, "weighted", kind)
        for name, tolerance in (("loss", 1e-4), ("accuracy", 1e-9), ("metric", 1e-4)):
            np.testing.assert_allclose(together[name], alone[name], rtol=0, atol=tolerance)


def test_a_fixed_order_gives_the_same_bits_for_any_bucket_size() -> None:
    assert run(3, "training", "yes") == run(3, "training", "yes", "1000000")


def test_a_run_resumes_with_another_number_of_ranks(tmp_path: Path) -> None:
    whole = run(1, "stopping", str(tmp_path / "whole.npz"), "8")
    for before, after in ((3, 2), (1, 4)):
        file = str(tmp_path / f"{before}.npz")
        run(before, "stopping", file, "5")
        resumed = run(after, "stopping", file, "8", "resume")
        np.testing.assert_allclose(resumed["loss"], whole["loss"], rtol=0, atol=1e-4)
        assert resumed["best"] == whole["best"]


@pytest.mark.parametrize("kind", ["cosine", "plateau"])
def test_all_ranks_have_the_lr_of_one_process(kind: str, tmp_path: Path) -> None:
    whole = run(1, "scheduled", kind, str(tmp_path / "whole.npz"), "8")
    assert len(set(whole["rates"])) > 1
    path = str(tmp_path / "run.npz")
    first = run(3, "scheduled", kind, path, "5")
    resumed = run(2, "scheduled", kind, path, "8", "resume")
    assert first["rates"] + resumed["rates"] == whole["rates"]
    np.testing.assert_allclose(resumed["loss"], whole["loss"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("shape", "the network of rank 2 must equal that of rank 0: got 0.weight float32"),
        ("layers", "the network of rank 2 must equal that of rank 0: got 14 arrays, rank 0 has 16"),
        ("version", "cregkit's version of rank 2 must equal that of rank 0: got 0.0.1, rank 0 has "),
    ],
)
def test_ranks_that_differ_are_named(kind: str, message: str) -> None:
    assert message in run(3, "mismatch", kind)


@pytest.mark.parametrize(("kind", "message"), [("failing", "a rank without luck"), ("killed", "signal 9")])
def test_a_rank_that_ends_ends_all_ranks(kind: str, message: str) -> None:
    """Within the time limit of `started`: if not all ranks ended, the others would wait for ever."""
    done = started(3, kind)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["data", "sync", "lr"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_fit_that_diverges_ends_in_all_ranks(kind: str, ranks: int, tmp_path: Path) -> None:
    found = run(ranks, "diverging", kind, str(tmp_path / "run.npz"))
    epoch, step, _ = found["diverged"]
    assert (epoch, step) == ((0, 1) if kind == "lr" else (1, 2))
    assert found["epochs"] == epoch + 1
    assert len(found["warned"][0]) == 1
    assert not any(found["warned"][1:])
    assert (tmp_path / "run.npz").exists() == (kind != "lr")


def test_a_step_that_fails_in_one_rank_fails_in_all() -> None:
    assert run(3, "bad_step") == "groups[1].lr must be finite and at least 0, got -3.0"


def test_a_checkpoint_that_one_rank_refuses_is_refused_in_all(tmp_path: Path) -> None:
    assert "seed was 7, is 8" in run(3, "other_seed", str(tmp_path / "run.npz"))


def test_ids_are_split_over_ranks_like_other_samples() -> None:
    np.testing.assert_allclose(run(4, "ids"), run(1, "ids"), rtol=0, atol=1e-4)


def test_an_error_of_the_writing_rank_is_raised_in_all() -> None:
    assert run(3, "no_file", "/no/such/folder/run.npz") == " ".join(["FileNotFoundError"] * 3)


NETWORK = cregkit.Sequential(cregkit.Linear(2, 2))
VIRTUAL = cregkit.Sequential(cregkit.BatchNorm(2), cregkit.BatchNorm(2, virtual_batch_size=4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda mpi: mpi.SyncBatchNorm(3, comm="world"), TypeError, "comm must be an mpi4py communicator"),
        (lambda mpi: mpi.convert("network"), TypeError, "network must be a Layer, got str"),
        (
            lambda mpi: mpi.convert(VIRTUAL),
            ValueError,
            "network must have no BatchNorm with a virtual_batch_size.*got 4",
        ),
        (lambda mpi: mpi.DataParallel(3), TypeError, "network must be a Layer, got int"),
        (lambda mpi: mpi.DataParallel(NETWORK, bucket_bytes=0), ValueError, "bucket_bytes must be"),
    ],
)
def test_wrong_arguments_are_refused_by_name(call: Any, error: type[Exception], message: str) -> None:
    from cregkit import mpi

    with pytest.raises(error, match=message):
        call(mpi)
    assert type(VIRTUAL.layers[0]) is cregkit.BatchNorm  # nothing is converted


def test_convert_keeps_arrays_and_settings() -> None:
    from cregkit import mpi

    norm = cregkit.BatchNorm(3, momentum=0.3, unbiased=True)
    gamma, x = norm.gamma, np.random.default_rng(0).standard_normal((8, 3), np.float32)
    wanted = cregkit.BatchNorm(3, momentum=0.3, unbiased=True)(x)
    network = mpi.convert(cregkit.Sequential(norm))
    assert type(norm) is mpi.SyncBatchNorm
    assert norm.gamma is gamma
    np.testing.assert_allclose(network(x), wanted, atol=1e-6)
    assert mpi.convert(network) is network
