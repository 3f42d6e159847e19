"""What seeds say: mean and spread of a figure, and how sure the mean of a difference is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Spread(NamedTuple):
    """Mean and sample standard deviation over the seeds; a single seed has no deviation."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise values, of which there must be at least one; what is not finite makes the mean so too."""
        with np.errstate(invalid="ignore", over="ignore"):
            return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)

    def shown(self, decimals: int | None = 1) -> str:
        """Return the numbers with so many decimals; None: as many as give the mean three digits."""
        if decimals is None:
            scale = math.floor(math.log10(abs(self.mean))) if self.mean and math.isfinite(self.mean) else 0
            decimals = max(0, 2 - scale)
        mean = f"{self.mean:.{decimals}f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:.{decimals}f}"

    def __str__(self) -> str:
        """Return the numbers with one decimal."""
        return self.shown()


class Interval(NamedTuple):
    """The mean of a figure and the 95 % confidence interval around it: what other seeds would give on average."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Return Student's interval of the mean of ``values``, one per seed.

        One seed says nothing of the others: its interval is endless. The same holds for values that are not finite.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            mean = float(np.mean(values))
        if len(values) < 2 or not math.isfinite(mean):
            return cls(mean, -math.inf, math.inf)
        from scipy.special import stdtrit

        error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
        reach = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * error
        return cls(mean, mean - reach, mean + reach)

    def __neg__(self) -> Interval:
        """Return the interval of the opposite figure."""
        return Interval(-self.mean, -self.high, -self.low)

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval lies above or below 0, else 0: the seeds do not tell."""
        return (self.low > 0) - (self.high < 0)

    def shown(self, decimals: int = 1, unit: str = "") -> str:
        """Return the mean with its interval."""
        unit = unit and f" {unit}"
        if math.isinf(self.high):
            return f"{self.mean:.{decimals}f}{unit}, no interval from one seed"
        return f"{self.mean:.{decimals}f}{unit}, 95 % interval {self.low:.{decimals}f} to {self.high:.{decimals}f}"
