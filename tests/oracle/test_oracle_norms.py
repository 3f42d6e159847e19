"""The normalisation forwards against their formulas in 60-digit decimals, at ordinary and extreme magnitudes."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any, TypeAlias

import numpy as np
import pytest

from cregkit import oracle

Array: TypeAlias = np.ndarray[Any, Any]

COLS = 37
# Rows of float32 values: scale, offset, eps and the relative tolerance of y. That is a few roundings of float64, but
# a mean of 1e6 is itself known only to half a unit in its last place, 6e-11, which y = (x - mean) * rstd passes on.
ROWS = {
    "ordinary": (1.0, 0.0, 1e-5, 2e-15),
    "large_eps": (1.0, 0.5, 10.0, 2e-15),
    "offset": (1.0, 1e6, 1e-5, 1e-10),
    "huge": (3e38 / 4, 0.0, 0.0, 2e-15),
    "subnormal": (1e-45 * 3, 0.0, 0.0, 2e-15),
}


def row(case: str) -> tuple[Array, float, float]:
    scale, offset, eps, tolerance = ROWS[case]
    unit = np.random.default_rng(3).standard_normal(COLS).clip(-4, 4)
    return (scale * unit + offset).astype(np.float32), eps, tolerance


def exact_standardise(values: Array, eps: float, centre: bool) -> tuple[Array, float, float]:
    """(xhat, mean, rstd) of one row, rounded to float64 once, at the end; `centre` tells layer norm from RMS norm."""
    with localcontext() as context:
        context.prec = 60
        x = [Decimal(float(value)) for value in values]
        mean = sum(x) / len(x) if centre else Decimal(0)
        rstd = 1 / (sum((value - mean) ** 2 for value in x) / len(x) + Decimal(eps)).sqrt()
        return np.array([float((value - mean) * rstd) for value in x]), float(mean), float(rstd)


def assert_close(actual: Array, expected: Array, tolerance: float) -> None:
    """Largest error within `tolerance` of the largest magnitude; a NaN fails."""
    assert np.shape(actual) == np.shape(expected)
    assert np.max(np.abs(actual - expected)) <= tolerance * np.max(np.abs(expected))


@pytest.mark.parametrize("case", ROWS)
def test_layer_norm_is_exact(case: str) -> None:
    values, eps, tolerance = row(case)
    xhat, mean, rstd = exact_standardise(values, eps, centre=True)
    y, mean64, rstd64 = oracle.layer_norm_forward(np.stack([values, values]), eps=eps)
    assert y.dtype == mean64.dtype == rstd64.dtype == np.float64
    assert mean64.shape == rstd64.shape == (2,)
    for i in range(2):
        assert_close(y[i], xhat, tolerance)
        assert abs(mean64[i] - mean) <= 2e-16 * float(np.max(np.abs(values)))
        assert abs(rstd64[i] - rstd) <= 2e-15 * rstd
    assert np.array_equal(oracle.layer_norm(np.stack([values, values]), eps=eps), y)


@pytest.mark.parametrize("case", ROWS)
def test_rms_norm_is_exact(case: str) -> None:
    values, eps, _ = row(case)
    xhat, _, rstd = exact_standardise(values, eps, centre=False)
    y, rstd64 = oracle.rms_norm_forward(np.stack([values, values]), eps=eps)
    assert y.dtype == rstd64.dtype == np.float64
    assert rstd64.shape == (2,)
    for i in range(2):
        assert_close(y[i], xhat, 2e-15)
        assert abs(rstd64[i] - rstd) <= 2e-15 * rstd
    assert np.array_equal(oracle.rms_norm(np.stack([values, values]), eps=eps), y)


@pytest.mark.parametrize("case", ROWS)
@pytest.mark.parametrize("channel_axis", [1, -1])
def test_batch_norm_is_exact(case: str, channel_axis: int) -> None:
    values, eps, tolerance = row(case)
    xhat, mean, rstd = exact_standardise(values, eps, centre=True)
    x = np.moveaxis(np.stack([values, -values], axis=-1), -1, channel_axis)
    y, mean64, rstd64 = oracle.batch_norm_forward(x, eps=eps, channel_axis=channel_axis)
    assert y.dtype == mean64.dtype == rstd64.dtype == np.float64
    assert mean64.shape == rstd64.shape == (2,)
    y = np.moveaxis(y, channel_axis, -1)
    for c, sign in enumerate([1, -1]):
        assert_close(y[:, c], sign * xhat, tolerance)
        assert abs(mean64[c] - sign * mean) <= 2e-16 * float(np.max(np.abs(values)))
        assert abs(rstd64[c] - rstd) <= 2e-15 * rstd


def test_a_long_channel_at_a_large_offset_is_accurate() -> None:
    """A channel of 2**17 values around 1e6: rounding errors of a running sum must not add up."""
    x = (1e6 + np.random.default_rng(4).standard_normal((2**17, 2))).astype(np.float32)
    xhat, mean, rstd = exact_standardise(x[:, 1], 1e-5, centre=True)
    y, mean64, rstd64 = oracle.batch_norm_forward(x)
    assert abs(mean64[1] - mean) <= 1.2e-10  # a unit in the last place of 1e6
    assert abs(rstd64[1] - rstd) <= 2**16 * 2.0**-53 * rstd  # 2**17 roundings in the sum of squares, halved by the root
    assert np.max(np.abs(y[:, 1] - xhat)) <= 2e-10


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 3, 2, 4), (2, 1, 3, 2, 4)])
def test_gamma_and_beta_scale_and_shift_the_last_axis(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    x, gamma, beta = rng.standard_normal(shape), rng.standard_normal(4), rng.standard_normal(4)
    xhat, mean, rstd = oracle.layer_norm_forward(x)
    assert xhat.shape == shape
    assert mean.shape == rstd.shape == shape[:-1]
    assert np.array_equal(oracle.layer_norm(x, gamma), xhat * gamma)
    assert np.array_equal(oracle.layer_norm(x, None, beta), xhat + beta)
    assert np.array_equal(oracle.layer_norm(x, gamma, beta), xhat * gamma + beta)
    xhat, rstd = oracle.rms_norm_forward(x)
    assert rstd.shape == shape[:-1]
    assert np.array_equal(oracle.rms_norm(x, gamma), xhat * gamma)


@pytest.mark.parametrize("axis", [(-2, -1), (-1, -2), (1, 2), (2, -2)])
def test_a_norm_over_several_axes_is_that_of_the_flattened_rows(axis: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    x, (gamma, beta) = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 4))
    y, mean, rstd = oracle.layer_norm_forward(x, gamma, beta, axis=axis)
    rows, row_mean, row_rstd = oracle.layer_norm_forward(x.reshape(2, 12), gamma.ravel(), beta.ravel())
    assert_close(y.reshape(2, 12), rows, 2e-15)
    assert_close(mean, row_mean, 2e-15)
    assert_close(rstd, row_rstd, 2e-15)
    y, rstd = oracle.rms_norm_forward(x, gamma, axis=axis)
    rows, row_rstd = oracle.rms_norm_forward(x.reshape(2, 12), gamma.ravel())
    assert_close(y.reshape(2, 12), rows, 2e-15)
    assert_close(rstd, row_rstd, 2e-15)


AXES = [
    ((3, 4), 0),
    ((2, 3, 4), 1),
    ((2, 3, 2, 2), 1),
    ((2, 3, 4), (0, 1)),
    ((2, 3, 4, 2), (2, 1)),
    ((2, 3, 4), (0, 2)),
]


@pytest.mark.parametrize(("shape", "axis"), AXES)
def test_a_norm_over_any_axes_is_that_of_the_moved_axes(shape: tuple[int, ...], axis: Any) -> None:
    rng = np.random.default_rng(5)
    named = sorted(np.atleast_1d(axis).tolist())
    last = tuple(range(-len(named), 0))
    x, (gamma, beta) = rng.standard_normal(shape), rng.standard_normal((2, *(shape[a] for a in named)))
    moved = np.moveaxis(x, named, last)
    y, mean, rstd = oracle.layer_norm_forward(x, gamma, beta, axis=axis)
    moved_y, *statistics = oracle.layer_norm_forward(moved, gamma, beta, axis=last)
    assert_close(np.moveaxis(y, named, last), moved_y, 2e-15)
    assert_close(mean, statistics[0], 2e-15)
    assert_close(rstd, statistics[1], 2e-15)
    y, rstd = oracle.rms_norm_forward(x, gamma, axis=axis, gain_offset=1.0)
    moved_y, moved_rstd = oracle.rms_norm_forward(moved, gamma, axis=last, gain_offset=1.0)
    assert_close(np.moveaxis(y, named, last), moved_y, 2e-15)
    assert_close(rstd, moved_rstd, 2e-15)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 2, 4)])
def test_a_norm_over_channels_is_that_of_torch_after_permute(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    x, dy = rng.standard_normal((2, *shape))
    parameters = list(rng.standard_normal((2, 3)))
    for norm, count, eps in (("layer_norm", 2, 1e-5), ("rms_norm", 1, 1e-6)):
        leaves = [torch.tensor(a, requires_grad=True) for a in (x, *parameters[:count])]
        moved = leaves[0].movedim(1, -1)
        wanted = getattr(torch.nn.functional, norm)(moved, (3,), *leaves[1:], eps=eps).movedim(-1, 1)
        gradients = torch.autograd.grad(wanted, leaves, torch.tensor(dy))
        y, *saved = getattr(oracle, f"{norm}_forward")(x, *parameters[:count], axis=1)
        assert_close(y, wanted.detach().numpy(), 1e-14)
        got = getattr(oracle, f"{norm}_backward")(dy, x, *saved, parameters[0], axis=1)
        for one, other in zip(got, gradients, strict=True):
            assert_close(one, other.numpy(), 1e-14)


def test_a_gain_offset_is_added_to_gamma() -> None:
    x, gamma = np.random.default_rng(5).standard_normal((3, 4)), np.array([-1.0, 0.0, 0.5, 2.0])
    assert np.array_equal(oracle.rms_norm(x, gamma, gain_offset=1.0), oracle.rms_norm(x, gamma + 1.0))


@pytest.mark.parametrize("spatial", [(), (3,), (3, 2), (3, 2, 2)])
@pytest.mark.parametrize("channel_axis", [1, -1])
def test_batch_norm_of_a_channel_is_layer_norm_of_a_row(spatial: tuple[int, ...], channel_axis: int) -> None:
    """Each channel, as one row, gives the results of layer norm; gamma and beta are per channel."""
    rng = np.random.default_rng(6)
    shape = (5, 4, *spatial) if channel_axis == 1 else (5, *spatial, 4)
    x, gamma, beta = rng.standard_normal(shape), rng.standard_normal(4), rng.standard_normal(4)
    y, mean, rstd = oracle.batch_norm_forward(x, gamma, beta, channel_axis=channel_axis)
    inference = oracle.batch_norm(x, mean, rstd**-2 - 1e-5, gamma, beta, channel_axis=channel_axis)
    assert y.shape == inference.shape == shape
    assert y.flags.c_contiguous
    for c in range(4):
        channel = x.take(c, axis=channel_axis)
        row_y, row_mean, row_rstd = oracle.layer_norm_forward(channel.reshape(-1))
        assert_close(y.take(c, axis=channel_axis).reshape(-1), row_y * gamma[c] + beta[c], 1e-14)
        assert_close(inference.take(c, axis=channel_axis), y.take(c, axis=channel_axis), 1e-14)
        assert abs(mean[c] - row_mean) <= 1e-15
        assert abs(rstd[c] - row_rstd) <= 1e-14


def test_batch_norm_inference_follows_its_formula() -> None:
    x = np.array([[1.0, 2.0, 3.0], [5.0, 6.0, np.inf]])
    mean, var = np.array([1.0, 2.0, 4.0]), np.array([3.0, 8.0, 0.0])
    assert oracle.batch_norm(x, mean, var, eps=1.0).tolist() == [[0.0, 0.0, -1.0], [2.0, 4 / 3, np.inf]]
    y = oracle.batch_norm(x, mean, var, np.array([2.0, 3.0, 1.0]), np.array([1.0, 0.0, 5.0]), eps=1.0)
    assert y.tolist() == [[1.0, 0.0, 4.0], [5.0, 4.0, np.inf]]


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_statistics_move_by_momentum(unbiased: bool, dtype: type[np.floating[Any]]) -> None:
    x = np.array([[[1.0, 5.0], [0.0, 0.0]], [[3.0, 7.0], [0.0, 8.0]]])  # means 4 and 2, biased variances 5 and 12
    running_mean, running_var = np.array([10.0, 20.0], dtype=dtype), np.array([1.0, 2.0], dtype=dtype)
    oracle.batch_norm_forward(x, None, None, running_mean, running_var, 0.25, unbiased=unbiased)
    var = [20 / 3, 16.0] if unbiased else [5.0, 12.0]
    assert running_mean.dtype == running_var.dtype == dtype
    assert running_mean.tolist() == [8.5, 15.5]
    assert_close(running_var, np.array([0.75 + var[0] / 4, 1.5 + var[1] / 4]), np.finfo(dtype).eps)


def test_each_running_statistic_is_optional() -> None:
    x = np.array([[0.0], [2.0]])
    running_mean, running_var = np.zeros(1), np.ones(1)
    oracle.batch_norm_forward(x, running_mean=running_mean)
    oracle.batch_norm_forward(x, running_var=running_var, momentum=0.5)
    assert running_mean.tolist() == [0.1]
    assert running_var.tolist() == [1.0]
    running_var[:] = 3.0
    oracle.batch_norm_forward(x, running_var=running_var, momentum=0.5)
    assert running_var.tolist() == [2.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_stay_in_their_row(bad: float) -> None:
    x = np.random.default_rng(7).standard_normal((3, 5))
    spoilt = x.copy()
    spoilt[1, 2] = bad
    dy = np.ones((3, 5))
    y, mean, rstd = oracle.layer_norm_forward(spoilt)
    dx, _, _ = oracle.layer_norm_backward(dy, spoilt, mean, rstd)
    assert np.array_equal(mean[1], bad, equal_nan=True)
    assert np.isnan(rstd[1])
    rms_y, rms_rstd = oracle.rms_norm_forward(spoilt)
    rms_dx, _ = oracle.rms_norm_backward(dy, spoilt, rms_rstd)
    whole = {
        "y": (y, oracle.layer_norm(x)),
        "dx": (dx, oracle.layer_norm_backward(dy, x, *oracle.layer_norm_forward(x)[1:])[0]),
        "rms_dx": (rms_dx, oracle.rms_norm_backward(dy, x, oracle.rms_norm_forward(x)[1])[0]),
    }
    for actual, clean in whole.values():
        assert np.isnan(actual[1]).all()
        assert np.array_equal(actual[[0, 2]], clean[[0, 2]])
    assert np.array_equal(rms_y[[0, 2]], oracle.rms_norm(x)[[0, 2]])
    limit = np.full(5, np.nan) if np.isnan(bad) else np.array([0, 0, np.nan, 0, 0])
    assert np.array_equal(rms_y[1], limit, equal_nan=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_stay_in_their_channel(bad: float) -> None:
    x = np.random.default_rng(8).standard_normal((4, 3, 2))
    spoilt = x.copy()
    spoilt[2, 1, 0] = bad
    dy, gamma = np.random.default_rng(9).standard_normal(x.shape), np.ones(3)
    running_mean, running_var = np.zeros(3), np.ones(3)
    y, mean, rstd = oracle.batch_norm_forward(spoilt, gamma, None, running_mean, running_var)
    dx, dgamma, dbeta = oracle.batch_norm_backward(dy, spoilt, mean, rstd, gamma)
    clean_y, clean_mean, clean_rstd = oracle.batch_norm_forward(x, gamma)
    clean_dx, clean_dgamma, clean_dbeta = oracle.batch_norm_backward(dy, x, clean_mean, clean_rstd, gamma)
    assert np.array_equal(mean[1], bad, equal_nan=True)
    assert np.array_equal(mean[[0, 2]], clean_mean[[0, 2]])
    pairs = [(rstd, clean_rstd), (dgamma, clean_dgamma), (y[0], clean_y[0]), (dx[0], clean_dx[0])]
    for actual, clean in pairs:
        assert np.isnan(actual[1]).all()
        assert np.array_equal(actual[[0, 2]], clean[[0, 2]])
    assert np.isnan(y[:, 1]).all()
    assert np.isnan(dx[:, 1]).all()
    assert np.array_equal(dbeta, clean_dbeta)
    assert np.array_equal(running_mean[[0, 2]], 0.1 * clean_mean[[0, 2]])
    assert np.array_equal(running_mean[1], bad, equal_nan=True)
    assert np.isnan(running_var[1])
    assert np.isfinite(running_var[[0, 2]]).all()


def test_constant_rows_become_zero() -> None:
    """The mean of equal values is exactly that value."""
    x = np.full((2, 1000), 1 / 3)
    y, mean, rstd = oracle.layer_norm_forward(x)
    assert np.array_equal(y, np.zeros_like(x))
    assert mean.tolist() == [1 / 3, 1 / 3]
    assert_close(rstd, np.full(2, 1e-5**-0.5), 1e-15)
    assert np.array_equal(oracle.rms_norm(np.zeros((2, 3))), np.zeros((2, 3)))


def test_constant_rows_with_eps_0_become_nan() -> None:
    x = np.full((2, 1000), 1 / 3)
    y, mean, rstd = oracle.layer_norm_forward(x, eps=0.0)
    assert np.isinf(rstd).all()
    assert np.isnan(y).all()
    assert np.isnan(oracle.layer_norm_backward(x, x, mean, rstd)[0]).all()
    assert np.isnan(oracle.rms_norm(np.zeros((2, 3)), eps=0.0)).all()
    assert np.isnan(oracle.batch_norm_forward(x, eps=0.0)[0]).all()


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4)])
def test_zero_rows_give_empty_results_and_zero_sums(shape: tuple[int, ...]) -> None:
    x, gamma, beta = np.zeros(shape), np.ones(4), np.ones(4)
    y, mean, rstd = oracle.layer_norm_forward(x, gamma, beta)
    dx, dgamma, dbeta = oracle.layer_norm_backward(x, x, mean, rstd, gamma)
    assert y.shape == dx.shape == shape
    assert mean.shape == rstd.shape == shape[:-1]
    assert dgamma.tolist() == dbeta.tolist() == [0.0] * 4
    y, rstd = oracle.rms_norm_forward(x, gamma)
    dx, dgamma = oracle.rms_norm_backward(x, x, rstd, gamma)
    assert y.shape == dx.shape == shape
    assert rstd.shape == shape[:-1]
    assert dgamma.tolist() == [0.0] * 4
    assert oracle.batch_norm(x, np.zeros(4), np.ones(4), channel_axis=-1).shape == shape
