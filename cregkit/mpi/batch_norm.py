"""Batch norm with the statistics of a batch that several processes hold."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from cregkit.batch_sums import Doubles, Sums, merge_gradient_sums, merge_moments
from cregkit.layers import BatchNorm, Layer
from cregkit.mpi.communicator import Comm, checked_comm, gathered


class SyncBatchNorm(BatchNorm):
    """``BatchNorm`` over the batches of all ranks together.

    Each rank has a part of the batch, of any size, none included. In training, every rank's (count, mean, M2) are put
    together in the order of the ranks (Chan, Golub and LeVeque, 1983), so that all have the same statistics, running
    ones too, to the last bit; one exchange per forward, one per backward. ``dgamma`` and ``dbeta`` are those of the
    rank's own part: the sum over the ranks is that of the batch. All ranks must call forward and backward together.

    Args:
        num_features, momentum, eps, unbiased, channel_axis: as for ``BatchNorm``.
        comm: the mpi4py communicator of the ranks; None for all there are.

    Raises:
        TypeError, ValueError: as ``BatchNorm``; a channel must have two values in all ranks together.
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
        """Start as ``BatchNorm`` does."""
        super().__init__(num_features, momentum, eps, unbiased=unbiased, channel_axis=channel_axis)
        self.comm = checked_comm(comm)

    def __deepcopy__(self, memo: dict[int, Any]) -> SyncBatchNorm:
        """Copy all but the communicator, which is shared."""
        twin = copy.copy(self)
        memo[id(self)] = twin
        for name, value in vars(self).items():
            setattr(twin, name, value if name == "comm" else copy.deepcopy(value, memo))
        return twin

    def _settings(self) -> dict[str, Any]:
        """Be taken for a ``BatchNorm``, as which one process may go on with the training of several."""
        return {**super()._settings(), "class": BatchNorm.__name__}

    def _merge_moments(self, count: float, mean: Doubles, m2: Doubles) -> Sums:
        return merge_moments(partial(gathered, self.comm), count, mean, m2)

    def _merge_gradient_sums(self, count: float, sum_dy: Doubles, sum_dy_d: Doubles) -> Sums:
        return merge_gradient_sums(partial(gathered, self.comm), count, sum_dy, sum_dy_d)


def convert(network: Layer, comm: Comm | None = None) -> Layer:
    """Turn every ``BatchNorm`` in ``network`` into a ``SyncBatchNorm``, in place; return the network.

    Parameters, running statistics and settings stay the same arrays, so that optimisers made before go on working.

    Raises:
        TypeError: ``network`` is no Layer, or ``comm`` no communicator.
    """
    if not isinstance(network, Layer):
        raise TypeError(f"network must be a Layer, got {type(network).__name__}")
    comm = checked_comm(comm)
    for _, layer in network._walk():
        if type(layer) is BatchNorm:
            layer.__class__ = SyncBatchNorm
            layer.comm = comm  # type: ignore[attr-defined]
    return network
