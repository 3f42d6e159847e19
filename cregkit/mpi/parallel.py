"""Data-parallel training: each process computes a part of every batch, and all take the same step.

A batch of n samples is divided into one contiguous part per rank; the first n % size parts have one sample more, and a
part may be empty. A rank's mean loss and its gradient are scaled by the rank's fraction of the batch, or of its total
weight, so the sum over the ranks is the gradient of the batch. The sum is computed in buckets while backward runs: a
full bucket starts a non-blocking all-reduce. Dropout uses the positions of the samples in the whole batch. A run on
several ranks therefore equals a run on one, except for the order in which gradients are added, and for the scale of
DropBlock, which each rank computes for its part of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

import cregkit
from cregkit import _validate as validate
from cregkit.layers import Dropout, Layer
from cregkit.layers.base import Array
from cregkit.layers.precision import rounded
from cregkit.mpi.communicator import TRAFFIC, Comm, abort_all_on_exception, checked_comm, gathered
from cregkit.train.data import Batches, Inputs, Samples
from cregkit.train.evaluation import Accuracy, Figures, Metric, called, evaluation, fitted, merged, metric_values
from cregkit.train.losses import Loss, Targets
from cregkit.train.optimizers import Optimizer
from cregkit.train.parallel import Parallel, check_loss
from cregkit.train.weights import Weights, counts_samples, total_weight

T = TypeVar("T")


class DataParallel(Parallel):
    """Train one network on all processes: ``fit(network, ..., parallel=DataParallel(network))`` in every process.

    The constructor compares the ranks (cregkit version; names, shapes and dtypes of parameters and buffers) and
    broadcasts the state of rank 0: parameters, running statistics and dropout seeds. From then on, an unhandled
    exception in any rank aborts all processes.

    Parameters
    ----------
    network
        Layer to train, constructed with the same arguments in every rank. ``cregkit.mpi.convert`` synchronises its
        BatchNorms.
    comm
        Communicator of the ranks; None selects ``MPI.COMM_WORLD``.
    bucket_bytes
        Size from which a bucket of gradients is sent, in bytes, at least 1.
    fixed_order
        Whether to add gradients in rank order, which makes the result of a given number of ranks bit-identical on any
        MPI library. Each rank then receives ``size`` times as many bytes.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has the wrong value, or the ranks differ; raised in all ranks, with the first rank that differs.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.mpi import DataParallel
    >>> from cregkit.train import SGD, fit, mean_squared_error
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> network = Linear(1, 1, seed=0)
    >>> parallel = DataParallel(network)
    >>> history = fit(network, mean_squared_error, SGD(network, 0.1), (x, 3 * x), None, 50, seed=0, parallel=parallel)
    >>> history.train_loss[-1] < 1e-3
    True
    """

    def __init__(
        self, network: Layer, comm: Comm | None = None, *, bucket_bytes: int = 1 << 20, fixed_order: bool = False
    ) -> None:
        """Compare the ranks and broadcast the state of rank 0."""
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
        """Raise in all ranks if any differs from rank 0."""
        of_all = self.comm.allgather(own)
        for rank, found in enumerate(of_all):
            if found != of_all[0]:
                raise ValueError(f"{what} of rank {rank} must equal that of rank 0: {_difference(found, of_all[0])}")

    def bounds(self, n: int) -> tuple[int, int]:
        """Return the bounds (start, stop) of this rank's part of ``n`` samples."""
        rank, size = self.comm.rank, self.comm.size
        return tuple(i * (n // size) + min(i, n % size) for i in (rank, rank + 1))  # type: ignore[return-value]

    def own(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this rank's part of a batch, and set its position in the batch for dropout."""
        start, stop = self.bounds(len(rows))
        self._batch = len(rows)
        self._set_part((start, len(rows)))
        return rows[start:stop]

    def _set_part(self, part: tuple[int, int] | None) -> None:
        for _, layer in self.network._walk():
            if isinstance(layer, Dropout) and layer._of_samples:
                layer._part = part

    def from_leader(self, function: Callable[[], T]) -> T:
        """Call ``function`` in rank 0; return its result, or raise its exception, in all ranks."""
        result, failure = self.comm.bcast(_attempt(function) if self.leads else None)
        if failure is not None:
            raise failure
        return result[0]  # type: ignore[no-any-return]

    def any(self, here: bool) -> bool:
        """Return whether ``here`` is true in any rank."""
        return bool(gathered(self.comm, np.array([float(here)])).any())

    def in_all(self, function: Callable[[], T]) -> T:
        """Call ``function`` in every rank and return its result; if any raise, all raise the first exception."""
        result, failure = _attempt(function)
        self._raise_first(failure, of_any=self.any(failure is not None))
        return result[0]

    def _raise_first(self, failure: Exception | None, *, of_any: bool) -> None:
        """Raise the exception of the first failed rank in all ranks, if any has failed."""
        if of_any:
            raise next(error for error in self.comm.allgather(failure) if error is not None)

    def step(
        self,
        network: Layer,
        loss: Loss,
        optimizer: Optimizer,
        x: Inputs,
        targets: Targets,
        sample_weight: Weights | None = None,
    ) -> float:
        """Take one optimiser step on a batch of which this rank holds ``x`` and ``targets``.

        Parameters
        ----------
        network, loss, optimizer
            As for ``train_step``.
        x, targets, sample_weight
            This rank's part of the batch, and its weights, or None in all ranks.

        Returns
        -------
        float
            Loss of the whole batch before the step.

        Raises
        ------
        DivergenceError
            The loss of the batch or a gradient is not finite; raised in all ranks, and no parameter is changed.
        """
        outputs = network(x)
        wanted = fitted(targets, outputs)
        share = self._share(loss, wanted, sample_weight)
        value, gradient = called(loss, outputs, wanted, sample_weight) if len(x) else (0.0, np.zeros_like(outputs))
        buckets = _Buckets(self.comm, self.bucket_bytes, self.fixed_order)
        with buckets.filled_by(network):
            network.backward(rounded(gradient * np.float32(share), gradient.dtype))
        buckets.finish(network)
        self._set_part(None)
        changes, failure = _attempt(optimizer._checked)
        losses, failures = gathered(self.comm, np.array([share * value, failure is not None])).T
        mean = float(losses.sum())
        check_loss(mean)
        self._raise_first(failure, of_any=bool(failures.any()))
        optimizer._take(changes[0])
        return mean

    def _share(self, loss: Loss, targets: Targets, sample_weight: Weights | None) -> float:
        """Return the weight of this rank's part in the mean over the batch."""
        if counts_samples(loss, sample_weight):
            return len(targets) / self._batch
        own = total_weight(loss, targets, sample_weight) if len(targets) else 0.0
        total = gathered(self.comm, np.array([own])).sum()
        return float(own / total) if total else 0.0

    def evaluate(
        self,
        network: Layer,
        loss: Loss,
        data: Samples | Batches,
        accuracy: Accuracy,
        metrics: Mapping[str, Metric] = MappingProxyType({}),
    ) -> Figures:
        """Return the mean loss, the accuracy and the metrics on ``data``, of which each rank evaluates a part."""
        own = evaluation(network, loss, accuracy, data, keep=bool(metrics), bounds=self.bounds)
        of_ranks = gathered(self.comm, np.array([*own.loss, *own.accuracy])).tolist()
        kept = [batch for rank in self.comm.allgather(own.kept) for batch in rank] if metrics else []
        mean_loss, mean_accuracy = (merged([(row[i], row[i + 1]) for row in of_ranks])[1] for i in (0, 2))
        return Figures(mean_loss, mean_accuracy, metric_values(metrics, kept))


def _attempt(function: Callable[[], T]) -> tuple[list[T], Exception | None]:
    """Return ([result], None), or ([], exception) if ``function`` raised one."""
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
        return f"got {a}, rank 0 has {b}"
    return f"got {found}, rank 0 has {wanted}"


class _Buckets:
    """Buckets of the gradients of one backward, summed over all ranks."""

    def __init__(self, comm: Comm, n_bytes: int, fixed_order: bool) -> None:
        self._comm, self._n_bytes, self._fixed_order = comm, n_bytes, fixed_order
        self._waiting: list[Array] = []
        self._sent: list[tuple[list[Array], Array, MPI.Request]] = []
        self._seen: set[int] = set()

    @contextmanager
    def filled_by(self, network: Layer) -> Iterator[None]:
        """Collect the gradients of each layer while backward runs."""
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
            MPI.Request.Testall([request for *_, request in self._sent])  # drives MPI's progress

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
        """Send the last bucket, wait for all, and write the sums into the gradients."""
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
