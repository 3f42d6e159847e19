"""Which elements dropout drops: published random bits, one stream for any split, the exact rate, independence."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Array, each_isa

from cregkit import functional, oracle

# Philox4x32-10 of counter 0 and key 0, as its authors publish it.
KNOWN_WORDS = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
KNOWN_DRAWS = {32 * j + half: word >> 16 * half & 0xFFFF for j, word in enumerate(KNOWN_WORDS) for half in (0, 1)}

keep = functional.dropout_keep


@pytest.mark.parametrize(("element", "draw"), KNOWN_DRAWS.items())
def test_decisions_follow_the_published_philox_words(element: int, draw: int) -> None:
    """An element is kept where its 16 bits are at least p * 65536."""
    for _ in each_isa():
        assert keep(128, draw / 65536, seed=0)[element]
        assert not keep(128, (draw + 1) / 65536, seed=0)[element]


STARTS = (0, 77, 128 * 2**28 - 1000, 2**32 - 500, 2**63, 2**64 - 4097)  # counters and indices cross 2**32 here
RATES = (1e-9, 2**-16, 0.1, 0.3, 0.5, 0.999, 1.0 - 2**-40)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**64 - 1])
def test_every_decision_equals_the_oracles(p: float, start: int, seed: int) -> None:
    wanted = oracle.dropout_keep(2000, p, seed=seed, offset=start)
    for isa in each_isa():
        assert np.array_equal(keep(2000, p, seed=seed, offset=start), wanted), isa


@given(
    n=st.integers(0, 1500),
    cuts=st.lists(st.integers(0, 1500), max_size=5),
    start=st.one_of(st.integers(0, 300), st.sampled_from(STARTS), st.integers(0, 2**64 - 1501)),
    seed=st.integers(0, 2**64 - 1),
    p=st.floats(0.0, 1.0),
)
def test_any_pieces_give_the_same_elements(n: int, cuts: list[int], start: int, seed: int, p: float) -> None:
    x = np.arange(1, n + 1, dtype=np.float32)
    edges = [0, *sorted(min(cut, n) for cut in cuts), n]
    for _ in each_isa():
        for op, data in ((functional.dropout, x), (functional.spatial_dropout, x.reshape(1, -1, 1))):
            whole = op(data, p, seed=seed, offset=start).ravel()
            for i, j in pairwise(edges):
                piece = data.ravel()[i:j].reshape((1, -1, 1) if data.ndim > 1 else -1)
                assert op(piece, p, seed=seed, offset=start + i).tobytes() == whole[i:j].tobytes()
        whole_keep = keep(n, p, seed=seed, offset=start)
        assert np.array_equal(whole_keep[n // 3 :], keep(n - n // 3, p, seed=seed, offset=start + n // 3))


def test_the_last_element_of_a_stream_is_2_to_the_64_minus_2() -> None:
    assert keep(1, 0.5, seed=3, offset=2**64 - 2).shape == (1,)
    assert keep(0, 0.5, seed=3, offset=2**64 - 1).shape == (0,)


@pytest.mark.parametrize(
    "call",
    [
        lambda: keep(1, 0.5, seed=3, offset=2**64 - 1),
        lambda: functional.dropout(np.ones(100, np.float32), seed=3, offset=2**64 - 100),
        lambda: functional.spatial_dropout(np.ones((10, 10, 3), np.float32), seed=3, offset=2**64 - 100),
    ],
    ids=["dropout_keep", "dropout", "spatial_dropout"],
)
def test_a_call_beyond_the_last_element_of_a_stream_is_refused(call: Callable[[], Array]) -> None:
    with pytest.raises(ValueError, match=r"\boffset\b"):
        call()


@pytest.mark.parametrize("p", [0.3, 0.1, 65535.5 / 65536, 0.25 / 65536])
def test_ties_are_decided_exactly(p: float) -> None:
    """A draw equal to the first 16 bits of p, once in 65536, is decided by 32 more."""
    n, first16 = 1_300_000, int(p * 65536)
    wanted = oracle.dropout_keep(n, p, seed=11)
    for _ in each_isa():
        assert np.array_equal(keep(n, p, seed=11), wanted)
        tied = keep(n, first16 / 65536, seed=11) & ~keep(n, (first16 + 1) / 65536, seed=11)
        assert 5 < tied.sum() < 60  # 20 are expected
        assert 0 < wanted[tied].sum() < tied.sum()
        assert np.array_equal(functional.dropout(np.ones(n, np.float32), p, seed=11) != 0, wanted)


SAMPLE = 1_000_003


def deviation(hits: Any, probability: float, n: int) -> float:
    """The distance of a count from its expectation, in standard deviations."""
    return abs(float(hits) - n * probability) / max(np.sqrt(n * probability * (1 - probability)), 1e-300)


@pytest.mark.parametrize("p", [1e-4, 0.01, 0.1, 1 / 3, 0.5, 0.9, 0.9999])
def test_the_share_of_dropped_elements_is_p(p: float, isa: str) -> None:
    for seed in (0, 12345, 2**63):
        assert deviation((~keep(SAMPLE, p, seed=seed)).sum(), p, SAMPLE) < 5.0


def test_every_position_of_a_group_is_kept_at_the_same_rate(isa: str) -> None:
    positions = keep((20_000, 128), 0.3, seed=4).sum(axis=0)
    assert max(deviation(kept, 0.7, 20_000) for kept in positions) < 5.0


def correlation(a: Array, b: Array, p: float) -> float:
    """The correlation, in standard deviations of that of independent decisions."""
    spread = (a - (1.0 - p)) * (b - (1.0 - p))
    return abs(float(spread.mean())) / (p * (1 - p)) * np.sqrt(spread.size)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_decisions_of_neighbours_are_independent(p: float, isa: str) -> None:
    decisions = keep(SAMPLE, p, seed=6)
    for lag in (1, 2, 3, 16, 31, 32, 33, 64, 96, 127, 128, 129, 2048):
        assert correlation(decisions[:-lag], decisions[lag:], p) < 5.0, lag


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_decisions_of_different_seeds_are_independent(p: float, isa: str) -> None:
    decisions = keep(SAMPLE, p, seed=6)
    for other in (7, 6 + 2**32, 6 + 2**63, 0):
        assert correlation(decisions, keep(SAMPLE, p, seed=other), p) < 5.0, other


OPS = (functional.dropout, functional.dropout_backward, functional.spatial_dropout, functional.spatial_dropout_backward)
each_function = pytest.mark.parametrize("op", OPS, ids=lambda op: op.__name__)


@pytest.mark.parametrize("p", [0.1, 1 / 3, 0.5, 0.9, 0.99])
@each_function
def test_kept_elements_are_scaled_by_1_over_1_minus_p(op: Any, p: float, isa: str) -> None:
    x = np.random.default_rng(0).standard_normal((20, 40, 11)).astype(np.float32)
    y = op(x, p, seed=8, offset=5)
    kept = y != 0
    assert kept.any()
    assert y[kept].tobytes() == (x * np.float32(1.0 / (1.0 - p)))[kept].tobytes()


@each_function
def test_p_0_copies_every_bit(op: Any, isa: str) -> None:
    """Every bit is copied, even those of a signalling NaN and of -0."""
    patterns = np.array([0x7FC12345, 0xFFA00001, 0x7F800001, 0x80000000, 1, 0x7F800000, 0xFF800000], np.uint32)
    x = np.tile(patterns, 60).reshape(20, 7, 3).view(np.float32)
    for p in (0.0, -0.0, 2.0**-50):
        assert op(x, p, seed=1).tobytes() == x.tobytes()
        out = x.copy()
        assert op(out, p, seed=1, out=out).tobytes() == x.tobytes()
    assert keep((3, 5), 0.0, seed=1).all()


@each_function
def test_p_1_drops_everything(op: Any, isa: str) -> None:
    x = np.full((20, 7, 3), np.nan, np.float32)
    for p in (1, 1.0, 1.0 - 2.0**-50):
        assert not op(x, p, seed=1).view(np.uint32).any()
    assert not keep((3, 5), 1.0, seed=1).any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (2, 129, 3), (5, 31, 4, 9), (4, 0, 3)])
def test_forward_backward_and_dropout_keep_have_the_same_mask(shape: tuple[int, ...], isa: str) -> None:
    """For elements and for channels."""
    ones = np.ones(shape, np.float32)
    options: Any = {"p": 0.4, "seed": 10, "offset": 99}
    elements = keep(shape, **options)
    channels = np.broadcast_to(keep(shape[:2], **options).reshape(shape[:2] + (1,) * (len(shape) - 2)), shape)
    for forward, backward, mask in ((*OPS[:2], elements), (*OPS[2:], channels)):
        assert np.array_equal(forward(ones, **options) != 0, mask)
        assert np.array_equal(backward(ones, **options) != 0, mask)


def test_dropout_keep_takes_any_shape() -> None:
    assert keep(7, seed=0).shape == (7,)
    assert keep((), seed=0).shape == ()
    assert keep([2, 3], seed=0).shape == (2, 3)
    assert keep((2, np.int64(3)), seed=0).dtype == np.bool_
    assert np.array_equal(keep((4, 5, 6), seed=0).ravel(), keep(120, seed=0))
