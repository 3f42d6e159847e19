"""Arrays of a BERT encoder in a ``.safetensors`` file: names, shapes, sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO, TypeAlias

from cregkit import _files as files
from cregkit.layers.base import Array

Shape: TypeAlias = tuple[int, ...]

WORDS = "embeddings.word_embeddings.weight"
SIZES = {
    "vocab_size": (WORDS, 2),
    "max_position_embeddings": ("embeddings.position_embeddings.weight", 2),
    "type_vocab_size": ("embeddings.token_type_embeddings.weight", 2),
    "hidden_size": ("encoder.layer.0.attention.output.dense.bias", 1),
    "intermediate_size": ("encoder.layer.0.intermediate.dense.bias", 1),
}
"""For each size in ``config.json``: the array whose first axis has this length, and its number of axes."""

BUFFERS = {"embeddings.position_ids", "embeddings.token_type_ids"}
HEADS = {
    "pooler", "cls", "lm_head", "classifier", "qa_outputs", "score", "linear", "dense", "sequence_summary",
    "discriminator_predictions", "generator_predictions", "generator_lm_head",
}  # fmt: skip
"""First parts of the names of arrays that belong to model heads."""


class BertCheckpoint:
    """Checkpoint of one BERT encoder.

    ``prefix`` is the common prefix of the names of the encoder's arrays. ``sizes`` are the sizes of the encoder, by the
    keys of ``config.json``.

    Parameters
    ----------
    file
        Open ``.safetensors`` file.

    Raises
    ------
    ValueError
        The file is damaged, or does not hold exactly one BERT encoder.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Read the names and shapes of the arrays."""
        self._file = file
        self._index = files.safetensors_index(file)
        prefixes = [name.removesuffix(WORDS) for name in self._index if name.endswith(WORDS)]
        if len(prefixes) != 1:
            raise ValueError(f"{file.name}: {len(prefixes) or 'no'} arrays {WORDS}: a BERT encoder has exactly one")
        self.prefix = prefixes[0]
        self._names = self._current_names()
        self.sizes = {key: self._length(*where) for key, where in SIZES.items()}
        n_layers = 0
        while f"encoder.layer.{n_layers}.intermediate.dense.bias" in self._names:
            n_layers += 1
        self.sizes["num_hidden_layers"] = n_layers

    def _current_names(self) -> dict[str, str]:
        """Map current names without prefix to names in the file; old norms have gamma and beta for weight and bias."""
        names: dict[str, str] = {}
        for stored in self._index:
            if stored.startswith(self.prefix):
                name = stored.removeprefix(self.prefix)
                name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
                if name in names:
                    raise ValueError(f"{self._file.name}: {stored} and {names[name]} name the same array; remove one")
                names[name] = stored
        return names

    def _length(self, name: str, n_axes: int) -> int:
        if name not in self._names:
            raise ValueError(f"{self._file.name}: no array {name}: it does not hold a BERT encoder")
        shape = self._shape(name)
        if len(shape) != n_axes or 0 in shape:
            raise ValueError(f"{self._file.name}: {name} must have {n_axes} axes, none of them empty, got {shape}")
        return shape[0]

    def _shape(self, name: str) -> Shape:
        return self._index[self._names[name]].shape

    def check(self) -> None:
        """Check that the file holds every array of the encoder, with its shape, and no other array of an encoder.

        Call this before allocating the encoder: it then cannot be larger than the file.

        Raises
        ------
        ValueError
            An array is missing, unknown, or has the wrong shape. The message names it.
        """
        path, shapes = self._file.name, _shapes(self.sizes)
        if missing := sorted(shapes.keys() - self._names.keys()):
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise ValueError(f"{path}: no array {', '.join(missing[:3])}{more}")
        for name, shape in shapes.items():
            if self._shape(name) != shape:
                raise ValueError(f"{path}: {self._names[name]} must have shape {shape}, got {self._shape(name)}")
        for name in sorted(self._names.keys() - shapes.keys() - BUFFERS):
            if name.partition(".")[0] not in HEADS:
                raise ValueError(f"{path}: {self._names[name]} is unknown and may change the results of the encoder")

    def read(self, name: str) -> Array:
        """Return an array by its name without prefix."""
        stored = self._names[name]
        return files.read_float32(self._file, stored, self._index[stored])


def _shapes(sizes: Mapping[str, int]) -> dict[str, Shape]:
    """Return the shapes of all arrays of an encoder with these sizes."""
    d_model, d_ff = sizes["hidden_size"], sizes["intermediate_size"]
    shapes: dict[str, Shape] = {SIZES[key][0]: (sizes[key], d_model) for key in SIZES if SIZES[key][1] == 2}
    norms = ["embeddings.LayerNorm"]
    linears: dict[str, tuple[int, int]] = {}
    for index in range(sizes["num_hidden_layers"]):
        base = f"encoder.layer.{index}."
        linears |= {f"{base}attention.self.{part}": (d_model, d_model) for part in ("query", "key", "value")}
        linears[f"{base}attention.output.dense"] = (d_model, d_model)
        linears[f"{base}intermediate.dense"] = (d_ff, d_model)
        linears[f"{base}output.dense"] = (d_model, d_ff)
        norms += [f"{base}attention.output.LayerNorm", f"{base}output.LayerNorm"]
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (d_model,), f"{name}.bias": (d_model,)}
    return shapes
