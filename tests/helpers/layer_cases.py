"""Layers by name, with random parameters, and an input for each."""

from __future__ import annotations

import numpy as np

from cregkit.layers import (
    GELU,
    AlphaDropout,
    BatchNorm,
    DropBlock,
    DropConnect,
    Dropout,
    DropPath,
    FeatureAlphaDropout,
    GELUTanh,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Linear,
    ReLU,
    RMSNorm,
    Sequential,
    Sigmoid,
    SiLU,
    SpatialDropout,
)

ROWS, FEATURES = 6, 5


def randomised(layer):
    """Set every float parameter and buffer to random values, so that no term of a gradient is 0 or 1."""
    rng = np.random.default_rng(7)
    for name, value in layer.state_dict().items():
        if value.dtype == np.float32:
            value[...] = rng.uniform(0.5, 1.5, value.shape)
        layer.load_state_dict({**layer.state_dict(), name: value})
    return layer


LAYERS = {
    "linear": lambda: Linear(FEATURES, 3, seed=1),
    "linear_without_bias": lambda: Linear(FEATURES, 3, bias=False, seed=1),
    "relu": ReLU,
    "gelu": GELU,
    "gelu_tanh": GELUTanh,
    "silu": SiLU,
    "sigmoid": Sigmoid,
    "dropout": lambda: Dropout(0.4, seed=3),
    "spatial_dropout": lambda: SpatialDropout(0.4, seed=3),
    "spatial_dropout_last": lambda: SpatialDropout(0.4, channel_axis=-1, seed=3),
    "alpha_dropout": lambda: AlphaDropout(0.4, seed=3),
    "feature_alpha_dropout": lambda: FeatureAlphaDropout(0.4, seed=3),
    "drop_path": lambda: DropPath(0.4, seed=3),
    "drop_path_of_batch": lambda: DropPath(0.4, mode="batch", seed=3),
    "drop_connect": lambda: DropConnect(FEATURES, 3, 0.4, seed=1),
    "drop_block": lambda: DropBlock(0.4, 2, seed=3),
    "drop_block_last": lambda: DropBlock(0.4, 2, channel_axis=-1, seed=3),
    "batch_norm": lambda: BatchNorm(FEATURES),
    "batch_norm_last": lambda: BatchNorm(FEATURES, channel_axis=-1),
    "ghost_batch_norm": lambda: BatchNorm(FEATURES, virtual_batch_size=2),
    "ghost_batch_norm_last": lambda: BatchNorm(FEATURES, channel_axis=-1, virtual_batch_size=2),
    "group_norm": lambda: GroupNorm(2, 6),
    "group_norm_last": lambda: GroupNorm(2, 6, channel_axis=-1),
    "group_norm_not_affine": lambda: GroupNorm(3, 6, affine=False),
    "instance_norm": lambda: InstanceNorm(3),
    "instance_norm_last": lambda: InstanceNorm(3, affine=True, channel_axis=-1),
    "instance_norm_tracked": lambda: InstanceNorm(3, affine=True, track_running_stats=True),
    "layer_norm": lambda: LayerNorm(FEATURES),
    "rms_norm": lambda: RMSNorm(FEATURES),
    "layer_norm_of_two_axes": lambda: LayerNorm((3, FEATURES)),
    "rms_norm_of_two_axes": lambda: RMSNorm((3, FEATURES)),
    "layer_norm_of_channels": lambda: LayerNorm(FEATURES, channel_axis=1),
    "rms_norm_of_channels": lambda: RMSNorm(FEATURES, gain_offset=1.0, channel_axis=1),
    "rms_norm_with_gain_offset": lambda: RMSNorm(FEATURES, gain_offset=1.0),
    "sequential": lambda: Sequential(
        Linear(FEATURES, 4, seed=1), BatchNorm(4), GELU(), Dropout(0.3, seed=2), LayerNorm(4), Linear(4, 2, seed=3)
    ),
}
SHAPES = {
    "batch_norm": (ROWS, FEATURES, 3),
    "batch_norm_last": (2, 3, FEATURES),
    "ghost_batch_norm": (4, FEATURES, 3),
    "ghost_batch_norm_last": (3, 2, FEATURES),
    "group_norm": (3, 6, 2),
    "group_norm_last": (2, 2, 2, 6),
    "group_norm_not_affine": (2, 6, 3),
    "instance_norm": (2, 3, 5),
    "instance_norm_last": (2, 5, 3),
    "instance_norm_tracked": (2, 3, 2, 3),
    **dict.fromkeys(("spatial_dropout", "spatial_dropout_last", "feature_alpha_dropout"), (3, 4, 5)),
    "drop_block": (2, 3, 4, 5),
    "drop_block_last": (2, 4, 5, 3),
    "layer_norm_of_two_axes": (4, 3, FEATURES),
    "rms_norm_of_two_axes": (4, 3, FEATURES),
    "layer_norm_of_channels": (2, FEATURES, 3),
    "rms_norm_of_channels": (2, FEATURES, 2, 2),
}


def input_of(name, seed=0):
    x = np.random.default_rng(seed).normal(size=SHAPES.get(name, (ROWS, FEATURES))).astype(np.float32)
    return x + np.copysign(np.float32(0.1), x)  # away from the kink of ReLU


def made(name, training):
    layer = randomised(LAYERS[name]())
    return layer.train() if training else layer.eval()
