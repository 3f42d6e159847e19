"""Transformer blocks, and a stack of them between an embedding and a head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers.activations import GELU, GELUTanh, ReLU, SiLU
from cregkit.layers.attention import Mask, MultiHeadAttention
from cregkit.layers.base import Array, Layer
from cregkit.layers.dropout import Dropout
from cregkit.layers.embedding import Embedding, PositionalEmbedding
from cregkit.layers.layer_norm import LayerNorm
from cregkit.layers.linear import Linear
from cregkit.layers.residual_norm import ResidualNorm, make_norm
from cregkit.layers.rms_norm import RMSNorm
from cregkit.layers.seeding import Seed, draw_seed
from cregkit.layers.sequential import Sequential

ACTIVATIONS = {"relu": ReLU, "gelu": GELU, "gelu_tanh": GELUTanh, "silu": SiLU}


class TransformerBlock(Layer):
    """Self-attention and a feed-forward network, each with dropout, a residual connection and a norm.

    Post-LN (Vaswani et al., 2017):                 h = norm1(x + dropout(attention(x))),  y = norm2(h + dropout(ff(h)))
    Pre-LN (``norm_first``; Xiong et al., 2020):    h = x + dropout(attention(norm1(x))),  y = h + dropout(ff(norm2(h)))

    with ``ff(h) = ff2(dropout(activation(ff1(h))))``, as in ``torch.nn.TransformerEncoderLayer``. Dropout, addition and
    the norm behind it are one pass over memory. ``x`` and ``y`` are float32 of shape (N, T, d_model).

    Args:
        d_model: size of the last axis.
        n_heads: heads of the attention; they divide ``d_model``.
        d_ff: width of the feed-forward network; by default 4 * d_model.
        dropout: probability of dropping, in [0, 1]: of the sublayers' outputs, of the attention's weights and of the
            feed-forward network's hidden values.
        norm: "layer" or "rms".
        norm_first: Pre-LN instead of Post-LN.
        activation: "gelu" (exact), "gelu_tanh" (its tanh approximation), "relu" or "silu".
        causal: whether position t sees positions 0 to t alone.
        attention_dropout: probability of dropping a weight of the attention; by default ``dropout``.
        eps: of the norms; by default that of ``LayerNorm`` or ``RMSNorm``.
        seed: what initial weights and dropout's bits are drawn from; see ``draw_seed``.

    Raises:
        TypeError, ValueError: an argument, ``x``, ``dy`` or a mask has the wrong type, value or shape.
    """

    def __init__(
        self,
        d_model: int = 512,
        n_heads: int = 8,
        d_ff: int | None = None,
        dropout: float = 0.1,
        norm: str = "layer",
        norm_first: bool = False,
        *,
        activation: str = "gelu",
        causal: bool = False,
        attention_dropout: float | None = None,
        eps: float | None = None,
        seed: Seed = None,
    ) -> None:
        """Draw the initial weights."""
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        rng = np.random.default_rng(draw_seed(seed))
        attention_dropout = dropout if attention_dropout is None else attention_dropout
        self.attention = MultiHeadAttention(d_model, n_heads, attention_dropout, causal=causal, seed=rng)
        self.d_model = self.attention.d_model
        self.norm_first = bool(norm_first)
        d_ff = 4 * d_model if d_ff is None else validate.positive_int("d_ff", d_ff)
        hidden = (ACTIVATIONS[activation](), *((Dropout(dropout, seed=rng),) if dropout else ()))
        self.ff = Sequential(Linear(d_model, d_ff, seed=rng), *hidden, Linear(d_ff, d_model, seed=rng))
        # The fused norms stand behind an addition: both in Post-LN, the second one in Pre-LN.
        self.norm2 = ResidualNorm(d_model, dropout, norm, eps, seed=rng)
        self.norm1: ResidualNorm | LayerNorm | RMSNorm = (
            make_norm(norm, d_model, eps) if norm_first else ResidualNorm(d_model, dropout, norm, eps, seed=rng)
        )
        self.dropout = Dropout(dropout, seed=rng) if norm_first else None

    def _children(self) -> Iterator[tuple[str, Layer]]:
        yield from (("attention", self.attention), ("norm1", self.norm1), ("ff", self.ff), ("norm2", self.norm2))
        if self.dropout is not None:
            yield "dropout", self.dropout

    def forward(self, x: Array, *, key_padding_mask: Mask | None = None, attn_mask: Mask | None = None) -> Array:
        """Return the block's output for ``x``; the masks are those of ``MultiHeadAttention``."""
        attended = x if isinstance(self.norm1, ResidualNorm) else self.norm1(x)
        attended = self.attention.forward(attended, key_padding_mask=key_padding_mask, attn_mask=attn_mask)
        if isinstance(self.norm1, ResidualNorm):
            h, _ = self.norm1.add(attended, x)
            y, _ = self.norm2.add(self.ff(h), h)
        else:
            assert self.dropout is not None
            normed, h = self.norm2.add(attended, x)
            y = self.dropout(self.ff(normed)) + h
        self._saved = ()
        return y

    def _gradient(self, dy: Array, saved: Any) -> Array:
        if isinstance(self.norm1, ResidualNorm):
            dff, dh = self.norm2.split(dy)
            dattended, dx = self.norm1.split(dh + self.ff.backward(dff))
            return dx + self.attention.backward(dattended)
        assert self.dropout is not None
        dnormed = self.ff.backward(self.dropout.backward(dy))
        dattended, dx = self.norm2.split(dnormed, dh=dy)
        return dx + self.norm1.backward(self.attention.backward(dattended))


class Transformer(Layer):
    """Embeddings of tokens and positions, ``n_layers`` blocks, and a linear head on every position.

    ``ids`` is an integer array of shape (N, T), ``y`` float32 of shape (N, T, n_outputs). With ``causal`` and the
    default ``n_outputs`` it is a language model. A Pre-LN stack has one more norm before the head. ``backward`` returns
    zeros: ids have no gradient.

    Args:
        vocab_size: number of tokens.
        max_length: the longest sequence.
        n_layers: number of blocks.
        d_model, n_heads, d_ff, dropout, norm, norm_first, activation, causal: as for ``TransformerBlock``; dropout
            also drops from the sum of the embeddings.
        n_outputs: size of the head's output; by default ``vocab_size``.
        seed: what initial weights and dropout's bits are drawn from; see ``draw_seed``.

    Raises:
        TypeError, ValueError: an argument, ``ids``, ``dy`` or a mask has the wrong type, value or shape; an id outside
            the vocabulary; a sequence longer than ``max_length``.
    """

    def __init__(
        self,
        vocab_size: int,
        max_length: int,
        n_layers: int = 6,
        d_model: int = 512,
        n_heads: int = 8,
        d_ff: int | None = None,
        dropout: float = 0.1,
        norm: str = "layer",
        norm_first: bool = True,
        *,
        activation: str = "gelu",
        causal: bool = False,
        n_outputs: int | None = None,
        seed: Seed = None,
    ) -> None:
        """Draw the initial weights."""
        rng = np.random.default_rng(draw_seed(seed))
        self.embedding = Embedding(vocab_size, d_model, seed=rng)
        self.positions = PositionalEmbedding(max_length, d_model, seed=rng)
        self.dropout = Dropout(dropout, seed=rng)
        self.blocks = [
            TransformerBlock(
                d_model, n_heads, d_ff, dropout, norm, norm_first, activation=activation, causal=causal, seed=rng
            )
            for _ in range(validate.positive_int("n_layers", n_layers))
        ]
        self.norm = make_norm(norm, d_model) if norm_first else None
        self.head = Linear(d_model, vocab_size if n_outputs is None else n_outputs, seed=rng)

    def _children(self) -> Iterator[tuple[str, Layer]]:
        yield from (("embedding", self.embedding), ("positions", self.positions), ("dropout", self.dropout))
        yield from ((f"blocks.{index}", block) for index, block in enumerate(self.blocks))
        if self.norm is not None:
            yield "norm", self.norm
        yield "head", self.head

    def forward(self, x: NDArray[Any], *, key_padding_mask: Mask | None = None) -> Array:
        """Return the head's output for the ids ``x``; the mask is that of ``MultiHeadAttention``."""
        if np.ndim(x) != 2:
            raise ValueError(f"x must be ids of shape (N, T), got {np.shape(x)}")
        h = self.dropout(self.positions(self.embedding(x)))
        for block in self.blocks:
            h = block.forward(h, key_padding_mask=key_padding_mask)
        self._saved = ()
        return self.head(h if self.norm is None else self.norm(h))

    def _gradient(self, dy: Array, saved: Any) -> Array:
        dh = self.head.backward(dy)
        if self.norm is not None:
            dh = self.norm.backward(dh)
        for block in reversed(self.blocks):
            dh = block.backward(dh)
        return self.embedding.backward(self.positions.backward(self.dropout.backward(dh)))
