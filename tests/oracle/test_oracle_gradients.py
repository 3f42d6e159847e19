"""Every backward of the oracle against central differences of its forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

from cregkit import oracle

Array: TypeAlias = np.ndarray[Any, Any]

# The difference quotient is off by STEP**2 / 6 * f''' and by float64 rounding over STEP: some 1e-10 for values near 1.
STEP = 1e-5
TOLERANCE = 1e-8

ROW_SHAPES = [(5,), (3, 5), (2, 3, 5), (2, 1, 3, 5), (2, 1, 2, 2, 5)]
BATCH_SHAPES = [(5, 3), (4, 3, 2), (2, 3, 2, 3), (2, 3, 2, 1, 3)]
EPSILONS = [0.0, 1e-5, 0.5]


def central_differences(f: Callable[[Array], Array], at: Array, dy: Array) -> Array:
    """Gradient of sum(dy * f(at)) with respect to each element of `at`."""
    gradient = np.empty_like(at)
    for index in np.ndindex(*at.shape):
        above, below = at.copy(), at.copy()
        above[index] += STEP
        below[index] -= STEP
        gradient[index] = np.sum(dy * (f(above) - f(below))) / (2 * STEP)
    return gradient


def assert_gradient(actual: Array | None, f: Callable[[Array], Array], at: Array, dy: Array) -> None:
    expected = central_differences(f, at, dy)
    assert actual is not None
    assert actual.dtype == np.float64
    assert actual.shape == expected.shape
    assert np.max(np.abs(actual - expected)) <= TOLERANCE * max(1.0, np.max(np.abs(expected)))


def draw(*shapes: tuple[int, ...]) -> list[Array]:
    """Independent arrays; read-only, so that an op that writes to its inputs fails."""
    rng = np.random.default_rng(10)
    arrays = [rng.standard_normal(shape) + 0.5 for shape in shapes]
    for array in arrays:
        array.setflags(write=False)
    return arrays


def in_layout(shape: tuple[int, ...], channel_axis: int) -> tuple[int, ...]:
    """A channels-first shape in the layout of `channel_axis`."""
    return shape if channel_axis == 1 else (shape[0], *shape[2:], shape[1])


@pytest.mark.parametrize("shape", ROW_SHAPES)
@pytest.mark.parametrize("eps", EPSILONS)
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shift", [False, True])
def test_gradients_of_layer_norm_match_central_differences(
    shape: tuple[int, ...], eps: float, affine: bool, shift: bool
) -> None:
    x, dy, scale, beta = draw(shape, shape, shape[-1:], shape[-1:])
    gamma = scale if affine else None
    _, mean, rstd = oracle.layer_norm_forward(x, gamma, beta if shift else None, eps)
    dx, dgamma, dbeta = oracle.layer_norm_backward(dy, x, mean, rstd, gamma)
    assert_gradient(dx, lambda at: oracle.layer_norm(at, gamma, beta, eps), x, dy)
    if gamma is None:
        assert dgamma is None
        assert dbeta is None
    else:
        assert_gradient(dgamma, lambda at: oracle.layer_norm(x, at, beta, eps), gamma, dy)
        assert_gradient(dbeta, lambda at: oracle.layer_norm(x, gamma, at, eps), beta, dy)


@pytest.mark.parametrize("shape", ROW_SHAPES)
@pytest.mark.parametrize("eps", EPSILONS)
@pytest.mark.parametrize("affine", [False, True])
def test_gradients_of_rms_norm_match_central_differences(shape: tuple[int, ...], eps: float, affine: bool) -> None:
    x, dy, scale = draw(shape, shape, shape[-1:])
    gamma = scale if affine else None
    _, rstd = oracle.rms_norm_forward(x, gamma, eps)
    dx, dgamma = oracle.rms_norm_backward(dy, x, rstd, gamma)
    assert_gradient(dx, lambda at: oracle.rms_norm(at, gamma, eps), x, dy)
    if gamma is None:
        assert dgamma is None
    else:
        assert_gradient(dgamma, lambda at: oracle.rms_norm(x, at, eps), gamma, dy)


AXES = (
    ((3, 4), (0, 1)), ((3, 2, 4), (-1, -2)), ((2, 3, 2, 2), (1, 3, 2)),
    ((3, 4), 0), ((2, 3, 4), 1), ((2, 3, 2, 2), 1), ((2, 3, 2, 2), (2, 1)), ((2, 3, 4), (0, 1)),
)  # fmt: skip


@pytest.mark.parametrize(("shape", "axis"), AXES)
def test_gradients_of_norms_over_other_axes_match_central_differences(shape: tuple[int, ...], axis: Any) -> None:
    named = {a % len(shape) for a in np.atleast_1d(axis)}
    features = tuple(size for a, size in enumerate(shape) if a in named)
    x, dy, gamma, beta = draw(shape, shape, features, features)
    _, mean, rstd = oracle.layer_norm_forward(x, gamma, beta, axis=axis)
    assert mean.shape == rstd.shape == tuple(size for a, size in enumerate(shape) if a not in named)
    dx, dgamma, dbeta = oracle.layer_norm_backward(dy, x, mean, rstd, gamma, axis=axis)
    assert_gradient(dx, lambda at: oracle.layer_norm(at, gamma, beta, axis=axis), x, dy)
    assert_gradient(dgamma, lambda at: oracle.layer_norm(x, at, beta, axis=axis), gamma, dy)
    assert_gradient(dbeta, lambda at: oracle.layer_norm(x, gamma, at, axis=axis), beta, dy)
    _, rstd = oracle.rms_norm_forward(x, gamma, axis=axis)
    dx, dgamma = oracle.rms_norm_backward(dy, x, rstd, gamma, axis=axis)
    assert_gradient(dx, lambda at: oracle.rms_norm(at, gamma, axis=axis), x, dy)
    assert_gradient(dgamma, lambda at: oracle.rms_norm(x, at, axis=axis), gamma, dy)


@pytest.mark.parametrize("gain_offset", [1.0, -0.5])
def test_gradients_of_rms_norm_with_a_gain_offset_match_central_differences(gain_offset: float) -> None:
    x, dy, gamma = draw((3, 5), (3, 5), (5,))
    _, rstd = oracle.rms_norm_forward(x, gamma, gain_offset=gain_offset)
    dx, dgamma = oracle.rms_norm_backward(dy, x, rstd, gamma, gain_offset=gain_offset)
    assert_gradient(dx, lambda at: oracle.rms_norm(at, gamma, gain_offset=gain_offset), x, dy)
    assert_gradient(dgamma, lambda at: oracle.rms_norm(x, at, gain_offset=gain_offset), gamma, dy)


@pytest.mark.parametrize("shape", BATCH_SHAPES)
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("eps", EPSILONS)
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shift", [False, True])
def test_gradients_of_batch_norm_match_central_differences(
    shape: tuple[int, ...], channel_axis: int, eps: float, affine: bool, shift: bool
) -> None:
    layout = in_layout(shape, channel_axis)
    x, dy, scale, beta = draw(layout, layout, (shape[1],), (shape[1],))
    gamma = scale if affine else None

    def forward(at_x: Array, at_gamma: Array | None, at_beta: Array | None) -> tuple[Array, Array, Array]:
        return oracle.batch_norm_forward(at_x, at_gamma, at_beta, eps=eps, channel_axis=channel_axis)

    _, mean, rstd = forward(x, gamma, beta if shift else None)
    dx, dgamma, dbeta = oracle.batch_norm_backward(dy, x, mean, rstd, gamma, channel_axis=channel_axis)
    assert_gradient(dx, lambda at: forward(at, gamma, beta)[0], x, dy)
    if gamma is None:
        assert dgamma is None
        assert dbeta is None
    else:
        assert_gradient(dgamma, lambda at: forward(x, at, beta)[0], gamma, dy)
        assert_gradient(dbeta, lambda at: forward(x, gamma, at)[0], beta, dy)


@pytest.mark.parametrize("shape", BATCH_SHAPES)
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("eps", EPSILONS)
@pytest.mark.parametrize("affine", [False, True])
def test_gradients_of_batch_norm_inference_match_central_differences(
    shape: tuple[int, ...], channel_axis: int, eps: float, affine: bool
) -> None:
    layout = in_layout(shape, channel_axis)
    x, dy, scale, beta, mean, deviation = draw(layout, layout, *[(shape[1],)] * 4)
    gamma = scale if affine else None
    var = np.square(deviation) + 0.25

    def forward(at_x: Array, at_gamma: Array | None, at_beta: Array | None) -> Array:
        return oracle.batch_norm(at_x, mean, var, at_gamma, at_beta, eps, channel_axis=channel_axis)

    dx, dgamma, dbeta = oracle.batch_norm_inference_backward(dy, x, mean, var, gamma, eps, channel_axis=channel_axis)
    assert_gradient(dx, lambda at: forward(at, gamma, beta), x, dy)
    if gamma is None:
        assert dgamma is None
        assert dbeta is None
    else:
        assert_gradient(dgamma, lambda at: forward(x, at, beta), gamma, dy)
        assert_gradient(dbeta, lambda at: forward(x, gamma, at), beta, dy)


@pytest.mark.parametrize("shape", [(4, 3), (5, 3), (3, 2, 4), (3, 2, 2, 1, 2)])
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("eps", EPSILONS)
@pytest.mark.parametrize("affine", [False, True])
def test_gradients_of_ghost_batch_norm_match_central_differences(
    shape: tuple[int, ...], channel_axis: int, eps: float, affine: bool
) -> None:
    layout, size = in_layout(shape, channel_axis), 3 if shape[0] == 5 else 2
    x, dy, scale, beta = draw(layout, layout, (shape[1],), (shape[1],))
    gamma = scale if affine else None

    def forward(at_x: Array, at_gamma: Array | None, at_beta: Array | None) -> tuple[Array, Array, Array]:
        return oracle.ghost_batch_norm_forward(at_x, size, at_gamma, at_beta, eps=eps, channel_axis=channel_axis)

    _, mean, rstd = forward(x, gamma, None)
    dx, dgamma, dbeta = oracle.ghost_batch_norm_backward(dy, x, size, mean, rstd, gamma, channel_axis=channel_axis)
    assert_gradient(dx, lambda at: forward(at, gamma, beta)[0], x, dy)
    if gamma is None:
        assert dgamma is None
        assert dbeta is None
    else:
        assert_gradient(dgamma, lambda at: forward(x, at, beta)[0], gamma, dy)
        assert_gradient(dbeta, lambda at: forward(x, gamma, at)[0], beta, dy)


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 3), (1, 6, 2, 2), (2, 6, 1, 2, 1)])
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("num_groups", [1, 2])
@pytest.mark.parametrize("eps", EPSILONS)
@pytest.mark.parametrize("affine", [False, True])
def test_gradients_of_group_norm_match_central_differences(
    shape: tuple[int, ...], channel_axis: int, num_groups: int, eps: float, affine: bool
) -> None:
    layout = in_layout(shape, channel_axis)
    x, dy, scale, beta = draw(layout, layout, (6,), (6,))
    gamma = scale if affine else None

    def forward(at_x: Array, at_gamma: Array | None, at_beta: Array | None) -> tuple[Array, Array, Array]:
        return oracle.group_norm_forward(at_x, num_groups, at_gamma, at_beta, eps, channel_axis=channel_axis)

    _, mean, rstd = forward(x, gamma, None)
    dx, dgamma, dbeta = oracle.group_norm_backward(dy, x, mean, rstd, gamma, channel_axis=channel_axis)
    assert_gradient(dx, lambda at: forward(at, gamma, beta)[0], x, dy)
    if gamma is None:
        assert dgamma is None
        assert dbeta is None
    else:
        assert_gradient(dgamma, lambda at: forward(x, at, beta)[0], gamma, dy)
        assert_gradient(dbeta, lambda at: forward(x, gamma, at)[0], beta, dy)


@pytest.mark.parametrize("shape", [(4, 3, 5), (2, 3, 2, 3), (2, 3, 2, 1, 3)])
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_gradients_of_instance_norm_match_central_differences(
    shape: tuple[int, ...], channel_axis: int, eps: float
) -> None:
    layout = in_layout(shape, channel_axis)
    x, dy, gamma, beta = draw(layout, layout, (shape[1],), (shape[1],))

    def forward(at_x: Array, at_gamma: Array, at_beta: Array) -> Array:
        return oracle.instance_norm(at_x, at_gamma, at_beta, eps, channel_axis=channel_axis)

    _, mean, rstd = oracle.instance_norm_forward(x, gamma, eps=eps, channel_axis=channel_axis)
    dx, dgamma, dbeta = oracle.instance_norm_backward(dy, x, mean, rstd, gamma, channel_axis=channel_axis)
    assert_gradient(dx, lambda at: forward(at, gamma, beta), x, dy)
    assert_gradient(dgamma, lambda at: forward(x, at, beta), gamma, dy)
    assert_gradient(dbeta, lambda at: forward(x, gamma, at), beta, dy)


LAST = {"channel_axis": -1}


@pytest.mark.parametrize(
    ("op", "shape", "options"),
    [
        *(("dropout", shape, {}) for shape in ((6,), (4, 3), (2, 3, 4))),
        *(("spatial_dropout", shape, options) for shape in ((4, 3), (2, 3, 4), (2, 3, 2, 2)) for options in ({}, LAST)),
        *(("drop_path", shape, {"mode": mode}) for shape in ((6,), (5, 3), (5, 2, 3)) for mode in ("row", "batch")),
        *(("drop_block", (2, 3, 4, 5), {"block_size": 2} | options) for options in ({}, LAST)),
        *(("alpha_dropout", shape, {}) for shape in ((6,), (2, 3, 4))),
        *(("feature_alpha_dropout", (2, 3, 4), options) for options in ({}, LAST)),
    ],
)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_the_gradients_of_dropouts_match_central_differences(
    op: str, shape: tuple[int, ...], options: dict[str, Any], p: float
) -> None:
    x, dy = draw(shape, shape)
    dx = getattr(oracle, f"{op}_backward")(dy, p, seed=1, offset=7, **options)
    assert_gradient(dx, lambda at: getattr(oracle, op)(at, p, seed=1, offset=7, **options), x, dy)


@pytest.mark.parametrize("shape", [(6,), (4, 3), (2, 3, 4)])
def test_the_gradient_of_the_l2_penalty_matches_central_differences(shape: tuple[int, ...]) -> None:
    (w,) = draw(shape)
    dw = oracle.l2_gradient(w, 0.3)
    assert_gradient(dw, lambda at: np.array(oracle.l2_penalty(at, 0.3)), w, np.array(1.0))


@pytest.mark.parametrize("scale", [3e38, 1e-45])
def test_without_eps_the_gradient_of_an_extreme_row_is_that_of_the_scaled_row(scale: float) -> None:
    """Without eps a norm does not depend on the scale of x; dx is divided by it."""
    x, dy, gamma = draw((3, 5), (3, 5), (5,))
    _, mean, rstd = oracle.layer_norm_forward(x, eps=0.0)
    _, scaled_mean, scaled_rstd = oracle.layer_norm_forward(x * scale, eps=0.0)
    ordinary = oracle.layer_norm_backward(dy, x, mean, rstd, gamma)
    extreme = oracle.layer_norm_backward(dy, x * scale, scaled_mean, scaled_rstd, gamma)
    rms_ordinary = oracle.rms_norm_backward(dy, x, oracle.rms_norm_forward(x, eps=0.0)[1], gamma)
    rms_extreme = oracle.rms_norm_backward(dy, x * scale, oracle.rms_norm_forward(x * scale, eps=0.0)[1], gamma)
    for ours, theirs in [(extreme, ordinary), (rms_extreme, rms_ordinary)]:
        assert np.max(np.abs(ours[0] * scale - theirs[0])) <= 1e-13 * np.max(np.abs(theirs[0]))
        assert np.max(np.abs(ours[1] - theirs[1])) <= 1e-13 * np.max(np.abs(theirs[1]))
