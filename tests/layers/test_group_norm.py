"""GroupNorm and InstanceNorm: their formulas, modes and state, and PyTorch's layers with the same weights."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from cregkit import functional, oracle
from cregkit.layers import BatchNorm, GroupNorm, InstanceNorm, Layer, LayerNorm

SHAPES = [(3, 6, 7), (3, 6, 4, 5), (2, 6, 3, 2, 4)]
each_shape = pytest.mark.parametrize("shape", SHAPES)
each_axis = pytest.mark.parametrize("channel_axis", [1, -1])


def normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(3, 2, shape).astype(np.float32)


def in_layout(x: np.ndarray[Any, Any], channel_axis: int) -> np.ndarray[Any, Any]:
    """A channels-first array in the layout of `channel_axis`."""
    return np.ascontiguousarray(np.moveaxis(x, 1, channel_axis))


def randomised(layer: Layer) -> Layer:
    rng = np.random.default_rng(1)
    layer.load_state_dict(
        {name: rng.uniform(0.5, 1.5, a.shape).astype(np.float32) for name, a in layer.state_dict().items()}
    )
    return layer


@each_shape
@each_axis
def test_group_norm_is_its_function_in_both_modes(shape: tuple[int, ...], channel_axis: int) -> None:
    layer = randomised(GroupNorm(3, 6, eps=0.1, channel_axis=channel_axis))
    x, dy = in_layout(normal(shape), channel_axis), in_layout(normal(shape, 2), channel_axis)
    y, mean, rstd = functional.group_norm_forward(x, 3, layer.gamma, layer.beta, 0.1, channel_axis=channel_axis)
    gradients = functional.group_norm_backward(dy, x, mean, rstd, layer.gamma, channel_axis=channel_axis)
    for mode in (layer.train, layer.eval):
        np.testing.assert_array_equal(mode()(x), y)
        np.testing.assert_array_equal(layer.backward(dy), gradients[0])
        np.testing.assert_array_equal(layer.dgamma, gradients[1])
        np.testing.assert_array_equal(layer.dbeta, gradients[2])


def test_group_norm_of_one_group_is_layer_norm_of_a_sample() -> None:
    x = normal((3, 4, 5))
    np.testing.assert_allclose(GroupNorm(1, 4)(x), LayerNorm(20)(x.reshape(3, 20)).reshape(x.shape), atol=2e-6)


def test_group_norm_of_a_group_per_channel_is_instance_norm() -> None:
    x = normal((3, 4, 5))
    np.testing.assert_array_equal(GroupNorm(4, 4, affine=False)(x), InstanceNorm(4)(x))


def test_instance_norm_of_one_sample_is_batch_norm() -> None:
    x = normal((1, 4, 50))
    np.testing.assert_allclose(InstanceNorm(4)(x), BatchNorm(4)(x), atol=2e-6)


@pytest.mark.parametrize("make", [lambda: GroupNorm(2, 4, affine=False), lambda: InstanceNorm(4)])
def test_without_affine_there_are_no_parameters(make: Any) -> None:
    layer = make()
    x = normal((3, 4, 5))
    layer.backward(layer(x))
    assert (layer.gamma, layer.beta, layer.dgamma, layer.dbeta) == (None,) * 4
    assert list(layer.parameters()) == []
    assert layer.state_dict() == {}


def test_affine_and_tracking_add_parameters_and_buffers() -> None:
    layer = InstanceNorm(4, affine=True, track_running_stats=True)
    assert [parameter.name for parameter in layer.parameters()] == ["gamma", "beta"]
    assert {name: a.tolist() for name, a in layer.state_dict().items()} == {
        "gamma": [1.0] * 4,
        "beta": [0.0] * 4,
        "running_mean": [0.0] * 4,
        "running_var": [1.0] * 4,
    }


def test_the_defaults_are_those_of_pytorch() -> None:
    group, instance = GroupNorm(2, 4), InstanceNorm(4)
    assert (group.eps, group.affine) == (1e-5, True)
    assert (instance.eps, instance.momentum) == (1e-5, 0.1)
    assert (instance.affine, instance.track_running_stats) == (False, False)


@each_axis
def test_instance_norm_tracks_the_mean_over_the_samples(channel_axis: int) -> None:
    layer = InstanceNorm(6, momentum=0.25, track_running_stats=True, channel_axis=channel_axis)
    x = normal((3, 6, 5))
    layer(in_layout(x, channel_axis))
    np.testing.assert_allclose(layer.running_mean, 0.25 * x.mean((0, 2)), rtol=1e-5)
    np.testing.assert_allclose(layer.running_var, 0.75 + 0.25 * x.var(2, ddof=1).mean(0), rtol=1e-5)


@each_axis
def test_a_tracking_instance_norm_evaluates_as_batch_norm(channel_axis: int) -> None:
    layer = randomised(InstanceNorm(6, affine=True, track_running_stats=True, channel_axis=channel_axis)).eval()
    batch = BatchNorm(6, channel_axis=channel_axis).eval()
    batch.load_state_dict(layer.state_dict())
    x, dy = in_layout(normal((3, 6, 5)), channel_axis), in_layout(normal((3, 6, 5), 2), channel_axis)
    before = pickle.dumps(layer.state_dict())
    np.testing.assert_array_equal(layer(x), batch(x))
    np.testing.assert_array_equal(layer.backward(dy), batch.backward(dy))
    np.testing.assert_array_equal(layer.dgamma, batch.dgamma)
    assert pickle.dumps(layer.state_dict()) == before


def test_instance_norm_without_tracking_is_the_same_in_both_modes() -> None:
    layer, x = InstanceNorm(6), normal((3, 6, 5))
    np.testing.assert_array_equal(layer.train()(x), layer.eval()(x))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("layer", "features"),
    [
        (GroupNorm(2, 4), "num_channels=4"),
        (GroupNorm(2, 4, affine=False), "num_channels=4"),
        (InstanceNorm(4, track_running_stats=True), "num_features=4"),
        (InstanceNorm(4), "num_features=4"),
    ],
)
def test_a_wrong_number_of_channels_is_refused_and_the_state_kept(layer: Layer, features: str, training: bool) -> None:
    layer.training = training
    before = pickle.dumps(layer.state_dict())
    with pytest.raises(ValueError, match=rf"x must have {features} features on axis 1 .*got 6 \(shape \(3, 6, 5\)\)"):
        layer(normal((3, 6, 5)))
    assert pickle.dumps(layer.state_dict()) == before


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 1, 1)])
@each_axis
def test_instance_norm_of_one_position_is_refused(shape: tuple[int, ...], channel_axis: int) -> None:
    layer = InstanceNorm(4, track_running_stats=True, channel_axis=channel_axis)
    x = in_layout(normal(shape), channel_axis)
    with pytest.raises(ValueError, match="x must have at least two positions per channel of a sample"):
        layer(x)
    layer.eval()(x)


@pytest.mark.parametrize("layer", [GroupNorm(2, 4), InstanceNorm(4, track_running_stats=True)])
def test_x_of_one_dimension_is_refused(layer: Layer) -> None:
    with pytest.raises(ValueError, match="x must have at least two"):
        layer(normal((4,)))


@pytest.mark.parametrize(
    "make", [lambda: GroupNorm(2, 4, 0.1), lambda: InstanceNorm(4, 0.1, 0.3, affine=True, track_running_stats=True)]
)
def test_a_pickled_layer_continues_with_the_same_bits(make: Any) -> None:
    layer, x = randomised(make()), normal((3, 4, 5))
    layer(x)
    copy = pickle.loads(pickle.dumps(layer))
    for mode in ("train", "eval"):
        np.testing.assert_array_equal(getattr(copy, mode)()(x), getattr(layer, mode)()(x))
        np.testing.assert_array_equal(copy.backward(x), layer.backward(x))
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(copy.state_dict()[name], value)


# ---- PyTorch ----


def train_and_compare(ours: Layer, theirs: Any, shape: tuple[int, ...], channel_axis: int) -> None:
    """Five steps of SGD in both, then evaluation: outputs, gradients, parameters and running statistics agree."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    names = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"}
    for step in range(6):
        training = step < 5
        (ours.train if training else ours.eval)()
        theirs.train(training)
        x, dy = normal(shape, step), normal(shape, 100 + step)
        leaf = torch.from_numpy(x).requires_grad_()
        y = theirs(leaf)
        theirs.zero_grad()
        y.backward(torch.from_numpy(dy))
        got = ours(in_layout(x, channel_axis)), ours.backward(in_layout(dy, channel_axis))
        for actual, expected in zip(got, (y, leaf.grad), strict=True):
            np.testing.assert_allclose(np.moveaxis(actual, channel_axis, 1), expected.detach().numpy(), atol=2e-5)
        for parameter in ours.parameters():
            other = getattr(theirs, names[parameter.name])
            np.testing.assert_allclose(parameter.grad, other.grad.numpy(), rtol=1e-4, atol=1e-4)
            with torch.no_grad():
                other -= 0.01 * other.grad
            parameter.value[...] -= np.float32(0.01) * parameter.grad
        for name, value in ours.state_dict().items():
            np.testing.assert_allclose(value, getattr(theirs, names[name]).detach().numpy(), rtol=1e-4, atol=1e-4)


@each_shape
@each_axis
@pytest.mark.parametrize("num_groups", [1, 2, 3, 6])
@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_trains_as_in_pytorch(
    shape: tuple[int, ...], channel_axis: int, num_groups: int, affine: bool
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    ours = GroupNorm(num_groups, 6, 1e-3, affine, channel_axis=channel_axis)
    train_and_compare(ours, torch.nn.GroupNorm(num_groups, 6, 1e-3, affine), shape, channel_axis)


@each_shape
@each_axis
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track", [True, False])
def test_instance_norm_trains_as_in_pytorch(
    shape: tuple[int, ...], channel_axis: int, affine: bool, track: bool
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    stock = getattr(torch.nn, f"InstanceNorm{len(shape) - 2}d")(6, 1e-3, 0.2, affine, track)
    ours = InstanceNorm(6, 1e-3, 0.2, affine, track, channel_axis=channel_axis)
    train_and_compare(ours, stock, shape, channel_axis)


def test_group_norm_is_accurate_where_the_offset_is_large() -> None:
    x = 1e6 + normal((3, 6, 50))
    wanted = oracle.group_norm(x, 2)
    assert np.abs(GroupNorm(2, 6)(x) - wanted).max() <= 1e-6
