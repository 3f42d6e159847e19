"""DropBlock: which elements blocks cover, the scale of the others, and its limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import THREADS, Array, each_isa

from cregkit import functional, oracle
from cregkit.kernels._threads import exact_threads

OPS = (functional.drop_block, functional.drop_block_backward)
each_function = pytest.mark.parametrize("op", OPS, ids=lambda op: op.__name__)
SHAPES = [(2, 3, 1, 1), (3, 2, 1, 9), (2, 5, 7, 7), (3, 40, 5, 6), (2, 3, 30, 17), (1, 2, 150, 130), (70, 8, 8, 8)]


def gamma_of(p: float, height: int, width: int, block_size: int) -> float:
    side = min(block_size, height, width)
    return p * height * width / (side**2 * (height - side + 1) * (width - side + 1))


@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 7, 8, 13])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_mask_and_the_scale_are_the_oracles(shape: tuple[int, ...], block_size: int, channel_axis: int) -> None:
    ones = np.ones(shape if channel_axis == 1 else (shape[0], *shape[2:], shape[1]), np.float32)
    options: Any = {"seed": 3, "offset": 77, "channel_axis": channel_axis}
    for p in (0.05, 0.5):
        wanted = oracle.drop_block(ones, p, block_size, **options).astype(np.float32).tobytes()
        for _ in each_isa():
            for threads in THREADS[:2]:
                with exact_threads(threads):
                    assert functional.drop_block(ones, p, block_size, **options).tobytes() == wanted


@pytest.mark.parametrize("block_size", [1, 3, 5, 7])
def test_blocks_are_those_of_a_max_pooling_of_their_seeds(block_size: int) -> None:
    """As torchvision's ``drop_block2d`` makes them, for odd sizes."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    shape, p, margin = (4, 6, 20, 23), 0.3, block_size - 1
    ends = ~functional.dropout_keep(shape, gamma_of(p, *shape[2:], block_size), seed=5)
    seeds = torch.from_numpy(ends[..., margin:, margin:].astype(np.float32))
    half = block_size // 2
    padded = torch.nn.functional.pad(seeds, [half] * 4)
    blocks = torch.nn.functional.max_pool2d(padded, block_size, stride=1, padding=half).numpy()
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    y = functional.drop_block(x, p, block_size, seed=5)
    assert 0 < blocks.sum() < blocks.size
    np.testing.assert_allclose(y, x * (1 - blocks) * (blocks.size / (1 - blocks).sum()), rtol=3e-7)


@pytest.mark.parametrize("block_size", [1, 2, 5, 9])
def test_each_position_is_kept_as_often_as_no_block_covers_it(block_size: int) -> None:
    planes, height, width, p = 20_000, 9, 11, 0.3
    kept = (functional.drop_block(np.ones((planes, 1, height, width), np.float32), p, block_size, seed=1) != 0).sum(0)
    places = np.zeros((height, width))
    for i, j in np.ndindex(height - block_size + 1, width - block_size + 1):
        places[i : i + block_size, j : j + block_size] += 1
    expected = (1 - gamma_of(p, height, width, block_size)) ** places
    deviations = np.abs(kept[0] - planes * expected) / np.sqrt(planes * expected * (1 - expected))
    assert deviations.max() < 5.0
    if block_size == 1:
        assert np.allclose(expected, 1 - p)


@pytest.mark.parametrize("channel_axis", [1, -1])
@each_function
def test_elements_outside_blocks_are_scaled_by_the_exact_count(op: Any, channel_axis: int, isa: str) -> None:
    """Also in place. A NaN or Inf in a block becomes 0."""
    x = np.random.default_rng(0).standard_normal((5, 19, 23, 21)).astype(np.float32)
    options: Any = {"block_size": 5, "seed": 4, "channel_axis": channel_axis}
    kept = op(np.ones_like(x), 0.2, **options) != 0
    x[~kept] = np.resize([np.nan, np.inf, -np.inf], np.count_nonzero(~kept))
    wanted = np.where(kept, x * np.float32(x.size / np.count_nonzero(kept)), np.float32(0)).tobytes()
    assert 0.6 < kept.mean() < 0.95
    assert op(x, 0.2, **options).tobytes() == wanted
    assert op(x, 0.2, **options, out=x).tobytes() == wanted


@each_function
def test_a_block_size_beyond_the_plane_is_that_of_the_plane(op: Any) -> None:
    x = np.random.default_rng(0).standard_normal((50, 4, 5, 3)).astype(np.float32)
    for block_size in (4, 100, 2**64, np.int64(3)):
        assert op(x, 0.4, block_size, seed=1).tobytes() == op(x, 0.4, 3, seed=1).tobytes()


@pytest.mark.parametrize("bad", [np.nan, 1.5])
@each_function
def test_where_blocks_cover_everything_the_result_is_zero(op: Any, bad: float, isa: str) -> None:
    """With p = 1 and one place for a block, or by chance."""
    x = np.full((3, 4, 5, 5), bad, np.float32)
    assert not op(x, 1, 1, seed=1).view(np.uint32).any()
    assert not op(x, 1, 5, seed=1).view(np.uint32).any()
    assert not op(x, 1 - 2**-20, 5, seed=1).view(np.uint32).any()
    assert not op(x, 1 - 2**-20, 1, seed=1, out=x).view(np.uint32).any()


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 2, 300, 301)])
@each_function
def test_a_mask_that_drops_nothing_changes_nothing(op: Any, shape: tuple[int, ...], isa: str) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert op(x, 1e-9, 3, seed=1).tobytes() == x.tobytes()


def test_p_1_keeps_what_no_block_covers() -> None:
    y = functional.drop_block(np.ones((8, 8, 32, 32), np.float32), 1.0, 3, seed=1)
    assert 0.3 < np.mean(y != 0) < 0.5
    np.testing.assert_allclose(y.mean(dtype=np.float64), 1.0, rtol=1e-6)


@each_function
def test_a_part_of_a_batch_has_its_part_of_the_mask(op: Any) -> None:
    x = np.ones((9, 6, 10, 11), np.float32)
    whole = op(x, 0.3, 4, seed=2)
    assert np.array_equal(op(x[5:], 0.3, 4, seed=2, offset=5 * x[0].size) != 0, whole[5:] != 0)


@pytest.mark.parametrize("shape", [(0, 3, 5, 5), (2, 0, 5, 5), (2, 3, 0, 5), (2, 3, 5, 0)])
@pytest.mark.parametrize("channel_axis", [1, -1])
@each_function
def test_an_array_without_elements_has_an_empty_result(op: Any, shape: tuple[int, ...], channel_axis: int) -> None:
    assert op(np.zeros(shape, np.float32), seed=1, channel_axis=channel_axis).shape == shape


@pytest.mark.parametrize("channel_axis", [1, -1])
def test_streaming_stores_change_no_bit(channel_axis: int) -> None:
    x = np.random.default_rng(0).standard_normal((2, 128, 181, 185), np.float32)
    options: Any = {"seed": 1, "channel_axis": channel_axis}
    kept: Array = functional.drop_block(np.ones_like(x), **options) != 0
    wanted = np.where(kept, x * np.float32(x.size / np.count_nonzero(kept)), np.float32(0)).tobytes()
    buffer = np.empty(x.size + 1, np.float32)
    for start in (0, 1):
        out = buffer[start : start + x.size].reshape(x.shape)
        for _ in each_isa():
            assert functional.drop_block(x, **options, out=out).tobytes() == wanted


@pytest.mark.parametrize(
    ("block_size", "error", "text"),
    [
        (0, ValueError, "block_size must be at least 1, got 0"),
        (-3, ValueError, "block_size must be at least 1, got -3"),
        (3.0, TypeError, "block_size must be a whole number, got float 3.0"),
        (None, TypeError, "block_size must be a whole number, got NoneType None"),
        ((3, 3), TypeError, "block_size must be a whole number, got tuple"),
    ],
)
def test_a_wrong_block_size_is_refused(block_size: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        functional.drop_block(np.ones((1, 1, 5, 5), np.float32), 0.1, block_size, seed=1)
