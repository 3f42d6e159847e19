"""Group norm and instance norm of the oracle against numbers by hand, the other norms and PyTorch in float64."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pytest

from cregkit import oracle

Array: TypeAlias = np.ndarray[Any, Any]

POSITIONS = [(), (5,), (3, 2), (2, 1, 3)]


def arrays(positions: tuple[int, ...], channel_axis: int, channels: int = 6) -> tuple[Array, Array, Array, Array]:
    """x, dy, gamma and beta of two samples."""
    rng = np.random.default_rng(13)
    x, dy = rng.standard_normal((2, 2, channels, *positions))
    gamma, beta = rng.standard_normal((2, channels))
    return in_layout(x, channel_axis), in_layout(dy, channel_axis), gamma, beta


def in_layout(x: Array, channel_axis: int) -> Array:
    """A channels-first array in the layout of `channel_axis`."""
    return np.ascontiguousarray(np.moveaxis(x, 1, channel_axis))


def assert_close(actual: Array | None, expected: Array, tolerance: float = 1e-13) -> None:
    assert actual is not None
    assert actual.shape == expected.shape
    assert np.max(np.abs(actual - expected), initial=0.0) <= tolerance * np.max(np.abs(expected), initial=1.0)


# Two samples of four channels and two positions. The groups of two channels are 1, 3, 5, 7 (mean 4, variance 5),
# 0, 0, 4, 4 (2, 4), 10 four times (10, 0) and -1, 1, -1, 1 (0, 1).
X = np.array([[[1.0, 3.0], [5.0, 7.0], [0.0, 0.0], [4.0, 4.0]], [[10.0, 10.0], [10.0, 10.0], [-1.0, 1.0], [-1.0, 1.0]]])
MEAN, VAR = np.array([[4.0, 2.0], [10.0, 0.0]]), np.array([[5.0, 4.0], [0.0, 1.0]])


@pytest.mark.parametrize("channel_axis", [1, -1])
def test_group_norm_follows_its_formula(channel_axis: int) -> None:
    gamma, beta = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.0, 0.0, -1.0])
    y, mean, rstd = oracle.group_norm_forward(
        in_layout(X, channel_axis), 2, gamma, beta, 4.0, channel_axis=channel_axis
    )
    assert mean.tolist() == MEAN.tolist()
    assert_close(rstd, 1.0 / np.sqrt(VAR + 4.0))
    r5, r8, r9 = 1 / np.sqrt(5.0), 1 / np.sqrt(8.0), 1 / 3
    wanted = [
        [[-3 * r9, -1 * r9], [2 * r9 + 1, 6 * r9 + 1], [-6 * r8, -6 * r8], [8 * r8 - 1, 8 * r8 - 1]],
        [[0.0, 0.0], [1.0, 1.0], [-3 * r5, 3 * r5], [-4 * r5 - 1, 4 * r5 - 1]],
    ]
    assert_close(y, in_layout(np.array(wanted), channel_axis), 1e-15)
    assert np.array_equal(
        oracle.group_norm(in_layout(X, channel_axis), 2, gamma, beta, 4.0, channel_axis=channel_axis), y
    )


def test_group_norm_backward_follows_its_formula() -> None:
    """With eps 4, the last group has rstd r = 1 / sqrt(5) and x_hat -r, r, -r, r; its first value has a gradient."""
    dy = np.zeros_like(X)
    dy[1, 2, 0] = 8.0
    _, mean, rstd = oracle.group_norm_forward(X, 2, eps=4.0)
    dx, dgamma, dbeta = oracle.group_norm_backward(dy, X, mean, rstd, np.array([1.0, 1.0, 5.0, 1.0]))
    r = 1 / np.sqrt(5.0)  # g = 40 at one of four values: mean(g) = 10, mean(g * x_hat) = -10 r
    wanted = np.zeros_like(X)
    wanted[1, 2:] = r * np.array([[40 - 10 - 10 * r * r, -10 + 10 * r * r], [-10 - 10 * r * r, -10 + 10 * r * r]])
    assert_close(dx, wanted, 1e-15)
    assert_close(dgamma, np.array([0.0, 0.0, -8 * r, 0.0]), 1e-15)
    assert_close(dbeta, np.array([0.0, 0.0, 8.0, 0.0]), 1e-15)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("num_groups", [1, 2, 3, 6])
def test_a_group_of_a_sample_is_normalised_as_a_row(
    num_groups: int, positions: tuple[int, ...], channel_axis: int
) -> None:
    x, dy, gamma, beta = arrays(positions, channel_axis)
    y, mean, rstd = oracle.group_norm_forward(x, num_groups, gamma, beta, channel_axis=channel_axis)
    dx, dgamma, dbeta = oracle.group_norm_backward(dy, x, mean, rstd, gamma, channel_axis=channel_axis)
    assert y.shape == dx.shape == x.shape
    assert mean.shape == rstd.shape == (2, num_groups)
    n = np.prod(positions, dtype=int)

    def rows(a: Array) -> Array:
        """One row per group: its channels one after another."""
        return np.moveaxis(a, channel_axis, 1).reshape(2, num_groups, -1)

    gain, bias = (np.repeat(a, n).reshape(num_groups, -1) for a in (gamma, beta))
    row_y, row_mean, row_rstd = oracle.layer_norm_forward(rows(x))
    assert_close(rows(y), row_y * gain + bias)
    assert_close(mean, row_mean)
    assert_close(rstd, row_rstd)
    assert_close(rows(dx), oracle.layer_norm_backward(rows(dy) * gain, rows(x), row_mean, row_rstd)[0])
    assert_close(dgamma, (rows(dy) * row_y).sum(0).reshape(6, n).sum(1))
    assert_close(dbeta, rows(dy).sum(0).reshape(6, n).sum(1))


@pytest.mark.parametrize("channel_axis", [1, -1])
def test_instance_norm_is_group_norm_with_a_group_per_channel(channel_axis: int) -> None:
    x, dy, gamma, beta = arrays((3, 2), channel_axis)
    layout = {"channel_axis": channel_axis}
    wanted = oracle.group_norm_forward(x, 6, gamma, beta, 0.1, **layout)
    got = oracle.instance_norm_forward(x, gamma, beta, eps=0.1, **layout)
    for one, other in zip(got, wanted, strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(oracle.instance_norm(x, gamma, beta, 0.1, **layout), got[0])
    for one, other in zip(
        oracle.instance_norm_backward(dy, x, *got[1:], gamma, **layout),
        oracle.group_norm_backward(dy, x, *got[1:], gamma, **layout),
        strict=True,
    ):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_statistics_take_the_mean_over_the_samples(dtype: type[np.floating[Any]]) -> None:
    x = np.array([[[1.0, 3.0], [0.0, 4.0]], [[5.0, 11.0], [2.0, 2.0]]])  # variances 2, 8 and 18, 0 if unbiased
    running_mean, running_var = np.array([10.0, 20.0], dtype=dtype), np.array([1.0, 2.0], dtype=dtype)
    oracle.instance_norm_forward(x, None, None, running_mean, running_var, 0.25)
    assert running_mean.dtype == running_var.dtype == dtype
    assert running_mean.tolist() == [8.75, 15.5]
    assert running_var.tolist() == [3.25, 2.5]


def test_each_running_statistic_is_optional() -> None:
    x = np.array([[[0.0, 2.0]]])
    running_mean, running_var = np.zeros(1), np.ones(1)
    oracle.instance_norm_forward(x, running_mean=running_mean)
    oracle.instance_norm_forward(x, running_var=running_var, momentum=0.5)
    assert running_mean.tolist() == [0.1]
    assert running_var.tolist() == [1.5]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_stay_in_their_group(bad: float) -> None:
    x, dy, gamma, beta = arrays((3, 2), 1)
    spoilt = x.copy()
    spoilt[1, 2, 0, 1] = bad
    clean = oracle.group_norm_forward(x, 2, gamma, beta)
    y, mean, rstd = oracle.group_norm_forward(spoilt, 2, gamma, beta)
    dx, dgamma, _ = oracle.group_norm_backward(dy, spoilt, mean, rstd, gamma)
    pairs = [(y, clean[0]), (dx, oracle.group_norm_backward(dy, x, *clean[1:], gamma)[0])]
    for actual, before in pairs:
        assert np.isnan(actual[1, :3]).all()
        assert np.array_equal(actual[0], before[0])
        assert np.array_equal(actual[1, 3:], before[1, 3:])
    assert np.array_equal(mean[1, 0], bad, equal_nan=True)
    assert np.isnan(rstd[1, 0])
    assert np.isnan(dgamma).tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("shape", [(0, 4), (0, 4, 3)])
def test_no_samples_give_empty_results_and_zero_sums(shape: tuple[int, ...]) -> None:
    x, gamma = np.zeros(shape), np.ones(4)
    y, mean, rstd = oracle.group_norm_forward(x, 2, gamma)
    dx, dgamma, dbeta = oracle.group_norm_backward(x, x, mean, rstd, gamma)
    assert y.shape == dx.shape == shape
    assert mean.shape == rstd.shape == (0, 2)
    assert dgamma is not None
    assert dbeta is not None
    assert dgamma.tolist() == dbeta.tolist() == [0.0] * 4
    running = [np.array([2.0, 3.0, 4.0, 5.0]) for _ in range(2)]
    assert oracle.instance_norm_forward(x, gamma, None, *running)[0].shape == shape
    assert [a.tolist() for a in running] == [[2.0, 3.0, 4.0, 5.0]] * 2


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("num_groups", [1, 2, 3, 6])
def test_group_norm_agrees_with_pytorch(num_groups: int, positions: tuple[int, ...], channel_axis: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, dy, gamma, beta = arrays(positions, channel_axis)
    tensors = [torch.from_numpy(a).requires_grad_() for a in (x, gamma, beta)]
    turned = tensors[0].movedim(channel_axis, 1)
    theirs = torch.nn.functional.group_norm(turned, num_groups, *tensors[1:], 0.01).movedim(1, channel_axis)
    y, mean, rstd = oracle.group_norm_forward(x, num_groups, gamma, beta, 0.01, channel_axis=channel_axis)
    assert_close(y, theirs.detach().numpy())
    ours = oracle.group_norm_backward(dy, x, mean, rstd, gamma, channel_axis=channel_axis)
    for one, other in zip(ours, torch.autograd.grad(theirs, tensors, torch.from_numpy(dy)), strict=True):
        assert_close(one, other.numpy())


@pytest.mark.parametrize("positions", POSITIONS[1:])
@pytest.mark.parametrize("momentum", [0.0, 0.3, 1.0])
def test_instance_norm_agrees_with_pytorch(positions: tuple[int, ...], momentum: float) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, dy, gamma, beta = arrays(positions, 1)
    running = [np.full(6, 3.0), np.full(6, 2.0)]
    their_running = [torch.from_numpy(a.copy()) for a in running]
    tensors = [torch.from_numpy(a).requires_grad_() for a in (x, gamma, beta)]
    theirs = torch.nn.functional.instance_norm(
        tensors[0], *their_running, *tensors[1:], use_input_stats=True, momentum=momentum, eps=0.01
    )
    y, mean, rstd = oracle.instance_norm_forward(x, gamma, beta, *running, momentum, 0.01)
    assert_close(y, theirs.detach().numpy())
    ours = oracle.instance_norm_backward(dy, x, mean, rstd, gamma)
    for one, other in zip(ours, torch.autograd.grad(theirs, tensors, torch.from_numpy(dy)), strict=True):
        assert_close(one, other.numpy())
    for one, other in zip(running, their_running, strict=True):
        assert_close(one, other.numpy())
