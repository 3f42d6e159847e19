"""A BERT encoder, filled from a checkpoint file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit.layers import validate
from cregkit.layers.attention import Mask
from cregkit.layers.base import Array, Layer
from cregkit.layers.base import Path as AnyPath
from cregkit.layers.dropout import Dropout
from cregkit.layers.embedding import Embedding, PositionalEmbedding
from cregkit.layers.layer_norm import LayerNorm
from cregkit.layers.seeding import Seed, draw_seed
from cregkit.layers.transformer import TransformerBlock

EPS = 1e-12
"""BERT's own, of every norm."""

EMBEDDINGS = {
    "embedding.weight": "embeddings.word_embeddings.weight",
    "positions.weight": "embeddings.position_embeddings.weight",
    "segments.weight": "embeddings.token_type_embeddings.weight",
    "norm.gamma": "embeddings.LayerNorm.weight",
    "norm.beta": "embeddings.LayerNorm.bias",
}
BLOCK = {
    "attention.qkv.{}": tuple(f"attention.self.{part}.{{}}" for part in ("query", "key", "value")),
    "attention.out.{}": ("attention.output.dense.{}",),
    "ff.0.{}": ("intermediate.dense.{}",),
    "ff.last.{}": ("output.dense.{}",),
    "norm1.{}": ("attention.output.LayerNorm.{}",),
    "norm2.{}": ("output.LayerNorm.{}",),
}
"""Our names in a block, and those of the checkpoint, which are put one below the other where there are several."""


class BertEncoder(Layer):
    """BERT: embeddings of tokens, positions and segments, their norm, and Post-LN blocks with GELU.

    ``ids`` is an integer array of shape (N, T); ``y``, float32 of shape (N, T, d_model), holds the hidden states after
    the last block. ``backward`` returns zeros: ids have no gradient.

    Args:
        vocab_size: number of tokens.
        max_length: the longest sequence.
        n_layers, d_model, n_heads, d_ff, dropout: as for ``TransformerBlock``.
        n_segments: number of segments ("token types").
        eps: of the norms.
        seed: what initial weights and dropout's bits are drawn from; see ``draw_seed``.

    Raises:
        TypeError, ValueError: an argument, ``ids``, ``dy`` or a mask has the wrong type, value or shape.

    Devlin et al. (2018), "BERT: Pre-training of Deep Bidirectional Transformers", arXiv:1810.04805.
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
        seed: Seed = None,
    ) -> None:
        """Draw the initial weights."""
        rng = np.random.default_rng(draw_seed(seed))
        self.embedding = Embedding(vocab_size, d_model, seed=rng)
        self.segments = Embedding(n_segments, d_model, seed=rng)
        self.positions = PositionalEmbedding(max_length, d_model, seed=rng)
        self.norm = LayerNorm(d_model, eps)
        self.dropout = Dropout(dropout, seed=rng)
        self.blocks = [
            TransformerBlock(d_model, n_heads, d_ff, dropout, eps=eps, seed=rng)
            for _ in range(validate.positive_int("n_layers", n_layers))
        ]

    @classmethod
    def from_safetensors(cls, path: AnyPath, n_heads: int | None = None, *, dropout: float = 0.1) -> BertEncoder:
        """Return an encoder, in evaluation mode, with the weights of a checkpoint of Hugging Face's BERT.

        All sizes follow from the arrays but the number of heads, which is ``n_heads`` or, without it,
        ``num_attention_heads`` of a ``config.json`` beside the file (``layer_norm_eps`` is taken from there too). What
        belongs to a head of the model (``cls.``, ``pooler.`` and the like) is left aside.

        Raises:
            ImportError: safetensors is not installed.
            OSError: the file is missing or cannot be read.
            ValueError: the file is damaged, lacks an array of the encoder, or has one of another shape; or there is no
                word on the number of heads.
        """
        arrays = _read(path)
        config = _config(path)
        heads = config.get("num_attention_heads") if n_heads is None else n_heads
        if heads is None:
            raise ValueError(f"n_heads is missing: {path} does not tell it, and there is no config.json beside it")
        n_layers = _count_layers(arrays)
        try:
            words, positions, segments = (arrays[name] for name in list(EMBEDDINGS.values())[:3])
            d_ff = len(arrays["encoder.layer.0.intermediate.dense.bias"])
        except KeyError as error:
            raise ValueError(f"{path}: no array {error}, so it is no BERT encoder") from None
        encoder = cls(
            len(words),
            len(positions),
            n_layers,
            words.shape[1],
            heads,
            d_ff,
            dropout,
            n_segments=len(segments),
            eps=config.get("layer_norm_eps", EPS),
        )
        encoder._fill(arrays, path)
        return encoder.eval()

    def _fill(self, arrays: Mapping[str, NDArray[Any]], path: AnyPath) -> None:
        state = self.state_dict()
        for own, parts in self._name_map().items():
            missing = [name for name in parts if name not in arrays]
            if missing:
                raise ValueError(f"{path}: no array {', '.join(missing)}")
            state[own] = np.concatenate([arrays[name] for name in parts]).astype(np.float32)
        try:
            self.load_state_dict(state)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def _name_map(self) -> dict[str, tuple[str, ...]]:
        """Return for each of our parameters the names of the checkpoint's arrays it is made of."""
        names: dict[str, tuple[str, ...]] = {own: (theirs,) for own, theirs in EMBEDDINGS.items()}
        for index, block in enumerate(self.blocks):
            for own, theirs in BLOCK.items():
                kinds = ("gamma", "beta") if own.startswith("norm") else ("weight", "bias")
                name = own.replace("last", str(len(block.ff.layers) - 1))
                for kind, their_kind in zip(kinds, ("weight", "bias"), strict=True):
                    names[f"blocks.{index}.{name.format(kind)}"] = tuple(
                        f"encoder.layer.{index}.{part.format(their_kind)}" for part in theirs
                    )
        return names

    def _children(self) -> Iterator[tuple[str, Layer]]:
        yield from (("embedding", self.embedding), ("segments", self.segments), ("positions", self.positions))
        yield from (("norm", self.norm), ("dropout", self.dropout))
        yield from ((f"blocks.{index}", block) for index, block in enumerate(self.blocks))

    def forward(
        self, x: NDArray[Any], *, segments: NDArray[Any] | None = None, key_padding_mask: Mask | None = None
    ) -> Array:
        """Return the hidden states for the ids ``x``, of shape (N, T).

        ``segments`` holds the segment of each token (by default 0); the mask is that of ``MultiHeadAttention``.
        """
        if np.ndim(x) != 2:
            raise ValueError(f"x must be ids of shape (N, T), got {np.shape(x)}")
        segments = np.zeros(x.shape, np.intp) if segments is None else segments
        if np.shape(segments) != x.shape:
            raise ValueError(f"segments must have the shape of x, {x.shape}, got {np.shape(segments)}")
        h = self.positions(self.embedding(x) + self.segments(segments))
        h = self.dropout(self.norm(h))
        for block in self.blocks:
            h = block.forward(h, key_padding_mask=key_padding_mask)
        self._saved = ()
        return h

    def _gradient(self, dy: Array, saved: Any) -> Array:
        for block in reversed(self.blocks):
            dy = block.backward(dy)
        dh = self.positions.backward(self.norm.backward(self.dropout.backward(dy)))
        self.segments.backward(dh)
        return self.embedding.backward(dh)


def _read(path: AnyPath) -> dict[str, NDArray[Any]]:
    """Return the arrays of a safetensors file, without the prefix "bert.", norms by today's names."""
    try:
        safetensors = import_module("safetensors")
        load_file = import_module("safetensors.numpy").load_file
    except ImportError:
        raise ImportError("reading .safetensors needs the package safetensors: pip install 'cregkit[lab]'") from None
    with open(path, "rb"):  # an error of the system's own where there is no such file
        pass
    try:
        arrays = load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None
    today = {".gamma": ".weight", ".beta": ".bias"}
    for name in list(arrays):
        new = name.removeprefix("bert.")
        for old, current in today.items():
            new = new.removesuffix(old) + current if new.endswith(old) else new
        arrays[new] = arrays.pop(name)
    return dict(arrays)


def _config(path: AnyPath) -> dict[str, Any]:
    try:
        text = Path(path).with_name("config.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{Path(path).with_name('config.json')} is no JSON: {error}") from None
    return config if isinstance(config, dict) else {}


def _count_layers(arrays: Mapping[str, NDArray[Any]]) -> int:
    prefix = "encoder.layer."
    return len({name.removeprefix(prefix).partition(".")[0] for name in arrays if name.startswith(prefix)}) or 1
