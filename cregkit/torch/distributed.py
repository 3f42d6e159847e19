"""Batch norm with the statistics of a batch that several processes of ``torch.distributed`` hold."""

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
from cregkit.torch.bridge import is_float32, is_watched
from cregkit.torch.modules import Proxy, fx_node, stock_method, with_statistics

__all__ = ["SyncBatchNorm"]


class SyncBatchNorm(nn.SyncBatchNorm):
    """``torch.nn.SyncBatchNorm``, which computes float32 tensors on the CPU too: by the gloo backend, for example.

    Each process has a part of the batch, of any size, none included. In training, every process's count, mean and sum
    of squared deviations are put together in the order of the ranks (Chan, Golub and LeVeque, 1983), so that all have
    the same statistics, running ones too, to the last bit: one ``all_gather`` per forward and one per backward. The
    gradients of ``weight`` and ``bias`` are those of the process's own part, as PyTorch's are. Tensors on other devices
    go to PyTorch's own implementation.

    ``DistributedDataParallel`` averages the gradients, but refuses to be made of a model on the CPU with PyTorch's
    module or a subclass in it; so wrap the model first::

        model = DistributedDataParallel(model)  # with BatchNorm
        model = cregkit.torch.convert(torch.nn.SyncBatchNorm.convert_sync_batchnorm(model))

    Ioffe and Szegedy (2015), "Batch Normalization", arXiv:1502.03167.

    Raises:
        ValueError: A channel has fewer than two values in all processes together.
        RuntimeError: A process was lost, or the gradient of a gradient is asked for.
    """

    _stock_forward = stock_method(nn.SyncBatchNorm.forward)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise with the statistics of all parts in training, with the running ones in evaluation."""
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
    module._check_input_dim(input)
    module._check_non_zero_input_channels(input)
    return with_statistics(module, input, functional.batch_norm if group is None else partial(_batch_norm, group))


def _group(module: SyncBatchNorm) -> Any:
    """The processes that share a batch, None where there is nothing to share."""
    if not (module.training and dist.is_available() and dist.is_initialized()):
        return None
    return module.process_group or dist.group.WORLD


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _batch_norm(group: Any, x: Tensor, *rest: Any) -> Tensor:
    compute: Callable[..., Tensor] = partial(functional._batch_norm, gather=partial(_gathered, group))
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return compute(x.permute(0, 2, 3, 1), *rest, channel_axis=-1).permute(0, 3, 1, 2)
    return compute(x.contiguous(), *rest, channel_axis=1)


def _gathered(group: Any, own: Doubles) -> list[Doubles]:
    """The rows of all processes in the order of their ranks."""
    rows = [torch.empty(own.size, dtype=torch.float64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(rows, torch.from_numpy(own), group=group)
    return [np.asarray(row) for row in rows]
