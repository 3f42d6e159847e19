"""Dropout of elements and channels: scaling, selection, and addressing by offset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cregkit import oracle

SEED = 20_140_615
ELEMENTWISE = [oracle.dropout, oracle.dropout_backward]
CHANNELWISE = [oracle.spatial_dropout, oracle.spatial_dropout_backward]

DropoutOp = Callable[..., np.ndarray[Any, Any]]


@pytest.mark.parametrize("op", ELEMENTWISE)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(), (7,), (5, 130), (2, 3, 4, 5, 6)])
def test_kept_elements_are_scaled_and_the_rest_are_zero(op: DropoutOp, p: float, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    keep = oracle.dropout_keep(shape, p, seed=SEED, offset=3)
    y = op(x, p, seed=SEED, offset=3)
    assert keep.dtype == np.bool_
    assert keep.shape == y.shape == shape
    assert y.dtype == np.float64
    assert np.array_equal(y[keep], x[keep] * (1 / (1 - p)))
    assert not y[~keep].any()


@pytest.mark.parametrize("op", CHANNELWISE)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(40, 7), (40, 7, 3), (40, 7, 3, 2), (40, 7, 3, 2, 2)])
def test_whole_channels_are_kept_or_dropped(op: DropoutOp, p: float, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    y = op(x, p, seed=SEED, offset=5)
    keep = oracle.dropout_keep(shape[:2], p, seed=SEED, offset=5)
    assert keep.all() == (p == 0)
    assert y.shape == shape
    for n, c in np.ndindex(*shape[:2]):
        assert np.array_equal(y[n, c], x[n, c] * (1 / (1 - p)) if keep[n, c] else 0 * x[n, c])


@pytest.mark.parametrize("op", ELEMENTWISE + CHANNELWISE)
def test_nan_and_inf_are_dropped(op: DropoutOp) -> None:
    x = np.tile([[np.nan], [np.inf], [-np.inf]], (1, 200))
    keep = oracle.dropout_keep(x.shape, 0.5, seed=SEED)
    y = op(x, 0.5, seed=SEED)
    assert np.array_equal(y[keep], x[keep], equal_nan=True)
    assert np.array_equal(y[~keep], np.zeros(np.count_nonzero(~keep)))
    assert 0 < np.count_nonzero(keep) < x.size


@pytest.mark.parametrize("op", ELEMENTWISE + CHANNELWISE)
def test_p_0_copies(op: DropoutOp) -> None:
    x = np.array([[1.0, -2.0, np.nan], [np.inf, 0.0, 3e38]])
    copy = op(x, 0.0, seed=SEED)
    assert np.array_equal(copy, x, equal_nan=True)
    assert not np.shares_memory(copy, x)


@pytest.mark.parametrize("op", ELEMENTWISE + CHANNELWISE)
def test_p_1_gives_zeros(op: DropoutOp) -> None:
    x = np.array([[1.0, -2.0, np.nan], [np.inf, 0.0, 3e38]])
    assert np.array_equal(op(x, 1.0, seed=SEED), np.zeros((2, 3)))


@pytest.mark.parametrize("k", [1, 31, 127, 128, 129, 1000])
def test_an_offset_continues_the_stream_of_a_split(k: int) -> None:
    x = np.random.default_rng(1).standard_normal(2000)
    whole = oracle.dropout(x, 0.4, seed=SEED, offset=11)
    assert np.array_equal(oracle.dropout(x[k:], 0.4, seed=SEED, offset=11 + k), whole[k:])
    assert np.array_equal(oracle.dropout(x[:k], 0.4, seed=SEED, offset=11), whole[:k])
    assert not np.array_equal(oracle.dropout(x, 0.4, seed=SEED, offset=11 + k), whole)


def test_the_offset_of_spatial_dropout_counts_channels() -> None:
    x = np.random.default_rng(2).standard_normal((50, 6, 4))
    whole = oracle.spatial_dropout(x, 0.4, seed=SEED)
    assert np.array_equal(oracle.spatial_dropout(x[20:], 0.4, seed=SEED, offset=20 * 6), whole[20:])


def test_masks_of_different_seeds_are_independent() -> None:
    """Two independent fair masks agree on half of n elements, within five standard deviations."""
    n = 100_000
    masks = [oracle.dropout_keep(n, 0.5, seed=seed) for seed in (SEED, SEED + 1, SEED + 2**32)]
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        agreement = np.count_nonzero(masks[i] == masks[j])
        assert abs(agreement - n / 2) <= 5 * (n / 4) ** 0.5


def test_the_defaults_are_p_one_half_and_offset_0() -> None:
    x = np.ones((8, 16))
    for op in ELEMENTWISE + CHANNELWISE:
        assert np.array_equal(op(x, seed=SEED), op(x, 0.5, seed=SEED, offset=0))
        assert set(np.unique(op(x, seed=SEED))) == {0.0, 2.0}


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0, 2)])
def test_zero_elements_give_empty_results(shape: tuple[int, ...]) -> None:
    assert oracle.dropout_keep(shape, 0.5, seed=SEED, offset=9).shape == shape
    for op in ELEMENTWISE:
        assert op(np.zeros(shape), 0.5, seed=SEED, offset=9).shape == shape
    assert oracle.spatial_dropout(np.zeros((0, 3, 2)), seed=SEED).shape == (0, 3, 2)
