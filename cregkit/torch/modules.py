"""PyTorch's modules, computed by :mod:`cregkit.torch.functional`.

Each is a subclass of PyTorch's module of the same name with nothing but another ``forward``: constructor, parameters,
buffers, ``state_dict``, ``repr``, training and evaluation are PyTorch's own. TorchScript compiles PyTorch's code.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy as _Proxy

from cregkit.torch import attention, functional
from cregkit.torch.bridge import is_small

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "LayerNorm",
    "MultiheadAttention",
    "RMSNorm",
]

Proxy: Any = _Proxy  # what stands for a tensor while fx traces: never a Tensor to mypy, which the modules annotate


def stock_method(forward: Any) -> Any:
    """PyTorch's ``forward`` as a method of another name, because TorchScript compiles methods by their names."""
    method = FunctionType(forward.__code__, forward.__globals__, "_stock_forward", forward.__defaults__)
    method.__annotations__ = forward.__annotations__
    return method


def fx_node(module: nn.Module, *arguments: Any) -> Any:
    """The call of a module as one node of an fx graph, which is what fx makes of PyTorch's own modules."""
    tracer = arguments[0].tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), arguments, {})


class Dropout(nn.Dropout):
    """``torch.nn.Dropout``: elements are zeroed with probability ``p``.

    Srivastava et al. (2014), "Dropout: A Simple Way to Prevent Neural Networks from Overfitting".
    """

    _stock_forward = stock_method(nn.Dropout.forward)

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements in training; return ``input`` itself in evaluation."""
        return (
            self._stock_forward(input)
            if torch.jit.is_scripting()
            else fx_node(self, input)
            if isinstance(input, Proxy)
            else functional.dropout(input, self.p, self.training, self.inplace)
        )


class Dropout1d(nn.Dropout1d):
    """``torch.nn.Dropout1d``: whole channels of (N, C, L) or (C, L) are zeroed with probability ``p``.

    Tompson et al. (2015), "Efficient Object Localization Using Convolutional Networks", arXiv:1411.4280.
    """

    _stock_forward = stock_method(nn.Dropout1d.forward)

    def forward(self, input: Tensor) -> Tensor:
        """Drop channels in training; return ``input`` itself in evaluation."""
        return (
            self._stock_forward(input)
            if torch.jit.is_scripting()
            else fx_node(self, input)
            if isinstance(input, Proxy)
            else functional.dropout1d(input, self.p, self.training, self.inplace)
        )


class Dropout2d(nn.Dropout2d):
    """``torch.nn.Dropout2d``: whole channels of (N, C, H, W) are zeroed with probability ``p``.

    Tompson et al. (2015), "Efficient Object Localization Using Convolutional Networks", arXiv:1411.4280.
    """

    _stock_forward = stock_method(nn.Dropout2d.forward)

    def forward(self, input: Tensor) -> Tensor:
        """Drop channels in training; return ``input`` itself in evaluation."""
        return (
            self._stock_forward(input)
            if torch.jit.is_scripting()
            else fx_node(self, input)
            if isinstance(input, Proxy)
            else functional.dropout2d(input, self.p, self.training, self.inplace)
        )


def _batch_norm(module: BatchNorm1d | BatchNorm2d, input: Tensor) -> Tensor:
    """Batch norm with a module's parameters and statistics, which training updates."""
    if not torch.compiler.is_compiling() and is_small(input, "batch_norm"):
        y: Tensor = module._stock_forward(input)
        return y
    module._check_input_dim(input)
    return with_statistics(module, input, functional.batch_norm)


def with_statistics(module: nn.modules.batchnorm._BatchNorm, input: Tensor, compute: Callable[..., Tensor]) -> Tensor:
    """Call ``compute`` with the arguments of ``batch_norm`` that a module has for its next batch, which it counts."""
    weight_of_batch = 0.0 if module.momentum is None else module.momentum
    if module.training and module.track_running_stats and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        if module.momentum is None:
            weight_of_batch = 1.0 / float(module.num_batches_tracked)
    uses_running = not module.training or module.track_running_stats
    return compute(
        input,
        module.running_mean if uses_running else None,
        module.running_var if uses_running else None,
        module.weight,
        module.bias,
        module.training or (module.running_mean is None and module.running_var is None),
        weight_of_batch,
        module.eps,
    )


class BatchNorm1d(nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` for (N, C) or (N, C, L).

    Ioffe and Szegedy (2015), "Batch Normalization", arXiv:1502.03167.
    """

    _stock_forward = stock_method(nn.BatchNorm1d.forward)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise with the statistics of the batch in training, with the running ones in evaluation."""
        return (
            self._stock_forward(input)
            if torch.jit.is_scripting()
            else fx_node(self, input)
            if isinstance(input, Proxy)
            else _batch_norm(self, input)
        )


class BatchNorm2d(nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` for (N, C, H, W), channels first or last in memory.

    Ioffe and Szegedy (2015), "Batch Normalization", arXiv:1502.03167.
    """

    _stock_forward = stock_method(nn.BatchNorm2d.forward)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise with the statistics of the batch in training, with the running ones in evaluation."""
        return (
            self._stock_forward(input)
            if torch.jit.is_scripting()
            else fx_node(self, input)
            if isinstance(input, Proxy)
            else _batch_norm(self, input)
        )


class LayerNorm(nn.LayerNorm):
    """``torch.nn.LayerNorm`` over the last axes.

    Ba, Kiros and Hinton (2016), "Layer Normalization", arXiv:1607.06450.
    """

    _stock_forward = stock_method(nn.LayerNorm.forward)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each row."""
        return (
            self._stock_forward(input)
            if torch.jit.is_scripting()
            else fx_node(self, input)
            if isinstance(input, Proxy)
            else functional.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)
        )


class RMSNorm(nn.RMSNorm):
    """``torch.nn.RMSNorm`` over the last axes.

    Zhang and Sennrich (2019), "Root Mean Square Layer Normalization", arXiv:1910.07467.
    """

    _stock_forward = stock_method(nn.RMSNorm.forward)

    def forward(self, x: Tensor) -> Tensor:
        """Divide each row by its root mean square."""
        return (
            self._stock_forward(x)
            if torch.jit.is_scripting()
            else fx_node(self, x)
            if isinstance(x, Proxy)
            else functional.rms_norm(x, self.normalized_shape, self.weight, self.eps)
        )


class MultiheadAttention(nn.MultiheadAttention):
    """``torch.nn.MultiheadAttention``, whose attention weights are dropped by the kernel in training.

    Vaswani et al. (2017), "Attention Is All You Need", arXiv:1706.03762.
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
        """Attend, with the arguments and results of PyTorch's module."""
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
