"""BERT encoder with weights from a checkpoint file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit._files import Path as AnyPath
from cregkit.layers.attention import Mask
from cregkit.layers.base import Layer, Tensor
from cregkit.layers.bert_checkpoint import BertCheckpoint
from cregkit.layers.bert_config import BertConfig
from cregkit.layers.dropout import Dropout
from cregkit.layers.embedding import Embedding, PositionalEmbedding, check_ids
from cregkit.layers.layer_norm import LayerNorm
from cregkit.layers.seeding import Seed, draw_seed
from cregkit.layers.transformer import TransformerBlock

EPS = 1e-12
"""``eps`` of every norm in BERT."""


class BertEncoder(Layer):
    """BERT encoder: token, position and segment embeddings, a norm, and Post-LN transformer blocks.

    The input is an integer array of ids of shape (N, T). The output, of shape (N, T, d_model) and the dtype of the
    parameters (float32, or that of ``astype``), is the hidden state after the last block. Backward returns zeros,
    because ids have no gradient. With ``padding_id`` it is a RoBERTa encoder, in which padding does not count as a
    position.

    Parameters
    ----------
    vocab_size
        Number of tokens in the vocabulary.
    max_length
        Maximum length of a sequence.
    n_layers
        Number of blocks.
    d_model, n_heads, d_ff, dropout
        As in ``TransformerBlock``; dropout is also applied to the sum of the embeddings.
    n_segments
        Number of segments ("token types").
    eps
        Added to the variance in the norms; finite, at least 0.
    activation, attention_dropout
        As in ``TransformerBlock``.
    padding_id
        Id of padding, or None. The position embedding has ``max_length + padding_id + 1`` rows: padding has row
        ``padding_id``; the k-th other token of a sequence, with k from 1, has row ``padding_id + k``.
    seed
        Seed of the initial weights and of dropout; see ``draw_seed``.

    Raises
    ------
    TypeError, ValueError
        An argument, the ids, ``dy`` or a mask has the wrong type, value or shape.

    References
    ----------
    Devlin et al. (2018), "BERT: Pre-training of Deep Bidirectional Transformers", arXiv:1810.04805.

    Liu et al. (2019), "RoBERTa: A Robustly Optimized BERT Pretraining Approach", arXiv:1907.11692.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import BertEncoder
    >>> encoder = BertEncoder(vocab_size=9, max_length=4, n_layers=1, d_model=8, n_heads=2, seed=0).eval()
    >>> hidden = encoder(np.array([[2, 5, 3]]))
    >>> hidden.shape
    (1, 3, 8)
    """

    def __init__(
        self,
        vocab_size: int = 30522,
        max_length: int = 512,
        n_layers: int = 12,
        d_model: int = 768,
        n_heads: int = 12,
        d_ff: int | None = None,
        dropout: float = 0.1,
        *,
        n_segments: int = 2,
        eps: float = EPS,
        activation: str = "gelu",
        attention_dropout: float | None = None,
        padding_id: int | None = None,
        seed: Seed = None,
    ) -> None:
        """Draw the initial weights."""
        rng = np.random.default_rng(draw_seed(seed))
        self.embedding = Embedding(vocab_size, d_model, seed=rng)
        self.segments = Embedding(n_segments, d_model, seed=rng)
        self.max_length = validate.positive_int("max_length", max_length)
        self.padding_id: int | None = None
        if padding_id is None:
            self.positions: PositionalEmbedding | Embedding = PositionalEmbedding(max_length, d_model, seed=rng)
        else:
            self.padding_id = validate.integer("padding_id", padding_id, 0, vocab_size - 1)
            self.positions = Embedding(max_length + self.padding_id + 1, d_model, seed=rng)
        self.norm = LayerNorm(d_model, eps)
        self.dropout = Dropout(dropout, seed=rng)
        self.blocks = [
            TransformerBlock(
                d_model,
                n_heads,
                d_ff,
                dropout,
                activation=activation,
                attention_dropout=attention_dropout,
                eps=eps,
                seed=rng,
            )
            for _ in range(validate.positive_int("n_layers", n_layers))
        ]

    @classmethod
    def from_safetensors(
        cls, path: AnyPath, n_heads: int | None = None, *, dropout: float | None = None
    ) -> BertEncoder:
        """Load an encoder from a checkpoint of Hugging Face transformers.

        Supported models: BERT, RoBERTa, XLM-RoBERTa, CamemBERT and ELECTRA. Supported dtypes: float32, float16,
        bfloat16, and float64 if float32 represents every value exactly. Sizes come from the arrays, all other settings
        from ``config.json`` in the same folder: a setting that is not supported raises an error. Without that file, the
        encoder is BERT with exact GELU, eps 1e-12 and ``n_heads`` heads. Arrays of model heads (``cls.``, ``pooler.``,
        ``lm_head.``, ...) are ignored.

        Parameters
        ----------
        path
            The ``.safetensors`` file; it need not be trusted.
        n_heads
            Number of attention heads; required if ``config.json`` does not give it.
        dropout
            Replaces both dropout probabilities of ``config.json``. In training mode, the hidden values of the
            feed-forward network are dropped too, as in ``TransformerBlock`` and unlike in BERT.

        Returns
        -------
        encoder
            The encoder, in evaluation mode.

        Raises
        ------
        OSError
            A file is missing or cannot be read.
        ValueError
            The file is damaged; an array is missing, unknown, or has the wrong shape or dtype; ``config.json`` is not a
            JSON object, contradicts the arrays or ``n_heads``, or has an unsupported key or value; or the number of
            heads is not given. The message names the array or the key.
        """
        with open(path, "rb") as file:
            config = BertConfig(Path(path).with_name("config.json"))
            checkpoint = BertCheckpoint(file)
            sizes = checkpoint.sizes
            config.check_sizes(sizes)
            padding_id = config.padding_id(checkpoint.prefix, sizes)
            first = 0 if padding_id is None else padding_id + 1
            heads = config.n_heads(n_heads, sizes["hidden_size"])
            checkpoint.check()
            encoder = cls(
                sizes["vocab_size"],
                sizes["max_position_embeddings"] - first,
                sizes["num_hidden_layers"],
                sizes["hidden_size"],
                heads,
                sizes["intermediate_size"],
                config.dropout if dropout is None else dropout,
                n_segments=sizes["type_vocab_size"],
                eps=config.eps,
                activation=config.activation,
                attention_dropout=config.attention_dropout if dropout is None else None,
                padding_id=padding_id,
            )
            encoder._fill(checkpoint)
        return encoder.eval()

    def _fill(self, checkpoint: BertCheckpoint) -> None:
        for layer, modules in self._checkpoint_modules():
            for own, kind in zip(layer._parameters, ("weight", "bias"), strict=False):
                parts = np.split(getattr(layer, own), len(modules))
                for part, module in zip(parts, modules, strict=True):
                    part[...] = checkpoint.read(f"{module}.{kind}")

    def _checkpoint_modules(self) -> Iterator[tuple[Layer, tuple[str, ...]]]:
        """Yield each layer with weights, and its checkpoint modules, whose weights it concatenates along axis 0."""
        yield self.embedding, ("embeddings.word_embeddings",)
        yield self.positions, ("embeddings.position_embeddings",)
        yield self.segments, ("embeddings.token_type_embeddings",)
        yield self.norm, ("embeddings.LayerNorm",)
        for index, block in enumerate(self.blocks):
            base = f"encoder.layer.{index}."
            yield block.attention.qkv, tuple(f"{base}attention.self.{part}" for part in ("query", "key", "value"))
            yield block.attention.out, (f"{base}attention.output.dense",)
            yield block.norm1, (f"{base}attention.output.LayerNorm",)
            yield block.ff.layers[0], (f"{base}intermediate.dense",)
            yield block.ff.layers[-1], (f"{base}output.dense",)
            yield block.norm2, (f"{base}output.LayerNorm",)

    def _children(self) -> Iterator[tuple[str, Layer]]:
        yield from (("embedding", self.embedding), ("segments", self.segments), ("positions", self.positions))
        yield from (("norm", self.norm), ("dropout", self.dropout))
        yield from ((f"blocks.{index}", block) for index, block in enumerate(self.blocks))

    def forward(
        self, x: NDArray[Any], *, segments: NDArray[Any] | None = None, key_padding_mask: Mask | None = None
    ) -> Tensor:
        """Return the hidden states after the last block.

        Parameters
        ----------
        x : shape (N, T)
            Token ids.
        segments : shape (N, T)
            Segment of each token; by default 0.
        key_padding_mask : shape (N, T)
            True at padding, which no position attends to.

        Returns
        -------
        y : shape (N, T, d_model)
            Hidden states.
        """
        check_ids("x", x, self.embedding.num_embeddings, "the vocabulary")
        if x.ndim != 2:
            raise ValueError(f"x must be ids of shape (N, T), got {x.shape}")
        segments = np.zeros(x.shape, np.intp) if segments is None else segments
        check_ids("segments", segments, self.segments.num_embeddings, "the segments")
        if segments.shape != x.shape:
            raise ValueError(f"segments must have the shape of x, {x.shape}, got {segments.shape}")
        positions = None if self.padding_id is None else self._positions(x, self.padding_id)
        h = self.embedding(x) + self.segments(segments)
        h = self.positions(h) if positions is None else h + self.positions(positions)
        h = self.dropout(self.norm(h))
        for block in self.blocks:
            h = block.forward(h, key_padding_mask=key_padding_mask)
        self._saved = ()
        return h

    def _positions(self, x: NDArray[Any], padding_id: int) -> NDArray[Any]:
        """Return the row of each token in the position embedding."""
        token = x != padding_id
        positions: NDArray[Any] = np.cumsum(token, axis=1) * token + padding_id
        longest = positions.max(initial=padding_id) - padding_id
        if longest > self.max_length:
            raise ValueError(
                f"x must have at most max_length={self.max_length} tokens other than padding in a sequence, "
                f"got {longest}"
            )
        return positions

    def _gradient(self, dy: Tensor, saved: Any) -> Tensor:
        for block in reversed(self.blocks):
            dy = block.backward(dy)
        dh = self.norm.backward(self.dropout.backward(dy))
        self.positions.backward(dh)
        self.segments.backward(dh)
        return self.embedding.backward(dh)
