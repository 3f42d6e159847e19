"""Cases whose tensors have 16 bits, made from those of float32."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import numpy as np

from cregkit.verify.cases import Case
from cregkit.verify.inputs import Arguments
from cregkit.verify.shapes import Shape
from cregkit.verify.tolerances import Tolerance, largest

DTYPES = ("float32", "bfloat16", "float16")
"""The types of tensors that can be measured."""
UNITS = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Largest relative error of one rounding."""
OUTPUTS = ("y", "h", "dx", "dresidual")
"""The results that are tensors. The others are statistics and sums."""
_INPUTS = ("x", "dy", "residual", "h", "dh")


def of_type(case: Case, dtype: str) -> Case:
    """Return the case with tensors of this 16-bit type; gain, bias and running statistics stay float32."""
    scalar = importlib.import_module("ml_dtypes").bfloat16 if dtype == "bfloat16" else np.float16

    def arguments(shape: Shape, rng: np.random.Generator, offset: float) -> Arguments:
        return _converted(case.arguments(shape, rng, offset), scalar)

    return replace(
        case,
        label=", ".join(filter(None, (case.label, dtype))),
        arguments=arguments,
        outputs={name: _rounded(t, dtype) if name in OUTPUTS else t for name, t in case.outputs.items()},
        bytes_per_element=case.bytes_per_element // 2,
    )


def widened(arguments: Arguments) -> Arguments:
    """Return the arguments with tensors of float32."""
    return _converted(arguments, np.float32)


def unit(arguments: Arguments) -> float:
    """Return the largest relative error of rounding to the type of the tensors; 0 for float32."""
    types = (arguments[name].dtype.name for name in _INPUTS if name in arguments)
    return max((UNITS.get(name, 0.0) for name in types), default=0.0)


def _converted(arguments: Arguments, scalar: Any) -> Arguments:
    return {name: value.astype(scalar) if name in _INPUTS else value for name, value in arguments.items()}


def _rounded(tolerance: Tolerance, dtype: str) -> Tolerance:
    return Tolerance(tolerance.bound + UNITS[dtype], f"{tolerance.reason}; one rounding to {dtype}", largest)
