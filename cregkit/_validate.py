"""Checks of constructor arguments and of arrays: each raises an error that names the argument and says what came."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FLOAT32 = np.dtype(np.float32)


def shown(value: object) -> str:
    """Return the type of what was given in place of another, and itself as far as that is short."""
    return f"{type(value).__name__} {value!r:.60}"


def kind(value: object) -> str:
    """Return what ``value`` is, as an error names it: "a float64 array", or its type."""
    return f"a {value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__


def positive_int(name: str, value: object) -> int:
    """Return ``value`` as an int of at least 1."""
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


def within(requirement: str, values: NDArray[Any], low: float, high: float) -> None:
    """Refuse an array with a value outside of [low, high], or NaN; the error shows the first such value."""
    if values.size and not (low <= values.min() and values.max() <= high):
        first = np.argmin((low <= values) & (values <= high))
        raise ValueError(f"{requirement}, got {values.flat[first]!s}")


def float32(name: str, value: object) -> NDArray[np.float32]:
    """Return ``value``, which must be a float32 array already: nothing is cast behind the caller's back."""
    if not isinstance(value, np.ndarray) or value.dtype != _FLOAT32:
        raise TypeError(f"{name} must be a float32 array, got {kind(value)}; use np.asarray({name}, dtype=np.float32)")
    return value


def shape_of_gradient(dy: NDArray[np.float32], shape: tuple[int, ...]) -> None:
    """Refuse a ``dy`` that has not the shape of the forward's output."""
    if np.shape(dy) != shape:
        raise ValueError(f"dy must have the shape of the forward's output, {shape}, got {np.shape(dy)}")


def num_features(layer: object, expected: int, x: NDArray[np.float32], axis: int) -> None:
    """Explain a failed forward if ``x`` does not have ``expected`` features on ``axis``; otherwise say nothing."""
    shape = np.shape(x)
    if len(shape) > axis % max(len(shape), 1) and shape[axis] != expected:
        raise ValueError(
            f"x has {shape[axis]} features on axis {axis} (shape {shape}), "
            f"{type(layer).__name__} was made with num_features={expected}"
        ) from None
