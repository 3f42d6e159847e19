"""Which elements dropout drops: published random bits, one stream for any split, the exact rate, independence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_words import jsf32_words
from support import THREADS, Array, each_isa

from cregkit import functional, oracle
from cregkit.kernels._threads import exact_threads

# Philox4x32-10 of counter 0 and key 0, as its authors publish it: the state from which lane 0 of block 0 starts.
KNOWN_STATE = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
KNOWN_DRAWS = {
    32 * step + 16 * half: (word >> 16 * half) + 2**15 & 0xFFFF
    for step, word in enumerate(jsf32_words(KNOWN_STATE, 128))
    for half in (0, 1)
}

keep = functional.dropout_keep


def test_decisions_follow_the_published_generators(isa: str) -> None:
    """An element is kept where its 16 bits are at least p * 65536."""
    for element, draw in KNOWN_DRAWS.items():
        assert keep(4096, draw / 65536, seed=0)[element]
        assert not keep(4096, (draw + 1) / 65536, seed=0)[element]


STARTS = (0, 77, 2**40 - 1000, 2**32 - 500, 2**63, 2**64 - 4097)  # counters and indices cross 2**32 here
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
    rows = np.repeat(x, 3).reshape(n, 3)
    channels = (functional.spatial_dropout, functional.feature_alpha_dropout)
    for _ in each_isa():
        for op, data, axis in (
            *((op, x, 0) for op in (functional.dropout, functional.alpha_dropout)),
            *((op, rows[np.newaxis], 1) for op in channels),
            *((partial(op, channel_axis=-1), np.ascontiguousarray(rows.T[np.newaxis]), 2) for op in channels),
            (functional.drop_path, rows, 0),
        ):
            whole = np.moveaxis(op(data, p, seed=seed, offset=start), axis, 0)
            for i, j in pairwise(edges):
                piece = np.ascontiguousarray(np.moveaxis(np.moveaxis(data, axis, 0)[i:j], 0, axis))
                got = np.moveaxis(op(piece, p, seed=seed, offset=start + i), axis, 0)
                assert got.tobytes() == whole[i:j].tobytes()
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
        lambda: functional.drop_path(np.ones((100, 3), np.float32), seed=3, offset=2**64 - 100),
        lambda: functional.drop_path(np.ones((9, 3), np.float32), seed=3, offset=2**64 - 1, mode="batch"),
        lambda: functional.drop_block(np.ones((2, 2, 5, 5), np.float32), seed=3, offset=2**64 - 100),
        lambda: functional.alpha_dropout(np.ones(100, np.float32), seed=3, offset=2**64 - 100),
    ],
    ids=["dropout_keep", "dropout", "spatial_dropout", "drop_path", "drop_path, batch", "drop_block", "alpha_dropout"],
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


def test_every_position_of_a_block_is_kept_at_the_same_rate(isa: str) -> None:
    positions = keep((5000, 4096), 0.3, seed=4).sum(axis=0)
    assert max(deviation(kept, 0.7, 5000) for kept in positions) < 5.0


def correlation(a: Array, b: Array, p: float) -> float:
    """The correlation, in standard deviations of that of independent decisions."""
    spread = (a - (1.0 - p)) * (b - (1.0 - p))
    return abs(float(spread.mean())) / (p * (1 - p)) * np.sqrt(spread.size)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_decisions_of_neighbours_are_independent(p: float, isa: str) -> None:
    decisions = keep(SAMPLE, p, seed=6)
    for lag in (1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 96, 128, 512, 2048, 4064, 4096, 4128, 65536):
        assert correlation(decisions[:-lag], decisions[lag:], p) < 5.0, lag


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_decisions_of_different_seeds_are_independent(p: float, isa: str) -> None:
    decisions = keep(SAMPLE, p, seed=6)
    for other in (7, 6 + 2**32, 6 + 2**63, 0):
        assert correlation(decisions, keep(SAMPLE, p, seed=other), p) < 5.0, other


PAIRS = tuple(
    (getattr(functional, op), getattr(functional, f"{op}_backward"))
    for op in ("dropout", "spatial_dropout", "drop_path", "alpha_dropout", "feature_alpha_dropout", "drop_block")
)
each_function = pytest.mark.parametrize("op", [op for pair in PAIRS for op in pair], ids=lambda op: op.__name__)
each_scaled = pytest.mark.parametrize("op", [op for pair in PAIRS[:3] for op in pair], ids=lambda op: op.__name__)


@pytest.mark.parametrize("p", [0.1, 1 / 3, 0.5, 0.9, 0.99])
@each_scaled
def test_kept_elements_are_scaled_by_1_over_1_minus_p(op: Any, p: float, isa: str) -> None:
    x = np.random.default_rng(0).standard_normal((400, 20, 11)).astype(np.float32)
    y = op(x, p, seed=8, offset=5)
    kept = y != 0
    assert kept.any()
    assert y[kept].tobytes() == (x * np.float32(1.0 / (1.0 - p)))[kept].tobytes()


@each_function
def test_p_0_copies_every_bit(op: Any, isa: str) -> None:
    """Every bit is copied, even those of a signalling NaN and of -0."""
    patterns = np.array([0x7FC12345, 0xFFA00001, 0x7F800001, 0x80000000, 1, 0x7F800000, 0xFF800000], np.uint32)
    x = np.tile(patterns, 60).reshape(5, 4, 7, 3).view(np.float32)
    for p in (0.0, -0.0, 2.0**-50):
        assert op(x, p, seed=1).tobytes() == x.tobytes()
        out = x.copy()
        assert op(out, p, seed=1, out=out).tobytes() == x.tobytes()
    assert keep((3, 5), 0.0, seed=1).all()


@each_function
def test_p_1_drops_everything(op: Any, isa: str) -> None:
    x = np.full((20, 7, 3, 3), np.nan, np.float32)
    for p in (1, 1.0, 1.0 - 2.0**-50):
        assert not op(x, p, seed=1).view(np.uint32).any()
    assert not keep((3, 5), 1.0, seed=1).any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (2, 129, 3), (5, 31, 4, 9), (4, 0, 3)])
def test_forward_backward_and_dropout_keep_have_the_same_mask(shape: tuple[int, ...], isa: str) -> None:
    """For elements, channels and samples."""
    ones = np.ones(shape, np.float32)
    options: Any = {"p": 0.4, "seed": 10, "offset": 99}
    decided = [shape, shape[:2], shape[:1], shape, shape[:2]]
    masks = [keep(some, **options).reshape(some + (1,) * (len(shape) - len(some))) for some in decided]
    for (forward, backward), mask in zip(PAIRS[:5], masks, strict=True):
        kept = forward(ones, **options) > 0
        assert np.array_equal(kept, np.broadcast_to(mask, shape))
        assert np.array_equal(backward(ones, **options) != 0, kept)


def test_dropout_keep_takes_any_shape() -> None:
    assert keep(7, seed=0).shape == (7,)
    assert keep((), seed=0).shape == ()
    assert keep([2, 3], seed=0).shape == (2, 3)
    assert keep((2, np.int64(3)), seed=0).dtype == np.bool_
    assert np.array_equal(keep((4, 5, 6), seed=0).ravel(), keep(120, seed=0))


@pytest.mark.parametrize("shape", [(2, 1, 9), (3, 5, 1), (4, 7, 3, 5), (2, 64, 50), (2, 4099, 6), (1, 33, 5000)])
@pytest.mark.parametrize("op", [op for pair in (PAIRS[1], PAIRS[4]) for op in pair], ids=lambda op: op.__name__)
def test_both_layouts_drop_the_same_channels(op: Any, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    wanted = np.moveaxis(op(x, 0.4, seed=3, offset=11), 1, -1).tobytes()
    for _ in each_isa():
        for threads in THREADS:
            with exact_threads(threads):
                assert op(last, 0.4, seed=3, offset=11, channel_axis=-1).tobytes() == wanted


@pytest.mark.parametrize("op", PAIRS[2], ids=lambda op: op.__name__)
def test_a_batch_on_one_path_has_the_decision_of_its_first_sample(op: Any) -> None:
    x = np.random.default_rng(0).standard_normal((6, 40_000)).astype(np.float32)
    decisions = keep(20, 0.5, seed=5)
    assert 0 < decisions.sum() < 20
    for offset, kept in enumerate(decisions):
        for threads in THREADS:
            with exact_threads(threads):
                y = op(x, 0.5, seed=5, offset=offset, mode="batch")
            assert y.tobytes() == (x * np.float32(2 if kept else 0) + np.float32(0)).tobytes()


@pytest.mark.parametrize("mode", ["Row", "", None, 1])
def test_another_mode_is_refused(mode: Any) -> None:
    with pytest.raises(ValueError, match="mode must be 'row' or 'batch'"):
        functional.drop_path(np.ones(3, np.float32), seed=1, mode=mode)


# ---- alpha dropout ----

ALPHA = -1.7580993408473766
ALPHA_PAIRS = PAIRS[3:5]


def alpha_constants(p: float) -> tuple[float, float]:
    a = 1 / np.sqrt((ALPHA**2 * p + 1) * (1 - p))
    return a, -a * ALPHA * p


@pytest.mark.parametrize("p", [1e-9, 0.1, 1 / 3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(("forward", "backward"), ALPHA_PAIRS, ids=["alpha_dropout", "feature_alpha_dropout"])
def test_alpha_dropout_is_affine_where_kept_and_constant_elsewhere(
    forward: Any, backward: Any, p: float, isa: str
) -> None:
    x = np.random.default_rng(0).standard_normal((50, 30, 7)).astype(np.float32)
    y, dx = forward(x, p, seed=2), backward(x, p, seed=2)
    kept = dx != 0
    dropped = np.float32(alpha_constants(p)[0] * ALPHA + alpha_constants(p)[1])
    a, b = (np.float32(value) for value in alpha_constants(p))
    assert y[kept].tobytes() == (x * a + b)[kept].tobytes()
    assert dx[kept].tobytes() == (x * a)[kept].tobytes()
    assert not dx[~kept].view(np.uint32).any()
    assert len(set(y[~kept])) <= 1
    np.testing.assert_allclose(y[~kept], dropped, rtol=2e-7)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.8])
def test_alpha_dropout_keeps_mean_0_and_variance_1(p: float) -> None:
    x = np.random.default_rng(1).standard_normal(SAMPLE).astype(np.float32)
    y = functional.alpha_dropout(x, p, seed=9).astype(np.float64)
    fourth = np.mean(y**4)
    assert abs(y.mean()) < 5 / np.sqrt(SAMPLE)
    assert abs(y.var() - 1) < 5 * np.sqrt((fourth - 1) / SAMPLE)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("op", ["alpha_dropout", "feature_alpha_dropout"])
def test_alpha_dropout_has_the_values_of_pytorch(op: str, p: float) -> None:
    """Where both keep an element, and where both drop it: their masks differ."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((40, 50, 9)).astype(np.float32)).requires_grad_()
    torch.manual_seed(0)
    wanted = getattr(torch.nn.functional, op)(x, p, True)
    wanted.sum().backward()
    theirs = x.grad.numpy() != 0
    given = x.detach().numpy()
    y = getattr(functional, op)(given, p, seed=1)
    dx = getattr(functional, f"{op}_backward")(np.ones_like(given), p, seed=1)
    kept, dropped = theirs & (dx != 0), ~theirs & (dx == 0)
    assert p in (0.0, 1.0) or (kept.any() and dropped.any())
    np.testing.assert_allclose(dx[kept], x.grad.numpy()[kept], rtol=3e-7)
    for same in (kept, dropped):
        np.testing.assert_allclose(y[same], wanted.detach().numpy()[same], rtol=1e-6, atol=5e-7)


# ---- spatial dropout and stochastic depth as others define them ----


@pytest.mark.parametrize("shape", [(20, 30, 4), (20, 30, 4, 5), (20, 30, 2, 3, 4)])
def test_spatial_dropout_drops_what_pytorch_drops(shape: tuple[int, ...]) -> None:
    """Whole channels, of 1, 2 and 3 dimensions, scaled alike."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    theirs = getattr(torch.nn.functional, f"dropout{len(shape) - 2}d")(torch.from_numpy(x), 0.3, True).numpy()
    own = functional.spatial_dropout(x, 0.3, seed=1)
    channels = [(y != 0).reshape(600, -1) for y in (theirs, own)]
    assert all(np.array_equal(c.all(axis=1), c.any(axis=1)) for c in channels)
    both = (theirs != 0) & (own != 0)
    np.testing.assert_allclose(own[both], theirs[both], rtol=3e-7)
