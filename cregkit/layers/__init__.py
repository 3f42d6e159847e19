"""Layers: parameters, running statistics and seeds around the stateless functions of ``cregkit.functional``."""

from cregkit.layers.activations import GELU, GELUTanh, ReLU, Sigmoid, SiLU
from cregkit.layers.attention import MultiHeadAttention
from cregkit.layers.base import Layer, Parameter
from cregkit.layers.batch_norm import BatchNorm
from cregkit.layers.bert import BertEncoder
from cregkit.layers.drop_connect import DropConnect
from cregkit.layers.dropout import AlphaDropout, DropBlock, Dropout, DropPath, FeatureAlphaDropout, SpatialDropout
from cregkit.layers.embedding import Embedding, PositionalEmbedding
from cregkit.layers.group_norm import GroupNorm
from cregkit.layers.instance_norm import InstanceNorm
from cregkit.layers.layer_norm import LayerNorm
from cregkit.layers.linear import Linear
from cregkit.layers.residual_norm import ResidualNorm
from cregkit.layers.rms_norm import RMSNorm
from cregkit.layers.seeding import Seed, draw_seed
from cregkit.layers.sequential import Sequential
from cregkit.layers.transformer import Transformer, TransformerBlock

__all__ = [
    "GELU",
    "AlphaDropout",
    "BatchNorm",
    "BertEncoder",
    "DropBlock",
    "DropConnect",
    "DropPath",
    "Dropout",
    "Embedding",
    "FeatureAlphaDropout",
    "GELUTanh",
    "GroupNorm",
    "InstanceNorm",
    "Layer",
    "LayerNorm",
    "Linear",
    "MultiHeadAttention",
    "Parameter",
    "PositionalEmbedding",
    "RMSNorm",
    "ReLU",
    "ResidualNorm",
    "Seed",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SpatialDropout",
    "Transformer",
    "TransformerBlock",
    "draw_seed",
]
