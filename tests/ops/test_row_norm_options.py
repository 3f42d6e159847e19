"""Options of layer norm and RMS norm: `axis`, which names one or several neighbouring axes, and `gain_offset`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import Array, each_isa

from cregkit import functional

SHAPES = ((2, 3, 5, 7), (70, 2, 3, 11), (1, 1, 3, 9001), (3, 2, 37, 61))  # all paths: short, long and few wide rows


def data(shape: tuple[int, ...], count: int) -> list[Array]:
    return list(np.random.default_rng(shape).standard_normal((count, *shape), np.float32))


def assert_same_bits(got: Any, wanted: Any) -> None:
    """Compare all results; those wanted have other shapes."""
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()


# ---- several axes ----

LAST_TWO = ((-2, -1), (-1, -2), (2, 3), (3, 2), (-1, 2))
LAST_THREE = ((1, 2, 3), (3, -2, 1))
ALL = ((0, 1, 2, 3), (-1, 0, 2, 1))


@pytest.mark.parametrize("axis", [*LAST_TWO, *LAST_THREE, *ALL], ids=str)
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_several_axes_have_the_bits_of_one_axis(norm: str, axis: tuple[int, ...]) -> None:
    plain, forward, backward = (getattr(functional, norm + way) for way in ("", "_forward", "_backward"))
    for shape in SHAPES:
        leading, features = shape[: -len(axis)], shape[-len(axis) :]
        x, dy = data(shape, 2)
        parameters = data(features, 2 if norm == "layer_norm" else 1)
        flat = [array.reshape(*leading, -1) for array in (x, dy)]
        flat_parameters = [array.ravel() for array in parameters]
        for _ in each_isa():
            y, *statistics = forward(x, *parameters, axis=axis)
            assert y.shape == shape
            assert all(statistic.shape == leading for statistic in statistics)
            wanted = forward(flat[0], *flat_parameters)
            assert_same_bits((y, *statistics), wanted)
            assert plain(x, *parameters, axis=axis).tobytes() == y.tobytes()
            dx, *sums = backward(dy, x, *statistics, parameters[0], axis=axis)
            assert dx.shape == shape
            assert all(gradient.shape == features for gradient in sums)
            assert_same_bits((dx, *sums), backward(flat[1], flat[0], *wanted[1:], flat_parameters[0]))


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_the_last_axis_may_be_named_in_any_way(norm: str) -> None:
    (x,) = data((4, 3, 5), 1)
    wanted = getattr(functional, norm)(x)
    for axis in (-1, 2, (-1,), (2,), np.int64(-1), np.int32(2)):
        assert getattr(functional, norm)(x, axis=axis).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_several_axes_are_normalised_in_place(norm: str) -> None:
    (x,) = data((4, 3, 5), 1)
    wanted = getattr(functional, norm)(x, axis=(-2, -1))
    assert getattr(functional, norm)(x, axis=(-2, -1), out=x) is x
    assert x.tobytes() == wanted.tobytes()


# ---- axes that are not the last ----

# Shape, axis and the same array as (N, C, S): one position, few channels, several tasks and chunks of channels.
ACROSS: tuple[tuple[tuple[int, ...], Any, tuple[int, int, int]], ...] = (
    ((3, 65), 0, (1, 3, 65)),
    ((65, 300), (0,), (1, 65, 300)),
    ((3, 70, 7, 9), 1, (3, 70, 63)),
    ((3, 70, 7, 9), -3, (3, 70, 63)),
    ((2, 3, 5, 257), (1, 2), (2, 15, 257)),
    ((2, 3, 5, 257), (-2, 1), (2, 15, 257)),
    ((2, 3, 5, 17), (0, 1, 2), (1, 30, 17)),
    ((2, 3, 130, 66), 2, (6, 130, 66)),
    ((2, 300, 1, 1), 1, (2, 300, 1)),
)


@pytest.mark.parametrize(("shape", "axis", "flat"), ACROSS)
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_any_neighbouring_axes_have_the_bits_of_the_middle_one_of_three(
    norm: str, shape: tuple[int, ...], axis: Any, flat: tuple[int, int, int]
) -> None:
    plain, forward, backward = (getattr(functional, norm + way) for way in ("", "_forward", "_backward"))
    named = {a % len(shape) for a in np.atleast_1d(axis)}
    features = tuple(size for a, size in enumerate(shape) if a in named)
    others = tuple(size for a, size in enumerate(shape) if a not in named)
    x, dy = data(shape, 2)
    parameters = data(features, 2 if norm == "layer_norm" else 1)
    for _ in each_isa():
        wanted = forward(x.reshape(flat), *(one.ravel() for one in parameters), axis=1)
        y, *statistics = forward(x, *parameters, axis=axis)
        assert y.shape == shape
        assert all(statistic.shape == others for statistic in statistics)
        assert_same_bits((y, *statistics), wanted)
        assert plain(x, *parameters, axis=axis).tobytes() == y.tobytes()
        dx, *sums = backward(dy, x, *statistics, parameters[0], axis=axis)
        assert dx.shape == shape
        assert all(gradient.shape == features for gradient in sums)
        flat_gradients = backward(dy.reshape(flat), x.reshape(flat), *wanted[1:], parameters[0].ravel(), axis=1)
        assert_same_bits((dx, *sums), flat_gradients)


@pytest.mark.parametrize("shape", [(3, 70, 65), (2, 130, 16, 17)])
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_channels_are_normalised_in_place(norm: str, shape: tuple[int, ...]) -> None:
    x, dy = data(shape, 2)
    (gamma,) = data(shape[1:2], 1)
    plain, forward, backward = (getattr(functional, norm + way) for way in ("", "_forward", "_backward"))
    for _ in each_isa():
        y, *saved = forward(x, gamma, axis=1)
        over = x.copy()
        assert plain(over, gamma, axis=1, out=over) is over
        assert over.tobytes() == y.tobytes()
        wanted = backward(dy, x, *saved, gamma, axis=1)
        for name in ("dy", "x"):
            arrays = {"dy": dy.copy(), "x": x.copy()}
            got = backward(*arrays.values(), *saved, gamma, axis=1, out=arrays[name])
            assert got[0] is arrays[name]
            assert_same_bits(got, wanted)


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 3, 0), (2, 3, 4, 0)])
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_no_positions_give_empty_results_and_zero_sums(norm: str, shape: tuple[int, ...]) -> None:
    x, gamma = np.ones(shape, np.float32), np.ones(3, np.float32)
    for _ in each_isa():
        y, *saved = getattr(functional, f"{norm}_forward")(x, gamma, axis=1)
        assert y.shape == shape
        assert all(one.shape == (shape[0], *shape[2:]) for one in saved)
        dx, *sums = getattr(functional, f"{norm}_backward")(y, x, *saved, gamma, axis=1)
        assert dx.shape == shape
        assert all(one.tobytes() == np.zeros(3, np.float32).tobytes() for one in sums)


@pytest.mark.parametrize(("shape", "axis", "empty"), [((2, 0, 5), 1, 1), ((0, 5), 0, 0), ((2, 3, 0, 5), (1, 2), 2)])
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_no_channels_are_refused(norm: str, shape: tuple[int, ...], axis: Any, empty: int) -> None:
    with pytest.raises(ValueError, match=f"x has no columns .* its axis {empty} must not be empty, got shape"):
        getattr(functional, norm)(np.ones(shape, np.float32), axis=axis)


def test_a_gain_offset_works_with_channels() -> None:
    x, dy = data((3, 70, 65), 2)
    (gamma,) = data((70,), 1)
    gain = np.float32(1.0) + gamma
    y, rstd = functional.rms_norm_forward(x, gamma, axis=1, gain_offset=1.0)
    assert_same_bits((y, rstd), functional.rms_norm_forward(x, gain, axis=1))
    got = functional.rms_norm_backward(dy, x, rstd, gamma, axis=1, gain_offset=1.0)
    assert_same_bits(got, functional.rms_norm_backward(dy, x, rstd, gain, axis=1))


@pytest.mark.parametrize("axis", [(0, 2), (-3, -1), (2, 0)])
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_axes_that_are_not_neighbours_are_refused(norm: str, axis: tuple[int, ...]) -> None:
    (x,) = data((4, 3, 5), 1)
    with pytest.raises(ValueError, match="axis must name one axis of x, or several neighbouring ones"):
        getattr(functional, norm)(x, axis=axis)


@pytest.mark.parametrize("axis", [(0, 2), (2, 0), (0, 3), (3, 1, 0)])
def test_the_remedy_in_the_error_computes_the_norm_over_these_axes(axis: tuple[int, ...]) -> None:
    (x,) = data((4, 3, 5, 2), 1)
    with pytest.raises(ValueError, match="axis must name one axis") as caught:
        functional.layer_norm(x, axis=axis)
    remedy = str(caught.value).partition("pass ")[2].replace(" and axis=", ", axis=")
    y = eval(f"functional.layer_norm({remedy})", {"functional": functional, "np": np, "x": x})
    mean, var = x.mean(axis, keepdims=True, dtype=np.float64), x.var(axis, keepdims=True, dtype=np.float64)
    moved = np.moveaxis((x - mean) / np.sqrt(var + 1e-5), sorted(axis), range(-len(axis), 0))
    np.testing.assert_allclose(y, moved, rtol=0, atol=1e-6)


# ---- gain_offset ----


@pytest.mark.parametrize("gain_offset", [1.0, 1, -0.75, 0.1, 3e38, 1e-60, np.float32(0.1)])
def test_a_gain_offset_is_added_to_gamma_in_float32(gain_offset: float) -> None:
    for shape in ((3, 33), (70, 1025), (2, 9001)):
        x, dy = data(shape, 2)
        gamma = np.linspace(-1.5, 0.7, shape[1], dtype=np.float32)
        gain = np.float32(gain_offset) + gamma
        for _ in each_isa():
            y, rstd = functional.rms_norm_forward(x, gamma, gain_offset=gain_offset)
            assert_same_bits((y, rstd), functional.rms_norm_forward(x, gain))
            assert functional.rms_norm(x, gamma, gain_offset=gain_offset).tobytes() == y.tobytes()
            got = functional.rms_norm_backward(dy, x, rstd, gamma, gain_offset=gain_offset)
            assert_same_bits(got, functional.rms_norm_backward(dy, x, rstd, gain))


def test_a_gain_offset_of_0_leaves_gamma_as_it_is() -> None:
    x, gamma = np.ones((2, 5), np.float32), np.full(5, -0.0, np.float32)
    for gain_offset in (0.0, 0, -0.0):
        assert np.signbit(functional.rms_norm(x, gamma, gain_offset=gain_offset)).all()


def test_a_gain_offset_works_with_several_axes() -> None:
    x, dy = data((4, 3, 5), 2)
    gamma = np.linspace(-1.5, 0.7, 15, dtype=np.float32).reshape(3, 5)
    options: dict[str, Any] = {"axis": (-2, -1), "gain_offset": 1.0}
    y, rstd = functional.rms_norm_forward(x, gamma, **options)
    assert y.tobytes() == functional.rms_norm(x, gamma + np.float32(1.0), axis=(-2, -1)).tobytes()
    dx, dgamma = functional.rms_norm_backward(dy, x, rstd, gamma, **options)
    assert dgamma is not None
    assert (dx.shape, dgamma.shape) == (x.shape, gamma.shape)


def test_with_a_gain_offset_out_must_not_overlap_gamma_either() -> None:
    memory = np.ones(12, np.float32)
    out, gamma = memory[:10].reshape(2, 5), memory[7:]
    with pytest.raises(ValueError, match="out overlaps gamma"):
        functional.rms_norm(np.ones((2, 5), np.float32), gamma, gain_offset=1.0, out=out)
    with pytest.raises(ValueError, match="out overlaps gamma"):
        functional.rms_norm_backward(*np.ones((2, 2, 5), np.float32), np.ones(2), gamma, gain_offset=1.0, out=out)
    assert (memory == 1).all()


@pytest.mark.parametrize("gain_offset", [1.0, -1e-30])
def test_a_gain_offset_without_gamma_is_refused(gain_offset: float) -> None:
    x, rstd = np.ones((2, 5), np.float32), np.ones(2)
    for call in (
        lambda: functional.rms_norm(x, gain_offset=gain_offset),
        lambda: functional.rms_norm_forward(x, gain_offset=gain_offset),
        lambda: functional.rms_norm_backward(x, x, rstd, gain_offset=gain_offset),
        lambda: functional.dropout_add_rms_norm_forward(x, x, gain_offset=gain_offset),
        lambda: functional.dropout_add_rms_norm_backward(x, x, rstd, gain_offset=gain_offset),
    ):
        with pytest.raises(ValueError, match=f"gain_offset must be 0 without gamma, got {gain_offset}: pass gamma"):
            call()
