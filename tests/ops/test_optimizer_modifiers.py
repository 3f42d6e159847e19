"""What a step does besides its update: clipped gradients, L1, max-norm, moving averages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import Array

from cregkit import functional, oracle

FLOAT32 = np.finfo(np.float32)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def step(op: str, state: dict[str, Array], dw: Array, **modifiers: Any) -> dict[str, Array]:
    """The arrays after a step; those given are not changed."""
    after = {name: array.copy() for name, array in state.items()}
    w, m, v = (after[name] for name in ("w", "m", "v"))
    if "average" in after:
        modifiers["average"] = after["average"]
    if op == "sgd_step":
        functional.sgd_step(w, dw, 0.1, momentum=0.9, velocity=m, weight_decay=0.1, **modifiers)
    else:
        functional.adamw_step(w, dw, m, v, 3, 0.1, **modifiers)
    return after


def some_state(n: int) -> tuple[dict[str, Array], Array]:
    w, dw, m, v = normal(4, n)
    return {"w": w, "m": m, "v": np.abs(v)}, dw


each_step = pytest.mark.parametrize("op", ["sgd_step", "adamw_step"])


@each_step
@pytest.mark.parametrize(
    "modifiers", [{"clipvalue": 1e30}, {"average": normal(131, seed=5)}, {"average": normal(131, seed=5), "l1": 1e-38}]
)
def test_modifiers_that_change_no_number_change_no_bit(op: str, modifiers: dict[str, Any], isa: str) -> None:
    state, dw = some_state(131)
    averages = {name: modifiers[name] for name in modifiers.keys() & {"average"}}
    others = {name: value for name, value in modifiers.items() if name not in averages}
    plain, modified = step(op, state, dw), step(op, state | averages, dw, **others)
    assert all(plain[name].tobytes() == modified[name].tobytes() for name in plain)


@each_step
def test_a_gradient_clipped_and_scaled_by_the_step_gives_the_bits_of_one_clipped_before(op: str, isa: str) -> None:
    state, dw = some_state(131)
    before = np.clip(dw, np.float32(-0.5), np.float32(0.5)) * np.float32(0.3)
    found, wanted = step(op, state, dw, clipvalue=0.5, scale=0.3), step(op, state, before)
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)


@each_step
def test_l1_takes_weights_to_exact_zeros_and_the_others_by_the_threshold(op: str, isa: str) -> None:
    state, dw = some_state(1001)
    plain, shrunk = step(op, state, dw)["w"], step(op, state, dw, l1=2.0)["w"]
    threshold = np.float32(0.1 * 2.0)
    np.testing.assert_array_equal(shrunk, np.sign(plain) * np.maximum(np.abs(plain) - threshold, 0))
    zeros = np.abs(plain) <= threshold
    assert zeros.sum() > 50
    np.testing.assert_array_equal(shrunk == 0, zeros)


def test_a_threshold_beyond_float32_makes_all_weights_zero() -> None:
    w = normal(20)
    functional.sgd_step(w, np.zeros_like(w), 3e38, l1=3e38)
    assert not w.any()


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.5, 0.9, 0.999, 1.0])
def test_an_average_moves_between_the_old_one_and_the_weights(momentum: float, isa: str) -> None:
    w, average = normal(2, 1001)
    expected = momentum * average.astype(np.float64) + (1 - momentum) * w.astype(np.float64)
    moved = average.copy()
    functional.sgd_step(w, np.zeros_like(w), 0.1, average=moved, ema_momentum=momentum)
    scale = np.maximum(np.abs(average), np.abs(w))
    assert (np.abs(moved - expected) <= 2.0**-23 * scale).all()
    if momentum in (0.0, 1.0):
        np.testing.assert_array_equal(moved, w if momentum == 0.0 else average)


@pytest.mark.parametrize("momentum", [0.1, 0.5, 0.9, 0.999])
def test_an_average_of_constant_weights_does_not_drift(momentum: float, isa: str) -> None:
    w = normal(131)
    average = w.copy()
    for _ in range(1000):
        functional.sgd_step(w, np.zeros_like(w), 0.1, average=average, ema_momentum=momentum)
    np.testing.assert_array_equal(average, w)


@pytest.mark.parametrize("momentum", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_an_average_of_the_largest_numbers_is_finite(momentum: float, isa: str) -> None:
    w, average = np.full(33, FLOAT32.max), np.full(33, -FLOAT32.max)
    functional.sgd_step(w, np.zeros_like(w), 0.1, average=average, ema_momentum=momentum)
    np.testing.assert_allclose(average, (1 - 2 * momentum) * float(FLOAT32.max), rtol=1e-6)


# ---- sum_squares ----


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("clipvalue", [None, 0.5, 1e30])
def test_a_sum_of_squares_is_finite_if_and_only_if_all_elements_are(
    bad: float, clipvalue: float | None, isa: str
) -> None:
    for n in (1, 63, 4097, 9001):
        x = normal(n) * np.float32(1e15)
        assert np.isfinite(functional.sum_squares(x, clipvalue=clipvalue))
        for at in {0, n // 2, n - 1}:
            spoilt = x.copy()
            spoilt[at] = bad
            assert not np.isfinite(functional.sum_squares(spoilt, clipvalue=clipvalue))


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1.0, 1e30, 3e38])
@pytest.mark.parametrize("clipvalue", [None, 1e-30, 1e30])
def test_a_sum_of_squares_of_any_magnitude_is_right(scale: float, clipvalue: float | None, isa: str) -> None:
    x = (np.clip(normal(5000), -1, 1) * scale).astype(np.float32)
    expected = oracle.sum_squares(x, clipvalue=clipvalue)
    assert abs(functional.sum_squares(x, clipvalue=clipvalue) - expected) <= 2.0**-22 * expected


# ---- max_norm ----


def norms(w: Array) -> Array:
    return np.sqrt(np.square(w.astype(np.float64)).reshape(len(w), -1).sum(axis=1))


@pytest.mark.parametrize("cols", [1, 2, 3, 17, 64, 1000, 4097, 70_000])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_no_norm_exceeds_its_limit_and_a_second_pass_changes_nothing(cols: int, scale: float, isa: str) -> None:
    w = normal(41, cols) * np.float32(scale)
    before = norms(w)
    limit = float(np.median(before))
    functional.max_norm(w, limit)
    after = norms(w)
    assert (after <= limit).all()
    np.testing.assert_allclose(after, np.minimum(before, limit), rtol=4e-7)
    again = w.copy()
    functional.max_norm(again, limit)
    np.testing.assert_array_equal(again, w)


def test_units_within_the_limit_keep_their_bits(isa: str) -> None:
    w = normal(9, 77)
    limit = float(np.sort(norms(w))[4:6].mean())
    limited = w.copy()
    functional.max_norm(limited, limit)
    within = norms(w) <= limit
    assert within.sum() == 5
    np.testing.assert_array_equal(limited[within], w[within])
    assert (limited[~within] != w[~within]).any(axis=1).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_unit_that_is_not_finite_stays_as_it_is(bad: float, isa: str) -> None:
    w = normal(5, 77)
    w[2, 70] = bad
    expected, limited = w.copy(), w.copy()
    functional.max_norm(limited, 1.0)
    np.testing.assert_array_equal(limited[2], w[2])
    oracle.max_norm(expected, 1.0)
    np.testing.assert_allclose(limited, expected, rtol=1e-6)


def test_a_kernel_of_more_axes_has_the_norm_of_its_unit(isa: str) -> None:
    w = normal(4, 3, 5, 5)
    flat = w.reshape(4, -1).copy()
    functional.max_norm(w, 1.5)
    functional.max_norm(flat, 1.5)
    np.testing.assert_array_equal(w.reshape(4, -1), flat)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_weights_without_units_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"w must have shape \(units, \.\.\.\) with at least two axes, got shape \("):
        functional.max_norm(np.ones(shape, np.float32), 1.0)
