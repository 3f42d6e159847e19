"""The kernels as differentiable PyTorch functions of float32 tensors on the CPU.

Each raises ``Refused`` where the kernel does not take its arguments, before anything is changed. Backward runs the
backward kernel. Where its own gradient may be asked for (``create_graph=True``), or where the incoming gradient is no
ordinary tensor (batched by vmap), it computes PyTorch's formula with PyTorch's ops instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from cregkit import functional as kernels
from cregkit.torch.bridge import REFUSALS, Refused, draw_seed, is_float32, is_watched, run

Floats: TypeAlias = NDArray[np.float32]


class Function(torch.autograd.Function):
    """An autograd.Function that is called where no functorch transform is active, and so need not look for one."""

    apply = torch._C._FunctionBase.__dict__["apply"]


def _array(x: Tensor | None) -> Floats | None:
    """The memory of a tensor. For use without grad mode, as in forward and backward."""
    return None if x is None else x.numpy()


def _tensor(x: Floats | None, needed: bool) -> Tensor | None:
    return from_numpy(x) if needed and x is not None else None


def kernel_gradient(dy: Tensor) -> Floats | None:
    """The memory of an incoming gradient, None where PyTorch's ops have to compute backward from it."""
    if torch.is_grad_enabled() or is_watched() or not is_float32(dy):
        return None
    try:
        return dy.numpy()
    except REFUSALS:
        return None


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


def scaled_mask(shape: Sequence[int], p: float, seed: int, spatial: bool = False) -> Tensor:
    """The kernels' mask for a tensor of this shape, as factors of its elements or channels: 0 and ``1 / (1 - p)``."""
    drawn = (*shape[:2], *(1,) * (len(shape) - 2)) if spatial else shape
    return from_numpy(run(kernels.dropout, np.ones(drawn, np.float32), p, seed=seed))


class Dropout(Function):
    """``apply(x, p, spatial)``: dropout of elements, or of the channels of (N, C, ...)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, spatial: bool) -> Tensor:
        """Keep the seed alone: backward draws the mask again."""
        try:
            array = x.numpy()
        except REFUSALS as error:
            raise Refused from error
        seed = draw_seed()
        ctx.options = p, seed, spatial
        return from_numpy(run(kernels.spatial_dropout if spatial else kernels.dropout, array, p, seed=seed))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Drop the same elements of the gradient."""
        p, seed, spatial = ctx.options
        array = kernel_gradient(dy.contiguous())
        if array is None:
            return dy * scaled_mask(dy.shape, p, seed, spatial), None, None
        kernel = kernels.spatial_dropout_backward if spatial else kernels.dropout_backward
        return from_numpy(run(kernel, array, p, seed=seed)), None, None


class BatchNorm(Function):
    """``apply(x, weight, bias, running_mean, running_var, momentum, eps, channel_axis)``: by the batch's statistics."""

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
        try:
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
        except REFUSALS as error:
            raise Refused from error
        ctx.save_for_backward(x, weight)
        ctx.rest = mean, rstd, eps, channel_axis
        return from_numpy(y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        mean, rstd, eps, axis = ctx.rest
        needed = ctx.needs_input_grad
        array = kernel_gradient(dy.contiguous())
        if array is None:

            def stock(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
                return F.batch_norm(x.movedim(axis, 1), None, None, weight, bias, True, 0.0, eps).movedim(1, axis)

            inputs = x, weight, _any_bias(weight)
            return *formula_gradients(stock, inputs, (dy,), needed), None, None, None, None, None
        dx, dgamma, dbeta = run(
            kernels.batch_norm_backward, array, x.numpy(), mean, rstd, _array(weight), channel_axis=axis
        )
        gradients = from_numpy(dx), _tensor(dgamma, needed[1]), _tensor(dbeta, needed[2])
        return *gradients, None, None, None, None, None


class BatchNormInference(Function):
    """``apply(x, weight, bias, running_mean, running_var, eps, channel_axis)``: by the running statistics."""

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
        try:
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
        except REFUSALS as error:
            raise Refused from error
        ctx.save_for_backward(x, weight, running_mean, running_var)
        ctx.rest = eps, channel_axis
        return from_numpy(y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients of x, weight and bias."""
        x, weight, mean, var = ctx.saved_tensors
        eps, axis = ctx.rest
        needed = ctx.needs_input_grad
        array = kernel_gradient(dy.contiguous())
        if array is None:

            def stock(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
                return F.batch_norm(x.movedim(axis, 1), mean, var, weight, bias, False, 0.0, eps).movedim(1, axis)

            return *formula_gradients(stock, (x, weight, _any_bias(weight)), (dy,), needed), None, None, None, None
        dx, dgamma, dbeta = run(
            kernels.batch_norm_inference_backward,
            array,
            x.numpy(),
            mean.numpy(),
            var.numpy(),
            _array(weight),
            eps,
            channel_axis=axis,
        )
        gradients = from_numpy(dx), _tensor(dgamma, needed[1]), _tensor(dbeta, needed[2])
        return *gradients, None, None, None, None


def _any_bias(weight: Tensor | None) -> Tensor | None:
    """A bias for a formula that is to be differentiated: no derivative depends on its values."""
    return None if weight is None else torch.zeros_like(weight)


def needs_gradient(*inputs: Tensor | None) -> bool:
    """Whether a gradient may be asked for by one of these."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Layer norm over the last axis; without a gradient to be asked for, nothing is kept."""
    if needs_gradient(x, weight, bias):
        y: Tensor = LayerNorm.apply(x, weight, bias, eps)
        return y
    try:
        return from_numpy(run(kernels.layer_norm, x.numpy(), _array(weight), _array(bias), eps))
    except REFUSALS as error:
        raise Refused from error


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """RMS norm over the last axis; without a gradient to be asked for, nothing is kept."""
    if needs_gradient(x, weight):
        y: Tensor = RMSNorm.apply(x, weight, eps)
        return y
    try:
        return from_numpy(run(kernels.rms_norm, x.numpy(), _array(weight), eps))
    except REFUSALS as error:
        raise Refused from error


class LayerNorm(Function):
    """``apply(x, weight, bias, eps)``: over the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        """Keep mean and rstd of each row."""
        try:
            y, mean, rstd = run(kernels.layer_norm_forward, x.numpy(), _array(weight), _array(bias), eps)
        except REFUSALS as error:
            raise Refused from error
        ctx.save_for_backward(x, weight)
        ctx.rest = mean, rstd, eps
        return from_numpy(y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        mean, rstd, eps = ctx.rest
        needed = ctx.needs_input_grad
        array = kernel_gradient(dy.contiguous())
        if array is None:

            def stock(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
                return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

            return *formula_gradients(stock, (x, weight, _any_bias(weight)), (dy,), needed), None
        dx, dgamma, dbeta = run(kernels.layer_norm_backward, array, x.numpy(), mean, rstd, _array(weight))
        return from_numpy(dx), _tensor(dgamma, needed[1]), _tensor(dbeta, needed[2]), None


class RMSNorm(Function):
    """``apply(x, weight, eps)``: over the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        """Keep rstd of each row."""
        try:
            y, rstd = run(kernels.rms_norm_forward, x.numpy(), _array(weight), eps)
        except REFUSALS as error:
            raise Refused from error
        ctx.save_for_backward(x, weight)
        ctx.rest = rstd, eps
        return from_numpy(y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients of x and weight."""
        x, weight = ctx.saved_tensors
        rstd, eps = ctx.rest
        needed = ctx.needs_input_grad
        array = kernel_gradient(dy.contiguous())
        if array is None:

            def stock(x: Tensor, weight: Tensor | None) -> Tensor:
                return F.rms_norm(x, x.shape[-1:], weight, eps)

            return *formula_gradients(stock, (x, weight), (dy,), needed), None
        dx, dgamma = run(kernels.rms_norm_backward, array, x.numpy(), rstd, _array(weight))
        return from_numpy(dx), _tensor(dgamma, needed[1]), None
