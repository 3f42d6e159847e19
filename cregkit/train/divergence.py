"""Detection of diverged training: losses, gradients and states that are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.functional import sum_squares


class DivergenceError(ValueError):
    """A loss, a gradient or the state of training is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.train import SGD, DivergenceError, mean_squared_error, train_step
    >>> network = Linear(1, 1, seed=0)
    >>> x, targets = np.ones((1, 1), np.float32), np.full((1, 1), np.nan, np.float32)
    >>> try:
    ...     train_step(network, mean_squared_error, SGD(network), x, targets)
    ... except DivergenceError as error:
    ...     print(error)
    the loss is nan
    """


class DivergenceWarning(RuntimeWarning):
    """``fit`` ended early because training diverged.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.train import SGD, DivergenceWarning, fit, mean_squared_error
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> network = Linear(1, 1, seed=0)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", DivergenceWarning)
    ...     history = fit(network, mean_squared_error, SGD(network, lr=1e3), (x, 3 * x), None, 50, seed=0)
    >>> print(history.diverged)
    epoch 5, step 1 (both from 0): after this step bias is not finite
    """


def all_finite(array: NDArray[Any]) -> bool:
    """Return whether ``array`` contains neither NaN nor infinity."""
    # The fastest pass for float32: the sum of squares in float64, which finite float32 values cannot overflow and which
    # any NaN or infinity makes non-finite.
    if array.dtype.char == "f" and array.flags.c_contiguous and array.flags.aligned:
        return math.isfinite(sum_squares(array))
    return bool(np.isfinite(array).all())


def first_not_finite(*states: Mapping[str, NDArray[Any]]) -> str | None:
    """Return the name of the first array that contains NaN or infinity, or None."""
    arrays = (named for state in states for named in state.items())
    return next((name for name, array in arrays if _is_float(array) and not all_finite(array)), None)


def _is_float(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" or validate.is_bfloat16(array.dtype)
