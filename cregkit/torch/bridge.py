"""Bridge from tensors to kernels: which tensors are supported, and how they are passed without a copy.

A kernel reads the memory of a tensor in place. It writes a small output into memory of PyTorch, and a large one into
memory of cregkit's pool, to which it returns when the last tensor that shares it is deleted. Without the native
library, DLPack exports a tensor, and ``torch.from_numpy`` wraps a large output.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter

from cregkit.kernels._pool import pool_statistics
from cregkit.kernels._threads import choose_runtime, get_num_threads, num_threads
from cregkit.torch.dispatch import library
from cregkit.torch.private import is_watched, is_zerotensor, to_dlpack, tracing_state

T = TypeVar("T")

choose_runtime()  # PyTorch's is loaded now: its operations and the kernels share threads

# Minimum number of elements for a kernel. Below, PyTorch's function is as fast: the overhead of a
# torch.autograd.Function equals a norm of 100 000 elements. Measured with `python bench/bench_torch.py --overhead`, and
# in models, where the code of a call is not cached: there, dropout of 2048 elements showed no gain.
SMALLEST = {
    "dropout": 4096,
    "batch_norm": 128 * 1024,
    "layer_norm": 128 * 1024,
    "group_norm": 128 * 1024,
    "dropout_add_layer_norm": 16 * 1024,
    "rms_norm": 2048,
    "attention": 16 * 1024,
}

# Minimum number of elements of an output that ``torch.from_numpy`` wraps, in cregkit's memory pool; PyTorch cannot
# resize the storage of such a tensor. Smaller outputs, and all without a pool, are in memory of PyTorch: in models, its
# allocator recycles it as fast. The native library makes resizable tensors in the pool.
POOLED = sys.maxsize if library or not pool_statistics()["limit_bytes"] else 1024 * 1024

# Errors of ``memory`` and of the kernels for unsupported arguments; nothing has changed then.
REFUSALS = (RuntimeError, TypeError, ValueError, BufferError)


class Refused(Exception):
    """``memory`` or the kernel does not support the arguments; PyTorch's function must compute the call."""


def is_ordinary(x: Tensor | None) -> bool:
    """Whether ``x`` is None or a plain tensor; subclasses may redefine PyTorch's ops."""
    return x is None or type(x) is Tensor or type(x) is Parameter


def is_float32(x: Tensor) -> bool:
    """Whether ``x`` is a plain float32 tensor on the CPU; if it is sparse or batched, ``memory`` raises."""
    return (type(x) is Tensor or type(x) is Parameter) and x.dtype is torch.float32 and x.is_cpu and not x.is_nested


def is_small(x: Tensor, op: str) -> bool:
    """Whether ``x`` has too few elements for the kernel to be faster; this check is cheap, make it first."""
    return (type(x) is Tensor or type(x) is Parameter) and tracing_state() is None and x.numel() < SMALLEST[op]


def takes(x: Tensor, op: str) -> bool:
    """Whether the kernel of ``op`` supports the dtype, device and size of ``x`` and the state of PyTorch."""
    return not is_small(x, op) and is_float32(x) and not is_watched()


class _Export:
    """A tensor for ``numpy.from_dlpack``, seven times as fast as with ``Tensor.__dlpack__``."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **_: Any) -> Any:
        return to_dlpack(self.tensor)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # the CPU


def _exported(x: Tensor) -> Any:
    if x.is_neg() or is_zerotensor(x):
        raise TypeError("the memory of the tensor does not hold its values")
    return np.from_dlpack(_Export(x))


# The memory of a tensor as an array, for the time of a call. After ``Tensor.numpy``, the storage of the tensor can no
# longer be resized, as FSDP does. PyTorch before 2.9 and NumPy before 2.1 exchange writable arrays in no other way.
memory: Callable[[Tensor], NDArray[np.float32]] = (
    library.memory
    if library
    else _exported
    if to_dlpack is not None and np.lib.NumpyVersion(np.__version__) >= "2.1.0"
    else Tensor.numpy
)


def _new_in_torch(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


# A contiguous tensor of the shape of a float32 tensor, for a kernel to write.
new_like: Callable[[Tensor], Tensor] = library.new_like if library else _new_in_torch


def memory_order(x: Tensor) -> tuple[int, ...] | None:
    """Return the order of axes in which ``x`` is contiguous; None if it has gaps or overlaps."""
    order = tuple(sorted(range(x.dim()), key=x.stride, reverse=True))
    return order if x.permute(order).is_contiguous() else None


def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """Return the inverse of a permutation of axes."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


class _Draw(threading.local):
    """A tensor per Python thread to draw a seed into; reusing it is 3x faster than allocating one per call."""

    def __init__(self) -> None:
        with torch.inference_mode(False):
            self.number = torch.empty(1, dtype=torch.int64, device="cpu")
        self.value = self.number.numpy().data  # one op fewer than Tensor.item()


_DRAW = _Draw()


def draw_seed() -> int:
    """Return 63 bits from PyTorch's default CPU generator, which ``torch.manual_seed`` seeds."""
    _DRAW.number.random_()
    return _DRAW.value[0]


def run(kernel: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a kernel with PyTorch's number of threads."""
    n = torch.get_num_threads()
    if n == get_num_threads():
        return kernel(*args, **options)
    with num_threads(n):
        return kernel(*args, **options)
