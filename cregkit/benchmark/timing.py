"""Timing that is robust to other load: interleaved contestants in one process, many samples, robust statistics.

Every round takes one sample of each contestant (A, B, C, A, B, C ...), so that a disturbance affects all of them. A
sample is a loop of calls that lasts at least a millisecond. Three untimed loops precede it, to fill the caches and wake
the threads: on some CPUs the LLC holds the data only after three calls. If one call lasts ten milliseconds, cache
effects are small and there are no untimed calls. If the next contestant has its own thread pool, a pause lets the
previous pool stop spinning, which occupies a core for up to 20 ms. Rounds continue beyond the budget, up to a limit,
while a contestant's lower quartile is far from its shortest sample: then most of its samples were disturbed.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from timeit import Timer

SAMPLE_SECONDS = 1e-3
UNTIMED_SAMPLES = 3
LONG_SECONDS = 10 * SAMPLE_SECONDS
PAUSE_SECONDS = 0.02
MIN_ROUNDS, MAX_ROUNDS = 5, 200
DISTURBED = 1.4
"""From this ratio of lower quartile to shortest sample on, samples count as disturbed."""
MAX_BUDGETS = 4
"""Budgets to spend, at most, on disturbed samples."""
TO_DEVIATION = 1.4826  # median absolute deviation to standard deviation, for a normal distribution


@dataclass(frozen=True)
class Measurement:
    """Seconds per call, from ``n`` samples."""

    median: float
    quartile: float
    """Lower quartile, used for ratios: other load only adds time, and a quarter of the samples is undisturbed even if
    half are not."""
    mad: float
    """Median absolute deviation from the median."""
    best: float
    """Shortest sample."""
    n: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Measurement:
        """Summarise samples, at least one."""
        if not samples:
            raise ValueError("samples must hold at least one time, got none")
        median = statistics.median(samples)
        mad = statistics.median(abs(sample - median) for sample in samples)
        return cls(median, _lower_quartile(samples), mad, min(samples), len(samples))

    @property
    def noise(self) -> float:
        """Robust standard deviation of a sample, relative to the median."""
        return TO_DEVIATION * self.mad / self.median


@dataclass(frozen=True)
class Contestant:
    """A call to time, the thread pool it uses, and an untimed setup before each sample."""

    call: Callable[[], object]
    pool: str = "openmp"
    setup: Callable[[], object] = lambda: None


def measure(
    contestants: Mapping[str, Contestant], budget: float, min_rounds: int = MIN_ROUNDS
) -> dict[str, Measurement]:
    """Time the contestants, interleaved, for ``budget`` seconds (more if disturbed), at least ``min_rounds`` rounds."""
    samples = take_samples(contestants, budget, min_rounds)
    return {name: Measurement.of(of_one) for name, of_one in samples.items()}


def take_samples(
    contestants: Mapping[str, Contestant], budget: float, min_rounds: int = MIN_ROUNDS
) -> dict[str, list[float]]:
    """Do what ``measure`` does, and return the seconds per call of each round."""
    timers = {name: Timer(contestant.call, contestant.setup) for name, contestant in contestants.items()}
    plans = {name: _plan(timer) for name, timer in timers.items()}
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    start = time.perf_counter()
    pool = ""
    for done in range(MAX_ROUNDS):
        if done >= min_rounds and _is_enough(samples, time.perf_counter() - start, budget):
            break
        for name, timer in timers.items():
            number, untimed = plans[name]
            if contestants[name].pool != pool:
                pool = contestants[name].pool
                time.sleep(PAUSE_SECONDS)
                untimed = max(1, untimed)
            if untimed:
                timer.timeit(untimed)
            samples[name].append(timer.timeit(number) / number)
    return samples


def _is_enough(samples: Mapping[str, Sequence[float]], seconds: float, budget: float) -> bool:
    """Whether the budget is spent and no contestant's samples are disturbed, or ``MAX_BUDGETS`` budgets are spent."""
    if seconds <= budget:
        return False
    return seconds > MAX_BUDGETS * budget or not any(_are_disturbed(of_one) for of_one in samples.values())


def _are_disturbed(samples: Sequence[float]) -> bool:
    return _lower_quartile(samples) > DISTURBED * min(samples)


def _lower_quartile(samples: Sequence[float]) -> float:
    return sorted(samples)[(len(samples) - 1) // 4]


def _plan(timer: Timer) -> tuple[int, int]:
    """Return the number of timed calls per sample and of untimed calls before it, after a first untimed call."""
    timer.timeit(1)
    if timer.timeit(1) > LONG_SECONDS:
        return 1, 0
    number = 1
    while (seconds := timer.timeit(number)) < SAMPLE_SECONDS / 10:
        number *= 10
    number = max(1, math.ceil(number * SAMPLE_SECONDS / seconds))
    return number, UNTIMED_SAMPLES * number
