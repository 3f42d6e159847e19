"""Philox4x32-10: the random words of noise, seeds and ties, and the states from which dropout's draws start.

Philox is a counter-based generator: a keyed bijection of a 128-bit counter, without state. Any of its words can be
computed independently, in any order, on any thread.

References
----------
Salmon, Moraes, Dror and Shaw (2011), "Parallel Random Numbers: As Easy as 1, 2, 3", SC '11.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # golden ratio and sqrt(3) - 1, as 32-bit fractions
ROUNDS = 10
WORD = 0xFFFFFFFF  # mask of the low 32 bits; arithmetic is in uint64, which holds a 32 x 32 bit product


def philox4x32_10(counter: NDArray[np.uint32], key: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Compute ten rounds of Philox4x32.

    One round maps ``(c0, c1, c2, c3)`` to ``(hi(M1*c2) ^ c1 ^ k0, lo(M1*c2), hi(M0*c0) ^ c3 ^ k1, lo(M0*c0))``, with hi
    and lo the halves of the 64-bit product. Between rounds, a constant is added to each key word modulo 2**32.

    Parameters
    ----------
    counter : shape (..., 4)
        Counters.
    key : shape (..., 2)
        Keys; they broadcast with the counters.

    Returns
    -------
    words : shape (..., 4)
        Random words.
    """
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, dtype=np.uint64), -1, 0)
    k0, k1 = np.moveaxis(np.asarray(key, dtype=np.uint64), -1, 0)
    for _ in range(ROUNDS):
        product0, product1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (product1 >> 32) ^ c1 ^ k0, product1 & WORD, (product0 >> 32) ^ c3 ^ k1, product0 & WORD
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def words(number: NDArray[np.uint64], stream: int, seed: int) -> NDArray[np.uint32]:
    """Return words (..., 4) of the counters (low half, high half, stream, 0) of 64-bit numbers; the key is the seed."""
    low, high = number & WORD, number >> 32
    counter = np.stack([low, high, np.full_like(low, stream), np.zeros_like(low)], axis=-1).astype(np.uint32)
    return philox4x32_10(counter, np.array([seed & WORD, seed >> 32], dtype=np.uint32))
