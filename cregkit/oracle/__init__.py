"""Reference implementation of every functional op, in plain NumPy and float64: the specification of the kernels.

Names and signatures are those of ``cregkit.functional``. Arguments are arrays of any real dtype; results are float64
(``dropout_keep`` returns bool). An ``out`` array receives the result, rounded to its dtype, and is returned. Arguments
are not checked. NaN, Inf and division by zero follow IEEE 754 without warnings.

Examples
--------
>>> import numpy as np
>>> from cregkit import layer_norm, oracle
>>> x = np.array([[1, 2, 3]], dtype=np.float32)
>>> oracle.layer_norm(x)
array([[-1.22473569,  0.        ,  1.22473569]])
>>> np.allclose(layer_norm(x), oracle.layer_norm(x), atol=1e-6)
True
"""

from __future__ import annotations

from cregkit.oracle.batch_norm import (
    batch_norm,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_inference_backward,
)
from cregkit.oracle.drop_block import drop_block, drop_block_backward
from cregkit.oracle.dropout import (
    alpha_dropout,
    alpha_dropout_backward,
    drop_path,
    drop_path_backward,
    dropout,
    dropout_backward,
    dropout_keep,
    feature_alpha_dropout,
    feature_alpha_dropout_backward,
    spatial_dropout,
    spatial_dropout_backward,
)
from cregkit.oracle.dropout_add_norm import (
    dropout_add_layer_norm_backward,
    dropout_add_layer_norm_forward,
    dropout_add_rms_norm_backward,
    dropout_add_rms_norm_forward,
)
from cregkit.oracle.ghost_batch_norm import ghost_batch_norm_backward, ghost_batch_norm_forward
from cregkit.oracle.group_norm import (
    group_norm,
    group_norm_backward,
    group_norm_forward,
    instance_norm,
    instance_norm_backward,
    instance_norm_forward,
)
from cregkit.oracle.images import (
    crop_images,
    cutmix_images,
    cutout_images,
    flip_images,
    jitter_images,
    mixup_images,
    rotate_images,
)
from cregkit.oracle.layer_norm import layer_norm, layer_norm_backward, layer_norm_forward
from cregkit.oracle.noise import gaussian_noise, sample_uniform
from cregkit.oracle.optimizer import adamw_step, l2_gradient, l2_penalty, max_norm, sgd_step, sum_squares
from cregkit.oracle.rms_norm import rms_norm, rms_norm_backward, rms_norm_forward

__all__ = [
    "adamw_step",
    "alpha_dropout",
    "alpha_dropout_backward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference_backward",
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
    "gaussian_noise",
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
    "rms_norm",
    "rms_norm_backward",
    "rms_norm_forward",
    "rotate_images",
    "sample_uniform",
    "sgd_step",
    "spatial_dropout",
    "spatial_dropout_backward",
    "sum_squares",
]
