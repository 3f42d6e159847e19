"""Layers: the state (parameters, running statistics, seeds) around the functions of ``cregkit.functional``."""

from cregkit.layers.activations import GELU, ReLU, Sigmoid
from cregkit.layers.base import Layer, Parameter
from cregkit.layers.batch_norm import BatchNorm
from cregkit.layers.dropout import Dropout, SpatialDropout
from cregkit.layers.layer_norm import LayerNorm
from cregkit.layers.linear import Linear
from cregkit.layers.rms_norm import RMSNorm
from cregkit.layers.seeding import Seed, draw_seed
from cregkit.layers.sequential import Sequential

__all__ = [
    "GELU",
    "BatchNorm",
    "Dropout",
    "Layer",
    "LayerNorm",
    "Linear",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "Seed",
    "Sequential",
    "Sigmoid",
    "SpatialDropout",
    "draw_seed",
]
