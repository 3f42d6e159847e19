"""DropConnect: a Linear whose weights are dropped in training, by one mask for a batch."""

from __future__ import annotations

import numpy as np
import pytest

from cregkit.layers import DropConnect, Linear

X = np.random.default_rng(0).standard_normal((16, 40), dtype=np.float32)


def test_weights_are_dropped_and_the_others_scaled_up():
    """With x = I, y.T is the dropped weight: 0 or weight / (1 - p)."""
    layer = DropConnect(400, 50, 0.25, bias=False, seed=3)
    dropped = layer(np.eye(400, dtype=np.float32)).T
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], (layer.weight / 0.75)[kept], rtol=1e-6)
    assert abs(kept.mean() - 0.75) < 4 * np.sqrt(0.25 * 0.75 / kept.size)


def test_gradients_are_those_of_a_linear_with_the_dropped_weight():
    layer, plain = DropConnect(40, 5, 0.4, seed=1), Linear(40, 5, seed=1)
    state = layer.state_dict()
    mask = (layer(np.eye(40, dtype=np.float32)) - layer.bias).T != 0
    layer.load_state_dict(state)
    plain.weight[...] = np.where(mask, layer.weight / np.float32(0.6), 0)
    y = layer(X)
    np.testing.assert_allclose(y, plain(X), atol=1e-6)
    np.testing.assert_allclose(layer.backward(y), plain.backward(y), atol=1e-5)
    np.testing.assert_allclose(layer.dweight, np.where(mask, plain.dweight / 0.6, 0), atol=1e-4)
    np.testing.assert_array_equal(layer.dbias, plain.dbias)


def test_in_evaluation_it_is_a_linear():
    layer, plain = DropConnect(40, 5, seed=7).eval(), Linear(40, 5, seed=7)
    assert np.array_equal(layer(X), plain(X))
    assert np.array_equal(layer.backward(layer(X)), plain.backward(plain(X)))
    assert np.array_equal(layer.dweight, plain.dweight)


def test_each_batch_has_a_mask_which_the_state_determines():
    layer = DropConnect(40, 5, seed=2)
    state = layer.state_dict()
    first, second = layer(X), layer(X)
    assert not np.array_equal(first, second)
    layer.load_state_dict(state)
    assert np.array_equal(layer(X), first)
    assert not np.array_equal(DropConnect(40, 5, seed=3)(X), first)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_parts_of_a_batch_share_a_mask(dtype):
    """As processes do: the position in the batch moves the masks of dropout of samples alone."""
    layer, part = DropConnect(40, 5, seed=2), DropConnect(40, 5, seed=2)
    assert not part.dropout._of_samples
    x = X.astype(dtype)
    assert np.array_equal(layer(x)[8:], part(x[8:]))
    assert layer.dropout.offset == part.dropout.offset


def test_16_bit_parameters_and_inputs():
    layer = DropConnect(40, 5, seed=2)
    half = layer.astype(np.float16)
    y = half(X.astype(np.float16))
    assert y.dtype == np.float16
    np.testing.assert_allclose(y.astype(np.float32), layer(X), atol=2e-2)
    assert half.backward(y).dtype == np.float16
    assert half.dweight.dtype == np.float32


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_a_wrong_rate_is_refused(p):
    with pytest.raises(ValueError, match=r"p must be"):
        DropConnect(4, 2, p)
