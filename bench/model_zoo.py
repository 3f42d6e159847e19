"""Models that nobody here wrote, with random weights from their libraries and small realistic batches.

Sizes and batches are chosen so that a training step takes some 30 to 150 ms on two threads. Dropout has the library's
default rate, or 0.1 where the default is 0 and papers train with more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Inputs: TypeAlias = tuple[Any, ...] | dict[str, Any]
"""Positional or named arguments of a model."""
Build: TypeAlias = Callable[[], tuple[nn.Module, Inputs]]

VOCABULARY = 8192
CLASSES = 100


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """The cross-entropy of the last dimension's logits."""
    return F.cross_entropy(output.flatten(0, -2), target.flatten(0, -2).argmax(-1))


@dataclass(frozen=True)
class Workload:
    """A model of a library, what a batch of it is, and how it is built."""

    name: str
    library: str
    batch: str
    build: Build
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy


def tokens(samples: int, length: int) -> Tensor:
    return torch.randint(5, VOCABULARY, (samples, length))


def timm_model(name: str, samples: int, size: int, **options: Any) -> Build:
    def build() -> tuple[nn.Module, Inputs]:
        import timm

        return timm.create_model(name, num_classes=CLASSES, **options), (torch.randn(samples, 3, size, size),)

    return build


def torchvision_model(name: str, samples: int, size: int, **options: Any) -> Build:
    def build() -> tuple[nn.Module, Inputs]:
        from torchvision import models

        model = getattr(models, name)(weights=None, num_classes=CLASSES, **options)
        return model, (torch.randn(samples, 3, size, size),)

    return build


def vision_transformer() -> tuple[nn.Module, Inputs]:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(96, 16, 6, 6, 384, 1536, dropout=0.1, attention_dropout=0.1, num_classes=CLASSES)
    return model, (torch.randn(8, 3, 96, 96),)


def transformers_model(kind: str, inputs: Callable[[], dict[str, Tensor]], **options: Any) -> Build:
    """``kind`` is the name of a class, such as "BertForMaskedLM"; ``options`` are those of its configuration."""

    def build() -> tuple[nn.Module, Inputs]:
        import transformers

        model = getattr(transformers, kind)
        return model(model.config_class(**options)), inputs()

    return build


def ids(samples: int, length: int, **more: Callable[[], Tensor]) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"input_ids": tokens(samples, length), **{name: make() for name, make in more.items()}}


def unet() -> tuple[nn.Module, Inputs]:
    from diffusers import UNet2DModel

    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    model = UNet2DModel(32, 3, 3, block_out_channels=(64, 128), layers_per_block=1, dropout=0.1, **blocks)
    return model, (torch.randn(2, 3, 32, 32), torch.tensor([10, 500]))


def conditional_unet() -> tuple[nn.Module, Inputs]:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        16,
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=256,
        attention_head_dim=8,
        dropout=0.1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return model, (torch.randn(2, 4, 16, 16), torch.tensor([10, 500]), torch.randn(2, 77, 256))


def tabular(kind: str, samples: int, **options: Any) -> Build:
    def build() -> tuple[nn.Module, Inputs]:
        import rtdl_revisiting_models

        return getattr(rtdl_revisiting_models, kind)(d_in=64, d_out=CLASSES, **options), (torch.randn(samples, 64),)

    return build


def ft_transformer() -> tuple[nn.Module, Inputs]:
    from rtdl_revisiting_models import FTTransformer

    model = FTTransformer(
        n_cont_features=32,
        cat_cardinalities=[],
        d_out=CLASSES,
        n_blocks=3,
        d_block=192,
        attention_n_heads=8,
        attention_dropout=0.2,
        ffn_d_hidden_multiplier=4 / 3,
        ffn_dropout=0.1,
        residual_dropout=0.1,
    )
    return model, (torch.randn(64, 32), None)


class LSTMClassifier(nn.Module):
    """An embedding, PyTorch's LSTM, and a linear layer on its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 256)
        self.lstm = nn.LSTM(256, 256, num_layers=2, dropout=0.3, batch_first=True)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(256, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.lstm(self.embedding(ids))[0][:, -1]))
        return logits


def graph_model(kind: str, **options: Any) -> Build:
    """A graph of 10 000 nodes with 5 neighbours each, about the size of the citation graphs."""

    def build() -> tuple[nn.Module, Inputs]:
        from torch_geometric.nn import models

        model = getattr(models, kind)(128, 128, num_layers=3, out_channels=CLASSES, dropout=0.5, **options)
        return model, (torch.randn(10_000, 128), torch.randint(10_000, (2, 50_000)))

    return build


BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 384,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "decoder_ffn_dim": 1536,
}

WORKLOADS = (
    Workload(
        "ViT-tiny", "timm", "8 x 112 px",
        timm_model("vit_tiny_patch16_224", 8, 112, img_size=112, proj_drop_rate=0.1, attn_drop_rate=0.1),
    ),
    Workload(
        "ViT-small, drop path", "timm", "4 x 96 px",
        timm_model("vit_small_patch16_224", 4, 96, img_size=96, drop_rate=0.1, drop_path_rate=0.1),
    ),
    Workload("ConvNeXt-atto", "timm", "4 x 128 px", timm_model("convnext_atto", 4, 128, drop_path_rate=0.1)),
    Workload(
        "EfficientNet-B0", "timm", "4 x 96 px",
        timm_model("efficientnet_b0", 4, 96, drop_rate=0.2, drop_path_rate=0.2),
    ),
    Workload("MobileNetV3-large", "timm", "8 x 96 px", timm_model("mobilenetv3_large_100", 8, 96, drop_rate=0.2)),
    Workload(
        "Swin-T", "timm", "2 x 112 px",
        timm_model("swin_tiny_patch4_window7_224", 2, 112, img_size=112, drop_path_rate=0.1, proj_drop_rate=0.1),
    ),
    Workload("MLP-Mixer-S/32", "timm", "4 x 224 px", timm_model("mixer_s32_224", 4, 224, proj_drop_rate=0.1)),
    Workload("ResNet-50", "timm", "4 x 64 px", timm_model("resnet50", 4, 64)),
    Workload("PoolFormer-S12", "timm", "2 x 96 px", timm_model("poolformer_s12", 2, 96, drop_path_rate=0.1)),
    Workload("ResNet-18", "torchvision", "4 x 96 px", torchvision_model("resnet18", 4, 96)),
    Workload("MobileNetV2", "torchvision", "4 x 96 px", torchvision_model("mobilenet_v2", 4, 96)),
    Workload("MobileNetV3-small", "torchvision", "8 x 128 px", torchvision_model("mobilenet_v3_small", 8, 128)),
    Workload("ConvNeXt-T", "torchvision", "2 x 64 px", torchvision_model("convnext_tiny", 2, 64)),
    Workload("Swin-T, torchvision's", "torchvision", "2 x 64 px", torchvision_model("swin_t", 2, 64)),
    Workload("ViT-S/16, 6 layers", "torchvision", "8 x 96 px", vision_transformer),
    Workload("EfficientNet-B0, torchvision's", "torchvision", "4 x 96 px", torchvision_model("efficientnet_b0", 4, 96)),
    Workload("DenseNet-121", "torchvision", "2 x 64 px", torchvision_model("densenet121", 2, 64, drop_rate=0.1)),
    Workload("BERT", "transformers", "4 x 128 tokens", transformers_model("BertForMaskedLM", ids(4, 128), **BERT)),
    Workload(
        "RoBERTa", "transformers", "2 x 128 tokens",
        transformers_model("RobertaForMaskedLM", ids(2, 128), **BERT, max_position_embeddings=514),
    ),
    Workload(
        "DistilBERT", "transformers", "4 x 128 tokens",
        transformers_model(
            "DistilBertForSequenceClassification", ids(4, 128),
            vocab_size=VOCABULARY, dim=384, n_layers=3, n_heads=6, hidden_dim=1536, num_labels=CLASSES,
        ),
    ),
    Workload(
        "ELECTRA", "transformers", "4 x 128 tokens",
        transformers_model("ElectraForSequenceClassification", ids(4, 128), **{**BERT, "num_labels": CLASSES}),
    ),
    Workload(
        "GPT-2", "transformers", "2 x 128 tokens",
        transformers_model("GPT2LMHeadModel", ids(2, 128), vocab_size=VOCABULARY, n_embd=384, n_layer=4, n_head=6),
    ),
    Workload(
        "OPT", "transformers", "2 x 128 tokens",
        transformers_model(
            "OPTForCausalLM", ids(2, 128),
            vocab_size=VOCABULARY, hidden_size=384, num_hidden_layers=4, ffn_dim=1536, num_attention_heads=6,
            word_embed_proj_dim=384, attention_dropout=0.1,
        ),
    ),
    Workload(
        "BART", "transformers", "2 x 128 + 64 tokens",
        transformers_model(
            "BartForConditionalGeneration", ids(2, 128, decoder_input_ids=lambda: tokens(2, 64)),
            **BART, attention_dropout=0.1, activation_dropout=0.1,
        ),
    ),
    Workload(
        "T5", "transformers", "2 x 128 + 64 tokens",
        transformers_model(
            "T5ForConditionalGeneration", ids(2, 128, decoder_input_ids=lambda: tokens(2, 64)),
            vocab_size=VOCABULARY, d_model=384, d_ff=1024, d_kv=64, num_layers=2, num_heads=6,
        ),
    ),
    Workload(
        "ViT, transformers'", "transformers", "8 x 96 px",
        transformers_model(
            "ViTForImageClassification", lambda: {"pixel_values": torch.randn(8, 3, 96, 96)},
            hidden_size=384, num_hidden_layers=4, num_attention_heads=6, intermediate_size=1536, image_size=96,
            hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, num_labels=CLASSES,
        ),
    ),
    Workload(
        "Whisper-tiny, 2 + 2 layers", "transformers", "1 x 6 s + 32 tokens",
        transformers_model(
            "WhisperForConditionalGeneration",
            lambda: {"input_features": torch.randn(1, 80, 600), "decoder_input_ids": tokens(1, 32)},
            **BART, max_source_positions=300, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            decoder_start_token_id=1, dropout=0.1, attention_dropout=0.1, activation_dropout=0.1,
        ),
    ),
    Workload(
        "Llama", "transformers", "2 x 128 tokens",
        transformers_model(
            "LlamaForCausalLM", ids(2, 128),
            vocab_size=VOCABULARY, hidden_size=384, intermediate_size=1024, num_hidden_layers=4,
            num_attention_heads=6, num_key_value_heads=2, attention_dropout=0.1,
        ),
    ),
    Workload(
        "ModernBERT", "transformers", "2 x 128 tokens",
        transformers_model(
            "ModernBertForMaskedLM", ids(2, 128),
            vocab_size=VOCABULARY, hidden_size=384, intermediate_size=576, num_hidden_layers=4, num_attention_heads=6,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
            embedding_dropout=0.1, mlp_dropout=0.1, attention_dropout=0.1,
        ),
    ),
    Workload("UNet", "diffusers", "2 x 32 px", unet, F.mse_loss),
    Workload("UNet with cross-attention", "diffusers", "2 x 16 px", conditional_unet, F.mse_loss),
    Workload(
        "tabular MLP", "rtdl_revisiting_models", "1024 rows",
        tabular("MLP", 1024, n_blocks=4, d_block=512, dropout=0.2),
    ),
    Workload(
        "tabular ResNet", "rtdl_revisiting_models", "1024 rows",
        tabular("ResNet", 1024, n_blocks=4, d_block=256, d_hidden_multiplier=2.0, dropout1=0.3, dropout2=0.1),
    ),
    Workload("FT-Transformer", "rtdl_revisiting_models", "64 rows", ft_transformer),
    Workload("LSTM", "torch", "16 x 64 tokens", lambda: (LSTMClassifier(), (tokens(16, 64),))),
    Workload("GCN", "torch_geometric", "10 000 nodes", graph_model("GCN", norm="batch_norm")),
    Workload("GAT", "torch_geometric", "10 000 nodes", graph_model("GAT", heads=4, norm="layer_norm")),
    Workload("GIN", "torch_geometric", "10 000 nodes", graph_model("GIN", norm="batch_norm")),
)  # fmt: skip

FURTHER = ("ViT-tiny", "BERT", "GPT-2", "tabular ResNet", "FT-Transformer")
"""The models that also run in bfloat16 and under ``torch.compile``."""
