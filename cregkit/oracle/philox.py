"""Random bits of dropout: Philox4x32-10, and the keep-or-drop decision of each element.

Philox is a counter-based generator: a keyed bijection of a 128-bit counter, without state. The bits of an element can
be computed independently, in any order, on any thread.

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

GROUP = 128  # elements per 16 counters
COUNTERS_PER_GROUP = 16


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


def _sixteen_bits(size: int, seed: int, offset: int) -> NDArray[np.uint32]:
    """Return the 16 random bits of elements offset, ..., offset + size - 1, each in a uint32.

    Element e of group g takes word j = e // 32 of counter 16*g + (e % 32) // 2 in stream 0: the low half if e is even,
    the high half if e is odd. Concatenated, words j of the 16 counters are the bits of elements 32*j, ..., 32*j + 31.
    """
    first, last = offset // GROUP, -(-(offset + size) // GROUP)
    numbers = np.arange(COUNTERS_PER_GROUP * first, COUNTERS_PER_GROUP * last, dtype=np.uint64)
    four = words(numbers, 0, seed).reshape(-1, COUNTERS_PER_GROUP, 4).swapaxes(1, 2)
    halves = np.stack([four & 0xFFFF, four >> 16], axis=-1).reshape(-1)
    start = offset - GROUP * first
    return halves[start : start + size]


def dropped(size: int, p: float, seed: int, offset: int) -> NDArray[np.bool_]:
    """Return which of the elements offset, ..., offset + size - 1 are dropped.

    An element is dropped if its 48 random bits, as a fraction of 2**48, are less than p rounded to 48 bits. So the
    probability is p with an error below 2**-48. The first 16 bits decide unless they equal those of p; then the
    other 32 bits decide, which are word 0 of the counter of the element's index in stream 1.

    Parameters
    ----------
    size
        Number of elements.
    p
        Probability of dropping an element, in [0, 1]; 0 drops none, 1 drops all.
    seed
        Seed in [0, 2**64).
    offset
        Index of the first element; all indices lie in [0, 2**64).

    Returns
    -------
    decision : shape (size,)
        True where dropped.
    """
    seed, offset = int(seed), int(offset)
    threshold = round(float(p) * 2**48)
    first16, last32 = threshold >> 32, threshold & WORD
    bits = _sixteen_bits(size, seed, offset)
    decision = bits < first16
    tied = np.flatnonzero(bits == first16)
    decision[tied] = words(np.uint64(offset) + tied.astype(np.uint64), 1, seed)[:, 0] < last32
    return decision
