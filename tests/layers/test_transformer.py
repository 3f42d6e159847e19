"""Attention, embeddings and transformer blocks: gradients, the results of PyTorch, masks, dropout, errors."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from gradients import assert_gradients

from cregkit.layers import (
    BatchNorm,
    Dropout,
    Embedding,
    LayerNorm,
    MultiHeadAttention,
    PositionalEmbedding,
    ResidualNorm,
    RMSNorm,
    Transformer,
    TransformerBlock,
)
from cregkit.train import AdamW, softmax_cross_entropy

N, T, D, HEADS = 2, 5, 8, 2
NORMS = ("layer", "rms")


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def padding(*lengths, t=T):
    """True after the end of each sequence."""
    return np.arange(t) >= np.array(lengths)[:, None]


# ---- gradients ----


class WithMasks(MultiHeadAttention):
    """Attention with both masks, called like any layer."""

    def forward(self, x):
        attn_mask = np.random.default_rng(3).random((T, T)) < 0.2
        np.fill_diagonal(attn_mask, False)
        return super().forward(x, key_padding_mask=padding(T, 3), attn_mask=attn_mask)


@pytest.mark.parametrize(
    "layer",
    [
        MultiHeadAttention(D, HEADS, seed=1),
        MultiHeadAttention(D, 1, 0.3, causal=True, seed=2),
        WithMasks(D, 4, 0.2, seed=3),
        PositionalEmbedding(T + 2, D, seed=4),
        *(
            TransformerBlock(D, HEADS, 12, p, norm, first, seed=5)
            for norm in NORMS
            for first in (False, True)
            for p in (0.0, 0.3)
        ),
        TransformerBlock(D, HEADS, 12, 0.3, "rms", True, gain_offset=1.0, seed=6),
        TransformerBlock(D, HEADS, 12, 0.3, norm_first=True, causal=True, seed=7).eval(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_gradients_match_finite_differences(layer):
    assert_gradients(layer, normal(N, T, D))


@pytest.mark.parametrize(("norm", "first"), [("layer", False), ("rms", True)])
def test_gradients_of_a_whole_model_match_finite_differences(norm, first):
    """Along one random direction of all parameters, because a difference quotient of one parameter drowns in noise."""
    model = Transformer(11, T, 2, D, HEADS, 16, 0.2, norm, first, causal=True, seed=8)
    rng = np.random.default_rng(4)
    ids, dy = rng.integers(0, 11, (N, T)), rng.standard_normal((N, T, 11)).astype(np.float32)
    for parameter in model.parameters():  # larger than the initial values, where the model is almost linear
        parameter.value[...] = 0.4 * rng.standard_normal(parameter.value.shape)
    state = model.state_dict()

    def loss(step):
        model.load_state_dict(state)
        for parameter, direction in zip(model.parameters(), directions, strict=True):
            parameter.value[...] += np.float32(step) * direction
        return float((model.forward(ids).astype(np.float64) * dy).sum())

    directions = [rng.standard_normal(parameter.value.shape).astype(np.float32) for parameter in model.parameters()]
    difference = (loss(1e-3) - loss(-1e-3)) / 2e-3
    loss(0)
    assert not model.backward(dy).any()
    analytic = sum(float((p.grad * d).sum()) for p, d in zip(model.parameters(), directions, strict=True))
    assert analytic == pytest.approx(difference, rel=2e-3)
    assert abs(analytic) > 1


def test_the_embedding_gradient_sums_over_the_places_of_a_token():
    layer = Embedding(6, 3, seed=0)
    ids = np.array([[1, 4, 1], [0, 1, 4]])
    assert np.array_equal(layer(ids), layer.weight[ids])
    dy = normal(2, 3, 3)
    assert layer.backward(dy).shape == ids.shape
    wanted = np.zeros((6, 3), np.float64)
    np.add.at(wanted, ids, dy)
    assert np.abs(layer.dweight - wanted).max() < 1e-6
    assert not layer.dweight[[2, 3, 5]].any()


def test_the_embedding_gradient_of_an_empty_batch_is_zero():
    layer = Embedding(6, 3, seed=0)
    ids = np.array([[1, 4, 1], [0, 1, 4]])
    layer.backward(layer(ids))
    assert layer.dweight.any()
    layer.backward(layer(ids[:0]))
    assert not layer.dweight.any()


# ---- dropout and the fused norm ----


@pytest.mark.parametrize(("norm", "options"), [("layer", {}), ("rms", {}), ("rms", {"gain_offset": 1.0})])
def test_residual_norm_has_the_bits_of_dropout_addition_and_norm(norm, options):
    fused, dropout = ResidualNorm(D, 0.4, norm, **options, seed=9), Dropout(0.4, seed=9)
    alone = (LayerNorm if norm == "layer" else RMSNorm)(D, **options)
    fused.gamma += np.float32(0.3)
    alone.gamma += np.float32(0.3)
    for _ in range(2):  # the second forward uses later random numbers
        x, residual, dy, dh = (normal(N, T, D, seed=seed) for seed in range(4))
        y, h = fused.add(x, residual)
        wanted_h = residual + dropout(x)
        assert np.array_equal(h, wanted_h)
        assert np.array_equal(y, alone(wanted_h))
        dx, dresidual = fused.split(dy, dh)
        wanted = alone.backward(dy) + dh
        assert np.array_equal(dresidual, wanted)
        assert np.array_equal(dx, dropout.backward(wanted))
        assert np.array_equal(fused.dgamma, alone.dgamma)
    assert fused.offset == dropout.offset == 2 * 4096
    fused.eval()
    assert np.array_equal(fused.add(x, residual)[1], x + residual)
    assert fused.offset == 2 * 4096


@pytest.mark.parametrize("first", [False, True])
def test_a_gain_offset_reaches_every_norm(first):
    model = Transformer(11, T, 2, D, HEADS, 16, 0.0, "rms", first, gain_offset=1.0, seed=8)
    plain = Transformer(11, T, 2, D, HEADS, 16, 0.0, "rms", first, seed=8)
    gains = [parameter for parameter in model.parameters() if parameter.name.endswith("gamma")]
    assert len(gains) == (5 if first else 4)
    assert not any(parameter.value.any() for parameter in gains)
    ids = np.array([[1, 4, 1], [0, 1, 4]])
    assert np.array_equal(model(ids), plain(ids))


@pytest.mark.parametrize("first", [False, True])
def test_a_loaded_block_continues_with_the_same_masks(first):
    one, other = (TransformerBlock(D, HEADS, dropout=0.3, norm_first=first, seed=seed) for seed in (1, 2))
    x = normal(N, T, D)
    start = one(x)
    other.load_state_dict(one.state_dict())
    again = one(x)
    assert np.array_equal(again, other(x))
    assert not np.array_equal(start, again)


# ---- masks ----


@pytest.mark.parametrize(("norm", "first"), [(norm, first) for norm in NORMS for first in (False, True)])
def test_padding_does_not_reach_the_sequence(norm, first):
    block = TransformerBlock(D, HEADS, dropout=0.0, norm=norm, norm_first=first, seed=1)
    x, mask = normal(N, T, D), padding(T, 3)
    other = np.where(mask[..., None], normal(N, T, D, seed=2), x)
    y, same = (block.forward(value, key_padding_mask=mask) for value in (x, other))
    assert np.array_equal(y[~mask], same[~mask])
    short = block.forward(np.ascontiguousarray(x[1:, :3]))
    assert np.abs(y[1, :3] - short[0]).max() < 1e-5
    assert not np.allclose(block(x)[1, :3], y[1, :3])


def test_a_causal_position_sees_no_future():
    block = TransformerBlock(D, HEADS, dropout=0.0, causal=True, seed=1)
    x = normal(N, T, D)
    changed = x.copy()
    changed[:, 3:] += 1
    assert np.array_equal(block(x)[:, :3], block(changed)[:, :3])


def test_causal_attention_is_attention_with_the_future_masked():
    x = normal(N, T, D)
    future = np.triu(np.ones((T, T), bool), 1)
    bidirectional = MultiHeadAttention(D, HEADS, seed=2)
    causal = copy.deepcopy(bidirectional)
    causal.causal = True
    assert np.array_equal(causal(x), bidirectional.forward(x, attn_mask=future))


def test_a_position_with_everything_masked_gives_the_bias():
    layer = MultiHeadAttention(D, HEADS, seed=1)
    layer.out.bias[...] = np.arange(D)
    y = layer.forward(normal(N, T, D), key_padding_mask=padding(T, 0))
    assert np.array_equal(y[1], np.broadcast_to(layer.out.bias, (T, D)))
    dx = layer.backward(normal(N, T, D))
    assert np.isfinite(dx).all()
    assert not dx[1].any()
    assert dx[0].any()


def test_attention_takes_empty_sequences():
    layer = MultiHeadAttention(D, HEADS, seed=1)
    assert layer.forward(normal(N, 0, D)).shape == (N, 0, D)


def test_scores_beyond_the_range_of_exp_give_no_nan():
    layer = MultiHeadAttention(D, HEADS, seed=1)
    y = layer(1e4 * normal(N, T, D))
    assert np.isfinite(y).all()
    assert np.isfinite(layer.backward(y)).all()


# ---- PyTorch ----


def fill(layer, torch_layer, names):
    """Copy the tensors of PyTorch into our parameters of these names."""
    state = {name: tensor.detach().numpy() for name, tensor in torch_layer.state_dict().items()}
    ours = {parameter.name: parameter.value for parameter in layer.parameters()}
    assert set(names.values()) == set(ours)
    for theirs, own in names.items():
        ours[own][...] = state[theirs]


ATTENTION = {
    "in_proj_weight": "qkv.weight",
    "in_proj_bias": "qkv.bias",
    "out_proj.weight": "out.weight",
    "out_proj.bias": "out.bias",
}


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("masks", ["none", "padding", "pairs", "both"])
def test_attention_has_the_results_of_pytorch(heads, masks):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.MultiheadAttention(16, heads, batch_first=True).eval()
    ours = MultiHeadAttention(16, heads)
    fill(ours, theirs, ATTENTION)
    x, dy = normal(3, 7, 16), normal(3, 7, 16, seed=2)
    given = {}
    if masks in ("padding", "both"):
        given["key_padding_mask"] = padding(7, 4, 1, t=7)
    if masks in ("pairs", "both"):
        given["attn_mask"] = np.triu(np.ones((7, 7), bool), 1)
    tensor = torch.from_numpy(x).requires_grad_()
    wanted, _ = theirs(tensor, tensor, tensor, **{name: torch.from_numpy(mask) for name, mask in given.items()})
    wanted.backward(torch.from_numpy(dy))
    assert np.abs(ours.forward(x, **given) - wanted.detach().numpy()).max() < 2e-6
    assert np.abs(ours.backward(dy) - tensor.grad.numpy()).max() < 1e-5
    for theirs_name, own in (("in_proj_weight", ours.qkv.dweight), ("in_proj_bias", ours.qkv.dbias)):
        assert np.abs(getattr(theirs, theirs_name).grad.numpy() - own).max() < 2e-5


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("first", [False, True])
def test_blocks_have_the_results_of_pytorch(first, activation, masked):
    torch = pytest.importorskip("torch")
    function = {"gelu_tanh": torch.nn.GELU("tanh"), "silu": torch.nn.SiLU()}.get(activation, activation)
    theirs = torch.nn.TransformerEncoderLayer(16, 4, 40, 0.0, function, batch_first=True, norm_first=first).train()
    ours = TransformerBlock(16, 4, 40, 0.0, norm_first=first, activation=activation)
    names = {f"self_attn.{name}": f"attention.{own}" for name, own in ATTENTION.items()}
    names |= {f"linear{i}.{kind}": f"ff.{2 * (i - 1)}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
    names |= {f"norm{i}.{k}": f"norm{i}.{own}" for i in (1, 2) for k, own in (("weight", "gamma"), ("bias", "beta"))}
    with torch.no_grad():
        for tensor in theirs.parameters():
            tensor.copy_(torch.from_numpy(0.3 * normal(*tensor.shape, seed=tensor.numel())))
    fill(ours, theirs, names)
    x, dy, mask = normal(3, 7, 16), normal(3, 7, 16, seed=2), padding(7, 4, 1, t=7)
    tensor = torch.from_numpy(x).requires_grad_()
    wanted = theirs(tensor, src_key_padding_mask=torch.from_numpy(mask) if masked else None)
    wanted.backward(torch.from_numpy(dy))
    got = ours.forward(x, key_padding_mask=mask if masked else None)
    assert np.abs(got - wanted.detach().numpy()).max() < 1e-5
    assert np.abs(ours.backward(dy) - tensor.grad.numpy()).max() < 1e-4
    gradients = {name: tensor.grad.numpy() for name, tensor in theirs.named_parameters()}
    own = {parameter.name: parameter.grad for parameter in ours.parameters()}
    for name, mine in names.items():
        assert np.abs(gradients[name] - own[mine]).max() < 1e-4 * max(1.0, np.abs(gradients[name]).max()), name


def test_attention_dropout_may_differ_from_dropout():
    def probabilities(**given):
        block = TransformerBlock(8, 2, dropout=0.25, **given)
        return block.attention.dropout.p, block.norm1.p, block.norm2.p, block.ff.layers[2].p

    assert probabilities() == (0.25, 0.25, 0.25, 0.25)
    assert probabilities(attention_dropout=0.0) == (0.0, 0.25, 0.25, 0.25)
    assert probabilities(attention_dropout=0.5) == (0.5, 0.25, 0.25, 0.25)


# ---- training ----


@pytest.mark.parametrize(("norm", "first"), [("layer", False), ("rms", True)])
def test_a_language_model_learns_to_copy(norm, first):
    """Each token repeats the one two places before, which only attention can read."""
    rng = np.random.default_rng(0)
    model = Transformer(6, 16, 2, 32, 4, dropout=0.0, norm=norm, norm_first=first, causal=True, seed=1)
    optimizer = AdamW(model, lr=3e-3)
    losses = []
    for _ in range(150):
        tokens = np.tile(rng.integers(0, 6, (16, 2)), (1, 9))[:, :17]
        loss, gradient = softmax_cross_entropy(model(tokens[:, :-1]).reshape(-1, 6), tokens[:, 1:].ravel())
        model.backward(gradient.reshape(16, 16, 6))
        optimizer.step()
        losses.append(loss)
    assert losses[0] > 1.5
    assert np.mean(losses[-5:]) < 0.35  # the first two tokens are guesses: at least log(6) / 16 = 0.11


# ---- errors ----


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (ValueError, "n_heads must divide d_model, got n_heads=3 and d_model=8", lambda: MultiHeadAttention(8, 3)),
        (ValueError, "n_heads must divide", lambda: TransformerBlock(8, 3)),
        (ValueError, "norm must be 'layer' or 'rms', got 'batch'", lambda: TransformerBlock(8, 2, norm="batch")),
        (ValueError, "activation must be one of relu, gelu", lambda: TransformerBlock(8, 2, activation="tanh")),
        (ValueError, r"p must be in \[0, 1\]", lambda: TransformerBlock(8, 2, dropout=1.5)),
        (TypeError, "n_layers must be an int", lambda: Transformer(5, 4, 1.5)),
        (ValueError, r"shape \(N, T, d_model\) with d_model=8", lambda: MultiHeadAttention(8, 2)(normal(5, 8))),
        (
            TypeError,
            "x must be a float32, float16 or bfloat16 array, got a float64",
            lambda: MultiHeadAttention(8, 2)(np.zeros((1, 2, 8))),
        ),
        (ValueError, r"shape \(N, T, d_model\) with d_model=8", lambda: TransformerBlock(8, 2)(normal(2, 3, 9))),
        (
            ValueError,
            r"key_padding_mask must have shape \(2, 5\), got \(5, 2\)",
            lambda: MultiHeadAttention(8, 2).forward(normal(2, 5, 8), key_padding_mask=np.zeros((5, 2), bool)),
        ),
        (
            ValueError,
            r"attn_mask must have shape \(5, 5\) or \(2, 5, 5\), got \(2, 5\)",
            lambda: TransformerBlock(8, 2).forward(normal(2, 5, 8), attn_mask=np.zeros((2, 5), bool)),
        ),
        (
            TypeError,
            "attn_mask must be a bool array, True at masked positions, got a float64 array",
            lambda: MultiHeadAttention(8, 2).forward(normal(2, 5, 8), attn_mask=np.zeros((5, 5))),
        ),
        (
            ValueError,
            "x must have at most max_length=4 positions, got 5",
            lambda: PositionalEmbedding(4, 8)(normal(2, 5, 8)),
        ),
        (
            ValueError,
            "at most max_length=4 positions, got 5",
            lambda: Transformer(5, 4, 1, 8, 2)(np.zeros((1, 5), int)),
        ),
        (ValueError, r"ids of shape \(N, T\)", lambda: Transformer(5, 4, 1, 8, 2)(np.zeros(4, int))),
        (ValueError, "ids from 0 to 4, the vocabulary, got 5", lambda: Embedding(5, 8)(np.array([1, 5]))),
        (ValueError, "the vocabulary, got -1", lambda: Embedding(5, 8)(np.array([-1, 3]))),
        (TypeError, "integer array of ids, got a float32 array", lambda: Embedding(5, 8)(normal(3))),
        (RuntimeError, "needs a forward", lambda: TransformerBlock(8, 2).backward(normal(2, 5, 8))),
        (RuntimeError, "needs an add", lambda: ResidualNorm(8).split(normal(2, 8))),
        (TypeError, r"call add\(x, residual\)", lambda: ResidualNorm(8)(normal(2, 8))),
        (ValueError, "num_features=8", lambda: ResidualNorm(8).add(normal(2, 9), normal(2, 9))),
        (
            ValueError,
            "gain_offset must be 0 with norm='layer', got 1.0: use norm='rms'",
            lambda: ResidualNorm(8, gain_offset=1.0),
        ),
        (ValueError, "gain_offset must be 0", lambda: TransformerBlock(8, 2, norm_first=True, gain_offset=1.0)),
        (TypeError, "num_features must be an int", lambda: ResidualNorm((8, 8))),
        (ValueError, "residual must have the shape of x", lambda: ResidualNorm(8).add(normal(2, 8), normal(3, 8))),
    ],
)
def test_wrong_arguments_are_refused(error, match, call):
    with pytest.raises(error, match=match):
        call()


# ---- batch norm of sequences of different lengths ----


def test_batch_norm_leaves_padding_out_of_its_statistics():
    layer, dense = BatchNorm(D, channel_axis=-1), BatchNorm(D, channel_axis=-1)
    for each in (layer, dense):
        each.gamma[...], each.beta[...] = np.linspace(0.5, 1.5, D), np.linspace(-1, 1, D)
    x, dy, mask = normal(N, T, D), normal(N, T, D, seed=2), padding(T, 2)
    x[mask] = np.nan
    y = layer.forward(x, mask=mask)
    assert np.array_equal(y[~mask], dense(x[~mask]))
    assert not y[mask].any()
    assert np.array_equal(layer.running_mean, dense.running_mean)
    dx = layer.backward(dy)
    assert np.array_equal(dx[~mask], dense.backward(dy[~mask]))
    assert not dx[mask].any()
    assert np.array_equal(layer.dgamma, dense.dgamma)


def test_masked_batch_norm_gives_the_same_in_both_layouts():
    x, mask = normal(N, T, D), padding(T, 2)
    x[mask] = np.nan
    across = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    got = BatchNorm(D).forward(across, mask=mask)
    plain = BatchNorm(D, channel_axis=-1).forward(x, mask=mask)
    assert np.array_equal(np.moveaxis(got, 1, -1), plain)


def test_batch_norm_in_evaluation_gives_zero_where_masked():
    layer, x, mask = BatchNorm(D, channel_axis=-1), normal(N, T, D), padding(T, 2)
    layer.beta[...] = np.linspace(-1, 1, D)
    x[mask] = np.nan
    layer.forward(x, mask=mask)
    evaluated = layer.eval().forward(x, mask=mask)
    assert np.isfinite(evaluated).all()
    assert not evaluated[mask].any()


@pytest.mark.parametrize(
    ("error", "match", "mask"),
    [
        (ValueError, r"mask must have shape \(2, 5\), the shape of x without its channel axis, got \(5, 2\)", (5, 2)),
        (TypeError, "mask must be a bool array", None),
        (ValueError, "every position is masked|at least two|values", (2, 5)),
    ],
)
def test_batch_norm_refuses_wrong_masks_and_keeps_its_state(error, match, mask):
    layer = BatchNorm(D, channel_axis=-1)
    given = np.ones(mask, bool) if mask else [[1]]
    before = layer.state_dict()
    with pytest.raises(error, match=match):
        layer.forward(normal(N, T, D), mask=given)
    assert all(np.array_equal(value, before[name]) for name, value in layer.state_dict().items())


def test_a_block_does_not_change_its_input():
    x = normal(N, T, D)
    kept = x.copy()
    block = TransformerBlock(D, HEADS, seed=1)
    block.backward(block(x))
    assert np.array_equal(x, kept)
