"""Arrays that every op refuses: of a wrong type, layout or shape, with the exception that each raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from support import OPS, Array, arrays_in, small_arguments


def leading(op: str) -> str:
    """The array whose shape the others must fit."""
    return next(
        name
        for name in ("x", "h", "w", "dy", "index")
        if name in OPS[op].arguments((2, 2), np.random.default_rng(0), 0.0)
    )


def wrong_precision(a: Array) -> Array:
    return a.astype(np.float32 if a.dtype == np.float64 else np.float64)


def strided(a: Array) -> Array:
    return np.repeat(a, 2, axis=-1)[..., ::2]


def misaligned(a: Array) -> Array:
    memory = np.zeros(a.nbytes + 1, np.uint8)
    moved = memory[1:].view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


DEFECTS: list[tuple[Callable[[Array], Any], type[Exception]]] = [
    (lambda a: a.tolist(), TypeError),
    (lambda a: "array", TypeError),
    (wrong_precision, TypeError),
    (lambda a: a.astype(np.int32), TypeError),
    (lambda a: a.astype(np.complex64), TypeError),
    (lambda a: a.astype(object), TypeError),
    (lambda a: a > 0, TypeError),
    (lambda a: a.astype(a.dtype.newbyteorder()), TypeError),
    (np.ma.masked_array, TypeError),
    (strided, ValueError),
    (lambda a: a[::-1], ValueError),
    (lambda a: np.broadcast_to(a.ravel()[:1], a.shape), ValueError),
    (misaligned, ValueError),
]
MATRIX_DEFECTS: list[tuple[Callable[[Array], Any], type[Exception]]] = [
    (np.asfortranarray, ValueError),
    (lambda a: np.ascontiguousarray(a.T).T, ValueError),
]
SHAPE_DEFECTS: list[tuple[Callable[[Array], Any], type[Exception]]] = [
    (lambda a: a[:-1].copy(), ValueError),
    (lambda a: np.concatenate([a, a]), ValueError),
    (lambda a: a[np.newaxis], ValueError),
    (lambda a: a.ravel()[:0], ValueError),
    (lambda a: a.ravel()[:1].reshape(()), ValueError),
]
EACH_ARRAY = [(op, name) for op in OPS for name in arrays_in(small_arguments(op))]
EACH_TYPED_ARRAY = [(op, name, dtype) for op, name in EACH_ARRAY for dtype in OPS[op].dtypes]
FLOAT32_ARRAYS = [(op, name) for op, name in EACH_ARRAY if small_arguments(op)[name].dtype == np.float32]
