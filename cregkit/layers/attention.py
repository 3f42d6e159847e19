"""Multi-head self-attention."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers.base import Array, Layer
from cregkit.layers.dropout import Dropout
from cregkit.layers.linear import Linear
from cregkit.layers.seeding import Seed, draw_seed

Mask: TypeAlias = NDArray[np.bool_]


class MultiHeadAttention(Layer):
    """``y = softmax(q k^T / sqrt(d_model / n_heads)) v`` in each head, heads side by side, projected (Vaswani et al.).

    ``q``, ``k`` and ``v`` are ``x`` times the three parts of ``qkv.weight``; ``out`` projects the heads' results. In
    training, dropout takes weights out of the softmax's. A position that may look at nothing gets weights of 0
    throughout, so its ``y`` is the bias of ``out``. ``x`` and ``y`` are float32 of shape (N, T, d_model).

    Args:
        d_model: size of the last axis.
        n_heads: heads; they divide ``d_model``.
        dropout: probability of dropping a weight, in [0, 1].
        causal: whether position t sees positions 0 to t alone.
        seed: what initial weights and dropout's bits are drawn from; see ``draw_seed``.

    Raises:
        TypeError, ValueError: an argument, ``x``, ``dy`` or a mask has the wrong type, value or shape.

    Vaswani et al. (2017), "Attention Is All You Need", arXiv:1706.03762.
    """

    def __init__(
        self, d_model: int, n_heads: int, dropout: float = 0.0, *, causal: bool = False, seed: Seed = None
    ) -> None:
        """Draw the initial weights; biases start at 0."""
        self.d_model = validate.positive_int("d_model", d_model)
        self.n_heads = validate.positive_int("n_heads", n_heads)
        if d_model % n_heads:
            raise ValueError(f"n_heads must divide d_model, got {n_heads} heads for d_model = {d_model}")
        self.causal = bool(causal)
        rng = np.random.default_rng(draw_seed(seed))
        self.qkv = Linear(d_model, 3 * d_model, seed=rng)
        self.out = Linear(d_model, d_model, seed=rng)
        for projection in (self.qkv, self.out):
            assert projection.bias is not None
            projection.bias[...] = 0
        self.dropout = Dropout(dropout, seed=rng)

    def _children(self) -> Iterator[tuple[str, Layer]]:
        return iter((("qkv", self.qkv), ("out", self.out), ("dropout", self.dropout)))

    def forward(self, x: Array, *, key_padding_mask: Mask | None = None, attn_mask: Mask | None = None) -> Array:
        """Return the attended ``x``.

        Args:
            x: float32 of shape (N, T, d_model).
            key_padding_mask: bool of shape (N, T): True where no position may look, because it is padding.
            attn_mask: bool of shape (T, T) or (N, T, T): True where position ``[..., t, s]`` may not look from t at s.
        """
        validate.float32("x", x)
        if x.ndim != 3 or x.shape[-1] != self.d_model:
            raise ValueError(f"x must have shape (N, T, {self.d_model}), as d_model says, got {x.shape}")
        hidden = self._hidden(x.shape[0], x.shape[1], key_padding_mask, attn_mask)
        q, k, v = self._heads(self.qkv(x))
        scores: Array = np.matmul(q * np.float32(self._scale), k.swapaxes(-1, -2), dtype=np.float32)
        weights = masked_softmax(scores, hidden)
        kept = self.dropout(weights) if self.dropout.p else weights
        self._saved = (q, k, v, weights, kept)
        return self.out(self._joined(kept @ v))

    def _gradient(self, dy: Array, saved: Any) -> Array:
        q, k, v, weights, kept = saved
        n, _, t, _ = q.shape
        dcontext = self.out.backward(dy).reshape(n, t, self.n_heads, v.shape[-1]).swapaxes(1, 2)
        dweights = dcontext @ v.swapaxes(-1, -2)
        if self.dropout.p:
            dweights = self.dropout.backward(dweights)
        dscores = softmax_gradient(dweights, weights)
        dscores *= np.float32(self._scale)
        dqkv = np.empty((n, t, 3, self.n_heads, v.shape[-1]), np.float32)
        dq, dk, dv = (dqkv[:, :, part].swapaxes(1, 2) for part in range(3))
        dq[...] = dscores @ k
        dk[...] = dscores.swapaxes(-1, -2) @ q
        dv[...] = kept.swapaxes(-1, -2) @ dcontext
        return self.qkv.backward(dqkv.reshape(n, t, 3 * self.d_model))

    @property
    def _scale(self) -> float:
        return 1 / math.sqrt(self.d_model // self.n_heads)

    def _heads(self, qkv: Array) -> tuple[Array, Array, Array]:
        """Return views of q, k and v, each of shape (N, heads, T, d_model / heads)."""
        n, t, _ = qkv.shape
        parts = qkv.reshape(n, t, 3, self.n_heads, self.d_model // self.n_heads).transpose(2, 0, 3, 1, 4)
        return parts[0], parts[1], parts[2]

    def _joined(self, heads: Array) -> Array:
        n, _, t, _ = heads.shape
        return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(n, t, self.d_model)

    def _hidden(self, n: int, t: int, padding: Mask | None, attn: Mask | None) -> Mask | None:
        """Return where not to look, of a shape that goes with (N, heads, T, T); None if everywhere may be looked."""
        hidden = None
        if padding is not None:
            hidden = _mask("key_padding_mask", padding, ((n, t),))[:, None, None, :]
        if attn is not None:
            attn = _mask("attn_mask", attn, ((t, t), (n, t, t)))
            attn = attn if attn.ndim == 2 else attn[:, None]
            hidden = attn if hidden is None else hidden | attn
        if self.causal:
            future = np.triu(np.ones((t, t), bool), 1)
            hidden = future if hidden is None else hidden | future
        return hidden


def _mask(name: str, mask: object, shapes: tuple[tuple[int, ...], ...]) -> Mask:
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(f"{name} must be a bool array, True where not to look, got {validate.kind(mask)}")
    if mask.shape not in shapes:
        raise ValueError(f"{name} must have shape {' or '.join(map(str, shapes))}, got {mask.shape}")
    return mask


def masked_softmax(scores: Array, hidden: Mask | None) -> Array:
    """Turn ``scores`` into their softmax over the last axis, in place; hidden ones get 0, also where all are hidden."""
    if hidden is not None:
        np.copyto(scores, np.float32(-np.inf), where=hidden)
    largest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    if hidden is not None:
        largest[np.isneginf(largest)] = 0  # all hidden: exp(-inf - 0) = 0, where -inf - -inf were NaN
    scores -= largest
    np.exp(scores, out=scores)
    total = scores.sum(axis=-1, keepdims=True)
    if hidden is not None:
        total[total == 0] = 1
    scores /= total
    return scores


def softmax_gradient(dweights: Array, weights: Array) -> Array:
    """Return the gradient of the scores, ``weights * (dweights - sum(dweights * weights))``, in ``dweights``."""
    dweights -= np.einsum("...s,...s->...", dweights, weights)[..., None]
    dweights *= weights
    return dweights
