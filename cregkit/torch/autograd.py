"""The kernels as differentiable PyTorch functions of contiguous float32 tensors on the CPU.

Backward runs the backward kernel. Where its own gradient may be asked for (``create_graph=True``), or where the
incoming gradient is no ordinary tensor (batched by vmap), it computes PyTorch's formula with PyTorch's ops instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cregkit import functional as kernels
from cregkit.torch.bridge import SMALLEST_WITHOUT_MASK, is_plain, is_watched, run

Floats = NDArray[np.float32]
Statistics = NDArray[np.float64]


def _array(x: Tensor | None) -> Floats | None:
    """The memory of a tensor. For use without grad mode, as in forward and backward."""
    return None if x is None else x.numpy()


def _tensor(x: Floats | None, needed: bool) -> Tensor | None:
    return torch.from_numpy(x) if needed and x is not None else None


def must_use_formula(*gradients: Tensor | None) -> bool:
    """Whether PyTorch's ops have to compute backward from these incoming gradients."""
    return torch.is_grad_enabled() or is_watched() or not all(dy is None or is_plain(dy) for dy in gradients)


def formula_gradients(
    op: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor | None],
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of ``op(*inputs)`` by PyTorch's own rules, differentiable once more."""
    with torch.enable_grad():
        aliases = [x if x is None else x.view_as(x) for x in inputs]
        returned = op(*aliases)
        outputs = returned if isinstance(returned, tuple) else (returned,)
        wanted = {i: x for i, x in enumerate(aliases) if x is not None and needed[i]}
        found = torch.autograd.grad(
            [y for y, dy in zip(outputs, gradients, strict=True) if dy is not None],
            list(wanted.values()),
            [dy for dy in gradients if dy is not None],
            create_graph=True,
            allow_unused=True,
        )
    by_input = dict(zip(wanted, found, strict=True))
    return [by_input.get(i) for i in range(len(inputs))]


_ONES = np.ones(SMALLEST_WITHOUT_MASK, np.float32)


def scaled_mask(shape: Sequence[int], p: float, seed: int, spatial: bool = False) -> Tensor:
    """The kernels' mask for a tensor of this shape, as factors of its elements or channels: 0 and ``1 / (1 - p)``."""
    drawn = shape[:2] if spatial else shape
    n = math.prod(drawn)
    ones = _ONES[:n] if n <= len(_ONES) else np.ones(n, np.float32)
    mask = run(kernels.dropout, ones, p, seed=seed)
    return torch.from_numpy(mask.reshape((*drawn, *(1,) * (len(shape) - len(drawn)))))


class Dropout(torch.autograd.Function):
    """``apply(x, p, seed, spatial)``: dropout of elements, or of the channels of (N, C, ...)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int, spatial: bool) -> Tensor:
        """Keep the seed alone: backward draws the mask again."""
        ctx.options = p, seed, spatial
        kernel = kernels.spatial_dropout if spatial else kernels.dropout
        return torch.from_numpy(run(kernel, x.numpy(), p, seed=seed))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Drop the same elements of the gradient."""
        p, seed, spatial = ctx.options
        if must_use_formula(dy):
            return dy * scaled_mask(dy.shape, p, seed, spatial), None, None, None
        kernel = kernels.spatial_dropout_backward if spatial else kernels.dropout_backward
        return torch.from_numpy(run(kernel, dy.contiguous().numpy(), p, seed=seed)), None, None, None


class BatchNorm(torch.autograd.Function):
    """``apply(x, weight, bias, running_mean, running_var, momentum, eps, axis)``: with the batch's statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        channel_axis: int,
    ) -> Tensor:
        """Update the running statistics in place."""
        y, mean, rstd = run(
            kernels.batch_norm_forward,
            x.numpy(),
            _array(weight),
            _array(bias),
            _array(running_mean),
            _array(running_var),
            momentum,
            eps,
            unbiased=True,
            channel_axis=channel_axis,
        )
        ctx.save_for_backward(x, weight, bias)
        ctx.statistics, ctx.eps, ctx.channel_axis = (mean, rstd), eps, channel_axis
        return torch.from_numpy(y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients of x, weight and bias."""
        x, weight, bias = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if must_use_formula(dy):

            def stock(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
                moved = F.batch_norm(x.movedim(ctx.channel_axis, 1), None, None, weight, bias, True, 0.0, ctx.eps)
                return moved.movedim(1, ctx.channel_axis)

            return *formula_gradients(stock, (x, weight, bias), (dy,), needed), None, None, None, None, None
        dx, dgamma, dbeta = run(
            kernels.batch_norm_backward,
            dy.contiguous().numpy(),
            x.numpy(),
            *ctx.statistics,
            _array(weight),
            channel_axis=ctx.channel_axis,
        )
        gradients = torch.from_numpy(dx), _tensor(dgamma, needed[1]), _tensor(dbeta, needed[2])
        return *gradients, None, None, None, None, None


class BatchNormInference(torch.autograd.Function):
    """``apply(x, weight, bias, running_mean, running_var, eps, channel_axis)``: with the running statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
        channel_axis: int,
    ) -> Tensor:
        """Leave the running statistics as they are."""
        ctx.save_for_backward(x, weight, bias, running_mean, running_var)
        ctx.eps, ctx.channel_axis = eps, channel_axis
        y = run(
            kernels.batch_norm,
            x.numpy(),
            running_mean.numpy(),
            running_var.numpy(),
            _array(weight),
            _array(bias),
            eps,
            channel_axis=channel_axis,
        )
        return torch.from_numpy(y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients of x, weight and bias."""
        x, weight, bias, mean, var = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if must_use_formula(dy):

            def stock(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
                moved = F.batch_norm(x.movedim(ctx.channel_axis, 1), mean, var, weight, bias, False, 0.0, ctx.eps)
                return moved.movedim(1, ctx.channel_axis)

            return *formula_gradients(stock, (x, weight, bias), (dy,), needed), None, None, None, None
        dx, dgamma, dbeta = run(
            kernels.batch_norm_inference_backward,
            dy.contiguous().numpy(),
            x.numpy(),
            mean.numpy(),
            var.numpy(),
            _array(weight),
            ctx.eps,
            channel_axis=ctx.channel_axis,
        )
        gradients = torch.from_numpy(dx), _tensor(dgamma, needed[1]), _tensor(dbeta, needed[2])
        return *gradients, None, None, None, None


def needs_gradient(*inputs: Tensor | None) -> bool:
    """Whether a gradient may be asked for by one of these."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Layer norm over the last axis; without a gradient to be asked for, nothing is kept."""
    if not needs_gradient(x, weight, bias):
        return torch.from_numpy(run(kernels.layer_norm, x.numpy(), _array(weight), _array(bias), eps))
    y: Tensor = LayerNorm.apply(x, weight, bias, eps)
    return y


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """RMS norm over the last axis; without a gradient to be asked for, nothing is kept."""
    if not needs_gradient(x, weight):
        return torch.from_numpy(run(kernels.rms_norm, x.numpy(), _array(weight), eps))
    y: Tensor = RMSNorm.apply(x, weight, eps)
    return y


class LayerNorm(torch.autograd.Function):
    """``apply(x, weight, bias, eps)``: over the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        """Keep mean and rstd of each row."""
        y, mean, rstd = run(kernels.layer_norm_forward, x.numpy(), _array(weight), _array(bias), eps)
        ctx.save_for_backward(x, weight, bias)
        ctx.statistics, ctx.eps = (mean, rstd), eps
        return torch.from_numpy(y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients of x, weight and bias."""
        x, weight, bias = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if must_use_formula(dy):

            def stock(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
                return F.layer_norm(x, x.shape[-1:], weight, bias, ctx.eps)

            return *formula_gradients(stock, (x, weight, bias), (dy,), needed), None
        dx, dgamma, dbeta = run(
            kernels.layer_norm_backward, dy.contiguous().numpy(), x.numpy(), *ctx.statistics, _array(weight)
        )
        return torch.from_numpy(dx), _tensor(dgamma, needed[1]), _tensor(dbeta, needed[2]), None


class RMSNorm(torch.autograd.Function):
    """``apply(x, weight, eps)``: over the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        """Keep rstd of each row."""
        y, rstd = run(kernels.rms_norm_forward, x.numpy(), _array(weight), eps)
        ctx.save_for_backward(x, weight)
        ctx.rstd, ctx.eps = rstd, eps
        return torch.from_numpy(y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients of x and weight."""
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if must_use_formula(dy):

            def stock(x: Tensor, weight: Tensor | None) -> Tensor:
                return F.rms_norm(x, x.shape[-1:], weight, ctx.eps)

            return *formula_gradients(stock, (x, weight), (dy,), needed), None
        dx, dgamma = run(kernels.rms_norm_backward, dy.contiguous().numpy(), x.numpy(), ctx.rstd, _array(weight))
        return torch.from_numpy(dx), _tensor(dgamma, needed[1]), None


def dropout_add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, p: float, eps: float, seed: int
) -> tuple[Tensor, Tensor]:
    """``h = residual + dropout(x)`` and its layer norm, as ``(layer_norm(h), h)``."""
    if not needs_gradient(x, residual, weight, bias):
        y, h, *_ = _dropout_add_layer_norm(x, residual, weight, bias, p, eps, seed)
        return torch.from_numpy(y), torch.from_numpy(h)
    both: tuple[Tensor, Tensor] = DropoutAddLayerNorm.apply(x, residual, weight, bias, p, eps, seed)
    return both


def _dropout_add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, p: float, eps: float, seed: int
) -> tuple[Floats, Floats, Statistics, Statistics]:
    arrays = x.numpy(), residual.numpy(), _array(weight), _array(bias)
    return run(kernels.dropout_add_layer_norm_forward, *arrays, p, eps, seed=seed)


class DropoutAddLayerNorm(torch.autograd.Function):
    """``apply(x, residual, weight, bias, p, eps, seed)``: layer norm of h over the last axis, and h."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        p: float,
        eps: float,
        seed: int,
    ) -> tuple[Tensor, Tensor]:
        """Keep h, and mean and rstd of each row; of dropout the seed alone."""
        y, array, *ctx.statistics = _dropout_add_layer_norm(x, residual, weight, bias, p, eps, seed)
        h = torch.from_numpy(array)
        ctx.save_for_backward(h, weight, bias)
        ctx.options = p, eps, seed
        ctx.set_materialize_grads(False)
        return torch.from_numpy(y), h

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dh: Tensor | None) -> tuple[Tensor | None, ...]:
        """Give the gradients of x, residual, weight and bias."""
        h, weight, bias = ctx.saved_tensors
        p, eps, seed = ctx.options
        needed = ctx.needs_input_grad
        dy = torch.zeros_like(h) if dy is None else dy
        if must_use_formula(dy, dh):

            def stock(h: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
                return F.layer_norm(h, h.shape[-1:], weight, bias, eps)

            through_norm, *others = formula_gradients(stock, (h, weight, bias), (dy,), (True, *needed[2:4]))
            assert through_norm is not None
            both = through_norm if dh is None else through_norm + dh
            return both * scaled_mask(h.shape, p, seed) if p else both, both, *others, None, None, None
        dx, dresidual, dgamma, dbeta = run(
            kernels.dropout_add_layer_norm_backward,
            dy.contiguous().numpy(),
            h.numpy(),
            *ctx.statistics,
            _array(weight),
            p,
            dh=None if dh is None else dh.contiguous().numpy(),
            seed=seed,
        )
        both = torch.from_numpy(dresidual)
        through_dropout = torch.from_numpy(dx) if p else both
        return through_dropout, both, _tensor(dgamma, needed[2]), _tensor(dbeta, needed[3]), None, None, None
