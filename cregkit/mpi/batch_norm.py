"""Batch norm with statistics over the batches of several processes."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from cregkit import _validate as validate
from cregkit.batch_sums import Doubles, Sums, merge_gradient_sums, merge_moments
from cregkit.layers import BatchNorm, Layer
from cregkit.mpi.communicator import Comm, checked_comm, gathered


class SyncBatchNorm(BatchNorm):
    """``BatchNorm`` with statistics over the batches of all ranks.

    Each rank holds a part of the batch, of any size, possibly empty. In training, the (count, mean, M2) of all ranks
    are merged in rank order, so batch and running statistics are bit-identical on all ranks. There is one MPI_Allgather
    per forward and one per backward. ``dgamma`` and ``dbeta`` are those of the rank's own part; their sum over the
    ranks is the gradient of the batch. All ranks must call forward and backward together.

    Parameters
    ----------
    num_features, momentum, eps, unbiased, channel_axis
        As for ``BatchNorm``.
    comm
        Communicator of the ranks; None selects ``MPI.COMM_WORLD``.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has the wrong value; in forward, also if a channel has fewer than two values over all ranks.

    References
    ----------
    Chan, Golub and LeVeque (1983), "Algorithms for Computing the Sample Variance: Analysis and Recommendations".

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.mpi import SyncBatchNorm
    >>> norm = SyncBatchNorm(1, eps=0.0)
    >>> norm(np.array([[1.0], [3.0]], np.float32)).tolist()
    [[-1.0], [1.0]]
    """

    def __init__(
        self,
        num_features: int,
        momentum: float = 0.1,
        eps: float = 1e-5,
        *,
        unbiased: bool = False,
        channel_axis: int = 1,
        comm: Comm | None = None,
    ) -> None:
        """Validate the settings; parameters and statistics start as in ``BatchNorm``."""
        super().__init__(num_features, momentum, eps, unbiased=unbiased, channel_axis=channel_axis)
        self.comm = checked_comm(comm)

    def __deepcopy__(self, memo: dict[int, Any]) -> SyncBatchNorm:
        """Copy everything but the communicator, which is shared."""
        twin = copy.copy(self)
        memo[id(self)] = twin
        for name, value in vars(self).items():
            setattr(twin, name, value if name == "comm" else copy.deepcopy(value, memo))
        return twin

    def _settings(self) -> dict[str, Any]:
        """Identify as a ``BatchNorm``, so that a run can resume on another number of processes."""
        return {**super()._settings(), "class": BatchNorm.__name__}

    def _merge_moments(self, count: float, mean: Doubles, m2: Doubles) -> Sums:
        return merge_moments(partial(gathered, self.comm), count, mean, m2)

    def _merge_gradient_sums(self, count: float, sum_dy: Doubles, sum_dy_d: Doubles) -> Sums:
        return merge_gradient_sums(partial(gathered, self.comm), count, sum_dy, sum_dy_d)


def convert(network: Layer, comm: Comm | None = None) -> Layer:
    """Convert every ``BatchNorm`` in a network into a ``SyncBatchNorm``, in place.

    Parameters, running statistics and settings remain the same objects, so existing optimisers stay valid.

    Parameters
    ----------
    network
        Any layer.
    comm
        Communicator of the ranks; None selects ``MPI.COMM_WORLD``.

    Returns
    -------
    Layer
        The network itself.

    Raises
    ------
    TypeError
        ``network`` is not a Layer, or ``comm`` is not a communicator.
    ValueError
        A ``BatchNorm`` has a ``virtual_batch_size``. No layer is changed then.

    Examples
    --------
    >>> from cregkit import BatchNorm, Linear, Sequential
    >>> from cregkit.mpi import convert
    >>> [type(layer).__name__ for layer in convert(Sequential(Linear(4, 8), BatchNorm(8))).layers]
    ['Linear', 'SyncBatchNorm']
    """
    if not isinstance(network, Layer):
        raise TypeError(f"network must be a Layer, got {validate.shown(network)}")
    comm = checked_comm(comm)
    norms: list[Any] = [layer for _, layer in network._walk() if type(layer) is BatchNorm]
    for layer in norms:
        if layer.virtual_batch_size is not None:
            raise ValueError(
                f"network must have no BatchNorm with a virtual_batch_size, because statistics are merged over all "
                f"processes, got {layer.virtual_batch_size}: set it to None"
            )
    for layer in norms:
        layer.__class__ = SyncBatchNorm
        layer.comm = comm
    return network
