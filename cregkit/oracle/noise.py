"""Random numbers that belong to samples: uniform, and normal as noise on them.

Each is a function of (seed, index of the sample in its data set, place) alone; see `philox` for the generator.
Normal numbers: Box & Muller (1958), "A Note on the Generation of Random Normal Deviates".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import Float64Array, as_float64, ieee, store
from cregkit.oracle.philox import words

NOISE_STREAM, SAMPLES_STREAM = 0, 3
GROUP = 64  # elements of a sample's noise that share 16 counters
COUNTERS_PER_GROUP = 16


def _counters(index: ArrayLike, n: int) -> NDArray[np.uint64]:
    """Counters 2**32 * index + (0, ..., n - 1): shape (N, n)."""
    first = np.asarray(index).astype(np.uint64)[:, np.newaxis] << np.uint64(32)
    counters: NDArray[np.uint64] = np.add(first, np.arange(n, dtype=np.uint64), dtype=np.uint64)
    return counters


def sample_uniform(index: NDArray[np.int64], n: int, *, seed: int) -> Float64Array:
    """u[i, d] of shape (N, n), multiples of 2**-53 in [0, 1), from (seed, index[i], d) alone.

    Counter 2**32 * index + d // 2 of stream 3 gives four words: the first two make the number for even d, the others
    that for odd d. Of two words (a, b) it is the 53 bits a * 2**21 + b // 2**11, as a fraction of 2**53.
    """
    pairs = (
        words(_counters(index, -(-n // 2)), SAMPLES_STREAM, seed)
        .astype(np.uint64)
        .reshape(len(index), 2 * -(-n // 2), 2)
    )
    whole = (pairs[:, :n, 0] << 21) + (pairs[:, :n, 1] >> 11)
    return whole.astype(np.float64) * 2.0**-53


def _normal(index: ArrayLike, size: int, seed: int) -> Float64Array:
    """Standard normal numbers of shape (N, size), those of `csrc/noise.h`.

    u = (k + 1/2) / 2**31 of a word's upper 31 bits k gives the radius r = sqrt(-2 ln u), and t = 2 k / 2**31 - 1 of
    another's the angle pi t / 2 in the right half plane, whose other half the lowest bit chooses. Both are rounded to
    float32, which is part of the definition. Sines are r sin(pi t / 2), cosines +-r cos(pi t / 2). Element 16 j + k of
    a group of 64 has counter 16 * group + k: j = 0, 1 the sine and cosine of its first two words, 2, 3 of the others.
    """
    groups = -(-size // GROUP)
    four = words(_counters(index, COUNTERS_PER_GROUP * groups), NOISE_STREAM, seed)
    radius, angle = four[..., 0::2], four[..., 1::2]
    upper = (angle >> 1).astype(np.float32)
    u = ((radius >> 1).astype(np.float32) + np.float32(0.5)).astype(np.float64) * 2.0**-31
    t = (upper * np.float32(2.0**-30) - np.float32(1.0)).astype(np.float64)
    r = np.sqrt(-2.0 * np.log(u))
    sine, cosine = r * np.sin(np.pi / 2 * t), r * np.cos(np.pi / 2 * t) * np.where(angle & 1, -1.0, 1.0)
    both = np.stack([sine, cosine], axis=-1).reshape(len(four), groups, COUNTERS_PER_GROUP, 4)
    return both.swapaxes(2, 3).reshape(len(four), GROUP * groups)[:, :size]


@ieee
def gaussian_noise(
    x: ArrayLike, sigma: ArrayLike, index: NDArray[np.int64], *, seed: int, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """y[i] = x[i] + sigma[i] * z, z standard normal from (seed, index[i], place in the sample) alone.

    Shapes: x, y (N, ...); sigma, index (N,).
    """
    x = as_float64(x)
    z = _normal(index, math.prod(x.shape[1:]), seed).reshape(x.shape)
    return store(x + as_float64(sigma).reshape(-1, *(1,) * (x.ndim - 1)) * z, out)
