"""The ``config.json`` beside a checkpoint of BERT's family: every key is done, or refused by name."""

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
    """How the names of a family's classes begin, how those of its arrays may, and its id of padding.

    ``padding_id`` is None where positions count from 0 whatever the ids are.
    """

    classes: str
    prefix: str
    padding_id: int | None = None


FAMILIES = {
    "bert": Family("Bert", "bert."),
    "roberta": Family("Roberta", "roberta.", 1),
    "xlm-roberta": Family("XLMRoberta", "roberta.", 1),
    "camembert": Family("Camembert", "roberta.", 1),
    "electra": Family("Electra", "electra."),
}
"""By model_type. With an embedding_size of its own, ELECTRA is another encoder, and refused."""

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
"""hidden_act, and our name of it. Those of tanh are one formula, written in five ways."""

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
"""Keys of which one value is done."""

OFF = {
    "is_decoder",
    "is_encoder_decoder",
    "add_cross_attention",
    "pruned_heads",
    "quantization_config",
    "auto_map",
    "adapters",
}
"""Of these, what is off or empty is done."""

# fmt: off
HARMLESS = {
    # where it comes from, and how it is stored
    "_name_or_path", "name_or_path", "model_name", "_commit_hash", "_from_model_config", "transformers_version",
    "transformers.js_config", "sentence_transformers", "name", "language", "base_model_prefix", "torch_dtype", "dtype",
    "use_bfloat16", "torchscript", "xla_device", "is_composition", "tie_word_embeddings", "tie_encoder_decoder",
    "initializer_range", "initializer_factor",
    # how it is run: the same sums, or more of them returned
    "attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "chunk_size_feed_forward",
    "use_cache", "gradient_checkpointing", "output_past", "output_attentions", "output_hidden_states", "return_dict",
    "tf_legacy_loss", "prediction_loss_only",
    # heads, tasks and tokenizers
    "_num_labels", "num_labels", "id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params",
    "classifier_dropout", "classifier_activation", "sbert_ce_default_activation_function", "matryoshka_dimensions",
    "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type",
    "add_pooling_layer", "summary_activation", "summary_last_dropout", "summary_type", "summary_use_proj",
    "tokenizer_class", "prefix", "do_lower_case", "model_max_length", "max_seq_length", "bos_token_id", "eos_token_id",
    "sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id", "decoder_start_token_id",
    # generation of text
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
}
# fmt: on
"""Do not change the hidden states of an encoder."""

KNOWN = READ | OFF | HARMLESS | FIXED.keys() | SIZES.keys()

OTHER_CLASSES = {"HF_ColBERT": "bert"}
"""Classes of other projects that are known to be a head on an encoder, and its model_type."""


class BertConfig:
    """What a ``config.json`` says of an encoder; without the file, as if it were empty.

    Raises:
        OSError: the file is there and cannot be read.
        ValueError: it is no JSON object, or has a key or value that no encoder of ours does.
    """

    def __init__(self, path: Path) -> None:
        """Read the file and look at every key."""
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
                    f"{path}: {key} is unknown, with the value {reprlib.repr(value)}: it may change the results; "
                    "take it out of the file if it does not"
                )
        for key, supported in FIXED.items():
            self._get(key, supported, _equal_to(supported), repr(supported))

    def check_sizes(self, sizes: Mapping[str, int]) -> None:
        """Compare with the sizes of the encoder's arrays."""
        for key, size in (*sizes.items(), ("embedding_size", sizes["hidden_size"])):
            self._get(key, size, _equal_to(size), f"{size}, as in the encoder's arrays")

    def _family(self, prefix: str, n_segments: int) -> Family:
        """Return the family of an encoder of so many segments whose arrays' names begin with ``prefix``.

        model_type tells it, or the class in architectures. Where neither is there, it is BERT, unless something looks
        like RoBERTa, whose arrays have BERT's names and shapes.
        """
        classes = self._get("architectures", None, lambda value: value is None or _are_names(value), "a list of names")
        told = [] if self._model_type is None else [self._model_type]
        told += [_model_type_of(name) for name in classes or ()]
        if not told and (prefix not in ("", "bert.") or n_segments == 1):
            raise ValueError(
                f"model_type is missing: {self.path} must say {' or '.join(FAMILIES)}, since the arrays of {prefix}"
                f"embeddings, with {n_segments} rows of token_type_embeddings, may be RoBERTa's"
            )
        family = FAMILIES.get(told[0], FAMILIES["bert"]) if told else FAMILIES["bert"]
        if any(name not in FAMILIES or FAMILIES[name].prefix != family.prefix for name in told):
            raise self._refusal("architectures", f"classes of {self._model_type or ' or '.join(FAMILIES)}")
        if prefix not in ("", family.prefix):
            raise ValueError(
                f"{self.path}: model_type {told[0] if told else 'bert'!r} has arrays that begin with {family.prefix}, "
                f"those of the file begin with {prefix}"
            )
        return family

    def n_heads(self, given: int | None, d_model: int) -> int:
        """Return the number of heads, from the file or ``given``, which must not differ."""
        heads: int | None = self._get(
            "num_attention_heads",
            given,
            lambda value: _is_int(value, 1) and d_model % value == 0,
            f"an int, 1 or more, that divides hidden_size, {d_model}",
        )
        if heads is None:
            raise ValueError(f"n_heads is missing, and there is no num_attention_heads in {self.path} to tell it")
        if given is not None and heads != given:
            raise ValueError(f"n_heads must be {heads}, as num_attention_heads in {self.path} is, got {given}")
        return heads

    def padding_id(self, prefix: str, sizes: Mapping[str, int]) -> int | None:
        """Return the id of padding if positions depend on it, as RoBERTa's do, or None; see ``BertEncoder``."""
        default = self._family(prefix, sizes["type_vocab_size"]).padding_id
        if default is None:
            self._get("pad_token_id", None, lambda value: value is None or _is_int(value, -math.inf), "an int or null")
            return None
        last = min(sizes["vocab_size"] - 1, sizes["max_position_embeddings"] - 2)
        supported = f"an id from 0 to {last}, which leaves positions in max_position_embeddings"
        token: int = self._get("pad_token_id", default, lambda value: _is_int(value) and value <= last, supported)
        if token > last:
            raise ValueError(f"{self.path}: pad_token_id is missing and {default} by default, must be {supported}")
        return token

    @property
    def activation(self) -> str:
        """The activation, by the name ``TransformerBlock`` has for it."""
        name = self._get("hidden_act", "gelu", lambda value: _is_one_of(ACTIVATIONS, value), " or ".join(ACTIVATIONS))
        return ACTIVATIONS[name]

    @property
    def eps(self) -> float:
        """The norms' eps."""
        return self._fraction("layer_norm_eps", 1e-12)

    @property
    def dropout(self) -> float:
        """The probability of dropping, but for the attention's weights."""
        return self._fraction("hidden_dropout_prob", 0.1)

    @property
    def attention_dropout(self) -> float:
        """The probability of dropping a weight of the attention."""
        return self._fraction("attention_probs_dropout_prob", 0.1)

    def _fraction(self, key: str, default: float) -> float:
        return float(self._get(key, default, _is_fraction, "a number from 0 to 1"))

    def _get(self, key: str, default: Any, fits: Callable[[Any], bool], supported: str) -> Any:
        """Return the value of ``key``, which must fit, or ``default`` if the key is not there."""
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
        raise ValueError(f"{path} is no JSON: {error}") from None
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
    """Return the model_type of a class, such as "bert" of "BertForMaskedLM", or the name itself."""
    for model_type, family in FAMILIES.items():
        if re.fullmatch(rf"(TF|Flax)?{family.classes}(Model|LMHead|For)\w*", name):
            return model_type
    return OTHER_CLASSES.get(name, name)
