"""Transformer block and transformer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers.activations import GELU, GELUTanh, ReLU, SiLU
from cregkit.layers.attention import Mask, MultiHeadAttention
from cregkit.layers.base import Layer, Tensor
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
    """Transformer block: self-attention and a feed-forward network, each with dropout, residual connection and norm.

    Post-LN:                  ``h = norm1(x + dropout(attention(x)))``, ``y = norm2(h + dropout(ff(h)))``;
    Pre-LN (``norm_first``):  ``h = x + dropout(attention(norm1(x)))``, ``y = h + dropout(ff(norm2(h)))``;

    with ``ff(h) = linear2(dropout(activation(linear1(h))))``, as in ``torch.nn.TransformerEncoderLayer``. Dropout,
    addition and the following norm are fused into one pass over memory. ``x`` and ``y`` are float32, float16 or
    bfloat16 of shape (N, T, d_model).

    Parameters
    ----------
    d_model
        Size of the last axis, a multiple of ``n_heads``.
    n_heads
        Number of attention heads.
    d_ff
        Hidden size of the feed-forward network; by default ``4 * d_model``.
    dropout
        Probability of dropping, in [0, 1]: outputs of the sublayers, attention weights, and hidden values of the
        feed-forward network.
    norm
        Either "layer" or "rms".
    norm_first
        Whether the block is Pre-LN. By default it is Post-LN.
    activation
        One of "gelu" (exact), "gelu_tanh" (tanh approximation), "relu" or "silu".
    causal
        Whether position t attends to positions 0 to t only.
    attention_dropout
        Probability of dropping an attention weight; by default ``dropout``.
    eps
        Added to the variance or to the mean square in the norms; by default that of ``LayerNorm`` or ``RMSNorm``.
    gain_offset
        Added to ``gamma`` in the norms, as in ``RMSNorm``; 0 with layer norm.
    seed
        Seed of the initial weights and of dropout; see ``draw_seed``.

    Raises
    ------
    TypeError, ValueError
        An argument, ``x``, ``dy`` or a mask has the wrong type, value or shape.

    References
    ----------
    Vaswani et al. (2017), "Attention Is All You Need", arXiv:1706.03762 (Post-LN).

    Xiong et al. (2020), "On Layer Normalization in the Transformer Architecture", arXiv:2002.04745 (Pre-LN).

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import TransformerBlock
    >>> block = TransformerBlock(d_model=8, n_heads=2, norm="rms", norm_first=True, seed=0)
    >>> y = block(np.ones((1, 3, 8), dtype=np.float32))
    >>> block.backward(y).shape
    (1, 3, 8)
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
        gain_offset: float = 0.0,
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
        # A fused norm follows an addition: norm1 and norm2 in Post-LN, norm2 in Pre-LN.
        self.norm2 = ResidualNorm(d_model, dropout, norm, eps, gain_offset=gain_offset, seed=rng)
        self.norm1: ResidualNorm | LayerNorm | RMSNorm = (
            make_norm(norm, d_model, eps, gain_offset)
            if norm_first
            else ResidualNorm(d_model, dropout, norm, eps, gain_offset=gain_offset, seed=rng)
        )
        self.dropout = Dropout(dropout, seed=rng) if norm_first else None

    def _children(self) -> Iterator[tuple[str, Layer]]:
        yield from (("attention", self.attention), ("norm1", self.norm1), ("ff", self.ff), ("norm2", self.norm2))
        if self.dropout is not None:
            yield "dropout", self.dropout

    def forward(self, x: Tensor, *, key_padding_mask: Mask | None = None, attn_mask: Mask | None = None) -> Tensor:
        """Return the output of the block; the masks are those of ``MultiHeadAttention``."""
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

    def _gradient(self, dy: Tensor, saved: Any) -> Tensor:
        if isinstance(self.norm1, ResidualNorm):
            dff, dh = self.norm2.split(dy)
            dattended, dx = self.norm1.split(dh + self.ff.backward(dff))
            return dx + self.attention.backward(dattended)
        assert self.dropout is not None
        dnormed = self.ff.backward(self.dropout.backward(dy))
        dattended, dx = self.norm2.split(dnormed, dh=dy)
        return dx + self.norm1.backward(self.attention.backward(dattended))


class Transformer(Layer):
    """Transformer: token and position embeddings, ``n_layers`` blocks, and a linear head at every position.

    The input is an integer array of ids of shape (N, T). The output has shape (N, T, n_outputs) and the dtype of the
    parameters: float32, or that of ``astype``. With ``causal`` and the default ``n_outputs``, it is a language model.
    With ``norm_first``, one more norm precedes the head. Backward returns zeros, because ids have no gradient.

    Parameters
    ----------
    vocab_size
        Number of tokens in the vocabulary.
    max_length
        Maximum length of a sequence.
    n_layers
        Number of blocks.
    d_model, n_heads, d_ff
        As in ``TransformerBlock``.
    dropout
        As in ``TransformerBlock``; dropout is also applied to the sum of the embeddings.
    norm, norm_first, activation, causal, gain_offset
        As in ``TransformerBlock``.
    n_outputs
        Output size of the head; by default ``vocab_size``.
    seed
        Seed of the initial weights and of dropout; see ``draw_seed``.

    Raises
    ------
    TypeError, ValueError
        An argument, the ids, ``dy`` or a mask has the wrong type, value or shape.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Transformer
    >>> model = Transformer(vocab_size=5, max_length=4, n_layers=1, d_model=8, n_heads=2, causal=True, seed=0)
    >>> logits = model(np.array([[0, 3, 1]]))
    >>> logits.shape
    (1, 3, 5)
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
        gain_offset: float = 0.0,
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
                d_model,
                n_heads,
                d_ff,
                dropout,
                norm,
                norm_first,
                activation=activation,
                causal=causal,
                gain_offset=gain_offset,
                seed=rng,
            )
            for _ in range(validate.positive_int("n_layers", n_layers))
        ]
        self.norm = make_norm(norm, d_model, gain_offset=gain_offset) if norm_first else None
        self.head = Linear(d_model, vocab_size if n_outputs is None else n_outputs, seed=rng)

    def _children(self) -> Iterator[tuple[str, Layer]]:
        yield from (("embedding", self.embedding), ("positions", self.positions), ("dropout", self.dropout))
        yield from ((f"blocks.{index}", block) for index, block in enumerate(self.blocks))
        if self.norm is not None:
            yield "norm", self.norm
        yield "head", self.head

    def forward(self, x: NDArray[Any], *, key_padding_mask: Mask | None = None) -> Tensor:
        """Return the output of the head for the ids ``x``; the mask is that of ``MultiHeadAttention``."""
        if np.ndim(x) != 2:
            raise ValueError(f"x must be ids of shape (N, T), got {np.shape(x)}")
        h = self.dropout(self.positions(self.embedding(x)))
        for block in self.blocks:
            h = block.forward(h, key_padding_mask=key_padding_mask)
        self._saved = ()
        return self.head(h if self.norm is None else self.norm(h))

    def _gradient(self, dy: Tensor, saved: Any) -> Tensor:
        dh = self.head.backward(dy)
        if self.norm is not None:
            dh = self.norm.backward(dh)
        for block in reversed(self.blocks):
            dh = block.backward(dh)
        return self.embedding.backward(self.positions.backward(self.dropout.backward(dh)))
