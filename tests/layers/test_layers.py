"""Every layer: gradients by finite differences in both modes, the contract of layers, and each layer's own formula."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from gradients import assert_gradients
from layer_cases import FEATURES, LAYERS, ROWS, input_of, made, randomised

from cregkit import functional
from cregkit.layers import (
    GELU,
    AlphaDropout,
    BatchNorm,
    DropBlock,
    Dropout,
    DropPath,
    FeatureAlphaDropout,
    GELUTanh,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Linear,
    ReLU,
    RMSNorm,
    Sequential,
    Sigmoid,
    SiLU,
    SpatialDropout,
    draw_seed,
)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_match_finite_differences(name, training):
    assert_gradients(made(name, training), input_of(name))


@pytest.mark.parametrize("name", ["linear", "layer_norm", "rms_norm"])
def test_gradients_with_leading_axes_match_finite_differences(name):
    x = np.random.default_rng(0).normal(size=(2, 3, FEATURES)).astype(np.float32)
    assert_gradients(made(name, True), x)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", LAYERS)
def test_backward_needs_a_forward_of_its_own(name, training):
    layer = made(name, training)
    dy = np.ones((ROWS, FEATURES), dtype=np.float32)
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        layer.backward(dy)
    y = layer(input_of(name))
    layer.backward(np.ones_like(y))
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        layer.backward(np.ones_like(y))


@pytest.mark.parametrize("name", LAYERS)
def test_after_a_dy_of_the_wrong_shape_backward_works(name):
    layer = made(name, True)
    y = layer(input_of(name))
    with pytest.raises(ValueError, match="dy"):
        layer.backward(np.ones((*y.shape[:-1], y.shape[-1] + 1), dtype=np.float32))
    layer.backward(np.ones_like(y))


@pytest.mark.parametrize("name", [name for name in LAYERS if "sequential" not in name])
def test_calling_a_layer_is_its_forward(name):
    layer = made(name, False)
    x = input_of(name)
    np.testing.assert_array_equal(layer(x), layer.forward(x))
    assert type(layer).__call__ is type(layer).forward


def test_train_and_eval_reach_every_layer_and_return_self():
    inner = Sequential(Dropout(0.5, seed=1), BatchNorm(3))
    outer = Sequential(Linear(3, 3, seed=1), inner)
    assert outer.training
    assert inner.layers[0].training
    assert outer.eval() is outer
    assert not any(layer.training for layer in (outer, *outer.layers, *inner.layers))
    assert outer.train() is outer
    assert all(layer.training for layer in (outer, *outer.layers, *inner.layers))


def _nested():
    return Sequential(Linear(3, 4, seed=1), Sequential(BatchNorm(4), Dropout(0.5)), RMSNorm(4), Linear(4, 1, False))


def test_parameters_have_dotted_names_and_only_weights_decay():
    network = _nested()
    assert [(p.name, p.decay) for p in network.parameters()] == [
        ("0.weight", True),
        ("0.bias", False),
        ("1.0.gamma", False),
        ("1.0.beta", False),
        ("2.gamma", False),
        ("3.weight", True),
    ]
    assert next(iter(network.parameters())).value is network.layers[0].weight


def test_parameters_have_float32_gradients_after_a_backward():
    network = _nested()
    assert all(parameter.grad is None for parameter in network.parameters())
    y = network(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    network.backward(np.ones_like(y))
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert (parameter.grad.shape, parameter.grad.dtype) == (parameter.value.shape, np.float32)


def test_evaluation_changes_no_state():
    network = Sequential(BatchNorm(FEATURES), Dropout(0.5, seed=1)).eval()
    before = network.state_dict()
    network(input_of("linear"))
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


# --- each layer's own behaviour


def test_linear_is_matmul_plus_bias():
    layer = Linear(2, 3, seed=0)
    layer.weight[...] = [[1, 2], [3, 4], [5, 6]]
    layer.bias[...] = [0.5, -0.5, 0]
    np.testing.assert_array_equal(layer(np.array([[1, 10]], dtype=np.float32)), [[21.5, 42.5, 65.0]])


def test_linear_starts_uniform_within_its_bound():
    layer = Linear(16, 400, seed=5)
    for value in (layer.weight, layer.bias):
        assert np.abs(value).max() <= 0.25
        assert abs(value.std() - 0.25 / math.sqrt(3)) < 0.01


def test_a_seed_gives_linear_the_same_weights():
    layer = Linear(16, 400, seed=5)
    np.testing.assert_array_equal(layer.weight, Linear(16, 400, seed=5).weight)
    assert (layer.weight != Linear(16, 400, seed=6).weight).any()


def test_relu_passes_nan_on():
    x = np.array([-1, 0, 2, np.nan], dtype=np.float32)
    layer = ReLU()
    np.testing.assert_array_equal(layer(x), [0, 0, 2, np.nan])
    np.testing.assert_array_equal(layer.backward(np.full(4, 3, dtype=np.float32)), [0, 0, 3, 3])


def test_sigmoid_is_accurate_in_its_tails_without_overflow():
    x = np.array([-3e38, -100, -80, 0, 20, 3e38, -np.inf, np.inf], dtype=np.float32)
    layer = Sigmoid()
    exact = [0, 0, 1 / (1 + math.exp(80)), 0.5, 1 / (1 + math.exp(-20)), 1, 0, 1]
    np.testing.assert_allclose(layer(x), exact, rtol=3e-7, atol=1e-43)
    dx = layer.backward(np.ones_like(x))
    assert dx[4] == pytest.approx(math.exp(-20) / (1 + math.exp(-20)) ** 2, rel=3e-7)
    assert np.isfinite(dx).all()


def test_gelu_is_x_times_the_normal_distribution_function():
    x = np.concatenate([np.linspace(-12, 12, 2001), [-3e38, 3e38, -np.inf, np.inf]]).astype(np.float32)
    exact = np.array([float(v) * 0.5 * math.erfc(-float(v) / math.sqrt(2)) if v > -np.inf else 0.0 for v in x])
    layer = GELU()
    # One rounding to float32 (6e-8), and the 1e-8 of the fit.
    np.testing.assert_allclose(layer(x), exact, rtol=8e-8, atol=0)
    dx = layer.backward(np.ones_like(x))
    density = np.exp(-0.5 * x[:2001].astype(float) ** 2) / math.sqrt(2 * math.pi)
    slope = [0.5 * math.erfc(-float(v) / math.sqrt(2)) + float(v) * d for v, d in zip(x[:2001], density, strict=True)]
    np.testing.assert_allclose(dx[:2001], slope, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(dx[2001:], [0, 1, 0, 1])


EVERYWHERE = np.concatenate([np.linspace(-130, 130, 4001), [-3e38, 3e38, -np.inf, np.inf]]).astype(np.float32)


def logistic(v):
    return 1 / (1 + math.exp(-v)) if v > -700 else 0.0


@pytest.mark.parametrize(
    ("layer", "logit", "steepness"),
    [
        (SiLU(), lambda v: v, lambda v: 1.0),
        (
            GELUTanh(),
            lambda v: math.sqrt(8 / math.pi) * (v + 0.044715 * v**3),
            lambda v: math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * v**2),
        ),
    ],
    ids=["silu", "gelu_tanh"],
)
def test_silu_and_gelu_tanh_are_accurate_in_both_tails(layer, logit, steepness):
    """Both are x * s(logit(x)), where s is the logistic function and 1 - s(z) = s(-z)."""
    finite = [float(v) for v in EVERYWHERE[:4001]]
    y = layer(EVERYWHERE)
    np.testing.assert_allclose(y[:4001], [v * logistic(logit(v)) for v in finite], rtol=7e-8, atol=1e-45)
    np.testing.assert_array_equal(y[4001:], [0, np.float32(3e38), 0, np.inf])
    slopes = [logistic(logit(v)) * (1 + v * logistic(-logit(v)) * steepness(v)) for v in finite]
    dx = layer.backward(np.ones_like(EVERYWHERE))
    np.testing.assert_allclose(dx[:4001], slopes, rtol=1e-7, atol=1e-45)
    np.testing.assert_array_equal(dx[4001:], [0, 1, 0, 1])
    assert np.isnan(layer(np.array([np.nan], np.float32))).all()


def test_gelu_tanh_follows_the_textbook_formula():
    x = np.linspace(-3, 6, 2001, dtype=np.float32)
    v = x.astype(np.float64)
    wanted = 0.5 * v * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
    np.testing.assert_allclose(GELUTanh()(x), wanted, rtol=1e-7)
    assert 1e-4 < np.abs(GELUTanh()(x) - GELU()(x)).max() < 5e-4


def test_dropout_follows_its_seed_and_advances_its_offset():
    layer = Dropout(0.3, seed=11)
    x = np.ones((3, 50), dtype=np.float32)
    assert (layer.seed, layer.offset) == (11, 0)
    np.testing.assert_array_equal(layer(x), functional.dropout(x, 0.3, seed=11, offset=0))
    assert layer.offset == 4096  # 150 rounded up to a multiple of 4096
    y = layer(x)
    np.testing.assert_array_equal(y, functional.dropout(x, 0.3, seed=11, offset=4096))
    assert layer.offset == 8192
    np.testing.assert_array_equal(layer.backward(x), y)


def test_dropout_in_evaluation_returns_its_input_and_keeps_its_offset():
    layer = Dropout(0.3, seed=11)
    x = np.ones((3, 50), dtype=np.float32)
    layer(x)
    offset = layer.offset
    layer.eval()
    assert layer(x) is x
    assert layer.offset == offset


def test_dropout_backward_draws_the_bits_of_its_forward():
    layer = Dropout(0.5, seed=1)
    x = np.ones((4, 64), dtype=np.float32)
    layer(x)
    y = layer(x)
    np.testing.assert_array_equal(layer.backward(x), y)


def test_spatial_dropout_drops_whole_channels():
    layer = SpatialDropout(0.5, seed=2)
    x = np.ones((4, 40, 3, 3), dtype=np.float32)
    y = layer(x)
    assert set(np.unique(y)) == {0.0, 2.0}
    assert (y == y[:, :, :1, :1]).all()
    assert layer.offset == 4096  # 160 channels
    np.testing.assert_array_equal(layer.backward(x), y)


DROPOUTS = {
    "alpha_dropout": (AlphaDropout, {}, 240),
    "feature_alpha_dropout": (FeatureAlphaDropout, {}, 12),
    "feature_alpha_dropout, last": (FeatureAlphaDropout, {"channel_axis": -1}, 15),
    "spatial_dropout, last": (SpatialDropout, {"channel_axis": -1}, 15),
    "drop_path": (DropPath, {}, 3),
    "drop_path of a batch": (DropPath, {"mode": "batch"}, 1),
    "drop_block": (DropBlock, {"block_size": 2}, 240),
    "drop_block, last": (DropBlock, {"block_size": 2, "channel_axis": -1}, 240),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_a_dropout_is_its_function_at_the_offset_after_the_last_forward(name):
    kind, options, decisions = DROPOUTS[name]
    op, seed = name.partition(" ")[0].rstrip(","), 2**40 + 1
    layer = kind(0.4, seed=seed, **options)
    x, dy = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 5), dtype=np.float32)
    offset = 0
    for _ in range(3):
        given = {"p": 0.4, "seed": seed, "offset": offset} | options
        np.testing.assert_array_equal(layer(x), getattr(functional, op)(x, **given))
        np.testing.assert_array_equal(layer.backward(dy), getattr(functional, f"{op}_backward")(dy, **given))
        offset += -(-decisions // 4096) * 4096
        assert layer.offset == offset
    assert layer.eval()(x) is x
    assert layer.backward(dy) is dy


def test_backward_has_the_options_of_its_forward():
    layer = DropPath(0.5, seed=1)
    x = np.ones((50, 3), dtype=np.float32)
    y = layer(x)
    layer.mode = "batch"
    np.testing.assert_array_equal(layer.backward(x), y)


def test_an_integer_seed_is_itself():
    assert draw_seed(2**64 - 1) == 2**64 - 1
    assert draw_seed(np.int64(5)) == 5


def test_without_a_seed_every_draw_differs():
    assert draw_seed(None) != draw_seed(None)


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.SeedSequence])
def test_a_generator_gives_reproducible_seeds_that_differ(make):
    shared = make(3)
    first, second = draw_seed(shared), draw_seed(shared)
    assert first != second
    assert draw_seed(make(3)) == first
    assert 0 <= first < 2**64


def test_batch_norm_updates_running_statistics_by_momentum():
    x = np.random.default_rng(0).normal(3, 2, size=(8, 2)).astype(np.float32)
    for unbiased in (False, True):
        layer = BatchNorm(2, momentum=0.25, unbiased=unbiased)
        layer(x)
        np.testing.assert_allclose(layer.running_mean, 0.25 * x.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(layer.running_var, 0.75 + 0.25 * x.var(axis=0, ddof=unbiased), rtol=1e-5)


def test_batch_norm_in_evaluation_normalises_by_running_statistics():
    x = np.random.default_rng(0).normal(3, 2, size=(8, 2)).astype(np.float32)
    layer = BatchNorm(2, momentum=0.25, unbiased=True)
    layer(x)
    y = layer.eval()(x)
    np.testing.assert_allclose(y, (x - layer.running_mean) / np.sqrt(layer.running_var + 1e-5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("make", [LayerNorm, RMSNorm])
def test_a_norm_of_two_axes_has_the_bits_of_a_norm_of_one_axis(make, training):
    x, dy = np.random.default_rng(0).standard_normal((2, 4, 3, 5), dtype=np.float32)
    matrices, rows = randomised(make((3, 5))), randomised(make(15))
    rows.load_state_dict({name: value.reshape(15) for name, value in matrices.state_dict().items()})
    matrices.training = rows.training = training
    np.testing.assert_array_equal(matrices(x), rows(x.reshape(4, 15)).reshape(x.shape))
    np.testing.assert_array_equal(matrices.backward(dy), rows.backward(dy.reshape(4, 15)).reshape(x.shape))
    np.testing.assert_array_equal(matrices.dgamma, rows.dgamma.reshape(3, 5))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
def test_norms_of_channels_are_the_op_along_axis_1(op, training):
    x, dy = np.random.default_rng(0).standard_normal((2, 2, 5, 3, 4), dtype=np.float32)
    layer = made(f"{op}_of_channels", training)
    state = layer.state_dict()
    options = {"axis": 1} if op == "layer_norm" else {"axis": 1, "gain_offset": 1.0}
    y, *saved = getattr(functional, f"{op}_forward")(x, *state.values(), **options)
    dx, *gradients = getattr(functional, f"{op}_backward")(dy, x, *saved, state["gamma"], **options)
    np.testing.assert_array_equal(layer(x), y)
    np.testing.assert_array_equal(layer.backward(dy), dx)
    for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
        assert parameter.value.shape == (5,)
        np.testing.assert_array_equal(parameter.grad, gradient)


@pytest.mark.parametrize("make", [LayerNorm, RMSNorm])
def test_norms_of_channels_normalise_rows_too(make):
    x = np.random.default_rng(0).standard_normal((4, 5), dtype=np.float32)
    np.testing.assert_array_equal(make(5, channel_axis=1)(x), make(5)(x))


@pytest.mark.parametrize("make", [LayerNorm, RMSNorm])
def test_norms_of_channels_are_copied_and_pickled(make):
    x = np.random.default_rng(0).standard_normal((2, 5, 3), dtype=np.float32)
    layer = make(5, channel_axis=1)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert copied.channel_axis == 1
        np.testing.assert_array_equal(copied(x), layer(x))


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 6, 5, 5), (5, 4)])
@pytest.mark.parametrize("make", [BatchNorm, LayerNorm, RMSNorm])
def test_norms_of_channels_refuse_another_number_of_channels(make, shape):
    wanted = rf"x must have num_features=5 features on axis 1 .*got {shape[1]} \(shape"
    with pytest.raises(ValueError, match=wanted):
        make(5, channel_axis=1)(np.ones(shape, dtype=np.float32))


@pytest.mark.parametrize("make", [BatchNorm, LayerNorm, RMSNorm])
def test_norms_of_channels_refuse_a_vector(make):
    with pytest.raises(ValueError, match=r"x must have at least two dimensions .*, got shape \(5,\)"):
        make(5, channel_axis=1)(np.ones(5, dtype=np.float32))


@pytest.mark.parametrize("gain_offset", [1.0, -2.5, 0.1, 1e30])
def test_a_new_rms_norm_has_a_gain_of_1(gain_offset):
    x = np.random.default_rng(0).standard_normal((3, 5), dtype=np.float32)
    layer = RMSNorm(5, gain_offset=gain_offset)
    assert layer.gamma.dtype == np.float32
    np.testing.assert_array_equal(layer.gamma, np.float32(1.0) - np.float32(gain_offset))
    if abs(gain_offset) < 1e7:  # a larger offset leaves no digit for the 1
        np.testing.assert_array_equal(layer(x), RMSNorm(5)(x))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_rms_norm_adds_its_gain_offset_to_gamma(training):
    x, dy = np.random.default_rng(0).standard_normal((2, 4, 5), dtype=np.float32)
    offset, plain = RMSNorm(5, gain_offset=1.0), RMSNorm(5)
    offset.gamma[...] = [-2.0, -1.0, 0.0, 0.5, 3.0]
    plain.gamma[...] = offset.gamma + 1.0
    offset.training = plain.training = training
    np.testing.assert_array_equal(offset(x), plain(x))
    np.testing.assert_array_equal(offset.backward(dy), plain.backward(dy))
    np.testing.assert_array_equal(offset.dgamma, plain.dgamma)


@pytest.mark.parametrize("shape", [(4, 3, 6), (4, 6, 5), (5,), (15,)])
@pytest.mark.parametrize("make", [LayerNorm, RMSNorm])
def test_norms_of_two_axes_refuse_other_sizes(make, shape):
    with pytest.raises(ValueError, match=r"x must have num_features=\(3, 5\) features on axis \(-2, -1\) .*got"):
        make((3, 5))(np.ones(shape, dtype=np.float32))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("make", [BatchNorm, LayerNorm, RMSNorm])
def test_norms_refuse_a_wrong_number_of_features_and_keep_their_state(make, training):
    layer = make(4)
    layer.training = training
    before = layer.state_dict()
    with pytest.raises(ValueError, match=r"x must have num_features=4 features .*got 5"):
        layer(np.ones((3, 5), dtype=np.float32))
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("name", LAYERS)
def test_layers_refuse_float64(name):
    with pytest.raises(TypeError, match="x"):
        made(name, True)(input_of(name).astype(np.float64))


MISTAKES = [
    (lambda: Linear(0, 1), ValueError, "in_features"),
    (lambda: Linear(1, 2.0), TypeError, "out_features"),
    (lambda: Linear(1, True), TypeError, "out_features"),
    (lambda: Linear(2, 2, seed=1)(np.ones((2, 3), dtype=np.float32)), ValueError, "x must have shape"),
    (lambda: Linear(2, 2, seed=1)([[1.0, 2.0]]), TypeError, "x must be a float32, float16 or bfloat16 array, got list"),
    (lambda: Dropout(1.5), ValueError, "p must be"),
    (lambda: Dropout(-0.1), ValueError, "p must be"),
    (lambda: Dropout(float("nan")), ValueError, "p must be"),
    (lambda: SpatialDropout("half"), TypeError, "p must be"),
    (lambda: SpatialDropout(0.5, channel_axis=2), ValueError, "channel_axis must be 1 .* or -1 .*, got 2"),
    (lambda: DropBlock(0.5, 0), ValueError, "block_size must be at least 1, got 0"),
    (lambda: DropBlock(0.5, 2.0), TypeError, "block_size must be an int, got float 2.0"),
    (lambda: DropBlock(0.5, channel_axis=0), ValueError, "channel_axis must be 1 .* or -1 .*, got 0"),
    (lambda: DropBlock(seed=1)(np.ones((2, 3, 4), dtype=np.float32)), ValueError, "x must have shape"),
    (lambda: DropPath(0.5, mode="rows"), ValueError, "mode must be 'row' or 'batch', got 'rows'"),
    (lambda: Dropout(0.5, seed=-1), ValueError, "seed"),
    (lambda: Dropout(0.5, seed=2**64), ValueError, "seed"),
    (lambda: Dropout(0.5, seed=1.0), TypeError, "seed"),
    (lambda: BatchNorm(-3), ValueError, "num_features"),
    (lambda: BatchNorm(3, momentum=1.1), ValueError, "momentum"),
    (lambda: BatchNorm(3, eps=float("inf")), ValueError, "eps"),
    (lambda: BatchNorm(3, channel_axis=2), ValueError, "channel_axis"),
    (lambda: BatchNorm(3, virtual_batch_size=0), ValueError, "virtual_batch_size"),
    (lambda: BatchNorm(3)(np.ones((1, 3), dtype=np.float32)), ValueError, "x"),
    (lambda: BatchNorm(3)(np.ones(3, dtype=np.float32)), ValueError, "x must have at least two dimensions"),
    (lambda: GroupNorm(0, 4), ValueError, "num_groups"),
    (lambda: GroupNorm(2.0, 4), TypeError, "num_groups"),
    (lambda: GroupNorm(2, 0), ValueError, "num_channels"),
    (lambda: GroupNorm(3, 4), ValueError, "num_channels must be a multiple of num_groups=3, got 4"),
    (lambda: GroupNorm(2, 4, eps=-1), ValueError, "eps"),
    (lambda: GroupNorm(2, 4, channel_axis=0), ValueError, "channel_axis"),
    (lambda: InstanceNorm(0), ValueError, "num_features"),
    (lambda: InstanceNorm(3, momentum=2), ValueError, "momentum"),
    (lambda: InstanceNorm(3, channel_axis=2), ValueError, "channel_axis"),
    (lambda: LayerNorm(3, eps=-1e-9), ValueError, "eps"),
    (lambda: LayerNorm("3"), TypeError, "num_features"),
    (lambda: RMSNorm(3, eps=float("nan")), ValueError, "eps"),
    (lambda: RMSNorm(3, gain_offset=float("inf")), ValueError, "gain_offset"),
    (lambda: RMSNorm(3, gain_offset=1e39), ValueError, "gain_offset"),
    (lambda: RMSNorm(3, gain_offset="1"), TypeError, "gain_offset"),
    (lambda: LayerNorm(3, channel_axis=0), ValueError, r"channel_axis must be 1 .* or -1 .*, got 0"),
    (lambda: RMSNorm(3, channel_axis="1"), ValueError, r"channel_axis must be 1 .* or -1 .*, got '1'"),
    (
        lambda: LayerNorm((3, 4), channel_axis=1),
        ValueError,
        r"num_features must be an int with channel_axis=1, got tuple",
    ),
    (lambda: LayerNorm(()), ValueError, r"num_features must be an int or a tuple of at least one int, got \(\)"),
    (lambda: RMSNorm((3, 0)), ValueError, "num_features must be at least 1, got 0"),
    (lambda: LayerNorm((3, 2.0)), TypeError, "num_features"),
    (lambda: Sequential(), ValueError, "layers"),
    (lambda: Sequential(Linear(1, 1), "relu"), TypeError, "layers"),
    (lambda: (lambda relu: Sequential(relu, Sequential(relu)))(ReLU()), ValueError, "twice"),
]


@pytest.mark.parametrize(("mistake", "error", "named"), MISTAKES)
def test_wrong_arguments_are_refused_by_name(mistake, error, named):
    with pytest.raises(error, match=named):
        mistake()
