"""Dropout's random bits: 16 bits for each element from JSF32, and the keep-or-drop decision of each element.

The stream of a seed consists of blocks of 4096 draws. Philox4x32-10 gives each block its starting states, so any block
can be computed alone, on any thread.

References
----------
Jenkins (2007), "A small noncryptographic PRNG", https://burtleburtle.net/bob/rand/smallprng.html.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cregkit.oracle.philox import WORD, words

BLOCK = 4096  # draws
LANES = 16
STEPS = BLOCK // (2 * LANES)  # of a block; each gives the 32-bit words of all lanes


def _rotated(a: NDArray[np.uint32], left: int) -> NDArray[np.uint32]:
    """Rotate 32-bit words to the left."""
    return (a << np.uint32(left)) | (a >> np.uint32(32 - left))


def jsf32(states: NDArray[np.uint32], steps: int) -> NDArray[np.uint32]:
    """Return the words of JSF32 from given states.

    A step is ``e = a - rot(b, 27); a = b ^ rot(c, 17); b = c + d; c = d + e; d = e + a``, modulo 2**32; d is its word.

    Parameters
    ----------
    states : shape (n, ..., 4)
        The words a, b, c and d before the first step.
    steps
        Number of steps.

    Returns
    -------
    words : shape (steps, n, ...)
        The word of each step.
    """
    a, b, c, d = np.moveaxis(np.asarray(states, dtype=np.uint32), -1, 0)
    found = np.empty((steps, *a.shape), np.uint32)
    for step in range(steps):
        e = a - _rotated(b, 27)
        a = b ^ _rotated(c, 17)
        b, c, d = c + d, d + e, e + a
        found[step] = d
    return found


def _draws(size: int, seed: int, offset: int) -> NDArray[np.int64]:
    """Return draws offset, ..., offset + size - 1 of the stream: signed 16-bit numbers.

    Lane l of block n starts from the words of counter 16*n + l in stream 0. A step's draws are the low halves of the
    lanes' words, then the high halves.
    """
    first, last = offset // BLOCK, -(-(offset + size) // BLOCK)
    counters = np.arange(LANES * first, LANES * last, dtype=np.uint64)
    of_steps = jsf32(words(counters, 0, seed).reshape(-1, LANES, 4), STEPS).swapaxes(0, 1)  # block, step, lane
    halves = np.stack([of_steps & 0xFFFF, of_steps >> 16], axis=2).reshape(-1)
    start = offset - BLOCK * first
    return halves[start : start + size].astype(np.uint16).view(np.int16).astype(np.int64)


def dropped(size: int, p: float, seed: int, offset: int) -> NDArray[np.bool_]:
    """Return which of the elements offset, ..., offset + size - 1 are dropped.

    An element is dropped if its 48 random bits, as a fraction of 2**48, are less than p rounded to 48 bits. So the
    probability is p with an error below 2**-48. The first 16 bits, the draw plus 2**15, decide unless they equal those
    of p; then the other 32 bits decide, which are word 0 of Philox's counter of the element's index in stream 1.

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
    bits = _draws(size, seed, offset) + 2**15
    decision = bits < first16
    tied = np.flatnonzero(bits == first16)
    decision[tied] = words(np.uint64(offset) + tied.astype(np.uint64), 1, seed)[:, 0] < last32
    return decision
