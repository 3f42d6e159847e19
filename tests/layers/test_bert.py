"""BERT checkpoints written here: hidden states of PyTorch, gradients, and files that do not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cregkit.layers.bert import BertEncoder

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

VOCABULARY, POSITIONS = 50, 20
PARTS = {"self_attn.out_proj": "attention.output.dense", "linear1": "intermediate.dense", "linear2": "output.dense"}
PARTS |= {"norm1": "attention.output.LayerNorm", "norm2": "output.LayerNorm"}


def checkpoint(n_layers, d_model, n_heads, d_ff, prefix="", old_norms=False):
    """The tensors of a random PyTorch encoder by their names in Hugging Face's BERT, and its forward."""
    torch.manual_seed(d_model + n_heads)
    layer = torch.nn.TransformerEncoderLayer(d_model, n_heads, d_ff, 0.0, "gelu", 1e-12, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False).eval()
    embeddings = torch.nn.ModuleDict(
        {
            "word_embeddings": torch.nn.Embedding(VOCABULARY, d_model),
            "position_embeddings": torch.nn.Embedding(POSITIONS, d_model),
            "token_type_embeddings": torch.nn.Embedding(2, d_model),
            "LayerNorm": torch.nn.LayerNorm(d_model, 1e-12),
        }
    )
    with torch.no_grad():
        for tensor in encoder.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    tensors = {f"embeddings.{name}": tensor for name, tensor in embeddings.state_dict().items()}
    for index in range(n_layers):
        state = encoder.layers[index].state_dict()
        for kind in ("weight", "bias"):
            parts = state[f"self_attn.in_proj_{kind}"].chunk(3)
            for part, tensor in zip(("query", "key", "value"), parts, strict=True):
                tensors[f"encoder.layer.{index}.attention.self.{part}.{kind}"] = tensor
            for theirs, name in PARTS.items():
                tensors[f"encoder.layer.{index}.{name}.{kind}"] = state[f"{theirs}.{kind}"]
    tensors["pooler.dense.weight"] = torch.zeros(d_model, d_model)
    if old_norms:
        tensors = {
            name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): tensor
            for name, tensor in tensors.items()
        }

    def hidden_states(ids, segments, padding):
        ids, segments = torch.from_numpy(ids), torch.from_numpy(segments)
        h = embeddings["word_embeddings"](ids) + embeddings["token_type_embeddings"](segments)
        h = embeddings["LayerNorm"](h + embeddings["position_embeddings"].weight[: ids.shape[1]])
        for layer in encoder.layers:
            h = layer(h, src_key_padding_mask=torch.from_numpy(padding))
        return h.detach().numpy()

    return {prefix + name: tensor.contiguous().clone() for name, tensor in tensors.items()}, hidden_states


@pytest.mark.parametrize(
    ("n_layers", "d_model", "n_heads", "d_ff", "prefix", "old_norms"),
    [
        (1, 16, 1, 64, "", False),
        (2, 32, 4, 128, "bert.", False),
        (3, 48, 12, 40, "", True),
        (4, 128, 2, 512, "bert.", True),
    ],
)
def test_the_hidden_states_are_those_of_pytorch(tmp_path, n_layers, d_model, n_heads, d_ff, prefix, old_norms):
    tensors, hidden_states = checkpoint(n_layers, d_model, n_heads, d_ff, prefix, old_norms)
    path = tmp_path / "model.safetensors"
    safetensors_torch.save_file(tensors, path)
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": n_heads}))
    encoder = BertEncoder.from_safetensors(path)
    assert len(encoder.blocks) == n_layers
    assert not encoder.training
    rng = np.random.default_rng(1)
    ids, segments = rng.integers(0, VOCABULARY, (3, 13)), rng.integers(0, 2, (3, 13))
    padding = np.arange(13) >= np.array([[13], [7], [2]])
    got = encoder.forward(ids, segments=segments, key_padding_mask=padding)
    wanted = hidden_states(ids, segments, padding)
    assert np.abs(got - wanted)[~padding].max() < 1e-4
    assert np.abs(wanted).max() > 1
    again = BertEncoder.from_safetensors(path, n_heads).forward(ids)
    assert np.abs(again - hidden_states(ids, np.zeros_like(ids), np.zeros_like(padding))).max() < 1e-4


def test_a_loaded_encoder_has_finite_gradients_of_all_parameters(tmp_path):
    tensors, _ = checkpoint(2, 16, 2, 32)
    safetensors_torch.save_file(tensors, tmp_path / "model.safetensors")
    encoder = BertEncoder.from_safetensors(tmp_path / "model.safetensors", 2).train()
    y = encoder.forward(np.arange(12).reshape(2, 6))
    assert not encoder.backward(y).any()
    assert all(np.isfinite(p.grad).all() and p.grad.any() for p in encoder.parameters())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def tensors(path):
    """The tensors of a small encoder, saved at `path`."""
    tensors, _ = checkpoint(1, 16, 2, 32)
    safetensors_torch.save_file(tensors, path)
    return tensors


def test_a_missing_file_is_an_error(path):
    with pytest.raises(FileNotFoundError):
        BertEncoder.from_safetensors(path, 2)


def test_a_file_of_another_format_is_refused(path):
    path.write_bytes(b"not such a file")
    with pytest.raises(ValueError, match="is not a complete safetensors file"):
        BertEncoder.from_safetensors(path, 2)


@pytest.mark.usefixtures("tensors")
def test_without_a_config_n_heads_is_needed(path):
    with pytest.raises(ValueError, match="n_heads is missing"):
        BertEncoder.from_safetensors(path)


@pytest.mark.usefixtures("tensors")
def test_n_heads_must_divide_d_model(path):
    with pytest.raises(ValueError, match="n_heads must divide d_model"):
        BertEncoder.from_safetensors(path, 3)


@pytest.mark.usefixtures("tensors")
def test_a_config_that_is_no_json_is_refused(path, tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json must be JSON"):
        BertEncoder.from_safetensors(path)


def test_a_missing_array_is_named(path, tensors):
    safetensors_torch.save_file({name: t for name, t in tensors.items() if "query.bias" not in name}, path)
    with pytest.raises(ValueError, match=r"no array encoder\.layer\.0\.attention\.self\.query\.bias"):
        BertEncoder.from_safetensors(path, 2)


def test_an_array_of_a_wrong_shape_is_named(path, tensors):
    wrong = {"encoder.layer.0.output.dense.bias": torch.zeros(5)}
    safetensors_torch.save_file(tensors | wrong, path)
    with pytest.raises(ValueError, match=r"encoder\.layer\.0\.output\.dense\.bias must have shape \(16,\), got \(5,\)"):
        BertEncoder.from_safetensors(path, 2)


def test_a_file_of_another_model_is_refused(path):
    safetensors_torch.save_file({"other": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="a BERT encoder has exactly one"):
        BertEncoder.from_safetensors(path, 2)
