"""Uniform random numbers and Gaussian noise per sample.

Each number depends on (seed, index of the sample in its data set, position in the sample) alone. ``philox`` has the
generator.

References
----------
Box and Muller (1958), "A Note on the Generation of Random Normal Deviates".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cregkit.oracle._common import Float64Array, as_float64, ieee, store
from cregkit.oracle.philox import words

NOISE_STREAM, SAMPLES_STREAM = 0, 3
GROUP = 64  # elements of a sample per 16 counters
COUNTERS_PER_GROUP = 16


def _counters(index: ArrayLike, n: int) -> NDArray[np.uint64]:
    """Return the counters ``2**32 * index + (0, ..., n - 1)``, of shape (N, n)."""
    first = np.asarray(index).astype(np.uint64)[:, np.newaxis] << np.uint64(32)
    counters: NDArray[np.uint64] = np.add(first, np.arange(n, dtype=np.uint64), dtype=np.uint64)
    return counters


def sample_uniform(index: NDArray[np.int64], n: int, *, seed: int) -> Float64Array:
    """Uniform numbers in [0, 1), n per sample.

    ``u[i, d]`` is a multiple of 2**-53 and depends on (seed, index[i], d) alone. Counter ``2**32 * index + d // 2`` of
    stream 3 gives four words, the first two for even d, the others for odd d. Words (a, b) give the number
    ``(a * 2**21 + b // 2**11) / 2**53``.

    Parameters
    ----------
    index : shape (N,)
        Index of each sample in its data set.
    n
        Numbers per sample.
    seed
        Seed in [0, 2**64).

    Returns
    -------
    u : shape (N, n)
        Uniform numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> oracle.sample_uniform(np.array([0, 7]), 2, seed=0).round(4)
    array([[0.9401, 0.7456],
           [0.7362, 0.6036]])
    """
    pairs = (
        words(_counters(index, -(-n // 2)), SAMPLES_STREAM, seed)
        .astype(np.uint64)
        .reshape(len(index), 2 * -(-n // 2), 2)
    )
    whole = (pairs[:, :n, 0] << 21) + (pairs[:, :n, 1] >> 11)
    return whole.astype(np.float64) * 2.0**-53


def _normal(index: ArrayLike, size: int, seed: int) -> Float64Array:
    """Return the standard normal numbers of ``csrc/noise.h``, of shape (N, size).

    Two words give two numbers. The upper 31 bits k of the first give the radius ``r = sqrt(-2 ln u)`` with
    ``u = (k + 1/2) / 2**31``; those of the second give ``t = 2 k / 2**31 - 1``. u and t are rounded to float32; this is
    part of the definition. The numbers are ``r sin(pi t / 2)`` and ``+-r cos(pi t / 2)``; the lowest bit of the second
    word is the sign. Element 16 j + k of a group of 64 has counter 16 * group + k: j = 0 and 1 are sine and cosine of
    its first two words, j = 2 and 3 those of the other two.
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
    """Gaussian noise: ``y[i] = x[i] + sigma[i] * z``, with z standard normal.

    z depends on (seed, index[i], position in the sample) alone.

    Parameters
    ----------
    x : shape (N, ...)
        Samples.
    sigma : shape (N,)
        Standard deviation for each sample.
    index : shape (N,)
        Index of each sample in its data set.
    seed
        Seed in [0, 2**64).
    out
        Receives y, rounded to its dtype.

    Returns
    -------
    y : shape (N, ...)
        Samples with noise.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import oracle
    >>> oracle.gaussian_noise(np.zeros((1, 3)), [0.5], np.array([7]), seed=0).round(4)
    array([[-0.6324,  0.2916, -0.4533]])
    """
    x = as_float64(x)
    z = _normal(index, math.prod(x.shape[1:]), seed).reshape(x.shape)
    return store(x + as_float64(sigma).reshape(-1, *(1,) * (x.ndim - 1)) * z, out)
