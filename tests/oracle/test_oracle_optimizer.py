"""The penalty and the steps against their papers' formulas, element by element."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import pytest

from cregkit import oracle

Array: TypeAlias = np.ndarray[Any, Any]

LR = 0.05
STEPS = 4


def weights_and_gradients(
    dtype: type[np.floating[Any]] = np.float64, shape: tuple[int, ...] = (2, 3)
) -> tuple[Array, list[Array]]:
    rng = np.random.default_rng(11)
    gradients = [rng.standard_normal(shape) for _ in range(STEPS)]
    for gradient in gradients:
        gradient.setflags(write=False)
    return rng.standard_normal(shape).astype(dtype), gradients


def assert_close(actual: Array, expected: Array) -> None:
    """A few roundings of float64 for each step."""
    assert np.max(np.abs(actual - expected)) <= 1e-15 * STEPS * np.max(np.abs(expected))


def test_the_l2_penalty_is_half_weight_decay_times_the_sum_of_squares() -> None:
    w = np.array([[3.0, -4.0], [12.0, 0.0]])
    penalty = oracle.l2_penalty(w, 0.5)
    assert type(penalty) is float
    assert penalty == 0.25 * 169
    assert oracle.l2_penalty(np.zeros(0), 0.5) == 0.0
    assert oracle.l2_penalty(np.float32([3e38]), 2.0) == float(np.float32(3e38)) ** 2


def test_the_l2_gradient_is_weight_decay_times_w() -> None:
    w = np.array([[3.0, -4.0], [12.0, 0.0]])
    assert oracle.l2_gradient(w, 0.5).tolist() == [[1.5, -2.0], [6.0, 0.0]]


def test_the_l2_penalty_of_nan_is_nan_and_of_inf_is_inf() -> None:
    assert math.isnan(oracle.l2_penalty(np.array([1.0, np.nan]), 0.5))
    assert oracle.l2_penalty(np.array([1.0, np.inf]), 0.5) == math.inf


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [None, 0.0, 0.9])
def test_sgd_follows_its_recurrence(weight_decay: float, momentum: float | None) -> None:
    w, gradients = weights_and_gradients()
    velocity = None if momentum is None else np.zeros_like(w)
    expected, speed = w.copy(), np.zeros_like(w)
    for dw in gradients:
        oracle.sgd_step(w, dw, LR, weight_decay=weight_decay, momentum=momentum or 0.0, velocity=velocity)
        for i in np.ndindex(*w.shape):
            speed[i] = (momentum or 0.0) * speed[i] + dw[i] + weight_decay * expected[i]
            expected[i] -= LR * speed[i]
    assert_close(w, expected)
    if velocity is not None:
        assert_close(velocity, speed)


def test_sgd_with_momentum_needs_a_velocity() -> None:
    w = np.ones(3)
    with pytest.raises(ValueError, match=r"velocity must be an array for momentum=0\.9, got None"):
        oracle.sgd_step(w, w, LR, momentum=0.9)
    assert w.tolist() == [1.0] * 3


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("betas", "eps"), [((0.9, 0.999), 1e-8), ((0.5, 0.7), 0.3)])
def test_adamw_follows_the_paper(decoupled: bool, weight_decay: float, betas: tuple[float, float], eps: float) -> None:
    """Loshchilov and Hutter, algorithm 2."""
    w, gradients = weights_and_gradients()
    m, v = np.zeros_like(w), np.zeros_like(w)
    expected, first, second = w.copy(), np.zeros_like(w), np.zeros_like(w)
    for step, dw in enumerate(gradients, start=1):
        oracle.adamw_step(w, dw, m, v, step, LR, betas=betas, eps=eps, weight_decay=weight_decay, decoupled=decoupled)
        for i in np.ndindex(*w.shape):
            g = dw[i] + (0.0 if decoupled else weight_decay * expected[i])
            first[i] = betas[0] * first[i] + (1 - betas[0]) * g
            second[i] = betas[1] * second[i] + (1 - betas[1]) * g**2
            unbiased_first = first[i] / (1 - betas[0] ** step)
            unbiased_second = second[i] / (1 - betas[1] ** step)
            decay = weight_decay * expected[i] if decoupled else 0.0
            expected[i] -= LR * (unbiased_first / (math.sqrt(unbiased_second) + eps) + decay)
    assert_close(w, expected)
    assert_close(m, first)
    assert_close(v, second)


def test_adamw_has_the_defaults_of_its_paper() -> None:
    ours, theirs = ([np.full(3, 2.0), np.zeros(3), np.zeros(3)] for _ in range(2))
    dw = np.array([1e-8, -1.0, 5.0])
    oracle.adamw_step(ours[0], dw, *ours[1:], 1, LR)
    oracle.adamw_step(
        theirs[0], dw, *theirs[1:], 1, LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, decoupled=True
    )
    assert np.array_equal(ours, theirs)


def test_the_first_step_of_adamw_is_lr_times_g_over_its_magnitude_plus_eps() -> None:
    dw = np.array([1e-8, -1.0, 5.0])
    w, m, v = np.full(3, 2.0), np.zeros(3), np.zeros(3)
    oracle.adamw_step(w, dw, m, v, 1, LR)
    assert_close(w, 2.0 * (1 - LR * 0.01) - LR * dw / (np.abs(dw) + 1e-8))


def test_sgd_on_float32_rounds_each_array_once() -> None:
    """The step is that on the same values in float64, each array rounded at the end.

    Among this many elements, some would differ if the velocity were rounded before it moves w.
    """
    w, (dw, start, *_) = weights_and_gradients(np.float32, (50, 40))
    velocity = start.astype(np.float32)
    wide_w, wide_velocity = w.astype(np.float64), velocity.astype(np.float64)
    for arrays in ((w, velocity), (wide_w, wide_velocity)):
        assert oracle.sgd_step(arrays[0], dw, LR, weight_decay=0.1, momentum=0.9, velocity=arrays[1]) is None
    assert np.array_equal(w, wide_w.astype(np.float32))
    assert np.array_equal(velocity, wide_velocity.astype(np.float32))


def test_adamw_on_float32_rounds_each_array_once() -> None:
    w, (dw, start, *_) = weights_and_gradients(np.float32, (50, 40))
    m, v = start.astype(np.float32), np.square(start).astype(np.float32)
    wide = [array.astype(np.float64) for array in (w, m, v)]
    assert oracle.adamw_step(w, dw, m, v, 3, LR) is None
    oracle.adamw_step(wide[0], dw, wide[1], wide[2], 3, LR)
    for narrow, array in zip((w, m, v), wide, strict=True):
        assert narrow.dtype == np.float32
        assert np.array_equal(narrow, array.astype(np.float32))


def test_a_bad_gradient_stays_in_its_element() -> None:
    dw = np.array([np.inf, 1.0, np.nan])
    w, velocity, m, v = np.ones(3), np.zeros(3), np.zeros(3), np.zeros(3)
    oracle.sgd_step(w, dw, LR, momentum=0.9, velocity=velocity)
    assert np.array_equal(w, [-np.inf, 1 - LR, np.nan], equal_nan=True)
    w[:] = 1.0
    oracle.adamw_step(w, dw, m, v, 1, LR)
    assert np.isnan(w).tolist() == [True, False, True]
    assert np.array_equal(v, [np.inf, 1 - 0.999, np.nan], equal_nan=True)


def test_a_sum_of_squares_clips_each_element_and_sees_what_is_not_finite() -> None:
    x = np.array([3.0, -4.0, 0.5])
    assert oracle.sum_squares(x) == 25.25
    assert oracle.sum_squares(x, clipvalue=1.0) == 2.25
    for bad in (np.inf, -np.inf, np.nan):
        assert not np.isfinite(oracle.sum_squares(np.array([1.0, bad]), clipvalue=1.0))


@pytest.mark.parametrize("adam", [False, True])
def test_modifiers_follow_their_formulas_around_a_step(adam: bool) -> None:
    w, (dw, average, *_) = weights_and_gradients()
    average = average.copy()
    expected, old = w.copy(), average.copy()
    m, v, m2, v2 = (np.zeros_like(w) for _ in range(4))
    options = {"clipvalue": 0.4, "scale": 0.5, "l1": 3.0, "average": average, "ema_momentum": 0.9}
    clipped = [[0.5 * max(-0.4, min(0.4, value)) for value in row] for row in dw]
    if adam:
        oracle.adamw_step(w, dw, m, v, 1, LR, **options)
        oracle.adamw_step(expected, clipped, m2, v2, 1, LR)
    else:
        oracle.sgd_step(w, dw, LR, momentum=0.9, velocity=m, **options)
        oracle.sgd_step(expected, clipped, LR, momentum=0.9, velocity=m2)
    for i in np.ndindex(*w.shape):
        expected[i] = math.copysign(max(abs(expected[i]) - LR * 3.0, 0.0), expected[i])
        old[i] = 0.9 * old[i] + (1 - 0.9) * expected[i]
    assert_close(w, expected)
    assert_close(average, old)
    assert_close(m, m2)


def test_max_norm_scales_the_units_beyond_the_limit_alone() -> None:
    w = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [np.nan, 9.0], [np.inf, 1.0]])
    average = np.zeros_like(w)
    oracle.max_norm(w, 2.5, average=average, ema_momentum=0.75)
    expected = np.array([[1.5, 2.0], [0.3, 0.4], [0.0, 0.0], [np.nan, 9.0], [np.inf, 1.0]])
    np.testing.assert_allclose(w, expected, rtol=1e-15)
    np.testing.assert_allclose(average, 0.25 * expected, rtol=1e-15)
