"""The identity of a run: its settings by name, as JSON values, and the first difference between two runs."""

from __future__ import annotations

import inspect
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers import Layer
from cregkit.train.data import is_rows, taken

_PLAIN = (bool, int, float, str, type(None))
_ROWS = 4096


def described(thing: Any) -> Any:
    """Return a JSON value: plain values unchanged, arrays as checksums, functions by name, objects by attributes."""
    if isinstance(thing, _PLAIN):
        return thing
    if isinstance(thing, np.generic):
        return thing.item()
    if isinstance(thing, np.ndarray):
        return [list(thing.shape), thing.dtype.str, _checksum([thing])]
    if is_rows(thing):
        parts = (taken(thing, slice(start, start + _ROWS)) for start in range(0, len(thing), _ROWS))
        return [list(thing.shape), thing.dtype.str, _checksum(parts)]
    if isinstance(thing, (list, tuple)):
        return [described(part) for part in thing]
    if isinstance(thing, Mapping):
        return {str(name): described(part) for name, part in thing.items()}
    if inspect.isroutine(thing) or isinstance(thing, (partial, type)):
        return function_name(thing)
    public = {name: part for name, part in getattr(thing, "__dict__", {}).items() if not name.startswith("_")}
    return {"class": type(thing).__qualname__, **described(public)}


def _checksum(parts: Iterable[NDArray[Any]]) -> int:
    """Return the CRC-32 of the bytes of arrays, one after another."""
    crc = 0
    for part in parts:
        # A bfloat16 array has no buffer interface.
        bits = part.view(np.uint16) if validate.is_bfloat16(part.dtype) else part
        crc = zlib.crc32(np.ascontiguousarray(bits).data, crc)
    return crc


def function_name(function: Callable[..., Any]) -> str:
    """Return a function's name with its bound arguments, such as ``softmax_cross_entropy(label_smoothing=0.1)``."""
    # Bound arguments are those of a functools.partial, and the floats and strings in the closure of a function or
    # in the attributes of a callable object. The code is not compared.
    if isinstance(function, partial):
        given: dict[Any, Any] = {**dict(enumerate(function.args)), **function.keywords}
        return _with_settings(function_name(function.func), given)
    if inspect.isfunction(function):
        enclosed = dict(inspect.getclosurevars(function).nonlocals)
    else:
        enclosed = dict(getattr(function, "__dict__", {}))
    return _with_settings(getattr(function, "__name__", type(function).__name__), lasting(enclosed))


def lasting(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the public floats and strings; ints (counters), lists and arrays may change between calls."""
    return {
        name: value
        for name, value in attributes.items()
        if isinstance(value, (float, str)) and not name.startswith("_")
    }


def _with_settings(name: str, given: Mapping[Any, Any]) -> str:
    inner = ", ".join(f"{key}={described(value)!r}" for key, value in sorted(given.items(), key=str))
    return f"{name}({inner})" if inner else name


def layers_of(network: Layer) -> dict[str, dict[str, Any]]:
    """Return the class and the public plain attributes of each layer of a network, by name prefix."""
    return {prefix.rstrip(".") or "itself": layer._settings() for prefix, layer in network._walk()}


def normalised(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``identity`` after a round trip through JSON."""
    return dict(json.loads(json.dumps(identity)))


def first_difference(was: Any, now: Any, name: str = "") -> str | None:
    """Return the first difference between two runs, such as "batch_size was 8, is 16", or None."""
    if _are_objects(was) and _are_objects(now) and len(was) == len(now):
        pairs = zip(was, now, strict=True)
        differences = (first_difference(*pair, f"{name}[{index}]") for index, pair in enumerate(pairs))
        return next(filter(None, differences), None)
    if not (isinstance(was, dict) and isinstance(now, dict)):
        both_nan = was != was and now != now
        return None if was == now or both_nan else f"{name} was {was}, is {now}"
    for key in {**now, **was}:
        inner = f"{name}.{key}" if name else key
        if key not in was or key not in now:
            return f"{inner} {'is new' if key in now else 'is missing'}"
        if difference := first_difference(was[key], now[key], inner):
            return difference
    return None


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) for part in value)
