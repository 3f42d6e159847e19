"""Data-parallel training: each process has a part of every batch, and all take the same step.

Design   A batch of n samples is cut into one run of samples per rank, the first n % size one longer; a rank may have
none. The loss of a rank's part, a mean, and its gradient are scaled by the part's share of the batch, so that the sum
of all ranks' gradients is the gradient of the batch. It is formed in buckets, as backward makes the gradients: a full
bucket is sent off and backward goes on meanwhile. Dropout's bits are those of the samples' places in the batch. So a
run on any number of ranks follows that on one, but for the order in which gradients are added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

import cregkit
from cregkit import _validate as validate
from cregkit.layers import Dropout, Layer
from cregkit.layers.base import Array
from cregkit.mpi.communicator import TRAFFIC, Comm, abort_all_on_exception, checked_comm, gathered
from cregkit.train.evaluation import Accuracy, Data, Inputs, evaluate, fitted
from cregkit.train.losses import Loss, Targets
from cregkit.train.optimizers import Optimizer
from cregkit.train.parallel import Parallel, check_loss

T = TypeVar("T")


class DataParallel(Parallel):
    """``fit(network, ..., parallel=DataParallel(network))`` in every process trains one network on all of them.

    Made, it compares the ranks' networks (cregkit's version, names, shapes and dtypes of parameters and buffers) and
    gives all of them the state of rank 0: parameters, running statistics, dropout's seed. From then on, an exception
    that a rank does not handle ends all of them.

    Args:
        network: the layer to train, made alike in every rank; see ``cregkit.mpi.convert`` for its BatchNorms.
        comm: the mpi4py communicator of the ranks; None for all there are.
        bucket_bytes: gradients are sent off as soon as so many bytes have come together.
        fixed_order: add gradients in the order of the ranks, so that the same number of ranks gives the same bits on
            any MPI; each rank then receives ``size`` times as many bytes.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value; or the ranks' networks differ: in all ranks,
            with the rank and what differs there.
    """

    def __init__(
        self, network: Layer, comm: Comm | None = None, *, bucket_bytes: int = 1 << 20, fixed_order: bool = False
    ) -> None:
        """Compare the networks and share rank 0's state."""
        if not isinstance(network, Layer):
            raise TypeError(f"network must be a Layer, got {validate.shown(network)}")
        self.bucket_bytes = validate.positive_int("bucket_bytes", bucket_bytes)
        self.network, self.comm, self.fixed_order = network, checked_comm(comm), bool(fixed_order)
        self.leads = self.comm.rank == 0
        abort_all_on_exception(self.comm)
        self._require_same("cregkit's version", cregkit.__version__)
        self._require_same("the network", [_description(name, array) for name, array in network._state().items()])
        self._require_same("DataParallel's arguments", [bucket_bytes, self.fixed_order])
        network.load_state_dict(self.from_leader(network.state_dict))

    def _require_same(self, what: str, own: Any) -> None:
        """Raise in all ranks if one has something else than rank 0."""
        of_all = self.comm.allgather(own)
        for rank, found in enumerate(of_all):
            if found != of_all[0]:
                raise ValueError(f"{what} of rank {rank} is not that of rank 0: {_difference(found, of_all[0])}")

    def bounds(self, n: int) -> tuple[int, int]:
        """Return where this rank's part of n samples begins and ends."""
        rank, size = self.comm.rank, self.comm.size
        return tuple(i * (n // size) + min(i, n % size) for i in (rank, rank + 1))  # type: ignore[return-value]

    def own(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this rank's part of a batch, and tell dropout where in the batch it is."""
        start, stop = self.bounds(len(rows))
        self._batch = len(rows)
        self._set_part((start, len(rows)))
        return rows[start:stop]

    def _set_part(self, part: tuple[int, int] | None) -> None:
        for _, layer in self.network._walk():
            if isinstance(layer, Dropout):
                layer._part = part

    def from_leader(self, function: Callable[[], T]) -> T:
        """Call ``function`` in rank 0; return its result, or raise its exception, in all."""
        result, failure = self.comm.bcast(_attempt(function) if self.leads else None)
        if failure is not None:
            raise failure
        return result[0]  # type: ignore[no-any-return]

    def any(self, here: bool) -> bool:
        """Return whether it is so in any rank."""
        return bool(gathered(self.comm, np.array([float(here)])).any())

    def in_all(self, function: Callable[[], T]) -> T:
        """Call ``function`` in every rank; return its own result, or raise in all what it raised in the first."""
        result, failure = _attempt(function)
        self._raise_first(failure, of_any=self.any(failure is not None))
        return result[0]

    def _raise_first(self, failure: Exception | None, *, of_any: bool) -> None:
        """Raise in all ranks what the first one that failed has raised, if any has."""
        if of_any:
            raise next(error for error in self.comm.allgather(failure) if error is not None)

    def step(self, network: Layer, loss: Loss, optimizer: Optimizer, x: Inputs, targets: Targets) -> float:
        """Take one step on a batch of which this rank has ``x``; return the loss of the batch before it.

        Raises:
            DivergenceError: the batch's loss or a gradient is not finite; in all ranks, and nothing has been changed.
        """
        outputs = network(x)
        share = len(x) / self._batch
        value, gradient = loss(outputs, fitted(targets, outputs)) if len(x) else (0.0, np.zeros_like(outputs))
        buckets = _Buckets(self.comm, self.bucket_bytes, self.fixed_order)
        with buckets.filled_by(network):
            network.backward(gradient * np.float32(share))
        buckets.finish(network)
        self._set_part(None)
        changes, failure = _attempt(optimizer._checked)
        losses, failures = gathered(self.comm, np.array([share * value, failure is not None])).T
        mean = float(losses.sum())
        check_loss(mean)
        self._raise_first(failure, of_any=bool(failures.any()))
        optimizer._take(changes[0])
        return mean

    def evaluate(self, network: Layer, loss: Loss, data: Data, accuracy: Accuracy) -> tuple[float, float]:
        """Return mean loss and accuracy on ``data``, of which each rank measures a part."""
        n = len(data[0])
        start, stop = self.bounds(n)
        own = np.zeros(2)
        if stop > start:
            part = data[0][start:stop], data[1][start:stop]
            own = np.array(evaluate(network, loss, part, accuracy)) * ((stop - start) / n)
        network.eval()
        mean_loss, mean_accuracy = gathered(self.comm, own).sum(axis=0)
        return float(mean_loss), float(mean_accuracy)


def _attempt(function: Callable[[], T]) -> tuple[list[T], Exception | None]:
    """Return a list with the function's result, empty if it raised, and what it raised."""
    try:
        return [function()], None
    except Exception as error:
        return [], error


def _description(name: str, array: NDArray[Any]) -> str:
    return f"{name} {array.dtype}{list(array.shape)}"


def _difference(found: Any, wanted: Any) -> str:
    if isinstance(found, list):
        pairs = [(a, b) for a, b in zip(found, wanted, strict=False) if a != b]
        a, b = pairs[0] if pairs else (f"{len(found)} arrays", f"{len(wanted)}")
        return f"it has {a} where rank 0 has {b}"
    return f"{found}, not {wanted}"


class _Buckets:
    """The gradients of one backward on their way to the sum over all ranks."""

    def __init__(self, comm: Comm, n_bytes: int, fixed_order: bool) -> None:
        self._comm, self._n_bytes, self._fixed_order = comm, n_bytes, fixed_order
        self._waiting: list[Array] = []
        self._sent: list[tuple[list[Array], Array, MPI.Request]] = []
        self._seen: set[int] = set()

    @contextmanager
    def filled_by(self, network: Layer) -> Iterator[None]:
        """Take each layer's gradients as backward makes them."""
        layers = [layer for _, layer in network._walk()]
        for layer in layers:
            layer._after_backward = self._take
        try:
            yield
        finally:
            for layer in layers:
                layer._after_backward = None

    def _take(self, layer: Layer) -> None:
        if id(layer) in self._seen:
            return
        self._seen.add(id(layer))
        for name in layer._parameters:
            if getattr(layer, name) is not None:
                self._waiting.append(getattr(layer, "d" + name))
        if sum(gradient.nbytes for gradient in self._waiting) >= self._n_bytes:
            self._send()
        with TRAFFIC.waiting():
            MPI.Request.Testall([request for *_, request in self._sent])  # lets MPI go on

    def _send(self) -> None:
        if not self._waiting:
            return
        own = np.concatenate([gradient.ravel() for gradient in self._waiting])
        TRAFFIC.sent(own.nbytes)
        with TRAFFIC.waiting():
            if self._fixed_order:
                received = np.empty((self._comm.size, own.size), np.float32)
                request = self._comm.Iallgather(own, received)
            else:
                received = own
                request = self._comm.Iallreduce(MPI.IN_PLACE, received)
        self._sent.append((self._waiting, received, request))
        self._waiting = []

    def finish(self, network: Layer) -> None:
        """Send the rest, and put the sums in the gradients' places."""
        for _, layer in network._walk():
            if layer._parameters:
                self._take(layer)
        self._send()
        for gradients, received, request in self._sent:
            with TRAFFIC.waiting():
                request.Wait()
            total = received
            if self._fixed_order:
                total = received[0]
                for row in received[1:]:
                    total = total + row
            start = 0
            for gradient in gradients:
                gradient[...] = total[start : start + gradient.size].reshape(gradient.shape)
                start += gradient.size
