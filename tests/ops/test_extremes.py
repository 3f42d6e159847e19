"""Finite inputs give accurate results, also where float32 intermediates would overflow, underflow or lose bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from support import ROW_NORMS, THREADS, Array, along, bits, each_isa, turned

from cregkit import functional, oracle
from cregkit.kernels._threads import exact_threads
from cregkit.verify.shapes import Shape
from cregkit.verify.tolerances import UNIT

HUGE = np.float32(3e38)
LARGEST = np.finfo(np.float32).max
TINY = np.float32(1e-45)  # the smallest subnormal

ROW_SHAPES = ((64, 33), (9, 3), (20, 70), (130, 300), (5, 4100), (12, 9001))
# Samples, channels and positions, and the number of groups.
GROUP_SHAPES = (((9, 6, 5), 2), ((4, 6, 65), 6), ((5, 12, 1), 4), ((3, 2, 5000), 1), ((2, 320, 17), 32))
CHANNEL_SHAPES = ((64, 33, 1), (9, 3, 1), (130, 300, 1), (4, 3, 50), (3, 2, 5000), (40, 17, 3))


def alternating(rng: np.random.Generator, shape: Shape) -> Array:
    return np.where(np.arange(shape[0]) % 2, -HUGE, HUGE).reshape(-1, *[1] * (len(shape) - 1)) * np.ones(shape)


def halves(rng: np.random.Generator, shape: Shape) -> Array:
    """The sums of the first rows overflow; those of all rows do not."""
    return np.where(np.arange(shape[0]) < shape[0] // 2, HUGE, -HUGE).reshape(-1, *[1] * (len(shape) - 1)) * np.ones(
        shape
    )


def huge(rng: np.random.Generator, shape: Shape) -> Array:
    return rng.uniform(-LARGEST, LARGEST, shape)


def one_huge(rng: np.random.Generator, shape: Shape) -> Array:
    dy = rng.standard_normal(shape)
    dy[0].flat[-1] = LARGEST
    return dy


def away_from_its_mean(rng: np.random.Generator, shape: Shape) -> Array:
    """The largest number minus the mean overflows: the mean is negative."""
    dy = np.full(shape, -1e38) + 1e36 * rng.standard_normal(shape)
    dy[::2].reshape(-1)[::7] = LARGEST
    dy[(0,) * len(shape)] = LARGEST
    return dy


def large_mean(rng: np.random.Generator, shape: Shape) -> Array:
    return 1e30 * (1.0 + rng.standard_normal(shape))


def all_magnitudes(rng: np.random.Generator, shape: Shape) -> Array:
    return rng.choice([-1.0, 1.0], shape) * 10.0 ** rng.uniform(-45, 38, shape)


def small(rng: np.random.Generator, shape: Shape) -> Array:
    return 1e-30 * rng.standard_normal(shape)


def barely_normal(rng: np.random.Generator, shape: Shape) -> Array:
    return 1e-37 * rng.standard_normal(shape)


def subnormal(rng: np.random.Generator, shape: Shape) -> Array:
    return TINY * rng.integers(-9, 10, shape).astype(np.float64)


def alternating_subnormals(rng: np.random.Generator, shape: Shape) -> Array:
    """Both sums over the row cancel or underflow."""
    return np.where(np.arange(np.prod(shape)) % 2, -TINY, TINY).reshape(shape)


def zero(rng: np.random.Generator, shape: Shape) -> Array:
    return np.zeros(shape)


GRADIENTS = (
    alternating, halves, huge, one_huge, away_from_its_mean, large_mean, all_magnitudes, small, barely_normal,
    subnormal, alternating_subnormals, zero,
)  # fmt: skip


def gains(rng: np.random.Generator, n: int) -> Iterator[tuple[str, Array]]:
    yield "of the order of 1", rng.uniform(0.5, 1.5, n)
    yield "zero", np.zeros(n)
    yield "huge", rng.uniform(-LARGEST, LARGEST, n)
    yield "small", 1e-30 * rng.standard_normal(n)
    yield "subnormal", TINY * rng.integers(-9, 10, n).astype(np.float64)
    yield "of all magnitudes", rng.choice([-1.0, 1.0], n) * 10.0 ** rng.uniform(-45, 38, n)


def assert_right(got: Array, wanted: Array, scale: Array | float, bound: float, what: str) -> None:
    """Errors are within `bound * scale` plus the smallest subnormal; Inf is right only beyond the largest float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        overflows = np.abs(wanted) > LARGEST
        near_the_limit = np.abs(np.abs(wanted) - LARGEST) <= 4e-6 * LARGEST
        error = np.abs(got.astype(np.float64) - wanted)
        right = (error <= bound * np.minimum(scale, 2.0 * LARGEST) + TINY) | near_the_limit
        right[overflows] = (got == np.where(wanted > 0, np.inf, -np.inf))[overflows] | near_the_limit[overflows]
    if not right.all():
        at = tuple(np.argwhere(~right)[0])
        raise AssertionError(f"{what}: {(~right).sum()} wrong, first at {at}: got {got[at]}, wanted {wanted[at]}")


def largest(a: Array, axis: int | tuple[int, ...]) -> Array:
    return np.abs(a).max(axis=axis, keepdims=True)


def assert_sums_right(got: Array | None, terms: Array, axis: Any, what: str) -> None:
    if got is not None:
        wanted = terms.sum(axis)
        scale = max(np.abs(wanted).max(), UNIT / 2e-6 * np.abs(terms).sum(axis).max())
        assert_right(got, wanted, scale, 2e-6, what)


each_axis = pytest.mark.parametrize("axis", [-1, 0])


def rows_data(op: str, shape: Shape, make: Callable[..., Array], scale: float) -> tuple[Array, Array, Any]:
    rng = np.random.default_rng(len(make.__name__) + shape[1])
    x = (scale * rng.standard_normal(shape)).astype(np.float32)
    return x, make(rng, shape).astype(np.float32), getattr(functional, f"{op}_forward")(x)[1:]


@pytest.mark.parametrize("make", GRADIENTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("op", ROW_NORMS)
@each_axis
def test_gradients_of_rows_are_accurate_for_any_finite_dy_and_gain(
    axis: int, op: str, make: Callable[..., Array]
) -> None:
    backward = along(axis, getattr(functional, f"{op}_backward"))
    for shape in ROW_SHAPES:
        for scale in (1.0, 1e3, 1e-3):
            x, dy, saved = rows_data(op, shape, make, scale)
            for name, gain in gains(np.random.default_rng(1), shape[1]):
                gamma = gain.astype(np.float32)
                wanted = getattr(oracle, f"{op}_backward")(dy, x, *saved, gamma)
                rstd = saved[-1][:, np.newaxis]
                terms = largest(dy.astype(np.float64) * gamma, 1) * rstd
                x_hat = (x - (saved[0][:, np.newaxis] if op == "layer_norm" else 0.0)) * rstd
                for isa in each_isa():
                    got = backward(dy, x, *saved, gamma)
                    what = f"{isa}, {shape}, x of {scale}, gain {name}"
                    dx_scale = np.maximum(largest(wanted[0], 1), 1e-9 * terms)
                    assert_right(got[0], wanted[0], dx_scale, 2e-6, f"{what}: dx")
                    assert_sums_right(got[1], dy.astype(np.float64) * x_hat, 0, f"{what}: dgamma")
                    if op == "layer_norm":
                        assert_sums_right(got[2], dy.astype(np.float64), 0, f"{what}: dbeta")


@pytest.mark.parametrize("make", GRADIENTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("op", ROW_NORMS)
@each_axis
def test_gradients_of_rows_in_place_have_the_same_bits(axis: int, op: str, make: Callable[..., Array]) -> None:
    backward = partial(getattr(functional, f"{op}_backward"), axis=axis)
    for shape in ROW_SHAPES:
        x, dy, saved = rows_data(op, shape, make, 1.0)
        x, dy = turned(x, axis), turned(dy, axis)
        gamma = np.random.default_rng(1).uniform(0.5, 1.5, shape[1]).astype(np.float32)
        wanted = bits(dict(enumerate(backward(dy, x, *saved, gamma))))
        for threads in THREADS:
            with exact_threads(threads):
                over_dy, over_x = dy.copy(), x.copy()
                assert bits(dict(enumerate(backward(over_dy, x, *saved, gamma, out=over_dy)))) == wanted
                assert bits(dict(enumerate(backward(dy, over_x, *saved, gamma, out=over_x)))) == wanted


@pytest.mark.parametrize("make", GRADIENTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("op", ROW_NORMS)
@each_axis
def test_gradients_of_an_array_that_is_dy_x_and_out_have_the_same_bits(
    axis: int, op: str, make: Callable[..., Array]
) -> None:
    backward = partial(getattr(functional, f"{op}_backward"), axis=axis)
    for shape in ROW_SHAPES:
        x = turned(rows_data(op, shape, make, 1.0)[1], axis)
        saved = getattr(functional, f"{op}_forward")(x, axis=axis)[1:]
        gamma = np.random.default_rng(1).uniform(0.5, 1.5, shape[1]).astype(np.float32)
        wanted = bits(dict(enumerate(backward(x, x, *saved, gamma))))
        over = x.copy()
        assert bits(dict(enumerate(backward(over, over, *saved, gamma, out=over)))) == wanted


@pytest.mark.parametrize("op", ROW_NORMS)
@each_axis
def test_gradients_of_rows_are_accurate_where_products_underflow(axis: int, op: str) -> None:
    backward = along(axis, getattr(functional, f"{op}_backward"))
    for shape in ROW_SHAPES:
        x = (1e-12 * np.random.default_rng(2).standard_normal(shape)).astype(np.float32)
        saved = getattr(functional, f"{op}_forward")(x, eps=0.0)[1:]
        dy = np.zeros(shape, np.float32)
        dy[:, 1] = 1e-25
        gamma = np.full(shape[1], 1e-25, np.float32)
        wanted = getattr(oracle, f"{op}_backward")(dy, x, *saved, gamma)[0]
        for isa in each_isa():
            got = backward(dy, x, *saved, gamma)[0]
            assert_right(got, wanted, largest(wanted, 1), 2e-6, f"{isa}, {shape}")


def test_gradients_of_channels_are_accurate_where_sums_cancel() -> None:
    rng = np.random.default_rng(3)
    x = (1e-10 * rng.standard_normal((64, 20))).astype(np.float32)
    saved = functional.batch_norm_forward(x, eps=0.0)[1:]
    dy = np.zeros((64, 20), np.float32)
    dy[10], dy[20] = 1e-37, -1e-37
    wanted = oracle.batch_norm_backward(dy, x, *saved, np.ones(20))[0]
    for isa in each_isa():
        got = functional.batch_norm_backward(dy, x, *saved, np.ones(20, np.float32))[0]
        assert_right(got, wanted, largest(wanted, 0), 2e-6, isa)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("op", ROW_NORMS)
@each_axis
def test_a_bad_gradient_in_place_stays_in_its_column(axis: int, op: str, bad: float) -> None:
    for shape in ROW_SHAPES:
        x, dy, saved = rows_data(op, shape, zero, 1.0)
        dy[1, 2] = bad
        x, dy, gamma = turned(x, axis), turned(dy, axis), np.ones(shape[1], np.float32)
        sums = getattr(functional, f"{op}_backward")(dy, x, *saved, gamma, axis=axis, out=dy)[1:]
        for each in sums:
            assert np.array_equal(np.isfinite(each), np.arange(shape[1]) != 2)


@pytest.mark.parametrize("op", ROW_NORMS)
@each_axis
def test_sums_of_zero_gradients_of_huge_rows_are_zero(axis: int, op: str) -> None:
    """`x - mean` overflows float32, and 0 times infinity is NaN."""
    backward = along(axis, getattr(functional, f"{op}_backward"))
    for shape in ROW_SHAPES:
        x, dy = np.full(shape, -HUGE), np.ones(shape, np.float32)
        x[:, 0], dy[:, 0] = HUGE, 0.0
        saved = getattr(functional, f"{op}_forward")(x)[1:]
        for isa in each_isa():
            for gradient in backward(dy, x, *saved, np.ones(shape[1], np.float32))[1:]:
                assert gradient[0] == 0.0, isa
                assert np.isfinite(gradient).all(), isa


@pytest.mark.parametrize("make", GRADIENTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_channels_are_accurate_for_any_finite_dy_and_gain(
    training: bool, make: Callable[..., Array]
) -> None:
    for shape in CHANNEL_SHAPES:
        rng = np.random.default_rng(len(make.__name__) + shape[1])
        c = shape[1]
        for scale in (1.0, 1e3, 1e-3):
            x = (scale * rng.standard_normal(shape)).astype(np.float32)
            dy = make(rng, shape).astype(np.float32)
            mean, var = x.mean((0, 2), dtype=np.float64), x.var((0, 2), dtype=np.float64)
            given = (
                mean.astype(np.float32),
                var.astype(np.float32),
            )
            saved = functional.batch_norm_forward(x)[1:]
            for name, gain in gains(np.random.default_rng(1), c):
                gamma = gain.astype(np.float32)
                arguments = (*saved, gamma) if training else (*given, gamma)
                op = "batch_norm_backward" if training else "batch_norm_inference_backward"
                wanted = getattr(oracle, op)(dy, x, *arguments)
                rstd = (saved[1] if training else 1 / np.sqrt(given[1].astype(np.float64) + 1e-5))[:, np.newaxis]
                x_hat = (x - (saved[0] if training else given[0].astype(np.float64))[:, np.newaxis]) * rstd
                terms = largest(dy.astype(np.float64), (0, 2)) * np.abs(gamma.astype(np.float64))[:, np.newaxis] * rstd
                for isa in each_isa():
                    for axis in (1, -1):
                        turned = [np.ascontiguousarray(np.moveaxis(a, 1, axis)) for a in (dy, x)]
                        got = getattr(functional, op)(*turned, *arguments, channel_axis=axis)
                        what = f"{isa}, {shape}, axis {axis}, x of {scale}, gain {name}"
                        dx = np.moveaxis(got[0], axis, 1)
                        dx_scale = np.maximum(largest(wanted[0], (0, 2)), 1e-9 * terms)
                        assert_right(dx, wanted[0], dx_scale, 2e-6, f"{what}: dx")
                        assert_sums_right(got[1], dy.astype(np.float64) * x_hat, (0, 2), f"{what}: dgamma")
                        assert_sums_right(got[2], dy.astype(np.float64), (0, 2), f"{what}: dbeta")


def groups_data(
    shape: Shape, num_groups: int, make: Callable[..., Array], scale: float
) -> tuple[Array, Array, list[Array]]:
    """Data of which `make` is told the positions first: its gradients differ within a channel of a sample."""
    rng = np.random.default_rng(len(make.__name__) + shape[1])
    x = (scale * rng.standard_normal(shape)).astype(np.float32)
    n, c, positions = shape
    dy = np.ascontiguousarray(np.moveaxis(make(rng, (positions, n, c)).astype(np.float32), 0, 2))
    return x, dy, list(functional.group_norm_forward(x, num_groups)[1:])


@pytest.mark.parametrize("make", GRADIENTS, ids=lambda make: make.__name__)
def test_gradients_of_groups_are_accurate_for_any_finite_dy_and_gain(make: Callable[..., Array]) -> None:
    for shape, num_groups in GROUP_SHAPES:

        def by_group(a: Array, like: tuple[int, ...] = (shape[0], num_groups, -1)) -> Array:
            return a.reshape(like)

        for scale in (1.0, 1e3, 1e-3):
            x, dy, saved = groups_data(shape, num_groups, make, scale)
            for name, gain in gains(np.random.default_rng(1), shape[1]):
                gamma = gain.astype(np.float32)
                wanted = oracle.group_norm_backward(dy, x, *saved, gamma)
                mean, rstd = (a[..., np.newaxis] for a in saved)
                terms = largest(by_group(dy.astype(np.float64) * gamma[:, np.newaxis]), 2) * rstd
                x_hat = ((by_group(x) - mean) * rstd).reshape(shape)
                for isa in each_isa():
                    for axis in (1, -1):
                        turned = [np.ascontiguousarray(np.moveaxis(a, 1, axis)) for a in (dy, x)]
                        got = functional.group_norm_backward(*turned, *saved, gamma, channel_axis=axis)
                        what = f"{isa}, {shape}, {num_groups} groups, axis {axis}, x of {scale}, gain {name}"
                        dx = by_group(np.ascontiguousarray(np.moveaxis(got[0], axis, 1)))
                        dx_scale = np.maximum(largest(by_group(wanted[0]), 2), 1e-9 * terms)
                        assert_right(dx, by_group(wanted[0]), dx_scale, 2e-6, f"{what}: dx")
                        assert_sums_right(got[1], dy.astype(np.float64) * x_hat, (0, 2), f"{what}: dgamma")
                        assert_sums_right(got[2], dy.astype(np.float64), (0, 2), f"{what}: dbeta")


@pytest.mark.parametrize("make", GRADIENTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("axis", [1, -1])
def test_gradients_of_groups_in_place_have_the_same_bits(axis: int, make: Callable[..., Array]) -> None:
    for shape, num_groups in GROUP_SHAPES:
        x, dy, saved = groups_data(shape, num_groups, make, 1.0)
        x, dy = (np.ascontiguousarray(np.moveaxis(a, 1, axis)) for a in (x, dy))
        gamma = np.random.default_rng(1).uniform(0.5, 1.5, shape[1]).astype(np.float32)

        def backward(
            dy: Array, x: Array, saved: list[Array] = saved, gamma: Array = gamma, **out: Array
        ) -> dict[str, tuple[Any, ...]]:
            results = functional.group_norm_backward(dy, x, *saved, gamma, channel_axis=axis, **out)
            return bits({str(i): a for i, a in enumerate(results) if a is not None})

        wanted, of_x = backward(dy, x), backward(x, x)
        for threads in THREADS:
            with exact_threads(threads):
                over_dy, over_x, over_both = dy.copy(), x.copy(), x.copy()
                assert backward(over_dy, x, out=over_dy) == wanted
                assert backward(dy, over_x, out=over_x) == wanted
                assert backward(over_both, over_both, out=over_both) == of_x


@pytest.mark.parametrize(
    ("op", "shape", "arguments"),
    [
        ("layer_norm", (64, 6), {}),
        ("layer_norm", (64, 6), {"axis": 0}),
        ("batch_norm", (64, 6), {}),
        ("batch_norm", (2, 6, 64), {}),
        ("group_norm", (2, 6, 64), {"num_groups": 2}),
        ("group_norm", (2, 64, 6), {"num_groups": 2, "channel_axis": -1}),
        ("instance_norm", (2, 64, 6), {"channel_axis": -1}),
    ],
)
def test_dgamma_is_accurate_for_huge_gradients_of_subnormal_inputs(
    op: str, shape: Shape, arguments: dict[str, Any]
) -> None:
    rng = np.random.default_rng(5)
    x, dy = TINY * rng.integers(-9, 10, shape).astype(np.float32), rng.uniform(-1e38, 1e38, shape).astype(np.float32)
    axis = arguments.get("axis", arguments.get("channel_axis", -1 if op == "layer_norm" or len(shape) == 2 else 1))
    gamma = np.ones(shape[axis], np.float32)
    saved = getattr(functional, f"{op}_forward")(x, eps=1.0, **arguments)[1:]
    given = {name: value for name, value in arguments.items() if name != "num_groups"}
    wanted = getattr(oracle, f"{op}_backward")(dy, x, *saved, gamma, **given)[1]
    for isa in each_isa():
        dgamma = getattr(functional, f"{op}_backward")(dy, x, *saved, gamma, **given)[1]
        assert np.abs(dgamma - wanted).max() <= 2e-6 * np.abs(wanted).max(), isa


@pytest.mark.parametrize("make", GRADIENTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_gradients_of_fused_ops_have_the_bits_of_the_norm(norm: str, make: Callable[..., Array]) -> None:
    for shape in ROW_SHAPES:
        h, dy, saved = rows_data(norm, shape, make, 1.0)
        gamma = np.random.default_rng(1).uniform(0.5, 1.5, shape[1]).astype(np.float32)
        dresidual, *sums = getattr(functional, f"{norm}_backward")(dy, h, *saved, gamma)
        for p in (0.0, 0.5):
            got = getattr(functional, f"dropout_add_{norm}_backward")(dy, h, *saved, gamma, p, seed=3)
            assert bits(dict(enumerate(got[1:]))) == bits(dict(enumerate([dresidual, *sums])))


def biases(n: int) -> Iterator[tuple[str, Array]]:
    rng = np.random.default_rng(2)
    yield "of the other sign", np.full(n, -HUGE)
    yield "huge", rng.uniform(-LARGEST, LARGEST, n)
    yield "of all magnitudes", rng.choice([-1.0, 1.0], n) * 10.0 ** rng.uniform(-45, 38, n)
    yield "subnormal", TINY * rng.integers(-9, 10, n).astype(np.float64)
    yield "huge in one place", np.where(np.arange(n) == n // 2, -HUGE, 0.5)


def assert_outputs(y: Array, x_hat: Array, gamma: Array, beta: Array, axis: Any, what: str) -> None:
    """The scale of errors is max|x_hat| * |gain| + |bias|, over a row (channel)."""
    gain, bias = gamma.astype(np.float64), beta.astype(np.float64)
    scale = largest(x_hat, axis) * np.abs(gain) + np.abs(bias)
    assert_right(y, x_hat * gain + bias, scale, 1e-6, what)


@pytest.mark.parametrize("p", [None, 0.0, 0.3])
def test_outputs_of_rows_are_accurate_for_any_finite_gain_and_bias(p: float | None) -> None:
    rng = np.random.default_rng(0)
    for shape in ROW_SHAPES:
        x, residual = rng.standard_normal((2, *shape)).astype(np.float32)
        for gain_name, gain in gains(rng, shape[1]):
            for bias_name, bias in biases(shape[1]):
                gamma, beta = gain.astype(np.float32), bias.astype(np.float32)
                for isa in each_isa():
                    what = f"{isa}, {shape}, gain {gain_name}, bias {bias_name}"
                    if p is None:
                        y, h = functional.layer_norm(x, gamma, beta), x
                        in_place = functional.layer_norm(over := x.copy(), gamma, beta, out=over)
                    else:
                        y, h, *_ = functional.dropout_add_layer_norm_forward(x, residual, gamma, beta, p, seed=1)
                        over = x.copy()
                        in_place = functional.dropout_add_layer_norm_forward(
                            over, residual, gamma, beta, p, seed=1, out=over
                        )[0]
                    assert_outputs(y, oracle.layer_norm(h), gamma, beta, 1, what)
                    assert y.tobytes() == in_place.tobytes()


def test_rows_with_a_large_bias_have_the_same_bits_in_any_split() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 70)).astype(np.float32)
    gamma, beta = rng.uniform(-LARGEST, LARGEST, (2, 70)).astype(np.float32)
    whole = functional.layer_norm(x, gamma, beta)
    parts = [functional.layer_norm(part, gamma, beta) for part in (x[:1], x[1:17], x[17:])]
    assert whole.tobytes() == np.concatenate(parts).tobytes()


def test_outputs_across_memory_are_accurate_for_any_finite_gain_and_bias() -> None:
    rng = np.random.default_rng(0)
    for shape in ROW_SHAPES:
        x = rng.standard_normal(shape).astype(np.float32)
        for gain_name, gain in gains(rng, shape[1]):
            for bias_name, bias in biases(shape[1]):
                gamma, beta = gain.astype(np.float32), bias.astype(np.float32)
                for isa in each_isa():
                    y = functional.layer_norm(turned(x, 0), gamma, beta, axis=0)
                    in_place = functional.layer_norm(over := turned(x, 0), gamma, beta, axis=0, out=over)
                    what = f"{isa}, {shape}, gain {gain_name}, bias {bias_name}"
                    assert_outputs(y.T, oracle.layer_norm(x), gamma, beta, 1, what)
                    assert y.tobytes() == in_place.tobytes()


@pytest.mark.parametrize("training", [True, False])
def test_outputs_of_channels_are_accurate_for_any_finite_gain_and_bias(training: bool) -> None:
    rng = np.random.default_rng(0)
    for shape in CHANNEL_SHAPES:
        x = rng.standard_normal(shape).astype(np.float32)
        if not training:
            x[0] *= HUGE / 8  # inference may meet values far from the running statistics
        mean, var = rng.standard_normal(shape[1]), rng.uniform(0.5, 2.0, shape[1])
        given = mean.astype(np.float32), var.astype(np.float32)
        for gain_name, gain in gains(rng, shape[1]):
            for bias_name, bias in biases(shape[1]):
                gamma, beta = gain.astype(np.float32), bias.astype(np.float32)
                x_hat = oracle.batch_norm_forward(x)[0] if training else oracle.batch_norm(x, *given)
                for isa in each_isa():
                    what = f"{isa}, {shape}, gain {gain_name}, bias {bias_name}"
                    if training:
                        y = functional.batch_norm_forward(x, gamma, beta)[0]
                    else:
                        y = functional.batch_norm(x, *given, gamma, beta)
                    assert_outputs(np.moveaxis(y, 1, -1), np.moveaxis(x_hat, 1, -1), gamma, beta, (0, 1), what)


@pytest.mark.parametrize("axis", [1, -1])
def test_outputs_of_groups_are_accurate_for_any_finite_gain_and_bias(axis: int) -> None:
    rng = np.random.default_rng(0)
    for shape, num_groups in GROUP_SHAPES:
        x = rng.standard_normal(shape).astype(np.float32)
        x_hat = oracle.group_norm(x, num_groups)
        turned = np.ascontiguousarray(np.moveaxis(x, 1, axis))

        def by_group(a: Array, split: tuple[int, ...] = (shape[0], num_groups, -1, shape[2])) -> Array:
            """Samples, positions, groups and channels of a group: errors have the scale of a group."""
            return np.moveaxis(a.reshape(split), 3, 1)

        for gain_name, gain in gains(rng, shape[1]):
            for bias_name, bias in biases(shape[1]):
                gamma, beta = gain.astype(np.float32), bias.astype(np.float32)
                for isa in each_isa():
                    what = f"{isa}, {shape}, {num_groups} groups, gain {gain_name}, bias {bias_name}"
                    y = functional.group_norm(turned, num_groups, gamma, beta, channel_axis=axis)
                    in_place = functional.group_norm(
                        over := turned.copy(), num_groups, gamma, beta, channel_axis=axis, out=over
                    )
                    first = by_group(np.ascontiguousarray(np.moveaxis(y, axis, 1)))
                    gain_of, bias_of = (a.reshape(num_groups, -1) for a in (gamma, beta))
                    assert_outputs(first, by_group(x_hat), gain_of, bias_of, (1, 3), what)
                    assert y.tobytes() == in_place.tobytes()
