"""The kernels as ``torch.autograd.Function`` classes for float32 tensors on the CPU.

A forward raises ``Refused`` if the kernel does not support its arguments; nothing has changed then. Backward calls the
backward kernel. For higher-order gradients (``create_graph=True``), gradients that are not plain tensors (batched by
vmap) and saved tensors that a hook changed to another dtype, it computes PyTorch's formula with PyTorch's ops, which
autograd differentiates. A call that needs no gradient goes to the kernel without an autograd node.
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
from cregkit.torch.bridge import POOLED, REFUSALS, Refused, draw_seed, is_float32, memory, new_like, run
from cregkit.torch.private import apply, is_watched

Floats: TypeAlias = NDArray[np.float32]
Statistics: TypeAlias = NDArray[np.float64]


class Function(torch.autograd.Function):
    """An ``autograd.Function`` for use outside functorch transforms: ``apply`` skips PyTorch's check for them."""

    apply = apply


def needs_gradient(*inputs: Tensor | None) -> bool:
    """Whether autograd may need the gradient of an input."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)


def _is_recorded(*inputs: Tensor | None) -> bool:
    """Whether autograd records a call, which saves its inputs; raise Refused for one that it cannot save."""
    if not needs_gradient(*inputs):
        return False
    if any(x is not None and x.is_inference() for x in inputs):
        raise Refused("autograd cannot save inference tensors: clone them outside torch.inference_mode")
    return True


def output(kernel: Callable[..., Any], like: Tensor, *args: Any, **options: Any) -> Any:
    """Call a kernel whose first result has the shape of ``like``. Return this result as a tensor."""
    if like.numel() < POOLED:
        y = new_like(like)
        returned = run(kernel, *args, out=memory(y), **options)
    else:
        returned = run(kernel, *args, **options)
        y = from_numpy(returned[0] if isinstance(returned, tuple) else returned)
    return (y, *returned[1:]) if isinstance(returned, tuple) else y


def _forward(kernel: Callable[..., Any], x: Tensor, *args: Any, **options: Any) -> Any:
    """Call a forward kernel with tensors among its arguments; raise Refused if it does not support them."""
    try:
        return output(kernel, x, memory(x), *[memory(a) if isinstance(a, Tensor) else a for a in args], **options)
    except REFUSALS as error:
        raise Refused from error


def _readable(*tensors: Tensor | None) -> list[Floats | None]:
    """Return the memory of tensors; raise Refused if it cannot be read."""
    try:
        return [None if x is None else memory(x) for x in tensors]
    except REFUSALS as error:
        raise Refused from error


def backward_arrays(*tensors: Tensor | None) -> list[Floats | None] | None:
    """Return the memory of gradients and saved tensors; None if backward must use PyTorch's ops."""
    if torch.is_grad_enabled() or is_watched() or not all(x is None or is_float32(x) for x in tensors):
        return None
    try:
        return [None if x is None else memory(x) for x in tensors]
    except REFUSALS:
        return None


def _contiguous_arrays(*tensors: Tensor | None) -> list[Floats | None] | None:
    return backward_arrays(*(None if x is None else x.contiguous() for x in tensors))


def _owned(x: Floats) -> Tensor:
    """Return another result of a kernel as a tensor, in memory of PyTorch if it is small."""
    y = from_numpy(x)
    return y.clone() if x.size < POOLED else y


def _tensor(x: Floats | None, needed: bool) -> Tensor | None:
    """Return the gradient of a parameter as a tensor, if needed."""
    return _owned(x) if needed and x is not None else None


def formula_gradients(
    op: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor | None],
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients of ``op(*inputs)`` from PyTorch's autograd; in grad mode they have a graph themselves."""
    higher_order = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [_differentiable(x) if x is not None and needed[i] else x for i, x in enumerate(inputs)]
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


def _differentiable(x: Tensor) -> Tensor:
    """Return an alias of ``x`` that requires a gradient; ``x`` may have stopped to require one after the forward."""
    alias = x.view_as(x)
    return alias if alias.requires_grad else alias.requires_grad_()


def _norm_gradients(
    op: Callable[..., Tensor], x: Tensor, weight: Tensor | None, dy: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients of x, weight and bias of ``op(x, weight, bias)``; none depends on the values of the bias."""
    any_bias = None if weight is None else torch.zeros_like(weight)
    return formula_gradients(op, (x, weight, any_bias), (dy,), needed)


def scaled_mask(shape: Sequence[int], p: float, seed: int, spatial: bool = False) -> Tensor:
    """Return the kernels' mask as factors, 0 or ``1 / (1 - p)``, of elements or channels of this shape."""
    drawn = (*shape[:2], *(1,) * (len(shape) - 2)) if spatial else shape
    return from_numpy(run(kernels.dropout, np.ones(drawn, np.float32), p, seed=seed))


def dropped_by_mask(x: Tensor, p: float, seed: int, spatial: bool = False) -> Tensor:
    """Compute dropout with the kernels' mask and PyTorch's differentiable ops; NaN is dropped too."""
    mask = scaled_mask(x.shape, p, seed, spatial)
    return torch.where(mask == 0.0, 0.0, x * mask)


def dropout(x: Tensor, p: float, spatial: bool) -> Tensor:
    """Compute dropout of elements, or of the channels of (N, C, ...)."""
    y: Tensor = Dropout.apply(x, p, spatial) if needs_gradient(x) else _dropout(x, p, spatial)[0]
    return y


def dropout_(x: Tensor, p: float, spatial: bool) -> Tensor:
    """Compute dropout in place of ``x``; autograd counts the change even if no gradient is needed."""
    y: Tensor = InplaceDropout.apply(x, p, spatial)
    return y


def _dropout(x: Tensor, p: float, spatial: bool) -> tuple[Tensor, int]:
    """Return the output and the seed."""
    (array,) = _readable(x)
    seed = draw_seed()
    kernel = kernels.spatial_dropout if spatial else kernels.dropout
    return output(kernel, x, array, p, seed=seed), seed


class Dropout(Function):
    """``apply(x, p, spatial)``: dropout of elements, or of the channels of (N, C, ...)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, spatial: bool) -> Tensor:
        """Save the seed; backward draws the mask again."""
        y, seed = _dropout(x, p, spatial)
        ctx.options = p, seed, spatial
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Drop the same elements of the gradient."""
        p, seed, spatial = ctx.options
        arrays = _contiguous_arrays(dy)
        if arrays is None:
            return dropped_by_mask(dy, p, seed, spatial), None, None
        kernel = kernels.spatial_dropout_backward if spatial else kernels.dropout_backward
        return output(kernel, dy, *arrays, p, seed=seed), None, None


class InplaceDropout(Dropout):
    """``apply(x, p, spatial)``: dropout in place of ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, spatial: bool) -> Tensor:
        """Mark ``x`` as modified for autograd."""
        (array,) = _readable(x)
        seed = draw_seed()
        run(kernels.spatial_dropout if spatial else kernels.dropout, array, p, seed=seed, out=array)
        ctx.options = p, seed, spatial
        ctx.mark_dirty(x)
        return x


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    channel_axis: int,
    gather: Gather | None = None,
) -> Tensor:
    """Compute batch norm with the statistics of the batch, and update the running statistics in place."""
    arguments = x, weight, bias, running_mean, running_var, momentum, eps, channel_axis, gather
    y: Tensor = BatchNorm.apply(*arguments) if _is_recorded(x, weight, bias) else _batch_norm(*arguments)[0]
    return y


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    channel_axis: int,
    gather: Gather | None,
) -> tuple[Tensor, Statistics, Statistics]:
    """Return the output, and mean and rstd of each channel."""
    found: tuple[Tensor, Statistics, Statistics] = _forward(
        kernels.batch_norm_forward,
        x,
        weight,
        bias,
        running_mean,
        running_var,
        momentum,
        eps,
        unbiased=True,
        channel_axis=channel_axis,
        merge=None if gather is None else partial(merge_moments, gather),
    )
    return found


class BatchNorm(Function):
    """``apply`` takes the arguments of :func:`batch_norm`.

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
        """Save mean and rstd of each channel."""
        y, mean, rstd = _batch_norm(x, weight, bias, running_mean, running_var, momentum, eps, channel_axis, gather)
        ctx.save_for_backward(x, weight)
        ctx.rest = mean, rstd, eps, channel_axis, gather
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        mean, rstd, eps, axis, gather = ctx.rest
        needed = ctx.needs_input_grad
        arrays = _contiguous_arrays(dy, x, weight)
        if arrays is None and gather is not None:
            raise RuntimeError(
                "SyncBatchNorm supports first-order gradients only: call backward without create_graph and vmap"
            )
        if arrays is None:

            def stock(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
                return F.batch_norm(x.movedim(axis, 1), None, None, weight, bias, True, 0.0, eps).movedim(1, axis)

            return *_norm_gradients(stock, x, weight, dy, needed), None, None, None, None, None, None
        dy_array, x_array, weight_array = arrays
        dx, dgamma, dbeta = output(
            kernels.batch_norm_backward,
            x,
            dy_array,
            x_array,
            mean,
            rstd,
            weight_array,
            channel_axis=axis,
            merge=None if gather is None else partial(merge_gradient_sums, gather),
        )
        gradients = dx, _tensor(dgamma, needed[1]), _tensor(dbeta, needed[2])
        return *gradients, None, None, None, None, None, None


def batch_norm_inference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    eps: float,
    channel_axis: int,
) -> Tensor:
    """Compute batch norm with the running statistics."""
    arguments = x, weight, bias, running_mean, running_var, eps, channel_axis
    recorded = _is_recorded(x, weight, bias)
    y: Tensor = BatchNormInference.apply(*arguments) if recorded else _batch_norm_inference(*arguments)
    return y


def _batch_norm_inference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    eps: float,
    channel_axis: int,
) -> Tensor:
    arguments = x, running_mean, running_var, weight, bias, eps
    y: Tensor = _forward(kernels.batch_norm, *arguments, channel_axis=channel_axis)
    return y


class BatchNormInference(Function):
    """``apply`` takes the arguments of :func:`batch_norm_inference`."""

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
        y = _batch_norm_inference(x, weight, bias, running_mean, running_var, eps, channel_axis)
        ctx.save_for_backward(x, weight, running_mean, running_var)
        ctx.rest = eps, channel_axis
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, weight, mean, var = ctx.saved_tensors
        eps, axis = ctx.rest
        needed = ctx.needs_input_grad
        arrays = _contiguous_arrays(dy, x, mean, var, weight)
        if arrays is None:

            def stock(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
                return F.batch_norm(x.movedim(axis, 1), mean, var, weight, bias, False, 0.0, eps).movedim(1, axis)

            return *_norm_gradients(stock, x, weight, dy, needed), None, None, None, None
        kernel = kernels.batch_norm_inference_backward
        dx, dgamma, dbeta = output(kernel, x, *arrays, eps, channel_axis=axis)
        return dx, _tensor(dgamma, needed[1]), _tensor(dbeta, needed[2]), None, None, None, None


def _last_axes(dims: int) -> int | tuple[int, ...]:
    return -1 if dims == 1 else tuple(range(-dims, 0))


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, dims: int) -> Tensor:
    """Compute layer norm over the last ``dims`` axes."""
    y: Tensor = (
        LayerNorm.apply(x, weight, bias, eps, dims)
        if _is_recorded(x, weight, bias)
        else _forward(kernels.layer_norm, x, weight, bias, eps, axis=_last_axes(dims))
    )
    return y


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, dims: int) -> Tensor:
    """Compute RMS norm over the last ``dims`` axes."""
    y: Tensor = (
        RMSNorm.apply(x, weight, eps, dims)
        if _is_recorded(x, weight)
        else _forward(kernels.rms_norm, x, weight, eps, axis=_last_axes(dims))
    )
    return y


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, channel_axis: int
) -> Tensor:
    """Compute group norm."""
    y: Tensor = (
        GroupNorm.apply(x, num_groups, weight, bias, eps, channel_axis)
        if _is_recorded(x, weight, bias)
        else _forward(kernels.group_norm, x, num_groups, weight, bias, eps, channel_axis=channel_axis)
    )
    return y


class GroupNorm(Function):
    """``apply`` takes the arguments of :func:`group_norm`."""

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
        arguments = x, num_groups, weight, bias, eps
        y, mean, rstd = _forward(kernels.group_norm_forward, *arguments, channel_axis=channel_axis)
        ctx.save_for_backward(x, weight)
        ctx.rest = mean, rstd, eps, channel_axis
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        mean, rstd, eps, axis = ctx.rest
        of_x, _, *of_parameters, _, _ = ctx.needs_input_grad
        arrays = _contiguous_arrays(dy, x, weight)
        if arrays is None:

            def stock(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
                return F.group_norm(x.movedim(axis, 1), mean.shape[1], weight, bias, eps).movedim(1, axis)

            first, *others = _norm_gradients(stock, x, weight, dy, (of_x, *of_parameters))
            return first, None, *others, None, None
        dy_array, x_array, weight_array = arrays
        arguments = dy_array, x_array, mean, rstd, weight_array
        dx, *sums = output(kernels.group_norm_backward, x, *arguments, channel_axis=axis)
        return dx, None, *map(_tensor, sums, of_parameters), None, None


class LayerNorm(Function):
    """``apply`` takes the arguments of :func:`layer_norm`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, dims: int) -> Tensor:
        """Save mean and rstd of each row."""
        arguments = x, weight, bias, eps
        y, mean, rstd = _forward(kernels.layer_norm_forward, *arguments, axis=_last_axes(dims))
        ctx.save_for_backward(x, weight)
        ctx.rest = mean, rstd, eps, dims
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        mean, rstd, eps, dims = ctx.rest
        needed = ctx.needs_input_grad
        arrays = _contiguous_arrays(dy, x, weight)
        if arrays is None:

            def stock(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
                return F.layer_norm(x, x.shape[-dims:], weight, bias, eps)

            return *_norm_gradients(stock, x, weight, dy, needed), None, None
        dy_array, x_array, weight_array = arrays
        arguments = dy_array, x_array, mean, rstd, weight_array
        dx, dgamma, dbeta = output(kernels.layer_norm_backward, x, *arguments, axis=_last_axes(dims))
        return dx, _tensor(dgamma, needed[1]), _tensor(dbeta, needed[2]), None, None


class RMSNorm(Function):
    """``apply`` takes the arguments of :func:`rms_norm`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float, dims: int) -> Tensor:
        """Save rstd of each row."""
        y, rstd = _forward(kernels.rms_norm_forward, x, weight, eps, axis=_last_axes(dims))
        ctx.save_for_backward(x, weight)
        ctx.rest = rstd, eps, dims
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and weight."""
        x, weight = ctx.saved_tensors
        rstd, eps, dims = ctx.rest
        needed = ctx.needs_input_grad
        arrays = _contiguous_arrays(dy, x, weight)
        if arrays is None:

            def stock(x: Tensor, weight: Tensor | None) -> Tensor:
                return F.rms_norm(x, x.shape[-dims:], weight, eps)

            return *formula_gradients(stock, (x, weight), (dy,), needed), None, None
        dy_array, x_array, weight_array = arrays
        arguments = dy_array, x_array, rstd, weight_array
        dx, dgamma = output(kernels.rms_norm_backward, x, *arguments, axis=_last_axes(dims))
        return dx, _tensor(dgamma, needed[1]), None, None


def dropout_add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, p: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Return ``(layer_norm(h), h)`` with ``h = residual + dropout(x)``."""
    arguments = x, residual, weight, bias, p, eps
    if _is_recorded(x, residual, weight, bias):
        both: tuple[Tensor, Tensor] = DropoutAddLayerNorm.apply(*arguments)
        return both
    _, y, h, *_ = _dropout_add_layer_norm(*arguments)
    return y, h


def _dropout_add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, p: float, eps: float
) -> tuple[int, Tensor, Tensor, Statistics, Statistics]:
    """Return the seed, 0 without dropout, and the results of the kernel."""
    arrays = _readable(x, residual, weight, bias)
    seed = draw_seed() if p else 0
    try:
        y, h, *statistics = output(kernels.dropout_add_layer_norm_forward, x, *arrays, p, eps, seed=seed)
    except REFUSALS as error:
        raise Refused from error
    return seed, y, _owned(h), *statistics


class DropoutAddLayerNorm(Function):
    """``apply`` takes the arguments of :func:`dropout_add_layer_norm`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, p: float, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Save h, the mean and rstd of each row, and the seed of dropout."""
        seed, y, h, *statistics = _dropout_add_layer_norm(x, residual, weight, bias, p, eps)
        ctx.save_for_backward(h, weight)
        ctx.rest = p, eps, seed, statistics
        ctx.set_materialize_grads(False)
        return y, h

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dh: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, residual, weight and bias."""
        h, weight = ctx.saved_tensors
        p, eps, seed, statistics = ctx.rest
        needed = ctx.needs_input_grad
        dy = torch.zeros_like(h) if dy is None else dy
        arrays = _contiguous_arrays(dy, h, weight, dh)
        if arrays is None:

            def stock(h: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
                return F.layer_norm(h, h.shape[-1:], weight, bias, eps)

            through_norm, *others = _norm_gradients(stock, h, weight, dy, (True, *needed[2:4]))
            assert through_norm is not None
            both = through_norm if dh is None else through_norm + dh
            return dropped_by_mask(both, p, seed) if p else both, both, *others, None, None
        dy_array, h_array, weight_array, dh_array = arrays
        arguments = dy_array, h_array, *statistics, weight_array, p
        dx, dresidual, dgamma, dbeta = run(kernels.dropout_add_layer_norm_backward, *arguments, dh=dh_array, seed=seed)
        both = _owned(dresidual)
        through_dropout = _owned(dx) if p else both
        return through_dropout, both, _tensor(dgamma, needed[2]), _tensor(dbeta, needed[3]), None, None
