"""BatchNorm with virtual batches, and BatchNorm of volumes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cregkit.functional import batch_norm_backward, batch_norm_forward
from cregkit.layers import BatchNorm

Array = NDArray[np.float32]

SAMPLES = 10
SIZES = [2, 4, 5, 7, 10, 11]  # the last virtual batch has 2, 2, 5, 3, 10 and 10 samples
LAYOUTS = [((6,), 1), ((6, 5), 1), ((6, 3, 4), 1), ((6, 2, 3, 4), 1), ((5, 6), -1), ((2, 3, 4, 6), -1)]
each_layout = pytest.mark.parametrize(("sample", "channel_axis"), LAYOUTS)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def norm_of(channel_axis: int, size: int | None = None, **options: Any) -> BatchNorm:
    norm = BatchNorm(6, channel_axis=channel_axis, virtual_batch_size=size, **options)
    norm.gamma[...], norm.beta[...] = np.linspace(0.5, 1.5, 6), np.linspace(-1, 1, 6)
    return norm


def padding(sample: tuple[int, ...], channel_axis: int) -> NDArray[np.bool_]:
    """A mask that leaves each sample three positions at least."""
    positions = sample[1:] if channel_axis == 1 else sample[:-1]
    mask = np.random.default_rng(1).random((SAMPLES, *positions)) < 0.4
    mask.reshape(SAMPLES, -1)[:, :3] = False
    return mask


@pytest.mark.parametrize("size", SIZES)
@each_layout
def test_virtual_batches_are_batches_of_batch_norm_in_turn(
    sample: tuple[int, ...], channel_axis: int, size: int
) -> None:
    """Bit for bit, but for sums over the virtual batches: they are rounded once."""
    x, dy = normal(SAMPLES, *sample), normal(SAMPLES, *sample, seed=2)
    norm, plain = norm_of(channel_axis, size), norm_of(channel_axis)
    y = norm(x)
    dx = norm.backward(dy)
    assert norm.dgamma is not None
    assert norm.dbeta is not None
    sums = np.zeros((2, 6))
    for i in range(0, SAMPLES, size):
        assert np.array_equal(y[i : i + size], plain(x[i : i + size]))
        assert np.array_equal(dx[i : i + size], plain.backward(dy[i : i + size]))
        sums += [plain.dgamma, plain.dbeta]
    np.testing.assert_allclose([norm.dgamma, norm.dbeta], sums, rtol=1e-6, atol=1e-6 * np.abs(sums).max())
    np.testing.assert_allclose(norm.running_mean, plain.running_mean, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(norm.running_var, plain.running_var, rtol=1e-6)
    assert np.array_equal(norm.eval()(x), BatchNorm.forward(norm_with_state_of(norm, channel_axis), x))


def norm_with_state_of(norm: BatchNorm, channel_axis: int) -> BatchNorm:
    plain = BatchNorm(6, channel_axis=channel_axis)
    plain.load_state_dict(norm.state_dict())
    plain.eval()
    return plain


@pytest.mark.parametrize("unbiased", [False, True])
def test_running_statistics_are_those_of_batches_in_turn(unbiased: bool) -> None:
    """Whole numbers and halves, which float32 holds: bit for bit."""
    x = np.repeat(np.arange(8, dtype=np.float32), 6).reshape(8, 6) * np.arange(1, 7, dtype=np.float32)
    norms = [norm_of(1, size, momentum=0.5, unbiased=unbiased) for size in (2, None)]
    norms[0](x)
    for i in range(0, 8, 2):
        norms[1](x[i : i + 2])
    for name, value in norms[0].state_dict().items():
        assert np.array_equal(value, norms[1].state_dict()[name]), name


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("sample", "channel_axis"), LAYOUTS[1:])
def test_each_virtual_batch_leaves_its_padding_out(sample: tuple[int, ...], channel_axis: int, size: int) -> None:
    x, dy, mask = normal(SAMPLES, *sample), normal(SAMPLES, *sample, seed=2), padding(sample, channel_axis)
    np.moveaxis(x, channel_axis, -1)[mask] = np.nan
    norm, plain = norm_of(channel_axis, size), norm_of(channel_axis)
    y = norm.forward(x, mask=mask)
    dx = norm.backward(dy)
    assert norm.dgamma is not None
    assert norm.dbeta is not None
    sums = np.zeros((2, 6))
    for i in range(0, SAMPLES, size):
        part = slice(i, i + size)
        assert np.array_equal(y[part], plain.forward(x[part], mask=mask[part]))
        assert np.array_equal(dx[part], plain.backward(dy[part]))
        sums += [plain.dgamma, plain.dbeta]
    np.testing.assert_allclose([norm.dgamma, norm.dbeta], sums, rtol=1e-6, atol=1e-6 * np.abs(sums).max())
    assert np.array_equal(norm.running_mean, plain.running_mean)
    assert np.array_equal(norm.running_var, plain.running_var)
    evaluated = norm.eval().forward(x, mask=mask)
    assert np.array_equal(evaluated, norm_with_state_of(norm, channel_axis).forward(x, mask=mask))


def test_too_few_positions_in_a_virtual_batch_change_nothing() -> None:
    x, mask = normal(4, 6, 3), np.zeros((4, 3), bool)
    mask[2:] = True
    norm = norm_of(1, 2)
    before = norm.state_dict()
    for wrong, samples in ((mask, x), (np.zeros((0, 3), bool), x[:0])):
        with pytest.raises(
            ValueError, match="mask must leave at least two positions in each virtual batch of 2 samples"
        ):
            norm.forward(samples, mask=wrong)
    assert all(np.array_equal(value, before[name]) for name, value in norm.state_dict().items())
    assert norm.eval().forward(x, mask=mask).shape == x.shape


def test_merged_statistics_refuse_virtual_batches() -> None:
    class Merged(BatchNorm):
        def _merge_moments(self, count: float, mean: Any, m2: Any) -> tuple[float, Any, Any]:
            return count, mean, m2

    norm, x = Merged(6, virtual_batch_size=2), normal(4, 6, 3)
    for given in ({}, {"mask": np.zeros((4, 3), bool)}):
        with pytest.raises(ValueError, match=r"virtual_batch_size must be None where .* merged .*, got 2"):
            norm.forward(x, **given)
    assert not norm.running_mean.any()
    norm.eval()(x)


def test_the_size_is_a_setting_and_is_copied() -> None:
    norm, x = norm_of(1, 2), normal(4, 6, 3)
    assert norm._settings()["virtual_batch_size"] == 2
    wanted = copy.deepcopy(norm)(x)
    for twin in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
        assert twin.virtual_batch_size == 2
        assert np.array_equal(twin(x), wanted)
    assert BatchNorm(6).virtual_batch_size is None
    assert sorted(norm.state_dict()) == sorted(BatchNorm(6).state_dict())


# ---- volumes ----


@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("channel_axis", [1, -1])
def test_batch_norm_of_volumes_is_that_of_their_positions(channel_axis: int, masked: bool, size: int | None) -> None:
    """(N, C, D, H, W) and (N, D, H, W, C) give what (positions, C) gives, in both modes."""
    first = normal(6, 6, 2, 3, 4)
    volumes, dvolumes = (np.ascontiguousarray(np.moveaxis(a, 1, channel_axis)) for a in (first, first[::-1]))
    mask = np.random.default_rng(3).random((6, 2, 3, 4)) < (0.3 if masked else 0.0)

    def positions(a: Array, part: slice) -> Array:
        """Those of some samples that are not masked, of shape (positions, C)."""
        return np.moveaxis(a, channel_axis, -1)[part][~mask[part]]

    norm, flat = norm_of(channel_axis, size), norm_of(1)
    for training in (True, False):
        for each in (norm, flat):
            each._set_training(training)
        y = norm.forward(volumes, mask=mask) if masked else norm.forward(volumes)
        dx = norm.backward(dvolumes)
        assert y.shape == dx.shape == volumes.shape
        step = size if size and training else 6
        for i in range(0, 6, step):
            part = slice(i, i + step)
            np.testing.assert_allclose(positions(y, part), flat(positions(volumes, part)), atol=2e-6)
            np.testing.assert_allclose(positions(dx, part), flat.backward(positions(dvolumes, part)), atol=2e-6)
        assert not np.moveaxis(y, channel_axis, -1)[mask].any()
        assert not np.moveaxis(dx, channel_axis, -1)[mask].any()
        for name in ("running_mean", "running_var"):
            np.testing.assert_allclose(getattr(norm, name), getattr(flat, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channel_axis", [1, -1])
def test_batch_norm_of_volumes_is_that_of_planes(channel_axis: int) -> None:
    """Depth and height as one axis: the same bits."""
    x, dy = (np.ascontiguousarray(np.moveaxis(a, 1, channel_axis)) for a in normal(2, 4, 6, 3, 5, 7))
    planes = (4, 6, 15, 7) if channel_axis == 1 else (4, 15, 7, 6)
    gamma, layout = np.linspace(0.5, 1.5, 6, dtype=np.float32), {"channel_axis": channel_axis}
    y, *saved = batch_norm_forward(x, gamma, **layout)
    wanted, *saved_of_planes = batch_norm_forward(x.reshape(planes), gamma, **layout)
    assert y.tobytes() == wanted.tobytes()
    got = batch_norm_backward(dy, x, *saved, gamma, **layout)
    wanted_gradients = batch_norm_backward(dy.reshape(planes), x.reshape(planes), *saved_of_planes, gamma, **layout)
    assert [a.tobytes() for a in got] == [a.tobytes() for a in wanted_gradients]
