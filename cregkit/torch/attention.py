"""Multi-head attention with dropout of the attention weights by the kernel.

In ``dropout(softmax(Q K^T / sqrt(d) + mask)) V``, the kernel computes the dropout and PyTorch's ops compute the rest,
in graphs of ``torch.compile`` too.
Calls that the kernel does not support (evaluation mode, no dropout, other dtypes, wrong shapes) go to PyTorch's
``forward``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from cregkit import functional as kernels
from cregkit.torch import compiled
from cregkit.torch.autograd import Function, backward_arrays, dropped_by_mask, formula_gradients, needs_gradient, output
from cregkit.torch.bridge import SMALLEST, draw_seed, is_float32, memory, run
from cregkit.torch.private import is_watched, softmax_backward

Result = tuple[Tensor, Tensor | None]


def forward(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
    need_weights: bool,
    attn_mask: Tensor | None,
    average_attn_weights: bool,
    is_causal: bool,
) -> Result:
    """Compute ``nn.MultiheadAttention.forward``, with its arguments and results."""
    compiling = is_compiling()
    if (
        not (module.training and 0.0 < module.dropout < 1.0)
        or not (compiled.traces() if compiling else _is_eager(key_padding_mask, attn_mask))
        or not _takes(module, query, key, value, key_padding_mask, attn_mask, is_causal)
    ):
        return nn.MultiheadAttention.forward(
            module, query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
        )
    batched = query.dim() == 3
    if batched and module.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    elif not batched:
        query, key, value = (x.unsqueeze(1) for x in (query, key, value))
    q, k, v = _projected(module, query, key, value)
    length, batch, _ = query.shape
    mask = _merged_mask(key_padding_mask, attn_mask, batch, module.num_heads)
    if compiling:
        attended, weights = _traced_attention(q, k, v, mask, float(module.dropout), not need_weights)
    else:
        attended, weights = _attention(q, k, v, mask, float(module.dropout), draw_seed(), not need_weights)
    joined = attended.transpose(0, 1).reshape(length, batch, module.embed_dim)
    y = F.linear(joined, module.out_proj.weight, module.out_proj.bias)
    if not batched:
        y = y.squeeze(1)
    elif module.batch_first:
        y = y.transpose(0, 1)
    if not need_weights:
        return y, None
    weights = weights.view(batch, module.num_heads, length, -1)
    if average_attn_weights:
        weights = weights.mean(dim=1)
    return y, weights if batched else weights.squeeze(0)


def _is_eager(*masks: Tensor | None) -> bool:
    """Whether nothing watches the ops, and autograd can save the masks."""
    return not is_watched() and not any(mask is not None and mask.is_inference() for mask in masks)


def _takes(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
    is_causal: bool,
) -> bool:
    weights = module.in_proj_weight, module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
    tensors = query, key, value, *weights, module.in_proj_bias, module.out_proj.weight, module.out_proj.bias
    if not all(x is None or is_float32(x) for x in tensors) or torch.is_autocast_enabled("cpu"):
        return False
    if module.bias_k is not None or module.bias_v is not None or module.add_zero_attn:
        return False
    dims = query.dim()
    if dims not in (2, 3) or key.dim() != dims or value.dim() != dims:
        return False
    (n, length), s = _batch_and_length(query, module.batch_first), _batch_and_length(key, module.batch_first)[1]
    return (
        key.shape[:-1] == value.shape[:-1]
        and _batch_and_length(key, module.batch_first)[0] == n
        and (query.shape[-1], key.shape[-1], value.shape[-1]) == (module.embed_dim, module.kdim, module.vdim)
        and n * module.num_heads * length * s >= SMALLEST["attention"]
        and _is_mask(key_padding_mask, [(n, s) if dims == 3 else (s,)])
        and _is_mask(attn_mask, [(length, s), (n * module.num_heads, length, s)])
        and (attn_mask is None or key_padding_mask is None or attn_mask.dtype == key_padding_mask.dtype)
        and not (is_causal and attn_mask is None)
    )


def _batch_and_length(x: Tensor, batch_first: bool) -> tuple[int, int]:
    if x.dim() == 2:
        return 1, x.shape[0]
    return (x.shape[0], x.shape[1]) if batch_first else (x.shape[1], x.shape[0])


def _is_mask(mask: Tensor | None, shapes: list[tuple[int, ...]]) -> bool:
    return mask is None or (
        type(mask) is Tensor
        and mask.is_cpu
        and mask.dtype in (torch.bool, torch.float32)
        and not mask.requires_grad
        and tuple(mask.shape) in shapes
    )


def _merged_mask(key_padding_mask: Tensor | None, attn_mask: Tensor | None, batch: int, heads: int) -> Tensor | None:
    """Return the sum of the masks, of a shape that broadcasts to (batch * heads, length, keys), or None."""
    mask = None if attn_mask is None else _additive(attn_mask)
    if mask is not None and mask.dim() == 2:
        mask = mask.unsqueeze(0)
    if key_padding_mask is None:
        return mask
    padding = _additive(key_padding_mask).view(batch, 1, 1, -1).expand(-1, heads, -1, -1).reshape(batch * heads, 1, -1)
    return padding if mask is None else mask + padding


def _additive(mask: Tensor) -> Tensor:
    """Return the mask as a float32 term of the scores: -inf at masked positions."""
    if mask.dtype is torch.bool:
        return torch.zeros(mask.shape, dtype=torch.float32, device="cpu").masked_fill_(mask, -math.inf)
    return mask


def _projected(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    """Return Q, K and V, each of shape (batch * heads, length, head_dim)."""
    separate = [w for w in (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight) if w is not None]
    weights = separate or module.in_proj_weight.chunk(3)
    biases = (None, None, None) if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    return [
        F.linear(x, weight, bias).view(x.shape[0], x.shape[1] * module.num_heads, module.head_dim).transpose(0, 1)
        for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
    ]


def _scores(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    scale = 1.0 / math.sqrt(q.shape[-1])
    term = q.new_zeros(1) if mask is None else mask
    return torch.baddbmm(term, q, k.transpose(1, 2), beta=0 if mask is None else 1, alpha=scale)


def _traced_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float, zero_masked_rows: bool
) -> tuple[Tensor, Tensor]:
    """Compute attention in a graph of ``torch.compile``; results as those of ``Attention``."""
    weights = torch.softmax(_scores(q, k, mask), -1)
    if zero_masked_rows and mask is not None:
        weights = weights.masked_fill((mask == -math.inf).all(dim=-1, keepdim=True), 0.0)
    dropped = compiled.dropout(weights, p, training=True, inplace=False)
    return torch.bmm(dropped, v), dropped


def _fully_masked_rows(mask: Tensor | None) -> Tensor | None:
    """Return a mask of the rows whose keys are all masked; None without such rows."""
    if mask is None:
        return None
    rows = (mask == -math.inf).all(dim=-1, keepdim=True)
    return rows if bool(rows.any()) else None


def _attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float, seed: int, zero_masked_rows: bool
) -> tuple[Tensor, Tensor]:
    """Return the dropped weights times v, and the dropped weights.

    With ``zero_masked_rows``, weights of fully masked rows are 0, as in ``scaled_dot_product_attention``; without, NaN.
    """
    rows = _fully_masked_rows(mask) if zero_masked_rows else None
    if needs_gradient(q, k, v):
        both: tuple[Tensor, Tensor] = Attention.apply(q, k, v, mask, rows, p, seed)
        return both
    _, dropped = _weights(q, k, mask, rows, p, seed)
    return torch.bmm(dropped, v), dropped


def _weights(
    q: Tensor, k: Tensor, mask: Tensor | None, rows: Tensor | None, p: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the weights before and after dropout, 0 in ``rows``."""
    weights = _scores(q, k, mask)
    torch.softmax(weights, -1, out=weights)
    if rows is not None:
        weights.masked_fill_(rows, 0.0)
    return weights, output(kernels.dropout, weights, memory(weights), p, seed=seed)


class Attention(Function):
    """``apply(q, k, v, mask, rows, p, seed)``: dropped weights, 0 in ``rows``, times v, and the dropped weights."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rows: Tensor | None, p: float, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Save the weights before and after dropout."""
        weights, dropped = _weights(q, k, mask, rows, p, seed)
        ctx.save_for_backward(q, k, v, mask, rows, weights, dropped)
        ctx.random = p, seed
        ctx.set_materialize_grads(False)
        return torch.bmm(dropped, v), dropped

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dropped_gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of q, k and v."""
        q, k, v, mask, rows, weights, dropped = ctx.saved_tensors
        p, seed = ctx.random
        if backward_arrays(dy, dropped_gradient, q, k, v, weights, dropped) is None:

            def stock(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
                softmax = torch.softmax(_scores(q, k, mask), -1)
                if rows is not None:
                    softmax = softmax.masked_fill(rows, 0.0)
                dropped = dropped_by_mask(softmax, p, seed)
                return torch.bmm(dropped, v), dropped

            found = formula_gradients(stock, (q, k, v), (dy, dropped_gradient), ctx.needs_input_grad)
            return *found, None, None, None, None
        if dy is None:
            gradient, dv = torch.zeros_like(dropped, memory_format=torch.contiguous_format), None
        else:
            gradient, dv = torch.bmm(dy, v.transpose(1, 2)), torch.bmm(dropped.transpose(1, 2), dy)
        if dropped_gradient is not None:
            gradient += dropped_gradient
        array = memory(gradient)
        run(kernels.dropout_backward, array, p, seed=seed, out=array)
        gradient = softmax_backward(gradient, weights)
        scale = 1.0 / math.sqrt(q.shape[-1])
        dq = torch.baddbmm(q.new_zeros(1), gradient, k, beta=0, alpha=scale)
        dk = torch.baddbmm(q.new_zeros(1), gradient.transpose(1, 2), q, beta=0, alpha=scale)
        return dq, dk, dv, None, None, None, None
