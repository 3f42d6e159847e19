"""Tolerances: how far an op may be from the float64 oracle, and why.

A tolerance bounds the error of one output: ``max |got - reference| <= bound * scale``. The scale is 1 where the values
are of the order of 1 by construction, else the largest magnitude of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.typing import NDArray

from cregkit import oracle
from cregkit.verify.dtypes import half_spacing
from cregkit.verify.inputs import Arguments

UNIT = 2.0**-24
"""Largest relative error of one float32 rounding."""


@dataclass(frozen=True)
class Tolerance:
    """A bound on the error of an output, the scale it is relative to, and the reason for the bound."""

    bound: float
    reason: str
    scale: Callable[[Arguments, NDArray[Any]], float]


def unit_scale(arguments: Arguments, reference: NDArray[Any]) -> float:
    """Return 1: errors are absolute, as the values are of the order of 1."""
    return 1.0


def largest(arguments: Arguments, reference: NDArray[Any]) -> float:
    """Return the largest finite magnitude of the reference, or 1 if that is 0."""
    finite = np.abs(reference[np.isfinite(reference)])
    return float(finite.max(initial=0.0)) or 1.0


def at_least_one(arguments: Arguments, reference: NDArray[Any]) -> float:
    """Return the largest finite magnitude of the reference, or 1 if that is larger."""
    return max(1.0, largest(arguments, reference))


def deviation_of_sum(arguments: Arguments, reference: NDArray[Any]) -> float:
    """Return the standard deviation of ``residual + dropout(x, p)`` for inputs of deviation 1."""
    return math.sqrt(1.0 + 1.0 / (1.0 - arguments["p"]))


def noise_scale(arguments: Arguments, reference: NDArray[Any]) -> float:
    """Return the largest possible noise, or the largest magnitude of the reference if that is larger."""
    return max(6.66 * float(arguments["sigma"].max(initial=0.0)), largest(arguments, reference))


def largest_pixel(arguments: Arguments, reference: NDArray[Any]) -> float:
    """Return the largest magnitude of the images and the fill, whose mixture may cancel."""
    images = (arguments[name] for name in ("x", "other") if name in arguments)
    return max(float(arguments.get("fill", 0.0)), *(largest(arguments, image) for image in images))


def gradient_scale(arguments: Arguments, reference: NDArray[Any]) -> float:
    """Return the largest magnitude of the gradient, but at least a billionth of that of its terms."""
    # With one value per row the terms cancel; the remainder is the rounding error of float64, in the oracle too.
    rstd = arguments["rstd"] if "rstd" in arguments else 1.0 / np.sqrt(arguments["var"] + arguments["eps"])
    terms = np.abs(arguments["dy"]).max(initial=0.0) * np.max(rstd, initial=0.0)
    return max(largest(arguments, reference), 1e-9 * float(terms))


def column_sum_scale(arguments: Arguments, reference: NDArray[Any]) -> float:
    """Return the largest magnitude of the sums, but at least that at which the bound is one rounding of the terms."""
    # The terms are dy or dy * x_hat, with x_hat of the order of 1. A single sum can cancel to far less than its terms.
    dy = np.abs(arguments["dy"]).astype(np.float64)
    axis = arguments["channel_axis"] if "channel_axis" in arguments else arguments.get("axis", -1)
    kept = normalize_axis_tuple(axis, dy.ndim)
    terms = dy.sum(axis=tuple(a for a in range(dy.ndim) if a not in kept))
    return max(largest(arguments, reference), UNIT / COLUMN_SUM.bound * float(terms.max(initial=0.0)))


def step_scale(name: str) -> Callable[[Arguments, NDArray[Any]], float]:
    """Return the scale of array ``name`` of an optimiser's step: its largest magnitude if no terms cancelled."""
    # The oracle steps from the magnitudes of all arrays. It gives |w| - lr * |...| for the weights; the sum without
    # cancellation is |w| + lr * |...|, which is 2 * |w| minus that.

    def scale(arguments: Arguments, reference: NDArray[Any]) -> float:
        step = oracle.adamw_step if "m" in arguments else oracle.sgd_step
        sums: Arguments = {
            n: np.abs(a).astype(np.float64) if isinstance(a, np.ndarray) else a for n, a in arguments.items()
        }
        step(**sums)
        lost = np.abs(arguments["w"]) - sums["w"]
        if name == "average":
            return largest(arguments, sums[name] + 2.0 * (1.0 - arguments["ema_momentum"]) * lost)
        return largest(arguments, sums[name] if name != "w" else np.abs(arguments["w"]) + lost)

    return scale


NORMALISED = Tolerance(1e-6, "the contract for rows of any offset up to 1e6: four roundings of values below 8", largest)
STATISTIC = Tolerance(2e-7, "float32 sums of at most 4096 values, in units of the rows' own deviation", unit_scale)
INVERSE_DEVIATION = Tolerance(2e-7, "half the relative error of a float32 sum of squares", largest)
GRADIENT = Tolerance(2e-6, "the contract: 2e-6 of the gradient's own largest magnitude", gradient_scale)
COLUMN_SUM = Tolerance(2e-6, "the contract: 2e-6 of the gradient's own largest magnitude", column_sum_scale)
SCALED = Tolerance(2.5 * UNIT, "one product with a factor rounded to float32", largest)
SHIFTED = Tolerance(
    6 * UNIT, "a product with a rounded factor, the sum with a rounded number below 1, which may cancel", at_least_one
)
STATISTIC_OF_SUM = Tolerance(STATISTIC.bound, STATISTIC.reason, deviation_of_sum)
EXACT = Tolerance(0.0, "a decision, not a number", unit_scale)
RUNNING = Tolerance(4 * UNIT, "a float32 store of a float64 mixture of float32-accurate statistics", largest)
MOVED = Tolerance(0.0, "numbers are moved, not computed", unit_scale)
UNIFORM = Tolerance(0.0, "53 random bits", unit_scale)
NOISY = Tolerance(
    16 * UNIT, "a dozen roundings of a number below 6.66 times the deviation, one of the sum", noise_scale
)
MIXED = Tolerance(3 * UNIT, "two products and a sum of numbers no larger than the largest", largest_pixel)
TURNED = Tolerance(8 * UNIT, "weights from float64, three lerps of numbers no larger than the largest", largest_pixel)
JITTERED = Tolerance(32 * UNIT, "some twenty roundings of numbers of the order of 1", unit_scale)
PENALTY = Tolerance(4 * UNIT, "float32 sums of at most 4096 squares, then float64", largest)


LIMITED = Tolerance(8 * UNIT, "a factor 2**-22 below the exact one, and four roundings", at_least_one)


def stepped(*names: str, roundings: int = 8) -> dict[str, Tolerance]:
    """Return the tolerances of the named arrays, which an optimiser's step changes."""
    reason = f"at most {roundings} roundings on the way of each term into the sum"
    return {name: Tolerance(roundings * UNIT, reason, step_scale(name)) for name in names}


def share_of_tolerance(got: NDArray[Any], wanted: NDArray[Any], tolerance: Tolerance, arguments: Arguments) -> float:
    """Return the error as a fraction of the tolerance; infinite for a wrong shape or a misplaced NaN or Inf.

    The rounding of a 16-bit result is no error.

    Parameters
    ----------
    got
        The result.
    wanted
        The reference.
    tolerance
        The tolerance of this output.
    arguments
        Those of the op, for the scale of the tolerance.

    Returns
    -------
    share
        At most 1 passes.
    """
    if got.shape != wanted.shape:
        return np.inf
    rounding = half_spacing(got)
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(got[~finite], wanted[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return np.inf
    error = float((np.abs(got[finite] - wanted[finite]) - rounding[finite]).max(initial=0.0))
    if error <= 0.0:
        return 0.0
    limit = tolerance.bound * tolerance.scale(arguments, wanted)
    return error / limit if limit > 0.0 else np.inf
