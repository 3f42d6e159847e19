"""Dtypes of layers: float32, float16 and bfloat16 inputs, ``astype``, and files that keep dtypes."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from layer_cases import FEATURES, LAYERS, input_of, made, randomised

from cregkit import layers
from cregkit.layers import (
    BatchNorm,
    BertEncoder,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    MultiHeadAttention,
    PositionalEmbedding,
    ReLU,
    ResidualNorm,
    Sequential,
    Transformer,
    TransformerBlock,
)
from cregkit.train import SGD, AdamW

RNG = np.random.default_rng(0)
SEQUENCES = RNG.standard_normal((2, 4, 8), dtype=np.float32)
IDS = RNG.integers(0, 7, (2, 4))

SINGLE = [name for name in LAYERS if name != "sequential"]
COMPOSED = {
    "sequential": (LAYERS["sequential"], input_of("sequential")),
    "attention": (lambda: MultiHeadAttention(8, 2, 0.3, causal=True, seed=1), SEQUENCES),
    "block": (lambda: TransformerBlock(8, 2, seed=1), SEQUENCES),
    "block, norm first": (lambda: TransformerBlock(8, 2, norm="rms", norm_first=True, seed=1), SEQUENCES),
}
OF_IDS = {
    "embedding": lambda: Embedding(7, 8, seed=1),
    "transformer": lambda: Transformer(7, 4, 2, 8, 2, seed=1),
    "bert": lambda: BertEncoder(7, 4, 2, 8, 2, seed=1),
    "roberta": lambda: BertEncoder(7, 6, 1, 8, 2, padding_id=1, seed=1),
}

in_both_modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


@pytest.fixture(params=["float16", "bfloat16"])
def dtype(request):
    if request.param == "float16":
        return np.dtype(np.float16)
    return np.dtype(pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16)


def assert_rounded(half, full):
    """The 16-bit array is the float32 array, rounded once."""
    assert full.dtype == np.float32
    np.testing.assert_array_equal(half, full.astype(half.dtype))


def assert_same_state(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype, name
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def gradients(layer):
    return {parameter.name: parameter.grad for parameter in layer.parameters()}


def normal(shape, dtype, seed=1):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32).astype(dtype)


def forward_and_backward(layer, x, **options):
    y = layer.forward(x, **options)
    return y, layer.backward(normal(y.shape, np.float16).astype(x.dtype))


def test_every_public_layer_is_tested_here():
    made_here = [*LAYERS.values(), *OF_IDS.values(), *(make for make, _ in COMPOSED.values())]
    elsewhere = {PositionalEmbedding, ResidualNorm, layers.Layer}
    found = {type(make()) for make in made_here} | elsewhere
    public = {getattr(layers, name) for name in layers.__all__}
    assert found == {kind for kind in public if isinstance(kind, type) and issubclass(kind, layers.Layer)}


# --- inputs of 16 bits


@in_both_modes
@pytest.mark.parametrize("name", SINGLE)
def test_a_16_bit_result_is_that_of_float32_rounded_once(name, training, dtype):
    x = input_of(name).astype(dtype)
    half, full = made(name, training), made(name, training)
    y, dx = forward_and_backward(half, x)
    y32 = full(x.astype(np.float32))
    dx32 = full.backward(normal(y.shape, np.float16).astype(dtype).astype(np.float32))
    assert y.dtype == dx.dtype == dtype
    assert_rounded(y, y32)
    assert_rounded(dx, dx32)
    assert_same_state(gradients(half), gradients(full))  # float32, not rounded
    assert_same_state(half.state_dict(), full.state_dict())


@in_both_modes
def test_position_embeddings_of_16_bits_are_rounded_once(training, dtype):
    half, full = PositionalEmbedding(5, 8, seed=1), PositionalEmbedding(5, 8, seed=1)
    x, dy = SEQUENCES.astype(dtype), normal(SEQUENCES.shape, dtype)
    half.training = full.training = training
    assert_rounded(half(x), full(x.astype(np.float32)))
    assert_rounded(half.backward(dy), full.backward(dy.astype(np.float32)))
    assert_same_state(gradients(half), gradients(full))


@in_both_modes
@pytest.mark.parametrize("name", COMPOSED)
def test_composed_layers_round_each_part(name, training, dtype):
    make, x = COMPOSED[name]
    half, full = (make().train() if training else make().eval() for _ in range(2))
    y, dx = forward_and_backward(half, x.astype(dtype))
    y32, dx32 = forward_and_backward(full, x.astype(dtype).astype(np.float32))
    step = 2.0**-8 if dtype.name == "bfloat16" else 2.0**-11
    for got, wanted in ((y, y32), (dx, dx32)):
        assert got.dtype == dtype
        assert wanted.dtype == np.float32
        assert np.abs(got.astype(np.float32) - wanted).max() <= 16 * step * np.abs(wanted).max()
    assert {grad.dtype.name for grad in gradients(half).values()} == {"float32"}


def test_attention_is_the_float32_attention_of_its_rounded_projections(dtype):
    attention, x = MultiHeadAttention(8, 1, seed=1), SEQUENCES.astype(dtype)
    q, k, v = np.split(attention.qkv(x).astype(np.float32), 3, axis=-1)
    scores = np.matmul(q * np.float32(8**-0.5), k.swapaxes(1, 2))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    context = (weights / weights.sum(axis=-1, keepdims=True)) @ v
    np.testing.assert_array_equal(attention(x), attention.out(context.astype(dtype)))


@in_both_modes
@pytest.mark.parametrize("virtual_batch_size", [None, 3])
@pytest.mark.parametrize("channel_axis", [1, -1])
def test_a_mask_keeps_the_dtype(channel_axis, virtual_batch_size, training, dtype):
    half, full = (
        randomised(BatchNorm(4, channel_axis=channel_axis, virtual_batch_size=virtual_batch_size)) for _ in range(2)
    )
    half.training = full.training = training
    x = normal((5, 4, 6) if channel_axis == 1 else (5, 6, 4), dtype)
    mask = np.arange(6) >= np.array([6, 4, 3, 5, 2])[:, None]
    y, dx = forward_and_backward(half, x, mask=mask)
    y32 = full.forward(x.astype(np.float32), mask=mask)
    dx32 = full.backward(normal(y.shape, np.float16).astype(dtype).astype(np.float32))
    assert y.dtype == dx.dtype == dtype
    assert_rounded(y, y32)
    assert_rounded(dx, dx32)
    assert_same_state(gradients(half), gradients(full))
    assert_same_state(half.state_dict(), full.state_dict())


def test_merged_statistics_keep_the_dtype(dtype):
    half, full = BatchNorm(4), BatchNorm(4)
    other = normal((7, 4), np.float32, 5).astype(np.float64)

    def merge_moments(count, mean, m2):
        d = other.mean(0) - mean
        total = count + 7
        return total, mean + d * 7 / total, m2 + other.var(0) * 7 + d * d * count * 7 / total

    for layer in (half, full):
        layer._merge_moments = merge_moments
        layer._merge_gradient_sums = lambda count, first, second: (count + 7, first + 1, second - 1)
    x, dy = normal((6, 4), dtype), normal((6, 4), dtype, 2)
    assert_rounded(half(x), full(x.astype(np.float32)))
    assert_rounded(half.backward(dy), full.backward(dy.astype(np.float32)))
    assert_same_state(gradients(half), gradients(full))
    assert_same_state(half.state_dict(), full.state_dict())


@in_both_modes
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_residual_norms_of_16_bits_are_rounded_once(norm, training, dtype):
    half, full = ResidualNorm(8, 0.3, norm, seed=1), ResidualNorm(8, 0.3, norm, seed=1)
    half.training = full.training = training
    x, residual, dy, dh = (normal((6, 8), dtype, seed) for seed in range(4))
    wide = [a.astype(np.float32) for a in (x, residual, dy, dh)]
    for got, wanted in zip(half.add(x, residual), full.add(*wide[:2]), strict=True):
        assert got.dtype == dtype
        assert_rounded(got, wanted)
    h, *saved = half._saved
    full._saved = (h.astype(np.float32), *saved)  # backward starts from the rounded sum
    for got, wanted in zip(half.split(dy, dh), full.split(*wide[2:]), strict=True):
        assert got.dtype == dtype
        assert_rounded(got, wanted)
    assert_same_state(gradients(half), gradients(full))


def test_values_beyond_float16_become_infinite_without_a_warning():
    layer = Linear(1, 1, bias=False, seed=1)
    layer.weight[...] = 2
    np.testing.assert_array_equal(layer(np.array([[-6e4], [1]], np.float16)), [[-np.inf], [2]])


# --- dtypes that are refused

REFUSED = ["float64", "int64", "complex64"]


@in_both_modes
@pytest.mark.parametrize("name", [*LAYERS, *COMPOSED])
@pytest.mark.parametrize("other", REFUSED)
def test_another_dtype_is_refused_by_an_error_that_names_those_accepted(name, other, training):
    make, x = COMPOSED.get(name) or (LAYERS[name], input_of(name))
    layer = make().train() if training else make().eval()
    before = layer.state_dict()
    with pytest.raises(TypeError, match=f"x must be (a )?float32, float16 or bfloat16.*, got .*{other}"):
        layer(x.astype(other))
    if "sequential" not in name and "block" not in name:
        assert_same_state(layer.state_dict(), before)


def test_a_float64_error_says_how_to_convert():
    for layer in (LayerNorm(FEATURES), Linear(FEATURES, 2), ReLU(), Dropout(0.5, seed=1), Dropout(0.5).eval()):
        with pytest.raises(TypeError, match=r"float32, float16 or bfloat16.*float64.*np\.float32"):
            layer(np.ones((2, FEATURES)))


@in_both_modes
@pytest.mark.parametrize("name", [*LAYERS, *COMPOSED])
def test_dy_must_have_the_dtype_of_y(name, training):
    make, x = COMPOSED.get(name) or (LAYERS[name], input_of(name))
    layer = make().train() if training else make().eval()
    for own, other in (("float32", "float16"), ("float16", "float32"), ("float32", "float64"), ("float16", "int16")):
        y = layer(x.astype(own))
        with pytest.raises(TypeError, match=rf"dy must be (a )?{own}.*, got .*{other}"):
            layer.backward(np.ones(y.shape, other))


def test_residual_and_gradients_must_have_the_dtype_of_x():
    x, half = np.ones((2, 8), np.float32), np.ones((2, 8), np.float16)
    layer = ResidualNorm(8)
    with pytest.raises(TypeError, match="residual must be float32 like x, got float16"):
        layer.add(x, half)
    layer.add(half, half)
    with pytest.raises(TypeError, match="dy must be float16 like h, got float32"):
        layer.split(x)
    with pytest.raises(TypeError, match="dh must be float16 like"):
        layer.split(half, x)


# --- astype


def _all_layers():
    yield from ((name, make, input_of(name)) for name, make in LAYERS.items())
    yield from ((name, make, x) for name, (make, x) in COMPOSED.items())
    yield "positions", lambda: PositionalEmbedding(5, 8, seed=1), SEQUENCES


EVERY = {name: (make, x) for name, make, x in _all_layers()}


@pytest.mark.parametrize("name", EVERY)
def test_astype_rounds_the_parameters_alone(name, dtype):
    make, _ = EVERY[name]
    layer = randomised(make())
    before = layer.state_dict()
    cast = layer.astype(dtype)
    assert type(cast) is type(layer)
    assert_same_state(layer.state_dict(), before)
    parameters = {parameter.name for parameter in layer.parameters()}
    for key, value in cast.state_dict().items():
        wanted = before[key].astype(dtype) if key in parameters else before[key]
        assert value.dtype == wanted.dtype
        np.testing.assert_array_equal(value, wanted)


@in_both_modes
@pytest.mark.parametrize("name", EVERY)
def test_a_cast_layer_computes_as_one_with_rounded_parameters(name, training, dtype):
    make, x = EVERY[name]
    cast = randomised(make()).astype(dtype)
    rounded = cast.astype(np.float32)
    cast._set_training(training), rounded._set_training(training)
    for got, wanted in zip(*(forward_and_backward(layer, x.astype(dtype)) for layer in (cast, rounded)), strict=True):
        assert got.dtype == wanted.dtype == dtype
        np.testing.assert_array_equal(got, wanted)
    assert_same_state(gradients(cast), gradients(rounded))
    assert all(grad.dtype == np.float32 for grad in gradients(cast).values())


@in_both_modes
@pytest.mark.parametrize("name", OF_IDS)
def test_a_cast_network_of_ids_computes_in_its_dtype(name, training, dtype):
    layer = OF_IDS[name]()
    cast = layer.astype(dtype)
    layer._set_training(training), cast._set_training(training)
    y = cast(IDS)
    wanted = layer.astype(dtype).astype(np.float32)._set_training(training)(IDS)
    assert y.dtype == dtype
    assert wanted.dtype == np.float32
    assert np.abs(y.astype(np.float32) - wanted).max() <= 0.1 * np.abs(wanted).max()
    dx = cast.backward(np.ones_like(y))
    assert not dx.any()
    assert dx.dtype == dtype
    assert all(grad.dtype == np.float32 for grad in gradients(cast).values())
    with pytest.raises(TypeError, match=rf"dy must be a? ?{dtype}"):
        cast(IDS), cast.backward(np.ones(y.shape, np.float32))


def test_a_cast_embedding_sums_its_gradient_in_float32(dtype):
    layer = Embedding(3, 2, seed=1).astype(dtype)
    y = layer(np.zeros(1025, np.int64))
    layer.backward(np.ones_like(y))
    np.testing.assert_array_equal(layer.dweight, [[1025, 1025], [0, 0], [0, 0]])


def test_astype_float32_widens_exactly_and_copies(dtype):
    layer = randomised(LAYERS["sequential"]())
    half = layer.astype(dtype)
    full = half.astype("float32")
    for narrow, wide, own in zip(half.parameters(), full.parameters(), layer.parameters(), strict=True):
        assert wide.value.dtype == np.float32
        np.testing.assert_array_equal(wide.value, narrow.value.astype(np.float32))
        assert not np.may_share_memory(wide.value, own.value)
    same = layer.astype(np.float32)
    assert_same_state(same.state_dict(), layer.state_dict())
    assert not np.may_share_memory(same.layers[0].weight, layer.layers[0].weight)


def test_a_cast_layer_keeps_its_mode_and_its_position_in_the_random_stream():
    layer = Dropout(0.5, seed=1)
    x = np.ones((4, 50), np.float16)
    layer(x)
    cast = layer.astype(np.float16)
    assert cast.offset == layer.offset
    np.testing.assert_array_equal(cast(x), layer(x))
    assert not layer.eval().astype(np.float16).training


def test_astype_drops_a_pending_forward():
    layer = Linear(2, 2, seed=1)
    layer(np.ones((1, 2), np.float32))
    with pytest.raises(RuntimeError, match="needs a forward"):
        layer.astype(np.float16).backward(np.ones((1, 2), np.float16))
    layer.backward(np.ones((1, 2), np.float32))


def test_parameters_that_layers_share_stay_shared(dtype):
    network = Sequential(Linear(4, 4, seed=1), Linear(4, 4, seed=2))
    network.layers[1].weight = network.layers[0].weight
    cast = network.astype(dtype)
    assert cast.layers[1].weight is cast.layers[0].weight
    assert cast.layers[0].weight.dtype == dtype


@pytest.mark.parametrize("other", ["float64", np.int32, "half a float", None, ">f2", 3.5])
def test_astype_refuses_another_dtype(other):
    with pytest.raises(TypeError, match=r"dtype must be float32, float16 or ml_dtypes\.bfloat16, got"):
        Linear(2, 2, seed=1).astype(other)


@in_both_modes
@pytest.mark.parametrize("name", ["linear", "layer_norm", "rms_norm", "batch_norm", "group_norm", "positions"])
def test_a_cast_layer_refuses_an_input_of_another_dtype(name, training, dtype):
    make, x = EVERY[name]
    cast = make().astype(dtype)._set_training(training)
    with pytest.raises(TypeError, match=rf"(weight|gamma) must be float32\b.*, got {dtype}"):
        cast(x)
    if dtype.name == "bfloat16":
        with pytest.raises(TypeError, match=rf"(weight|gamma) must be float32 or float16\b.*, got {dtype}"):
            cast(x.astype(np.float16))


@pytest.mark.parametrize("make", [SGD, AdamW])
def test_optimisers_need_float32_parameters(make, dtype):
    network = Sequential(Linear(2, 2, seed=1), LayerNorm(2))
    with pytest.raises(TypeError, match=rf"network must have float32 parameters to train, got {dtype} for 0.weight"):
        make(network.astype(dtype))


# --- files


def test_files_keep_dtypes_and_bits(dtype, tmp_path):
    network = Sequential(Linear(4, 3, seed=1), BatchNorm(3), Dropout(0.5, seed=2), Linear(256, 256, False, seed=3))
    saved = network.astype(dtype)
    saved.layers[3].weight[...] = np.arange(2**16, dtype=np.uint16).reshape(256, 256).view(dtype)  # every value
    saved.save(tmp_path / "state.npz")
    loaded = network.astype(dtype)
    loaded.load(tmp_path / "state.npz")
    for name, value in saved.state_dict().items():
        assert loaded.state_dict()[name].dtype == value.dtype
        assert loaded.state_dict()[name].tobytes() == value.tobytes()
    assert loaded.state_dict()["1.running_var"].dtype == np.float32


def test_any_program_can_read_the_bits_of_a_bfloat16_file(tmp_path):
    bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    layer = Linear(4, 3, seed=1).astype(bfloat16)
    layer.save(tmp_path / "state.npz")
    with np.load(tmp_path / "state.npz", allow_pickle=False) as archive:
        assert set(archive) == {"bfloat16/weight", "bfloat16/bias"}
        bits = archive["bfloat16/weight"]
    assert bits.dtype == np.uint16
    widened = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(widened, layer.weight.astype(np.float32))


def test_a_float32_network_refuses_a_file_of_16_bits(dtype, tmp_path):
    layer = Linear(4, 3, seed=1)
    before = layer.state_dict()
    layer.astype(dtype).save(tmp_path / "state.npz")
    with pytest.raises(ValueError, match=rf"weight must be float32 of shape \(3, 4\), got {dtype}"):
        layer.load(tmp_path / "state.npz")
    assert_same_state(layer.state_dict(), before)
    with pytest.raises(ValueError, match=rf"weight must be {dtype} of shape \(3, 4\), got float32"):
        layer.astype(dtype).load_state_dict(before)


def test_without_ml_dtypes_a_bfloat16_file_names_the_package(tmp_path, monkeypatch):
    np.savez(tmp_path / "state.npz", **{"bfloat16/weight": np.zeros((3, 4), np.uint16)})
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"bfloat16/weight needs .* pip install ml_dtypes"):
        Linear(4, 3, bias=False, seed=1).load(tmp_path / "state.npz")


def test_a_bfloat16_entry_of_another_dtype_is_refused(tmp_path):
    np.savez(tmp_path / "state.npz", **{"bfloat16/weight": np.zeros((3, 4), np.float32)})
    with pytest.raises(ValueError, match=r"state\.npz.*bfloat16/weight must be uint16, got float32"):
        Linear(4, 3, bias=False, seed=1).load(tmp_path / "state.npz")


def test_a_file_with_two_dtypes_of_one_name_is_refused(tmp_path):
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    bits = np.zeros((3, 4), np.uint16)
    np.savez(tmp_path / "state.npz", **{"bfloat16/weight": bits, "weight": bits})
    with pytest.raises(ValueError, match="two arrays with the same name"):
        Linear(4, 3, bias=False, seed=1).load(tmp_path / "state.npz")
