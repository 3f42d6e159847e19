"""What tells one run from another, as JSON can hold it: settings by name, and the first in which two runs differ."""

from __future__ import annotations

import inspect
import json
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from cregkit.layers import Layer

_PLAIN = (bool, int, float, str, type(None))


def described(thing: Any) -> Any:
    """Return plain values as they are, arrays as checksums, functions by name, objects by class and attributes."""
    if isinstance(thing, _PLAIN):
        return thing
    if isinstance(thing, np.generic):
        return thing.item()
    if isinstance(thing, np.ndarray):
        return [list(thing.shape), thing.dtype.str, zlib.crc32(np.ascontiguousarray(thing).data)]
    if isinstance(thing, (list, tuple)):
        return [described(part) for part in thing]
    if isinstance(thing, Mapping):
        return {str(name): described(part) for name, part in thing.items()}
    if inspect.isroutine(thing) or isinstance(thing, (partial, type)):
        return function_name(thing)
    public = {name: part for name, part in getattr(thing, "__dict__", {}).items() if not name.startswith("_")}
    return {"class": type(thing).__qualname__, **described(public)}


def function_name(function: Callable[..., Any]) -> str:
    """Return the name of a function and what it was given beforehand: softmax_cross_entropy(label_smoothing=0.1).

    That is what ``functools.partial`` was given; of what a function encloses or an object that can be called holds, the
    floats and strings. The code itself is not compared.
    """
    if isinstance(function, partial):
        given: dict[Any, Any] = {**dict(enumerate(function.args)), **function.keywords}
        return _with_settings(function_name(function.func), given)
    if inspect.isfunction(function):
        enclosed = dict(inspect.getclosurevars(function).nonlocals)
    else:
        enclosed = dict(getattr(function, "__dict__", {}))
    return _with_settings(getattr(function, "__name__", type(function).__name__), lasting(enclosed))


def lasting(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the public floats and strings; numbers that count, lists and arrays may change from call to call."""
    return {
        name: value
        for name, value in attributes.items()
        if isinstance(value, (float, str)) and not name.startswith("_")
    }


def _with_settings(name: str, given: Mapping[Any, Any]) -> str:
    inner = ", ".join(f"{key}={described(value)!r}" for key, value in sorted(given.items(), key=str))
    return f"{name}({inner})" if inner else name


def layers_of(network: Layer) -> dict[str, dict[str, Any]]:
    """Return the class and the public plain attributes of each layer in a network, by the prefix of its names."""
    return {prefix.rstrip(".") or "itself": layer._settings() for prefix, layer in network._walk()}


def normalised(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``identity`` as it comes back from JSON."""
    return dict(json.loads(json.dumps(identity)))


def first_difference(was: Any, now: Any, name: str = "") -> str | None:
    """Return the first setting in which two runs differ, as "batch_size was 8, is 16"; None if there is none."""
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
