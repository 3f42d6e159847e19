"""A quick comparison of layer norm with the float64 oracle, for ``cregkit demo``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cregkit import functional, oracle
from cregkit.kernels._threads import num_threads

SHAPE = (512, 768)
TIMED_PAIRS = 25


class AgainstOracle(NamedTuple):
    """The error of an op against the oracle, its time on one thread, and its speed-up over the oracle."""

    shape: tuple[int, int]
    max_error: float
    microseconds: float
    oracle_ratio: float


def layer_norm() -> AgainstOracle:
    """Compare layer norm with its oracle: interleaved calls on one thread, into an existing buffer; medians."""
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    error = float(np.abs(functional.layer_norm(x) - oracle.layer_norm(x)).max())
    y = np.empty_like(x)
    with num_threads(1):
        pairs = [
            (_seconds(lambda: functional.layer_norm(x, out=y)), _seconds(lambda: oracle.layer_norm(x, out=y)))
            for _ in range(TIMED_PAIRS)
        ]
    own = statistics.median(ours for ours, _ in pairs)
    return AgainstOracle(SHAPE, error, own * 1e6, statistics.median(theirs / ours for ours, theirs in pairs))


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
