"""Every setting in config.json and every array of a file is used or refused by name."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from bert_files import (
    EPS,
    FF,
    GELU,
    HEADS,
    LAYERS,
    PLACES,
    SIZE,
    WORDS,
    bf16,
    draw_arrays,
    hidden_states,
    write,
)

from cregkit.layers import BertEncoder, bert_config

IDS = np.random.default_rng(0).integers(5, WORDS, (2, 7))
ONE_SEGMENT = draw_arrays(n_segments=1)


def assert_reads(path, wanted, ids=IDS):
    assert np.abs(BertEncoder.from_safetensors(path)(ids) - wanted).max() < 2e-5


def prefixed(prefix, arrays):
    return {prefix + name: array for name, array in arrays.items()}


# ---- activations ----


def gelu_tanh(v):
    return 0.5 * v * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))


ACTIVATIONS = {"relu": lambda v: np.maximum(v, 0), "silu": lambda v: v / (1 + np.exp(-v))}
ACTIVATIONS |= {"swish": ACTIVATIONS["silu"], "gelu": GELU, "gelu_python": GELU}
ACTIVATIONS |= {f"gelu_{kind}": gelu_tanh for kind in ("new", "fast", "accurate", "pytorch_tanh", "python_tanh")}


def test_every_activation_that_is_read_is_tested():
    assert ACTIVATIONS.keys() == bert_config.ACTIVATIONS.keys()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_hidden_act_sets_the_activation(name, tmp_path):
    wanted = hidden_states(draw_arrays(), IDS, np.arange(7), ACTIVATIONS[name])
    assert_reads(write(tmp_path, hidden_act=name), wanted)


def test_the_activations_give_different_results():
    results = [hidden_states(draw_arrays(), IDS, np.arange(7), activation) for activation in ACTIVATIONS.values()]
    distinct = [results[0]]
    for result in results:
        if all(np.abs(result - other).max() > 1e-4 for other in distinct):
            distinct.append(result)
    assert len(distinct) == 4


# ---- families ----

ROBERTA = ("roberta", "xlm-roberta", "camembert")
PREFIXES = {"bert": "bert.", "electra": "electra."} | dict.fromkeys(ROBERTA, "roberta.")


def rows_of_roberta(ids, padding):
    """The rows of the position table, counted token by token."""
    rows = np.full(ids.shape, padding)
    for sequence, row in zip(ids, rows, strict=True):
        last = padding
        for t, token in enumerate(sequence):
            if token != padding:
                last += 1
                row[t] = last
    return rows


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("model_type", PREFIXES)
def test_model_type_sets_the_positions(model_type, whole, tmp_path):
    first = 2 if model_type in ROBERTA else 0
    arrays = prefixed(PREFIXES[model_type] if whole else "", ONE_SEGMENT)
    assert_reads(write(tmp_path, arrays, model_type=model_type), hidden_states(ONE_SEGMENT, IDS, first + np.arange(7)))


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_roberta_does_not_count_padding(padding, tmp_path):
    ids = IDS.copy()
    ids[0, 5:] = ids[1, 0] = ids[1, 3] = padding
    path = write(tmp_path, ONE_SEGMENT, model_type="roberta", pad_token_id=padding)
    wanted = hidden_states(ONE_SEGMENT, ids, rows_of_roberta(ids, padding))
    assert_reads(path, wanted, ids)
    assert_reads(path, wanted, ids.astype(np.uint8))
    assert_reads(path, hidden_states(ONE_SEGMENT, IDS, padding + 1 + np.arange(7)))


def test_bert_counts_padding(tmp_path):
    ids = IDS.copy()
    ids[0, 2:5] = 3
    assert_reads(write(tmp_path, pad_token_id=3), hidden_states(draw_arrays(), ids, np.arange(7)), ids)


def test_roberta_has_fewer_positions_than_rows(tmp_path):
    encoder = BertEncoder.from_safetensors(write(tmp_path, ONE_SEGMENT, model_type="camembert"))
    assert (encoder.max_length, encoder.padding_id) == (PLACES - 2, 1)
    longest = np.full((1, PLACES - 2), 5)
    assert encoder(longest).shape == (1, PLACES - 2, SIZE)
    padded = np.array([[5] * (PLACES - 2) + [1, 1, 1]])
    assert encoder(padded).shape == (1, PLACES + 1, SIZE)
    with pytest.raises(
        ValueError, match="x must have at most max_length=18 tokens other than padding in a sequence, got 19"
    ):
        encoder(np.full((1, PLACES - 1), 5))


@pytest.mark.parametrize(
    ("architectures", "first"),
    [
        (["BertForMaskedLM"], 0),
        (["TFBertModel", "BertLMHeadModel"], 0),
        (["ElectraForPreTraining"], 0),
        (["HF_ColBERT"], 0),
        (["RobertaForMaskedLM"], 2),
        (["XLMRobertaModel"], 2),
        (["CamembertForTokenClassification"], 2),
    ],
)
def test_without_model_type_the_architecture_sets_the_family(architectures, first, tmp_path):
    path = write(tmp_path, ONE_SEGMENT, model_type="none", architectures=architectures)
    assert_reads(path, hidden_states(ONE_SEGMENT, IDS, first + np.arange(7)))


def test_without_model_type_and_architecture_only_a_certain_bert_is_read(tmp_path):
    assert_reads(write(tmp_path, model_type="none"), hidden_states(draw_arrays(), IDS, np.arange(7)))
    for arrays in (ONE_SEGMENT, prefixed("roberta.", draw_arrays())):
        with pytest.raises(ValueError, match=r"config\.json: model_type is missing and must be bert"):
            BertEncoder.from_safetensors(write(tmp_path, arrays, model_type="none"))
        (tmp_path / "config.json").unlink()
        with pytest.raises(ValueError, match=r"config\.json: model_type is missing and must be bert"):
            BertEncoder.from_safetensors(tmp_path / "model.safetensors", HEADS)


@pytest.mark.parametrize(
    ("model_type", "architectures"),
    [
        ("bert", ["RobertaModel"]),
        ("roberta", ["BertModel"]),
        ("electra", ["BertModel"]),
        ("bert", ["BertModel", "XLMRobertaModel"]),
        ("bert", ["DistilBertModel"]),
        ("bert", ["JinaBertForMaskedLM"]),
        ("bert", ["BertGenerationEncoder"]),
        ("roberta", ["RobertaPreLayerNormModel"]),
        ("xlm-roberta", ["XLMRobertaXLModel"]),
        ("none", ["NomicBertModel"]),
        ("none", ["BertModel", "RobertaModel"]),
        ("bert", "BertModel"),
        ("bert", [3]),
    ],
)
def test_classes_of_another_encoder_are_refused(model_type, architectures, tmp_path):
    path = write(tmp_path, model_type=model_type, architectures=architectures)
    with pytest.raises(ValueError, match="architectures must be"):
        BertEncoder.from_safetensors(path)


@pytest.mark.parametrize(("prefix", "model_type"), [("roberta.", "bert"), ("bert.", "roberta"), ("model.", "bert")])
def test_arrays_of_another_family_are_refused(prefix, model_type, tmp_path):
    path = write(tmp_path, prefixed(prefix, draw_arrays()), model_type=model_type)
    with pytest.raises(ValueError, match=f"model_type '{model_type}' .* begin with {prefix}"):
        BertEncoder.from_safetensors(path)


# ---- keys ----

REFUSED = {
    "model_type": [
        "distilbert", "albert", "deberta", "deberta-v2", "mpnet", "modernbert", "nomic_bert", "xlm-roberta-xl",
        "roberta-prelayernorm", "xmod", "gpt2", "BERT", "", 3, ["bert"],
    ],
    "hidden_act": ["gelu_10", "quick_gelu", "tanh", "mish", "relu6", "linear", "GELU", "", None, 3, ["gelu"]],
    "position_embedding_type": ["relative_key", "relative_key_query", "rotary", "alibi", None, 1],
    "directionality": ["left"],
    "is_decoder": [True, 1, "true"],
    "is_encoder_decoder": [True],
    "add_cross_attention": [True],
    "pruned_heads": [{"0": [1]}],
    "quantization_config": [{"load_in_8bit": True, "quant_method": "bitsandbytes"}],
    "auto_map": [{"AutoModel": "modeling.JinaBertModel"}],
    "adapters": [{"adapters": {"task": "abc"}, "config_map": {}}],
    "embedding_size": [SIZE // 2, str(SIZE)],
    "hidden_size": [SIZE * 2, float(SIZE), None],
    "vocab_size": [WORDS + 1, True],
    "num_hidden_layers": [LAYERS - 1, LAYERS + 1, "2"],
    "intermediate_size": [FF + 1],
    "max_position_embeddings": [PLACES - 2],
    "type_vocab_size": [1, True],
    "num_attention_heads": [0, 3, -2, "2", 2.0, None, True],
    "layer_norm_eps": [-1e-5, "1e-5", None, math.nan, math.inf, 2, True],
    "hidden_dropout_prob": [1.5, -0.1, "0.1", None],
    "attention_probs_dropout_prob": [1.5, None, [0.1]],
    "pad_token_id": ["0", 1.0, [0]],
    # keys of other encoders, and made-up keys
    "embedding_norm": [True], "rope_theta": [10000.0], "norm_first": [False], "feed_forward_type": ["geglu"],
    "use_bias": [False], "layer_norm_epsilon": [1e-3], "attention_window": [512], "per_layer_config": [{"0": {}}],
}  # fmt: skip


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in REFUSED.items() for value in values])
def test_an_unsupported_value_is_refused_by_name(key, value, tmp_path):
    path = write(tmp_path, **{key: value})
    shown = re.escape(repr(value)[:12])
    with pytest.raises(ValueError, match=rf"config\.json: {key} .*{shown}"):
        BertEncoder.from_safetensors(path)


def test_every_key_that_is_read_is_tested_with_a_wrong_value():
    keys = bert_config.READ | bert_config.OFF | bert_config.FIXED.keys() | bert_config.SIZES.keys()
    assert keys - {"architectures"} <= REFUSED.keys()


@pytest.mark.parametrize("value", [-1, WORDS, PLACES, PLACES - 1, None])
def test_roberta_needs_a_padding_id_that_leaves_positions(value, tmp_path):
    with pytest.raises(ValueError, match=f"pad_token_id must be an id from 0 to {PLACES - 2}, so that .*, got {value}"):
        BertEncoder.from_safetensors(write(tmp_path, model_type="roberta", pad_token_id=value))


def test_a_roberta_with_one_position_is_read(tmp_path):
    encoder = BertEncoder.from_safetensors(write(tmp_path, model_type="roberta", pad_token_id=PLACES - 2))
    assert encoder.max_length == 1


def test_the_default_padding_id_needs_three_rows_of_positions(tmp_path):
    arrays = draw_arrays()
    arrays["embeddings.position_embeddings.weight"] = arrays["embeddings.position_embeddings.weight"][:2]
    with pytest.raises(ValueError, match=r"pad_token_id must be an id from 0 to 0, .*, got the default 1"):
        BertEncoder.from_safetensors(write(tmp_path, arrays, model_type="roberta"))


OFF = {
    "is_decoder": False, "add_cross_attention": False, "is_encoder_decoder": False, "pruned_heads": {},
    "quantization_config": None, "auto_map": {}, "position_embedding_type": "absolute",
    "adapters": {"adapters": {}, "config_map": {}, "fusion_config_map": {}, "fusions": {}},
    "cross_attention_hidden_size": None, "rope_parameters": None, "embedding_size": SIZE,
}  # fmt: skip
PUBLIC = {  # keys of published files; the sizes are ours
    "multilingual BERT": {
        "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "directionality": "bidi",
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": SIZE, "initializer_range": 0.02,
        "intermediate_size": FF, "layer_norm_eps": EPS, "max_position_embeddings": PLACES, "model_type": "bert",
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "pad_token_id": 0, "pooler_fc_size": 768,
        "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3, "pooler_size_per_head": 128,
        "pooler_type": "first_token_transform", "type_vocab_size": 2, "vocab_size": WORDS,
    },
    "a classifier": {
        "_name_or_path": "old/bert", "_num_labels": 5, "architectures": ["BertForSequenceClassification"],
        "finetuning_task": "sentiment-analysis", "id2label": {"0": "1 star"}, "label2id": {"1 star": 0},
        "classifier_dropout": None, "gradient_checkpointing": False, "output_past": True, "use_cache": True,
        "problem_type": "single_label_classification", "torch_dtype": "float32", "transformers_version": "4.33.3",
    },
    "an old one": {
        "output_attentions": False, "output_hidden_states": False, "pruned_heads": {}, "torchscript": False,
        "num_labels": 2, "use_bfloat16": False, "length_penalty": 1.0, "max_length": 20, "num_beams": 1, "top_k": 50,
    },
    "a new one": {
        "dtype": "float32", "bos_token_id": None, "eos_token_id": [2, 3], "tie_word_embeddings": True,
        "chunk_size_feed_forward": 64, "return_dict": True, "transformers_version": "5.24.0",
        "sentence_transformers": {"version": "4.0", "activation_fn": "torch.nn.Sigmoid"},
    },
    "features that are off": OFF,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_keys_that_do_not_change_the_hidden_states_are_ignored(name, tmp_path):
    assert_reads(write(tmp_path, **PUBLIC[name]), hidden_states(draw_arrays(), IDS, np.arange(7)))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "must be JSON"),
        (b"{", "must be JSON"),
        (b'{"model_type": "\xff"}', "must be JSON"),
        (b"[" * 200_000, "must be JSON"),
        (b"[]", "must hold a JSON object, got"),
        (b"null", "must hold a JSON object, got None"),
        (b'"bert"', "must hold a JSON object, got 'bert'"),
    ],
)
def test_a_config_that_is_no_json_object_is_refused(content, error, tmp_path):
    path = write(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json {error}"):
        BertEncoder.from_safetensors(path, HEADS)


def test_an_electra_with_a_projection_is_refused_by_its_embedding_size(tmp_path):
    arrays = draw_arrays() | {"embeddings_project.weight": np.zeros((SIZE, 8), np.float32)}
    for name in [name for name in arrays if name.startswith("embeddings.")]:
        arrays[name] = arrays[name][..., :8]
    path = write(tmp_path, arrays, model_type="electra", hidden_size=SIZE, embedding_size=8)
    with pytest.raises(ValueError, match="embedding_size must be 16, as in the encoder's arrays, got 8"):
        BertEncoder.from_safetensors(path)


def test_another_model_is_refused_by_its_model_type_before_its_keys_and_arrays(tmp_path):
    path = write(tmp_path, {"transformer.layer.0.attention.q_lin.weight": np.zeros(3, np.float32)})
    (tmp_path / "config.json").write_text('{"activation": "gelu", "dim": 768, "model_type": "distilbert"}')
    with pytest.raises(ValueError, match=r"model_type must be bert or roberta or .*, got 'distilbert'"):
        BertEncoder.from_safetensors(path)


def test_n_heads_may_repeat_the_config(tmp_path):
    path = write(tmp_path)
    assert np.array_equal(BertEncoder.from_safetensors(path, HEADS)(IDS), BertEncoder.from_safetensors(path)(IDS))


def test_n_heads_that_differs_from_the_config_is_refused(tmp_path):
    path = write(tmp_path)
    with pytest.raises(ValueError, match=r"n_heads must be 2, the num_attention_heads in .*config\.json, got 4"):
        BertEncoder.from_safetensors(path, 4)


def test_n_heads_is_needed_where_the_config_has_none(tmp_path):
    path = write(tmp_path, num_attention_heads="none")
    with pytest.raises(ValueError, match=r"n_heads is missing: pass it, because .* has no num_attention_heads"):
        BertEncoder.from_safetensors(path)


def test_the_config_sets_dropout_unless_it_is_given(tmp_path):
    def probabilities(path, **given):
        encoder = BertEncoder.from_safetensors(path, **given)
        block = encoder.blocks[1]
        return encoder.dropout.p, block.norm1.p, block.norm2.p, block.attention.dropout.p

    assert probabilities(write(tmp_path)) == (0.1, 0.1, 0.1, 0.1)
    path = write(tmp_path, hidden_dropout_prob=0.25, attention_probs_dropout_prob=0)
    assert probabilities(path) == (0.25, 0.25, 0.25, 0.0)
    assert probabilities(path, dropout=0.5) == (0.5, 0.5, 0.5, 0.5)


def test_layer_norm_eps_sets_the_eps_of_the_norms(tmp_path):
    encoder = BertEncoder.from_safetensors(write(tmp_path, layer_norm_eps=1e-3))
    assert {encoder.norm.eps, encoder.blocks[0].norm1.eps, encoder.blocks[1].norm2.eps} == {1e-3}
    assert BertEncoder.from_safetensors(write(tmp_path, layer_norm_eps="none")).norm.eps == 1e-12


# ---- arrays ----


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
def test_float16_bfloat16_and_float64_are_read_exactly(name, tmp_path):
    special = np.array([0.0, -0.0, 1e-40, 6e-8, 65504, np.inf, -np.inf, np.nan], np.float32)
    arrays = draw_arrays()
    arrays["embeddings.word_embeddings.weight"][0, :8] = special
    stored = {key: bf16(array) if name == "bfloat16" else array.astype(name) for key, array in arrays.items()}
    exact = {
        key: (array.astype(np.uint32) << 16).view(np.float32) if name == "bfloat16" else array.astype(np.float32)
        for key, array in stored.items()
    }
    encoder = BertEncoder.from_safetensors(write(tmp_path, stored))
    for own, theirs in (("embedding", "word"), ("positions", "position"), ("segments", "token_type")):
        wanted = exact[f"embeddings.{theirs}_embeddings.weight"]
        assert getattr(encoder, own).weight.tobytes() == wanted.tobytes()
    wanted = [exact[f"encoder.layer.1.attention.self.{part}.weight"] for part in ("query", "key", "value")]
    assert encoder.blocks[1].attention.qkv.weight.tobytes() == np.concatenate(wanted).tobytes()
    assert np.abs(encoder(IDS) - hidden_states(exact, IDS, np.arange(7))).max() < 2e-5


@pytest.mark.parametrize("value", [0.1, 1e300, 1e-300])
def test_float64_that_would_lose_digits_is_refused(value, tmp_path):
    arrays = draw_arrays() | {"encoder.layer.1.output.dense.bias": np.full(SIZE, value)}
    with pytest.raises(ValueError, match=r"encoder\.layer\.1\.output\.dense\.bias is F64 with values that float32"):
        BertEncoder.from_safetensors(write(tmp_path, arrays))


def test_integer_weights_are_refused(tmp_path):
    name = "encoder.layer.0.intermediate.dense.weight"
    with pytest.raises(ValueError, match=f"{name} must be F32, F16, BF16 or F64, got I8"):
        BertEncoder.from_safetensors(write(tmp_path, draw_arrays() | {name: np.zeros((FF, SIZE), np.int8)}))


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.position_ids",
        "embeddings.token_type_ids",
        "pooler.dense.weight",
        "cls.predictions.bias",
        "lm_head.layer_norm.weight",
        "classifier.weight",
        "qa_outputs.bias",
        "discriminator_predictions.dense.weight",
    ],
)
def test_buffers_and_heads_are_ignored(name, tmp_path):
    arrays = draw_arrays() | {name: np.arange(PLACES)}
    assert_reads(write(tmp_path, arrays), hidden_states(draw_arrays(), IDS, np.arange(7)))


@pytest.mark.parametrize(
    "name",
    [
        "encoder.layer.0.attention.self.distance_embedding.weight",
        "encoder.layer.0.crossattention.self.query.weight",
        "encoder.layer.1.attention.self.query.lora_A.default.weight",
        "encoder.layer.1.output.adapters.task.adapter_down.0.weight",
        "encoder.layer.1.output.dense.weight.absmax",
        "encoder.layer.3.output.dense.bias",
        "encoder.LayerNorm.weight",
        "encoder.embedding_hidden_mapping_in.weight",
        "embeddings.task_type_embeddings.weight",
        "embeddings_project.weight",
        "LayerNorm.weight",
    ],
)
def test_an_array_that_would_change_the_result_is_refused(name, tmp_path):
    for prefix in ("", "bert."):
        arrays = prefixed(prefix, draw_arrays() | {name: np.zeros(3, np.float32)})
        with pytest.raises(ValueError, match=re.escape(f"{prefix}{name} is unknown and may change")):
            BertEncoder.from_safetensors(write(tmp_path, arrays))


def test_two_encoders_in_a_file_are_refused(tmp_path):
    for second in ("", "query.bert."):
        arrays = prefixed("bert.", draw_arrays()) | prefixed(second, draw_arrays())
        with pytest.raises(ValueError, match=r"2 arrays embeddings\.word_embeddings\.weight"):
            BertEncoder.from_safetensors(write(tmp_path, arrays))


def test_an_array_under_two_names_is_refused(tmp_path):
    arrays = draw_arrays() | {"encoder.layer.0.output.LayerNorm.gamma": np.zeros(SIZE, np.float32)}
    with pytest.raises(ValueError, match=r"LayerNorm\.gamma and .*LayerNorm\.weight name the same array"):
        BertEncoder.from_safetensors(write(tmp_path, arrays))


@pytest.mark.parametrize("name", draw_arrays())
def test_an_array_of_another_shape_is_refused(name, tmp_path):
    arrays, rows = draw_arrays(), {"vocab_size": WORDS, "max_position_embeddings": PLACES, "type_vocab_size": 2}
    for wrong in (arrays[name][:-1], arrays[name][..., None], arrays[name].ravel()[:0]):
        with pytest.raises(ValueError, match=r"shape|axes|as in the encoder's arrays"):
            BertEncoder.from_safetensors(write(tmp_path, arrays | {name: wrong}, **rows))


@pytest.mark.parametrize("name", draw_arrays())
def test_a_missing_array_is_named(name, tmp_path):
    arrays = draw_arrays()
    del arrays[name]
    with pytest.raises(ValueError, match=r"no array|arrays embeddings|is unknown"):
        BertEncoder.from_safetensors(write(tmp_path, arrays))


# ---- the encoder itself ----


def test_a_saved_encoder_is_loaded_with_the_same_results(tmp_path):
    path = write(tmp_path, ONE_SEGMENT, model_type="roberta", hidden_act="silu", pad_token_id=3)
    read = BertEncoder.from_safetensors(path)
    read.save(tmp_path / "state.npz")
    made = BertEncoder(
        WORDS, read.max_length, LAYERS, SIZE, HEADS, FF, n_segments=1, eps=EPS, activation="silu", padding_id=3
    )
    made.load(tmp_path / "state.npz")
    assert np.array_equal(made.eval()(IDS), read(IDS))


def test_gradients_of_roberta_are_those_of_bert_in_shifted_rows():
    bert = BertEncoder(WORDS, 9, 1, SIZE, HEADS, FF, 0.0, seed=1)
    roberta = BertEncoder(WORDS, 9, 1, SIZE, HEADS, FF, 0.0, padding_id=2, seed=1)
    state = bert.state_dict()
    state["positions.weight"] = np.concatenate([np.ones((3, SIZE), np.float32), state["positions.weight"]])
    roberta.load_state_dict(state)
    y = bert(IDS)
    assert np.array_equal(roberta(IDS), y)
    dy = np.random.default_rng(3).standard_normal(y.shape).astype(np.float32)
    bert.backward(dy)
    roberta.backward(dy)
    assert not roberta.positions.dweight[:3].any()
    np.testing.assert_allclose(roberta.positions.dweight[3:], bert.positions.dweight, atol=1e-6)
    for theirs, ours in zip(bert.parameters(), roberta.parameters(), strict=True):
        assert theirs.name == "positions.weight" or np.array_equal(theirs.grad, ours.grad), theirs.name


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (ValueError, r"padding_id must be in \[0, 39\], got 40", lambda: BertEncoder(40, 4, 1, 8, 2, padding_id=40)),
        (ValueError, r"padding_id must be in \[0, 39\], got -1", lambda: BertEncoder(40, 4, 1, 8, 2, padding_id=-1)),
        (TypeError, "padding_id must be an int, got bool", lambda: BertEncoder(40, 4, 1, 8, 2, padding_id=True)),
        (ValueError, "activation must be one of relu, gelu", lambda: BertEncoder(40, 4, 1, 8, 2, activation="tanh")),
        (ValueError, r"p must be in \[0, 1\], got 2", lambda: BertEncoder(40, 4, 1, 8, 2, attention_dropout=2)),
        (ValueError, "x must hold ids from 0 to 39, the vocabulary, got 40", lambda: tiny()(np.array([[40]]))),
        (ValueError, "x must hold ids from 0 to 39, the vocabulary, got -1", lambda: tiny()(np.array([[-1]]))),
        (TypeError, "x must be an integer array of ids, got list", lambda: tiny()([[1]])),
        (TypeError, "x must be an integer array of ids, got a float64", lambda: tiny()(np.ones((1, 2)))),
        (ValueError, r"x must be ids of shape \(N, T\), got \(2,\)", lambda: tiny()(np.array([1, 2]))),
        (
            ValueError,
            "segments must hold ids from 0 to 1, the segments, got 2",
            lambda: tiny().forward(np.array([[3]]), segments=np.array([[2]])),
        ),
        (
            TypeError,
            "segments must be an integer array of ids, got list",
            lambda: tiny().forward(np.array([[3]]), segments=[[1]]),
        ),
        (
            ValueError,
            r"segments must have the shape of x, \(1, 1\), got \(1, 2\)",
            lambda: tiny().forward(np.array([[3]]), segments=np.array([[1, 1]])),
        ),
        (ValueError, "x must have at most max_length=4 positions, got 5", lambda: tiny()(np.ones((1, 5), int))),
    ],
)
def test_bad_calls_name_the_argument(error, match, call):
    with pytest.raises(error, match=match):
        call()


def tiny():
    return BertEncoder(40, 4, 1, 8, 2)


def test_an_empty_batch_works(tmp_path):
    encoder = BertEncoder.from_safetensors(write(tmp_path, ONE_SEGMENT, model_type="roberta"))
    assert encoder(IDS[:0]).shape == (0, 7, SIZE)
