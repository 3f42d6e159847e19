"""What the ranks of tests/test_mpi.py run: ``mpiexec -n N python tests/mpi_programs.py NAME [ARGUMENT...]``.

Each program compares with what one process computes on the whole batch, and prints one line from rank 0.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

import numpy as np
from mpi4py import MPI
from ranks import parts

import cregkit as ck
from cregkit import mpi
from cregkit.augment import Augmentation, AugmentBatches, Compose, HorizontalFlip, Mixup, RandomCrop
from cregkit.train import SGD, EarlyStopping, FitState, fit, softmax_cross_entropy

comm = MPI.COMM_WORLD
PROGRAMS: dict[str, Callable[..., object]] = {}


def program(function: Callable[..., object]) -> Callable[..., object]:
    PROGRAMS[function.__name__] = function
    return function


def largest(value: float) -> float:
    return comm.allreduce(value, MPI.MAX)


def same_everywhere(array: np.ndarray) -> bool:
    return len(set(comm.allgather(array.tobytes()))) == 1


@program
def batch_norm() -> dict[str, float]:
    """The largest differences over layouts, offsets and parts."""
    worst = dict.fromkeys(("y", "dx", "dgamma", "dbeta", "running"), 0.0)
    for shape, axis in (((30, 5), 1), ((6, 5, 4, 3), 1), ((6, 4, 3, 5), -1)):
        for offset in (0.0, 1e6):
            for kind in ("even", "uneven", "empty"):
                rng = np.random.default_rng(1)
                x, dy = (rng.standard_normal(shape, np.float32) for _ in range(2))
                x += np.float32(offset)
                whole = ck.BatchNorm(5, channel_axis=axis, unbiased=True)
                own = mpi.SyncBatchNorm(5, channel_axis=axis, unbiased=True)
                whole.gamma[:] = own.gamma[:] = rng.uniform(0.5, 1.0, 5)
                cut = slice(*parts(shape[0], kind, comm.size)[comm.rank : comm.rank + 2])
                y, dx = whole(x), whole.backward(dy)
                found, gradient = own(x[cut]), own.backward(dy[cut])
                for name, a, b in (("y", found, y[cut]), ("dx", gradient, dx[cut])):
                    worst[name] = max(worst[name], float(np.abs(a - b).max(initial=0.0)))
                for name in ("dgamma", "dbeta"):
                    total = comm.allreduce(getattr(own, name))
                    worst[name] = max(worst[name], float(np.abs(total - getattr(whole, name)).max()))
                scale = max(1.0, offset)
                for name in ("running_mean", "running_var"):
                    error = np.abs(getattr(own, name) - getattr(whole, name)).max() / (scale if "mean" in name else 1)
                    worst["running"] = max(worst["running"], float(error))
                    assert same_everywhere(getattr(own, name)), name
    return {name: largest(value) for name, value in worst.items()}


@program
def one_value() -> str:
    """One value a channel in all ranks together is refused in all."""
    try:
        mpi.SyncBatchNorm(3)(np.ones((int(comm.rank == 0), 3), np.float32))
    except ValueError as error:
        return str(error)
    return "nothing"


def network() -> ck.Sequential:
    return ck.Sequential(
        ck.Linear(20, 33, seed=1),
        ck.BatchNorm(33),
        ck.ReLU(),
        ck.Dropout(0.3, seed=2),
        ck.Linear(33, 17, seed=3),
        ck.LayerNorm(17),
        ck.ReLU(),
        ck.Dropout(0.2, seed=5),
        ck.Linear(17, 4, seed=4),
    )


def data(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    x, labels = np.random.default_rng(seed).standard_normal((n, 20), np.float32), np.arange(n) % 4
    x[np.arange(n), labels] += 1.5
    return x, labels


@program
def training(fixed_order: str = "", bucket_bytes: str = "2000", augmented: str = "") -> dict[str, object]:
    """Loss curve, masks and bits of a fit."""
    transform = Compose(HorizontalFlip(), RandomCrop((4, 5), padding=1))
    augmentation = Augmentation(transform, mix=Mixup(alpha=1.0), classes=4, seed=3)
    net = mpi.convert(network())
    together = mpi.DataParallel(net, bucket_bytes=int(bucket_bytes), fixed_order=bool(fixed_order))
    losses: list[float] = []

    def watch(state: FitState) -> None:
        losses.append(state.history.train_loss[-1])

    optimizer = SGD(net, lr=0.05, momentum=0.9, weight_decay=1e-4)
    # 50 steps; the last batch of each epoch has fewer samples than there may be ranks
    history = fit(net, softmax_cross_entropy, optimizer, data(131, 0), data(64, 1), 10, batch_size=32, seed=7,
                  callbacks=[watch, *([AugmentBatches(augmentation, (1, 4, 5))] if augmented else [])],
                  parallel=together)  # fmt: skip
    assert all(same_everywhere(array) for array in net.state_dict().values())
    assert all(layer._part is None for layer in net.layers if isinstance(layer, ck.Dropout))
    assert len(set(comm.allgather(str(history.test_loss)))) == 1
    return {"loss": losses, "test": history.test_loss, "bits": [a.tobytes().hex()[:64] for a in net._state().values()]}


@program
def masks() -> dict[str, str]:
    """Dropout's decisions for the samples of a batch, put together from the ranks."""
    found = {}
    x = np.ones((11, 3, 7), np.float32)
    for layer in (ck.Dropout(0.5, seed=9), ck.SpatialDropout(0.5, seed=9)):
        together = mpi.DataParallel(ck.Sequential(layer))
        for _ in range(2):  # the second batch goes on behind the first
            own = together.own(np.arange(len(x)))
            gathered = comm.allgather(layer(x[own]))
        found[type(layer).__name__] = np.concatenate(gathered).tobytes().hex()
    return found


@program
def stopping(path: str, epochs: str, resume: str = "") -> dict[str, object]:
    """A fit with early stopping and a checkpoint."""
    net = mpi.convert(network())
    stop = EarlyStopping(patience=3)
    history = fit(net, softmax_cross_entropy, SGD(net, lr=0.05), data(131, 0), data(64, 1), int(epochs), batch_size=32,
                  seed=7, callbacks=[stop], checkpoint=path, resume=bool(resume),
                  parallel=mpi.DataParallel(net))  # fmt: skip
    assert len(set(comm.allgather((stop.best_epoch, len(history))))) == 1
    return {"loss": history.train_loss, "best": stop.best_epoch}


@program
def mismatch(kind: str) -> str:
    """What is said where a rank's network is another."""
    net = network()
    odd = comm.rank == comm.size - 1
    if odd and kind == "shape":
        net = ck.Sequential(ck.Linear(20, 34, seed=1), *net.layers[1:])
    if odd and kind == "layers":
        net = ck.Sequential(*net.layers[:-1])
    if odd and kind == "version":
        ck.__version__ = "0.0.1"
    try:
        mpi.DataParallel(net)
    except ValueError as error:
        return str(error)
    return "nothing"


@program
def failing() -> None:
    """One rank raises while the others wait for it."""
    together = mpi.DataParallel(network())
    if comm.rank == comm.size - 1:
        raise RuntimeError("a rank without luck")
    together.any(False)


@program
def killed() -> None:
    """One rank is killed while the others wait for it."""
    together = mpi.DataParallel(network())
    if comm.rank == comm.size - 1:
        os.kill(os.getpid(), 9)
    together.any(False)


@program
def no_file(path: str) -> str:
    """An error of the rank that writes reaches all."""
    net = network()
    try:
        fit(net, softmax_cross_entropy, SGD(net), data(20, 0), None, 1, checkpoint=path, parallel=mpi.DataParallel(net))
    except OSError as error:
        return " ".join(comm.allgather(type(error).__name__))
    return "nothing"


if __name__ == "__main__":
    result = PROGRAMS[sys.argv[1]](*sys.argv[2:])
    if comm.rank == 0:
        print(json.dumps(result))
