"""Training whose numbers are no longer finite: how it is noticed, and the state to go back to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit.functional import l2_penalty


class DivergenceError(ValueError):
    """A loss, a gradient or the training as a whole is not finite."""


class DivergenceWarning(RuntimeWarning):
    """``fit`` ended early because the training diverged."""


def all_finite(array: NDArray[Any]) -> bool:
    """Return whether ``array`` holds neither NaN nor inf.

    The sum of squares of a float32 array, in float64, is the fastest pass that NaN and inf cannot get through unseen.
    """
    if array.dtype.char == "f" and array.flags.c_contiguous and array.flags.aligned:
        return math.isfinite(l2_penalty(array, 2.0))
    return bool(np.isfinite(array).all())


def first_not_finite(*states: Mapping[str, NDArray[Any]]) -> str | None:
    """Return the name of the first array with a NaN or inf in it, None if there is none."""
    arrays = (named for state in states for named in state.items())
    return next((name for name, array in arrays if array.dtype.kind == "f" and not all_finite(array)), None)
