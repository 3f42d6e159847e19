"""Dropout by the kernel inside a graph of ``torch.compile``.

Inductor computes dropout element by element, several times slower than the kernel. Two ops keep the kernel in its
graphs:

``cregkit::dropout_kernel(Tensor x, float p, Tensor seed) -> Tensor``
    Contiguous result of the kernel for ``x`` in the order of its axes. No autograd, so that a call has less overhead.
``cregkit::dropout(Tensor x, float p, Tensor seed) -> Tensor``
    The same with autograd. Tracing replaces it by ``dropout_kernel``, in forward and in backward.

``seed``, an int64 tensor of one element, is drawn in the graph: a new seed does not recompile. The seed determines the
mask, so backward needs no mask. Norms in a graph stay PyTorch's, which inductor fuses with their neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, from_numpy

from cregkit import functional as kernels
from cregkit.torch import dispatch
from cregkit.torch.bridge import is_ordinary, run
from cregkit.torch.private import is_exporting, is_transformed, statically_known_true

bfloat16: Any
try:
    from ml_dtypes import bfloat16
except ImportError:
    bfloat16 = None

__all__ = ["dropout"]

# Minimum number of elements for the kernel in a graph; tensors whose size varies between calls go to the kernel. Below,
# inductor's dropout, fused with its neighbours, is as fast: measured in training steps of Linear, BatchNorm1d, ReLU,
# Dropout, Linear.
SMALLEST = 8192

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def dropout(x: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
    """Compute ``torch.nn.functional.dropout`` while ``torch.compile`` traces."""
    if not (training and 0.0 < p < 1.0 and _takes(x)):
        return F.dropout(x, p, training, inplace)
    seed = torch.randint(2**63 - 1, (1,), device="cpu")
    if x.dim() == 4 and statically_known_true(x.stride(1) == 1):  # channels_last
        y = torch.ops.cregkit.dropout.default(x.permute(0, 2, 3, 1), float(p), seed).permute(0, 3, 1, 2)
    else:
        y = torch.ops.cregkit.dropout.default(x, float(p), seed)
    return x.copy_(y) if inplace else y


def _takes(x: Tensor) -> bool:
    """Whether the graph may have the kernel for ``x``."""
    return (
        traces()
        and is_ordinary(x)
        and x.is_cpu
        and x.dtype in _DTYPES
        and not statically_known_true(x.numel() < SMALLEST)
    )


def traces() -> bool:
    """Whether ``torch.compile`` traces a graph that may have the kernel: not an exported program, nor a transform."""
    return not is_exporting() and not is_transformed()


class _Dropout(torch.autograd.Function):
    """``apply(x, p, seed)``: dropout whose backward drops the same elements of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: Tensor) -> Tensor:
        """Save the seed."""
        ctx.p = p
        ctx.save_for_backward(seed)
        y: Tensor = torch.ops.cregkit.dropout_kernel.default(x, p, seed)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        """Draw the mask again."""
        (seed,) = ctx.saved_tensors
        return torch.ops.cregkit.dropout.default(dy, ctx.p, seed), None, None


def _kernel(x: Tensor, p: float, seed: Tensor) -> Tensor:
    x = x.contiguous()
    number = int(seed.item())
    if x.dtype is not torch.bfloat16:
        return from_numpy(run(kernels.dropout, x.numpy(), p, seed=number))
    if bfloat16 is None:
        return _kernel(x.float(), p, seed).bfloat16()
    y = run(kernels.dropout, x.view(torch.int16).numpy().view(bfloat16), p, seed=number)
    return from_numpy(y.view(np.int16)).view(torch.bfloat16)


def _shape(x: Tensor, p: float, seed: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_library = torch.library.Library("cregkit", "FRAGMENT")
for _name in ("dropout", "dropout_kernel"):
    _library.define(f"{_name}(Tensor x, float p, Tensor seed) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
_library.impl("dropout", _Dropout.apply, "CompositeImplicitAutograd")
if dispatch.library is None:  # the native library registers its own kernel
    _library.impl("dropout_kernel", _kernel, "CPU")
torch.library.register_fake("cregkit::dropout_kernel", _shape, lib=_library)
