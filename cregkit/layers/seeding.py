"""Seeds: every ``seed=`` argument becomes one 64-bit int."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from cregkit import _validate as validate

Seed: TypeAlias = "int | np.random.Generator | np.random.SeedSequence | None"
"""Type of every ``seed=`` argument; ``draw_seed`` says what each kind does."""


def draw_seed(seed: Seed) -> int:
    """Return an int in [0, 2**64) from any kind of seed.

    Parameters
    ----------
    seed
        An int in [0, 2**64) is returned as it is. A Generator yields its next 64 bits, a SeedSequence its next child:
        layers that share one get different seeds. None takes entropy from the operating system.

    Returns
    -------
    int
        The seed.

    Raises
    ------
    TypeError
        ``seed`` has another type.
    ValueError
        The int lies outside [0, 2**64).

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.layers import draw_seed
    >>> draw_seed(42)
    42
    >>> rng = np.random.default_rng(0)
    >>> draw_seed(rng) == draw_seed(rng)
    False
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
