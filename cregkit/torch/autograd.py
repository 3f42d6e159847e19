"""The kernels as ``torch.autograd.Function`` classes for float32 tensors on the CPU.

A forward raises ``Refused`` if the kernel does not support its arguments; nothing has changed then. Backward calls the
backward kernel. For higher-order gradients (``create_graph=True``) and gradients that are not plain tensors (batched by
vmap), it computes PyTorch's formula with PyTorch's ops, which autograd differentiates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from cregkit import functional as kernels
from cregkit.batch_sums import Gather, merge_gradient_sums, merge_moments
from cregkit.torch.bridge import REFUSALS, Refused, draw_seed, is_float32, is_watched, run

Floats: TypeAlias = NDArray[np.float32]
Statistics: TypeAlias = NDArray[np.float64]


class Function(torch.autograd.Function):
    """An ``autograd.Function`` for use outside functorch transforms: ``apply`` skips PyTorch's check for them."""

    apply = torch._C._FunctionBase.__dict__["apply"]


def _array(x: Tensor | None) -> Floats | None:
    """Return the memory of a tensor as an array; call it without grad mode, as in forward and backward."""
    return None if x is None else x.numpy()


def _tensor(x: Floats | None, needed: bool) -> Tensor | None:
    return from_numpy(x) if needed and x is not None else None


def kernel_gradient(dy: Tensor) -> Floats | None:
    """Return the memory of an incoming gradient; None if backward must use PyTorch's ops."""
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
    """Return the gradients of ``op(*inputs)`` from PyTorch's autograd; in grad mode they have a graph themselves."""
    higher_order = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [x if x is None else x.view_as(x) for x in inputs]
        returned = op(*aliases)
        outputs = returned if isinstance(returned, tuple) else (returned,)
        wanted = {i: x for i, x in enumerate(aliases) if x is not None and needed[i]}
        found = torch.autograd.grad(
            [y for y, dy in zip(outputs, gradients, strict=True) if dy is not None],
            list(wanted.values()),
            [dy for dy in gradients if dy is not None],
            create_graph=higher_order,
            allow_unused=True,
        )
    by_input = dict(zip(wanted, found, strict=True))
    return [by_input.get(i) for i in range(len(inputs))]


def scaled_mask(shape: Sequence[int], p: float, seed: int, spatial: bool = False) -> Tensor:
    """Return the kernels' mask as factors, 0 or ``1 / (1 - p)``, of elements or channels of this shape."""
    drawn = (*shape[:2], *(1,) * (len(shape) - 2)) if spatial else shape
    return from_numpy(run(kernels.dropout, np.ones(drawn, np.float32), p, seed=seed))


def dropped_by_mask(x: Tensor, p: float, seed: int, spatial: bool = False) -> Tensor:
    """Compute dropout with the kernels' mask and PyTorch's differentiable ops; NaN is dropped too."""
    mask = scaled_mask(x.shape, p, seed, spatial)
    return torch.where(mask == 0.0, 0.0, x * mask)


def _dropout(ctx: Any, x: Tensor, p: float, spatial: bool, in_place: bool) -> Floats:
    try:
        array = x.numpy()
    except REFUSALS as error:
        raise Refused from error
    seed = draw_seed()
    ctx.options = p, seed, spatial
    kernel = kernels.spatial_dropout if spatial else kernels.dropout
    return run(kernel, array, p, seed=seed, out=array if in_place else None)


class Dropout(Function):
    """``apply(x, p, spatial)``: dropout of elements, or of the channels of (N, C, ...)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, spatial: bool) -> Tensor:
        """Save the seed; backward draws the mask again."""
        return from_numpy(_dropout(ctx, x, p, spatial, in_place=False))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Drop the same elements of the gradient."""
        p, seed, spatial = ctx.options
        array = kernel_gradient(dy.contiguous())
        if array is None:
            return dropped_by_mask(dy, p, seed, spatial), None, None
        kernel = kernels.spatial_dropout_backward if spatial else kernels.dropout_backward
        return from_numpy(run(kernel, array, p, seed=seed)), None, None


class InplaceDropout(Dropout):
    """``apply(x, p, spatial)``: dropout in place of ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, spatial: bool) -> Tensor:
        """Mark ``x`` as modified for autograd."""
        _dropout(ctx, x, p, spatial, in_place=True)
        ctx.mark_dirty(x)
        return x


class BatchNorm(Function):
    """``apply(x, weight, bias, running_mean, running_var, momentum, eps, channel_axis, gather)``: batch statistics.

    ``gather`` collects the sums of all processes that hold a part of the batch; None for a batch in one process.
    """

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
        gather: Gather | None,
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
                merge=None if gather is None else partial(merge_moments, gather),
            )
        except REFUSALS as error:
            if gather is not None:  # PyTorch's function would use this process's part alone
                raise
            raise Refused from error
        ctx.save_for_backward(x, weight)
        ctx.rest = mean, rstd, eps, channel_axis, gather
        return from_numpy(y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        mean, rstd, eps, axis, gather = ctx.rest
        needed = ctx.needs_input_grad
        array = kernel_gradient(dy.contiguous())
        if array is None and gather is not None:
            raise RuntimeError(
                "SyncBatchNorm supports first-order gradients only: call backward without create_graph and vmap"
            )
        if array is None:

            def stock(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
                return F.batch_norm(x.movedim(axis, 1), None, None, weight, bias, True, 0.0, eps).movedim(1, axis)

            inputs = x, weight, _any_bias(weight)
            return *formula_gradients(stock, inputs, (dy,), needed), None, None, None, None, None, None
        dx, dgamma, dbeta = run(
            kernels.batch_norm_backward,
            array,
            x.numpy(),
            mean,
            rstd,
            _array(weight),
            channel_axis=axis,
            merge=None if gather is None else partial(merge_gradient_sums, gather),
        )
        gradients = from_numpy(dx), _tensor(dgamma, needed[1]), _tensor(dbeta, needed[2])
        return *gradients, None, None, None, None, None, None


class BatchNormInference(Function):
    """``apply(x, weight, bias, running_mean, running_var, eps, channel_axis)``: running statistics."""

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
        """Save the running statistics; they do not change."""
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
        """Return the gradients of x, weight and bias."""
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
    """Return a bias of zeros for differentiation: no derivative depends on its values."""
    return None if weight is None else torch.zeros_like(weight)


def needs_gradient(*inputs: Tensor | None) -> bool:
    """Whether autograd may need the gradient of an input."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)


def _last_axes(dims: int) -> int | tuple[int, ...]:
    return -1 if dims == 1 else tuple(range(-dims, 0))


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, dims: int) -> Tensor:
    """Compute layer norm over the last ``dims`` axes; save nothing if no gradient is needed."""
    if needs_gradient(x, weight, bias):
        y: Tensor = LayerNorm.apply(x, weight, bias, eps, dims)
        return y
    try:
        arrays = x.numpy(), _array(weight), _array(bias)
        return from_numpy(run(kernels.layer_norm, *arrays, eps, axis=_last_axes(dims)))
    except REFUSALS as error:
        raise Refused from error


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, dims: int) -> Tensor:
    """Compute RMS norm over the last ``dims`` axes; save nothing if no gradient is needed."""
    if needs_gradient(x, weight):
        y: Tensor = RMSNorm.apply(x, weight, eps, dims)
        return y
    try:
        return from_numpy(run(kernels.rms_norm, x.numpy(), _array(weight), eps, axis=_last_axes(dims)))
    except REFUSALS as error:
        raise Refused from error


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, channel_axis: int
) -> Tensor:
    """Compute group norm; save nothing if no gradient is needed."""
    if needs_gradient(x, weight, bias):
        y: Tensor = GroupNorm.apply(x, num_groups, weight, bias, eps, channel_axis)
        return y
    try:
        arrays = x.numpy(), num_groups, _array(weight), _array(bias)
        return from_numpy(run(kernels.group_norm, *arrays, eps, channel_axis=channel_axis))
    except REFUSALS as error:
        raise Refused from error


class GroupNorm(Function):
    """``apply(x, num_groups, weight, bias, eps, channel_axis)``: group norm."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        num_groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        channel_axis: int,
    ) -> Tensor:
        """Save mean and rstd of each group."""
        try:
            arrays = x.numpy(), num_groups, _array(weight), _array(bias)
            y, mean, rstd = run(kernels.group_norm_forward, *arrays, eps, channel_axis=channel_axis)
        except REFUSALS as error:
            raise Refused from error
        ctx.save_for_backward(x, weight)
        ctx.rest = mean, rstd, eps, channel_axis
        return from_numpy(y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        mean, rstd, eps, axis = ctx.rest
        _, _, of_weight, of_bias, _, _ = ctx.needs_input_grad
        array = kernel_gradient(dy.contiguous())
        if array is None:

            def stock(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
                return F.group_norm(x.movedim(axis, 1), mean.shape[1], weight, bias, eps).movedim(1, axis)

            needed = ctx.needs_input_grad[0], of_weight, of_bias
            first, *others = formula_gradients(stock, (x, weight, _any_bias(weight)), (dy,), needed)
            return first, None, *others, None, None
        dx, dgamma, dbeta = run(
            kernels.group_norm_backward, array, x.numpy(), mean, rstd, _array(weight), channel_axis=axis
        )
        return from_numpy(dx), None, _tensor(dgamma, of_weight), _tensor(dbeta, of_bias), None, None


class LayerNorm(Function):
    """``apply(x, weight, bias, eps, dims)``: layer norm over the last ``dims`` axes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, dims: int) -> Tensor:
        """Save mean and rstd of each row."""
        try:
            arrays = x.numpy(), _array(weight), _array(bias)
            y, mean, rstd = run(kernels.layer_norm_forward, *arrays, eps, axis=_last_axes(dims))
        except REFUSALS as error:
            raise Refused from error
        ctx.save_for_backward(x, weight)
        ctx.rest = mean, rstd, eps, dims
        return from_numpy(y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        mean, rstd, eps, dims = ctx.rest
        needed = ctx.needs_input_grad
        array = kernel_gradient(dy.contiguous())
        if array is None:

            def stock(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
                return F.layer_norm(x, x.shape[-dims:], weight, bias, eps)

            return *formula_gradients(stock, (x, weight, _any_bias(weight)), (dy,), needed), None, None
        arrays = array, x.numpy(), mean, rstd, _array(weight)
        dx, dgamma, dbeta = run(kernels.layer_norm_backward, *arrays, axis=_last_axes(dims))
        return from_numpy(dx), _tensor(dgamma, needed[1]), _tensor(dbeta, needed[2]), None, None


class RMSNorm(Function):
    """``apply(x, weight, eps, dims)``: RMS norm over the last ``dims`` axes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float, dims: int) -> Tensor:
        """Save rstd of each row."""
        try:
            y, rstd = run(kernels.rms_norm_forward, x.numpy(), _array(weight), eps, axis=_last_axes(dims))
        except REFUSALS as error:
            raise Refused from error
        ctx.save_for_backward(x, weight)
        ctx.rest = rstd, eps, dims
        return from_numpy(y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and weight."""
        x, weight = ctx.saved_tensors
        rstd, eps, dims = ctx.rest
        needed = ctx.needs_input_grad
        array = kernel_gradient(dy.contiguous())
        if array is None:

            def stock(x: Tensor, weight: Tensor | None) -> Tensor:
                return F.rms_norm(x, x.shape[-dims:], weight, eps)

            return *formula_gradients(stock, (x, weight), (dy,), needed), None, None
        arrays = array, x.numpy(), rstd, _array(weight)
        dx, dgamma = run(kernels.rms_norm_backward, *arrays, axis=_last_axes(dims))
        return from_numpy(dx), _tensor(dgamma, needed[1]), None, None


def dropout_add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, p: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Return ``(layer_norm(h), h)`` with ``h = residual + dropout(x)``."""
    if needs_gradient(x, residual, weight, bias):
        both: tuple[Tensor, Tensor] = DropoutAddLayerNorm.apply(x, residual, weight, bias, p, eps)
        return both
    _, y, h, *_ = _dropout_add_layer_norm(x, residual, weight, bias, p, eps)
    return from_numpy(y), from_numpy(h)


def _dropout_add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, p: float, eps: float
) -> tuple[int, Floats, Floats, Statistics, Statistics]:
    """Return the seed, 0 without dropout, and the results of the kernel."""
    try:
        arrays = x.numpy(), residual.numpy(), _array(weight), _array(bias)
        seed = draw_seed() if p else 0
        return seed, *run(kernels.dropout_add_layer_norm_forward, *arrays, p, eps, seed=seed)
    except REFUSALS as error:
        raise Refused from error


class DropoutAddLayerNorm(Function):
    """``apply(x, residual, weight, bias, p, eps)``: ``(layer_norm(h), h)`` with ``h = residual + dropout(x)``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, p: float, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Save h, the mean and rstd of each row, and the seed of dropout."""
        seed, y, array, *statistics = _dropout_add_layer_norm(x, residual, weight, bias, p, eps)
        h = from_numpy(array)
        ctx.save_for_backward(h, weight, bias)
        ctx.rest = p, eps, seed, statistics
        ctx.set_materialize_grads(False)
        return from_numpy(y), h

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dh: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, residual, weight and bias."""
        h, weight, bias = ctx.saved_tensors
        p, eps, seed, statistics = ctx.rest
        needed = ctx.needs_input_grad
        dy = torch.zeros_like(h) if dy is None else dy
        array = kernel_gradient(dy.contiguous())
        dh_array = None if dh is None else kernel_gradient(dh.contiguous())
        if array is None or (dh is not None and dh_array is None):

            def stock(h: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
                return F.layer_norm(h, h.shape[-1:], weight, bias, eps)

            through_norm, *others = formula_gradients(stock, (h, weight, bias), (dy,), (True, *needed[2:4]))
            assert through_norm is not None
            both = through_norm if dh is None else through_norm + dh
            return dropped_by_mask(both, p, seed) if p else both, both, *others, None, None
        dx, dresidual, dgamma, dbeta = run(
            kernels.dropout_add_layer_norm_backward,
            array,
            h.numpy(),
            *statistics,
            _array(weight),
            p,
            dh=dh_array,
            seed=seed,
        )
        both = from_numpy(dresidual)
        through_dropout = from_numpy(dx) if p else both
        return through_dropout, both, _tensor(dgamma, needed[2]), _tensor(dbeta, needed[3]), None, None
