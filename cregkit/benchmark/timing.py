"""Timing that a busy machine disturbs least: contestants in turn, in one process, many samples, robust statistics.

Every round takes one sample of each contestant (A, B, C, A, B, C ...), so that what else the machine does meets all of
them. A sample is a loop of calls that lasts a millisecond or more, after three such loops untimed that put the
contestant's data into the caches and its threads to work: on some CPUs the last cache has taken it in only after three
calls. (Where one call lasts ten milliseconds, the caches are the smaller part, and no call is left untimed.) Where the
next contestant has a thread pool of its own, a pause lets the pool before it stop spinning: it would hold a core for up
to 20 ms.
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
TO_DEVIATION = 1.4826  # median absolute deviation to standard deviation, for a normal distribution


@dataclass(frozen=True)
class Measurement:
    """Seconds per call, from ``n`` samples."""

    median: float
    quartile: float
    """The lower quartile: the time that ratios are made of. What else runs only ever adds time, and a quarter of the
    samples is undisturbed even where half are not."""
    mad: float
    """The median absolute deviation from the median."""
    best: float
    """The shortest sample."""
    n: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Measurement:
        """Summarise samples, of which there must be at least one."""
        if not samples:
            raise ValueError("samples must not be empty: a measurement needs at least one")
        median = statistics.median(samples)
        mad = statistics.median(abs(sample - median) for sample in samples)
        return cls(median, sorted(samples)[(len(samples) - 1) // 4], mad, min(samples), len(samples))

    @property
    def noise(self) -> float:
        """The robust standard deviation of a sample as a share of the median."""
        return TO_DEVIATION * self.mad / self.median


@dataclass(frozen=True)
class Contestant:
    """What is timed: a call, the thread pool it computes on, and what to do, untimed, before each sample."""

    call: Callable[[], object]
    pool: str = "openmp"
    setup: Callable[[], object] = lambda: None


def measure(contestants: Mapping[str, Contestant], budget: float) -> dict[str, Measurement]:
    """Time the contestants in turn for about ``budget`` seconds, but for at least ``MIN_ROUNDS`` rounds."""
    timers = {name: Timer(contestant.call, contestant.setup) for name, contestant in contestants.items()}
    plans = {name: _plan(timer) for name, timer in timers.items()}
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    deadline = time.perf_counter() + budget
    pool = ""
    for done in range(MAX_ROUNDS):
        if done >= MIN_ROUNDS and time.perf_counter() > deadline:
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
    return {name: Measurement.of(of_one) for name, of_one in samples.items()}


def _plan(timer: Timer) -> tuple[int, int]:
    """Calls per sample, and untimed ones before it, after a first call that may load and allocate."""
    timer.timeit(1)
    if timer.timeit(1) > LONG_SECONDS:
        return 1, 0
    number = 1
    while (seconds := timer.timeit(number)) < SAMPLE_SECONDS / 10:
        number *= 10
    number = max(1, math.ceil(number * SAMPLE_SECONDS / seconds))
    return number, UNTIMED_SAMPLES * number
