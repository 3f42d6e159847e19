"""The functions of ``torch.nn.functional`` that cregkit has kernels for: same signatures, same results, same errors.

Float32 tensors on the CPU that lie in memory without gaps go to the kernels. Everything else goes to PyTorch's own
function: other dtypes and devices, tensor subclasses, sizes too small to gain, wrong arguments, and every call that is
compiled, traced, scripted or transformed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from cregkit.batch_sums import Gather
from cregkit.torch import autograd
from cregkit.torch.bridge import Refused, inverse, is_ordinary, memory_order, takes

__all__ = ["batch_norm", "dropout", "dropout1d", "dropout2d", "layer_norm", "rms_norm"]


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero elements with probability ``p`` and scale the others by ``1 / (1 - p)``.

    As ``torch.nn.functional.dropout``, with masks of its own: one seed is drawn from PyTorch's default CPU generator,
    and the mask follows from it, whatever the number of threads.
    """
    if _drops(input, p, training):
        try:
            if input.is_contiguous():
                return _dropout(input, p, False, inplace)
            order = memory_order(input)
            if order is not None:
                y = _dropout(input.permute(order), p, False, inplace)
                return input if inplace else y.permute(inverse(order))
        except Refused:
            pass
    return F.dropout(input, p, training, inplace)


def _drops(input: Tensor, p: float, training: bool) -> bool:
    return not is_compiling() and training and 0.0 < p < 1.0 and takes(input, "dropout")


def _dropout(x: Tensor, p: float, spatial: bool, inplace: bool) -> Tensor:
    """Dropout of a contiguous tensor."""
    if inplace and torch.is_grad_enabled():
        whole = x if x._base is None else x._base
        if whole.is_leaf and whole.requires_grad:  # PyTorch refuses to overwrite it
            raise Refused
    y: Tensor = (autograd.InplaceDropout if inplace else autograd.Dropout).apply(x, float(p), spatial)
    return y


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, L) or (C, L), as ``torch.nn.functional.dropout1d``."""
    if _drops(input, p, training) and input.dim() in (2, 3) and input.is_contiguous():
        try:
            if input.dim() == 3:
                return _dropout(input, p, True, inplace)
            y = _dropout(input.unsqueeze(0), p, True, inplace)
            return input if inplace else y.squeeze(0)
        except Refused:
            pass
    return F.dropout1d(input, p, training, inplace)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, H, W), as ``torch.nn.functional.dropout2d``."""
    if _drops(input, p, training) and input.dim() == 4 and input.is_contiguous():
        try:
            return _dropout(input, p, True, inplace)
        except Refused:
            pass
    return F.dropout2d(input, p, training, inplace)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel over the batch, as ``torch.nn.functional.batch_norm``."""
    if (
        not is_compiling()
        and takes(input, "batch_norm")
        and _batch_norm_fits(input, running_mean, running_var, weight, bias, training, eps)
    ):
        rest = running_mean, running_var, weight, bias, training, momentum, eps
        try:
            if input.is_contiguous():
                return _batch_norm(input, *rest, 1)
            if input.dim() == 4:
                return _batch_norm(input.permute(0, 2, 3, 1), *rest, -1).permute(0, 3, 1, 2)
        except Refused:
            pass
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _batch_norm_fits(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
) -> bool:
    """Whether the kernel, if it takes these arguments, computes what PyTorch would."""
    if running_mean is None or running_var is None:
        statistics = running_mean is running_var and training
    else:
        statistics = not (running_mean.requires_grad or running_var.requires_grad)
    return (
        statistics
        and (eps > 0.0 or not training)
        and x.dim() >= 2
        and (bias is None or weight is not None)
        and is_ordinary(weight)
        and is_ordinary(bias)
        and is_ordinary(running_mean)
        and is_ordinary(running_var)
    )


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    channel_axis: int,
    gather: Gather | None = None,
) -> Tensor:
    y: Tensor
    if training:
        y = autograd.BatchNorm.apply(x, weight, bias, running_mean, running_var, momentum, eps, channel_axis, gather)
    else:
        y = autograd.BatchNormInference.apply(x, weight, bias, running_mean, running_var, eps, channel_axis)
    return y


def _rows_fit(x: Tensor, shape: torch.Size, weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether a kernel over rows, if it takes these arguments, computes what PyTorch would."""
    return (
        0 < len(shape) <= x.dim()
        and x.shape[-len(shape) :] == shape
        and x.is_contiguous()
        and (weight is None or (is_ordinary(weight) and weight.shape == shape))
        and (bias is None or (is_ordinary(bias) and bias.shape == shape and weight is not None))
    )


T = TypeVar("T", Tensor, Tensor | None)


def _flat(x: T, dims: int) -> T:
    """``x`` with its last ``dims`` axes as one."""
    return x if x is None or dims == 1 else x.flatten(-dims)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last axes, as ``torch.nn.functional.layer_norm``."""
    if not is_compiling() and takes(input, "layer_norm"):
        shape = torch.Size(normalized_shape)
        dims = len(shape)
        if _rows_fit(input, shape, weight, bias):
            try:
                y = autograd.layer_norm(_flat(input, dims), _flat(weight, dims), _flat(bias, dims), eps)
            except Refused:
                pass
            else:
                return y if dims == 1 else y.view(input.shape)
    return F.layer_norm(input, normalized_shape, weight, bias, eps)


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """Divide by the root mean square over the last axes, as ``torch.nn.functional.rms_norm``.

    ``eps=None`` is the machine epsilon of float32, as there.
    """
    if not is_compiling() and takes(input, "rms_norm"):
        shape = torch.Size(normalized_shape)
        dims = len(shape)
        number = torch.finfo(torch.float32).eps if eps is None else eps
        if _rows_fit(input, shape, weight, None):
            try:
                y = autograd.rms_norm(_flat(input, dims), _flat(weight, dims), number)
            except Refused:
                pass
            else:
                return y if dims == 1 else y.view(input.shape)
    return F.rms_norm(input, normalized_shape, weight, eps)
