"""Writes checkpoints of the BERT family, and computes their hidden states from the papers' formulas in float64."""

from __future__ import annotations

import json
import math
import struct

import numpy as np

WORDS, PLACES, SIZE, HEADS, FF, LAYERS, EPS = 40, 20, 16, 2, 24, 2, 1e-5

DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int8": "I8"}


def bf16(array):
    """The upper 16 bits of float32 numbers: BF16."""
    return (np.asarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def safetensors(arrays):
    """The bytes of a safetensors file of these arrays; uint16 arrays are BF16."""
    header, data = {}, b""
    for name, array in arrays.items():
        dtype = "BF16" if array.dtype == np.uint16 else DTYPES[array.dtype.name]
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    return with_header(header, data)


def with_header(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def draw_arrays(n_segments=2):
    """The arrays of an encoder by the names of transformers, with no term that would be lost in the others."""
    rng = np.random.default_rng(4)
    arrays = {}

    def draw(name, *shape):
        arrays[name] = (0.4 * rng.standard_normal(shape)).astype(np.float32)

    def norm(name):
        draw(f"{name}.LayerNorm.bias", SIZE)
        arrays[f"{name}.LayerNorm.weight"] = 1 + arrays[f"{name}.LayerNorm.bias"][::-1]

    for name, rows in (("word", WORDS), ("position", PLACES), ("token_type", n_segments)):
        draw(f"embeddings.{name}_embeddings.weight", rows, SIZE)
    norm("embeddings")
    for index in range(LAYERS):
        base = f"encoder.layer.{index}."
        linears = {f"attention.self.{part}": (SIZE, SIZE) for part in ("query", "key", "value")}
        linears |= {"attention.output.dense": (SIZE, SIZE)}
        linears |= {"intermediate.dense": (FF, SIZE), "output.dense": (SIZE, FF)}
        for name, shape in linears.items():
            draw(f"{base}{name}.weight", *shape)
            draw(f"{base}{name}.bias", shape[0])
        norm(f"{base}attention.output")
        norm(f"{base}output")
    return arrays


def write(folder, arrays=None, **config):
    """Write the file and its config.json, and return the file's path."""
    arrays = draw_arrays() if arrays is None else arrays
    (folder / "model.safetensors").write_bytes(safetensors(arrays))
    content = {"model_type": "bert", "num_attention_heads": HEADS, "layer_norm_eps": EPS} | config
    (folder / "config.json").write_text(json.dumps({key: value for key, value in content.items() if value != "none"}))
    return folder / "model.safetensors"


GELU = np.vectorize(lambda v: 0.5 * v * math.erfc(-v / math.sqrt(2)))


def hidden_states(arrays, ids, positions, activation=GELU, segments=0):
    """Hidden states for ids with these rows of the position table."""
    a = {name: array.astype(np.float64) for name, array in arrays.items()}

    def norm(h, name):
        h = h - h.mean(-1, keepdims=True)
        h = h / np.sqrt((h * h).mean(-1, keepdims=True) + EPS)
        return h * a[f"{name}.LayerNorm.weight"] + a[f"{name}.LayerNorm.bias"]

    def linear(h, name):
        return h @ a[f"{name}.weight"].T + a[f"{name}.bias"]

    def heads(h):
        return h.reshape(*h.shape[:2], HEADS, SIZE // HEADS).swapaxes(1, 2)

    h = a["embeddings.word_embeddings.weight"][ids] + a["embeddings.position_embeddings.weight"][positions]
    h = norm(h + a["embeddings.token_type_embeddings.weight"][segments], "embeddings")
    for index in range(LAYERS):
        base = f"encoder.layer.{index}."
        q, k, v = (heads(linear(h, f"{base}attention.self.{part}")) for part in ("query", "key", "value"))
        weights = np.exp(q @ k.swapaxes(-1, -2) / math.sqrt(SIZE // HEADS))
        attended = (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(1, 2).reshape(h.shape)
        h = norm(h + linear(attended, f"{base}attention.output.dense"), f"{base}attention.output")
        h = norm(h + linear(activation(linear(h, f"{base}intermediate.dense")), f"{base}output.dense"), f"{base}output")
    return h
