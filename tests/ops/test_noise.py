"""Random numbers of samples: published bits, one stream for any batch, the normal distribution and its tails."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from support import Array, each_isa

from cregkit import functional, oracle
from cregkit.kernels.noise import derive_seed
from cregkit.oracle.philox import words


def normal(n: int, seed: int = 0, index: int = 0) -> Array:
    zeros = np.zeros((1, n), np.float32)
    return functional.gaussian_noise(zeros, np.ones(1, np.float32), np.array([index]), seed=seed)[0]


def test_a_derived_seed_is_two_philox_words() -> None:
    a, b = words(np.array([5], np.uint64), 2, 77)[0, :2].tolist()
    assert derive_seed(77, 5) == a + (b << 32)
    assert derive_seed(77, 5, 6) == derive_seed(derive_seed(77, 5), 6)
    assert derive_seed(2**64 - 1) == 2**64 - 1


def test_derived_seeds_are_distinct() -> None:
    assert len({derive_seed(seed, n) for seed in range(100) for n in range(100)}) == 10_000


@pytest.mark.parametrize("bad", [-1, 2**64])
def test_derive_seed_refuses_numbers_beyond_64_bits(bad: int) -> None:
    with pytest.raises(ValueError, match="numbers must be from 0"):
        derive_seed(1, bad)


def test_a_sample_has_the_same_numbers_in_any_batch(isa: str) -> None:
    index = np.array([5, 0, 2**32 - 1, 7, 5], np.int64)
    u = functional.sample_uniform(index, 9, seed=3)
    x = np.ones((5, 3, 77), np.float32)
    sigma = np.full(5, 0.5, np.float32)
    y = functional.gaussian_noise(x, sigma, index, seed=3)
    assert np.array_equal(u[0], u[4])
    assert np.array_equal(y[0], y[4])
    for i in range(5):
        one = slice(i, i + 1)
        assert np.array_equal(functional.sample_uniform(index[one], 4, seed=3)[0], u[i, :4])
        assert np.array_equal(functional.gaussian_noise(x[one], sigma[one], index[one], seed=3)[0], y[i])


def test_uniform_numbers_are_uniform_and_independent() -> None:
    u = functional.sample_uniform(np.arange(200_000), 5, seed=11)
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    for d in range(5):
        assert stats.kstest(u[:, d], "uniform").pvalue > 1e-3
    correlation = np.corrcoef(u.T) - np.eye(5)
    assert np.abs(correlation).max() < 5 / np.sqrt(len(u))
    assert u.min() >= 0
    assert u.max() < 1
    assert np.array_equal(u * 2**53, np.round(u * 2**53))


N = 4_000_000


def test_noise_has_the_normal_distribution() -> None:
    """Moments are within five standard errors; Kolmogorov-Smirnov tests compare the distribution."""
    z = normal(N, seed=5).astype(np.float64)
    for power, (expected, variance) in {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96), 6: (15, 10170)}.items():
        assert abs((z**power).mean() - expected) < 5 * np.sqrt(variance / N), power
    assert stats.kstest(z, "norm").pvalue > 1e-3
    for part in (z[0::4], z[1::4], z[:: N // 2000]):
        assert stats.kstest(part, "norm").pvalue > 1e-3


def test_noise_has_normal_tails() -> None:
    z = normal(N, seed=6)
    for edge in (2.0, 3.0, 3.5, 4.0, 4.5):
        for hits in ((z > edge).sum(), (z < -edge).sum()):
            expected = N * stats.norm.sf(edge)
            assert abs(hits - expected) < 5 * np.sqrt(expected) + 1, edge


def test_the_radius_is_accurate_to_float32() -> None:
    """The radii of the Box-Muller transform against SciPy's Rayleigh quantiles, over random words."""
    n = 40_000
    pairs = normal(64 * n, seed=8).astype(np.float64).reshape(n, 2, 2, 16)
    radius = np.sqrt((pairs**2).sum(axis=2)).transpose(0, 2, 1).reshape(-1, 2)
    words_ = words(np.arange(16 * n, dtype=np.uint64), 0, 8)
    u = ((words_[:, 0::2] >> 1).astype(np.float32) + np.float32(0.5)).astype(np.float64) / 2**31
    wanted = stats.rayleigh.isf(u)
    assert np.abs(radius - wanted).max() < 2e-6
    assert radius.max() > 5


def test_neighbours_samples_and_seeds_are_independent() -> None:
    z = functional.gaussian_noise(np.zeros((64, 8192), np.float32), np.ones(64, np.float32), np.arange(64), seed=9)
    flat = z.ravel().astype(np.float64)
    for lag in (1, 2, 15, 16, 17, 32, 48, 64, 128, 8192):
        assert abs((flat[:-lag] * flat[lag:]).mean()) < 5 / np.sqrt(len(flat)), lag
    squares = flat**2 - 1
    for lag in (1, 16, 32, 64, 8192):
        assert abs((squares[:-lag] * squares[lag:]).mean()) < 5 * 2 / np.sqrt(len(flat)), lag
    other = functional.gaussian_noise(np.zeros_like(z), np.ones(64, np.float32), np.arange(64), seed=derive_seed(9, 1))
    assert abs((flat * other.ravel()).mean()) < 5 / np.sqrt(len(flat))


@pytest.mark.parametrize("index", [0, 1, 2**31, 2**32 - 1])
def test_every_number_is_the_oracles_with_the_same_bits_on_every_isa(index: int) -> None:
    x = np.zeros((1, 20_011), np.float32)
    wanted = oracle.gaussian_noise(x, [1.0], np.array([index]), seed=2**63 + 5)
    found = set()
    for _ in each_isa():
        y = functional.gaussian_noise(x, np.ones(1, np.float32), np.array([index]), seed=2**63 + 5)
        np.testing.assert_allclose(y, wanted, rtol=0, atol=2e-6)
        found.add(y.tobytes())
    assert len(found) == 1


def test_gaussian_noise_refuses_a_scalar_array() -> None:
    with pytest.raises(ValueError, match="x must have shape"):
        functional.gaussian_noise(np.zeros((), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), seed=1)


def test_sample_uniform_refuses_a_sample_of_more_than_32_bits() -> None:
    with pytest.raises(ValueError, match="n must be from 0"):
        functional.sample_uniform(np.zeros(1, np.int64), 2**32 + 1, seed=1)
