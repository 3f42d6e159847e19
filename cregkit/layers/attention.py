"""Multi-head self-attention."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers.base import Array, Layer, Tensor
from cregkit.layers.dropout import Dropout
from cregkit.layers.linear import Linear
from cregkit.layers.precision import rounded, widened
from cregkit.layers.seeding import Seed, draw_seed

Mask: TypeAlias = NDArray[np.bool_]


class MultiHeadAttention(Layer):
    """Multi-head self-attention: ``y = out(concat(softmax(q k^T / sqrt(d_head)) v))``.

    ``q``, ``k`` and ``v`` of each head are slices of the projection ``qkv(x)``, and ``d_head = d_model / n_heads``.
    ``out`` projects the concatenated heads. In training mode, dropout is applied to the attention weights. A position
    whose keys are all masked has attention weights 0, so its ``y`` is the bias of ``out``. ``x`` and ``y`` are float32,
    float16 or bfloat16 of shape (N, T, d_model); 16-bit values are rounded after ``qkv``, before ``out`` and after it.

    Parameters
    ----------
    d_model
        Size of the last axis, a multiple of ``n_heads``.
    n_heads
        Number of heads.
    dropout
        Probability of dropping an attention weight, in [0, 1].
    causal
        Whether position t attends to positions 0 to t only.
    seed
        Seed of the initial weights and of dropout; see ``draw_seed``.

    Raises
    ------
    TypeError, ValueError
        An argument, ``x``, ``dy`` or a mask has the wrong type, value or shape.

    References
    ----------
    Vaswani et al. (2017), "Attention Is All You Need", arXiv:1706.03762.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import MultiHeadAttention
    >>> attention = MultiHeadAttention(d_model=8, n_heads=2, causal=True, seed=0)
    >>> x = np.ones((1, 3, 8), dtype=np.float32)
    >>> y = attention(x)
    >>> attention.backward(y).shape
    (1, 3, 8)
    """

    def __init__(
        self, d_model: int, n_heads: int, dropout: float = 0.0, *, causal: bool = False, seed: Seed = None
    ) -> None:
        """Draw the initial weights; biases start at 0."""
        self.d_model = validate.positive_int("d_model", d_model)
        self.n_heads = validate.positive_int("n_heads", n_heads)
        if d_model % n_heads:
            raise ValueError(f"n_heads must divide d_model, got n_heads={n_heads} and d_model={d_model}")
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

    def forward(self, x: Tensor, *, key_padding_mask: Mask | None = None, attn_mask: Mask | None = None) -> Tensor:
        """Return the attention output.

        Parameters
        ----------
        x : shape (N, T, d_model)
            Input sequences.
        key_padding_mask : shape (N, T)
            True at padding, which no position attends to.
        attn_mask : shape (T, T) or (N, T, T)
            True at ``[..., t, s]`` where position t must not attend to position s.

        Returns
        -------
        y : shape (N, T, d_model)
            Output sequences.
        """
        validate.tensor("x", x)
        if x.ndim != 3 or x.shape[-1] != self.d_model:
            raise ValueError(f"x must have shape (N, T, d_model) with d_model={self.d_model}, got {x.shape}")
        masked = self._masked(x.shape[0], x.shape[1], key_padding_mask, attn_mask)
        q, k, v = self._heads(widened(self.qkv(x)))
        scores: Array = np.matmul(q * np.float32(self._scale), k.swapaxes(-1, -2), dtype=np.float32)
        weights = masked_softmax(scores, masked)
        kept = self.dropout(weights) if self.dropout.p else weights
        self._saved = (q, k, v, weights, kept)
        return self.out(rounded(self._concatenated(kept @ v), x.dtype))

    def _gradient(self, dy: Tensor, saved: Any) -> Tensor:
        q, k, v, weights, kept = saved
        n, _, t, _ = q.shape
        dcontext = widened(self.out.backward(dy)).reshape(n, t, self.n_heads, v.shape[-1]).swapaxes(1, 2)
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
        return self.qkv.backward(rounded(dqkv.reshape(n, t, 3 * self.d_model), dy.dtype))

    @property
    def _scale(self) -> float:
        return 1 / math.sqrt(self.d_model // self.n_heads)

    def _heads(self, qkv: Array) -> tuple[Array, Array, Array]:
        """Return views of q, k and v, each of shape (N, heads, T, d_model / heads)."""
        n, t, _ = qkv.shape
        parts = qkv.reshape(n, t, 3, self.n_heads, self.d_model // self.n_heads).transpose(2, 0, 3, 1, 4)
        return parts[0], parts[1], parts[2]

    def _concatenated(self, heads: Array) -> Array:
        n, _, t, _ = heads.shape
        return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(n, t, self.d_model)

    def _masked(self, n: int, t: int, padding: Mask | None, attn: Mask | None) -> Mask | None:
        """Return the union of all masks, of a shape that broadcasts to (N, heads, T, T); None without any."""
        masked = None
        if padding is not None:
            masked = _mask("key_padding_mask", padding, ((n, t),))[:, None, None, :]
        if attn is not None:
            attn = _mask("attn_mask", attn, ((t, t), (n, t, t)))
            attn = attn if attn.ndim == 2 else attn[:, None]
            masked = attn if masked is None else masked | attn
        if self.causal:
            future = np.triu(np.ones((t, t), bool), 1)
            masked = future if masked is None else masked | future
        return masked


def _mask(name: str, mask: object, shapes: tuple[tuple[int, ...], ...]) -> Mask:
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(f"{name} must be a bool array, True at masked positions, got {validate.kind(mask)}")
    if mask.shape not in shapes:
        raise ValueError(f"{name} must have shape {' or '.join(map(str, shapes))}, got {mask.shape}")
    return mask


def masked_softmax(scores: Array, masked: Mask | None) -> Array:
    """Compute the softmax over the last axis in place of ``scores``; masked weights are 0, in fully masked rows too."""
    if masked is not None:
        np.copyto(scores, np.float32(-np.inf), where=masked)
    largest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    if masked is not None:
        largest[np.isneginf(largest)] = 0  # fully masked rows: exp(-inf - 0) is 0, but -inf - -inf is NaN
    scores -= largest
    np.exp(scores, out=scores)
    total = scores.sum(axis=-1, keepdims=True)
    if masked is not None:
        total[total == 0] = 1
    scores /= total
    return scores


def softmax_gradient(dweights: Array, weights: Array) -> Array:
    """Compute the gradient of the scores in place: ``dweights = weights * (dweights - sum(dweights * weights))``."""
    dweights -= np.einsum("...s,...s->...", dweights, weights)[..., None]
    dweights *= weights
    return dweights
