"""Communication time of data-parallel training, measured, and predicted by a model for more ranks.

    python bench/bench_mpi.py                                      # runs 1, 2 and 4 ranks, one after another
    python bench/bench_mpi.py --latency 2e-6 --bandwidth 12e9      # the model for another network

Every rank has 64 samples of each batch (weak scaling) and one thread. Latency and bandwidth of a message between two
ranks are measured in shared memory; ranks share cores if there are more ranks than cores.

The model, for N ranks, gradients of B bytes in k buckets, and e SyncBatchNorm exchanges of b bytes per step:
    ring all-reduce of n bytes   2 (N - 1) latency + 2 (N - 1) / N * n / bandwidth
    exchange                     log2(N) latency + (N - 1) b / bandwidth
    step                         compute + exchanges + last bucket + other buckets as far as backward does not hide them
It assumes that each rank has its own cores and network port, that compute takes as long as on one rank here, two thirds
of it in backward, which overlaps with all buckets but the last, and that there are no stragglers and no congestion.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import add_option, circumstances, machine, store

RANKS, PREDICTED = (1, 2, 4), (64, 1024)
SAMPLES, WIDTH, STEPS, WARM_UP = 64, 1024, 60, 10
BUCKET_BYTES = 1 << 20
BACKWARD = 2 / 3
SMALL, LARGE = 8, 8 << 20


def step_figures() -> dict[str, float]:
    """Return the measurements of one rank's steps."""
    import numpy as np
    from mpi4py import MPI

    import cregkit as ck
    from cregkit import mpi
    from cregkit.train import SGD, softmax_cross_entropy

    comm = MPI.COMM_WORLD
    layers: list[ck.Layer] = []
    for before in (256, WIDTH):
        layers += [ck.Linear(before, WIDTH, seed=1), ck.BatchNorm(WIDTH), ck.ReLU(), ck.Dropout(0.3, seed=2)]
    network = mpi.convert(ck.Sequential(*layers, ck.Linear(WIDTH, 10, seed=3)))
    together = mpi.DataParallel(network, bucket_bytes=BUCKET_BYTES)
    optimizer = SGD(network, lr=1e-3)
    x = np.random.default_rng(comm.rank).standard_normal((SAMPLES, 256), np.float32)
    labels = np.arange(SAMPLES) % 10
    times = []
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            sent, waited = mpi.TRAFFIC.bytes, mpi.TRAFFIC.seconds
        comm.Barrier()
        start = time.perf_counter()
        together.own(np.arange(SAMPLES * comm.size))
        together.step(network, softmax_cross_entropy, optimizer, x, labels)
        times.append(time.perf_counter() - start)
    return {
        "step": float(np.median(times[WARM_UP:])),
        "messages": (mpi.TRAFFIC.seconds - waited) / STEPS,
        "bytes": (mpi.TRAFFIC.bytes - sent) / STEPS,
        "gradient_bytes": float(sum(parameter.value.nbytes for parameter in network.parameters())),
        "exchange_bytes": 8.0 * (1 + 2 * WIDTH),
        "exchanges": 4.0,
        "one_way_small": ping(SMALL),
        "one_way_large": ping(LARGE),
    }


def ping(n_bytes: int) -> float:
    """Return the one-way time of a message between ranks 0 and 1, in seconds: half the median round trip."""
    import numpy as np
    from mpi4py import MPI

    comm, data = MPI.COMM_WORLD, np.zeros(n_bytes, np.uint8)
    if comm.size < 2 or comm.rank > 1:
        return math.nan
    times = []
    for _ in range(50):
        start = time.perf_counter()
        for sender in (0, 1):
            if comm.rank == sender:
                comm.Send(data, 1 - sender)
            else:
                comm.Recv(data, 1 - comm.rank)
        times.append((time.perf_counter() - start) / 2)
    return float(np.median(times))


def measured(ranks: int) -> dict[str, float]:
    """Return rank 0's measurements in a run of ``ranks`` ranks."""
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec") or sys.exit("mpiexec is not installed")
    environment = {
        **os.environ,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [mpiexec, "-n", str(ranks), sys.executable, __file__, "--rank"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def predicted(ranks: int, one: dict[str, float], latency: float, bandwidth: float) -> tuple[float, float]:
    """Return the model's seconds per step, and the seconds of communication not hidden by compute."""

    def ring(n_bytes: float) -> float:
        return 2 * (ranks - 1) * latency + 2 * (ranks - 1) / ranks * n_bytes / bandwidth

    buckets = math.ceil(one["gradient_bytes"] / BUCKET_BYTES)
    bucket = one["gradient_bytes"] / buckets
    exchange = math.log2(ranks) * latency + (ranks - 1) * one["exchange_bytes"] / bandwidth
    visible = max(0.0, (buckets - 1) * ring(bucket) - BACKWARD * one["step"])
    visible += ring(bucket) + one["exchanges"] * exchange
    return one["step"] + visible, visible


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, metavar="SECONDS", help="of a message (default: as measured)")
    parser.add_argument("--bandwidth", type=float, metavar="BYTES/S", help="of a link (default: as measured)")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    add_option(parser)
    asked = parser.parse_args()
    if asked.rank:
        print_figures(step_figures())
        return
    before = {**circumstances(), "threads": 1}
    print(f"{machine(before)}, {os.cpu_count()} cores")
    found = {ranks: measured(ranks) for ranks in RANKS}
    print(f"{SAMPLES} samples per rank, {found[1]['gradient_bytes'] / 1e6:.2f} MB of gradients")
    print(f"{'ranks':>6}{'MB/step':>12}{'ms/step':>12}{'ms in messages':>16}{'samples/s':>12}")
    for ranks, f in found.items():
        rate = SAMPLES * ranks / f["step"]
        print(f"{ranks:6}{f['bytes'] / 1e6:12.2f}{f['step'] * 1e3:12.2f}{f['messages'] * 1e3:16.2f}{rate:12.0f}")
    latency = asked.latency or found[2]["one_way_small"]
    bandwidth = asked.bandwidth or (LARGE - SMALL) / (found[2]["one_way_large"] - found[2]["one_way_small"])
    print(f"\nmodel: latency {latency * 1e6:.1f} us, bandwidth {bandwidth / 1e9:.2f} GB/s, {BUCKET_BYTES}-byte buckets")
    print(f"{'ranks':>6}{'ms/step':>12}{'ms visible':>12}{'efficiency':>12}")
    model = []
    for ranks in (*RANKS[1:], *PREDICTED):
        step, visible = predicted(ranks, found[1], latency, bandwidth)
        print(f"{ranks:6}{step * 1e3:12.2f}{visible * 1e3:12.2f}{found[1]['step'] / step:12.0%}")
        model.append({"ranks": ranks, "step": step, "visible": visible})
    if asked.record:
        rows = [{"ranks": ranks, **figures} for ranks, figures in found.items()]
        network = {"samples": SAMPLES, "cores": os.cpu_count(), "latency": latency, "bandwidth": bandwidth}
        store(asked.record, "mpi", before, {**network, "measured": rows, "predicted": model})


def print_figures(figures: dict[str, Any]) -> None:
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
