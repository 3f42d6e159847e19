"""Transformer encoder layer that fuses dropout, addition to the residual stream and layer norm.

Attention and feed-forward network are the layer's own modules, called as PyTorch calls them. If the kernel does not
support the arguments, the layer calls its dropout and norm modules one after another, so that their hooks run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from cregkit.torch import autograd, private
from cregkit.torch.bridge import Refused, is_float32, takes
from cregkit.torch.modules import Dropout, LayerNorm, MultiheadAttention, Proxy, fx_node, stock_method

__all__ = ["TransformerEncoderLayer"]


class TransformerEncoderLayer(nn.TransformerEncoderLayer):
    """``torch.nn.TransformerEncoderLayer`` that fuses dropout, addition and the following norm.

    Parameters
    ----------
    *args, **options
        Arguments of ``torch.nn.TransformerEncoderLayer``.

    References
    ----------
    Vaswani et al. (2017), "Attention Is All You Need", arXiv:1706.03762.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> layer = cregkit.torch.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> layer(torch.ones(1, 3, 8)).shape
    torch.Size([1, 3, 8])
    """

    _stock_forward = stock_method(nn.TransformerEncoderLayer.forward)

    def __init__(self, *args: Any, **options: Any) -> None:
        """Build PyTorch's layer and swap its norms, dropouts and attention."""
        super().__init__(*args, **options)
        self.self_attn.__class__ = MultiheadAttention
        for dropout in (self.dropout, self.dropout1, self.dropout2):
            dropout.__class__ = Dropout
        for norm in (self.norm1, self.norm2):
            norm.__class__ = LayerNorm

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Compute the layer, with the arguments and results of PyTorch's module."""
        return (
            self._stock_forward(src, src_mask, src_key_padding_mask, is_causal)
            if torch.jit.is_scripting()
            else fx_node(self, src, src_mask, src_key_padding_mask, is_causal)
            if isinstance(src, Proxy)
            else _forward(self, src, src_mask, src_key_padding_mask, is_causal)
        )


def _forward(
    layer: TransformerEncoderLayer,
    src: Tensor,
    src_mask: Tensor | None,
    src_key_padding_mask: Tensor | None,
    is_causal: bool,
) -> Tensor:
    if (
        is_compiling()
        or not takes(src, "dropout_add_layer_norm")
        or not private.FUSES
        or private.has_own_blocks(layer)
        or _has_fast_path(layer, src)
    ):
        return nn.TransformerEncoderLayer.forward(layer, src, src_mask, src_key_padding_mask, is_causal)
    padding = private.canonical_mask(
        mask=src_key_padding_mask,
        mask_name="src_key_padding_mask",
        other_type=private.none_or_dtype(src_mask),
        other_name="src_mask",
        target_type=src.dtype,
    )
    mask = private.canonical_mask(
        mask=src_mask, mask_name="src_mask", other_type=None, other_name="", target_type=src.dtype, check_other=False
    )

    def attention(x: Tensor) -> Tensor:
        y: Tensor = layer.self_attn(
            x, x, x, attn_mask=mask, key_padding_mask=padding, need_weights=False, is_causal=is_causal
        )[0]
        return y

    def feed_forward(x: Tensor) -> Tensor:
        y: Tensor = layer.linear2(layer.dropout(layer.activation(layer.linear1(x))))
        return y

    if layer.norm_first:
        y, h = _add_and_norm(attention(layer.norm1(src)), src, layer.dropout1, layer.norm2)
        last: Tensor = layer.dropout2(feed_forward(y))
        return h + last
    x, _ = _add_and_norm(attention(src), src, layer.dropout1, layer.norm1)
    return _add_and_norm(feed_forward(x), x, layer.dropout2, layer.norm2)[0]


def _has_fast_path(layer: nn.TransformerEncoderLayer, src: Tensor) -> bool:
    """Whether PyTorch may compute the whole layer in one call: evaluation mode, batch first, no gradients."""
    return (
        not layer.training
        and layer.self_attn.batch_first
        and src.dim() == 3
        and not autograd.needs_gradient(src, *layer.parameters())
    )


def _add_and_norm(x: Tensor, residual: Tensor, dropout: nn.Dropout, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Return ``(norm(h), h)`` with ``h = residual + dropout(x)``."""
    if not private.has_any_global_hook() and not obstacle(dropout, norm) and _fits(x, residual, dropout, norm):
        p = float(dropout.p) if dropout.training else 0.0
        try:
            return autograd.dropout_add_layer_norm(x.contiguous(), residual, norm.weight, norm.bias, p, norm.eps)
        except Refused:
            pass
    h = residual + dropout(x)
    return norm(h), h


def fused(layer: nn.TransformerEncoderLayer) -> Iterator[tuple[str, str]]:
    """Yield the names of each dropout and norm of a layer that the kernel fuses."""
    if not layer.norm_first:
        yield "dropout1", "norm1"
        yield "dropout2", "norm2"
    else:
        yield "dropout1", "norm2"


def obstacle(dropout: nn.Module, norm: nn.Module) -> str | None:
    """Return the reason why the kernel cannot fuse these two modules, as far as the modules show it, or None."""
    for module, kinds in ((dropout, (Dropout, nn.Dropout)), (norm, (LayerNorm, nn.LayerNorm))):
        if type(module) not in kinds:
            return f"a {type(module).__name__} instead of a {kinds[0].__name__}"
        if "forward" in vars(module):
            return f"a {kinds[0].__name__} with a forward that is overridden on the instance"
        if private.has_hooks(module):
            return f"hooks on a {kinds[0].__name__}"
    return None


def _fits(x: Tensor, residual: Tensor, dropout: nn.Dropout, norm: nn.LayerNorm) -> bool:
    """Whether the kernel computes the same as PyTorch for these tensors and settings."""
    features = residual.shape[-1]
    weight: Tensor | None = norm.weight  # not in norm._parameters under FSDP
    bias: Tensor | None = norm.bias
    return (
        is_float32(x)
        and is_float32(residual)
        and residual.is_contiguous()
        and x.shape == residual.shape
        and norm.normalized_shape == (features,)
        and all(v is None or (is_float32(v) and v.shape == (features,)) for v in (weight, bias))
        and not (weight is None and bias is not None)
        and norm.eps >= 0.0
        and not dropout.inplace
        and (0.0 <= dropout.p < 1.0 or not dropout.training)
    )
