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

VOCABULARY = 4096
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
    build: Callable[[], tuple[nn.Module, Inputs]]
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy


def tokens(samples: int, length: int) -> Tensor:
    return torch.randint(5, VOCABULARY, (samples, length))


def timm_model(title: str, name: str, samples: int, size: int, **options: Any) -> Workload:
    def build() -> tuple[nn.Module, Inputs]:
        import timm

        return timm.create_model(name, num_classes=CLASSES, **options), (torch.randn(samples, 3, size, size),)

    return Workload(title, "timm", f"{samples} x {size} px", build)


def torchvision_model(title: str, name: str, samples: int, size: int, **options: Any) -> Workload:
    def build() -> tuple[nn.Module, Inputs]:
        from torchvision import models

        model = getattr(models, name)(num_classes=CLASSES, **options)
        return model, (torch.randn(samples, 3, size, size),)

    return Workload(title, "torchvision", f"{samples} x {size} px", build)


def vision_transformer() -> tuple[nn.Module, Inputs]:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(96, 16, 6, 6, 384, 1536, dropout=0.1, attention_dropout=0.1, num_classes=CLASSES)
    return model, (torch.randn(4, 3, 96, 96),)


def transformers_model(
    title: str, kind: str, batch: str, inputs: Callable[[], dict[str, Tensor]], **options: Any
) -> Workload:
    """``kind`` is the name of a class, such as "BertForMaskedLM"; ``options`` are those of its configuration."""

    def build() -> tuple[nn.Module, Inputs]:
        import transformers

        model = getattr(transformers, kind)
        return model(model.config_class(**options)), inputs()

    return Workload(title, "transformers", batch, build)


def language_model(title: str, kind: str, **options: Any) -> Workload:
    return transformers_model(
        title, kind, "2 x 128 tokens", lambda: {"input_ids": tokens(2, 128)}, vocab_size=VOCABULARY, **options
    )


def translator(title: str, kind: str, **options: Any) -> Workload:
    def inputs() -> dict[str, Tensor]:
        return {"input_ids": tokens(2, 128), "decoder_input_ids": tokens(2, 64)}

    return transformers_model(title, kind, "2 x 128 + 64 tokens", inputs, vocab_size=VOCABULARY, **options)


def unet() -> tuple[nn.Module, Inputs]:
    from diffusers import UNet2DModel

    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    model = UNet2DModel(32, 3, 3, block_out_channels=(32, 64), layers_per_block=1, dropout=0.1, **blocks)
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


def tabular(title: str, kind: str, **options: Any) -> Workload:
    def build() -> tuple[nn.Module, Inputs]:
        import rtdl_revisiting_models

        return getattr(rtdl_revisiting_models, kind)(d_in=64, d_out=CLASSES, **options), (torch.randn(1024, 64),)

    return Workload(title, "rtdl_revisiting_models", "1024 rows", build)


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
    return model, (torch.randn(32, 32), None)


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


def graph_model(kind: str, **options: Any) -> Workload:
    """A graph of 4000 nodes with 5 neighbours each, about the size of the citation graphs."""

    def build() -> tuple[nn.Module, Inputs]:
        from torch_geometric.nn import models

        model = getattr(models, kind)(128, 128, num_layers=3, out_channels=CLASSES, dropout=0.5, **options)
        return model, (torch.randn(4_000, 128), torch.randint(4_000, (2, 20_000)))

    return Workload(kind, "torch_geometric", "4000 nodes", build)


BERT = {"hidden_size": 384, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 1536}
BART = {
    "d_model": 384, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 6,
    "decoder_attention_heads": 6, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536, "dropout": 0.1,
    "attention_dropout": 0.1, "activation_dropout": 0.1,
}  # fmt: skip
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

WORKLOADS = (
    timm_model(
        "ViT-tiny", "vit_tiny_patch16_224", 4, 112, img_size=112, proj_drop_rate=0.1, attn_drop_rate=0.1,
    ),
    timm_model(
        "ViT-small, 6 layers", "vit_small_patch16_224", 2, 96, img_size=96, depth=6, drop_rate=0.1, drop_path_rate=0.1,
    ),
    timm_model("ConvNeXt-atto", "convnext_atto", 4, 128, drop_path_rate=0.1),
    timm_model("EfficientNet-B0", "efficientnet_b0", 4, 96, drop_rate=0.2, drop_path_rate=0.2),
    timm_model("MobileNetV3-large", "mobilenetv3_large_100", 4, 96, drop_rate=0.2),
    timm_model(
        "Swin-T, 8 layers", "swin_tiny_patch4_window7_224", 1, 112,
        img_size=112, depths=(2, 2, 2, 2), drop_path_rate=0.1, proj_drop_rate=0.1,
    ),
    timm_model("MLP-Mixer-S/32", "mixer_s32_224", 2, 224, proj_drop_rate=0.1),
    timm_model("ResNet-50", "resnet50", 4, 64),
    timm_model("PoolFormer-S12", "poolformer_s12", 2, 96, drop_path_rate=0.1),
    torchvision_model("ResNet-18", "resnet18", 4, 96),
    torchvision_model("MobileNetV2", "mobilenet_v2", 4, 96),
    torchvision_model("MobileNetV3-small", "mobilenet_v3_small", 8, 128),
    torchvision_model("ConvNeXt-T", "convnext_tiny", 2, 64),
    torchvision_model("Swin-T (torchvision)", "swin_t", 2, 64),
    torchvision_model("EfficientNet-B0 (torchvision)", "efficientnet_b0", 4, 96),
    torchvision_model("DenseNet-121", "densenet121", 2, 64, drop_rate=0.1),
    Workload("ViT-S/16, 6 layers", "torchvision", "4 x 96 px", vision_transformer),
    language_model("BERT", "BertForMaskedLM", **BERT),
    language_model("RoBERTa", "RobertaForMaskedLM", **BERT, max_position_embeddings=514),
    language_model(
        "DistilBERT", "DistilBertForSequenceClassification",
        dim=384, n_layers=3, n_heads=6, hidden_dim=1536, num_labels=CLASSES,
    ),
    language_model("GPT-2", "GPT2LMHeadModel", **SPECIAL, n_embd=384, n_layer=3, n_head=6),
    language_model(
        "OPT", "OPTForCausalLM",
        hidden_size=384, num_hidden_layers=3, ffn_dim=1536, num_attention_heads=6, word_embed_proj_dim=384,
        attention_dropout=0.1,
    ),
    translator("BART", "BartForConditionalGeneration", **BART),
    translator("T5", "T5ForConditionalGeneration", d_model=384, d_ff=1024, d_kv=64, num_layers=2, num_heads=6),
    transformers_model(
        "ViT (transformers)", "ViTForImageClassification", "4 x 96 px",
        lambda: {"pixel_values": torch.randn(4, 3, 96, 96)},
        **{**BERT, "num_hidden_layers": 6}, image_size=96, num_labels=CLASSES,
        hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
    ),
    transformers_model(
        "Whisper-tiny, 2 + 2 layers", "WhisperForConditionalGeneration", "1 x 4 s + 32 tokens",
        lambda: {"input_features": torch.randn(1, 80, 400), "decoder_input_ids": tokens(1, 32)},
        **BART, **SPECIAL, vocab_size=VOCABULARY, max_source_positions=200, decoder_start_token_id=1,
    ),
    language_model(
        "Llama", "LlamaForCausalLM",
        hidden_size=384, intermediate_size=1024, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
        attention_dropout=0.1,
    ),
    language_model(
        "ModernBERT", "ModernBertForMaskedLM",
        **SPECIAL, cls_token_id=1, sep_token_id=2, hidden_size=384, intermediate_size=576, num_hidden_layers=4,
        num_attention_heads=6, embedding_dropout=0.1, mlp_dropout=0.1, attention_dropout=0.1,
    ),
    Workload("UNet", "diffusers", "2 x 32 px", unet, F.mse_loss),
    Workload("UNet with cross-attention", "diffusers", "2 x 16 px", conditional_unet, F.mse_loss),
    tabular("tabular MLP", "MLP", n_blocks=4, d_block=512, dropout=0.2),
    tabular(
        "tabular ResNet", "ResNet", n_blocks=4, d_block=256, d_hidden_multiplier=2.0, dropout1=0.3, dropout2=0.1,
    ),
    Workload("FT-Transformer", "rtdl_revisiting_models", "32 rows", ft_transformer),
    Workload("LSTM", "torch", "16 x 64 tokens", lambda: (LSTMClassifier(), (tokens(16, 64),))),
    graph_model("GCN", norm="batch_norm"),
    graph_model("GAT", heads=4, norm="layer_norm"),
    graph_model("GIN", norm="batch_norm"),
)  # fmt: skip

FURTHER = ("ViT-tiny", "BERT", "GPT-2", "tabular ResNet", "FT-Transformer")
"""The models that also run in bfloat16 and under ``torch.compile``."""
