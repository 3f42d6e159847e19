"""PyTorch's modules, computed by ``cregkit.torch.functional``.

Each module subclasses PyTorch's module of the same name and overrides ``forward`` alone. Constructor, parameters,
buffers, ``state_dict``, ``repr`` and modes are PyTorch's. TorchScript compiles PyTorch's code.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy as _Proxy

from cregkit.torch import attention, dispatch, functional, private
from cregkit.torch.bridge import is_small

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "MultiheadAttention",
    "RMSNorm",
]

Proxy: Any = _Proxy  # the type of tensors during fx tracing; Any, because mypy knows that a Tensor is no Proxy


def stock_method(original: Any, name: str = "_stock_forward") -> Any:
    """Return a method of PyTorch, such as ``forward``, by another name: TorchScript compiles methods by name."""
    method = FunctionType(original.__code__, original.__globals__, name, original.__defaults__)
    method.__annotations__ = original.__annotations__
    return method


def fx_node(module: nn.Module, *arguments: Any) -> Any:
    """Record the call of a module as one node of the fx graph, as fx does for PyTorch's modules."""
    tracer = arguments[0].tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), arguments, {})


class Dropout(nn.Dropout):
    """``torch.nn.Dropout``: zero each element with probability ``p``.

    References
    ----------
    Srivastava et al. (2014), "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> _ = torch.manual_seed(0)
    >>> cregkit.torch.Dropout(p=0.5)(torch.ones(100, 100)).unique()
    tensor([0., 2.])
    """

    _stock_forward = stock_method(nn.Dropout.forward)

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements in training mode; return ``input`` itself in evaluation mode."""
        return (
            self._stock_forward(input)
            if torch.jit.is_scripting()
            else fx_node(self, input)
            if isinstance(input, Proxy)
            else functional.dropout(input, self.p, True, self.inplace)
            if self.training
            else self._stock_forward(input)
        )


class Dropout1d(nn.Dropout1d):
    """``torch.nn.Dropout1d``: zero each channel of (N, C, L) or (C, L) with probability ``p``.

    References
    ----------
    Tompson et al. (2015), "Efficient Object Localization Using Convolutional Networks", arXiv:1411.4280.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> _ = torch.manual_seed(0)
    >>> y = cregkit.torch.Dropout1d(p=0.5)(torch.ones(8, 8, 64))
    >>> bool((y == y[..., :1]).all())
    True
    """

    _stock_forward = stock_method(nn.Dropout1d.forward)

    def forward(self, input: Tensor) -> Tensor:
        """Drop channels in training mode; return ``input`` itself in evaluation mode."""
        return (
            self._stock_forward(input)
            if torch.jit.is_scripting()
            else fx_node(self, input)
            if isinstance(input, Proxy)
            else functional.dropout1d(input, self.p, self.training, self.inplace)
        )


class Dropout2d(nn.Dropout2d):
    """``torch.nn.Dropout2d``: zero each channel of (N, C, H, W) with probability ``p``.

    References
    ----------
    Tompson et al. (2015), "Efficient Object Localization Using Convolutional Networks", arXiv:1411.4280.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> _ = torch.manual_seed(0)
    >>> y = cregkit.torch.Dropout2d(p=0.5)(torch.ones(8, 8, 8, 8))
    >>> bool((y == y[..., :1, :1]).all())
    True
    """

    _stock_forward = stock_method(nn.Dropout2d.forward)

    def forward(self, input: Tensor) -> Tensor:
        """Drop channels in training mode; return ``input`` itself in evaluation mode."""
        return (
            self._stock_forward(input)
            if torch.jit.is_scripting()
            else fx_node(self, input)
            if isinstance(input, Proxy)
            else functional.dropout2d(input, self.p, self.training, self.inplace)
        )


def _batch_norm(module: BatchNorm1d | BatchNorm2d, input: Tensor) -> Tensor:
    """Compute batch norm with the parameters and running statistics of a module."""
    if not torch.compiler.is_compiling() and is_small(input, "batch_norm"):
        y: Tensor = module._stock_forward(input)
        return y
    private.check_input(module, input)
    return with_statistics(module, input, functional.batch_norm)


def with_statistics(
    module: nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm, input: Tensor, compute: Callable[..., Tensor]
) -> Tensor:
    """Count the batch and call ``compute`` with the arguments of ``batch_norm`` that the module holds."""
    mean, var, training = module.running_mean, module.running_var, module.training
    weight_of_batch = 0.0 if module.momentum is None else module.momentum
    if training and module.track_running_stats and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        if module.momentum is None:
            weight_of_batch = 1.0 / float(module.num_batches_tracked)
    uses_batch = training or (mean is None and var is None)
    if training and not module.track_running_stats:
        mean = var = None
    return compute(input, mean, var, module.weight, module.bias, uses_batch, weight_of_batch, module.eps)


class BatchNorm1d(nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d``: batch normalisation of (N, C) or (N, C, L).

    References
    ----------
    Ioffe and Szegedy (2015), "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", arXiv:1502.03167.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> norm = cregkit.torch.BatchNorm1d(2, affine=False)
    >>> norm(torch.tensor([[1.0, 10.0], [3.0, 30.0]])).round(decimals=3)
    tensor([[-1., -1.],
            [ 1.,  1.]])
    """

    _stock_forward = stock_method(nn.BatchNorm1d.forward)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise with the statistics of the batch (training mode) or the running statistics (evaluation mode)."""
        return (
            self._stock_forward(input)
            if torch.jit.is_scripting()
            else fx_node(self, input)
            if isinstance(input, Proxy)
            else dispatch.converted(self._stock_forward, input)
            if functional.dispatches()
            else _batch_norm(self, input)
        )


class BatchNorm2d(nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d``: batch normalisation of (N, C, H, W), with channels first or last in memory.

    References
    ----------
    Ioffe and Szegedy (2015), "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", arXiv:1502.03167.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> norm = cregkit.torch.BatchNorm2d(1, affine=False)
    >>> norm(torch.tensor([[[[1.0, 3.0]]], [[[3.0, 1.0]]]])).flatten().round(decimals=3)
    tensor([-1.,  1.,  1., -1.])
    """

    _stock_forward = stock_method(nn.BatchNorm2d.forward)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise with the statistics of the batch (training mode) or the running statistics (evaluation mode)."""
        return (
            self._stock_forward(input)
            if torch.jit.is_scripting()
            else fx_node(self, input)
            if isinstance(input, Proxy)
            else dispatch.converted(self._stock_forward, input)
            if functional.dispatches()
            else _batch_norm(self, input)
        )


class GroupNorm(nn.GroupNorm):
    """``torch.nn.GroupNorm``: group normalisation of (N, C, ...), with channels first or last in memory.

    References
    ----------
    Wu and He (2018), "Group Normalization", arXiv:1803.08494.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> norm = cregkit.torch.GroupNorm(2, 4)
    >>> norm(torch.tensor([[1.0, 3.0, 10.0, 30.0]])).detach().round(decimals=3)
    tensor([[-1.,  1., -1.,  1.]])
    """

    _stock_forward = stock_method(nn.GroupNorm.forward)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each group."""
        return (
            self._stock_forward(input)
            if torch.jit.is_scripting()
            else fx_node(self, input)
            if isinstance(input, Proxy)
            else dispatch.converted(self._stock_forward, input)
            if functional.dispatches()
            else functional.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
        )


class _InstanceNorm(nn.Module):
    """What the instance norms share: PyTorch's ``forward`` checks the input and calls ``_instance_norm``."""

    _stock_forward = stock_method(nn.InstanceNorm1d.forward)
    _stock_apply = stock_method(private.stock_instance_norm, "_stock_apply")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel of a sample."""
        y: Tensor = (
            self._stock_forward(input)
            if torch.jit.is_scripting()
            else fx_node(self, input)
            if isinstance(input, Proxy)
            else self._stock_forward(input)
        )
        return y


def _instance_norm(self: Any, input: Tensor) -> Tensor:
    return (
        self._stock_apply(input)
        if torch.jit.is_scripting()
        else functional.instance_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
    )


setattr(_InstanceNorm, private.INSTANCE_NORM, stock_method(_instance_norm, private.INSTANCE_NORM))


class InstanceNorm1d(_InstanceNorm, nn.InstanceNorm1d):
    """``torch.nn.InstanceNorm1d``: instance normalisation of (N, C, L) or (C, L).

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky (2016), "Instance Normalization: The Missing Ingredient for Fast Stylization",
    arXiv:1607.08022.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> cregkit.torch.InstanceNorm1d(2)(torch.tensor([[[1.0, 3.0], [10.0, 30.0]]])).round(decimals=3)
    tensor([[[-1.,  1.],
             [-1.,  1.]]])
    """


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    """``torch.nn.InstanceNorm2d``: instance normalisation of (N, C, H, W) or (C, H, W).

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky (2016), "Instance Normalization: The Missing Ingredient for Fast Stylization",
    arXiv:1607.08022.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> cregkit.torch.InstanceNorm2d(1)(torch.tensor([[[[1.0, 3.0]]], [[[10.0, 30.0]]]])).flatten().round(decimals=3)
    tensor([-1.,  1., -1.,  1.])
    """


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    """``torch.nn.InstanceNorm3d``: instance normalisation of (N, C, D, H, W) or (C, D, H, W).

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky (2016), "Instance Normalization: The Missing Ingredient for Fast Stylization",
    arXiv:1607.08022.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> cregkit.torch.InstanceNorm3d(1)(torch.tensor([[[[[1.0, 3.0]]]]])).flatten().round(decimals=3)
    tensor([-1.,  1.])
    """


class LayerNorm(nn.LayerNorm):
    """``torch.nn.LayerNorm``: layer normalisation over the last axes.

    References
    ----------
    Ba, Kiros and Hinton (2016), "Layer Normalization", arXiv:1607.06450.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> norm = cregkit.torch.LayerNorm(3, elementwise_affine=False)
    >>> norm(torch.tensor([[1.0, 2.0, 3.0]])).round(decimals=3)
    tensor([[-1.2250,  0.0000,  1.2250]])
    """

    _stock_forward = stock_method(nn.LayerNorm.forward)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each row."""
        return (
            self._stock_forward(input)
            if torch.jit.is_scripting()
            else fx_node(self, input)
            if isinstance(input, Proxy)
            else dispatch.converted(self._stock_forward, input)
            if functional.dispatches()
            else functional.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)
        )


class RMSNorm(nn.RMSNorm):
    """``torch.nn.RMSNorm``: root mean square normalisation over the last axes.

    References
    ----------
    Zhang and Sennrich (2019), "Root Mean Square Layer Normalization", arXiv:1910.07467.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> norm = cregkit.torch.RMSNorm(2, elementwise_affine=False)
    >>> norm(torch.tensor([[3.0, 4.0]])).round(decimals=3)
    tensor([[0.8490, 1.1310]])
    """

    _stock_forward = stock_method(nn.RMSNorm.forward)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each row."""
        return (
            self._stock_forward(x)
            if torch.jit.is_scripting()
            else fx_node(self, x)
            if isinstance(x, Proxy)
            else dispatch.converted(self._stock_forward, x)
            if functional.dispatches()
            else functional.rms_norm(x, self.normalized_shape, self.weight, self.eps)
        )


class MultiheadAttention(nn.MultiheadAttention):
    """``torch.nn.MultiheadAttention``, with dropout of the attention weights by the kernel.

    References
    ----------
    Vaswani et al. (2017), "Attention Is All You Need", arXiv:1706.03762.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> attention = cregkit.torch.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
    >>> x = torch.ones(1, 3, 8)
    >>> y, weights = attention(x, x, x)
    >>> y.shape, weights.shape
    (torch.Size([1, 3, 8]), torch.Size([1, 3, 3]))
    """

    _stock_forward = stock_method(nn.MultiheadAttention.forward)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute attention, with the arguments and results of PyTorch's module."""
        return (
            self._stock_forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
            if torch.jit.is_scripting()
            else fx_node(
                self, query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
            if isinstance(query, Proxy)
            else attention.forward(
                self, query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        )
