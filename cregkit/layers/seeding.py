"""One convention for every ``seed=``: 64 bits, drawn once."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from cregkit import _validate as validate

Seed: TypeAlias = "int | np.random.Generator | np.random.SeedSequence | None"


def draw_seed(seed: Seed) -> int:
    """Return an int in [0, 2**64) from any kind of seed.

    An int is used as it is. A Generator gives its next 64 bits and a SeedSequence its next child, so layers that share
    one get different seeds. None asks the operating system for fresh entropy.

    Raises:
        TypeError: ``seed`` is none of these.
        ValueError: the int lies outside [0, 2**64).
    """
    if seed is None:
        seed = np.random.SeedSequence()
    if isinstance(seed, np.random.SeedSequence):
        return int(seed.spawn(1)[0].generate_state(1, np.uint64)[0])
    if isinstance(seed, np.random.Generator):
        return int(seed.integers(2**64, dtype=np.uint64))
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an int, a numpy Generator or SeedSequence, or None, got {validate.shown(seed)}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be in [0, 2**64), got {seed}")
    return int(seed)
