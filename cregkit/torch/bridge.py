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

from cregkit.kernels._runtime import get_num_threads, num_threads

T = TypeVar("T")

_tracing_state = torch._C._get_tracing_state

# Elements from which cregkit computes an op: below, PyTorch's own is as quick. A torch.autograd.Function costs as much
# as a norm of 100 000 elements; measured with `python bench/bench_torch.py --overhead`.
SMALLEST = {
    "dropout": 4096,
    "batch_norm": 128 * 1024,
    "layer_norm": 128 * 1024,
    "dropout_add_layer_norm": 16 * 1024,
    "rms_norm": 2048,
    "attention": 16 * 1024,
}

# Elements from which dropout stores no mask but draws it again in backward, by an autograd.Function.
SMALLEST_WITHOUT_MASK = 128 * 1024


def _keys(x: Tensor) -> int:
    return int(torch._C._dispatch_keys(x).raw_repr())


def _plain_keys() -> frozenset[int]:
    """The dispatch keys of an ordinary dense CPU tensor, made outside and inside of inference mode.

    Whatever else a tensor may be (on another device, sparse, nested, quantised, a view of negated numbers, batched by
    vmap, wrapped by a transform) shows as another key.
    """
    with torch.inference_mode(False):
        outside = _keys(torch.empty(0, device="cpu"))
    with torch.inference_mode():
        return frozenset((outside, _keys(torch.empty(0, device="cpu"))))


_PLAIN = _plain_keys()


def is_plain(x: Tensor) -> bool:
    """Whether ``x`` is an ordinary dense float32 tensor on the CPU, of no subclass."""
    return (type(x) is Tensor or type(x) is torch.nn.Parameter) and x.dtype is torch.float32 and _keys(x) in _PLAIN


def is_plain_vector(x: Tensor | None, n: int) -> bool:
    """Whether ``x`` is None, or plain, contiguous and of ``n`` elements."""
    return x is None or (is_plain(x) and x.numel() == n and x.is_contiguous())


def is_watched() -> bool:
    """Whether ops are recorded or transformed, so that one unknown to PyTorch would be missed or not understood.

    That is: ``torch.jit.trace`` and what builds on it, functorch transforms, dispatch modes (fake tensors, counters)
    and forward-mode differentiation.
    """
    return (
        _tracing_state() is not None
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.autograd.forward_ad._current_level >= 0
    )


def is_small(x: Tensor, op: str) -> bool:
    """Whether PyTorch's own ``op`` is as quick for so few elements. A cheap question, to be asked first."""
    return (
        (type(x) is Tensor or type(x) is torch.nn.Parameter) and _tracing_state() is None and x.numel() < SMALLEST[op]
    )


def takes(x: Tensor, op: str) -> bool:
    """Whether ``op`` should compute ``x`` with its kernel, as far as dtype, device, size and PyTorch's state say."""
    return not is_small(x, op) and is_plain(x) and not is_watched()


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
            self.number = torch.empty((), dtype=torch.int64, device="cpu")


_DRAW = _Draw()


def draw_seed() -> int:
    """A seed of 63 bits from PyTorch's default CPU generator, so that ``torch.manual_seed`` decides the mask."""
    return int(_DRAW.number.random_())


def run(kernel: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a kernel on as many threads as PyTorch uses."""
    n = torch.get_num_threads()
    if n == get_num_threads():
        return kernel(*args, **options)
    with num_threads(n):
        return kernel(*args, **options)
