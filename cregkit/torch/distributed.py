"""Batch norm over a batch that is split over processes of ``torch.distributed``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cregkit.batch_sums import Doubles
from cregkit.torch import functional
from cregkit.torch.bridge import Refused, is_float32
from cregkit.torch.modules import Proxy, fx_node, stock_method, with_statistics
from cregkit.torch.private import check_channels, check_input, is_watched

__all__ = ["SyncBatchNorm"]


class SyncBatchNorm(nn.SyncBatchNorm):
    """``torch.nn.SyncBatchNorm`` that supports float32 tensors on the CPU too, for example with the gloo backend.

    Each process holds a part of the batch, of any size, including 0. In training mode, count, mean and sum of squared
    deviations of all processes are merged in the order of the ranks, with one ``all_gather`` per forward and one per
    backward. All processes get bit-identical statistics, including the running statistics. As in PyTorch, the gradients
    of ``weight`` and ``bias`` are those of the process's own part. Tensors on other devices go to PyTorch's
    implementation.

    ``DistributedDataParallel`` does not accept a CPU model that contains a ``SyncBatchNorm``. Wrap the model with
    ``BatchNorm`` modules first, then call ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` and
    ``cregkit.torch.convert`` on the wrapped model.

    Raises
    ------
    ValueError
        A channel has fewer than two values in all processes together.
    RuntimeError
        A process was lost, or a higher-order gradient is requested.

    References
    ----------
    Ioffe and Szegedy (2015), "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", arXiv:1502.03167.

    Chan, Golub and LeVeque (1983), "Algorithms for Computing the Sample Variance", The American Statistician 37 (the
    merge).

    Examples
    --------
    In a single process, it is the same as ``BatchNorm1d``.

    >>> import torch
    >>> import cregkit.torch
    >>> norm = cregkit.torch.SyncBatchNorm(2, affine=False)
    >>> norm(torch.tensor([[1.0, 10.0], [3.0, 30.0]])).round(decimals=3)
    tensor([[-1., -1.],
            [ 1.,  1.]])
    """

    _stock_forward = stock_method(nn.SyncBatchNorm.forward)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise with statistics of all processes (training mode) or the running statistics (evaluation mode)."""
        return (
            self._stock_forward(input)
            if torch.jit.is_scripting()
            else fx_node(self, input)
            if isinstance(input, Proxy)
            else _forward(self, input)
        )


def _forward(module: SyncBatchNorm, input: Tensor) -> Tensor:
    group = _group(module)
    if group is not None and (not is_float32(input) or is_watched()):
        y: Tensor = module._stock_forward(input)
        return y
    check_input(module, input)
    check_channels(module, input)
    return with_statistics(module, input, functional.batch_norm if group is None else partial(_batch_norm, group))


def _group(module: SyncBatchNorm) -> Any:
    """Return the group of processes that share the batch; None if statistics are not shared."""
    if not (module.training and dist.is_available() and dist.is_initialized()):
        return None
    return module.process_group or dist.group.WORLD


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _batch_norm(group: Any, x: Tensor, *rest: Any) -> Tensor:
    compute: Callable[..., Tensor] = partial(functional._batch_norm, gather=partial(_gathered, group))
    try:
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            return compute(x.permute(0, 2, 3, 1), *rest, channel_axis=-1).permute(0, 3, 1, 2)
        return compute(x.contiguous(), *rest, channel_axis=1)
    except Refused as refused:  # PyTorch's function would use this process's part of the batch alone
        raise refused.__cause__ or refused from None


def _gathered(group: Any, own: Doubles) -> list[Doubles]:
    """Return the rows of all processes in the order of the ranks."""
    rows = [torch.empty(own.size, dtype=torch.float64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(rows, torch.from_numpy(own), group=group)
    return [np.asarray(row) for row in rows]
