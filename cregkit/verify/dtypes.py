"""The types of tensors, and how 16-bit arguments and results correspond to those of float32.

An op on 16-bit tensors returns what it returns for their values in float32, rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit.verify.inputs import Arguments

FLOAT32 = np.dtype(np.float32)
SUMS = ("dgamma", "dbeta")
"""Results that are float32 for tensors of any type."""


def bfloat16() -> np.dtype[Any] | None:
    """Return the dtype bfloat16 of the package ml_dtypes, or None if it is not installed."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


DTYPES: tuple[np.dtype[Any], ...] = tuple(filter(None, (FLOAT32, np.dtype(np.float16), bfloat16())))
"""The types of tensors: bfloat16 only where ml_dtypes is installed."""


def is_16_bit(array: Any) -> bool:
    """Return whether this is an array of a 16-bit type."""
    return isinstance(array, np.ndarray) and array.dtype in DTYPES[1:]


def narrowed(arguments: Arguments, dtype: np.dtype[Any]) -> Arguments:
    """Return the arguments with all float32 arrays rounded to this type."""
    return {
        name: value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype == FLOAT32 else value
        for name, value in arguments.items()
    }


def widened(arguments: Arguments) -> Arguments:
    """Return the arguments with all 16-bit arrays in float32."""
    return {name: value.astype(FLOAT32) if is_16_bit(value) else value for name, value in arguments.items()}


@np.errstate(invalid="ignore")
def half_spacing(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the largest error of the rounding that gave these 16-bit values; 0 for other types."""
    return np.spacing(np.abs(values)).astype(np.float64) / 2.0 if is_16_bit(values) else np.zeros(values.shape)


def same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Return whether two arrays have the same type, shape and bits; the bits of a NaN do not count."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.tobytes() == b.tobytes():
        return True
    nan = a != a
    return np.array_equal(nan, b != b) and a[~nan].tobytes() == b[~nan].tobytes()
