"""Fast, exact regularisation and normalisation layers for NumPy and PyTorch on the CPU.

The package exports the layers (``LayerNorm``, ``Dropout``, ...), every op as a stateless function (``layer_norm``,
``dropout``, ...), the modules ``functional`` and ``oracle``, and the control of threads: ``set_num_threads``,
``get_num_threads``, ``num_threads``.

Examples
--------
>>> import numpy as np
>>> import cregkit
>>> norm = cregkit.LayerNorm(3)
>>> x = np.array([[1, 2, 3]], dtype=np.float32)
>>> norm(x).round(3)
array([[-1.225,  0.   ,  1.225]], dtype=float32)
>>> np.array_equal(cregkit.layer_norm(x), norm(x))
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cregkit import _fork as _fork  # records the process id at import
from cregkit._version import __version__

if TYPE_CHECKING:
    from cregkit import functional, oracle
    from cregkit.advice import advise
    from cregkit.config import show_config
    from cregkit.functional import (
        adamw_step,
        alpha_dropout,
        alpha_dropout_backward,
        batch_norm,
        batch_norm_backward,
        batch_norm_forward,
        batch_norm_inference_backward,
        crop_images,
        cutmix_images,
        cutout_images,
        drop_block,
        drop_block_backward,
        drop_path,
        drop_path_backward,
        dropout,
        dropout_add_layer_norm_backward,
        dropout_add_layer_norm_forward,
        dropout_add_rms_norm_backward,
        dropout_add_rms_norm_forward,
        dropout_backward,
        dropout_keep,
        feature_alpha_dropout,
        feature_alpha_dropout_backward,
        flip_images,
        gaussian_noise,
        ghost_batch_norm_backward,
        ghost_batch_norm_forward,
        group_norm,
        group_norm_backward,
        group_norm_forward,
        instance_norm,
        instance_norm_backward,
        instance_norm_forward,
        jitter_images,
        l2_gradient,
        l2_penalty,
        layer_norm,
        layer_norm_backward,
        layer_norm_forward,
        max_norm,
        mixup_images,
        rms_norm,
        rms_norm_backward,
        rms_norm_forward,
        rotate_images,
        sample_uniform,
        sgd_step,
        spatial_dropout,
        spatial_dropout_backward,
        sum_squares,
    )
    from cregkit.kernels._pool import clear_pool
    from cregkit.kernels._threads import get_num_threads, num_threads, set_num_threads
    from cregkit.layers import (
        GELU,
        AlphaDropout,
        BatchNorm,
        BertEncoder,
        DropBlock,
        DropConnect,
        Dropout,
        DropPath,
        Embedding,
        FeatureAlphaDropout,
        GELUTanh,
        GroupNorm,
        InstanceNorm,
        Layer,
        LayerNorm,
        Linear,
        MultiHeadAttention,
        Parameter,
        PositionalEmbedding,
        ReLU,
        ResidualNorm,
        RMSNorm,
        Sequential,
        Sigmoid,
        SiLU,
        SpatialDropout,
        Transformer,
        TransformerBlock,
    )
    from cregkit.train import RegularizedNetwork

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
    "RegularizedNetwork",
    "ResidualNorm",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SpatialDropout",
    "Transformer",
    "TransformerBlock",
    "__version__",
    "adamw_step",
    "advise",
    "alpha_dropout",
    "alpha_dropout_backward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference_backward",
    "clear_pool",
    "crop_images",
    "cutmix_images",
    "cutout_images",
    "drop_block",
    "drop_block_backward",
    "drop_path",
    "drop_path_backward",
    "dropout",
    "dropout_add_layer_norm_backward",
    "dropout_add_layer_norm_forward",
    "dropout_add_rms_norm_backward",
    "dropout_add_rms_norm_forward",
    "dropout_backward",
    "dropout_keep",
    "feature_alpha_dropout",
    "feature_alpha_dropout_backward",
    "flip_images",
    "functional",
    "gaussian_noise",
    "get_num_threads",
    "ghost_batch_norm_backward",
    "ghost_batch_norm_forward",
    "group_norm",
    "group_norm_backward",
    "group_norm_forward",
    "instance_norm",
    "instance_norm_backward",
    "instance_norm_forward",
    "jitter_images",
    "l2_gradient",
    "l2_penalty",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_forward",
    "max_norm",
    "mixup_images",
    "num_threads",
    "oracle",
    "rms_norm",
    "rms_norm_backward",
    "rms_norm_forward",
    "rotate_images",
    "sample_uniform",
    "set_num_threads",
    "sgd_step",
    "show_config",
    "spatial_dropout",
    "spatial_dropout_backward",
    "sum_squares",
]

_MODULES = ("functional", "oracle")
_THREADS = ("get_num_threads", "num_threads", "set_num_threads")


def __getattr__(name: str) -> Any:
    """Import a public name on first use: the command line can then report a bad environment variable in one line."""
    if name not in __all__:
        raise AttributeError(f"module 'cregkit' has no attribute {name!r}")
    if name in _MODULES:
        return importlib.import_module(f"cregkit.{name}")
    if name in _THREADS:
        home = "cregkit.kernels._threads"
    elif name == "clear_pool":
        home = "cregkit.kernels._pool"
    elif name == "show_config":
        home = "cregkit.config"
    elif name == "advise":
        home = "cregkit.advice"
    elif name == "RegularizedNetwork":
        home = "cregkit.train"
    else:
        home = "cregkit.functional" if name.islower() else "cregkit.layers"
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
