"""The accuracy contract against the float64 oracle: y to 1e-6, gradients to 2e-6 of their own largest magnitude."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import pytest
from support import ROW_NORMS, Array, each_isa

from cregkit import functional, oracle
from cregkit.verify.inputs import Arguments
from cregkit.verify.shapes import Shape
from cregkit.verify.tolerances import (
    COLUMN_SUM,
    GRADIENT,
    NORMALISED,
    RUNNING,
    Tolerance,
    largest,
    share_of_tolerance,
    unit_scale,
)

CONTRACT_Y = Tolerance(1e-6, "the contract, absolute", unit_scale)
CONTRACT_DX = Tolerance(2e-6, "the contract, of the gradient's own largest magnitude", largest)
TINY = np.float32(1e-45)  # the smallest subnormal
HUGE = np.float32(3.4e38)  # almost the largest number


def assert_within(tolerance: Tolerance, got: Array, wanted: Array, arguments: Arguments, what: str) -> None:
    share = share_of_tolerance(got, wanted.astype(np.float64), tolerance, arguments)
    assert share <= 1.0, f"{what} is off by {share:.3g} tolerances"


def rounded(wanted: Array) -> Array:
    """Round to float32, where the gradient of a tiny row may be Inf."""
    with np.errstate(over="ignore"):
        return wanted.astype(np.float32)


def assert_gradients(got: Any, wanted: Any, arguments: Arguments, what: str) -> None:
    """Compare dx, and dgamma and dbeta unless they are None."""
    for name, tolerance, one, other in zip(
        ("dx", "dgamma", "dbeta"), (GRADIENT, COLUMN_SUM, COLUMN_SUM), got, wanted, strict=False
    ):
        if other is not None:
            assert_within(tolerance, one, rounded(other), arguments, f"{what}: {name}")


def assert_forward_and_backward(
    op: str, x: Array, eps: float, tolerance: Tolerance = CONTRACT_Y, *, num_groups: int | None = None, **options: int
) -> None:
    """Compare y, and the gradients with and without gamma from the statistics that our forward saved."""
    groups = {} if num_groups is None else {"num_groups": num_groups}  # backward takes it from the statistics
    rng = np.random.default_rng(x.size)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    gamma = rng.uniform(0.5, 1.5, x.shape[options.get("channel_axis", options.get("axis", -1))]).astype(np.float32)
    y64, *saved64 = getattr(oracle, f"{op}_forward")(x, eps=eps, **groups, **options)
    backwards = [getattr(oracle, f"{op}_backward")(dy, x, *saved64, gain, **options) for gain in (None, gamma)]
    for isa in each_isa():
        y, *saved = getattr(functional, f"{op}_forward")(x, eps=eps, **groups, **options)
        assert_within(tolerance, y, y64, {}, f"{isa}: y")
        for gain, wanted in zip((None, gamma), backwards, strict=True):
            got = getattr(functional, f"{op}_backward")(dy, x, *saved, gain, **options)
            assert_gradients(got, wanted, {"dy": dy, "rstd": saved64[-1], **options}, isa)


@pytest.mark.parametrize("offset", [0.0, 1.0, 3.0, 100.0])
@pytest.mark.parametrize(
    ("op", "shape", "options"),
    [
        *((op, (8000, 127), {}) for op in ROW_NORMS),
        *((op, (8, 127, 1000), {"axis": 1}) for op in ROW_NORMS),
        ("batch_norm", (55, 20000), {}),
        ("instance_norm", (80, 100, 127), {}),
    ],
)
def test_a_million_normalised_values_are_within_the_contract(
    op: str, shape: Shape, options: dict[str, int], offset: float
) -> None:
    """Among so many rows (channels) are the rare ones whose rounding errors add up."""
    x = (offset + np.random.default_rng(int(offset)).standard_normal(shape, np.float32)).astype(np.float32)
    wanted = getattr(oracle, f"{op}_forward")(x, **options)[0]
    assert_within(CONTRACT_Y, getattr(functional, f"{op}_forward")(x, **options)[0], wanted, {}, op)


OFFSETS = (0.0, 1.0, 1e2, 1e3, 1e4, 1e5, 1e6)
NORMS = (*ROW_NORMS, "batch_norm", "group_norm", "instance_norm")
EPS = {op: signature(getattr(oracle, op)).parameters["eps"].default for op in NORMS}


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("op", ROW_NORMS)
def test_row_norms_are_accurate_at_any_offset(op: str, axis: int, offset: float) -> None:
    rng = np.random.default_rng(int(offset))
    for cols in (*range(1, 20), 31, 32, 33, 47, 63, 64, 65, 70, 1023, 4097, 16384):
        x = (offset + rng.standard_normal((66 if cols < 100 else 5, cols))).astype(np.float32)
        assert_forward_and_backward(op, np.ascontiguousarray(np.moveaxis(x, -1, axis)), EPS[op], axis=axis)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("axis", [1, -1])
def test_batch_norm_is_accurate_at_any_offset(axis: int, offset: float) -> None:
    rng = np.random.default_rng(int(offset))
    flat = ((2, 3), (3, 5), (5, 17), (70, 70), (1023, 3), (4097, 33), (16384, 2))
    maps = (
        ((1, 2, 2), (3, 4, 7), (2, 3, 1023), (5, 3, 33, 31), (1, 2, 16384)) if axis == 1 else ((3, 7, 4), (8, 33, 5, 3))
    )
    for shape in flat + maps:
        x = (offset + rng.standard_normal(shape)).astype(np.float32)
        assert_forward_and_backward("batch_norm", x, EPS["batch_norm"], channel_axis=axis)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("axis", [1, -1])
def test_batch_norm_inference_is_accurate_at_any_offset(axis: int, offset: float) -> None:
    rng = np.random.default_rng(int(offset))
    for shape in ((1, 3), (70, 33), (3, 5, 7) if axis == 1 else (3, 7, 5)):
        x, dy = (offset * i + rng.standard_normal(shape) for i in (1, 0))
        x, dy, c = x.astype(np.float32), dy.astype(np.float32), shape[axis]
        mean, var, gamma = (
            a.astype(np.float32)
            for a in (offset + rng.standard_normal(c), rng.uniform(1.0, 2.0, c), rng.uniform(0.5, 1.5, c))
        )
        options: dict[str, Any] = {"channel_axis": axis}
        for isa in each_isa():
            y = functional.batch_norm(x, mean, var, **options)
            assert_within(CONTRACT_Y, y, oracle.batch_norm(x, mean, var, **options), {}, isa)
            got = functional.batch_norm_inference_backward(dy, x, mean, var, gamma, **options)
            wanted = oracle.batch_norm_inference_backward(dy, x, mean, var, gamma, **options)
            assert_gradients(got, wanted, {"dy": dy, "var": var, "eps": 1e-5}, isa)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("axis", [1, -1])
def test_group_norm_is_accurate_at_any_offset(axis: int, offset: float) -> None:
    rng = np.random.default_rng(int(offset))
    groups_of = {6: (1, 2, 6), 40: (1, 4, 40), 320: (32,)}
    for shape in ((3, 6), (70, 40), (2, 6, 2), (9, 6, 49), (3, 6, 65), (2, 40, 5, 13), (2, 320, 7, 7), (2, 6, 4097)):
        for num_groups in groups_of[shape[1]]:
            x = (offset + rng.standard_normal(shape)).astype(np.float32)
            turned = np.ascontiguousarray(np.moveaxis(x, 1, axis))
            assert_forward_and_backward(
                "group_norm", turned, EPS["group_norm"], num_groups=num_groups, channel_axis=axis
            )


MAGNITUDES = [
    *(pytest.param(10.0**k, id=f"1e{k}") for k in (*range(-38, 37, 5), 37)),
    pytest.param(3e37, id="3e37"),
]


def random_row(scale: float, n: int = 1000) -> Array:
    return (scale * np.random.default_rng(5).standard_normal(n)).astype(np.float32)


def extreme_rows() -> dict[str, Array]:
    rng = np.random.default_rng(6)
    n = 1000
    return {
        "huge": (HUGE * rng.uniform(-1, 1, n)).astype(np.float32),
        "all but constant and huge": (HUGE * (1 - 1e-6 * rng.integers(0, 9, n))).astype(np.float32),
        "one huge": np.where(np.arange(n) == 700, HUGE, np.float32(1.0)),
        "huge and opposite": HUGE * np.where(np.arange(n) % 2, np.float32(1), np.float32(-1)),
        "subnormal": (TINY * rng.integers(-9, 10, n)).astype(np.float32),
        "one subnormal": np.where(np.arange(n) == 700, TINY, np.float32(0.0)),
        "all magnitudes": (10.0 ** rng.uniform(-45, 38, n)).astype(np.float32),
        "few and huge": np.array([HUGE, -HUGE, 1.0], np.float32),
        "few and subnormal": np.array([TINY, 0.0, -TINY, 3 * TINY], np.float32),
    }


def alone(op: str, row: Array) -> Iterator[tuple[Array, dict[str, int]]]:
    """x with the values of `row` as one row, channel or group, and the options of the op for it."""
    twice, channel = np.stack([row, row]), {"channel_axis": 1}
    if op in ROW_NORMS:
        yield row[np.newaxis], {}
        yield np.stack([row, row[::-1]], axis=1), {"axis": 0}
    elif op == "batch_norm":
        for x in (row[:, np.newaxis], row[np.newaxis, np.newaxis], twice[:, np.newaxis]):
            yield x, channel
    elif op == "instance_norm":
        yield row[np.newaxis, np.newaxis], channel
        yield row[np.newaxis, :, np.newaxis], {"channel_axis": -1}
    else:
        one_group = {"num_groups": 1}
        yield row[np.newaxis], channel | one_group
        yield twice[np.newaxis], channel | one_group
        yield np.ascontiguousarray(twice.T)[np.newaxis], {"channel_axis": -1} | one_group


def assert_any_magnitude(op: str, row: Array) -> None:
    """Test the row alone: its errors are measured by its own magnitude."""
    for x, options in alone(op, row):
        assert_forward_and_backward(op, np.ascontiguousarray(x), 0.0, NORMALISED, **options)


@pytest.mark.parametrize("scale", MAGNITUDES)
@pytest.mark.parametrize("op", NORMS)
def test_norms_are_accurate_at_any_magnitude(op: str, scale: float) -> None:
    assert_any_magnitude(op, random_row(scale))


@pytest.mark.parametrize("kind", extreme_rows())
@pytest.mark.parametrize("op", NORMS)
def test_norms_are_accurate_for_extreme_rows(op: str, kind: str) -> None:
    assert_any_magnitude(op, extreme_rows()[kind])


@pytest.mark.parametrize(
    ("op", "options"), [("batch_norm", {}), ("layer_norm", {"axis": 0}), ("rms_norm", {"axis": 0})]
)
def test_columns_beside_extreme_columns_stay_accurate(op: str, options: dict[str, int]) -> None:
    """One SIMD vector holds columns for the float64 path and others; each is measured by its own magnitude."""
    forward, backward = (partial(getattr(functional, f"{op}_{way}"), **options) for way in ("forward", "backward"))
    rows = np.stack([random_row(s, 130) for s in (1.0, 3e37, 1e-30, 1e6, 1e-45, 5.0)])
    x = np.ascontiguousarray(rows.T)
    dy = np.random.default_rng(7).standard_normal(x.shape).astype(np.float32)
    y64, *saved64 = getattr(oracle, f"{op}_forward")(x, eps=0.0, **options)
    dx64 = getattr(oracle, f"{op}_backward")(dy, x, *saved64, **options)[0]
    for isa in each_isa():
        y, *saved = forward(x, eps=0.0)
        assert_within(NORMALISED, y, y64, {}, isa)
        dx = backward(dy, x, *saved)[0]
        for c in range(x.shape[1]):
            assert_within(CONTRACT_DX, dx[:, c], rounded(dx64[:, c]), {}, f"{isa}: channel {c}")


CENTRED = ("layer_norm", "batch_norm", "group_norm", "instance_norm")


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1e6, 16777217.0, 1e30, 1e-30, HUGE, TINY])
@pytest.mark.parametrize("op", CENTRED)
def test_constant_rows_become_zero(op: str, value: float) -> None:
    for n in (2, 3, 33, 65, 1000, 4097, 10000):
        for x, options in alone(op, np.full(n, value, np.float32)):
            for isa in each_isa():
                assert not getattr(functional, f"{op}_forward")(x, **options)[0].any(), (isa, n)


@pytest.mark.parametrize("op", CENTRED)
def test_constant_rows_with_eps_0_give_nan_and_an_infinite_rstd(op: str) -> None:
    for x, options in alone(op, np.full(7, 3.0, np.float32)):
        for _ in each_isa():
            y, _, rstd = getattr(functional, f"{op}_forward")(x, eps=0.0, **options)
            assert np.isnan(y).all()
            assert np.isinf(rstd).all()


def trend(n: int) -> Array:
    return np.linspace(-1.0, 1e4, n)


def jump(n: int) -> Array:
    """The first 64 values differ from all others."""
    return np.where(np.arange(n) < 64, 0.0, 1e5) + np.random.default_rng(n).standard_normal(n)


def late_jump(n: int) -> Array:
    return np.where(np.arange(n) < 4 * n // 5, 0.0, 1e6) + np.random.default_rng(n).standard_normal(n)


def all_at_an_offset_but_the_first(n: int) -> Array:
    return np.where(np.arange(n) < 8, -1e6, 1e6) + np.random.default_rng(n).standard_normal(n)


def heavy_tail(n: int) -> Array:
    return np.random.default_rng(n).standard_t(1.0, n)


def one_outlier(n: int) -> Array:
    return np.where(np.arange(n) == n // 3, 1e6, np.random.default_rng(n).standard_normal(n))


def first_outlier(n: int) -> Array:
    return np.where(np.arange(n) == 0, 1e7, 1e3 + np.random.default_rng(n).standard_normal(n))


KINDS = (trend, jump, late_jump, all_at_an_offset_but_the_first, heavy_tail, one_outlier, first_outlier)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("op", NORMS)
def test_norms_are_accurate_for_rows_unlike_their_beginning(op: str, kind: Callable[[int], Array]) -> None:
    for n in (70, 1023, 4097, 16384):
        for x, options in alone(op, kind(n).astype(np.float32)):
            assert_forward_and_backward(op, x, EPS[op], NORMALISED, **options)


@pytest.mark.parametrize("step", [1.0, 2.0, 10.0, 1e4])
@pytest.mark.parametrize(
    ("op", "options"), [("batch_norm", {}), ("layer_norm", {"axis": 0}), ("rms_norm", {"axis": 0})]
)
def test_norms_are_accurate_for_columns_unlike_their_first_rows(op: str, options: dict[str, int], step: float) -> None:
    """Among so many channels are those whose rounding errors add up most."""
    for rows in (63, 64):
        x = np.random.default_rng(0).standard_normal((rows, 5000)).astype(np.float32)
        x[:16] += np.float32(step)
        wanted = getattr(oracle, f"{op}_forward")(x, **options)[0]
        got = getattr(functional, f"{op}_forward")(x, **options)[0]
        assert_within(CONTRACT_Y, got, wanted, {}, f"{rows} rows")


@pytest.mark.parametrize("eps", [0.0, 1e-6, 1e-4, 0.1, 10.0])
@pytest.mark.parametrize("op", NORMS)
def test_norms_are_accurate_with_any_eps(op: str, eps: float) -> None:
    rng = np.random.default_rng(3)
    for scale in (1.0, 1e-3):
        x = (scale * rng.standard_normal((33, 65))).astype(np.float32)
        if op in ROW_NORMS:
            assert_forward_and_backward(op, x, eps)
            assert_forward_and_backward(op, x, eps, axis=0)
        elif op == "batch_norm":
            assert_forward_and_backward(op, x, eps, channel_axis=1)
        else:
            groups = {"num_groups": 11} if op == "group_norm" else {}
            assert_forward_and_backward(op, x[np.newaxis], eps, **groups, channel_axis=1)


@pytest.mark.parametrize(
    ("op", "options"),
    [
        ("batch_norm_forward", {"unbiased": False}),
        ("batch_norm_forward", {"unbiased": True}),
        ("instance_norm_forward", {}),
    ],
)
@pytest.mark.parametrize("offset", [10.0, 1e6])
def test_running_statistics_stay_accurate_over_many_batches(offset: float, op: str, options: dict[str, bool]) -> None:
    """The oracle starts each step from our state: only the rounding of that step counts."""
    rng = np.random.default_rng(8)
    for isa in each_isa():
        mean, var = np.zeros(33, np.float32), np.ones(33, np.float32)
        for _ in range(30):
            x = (offset + rng.standard_normal((9, 33, 5)) * 2).astype(np.float32)
            mean64, var64 = mean.astype(np.float64), var.astype(np.float64)
            getattr(oracle, op)(x, running_mean=mean64, running_var=var64, **options)
            getattr(functional, op)(x, running_mean=mean, running_var=var, **options)
            assert_within(RUNNING, mean, mean64, {}, isa)
            assert_within(RUNNING, var, var64, {}, isa)
        assert abs(var.mean() - 4.0) < 1.0
