"""``mpiexec -n 4 cregkit lab distributed``: train on the digits with several processes, and report each of them."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cregkit.lab.experiments.training import digits
from cregkit.layers import BatchNorm, Dropout, Linear, ReLU, Sequential
from cregkit.train import SGD, fit

EPOCHS, BATCH, N_TRAIN = 10, 64, 1000


def network() -> Sequential:
    """Return a perceptron for 8x8 pixels, the same in every process."""
    layers = [Linear(64, 256, seed=1), BatchNorm(256), ReLU(), Dropout(0.3, seed=2)]
    layers += [Linear(256, 128, seed=3), BatchNorm(128), ReLU(), Dropout(0.3, seed=4), Linear(128, 10, seed=5)]
    return Sequential(*layers)


def run(epochs: int | None, report: Callable[[list[dict[str, Any]], dict[str, Any]], None]) -> None:
    """Train on all ranks; rank 0 calls ``report`` with the measurements of every rank and the history.

    Parameters
    ----------
    epochs
        Number of epochs, or None for the default.
    report
        Function of the list of measurements by rank and the history.

    Raises
    ------
    ImportError
        mpi4py is not installed.
    Exception
        Any exception of ``report`` in rank 0; raised in all ranks.
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
    together.from_leader(lambda: report(ranks or [], vars(history)))
