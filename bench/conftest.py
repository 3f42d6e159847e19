"""Shared parts of the benchmarks: peers, machine record, and the copy used as the reference."""

from __future__ import annotations

from functools import cache

import pytest

import cregkit
from cregkit.benchmark import report
from cregkit.benchmark.peers import PEERS, Torch
from cregkit.benchmark.roofline import copies
from cregkit.benchmark.timing import measure

collect_ignore = ["bench_models.py", "bench_torch.py"]  # scripts, which need PyTorch

COPY_SECONDS = 0.2


@cache
def peer(name, n_threads):
    """Return the adapter of a peer for a number of threads."""
    return next(kind for kind in PEERS if kind.name == name)(n_threads)


@cache
def copy_seconds(n_bytes, n_threads):
    """Return the time of the fastest copy that moves ``n_bytes``."""
    torch = Torch(n_threads).module if Torch.available() else None
    times = measure(copies(n_bytes, n_threads, torch), COPY_SECONDS)
    return min(measurement.quartile for measurement in times.values())


@pytest.fixture(params=sorted({1, cregkit.get_num_threads()}), ids=lambda n: f"{n} thread{'s'[: n > 1]}")
def n_threads(request):
    """Run the benchmark on one thread, and on all."""
    with cregkit.num_threads(request.param):
        yield request.param


def pytest_benchmark_update_machine_info(config, machine_info):
    """Add cregkit's description of the machine to pytest-benchmark's record."""
    installed = [peer(kind.name, cregkit.get_num_threads()) for kind in PEERS if kind.available()]
    machine_info["cregkit"] = report.machine(installed)
