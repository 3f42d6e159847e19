"""``mpiexec -n 4 cregkit lab distributed``: train on the digits with several processes, and report each of them."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import replace
from typing import Any

from cregkit.console import Console
from cregkit.lab.demo import machine_line
from cregkit.lab.experiments.training import digits
from cregkit.layers import BatchNorm, Dropout, Linear, ReLU, Sequential
from cregkit.train import SGD, fit

EPOCHS, BATCH, N_TRAIN = 10, 64, 1000


def network() -> Sequential:
    """Return a perceptron for 8x8 pixels, the same in every process."""
    layers = [Linear(64, 256, seed=1), BatchNorm(256), ReLU(), Dropout(0.3, seed=2)]
    layers += [Linear(256, 128, seed=3), BatchNorm(128), ReLU(), Dropout(0.3, seed=4), Linear(128, 10, seed=5)]
    return Sequential(*layers)


def run(epochs: int | None, json_path: str | None) -> None:
    """Train on all ranks; rank 0 prints and writes the metrics of every rank and of the whole run.

    Parameters
    ----------
    epochs
        Number of epochs, or None for the default.
    json_path
        File for all numbers, or None.

    Raises
    ------
    ImportError
        mpi4py is not installed.
    OSError
        The file cannot be written; raised in all ranks.
    """
    from cregkit import mpi

    net = mpi.convert(network())
    together = mpi.DataParallel(net)
    comm, task = together.comm, digits(0, N_TRAIN)
    before, start = replace(mpi.TRAFFIC), time.perf_counter()
    history = fit(
        net,
        task.loss,
        SGD(net, lr=0.05, momentum=0.9),
        task.train,
        task.test,
        epochs or EPOCHS,
        batch_size=BATCH,
        seed=0,
        progress=True,
        parallel=together,
    )
    first, last = together.bounds(BATCH)
    own = {
        "rank": comm.rank,
        "host": platform.node(),
        "part of batch": last - first,
        "seconds": time.perf_counter() - start,
        "in messages": mpi.TRAFFIC.seconds - before.seconds,
        "messages": mpi.TRAFFIC.messages - before.messages,
        "MB sent": (mpi.TRAFFIC.bytes - before.bytes) / 1e6,
    }
    ranks = comm.gather(own)
    together.from_leader(lambda: _report(ranks or [], vars(history), json_path))


def _report(ranks: list[dict[str, Any]], history: dict[str, Any], json_path: str | None) -> None:
    console = Console()
    console.line(machine_line())
    console.line(f"\ndistributed: scikit-learn's digits, {N_TRAIN} training images, in {len(ranks)} processes")
    cells = [[f"{value:.3f}" if isinstance(value, float) else str(value) for value in rank.values()] for rank in ranks]
    console.table("\nEvery process", list(ranks[0]), cells)
    columns = ("train_loss", "train_acc", "test_loss", "test_acc")
    figures = zip(*(history[name] for name in columns), strict=True)
    rows = [[str(epoch), *(f"{value:.4f}" for value in of_epoch)] for epoch, of_epoch in enumerate(figures)]
    console.table("\nAll together, the same in every process", ["epoch", *columns], rows)
    if json_path:
        with open(json_path, "w", encoding="utf-8") as file:
            json.dump({"ranks": ranks, "history": history}, file, indent=1)
        console.line(f"written {json_path}")
