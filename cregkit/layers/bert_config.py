"""``config.json`` of a checkpoint of the BERT family: each key is either supported or an error."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cregkit.layers.bert_checkpoint import SIZES


class Family(NamedTuple):
    """A model family."""

    classes: str
    """Prefix of the names of its classes."""
    prefix: str
    """Prefix that the names of its arrays may have."""
    padding_id: int | None = None
    """Default id of padding; None if padding counts as a position."""


FAMILIES = {
    "bert": Family("Bert", "bert."),
    "roberta": Family("Roberta", "roberta.", 1),
    "xlm-roberta": Family("XLMRoberta", "roberta.", 1),
    "camembert": Family("Camembert", "roberta.", 1),
    "electra": Family("Electra", "electra."),
}
"""Families by ``model_type``. ELECTRA is supported only if ``embedding_size`` equals ``hidden_size``."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Name in ``TransformerBlock`` of each ``hidden_act``."""

READ = {
    "num_hidden_layers",
    "embedding_size",
    "model_type",
    "architectures",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "pad_token_id",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
}

FIXED = {"position_embedding_type": "absolute", "directionality": "bidi"}
"""Keys with a single supported value."""

OFF = {
    "is_decoder",
    "is_encoder_decoder",
    "add_cross_attention",
    "pruned_heads",
    "quantization_config",
    "auto_map",
    "adapters",
}
"""Keys whose value must be off or empty."""

# fmt: off
HARMLESS = {
    # origin and storage
    "_name_or_path", "name_or_path", "model_name", "_commit_hash", "_from_model_config", "transformers_version",
    "transformers.js_config", "sentence_transformers", "name", "language", "base_model_prefix", "torch_dtype", "dtype",
    "use_bfloat16", "torchscript", "xla_device", "is_composition", "tie_word_embeddings", "tie_encoder_decoder",
    "initializer_range", "initializer_factor",
    # execution: same hidden states
    "attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "chunk_size_feed_forward",
    "use_cache", "gradient_checkpointing", "output_past", "output_attentions", "output_hidden_states", "return_dict",
    "tf_legacy_loss", "prediction_loss_only",
    # heads, tasks, tokenizers
    "_num_labels", "num_labels", "id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params",
    "classifier_dropout", "classifier_activation", "sbert_ce_default_activation_function", "matryoshka_dimensions",
    "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type",
    "add_pooling_layer", "summary_activation", "summary_last_dropout", "summary_type", "summary_use_proj",
    "tokenizer_class", "prefix", "do_lower_case", "model_max_length", "max_seq_length", "bos_token_id", "eos_token_id",
    "sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id", "decoder_start_token_id",
    # text generation
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
}
# fmt: on
"""Keys that do not change the hidden states of an encoder."""

KNOWN = READ | OFF | HARMLESS | FIXED.keys() | SIZES.keys()

OTHER_CLASSES = {"HF_ColBERT": "bert"}
"""``model_type`` of known classes from other projects."""


class BertConfig:
    """Settings of an encoder from ``config.json``. A missing file is an empty one.

    Parameters
    ----------
    path
        Path of ``config.json``.

    Raises
    ------
    OSError
        The file exists and cannot be read.
    ValueError
        It is not a JSON object, or has an unsupported key or value.
    """

    def __init__(self, path: Path) -> None:
        """Read the file and check every key."""
        self.path = path
        self._values = _parse(path)
        self._model_type: str | None = self._get(
            "model_type", None, lambda value: value is None or _is_one_of(FAMILIES, value), " or ".join(FAMILIES)
        )
        for key, value in self._values.items():
            if key in OFF and not _off(value):
                raise self._refusal(key, "off or empty")
            if key not in KNOWN and value is not None:
                raise ValueError(
                    f"{path}: {key} must be a known key, got the value {reprlib.repr(value)}: it may change the "
                    "results; remove it from the file if it does not"
                )
        for key, supported in FIXED.items():
            self._get(key, supported, _equal_to(supported), repr(supported))

    def check_sizes(self, sizes: Mapping[str, int]) -> None:
        """Check that sizes in the file equal those of the encoder's arrays."""
        for key, size in (*sizes.items(), ("embedding_size", sizes["hidden_size"])):
            self._get(key, size, _equal_to(size), f"{size}, as in the encoder's arrays")

    def _family(self, prefix: str, n_segments: int) -> Family:
        """Return the model family, from ``model_type`` or else from ``architectures``.

        Without both keys, it is BERT. The arrays of RoBERTa have the names and shapes of BERT's, so a prefix other than
        "bert." or a single segment is an error then.
        """
        classes = self._get("architectures", None, lambda value: value is None or _are_names(value), "a list of names")
        declared = [] if self._model_type is None else [self._model_type]
        declared += [_model_type_of(name) for name in classes or ()]
        if not declared and (prefix not in ("", "bert.") or n_segments == 1):
            raise ValueError(
                f"{self.path}: model_type is missing and must be {' or '.join(FAMILIES)}: the arrays, with prefix "
                f"{prefix!r} and {n_segments} rows of token_type_embeddings, may be RoBERTa's"
            )
        family = FAMILIES.get(declared[0], FAMILIES["bert"]) if declared else FAMILIES["bert"]
        if any(name not in FAMILIES or FAMILIES[name].prefix != family.prefix for name in declared):
            raise self._refusal("architectures", f"classes of {self._model_type or ' or '.join(FAMILIES)}")
        if prefix not in ("", family.prefix):
            raise ValueError(
                f"{self.path}: model_type {declared[0] if declared else 'bert'!r} needs arrays whose names begin with "
                f"{family.prefix}, got names that begin with {prefix}"
            )
        return family

    def n_heads(self, given: int | None, d_model: int) -> int:
        """Return the number of attention heads, from the file or from ``given``; both must agree."""
        heads: int | None = self._get(
            "num_attention_heads",
            given,
            lambda value: _is_int(value, 1) and d_model % value == 0,
            f"an int of at least 1 that divides hidden_size={d_model}",
        )
        if heads is None:
            raise ValueError(f"n_heads is missing: pass it, because {self.path} has no num_attention_heads")
        if given is not None and heads != given:
            raise ValueError(f"n_heads must be {heads}, the num_attention_heads in {self.path}, got {given}")
        return heads

    def padding_id(self, prefix: str, sizes: Mapping[str, int]) -> int | None:
        """Return the ``padding_id`` of ``BertEncoder``."""
        default = self._family(prefix, sizes["type_vocab_size"]).padding_id
        if default is None:
            self._get("pad_token_id", None, lambda value: value is None or _is_int(value, -math.inf), "an int or null")
            return None
        last = min(sizes["vocab_size"] - 1, sizes["max_position_embeddings"] - 2)
        supported = f"an id from 0 to {last}, so that max_position_embeddings leaves room for positions"
        token: int = self._get("pad_token_id", default, lambda value: _is_int(value) and value <= last, supported)
        if token > last:
            raise ValueError(f"{self.path}: pad_token_id must be {supported}, got the default {default}")
        return token

    @property
    def activation(self) -> str:
        """The activation, by its name in ``TransformerBlock``."""
        name = self._get("hidden_act", "gelu", lambda value: _is_one_of(ACTIVATIONS, value), " or ".join(ACTIVATIONS))
        return ACTIVATIONS[name]

    @property
    def eps(self) -> float:
        """``eps`` of the norms."""
        return self._fraction("layer_norm_eps", 1e-12)

    @property
    def dropout(self) -> float:
        """Probability of dropping embeddings and outputs of sublayers."""
        return self._fraction("hidden_dropout_prob", 0.1)

    @property
    def attention_dropout(self) -> float:
        """Probability of dropping an attention weight."""
        return self._fraction("attention_probs_dropout_prob", 0.1)

    def _fraction(self, key: str, default: float) -> float:
        return float(self._get(key, default, _is_fraction, "a number from 0 to 1"))

    def _get(self, key: str, default: Any, fits: Callable[[Any], bool], supported: str) -> Any:
        """Return the value of ``key`` after checking it with ``fits``, or ``default`` without the key."""
        if key not in self._values:
            return default
        if not fits(self._values[key]):
            raise self._refusal(key, supported)
        return self._values[key]

    def _refusal(self, key: str, supported: str) -> ValueError:
        return ValueError(f"{self.path}: {key} must be {supported}, got {reprlib.repr(self._values[key])}")


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes().decode())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {reprlib.repr(content)}")
    return content


def _off(value: Any) -> bool:
    return not value or (isinstance(value, dict) and all(map(_off, value.values())))


def _equal_to(supported: int | str) -> Callable[[Any], bool]:
    return lambda value: type(value) is type(supported) and bool(value == supported)


def _is_int(value: Any, low: float = 0) -> bool:
    return type(value) is int and value >= low


def _is_fraction(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _is_one_of(names: Mapping[str, Any], value: Any) -> bool:
    return isinstance(value, str) and value in names


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _model_type_of(name: str) -> str:
    """Return the ``model_type`` of a class, such as "bert" for "BertForMaskedLM"; for an unknown class, its name."""
    for model_type, family in FAMILIES.items():
        if re.fullmatch(rf"(TF|Flax)?{family.classes}(Model|LMHead|For)\w*", name):
            return model_type
    return OTHER_CLASSES.get(name, name)
