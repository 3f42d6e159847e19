"""Layers without a kernel compute 16-bit tensors in float32, and round each result once."""

from __future__ import annotations

from typing import Any

import numpy as np

from cregkit.layers.base import Array, Tensor

_FLOAT32 = np.dtype(np.float32)


def widened(a: Tensor) -> Array:
    """Return ``a`` in float32: itself, or a copy with the same values."""
    return a if a.dtype == _FLOAT32 else a.astype(np.float32)


def widened_parameter(name: str, value: Tensor, x: Tensor) -> Array:
    """Return a parameter in float32; it must be float32 or have the dtype of ``x``."""
    if value.dtype == _FLOAT32:
        return value
    if value.dtype != x.dtype:
        accepted = "float32" if x.dtype == _FLOAT32 else f"float32 or {x.dtype}"
        raise TypeError(
            f"{name} must be {accepted} for an x of {x.dtype}, got {value.dtype}: convert x, or the layer with astype"
        )
    return value.astype(np.float32)


def rounded(a: Array, dtype: np.dtype[Any]) -> Tensor:
    """Return ``a`` in ``dtype``: itself, or a copy rounded to nearest even, where too large values are infinite."""
    if a.dtype == dtype:
        return a
    with np.errstate(over="ignore"):
        return a.astype(dtype)
