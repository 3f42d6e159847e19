/* Builds one instruction set's table from the op headers. An isa_<name>.c sets the compiler's target, includes
 * cregkit.h and its simd_<name>.h, defines CREG_TABLE and includes this. */
#include "batch_norm.h"
#include "dropout.h"
#include "dropout_add_norm.h"
#include "images.h"
#include "jitter.h"
#include "layer_norm.h"
#include "noise.h"
#include "optimizer.h"
#include "rms_norm.h"
#include "wide_rows.h"

const creg_kernels CREG_TABLE = {
    .isa = CREG_ISA,
    .layer_norm_forward = creg_layer_norm_forward,
    .layer_norm_backward = creg_layer_norm_backward,
    .rms_norm_forward = creg_rms_norm_forward,
    .rms_norm_backward = creg_rms_norm_backward,
    .merge_columns = creg_merge_columns,
    .merge_columns_exact = creg_merge_columns_exact,
    .sums_are_safe = creg_sums_are_safe,
    .sums_were_safe = creg_sums_were_safe,
    .affine_rows = creg_affine_rows,
    .are_at_most = creg_are_at_most,
    .batch_norm_moments = creg_batch_norm_moments,
    .batch_norm_statistics = creg_batch_norm_statistics,
    .batch_norm_running = creg_batch_norm_running,
    .batch_norm_affine = creg_batch_norm_affine,
    .batch_norm_apply = creg_batch_norm_apply,
    .batch_norm_grad_sums = creg_batch_norm_grad_sums,
    .batch_norm_grad_merge = creg_batch_norm_grad_merge,
    .batch_norm_grad_affine = creg_batch_norm_grad_affine,
    .batch_norm_grad_apply = creg_batch_norm_grad_apply,
    .dropout = creg_dropout_forward,
    .dropout_keep = creg_dropout_keep,
    .spatial_dropout = creg_spatial_dropout,
    .dropout_add_layer_norm_forward = creg_dropout_add_layer_norm_forward,
    .dropout_add_layer_norm_backward = creg_dropout_add_layer_norm_backward,
    .dropout_add_rms_norm_forward = creg_dropout_add_rms_norm_forward,
    .dropout_add_rms_norm_backward = creg_dropout_add_rms_norm_backward,
    .wide_sums = creg_wide_sums,
    .wide_statistics = creg_wide_statistics,
    .wide_write = creg_wide_write,
    .wide_grad_sums = creg_wide_grad_sums,
    .wide_grad_means = creg_wide_grad_means,
    .wide_grad_tile = creg_wide_grad_tile,
    .sum_squares = creg_sum_squares,
    .scale = creg_scale,
    .sgd_step = creg_sgd_step,
    .adamw_step = creg_adamw_step,
    .derived_seed = creg_derived_seed,
    .sample_uniform = creg_sample_uniform,
    .gaussian_noise = creg_gaussian_noise,
    .crop_image = creg_crop_image,
    .flip_image = creg_flip_image,
    .rotate_image = creg_rotate_image,
    .box_image = creg_box_image,
    .mix = creg_mix,
    .jitter_image = creg_jitter_image,
    .are_colours = creg_are_colours,
};
