"""Checks of arguments and arrays; each error names the argument, the requirement and the value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Axes: TypeAlias = int | tuple[int, ...]
"""One or several axes, or their sizes."""

_FLOAT32 = np.dtype(np.float32)
_TENSORS_OF_NUMPY = _FLOAT32, np.dtype(np.float16)


def shown(value: object) -> str:
    """Return the type and the shortened repr of a value, for an error message."""
    return f"{type(value).__name__} {value!r:.60}"


def kind(value: object) -> str:
    """Return "a float64 array" or the name of the type, for an error message."""
    return f"a {value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__


def positive_int(name: str, value: object) -> int:
    """Return ``value`` as an int, at least 1."""
    return integer(name, value, 1)


def integer(name: str, value: object, low: int, high: float = math.inf) -> int:
    """Return ``value`` as an int in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int, got {shown(value)}")
    number = int(value)
    if not low <= number <= high:
        bounds = f"in [{low}, {high}]" if math.isfinite(high) else f"at least {low}"
        raise ValueError(f"{name} must be {bounds}, got {number}")
    return number


def features(name: str, value: object, axis: int) -> tuple[Axes, Axes]:
    """Return ``value``, an int or a tuple of ints of at least 1, and its axes: ``axis``, or the last for a tuple."""
    if not isinstance(value, tuple):
        return positive_int(name, value), axis
    if not value:
        raise ValueError(f"{name} must be an int or a tuple of at least one int, got ()")
    if axis != -1:
        raise ValueError(
            f"{name} must be an int with channel_axis={axis}, got {shown(value)}: pass the size of one axis"
        )
    return tuple(positive_int(name, size) for size in value), tuple(range(-len(value), 0))


def real(name: str, value: object, low: float, high: float = math.inf) -> float:
    """Return ``value`` as a finite float in [low, high]."""
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (low <= number <= high and math.isfinite(number)):
        bounds = f"in [{low:g}, {high:.16g}]" if math.isfinite(high) else f"finite and at least {low:g}"
        raise ValueError(f"{name} must be {bounds}, got {value}")
    return number


def channel_axis(value: int) -> int:
    """Return the axis of the channels, which must be 1 or -1."""
    if value not in (1, -1):
        raise ValueError(f"channel_axis must be 1 (channels first) or -1 (channels last), got {value!r}")
    return value


def float32_real(name: str, value: object) -> float:
    """Return ``value`` as a float that float32 can hold."""
    largest = float(np.finfo(np.float32).max)
    return real(name, value, -largest, largest)


def within(requirement: str, values: NDArray[Any], low: float, high: float) -> None:
    """Raise ValueError if a value is NaN or outside [low, high]; the message shows the first such value."""
    if values.size and not (low <= values.min() and values.max() <= high):
        first = np.argmin((low <= values) & (values <= high))
        raise ValueError(f"{requirement}, got {values.flat[first]!s}")


def float32(name: str, value: object) -> NDArray[np.float32]:
    """Return ``value``, which must be a float32 array; there is no silent cast."""
    if not isinstance(value, np.ndarray) or value.dtype != _FLOAT32:
        raise TypeError(f"{name} must be a float32 array, got {kind(value)}; use np.asarray({name}, dtype=np.float32)")
    return value


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Return whether this is ``ml_dtypes.bfloat16``; the package is not imported."""
    return dtype.type.__name__ == "bfloat16" and dtype.type.__module__ == "ml_dtypes"


def is_tensor_dtype(dtype: np.dtype[Any]) -> bool:
    """Return whether the inputs and outputs of layers may have this dtype."""
    return dtype in _TENSORS_OF_NUMPY or is_bfloat16(dtype)


def tensor_dtype(name: str, value: object) -> np.dtype[Any]:
    """Return ``value`` as a dtype, which must be float32, float16 or bfloat16."""
    try:
        dtype = np.dtype(value)  # type: ignore[call-overload]
    except TypeError:
        dtype = None
    if dtype is None or not is_tensor_dtype(dtype):
        raise TypeError(f"{name} must be float32, float16 or ml_dtypes.bfloat16, got {dtype or shown(value)}")
    return dtype  # type: ignore[no-any-return]


def tensor(name: str, value: object) -> NDArray[Any]:
    """Return ``value``, which must be a float32, float16 or bfloat16 array; there is no silent cast."""
    if not isinstance(value, np.ndarray) or not is_tensor_dtype(value.dtype):
        raise TypeError(
            f"{name} must be a float32, float16 or bfloat16 array, got {kind(value)}; "
            f"use np.asarray({name}, dtype=np.float32)"
        )
    return value


def state(value: object) -> None:
    """Raise TypeError if ``value`` is not a mapping, as the state of a layer or a callback is."""
    if not isinstance(value, Mapping):
        raise TypeError(f"state must be a mapping of names to arrays, got {type(value).__name__}")


def gradient(dy: object, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return ``dy``, which must have the dtype and the shape of the forward's output."""
    if not isinstance(dy, np.ndarray) or dy.dtype != dtype:
        raise TypeError(
            f"dy must be a {dtype} array like the forward's output y, got {kind(dy)}; use np.asarray(dy, dtype=y.dtype)"
        )
    if dy.shape != shape:
        raise ValueError(f"dy must have the shape of the forward's output, {shape}, got {dy.shape}")
    return dy


def num_features(layer: object, expected: Axes, x: NDArray[Any], axis: Axes, name: str = "num_features") -> None:
    """Raise ValueError if ``x`` does not have as many features on ``axis`` as argument ``name`` of the layer says."""
    shape = np.shape(x)
    got: Axes
    if isinstance(axis, tuple):
        got = shape[-len(axis) :]
    elif -len(shape) <= axis < len(shape):
        got = shape[axis]
    elif axis == 1:
        raise ValueError(f"x must have at least two dimensions (samples and channels), got shape {shape}") from None
    else:
        return
    if got != expected:
        raise ValueError(
            f"x must have {name}={expected} features on axis {axis} for this {type(layer).__name__}, "
            f"got {got} (shape {shape})"
        ) from None
