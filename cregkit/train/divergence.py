"""Training whose numbers are no longer finite: how it is noticed, and the state to go back to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DivergenceError(ValueError):
    """A loss, a gradient or the training as a whole is not finite."""


class DivergenceWarning(RuntimeWarning):
    """``fit`` ended early because the training diverged."""


def all_finite(array: NDArray[Any]) -> bool:
    """Return whether ``array`` holds neither NaN nor inf.

    The dot product with itself is the fastest pass that NaN and inf cannot get through unseen; numbers whose squares
    overflow are looked at one by one.
    """
    flat = array.ravel()
    return math.isfinite(flat.dot(flat)) or bool(np.isfinite(flat).all())


def first_not_finite(*states: Mapping[str, NDArray[Any]]) -> str | None:
    """Return the name of the first array with a NaN or inf in it, None if there is none."""
    arrays = (named for state in states for named in state.items())
    return next((name for name, array in arrays if array.dtype.kind == "f" and not all_finite(array)), None)
