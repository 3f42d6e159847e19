"""Every op as a stateless function on C-contiguous arrays, computed by the compiled kernels.

Norms and dropouts take tensors of float32, float16 or bfloat16 (``ml_dtypes.bfloat16``). The tensors of a call have one
dtype: ``x``, ``residual``, ``h``, ``dy``, ``dh``, and the outputs of their shape. Kernels compute in float32, so a
16-bit result is that of the float32 op on the widened inputs, rounded once to nearest even. ``gamma``, ``beta`` and the
running statistics are float32 or of the tensors' dtype. A norm returns ``mean`` and ``rstd`` in float64, ``dgamma`` and
``dbeta`` in float32. All other ops take float32 alone.

Examples
--------
>>> import numpy as np
>>> from cregkit import functional
>>> x = np.array([[1, 2, 3], [10, 20, 30]], dtype=np.float32)
>>> y, mean, rstd = functional.layer_norm_forward(x)
>>> mean
array([ 2., 20.])
>>> rounded = functional.layer_norm(x).astype(np.float16)
>>> np.array_equal(functional.layer_norm(x.astype(np.float16)), rounded)  # float16 holds these x exactly
True
"""

from cregkit.kernels.batch_norm import (
    batch_norm,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_inference_backward,
)
from cregkit.kernels.drop_block import drop_block, drop_block_backward
from cregkit.kernels.dropout import (
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
from cregkit.kernels.dropout_add_norm import (
    dropout_add_layer_norm_backward,
    dropout_add_layer_norm_forward,
    dropout_add_rms_norm_backward,
    dropout_add_rms_norm_forward,
)
from cregkit.kernels.ghost_batch_norm import ghost_batch_norm_backward, ghost_batch_norm_forward
from cregkit.kernels.group_norm import (
    group_norm,
    group_norm_backward,
    group_norm_forward,
    instance_norm,
    instance_norm_backward,
    instance_norm_forward,
)
from cregkit.kernels.images import (
    crop_images,
    cutmix_images,
    cutout_images,
    flip_images,
    jitter_images,
    mixup_images,
    rotate_images,
)
from cregkit.kernels.layer_norm import layer_norm, layer_norm_backward, layer_norm_forward
from cregkit.kernels.noise import gaussian_noise, sample_uniform
from cregkit.kernels.optimizer import adamw_step, l2_gradient, l2_penalty, max_norm, sgd_step, sum_squares
from cregkit.kernels.rms_norm import rms_norm, rms_norm_backward, rms_norm_forward

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
