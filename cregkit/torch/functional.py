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

from cregkit.torch import autograd, bridge
from cregkit.torch.bridge import draw_seed, inverse, is_plain_vector, memory_order, takes

__all__ = ["batch_norm", "dropout", "dropout1d", "dropout2d", "layer_norm", "rms_norm"]


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero elements with probability ``p`` and scale the others by ``1 / (1 - p)``.

    As ``torch.nn.functional.dropout``, with masks of its own: one seed is drawn from PyTorch's default CPU generator,
    and the mask follows from it, whatever the number of threads.
    """
    if is_compiling() or not training or not 0.0 < p < 1.0 or not takes(input, "dropout"):
        return F.dropout(input, p, training, inplace)
    if input.is_contiguous():
        return _dropout(input, p, False, inplace)
    order = memory_order(input)
    if order is None:
        return F.dropout(input, p, training, inplace)
    y = _dropout(input.permute(order), p, False, inplace)
    return input if inplace else y.permute(inverse(order))


def _dropout(x: Tensor, p: float, spatial: bool, inplace: bool) -> Tensor:
    """Dropout of a contiguous tensor: small or in place as a product with a mask, which PyTorch differentiates."""
    p, seed = float(p), draw_seed()
    if not inplace and x.numel() >= bridge.SMALLEST_WITHOUT_MASK:
        y: Tensor = autograd.Dropout.apply(x, p, seed, spatial)
        return y
    mask = autograd.scaled_mask(x.shape, p, seed, spatial)
    return x.mul_(mask) if inplace else x * mask


def _takes_channels(input: Tensor, p: float, training: bool) -> bool:
    return not is_compiling() and training and 0.0 < p < 1.0 and takes(input, "dropout") and input.is_contiguous()


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, L) or (C, L), as ``torch.nn.functional.dropout1d``."""
    if not _takes_channels(input, p, training) or input.dim() not in (2, 3):
        return F.dropout1d(input, p, training, inplace)
    if input.dim() == 3:
        return _dropout(input, p, True, inplace)
    y = _dropout(input.unsqueeze(0), p, True, inplace)
    return input if inplace else y.squeeze(0)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, H, W), as ``torch.nn.functional.dropout2d``."""
    if not _takes_channels(input, p, training) or input.dim() != 4:
        return F.dropout2d(input, p, training, inplace)
    return _dropout(input, p, True, inplace)


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
        is_compiling()
        or not takes(input, "batch_norm")
        or not _batch_norm_fits(input, running_mean, running_var, weight, bias, training, momentum, eps)
    ):
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if input.is_contiguous():
        return _batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps, 1)
    y = _batch_norm(
        input.permute(0, 2, 3, 1), running_mean, running_var, weight, bias, training, momentum, eps, channel_axis=-1
    )
    return y.permute(0, 3, 1, 2)


def _batch_norm_fits(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> bool:
    """Whether layout and arguments are such that the kernel computes what PyTorch would."""
    if x.dim() < 2 or (running_mean is None) != (running_var is None) or (weight is None and bias is not None):
        return False
    channels = x.shape[1]
    if not all(is_plain_vector(v, channels) for v in (running_mean, running_var, weight, bias)):
        return False
    if any(v is not None and v.requires_grad for v in (running_mean, running_var)):
        return False
    if training:
        numbers = x.numel() > channels and eps > 0.0 and isinstance(momentum, float) and 0.0 <= momentum <= 1.0
    else:
        numbers = running_mean is not None and eps >= 0.0
    layout = x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
    return numbers and layout


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
) -> Tensor:
    y: Tensor
    if training:
        y = autograd.BatchNorm.apply(x, weight, bias, running_mean, running_var, momentum, eps, channel_axis)
    else:
        y = autograd.BatchNormInference.apply(x, weight, bias, running_mean, running_var, eps, channel_axis)
    return y


def _rows_fit(x: Tensor, shape: torch.Size, weight: Tensor | None, bias: Tensor | None, eps: float) -> bool:
    """Whether layout and arguments are such that a kernel over rows computes what PyTorch would."""
    return (
        0 < len(shape) <= x.dim()
        and x.shape[-len(shape) :] == shape
        and x.is_contiguous()
        and eps >= 0.0
        and not (weight is None and bias is not None)
        and all(v is None or (v.shape == shape and is_plain_vector(v, v.numel())) for v in (weight, bias))
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
    if is_compiling() or not takes(input, "layer_norm"):
        return F.layer_norm(input, normalized_shape, weight, bias, eps)
    shape = torch.Size(normalized_shape)
    if not _rows_fit(input, shape, weight, bias, eps):
        return F.layer_norm(input, normalized_shape, weight, bias, eps)
    dims = len(shape)
    y = autograd.layer_norm(_flat(input, dims), _flat(weight, dims), _flat(bias, dims), eps)
    return y if dims == 1 else y.view(input.shape)


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """Divide by the root mean square over the last axes, as ``torch.nn.functional.rms_norm``.

    ``eps=None`` is the machine epsilon of float32, as there.
    """
    if is_compiling() or not takes(input, "rms_norm"):
        return F.rms_norm(input, normalized_shape, weight, eps)
    shape = torch.Size(normalized_shape)
    number = torch.finfo(torch.float32).eps if eps is None else eps
    if not _rows_fit(input, shape, weight, None, number):
        return F.rms_norm(input, normalized_shape, weight, eps)
    dims = len(shape)
    y = autograd.rms_norm(_flat(input, dims), _flat(weight, dims), number)
    return y if dims == 1 else y.view(input.shape)
