"""Which tensors the kernels take, and how they get there and back: without a copy.

A kernel reads a tensor's memory through ``Tensor.numpy()`` and writes into an array of cregkit's recycled pool, which
``torch.from_numpy`` wraps; the memory goes back to the pool when the last tensor that shares it dies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

from cregkit.kernels._threads import get_num_threads, num_threads

T = TypeVar("T")

_tracing_state = torch._C._get_tracing_state
_is_transformed = torch._C._are_functorch_transforms_active
_dispatch_modes = torch._C._len_torch_dispatch_stack

# Elements from which cregkit computes an op: below, PyTorch's own is as quick, because a torch.autograd.Function costs
# as much as a norm of 100 000 elements. Measured with `python bench/bench_torch.py --overhead`, and in models, where
# the code of a call is no longer in the caches when it comes and dropout of 2048 elements did not pay.
SMALLEST = {
    "dropout": 4096,
    "batch_norm": 128 * 1024,
    "layer_norm": 128 * 1024,
    "dropout_add_layer_norm": 16 * 1024,
    "rms_norm": 2048,
    "attention": 16 * 1024,
}

# What ``Tensor.numpy()`` and the kernels raise for what they do not take; nothing is changed then.
REFUSALS = (RuntimeError, TypeError, ValueError)


class Refused(Exception):
    """PyTorch's own function is to compute this call after all, because ``Tensor.numpy()`` or the kernel refused it."""


def is_ordinary(x: Tensor | None) -> bool:
    """Whether ``x`` is None or of no subclass, which may redefine what PyTorch's ops do with it."""
    return x is None or type(x) is Tensor or type(x) is Parameter


def is_float32(x: Tensor) -> bool:
    """Whether ``x`` is a float32 tensor on the CPU, of no subclass.

    It may still be sparse, a view of negated numbers, batched by vmap: ``Tensor.numpy()`` refuses all these.
    """
    return (type(x) is Tensor or type(x) is Parameter) and x.dtype is torch.float32 and x.is_cpu


def is_watched() -> bool:
    """Whether ops are recorded or transformed, so that one unknown to PyTorch would be missed or not understood.

    That is: ``torch.jit.trace`` and what builds on it, functorch transforms, dispatch modes (fake tensors, counters)
    and forward-mode differentiation.
    """
    return (
        _tracing_state() is not None
        or _is_transformed()
        or _dispatch_modes() > 0
        or torch.autograd.forward_ad._current_level >= 0
    )


def is_small(x: Tensor, op: str) -> bool:
    """Whether PyTorch's own ``op`` is as quick for so few elements. A cheap question, to be asked first."""
    return (type(x) is Tensor or type(x) is Parameter) and _tracing_state() is None and x.numel() < SMALLEST[op]


def takes(x: Tensor, op: str) -> bool:
    """Whether ``op`` should compute ``x`` with its kernel, as far as dtype, device, size and PyTorch's state say."""
    return not is_small(x, op) and is_float32(x) and not is_watched()


def memory_order(x: Tensor) -> tuple[int, ...] | None:
    """The order of axes in which ``x`` is contiguous, None where it has gaps or overlaps."""
    order = tuple(sorted(range(x.dim()), key=x.stride, reverse=True))
    return order if x.permute(order).is_contiguous() else None


def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """The order of axes that undoes ``order``."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


class _Draw(threading.local):
    """A number of this Python thread's own to draw into: a fresh tensor each time would take three times as long."""

    def __init__(self) -> None:
        with torch.inference_mode(False):
            self.number = torch.empty(1, dtype=torch.int64, device="cpu")
        self.value = self.number.numpy().data  # an op less than Tensor.item()


_DRAW = _Draw()


def draw_seed() -> int:
    """A seed of 63 bits from PyTorch's default CPU generator, so that ``torch.manual_seed`` decides the mask."""
    _DRAW.number.random_()
    return _DRAW.value[0]


def run(kernel: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a kernel on as many threads as PyTorch uses."""
    n = torch.get_num_threads()
    if n == get_num_threads():
        return kernel(*args, **options)
    with num_threads(n):
        return kernel(*args, **options)
