"""Programs for the ranks of test_mpi.py: ``mpiexec -n N python mpi_programs.py NAME [ARGUMENT...]``.

Each program compares with one process on the whole batch; rank 0 prints one line.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI
from ranks import parts

import cregkit as ck
from cregkit import mpi
from cregkit.augment import Augmentation, AugmentBatches, Compose, HorizontalFlip, Mixup, RandomCrop
from cregkit.train import (
    SGD,
    AdamW,
    Callback,
    DivergenceWarning,
    EarlyStopping,
    FitState,
    ReduceOnPlateau,
    cosine_schedule,
    fit,
    softmax_cross_entropy,
)

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
    """One value per channel, over all ranks together, is refused in every rank."""
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
    # 50 steps; the last batch of an epoch may have fewer samples than there are ranks
    history = fit(net, softmax_cross_entropy, optimizer, data(131, 0), data(64, 1), 10, batch_size=32, seed=7,
                  callbacks=[watch, *([AugmentBatches(augmentation, (1, 4, 5))] if augmented else [])],
                  parallel=together)  # fmt: skip
    assert all(same_everywhere(array) for array in net.state_dict().values())
    assert all(layer._part is None for layer in net.layers if isinstance(layer, ck.Dropout))
    assert len(set(comm.allgather(str(history.test_loss)))) == 1
    return {"loss": losses, "test": history.test_loss, "bits": [a.tobytes().hex()[:64] for a in net._state().values()]}


@program
def weighted(kind: str) -> dict[str, object]:
    """A fit whose batches have most of their weight in some ranks, and none in others."""
    net = mpi.convert(network())
    x, labels = data(131, 0)
    loss: Callable[..., tuple[float, np.ndarray]] = softmax_cross_entropy
    weight = np.where(np.arange(131) % 32 < 12, 0, 1 + np.arange(131) % 5).astype(np.float32)
    train: Any = (x, labels, weight)
    if kind == "ignored":
        loss = partial(softmax_cross_entropy, ignore_index=-1, class_weight=[1, 2, 3, 4])
        train = (x, np.where(weight > 0, labels, -1))
    if kind == "iterable":
        cuts = range(32, 131, 32)  # the last batch has three samples
        train = list(zip(*(np.split(a, cuts) for a in train), strict=True))
    history = fit(net, loss, SGD(net, lr=0.05, momentum=0.9), train, train, 4, seed=7,
                  metrics={"largest": lambda outputs, targets: float(outputs.max())},
                  parallel=mpi.DataParallel(net))  # fmt: skip
    assert all(same_everywhere(array) for array in net.state_dict().values())
    assert len(set(comm.allgather(str(history.metrics)))) == 1
    return {"loss": history.train_loss, "accuracy": history.test_acc, "metric": history.metrics["test_largest"]}


@program
def masks() -> dict[str, str]:
    """Dropout decisions for the samples of a batch, gathered from the ranks."""
    found = {}
    x = np.ones((11, 3, 7), np.float32)
    kinds = ck.Dropout, ck.SpatialDropout, ck.AlphaDropout, ck.FeatureAlphaDropout, ck.DropPath
    for layer in (*(kind(0.5, seed=9) for kind in kinds), ck.DropPath(0.5, mode="batch", seed=9)):
        together = mpi.DataParallel(ck.Sequential(layer))
        for _ in range(2):  # the second batch continues after the first
            own = together.own(np.arange(len(x)))
            gathered = comm.allgather(layer(x[own]))
        found[str(layer._settings())] = np.concatenate(gathered).tobytes().hex()
    weights = ck.DropConnect(7, 4, seed=9)  # one mask for the whole batch
    own = mpi.DataParallel(ck.Sequential(weights)).own(np.arange(len(x)))
    weights.backward(np.ones_like(weights(x[own])))
    of_ranks = set(comm.allgather((weights.dweight != 0).tobytes().hex()))
    assert len(of_ranks) == 1
    found["DropConnect"] = of_ranks.pop()
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
def scheduled(kind: str, path: str, epochs: str, resume: str = "") -> dict[str, object]:
    """A fit whose lr changes, with a checkpoint."""
    net = mpi.convert(network())
    optimizer = SGD(net, lr=0.05)
    plateau = ReduceOnPlateau(0.5, patience=2, min_delta=0.05)
    callback = cosine_schedule(40, warmup_steps=8) if kind == "cosine" else plateau
    rates: list[float] = []
    history = fit(net, softmax_cross_entropy, optimizer, data(131, 0), data(64, 1), int(epochs), batch_size=32, seed=7,
                  callbacks=[callback, lambda state: rates.append(state.optimizer.lr)], checkpoint=path,
                  resume=bool(resume), parallel=mpi.DataParallel(net))  # fmt: skip
    assert len(set(comm.allgather(str(rates)))) == 1
    assert all(same_everywhere(parameter.value) for parameter in net.parameters())
    return {"loss": history.train_loss, "rates": rates}


@program
def mismatch(kind: str) -> str:
    """The error where one rank has another network."""
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


class NanAt(Callback):
    """Spoils a sample of the last rank before one batch."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.epoch, self.left = epoch, batch

    def on_batch_begin(self, state: FitState, rows: np.ndarray, x: np.ndarray, targets: np.ndarray) -> tuple:
        if state.epoch + 1 == self.epoch:
            self.left -= 1
            if self.left == -1 and comm.rank == comm.size - 1:
                x = x.copy()
                x[0, 0] = np.nan
        return x, targets


@program
def diverging(kind: str, path: str) -> dict[str, object]:
    """A fit that diverges, by the data of one rank or by the step size."""
    net = network()
    net = mpi.convert(net) if kind == "sync" else net
    optimizer = AdamW(net, lr=1e30 if kind == "lr" else 0.01)
    callbacks = [] if kind == "lr" else [NanAt(1, 2)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(net, softmax_cross_entropy, optimizer, data(128, 0), data(64, 1), 6, batch_size=32, seed=7,
                      callbacks=callbacks, checkpoint=path, parallel=mpi.DataParallel(net))  # fmt: skip
    states = [*net.state_dict().values(), *optimizer.state_dict().values()]
    assert all(np.isfinite(state).all() for state in states)
    assert all(same_everywhere(parameter.value) for parameter in net.parameters())
    assert len(set(comm.allgather(str(history.diverged)))) == 1
    warned = comm.allgather([str(warning.message) for warning in caught if warning.category is DivergenceWarning])
    return {"diverged": history.diverged, "epochs": len(history), "warned": warned, "steps": optimizer.steps}


@program
def bad_step() -> str:
    """A step that fails in one rank is taken by none, and every rank raises its error."""
    net = network()
    together = mpi.DataParallel(net)
    optimizer = SGD(net, lr=0.1)
    if comm.rank == comm.size - 1:
        optimizer.groups[1].lr = -3.0
    before = net.state_dict()
    x, targets = data(12, 0)
    own = together.own(np.arange(12))
    try:
        together.step(net, softmax_cross_entropy, optimizer, x[own], targets[own])
    except ValueError as error:
        found = str(error)
    assert all((parameter.value == before[parameter.name]).all() for parameter in net.parameters())
    assert optimizer.steps == 0
    return " ".join(sorted(set(comm.allgather(found))))


@program
def ids() -> list[float]:
    """A transformer on ids; the last batch may have fewer samples than there are ranks."""
    x = np.random.default_rng(0).integers(0, 11, (35, 6))
    net = ck.Transformer(11, 6, 1, 16, 2, dropout=0.2, seed=1)
    both = (x.astype(np.uint8), x[:, ::-1].copy())
    history = fit(net, softmax_cross_entropy, AdamW(net, 0.01), both, both, 6, batch_size=16, seed=7,
                  parallel=mpi.DataParallel(net))  # fmt: skip
    assert all(same_everywhere(array) for array in net.state_dict().values())
    return history.test_loss


@program
def other_seed(path: str) -> str:
    """A checkpoint that one rank refuses is refused by all."""
    for seed, resume in ((7, False), (8 if comm.rank == comm.size - 1 else 7, True)):
        net = network()
        try:
            fit(net, softmax_cross_entropy, SGD(net), data(20, 0), None, 2, seed=seed, checkpoint=path, resume=resume,
                parallel=mpi.DataParallel(net))  # fmt: skip
        except ValueError as error:
            return " ".join(sorted(set(comm.allgather(str(error)))))
    return "nothing"


@program
def no_file(path: str) -> str:
    """Every rank raises the error of the rank that writes."""
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
