"""Statistics over seeds: mean, standard deviation, and confidence interval of the mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Spread(NamedTuple):
    """Mean and sample standard deviation over seeds; the deviation of a single seed is None."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise values, at least one; a value that is not finite makes the mean not finite."""
        with np.errstate(invalid="ignore", over="ignore"):
            return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)

    def shown(self, decimals: int | None = 1) -> str:
        """Format with ``decimals`` decimals; None gives the mean three digits."""
        if decimals is None:
            scale = math.floor(math.log10(abs(self.mean))) if self.mean and math.isfinite(self.mean) else 0
            decimals = max(0, 2 - scale)
        mean = f"{self.mean:.{decimals}f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:.{decimals}f}"

    def __str__(self) -> str:
        """Format with one decimal."""
        return self.shown()


class Interval(NamedTuple):
    """Mean over seeds with its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Return Student's t interval of the mean; infinite for a single seed and for values that are not finite."""
        with np.errstate(invalid="ignore", over="ignore"):
            mean = float(np.mean(values))
        if len(values) < 2 or not math.isfinite(mean):
            return cls(mean, -math.inf, math.inf)
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
        reach = t_quantile(len(values) - 1) * error
        return cls(mean, mean - reach, mean + reach)

    def __neg__(self) -> Interval:
        """Return the interval of the negated values."""
        return Interval(-self.mean, -self.high, -self.low)

    @property
    def sign(self) -> int:
        """Sign of a significant mean: 1 or -1 if the whole interval lies above or below 0, else 0."""
        return (self.low > 0) - (self.high < 0)

    def shown(self, decimals: int = 1, unit: str = "") -> str:
        """Format the mean and its interval."""
        unit = unit and f" {unit}"
        if math.isinf(self.high):
            cause = "from one seed" if math.isfinite(self.mean) else "of values that are not finite"
            return f"{self.mean:.{decimals}f}{unit}, no interval {cause}"
        return f"{self.mean:.{decimals}f}{unit}, 95 % interval {self.low:.{decimals}f} to {self.high:.{decimals}f}"


def t_quantile(freedom: int) -> float:
    """Return the two-sided ``CONFIDENCE`` quantile of Student's t, by SciPy."""
    try:
        from scipy.special import stdtrit
    except ImportError as error:
        raise ImportError("the interval over several seeds needs SciPy: pip install 'cregkit[lab]'") from error
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
