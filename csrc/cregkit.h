/* The C contract: one table of kernels for each instruction set, each kernel the maths of one block.
 *
 * Calls      Kernels never allocate, spawn threads, keep state or touch Python. Sizes are ptrdiff_t. Arrays are
 *            C-contiguous and naturally aligned; alignment never changes a bit. y may be x and dx may be dy;
 *            otherwise an output overlaps nothing. A NULL gamma is a gain of 1, a NULL beta a bias of 0. NULL outputs
 *            are not written. stream: outputs are written by non-temporal stores.
 * Bits       Only +, -, *, / and sqrt, each correctly rounded by IEEE 754, and never contracted into fma. A sum runs
 *            over CREG_LANES virtual lanes for any vector width, reduced in one order. At most CREG_PANEL elements
 *            (or CREG_CHUNK_ROWS rows) are summed in float32; panels and chunks, cut by the shape alone, are merged
 *            in order in float64.
 * Range      All finite inputs give right results: where a float32 intermediate overflows, or is so small that lost
 *            subnormals could count, the row (channel, column sum) is computed again in float64 (safety.h).
 */
#ifndef CREGKIT_H
#define CREGKIT_H

#include <stddef.h>
#include <stdint.h>

enum {
    /* The virtual lanes of a sum. */
    CREG_LANES = 64,
    /* A panel: at most this many elements of a row (or plane) are summed in float32. */
    CREG_PANEL = 4096,
    /* A chunk: at most this many rows of a column sum are added in float32. */
    CREG_CHUNK_ROWS = 64,
    /* At most this many wide rows are divided by columns (wide_rows.h). */
    CREG_WIDE_ROWS = 16,
    /* The columns of a tile, which one task of wide rows' backward writes. */
    CREG_TILE = 1024,
    /* The columns of dgamma and dbeta that are merged at a time. */
    CREG_MERGE_TILE = 256,
    /* The approximate number of elements of a task; a multiple of the block and the group below. */
    CREG_TASK = 16384,
    /* The draws of a block of dropout's random stream (draws.h). */
    CREG_DRAWS_BLOCK = 4096,
    /* The elements of a sample's noise that share 16 Philox counters. */
    CREG_NOISE_GROUP = 64
};

/* The types in which tensors are stored: x, y, their gradients, and what has their shape. Parameters, statistics and
 * sums are float32 or float64. */
enum { CREG_FLOAT32, CREG_FLOAT16, CREG_BFLOAT16 };

/* What flip_image reverses. */
enum { CREG_FLIP_NONE, CREG_FLIP_HORIZONTAL, CREG_FLIP_VERTICAL };

/* Where a call's arrays fit: in L2 (NEAR); beyond L2 (FAR), where rows are written one after another; or beyond the LLC
 * (STREAM), where outputs are written with non-temporal stores. */
enum { CREG_NEAR, CREG_FAR, CREG_STREAM };

/* A batch seen as (n, c, s): n samples, c channels, s contiguous elements of a channel in a sample (1: channels last).
 */
typedef struct {
    ptrdiff_t n, c, s;
} creg_shape;

/* The channels' parameters for batch norm's passes: arrays of c elements.
 *   forward:  y  = ((x - hi) - lo) * scale + bias                hi + lo = mean, scale = gamma * rstd, bias = beta
 *   backward: dx = ((dy - k1) - ((x - hi) - lo) * k2) * scale    k1 = mean(dy), k2 = rstd * mean(dy * x_hat)
 * A channel that float32 cannot hold has exact = 1 and is taken from the float64 arrays instead. */
typedef struct {
    float *hi, *lo, *scale, *bias, *k1, *k2;
    double *mean, *scale64, *k1_64, *k2_64;
    unsigned char *exact;
} creg_channels;

/* A batch cut into chunks by its shape alone: each is `samples` samples, of planes longer than CREG_PANEL one of
 * `pieces` pieces of `piece` elements. A task takes chunk_step chunks of channel_step channels. */
typedef struct {
    ptrdiff_t samples, pieces, piece, chunks, chunk_step, channel_step, tasks;
} creg_cut;

/* One call of batch norm, forward or backward; unused pointers are NULL. batch_norm_plan() sets `count`, `whole` and
 * the cuts. The arrays of chunks are stored as [chunk][channel]: moments, or sums of dy and of dy * (x - mean). */
typedef struct {
    creg_shape shape;
    int stored;                            /* the type of x, dy and out */
    int where, shared;                     /* shared: other processes hold parts of the batch */
    int whole;                             /* each task takes whole channels through all steps */
    creg_cut summed, written, channelwise; /* the first pass, the second pass, the parameters */
    ptrdiff_t next;                        /* if not 0, the second pass prefetches its inputs so far ahead into L2 */
    const void *x, *dy;                    /* dy: backward */
    void *out;                             /* y or dx */
    const float *gamma, *beta;
    const float *given_mean, *given_var; /* inference */
    double *var, *rstd;
    float *dgamma, *dbeta, *running_mean, *running_var;
    double *chunk_mean, *chunk_m2;
    float *chunk_dy, *chunk_dy_d;
    double eps, momentum, count; /* count: values of a channel in all processes */
    int unbiased;
    creg_channels channels;
} creg_batch_norm;

/* One call of group norm, forward or backward. A sample is a batch norm twice: `channels` has gamma and beta, and
 * writes; `groups` has the statistics, of one long channel a group. Both are of the first sample, and their arrays hold
 * those of all samples, one after another. by_channels: sums are taken of channels, then combined.
 * group_norm_plan() sets the cuts, by_channels, `whole` and sample_step. */
typedef struct {
    creg_batch_norm channels, groups;
    ptrdiff_t samples, sample_step; /* sample_step: with `whole`, the samples of a task */
    int by_channels, whole;
    double *sums_dy, *sums_dy_x_hat; /* of each channel of each sample, if there are dgamma and dbeta */
    float *dgamma, *dbeta;
} creg_group_norm;

/* A batch of n images, each `planes` planes of height x width pixels of `pixel` floats, and the parameters of each
 * image: see images.h and jitter.h. A task takes `block` images. `other` may be NULL. `out_of_range` is set where an
 * image that must hold colours holds other values. */
typedef struct {
    ptrdiff_t n, block;
    ptrdiff_t planes, height, width, pixel, size; /* size: floats of an image */
    ptrdiff_t crop_height, crop_width, crop_size;
    const float *x, *other;
    float *y;
    const int64_t *geometry; /* of each image: the corner of its crop, or its flips, or its box */
    const float *factors;    /* of each image: its weight, or the four factors of its jitter */
    const double *degrees;
    float fill;
    int channels_last, reflect, out_of_range;
} creg_images;

/* Dropout's parameters: y = x * scale + shift where kept, fill where dropped. dropout_forward and the norms ignore
 * shift and fill. */
typedef struct {
    uint32_t key[2];    /* the seed's low and high half */
    int16_t threshold;  /* top 16 bits of p, less 2^15: a smaller draw drops */
    uint32_t tie;       /* next 32 bits of p: where a draw equals the threshold, a smaller second draw drops */
    float scale, shift; /* a shift of -0 leaves every product as it is */
    float fill;
} creg_dropout;

/* How dropout decides: by a draw for each item, or without draws because p = 0 (keeps all) or p = 1 (drops all). */
enum { CREG_DRAWS, CREG_KEEPS_ALL, CREG_DROPS_ALL };

/* Dropout of n elements: samples of `rows` rows of `cols` elements. Rows of a sample share their decisions: element i
 * has draw first + i / (rows * cols) * cols + i % cols of the random stream. rows = 1: each element has its own. cols =
 * 1: samples or channels, dropped whole. A task takes `block` elements, whole rows, the first task `lead` more. `keep`
 * holds decisions, one byte each: dropout_keep writes them, dropout_by_mask reads them. */
typedef struct {
    creg_dropout dropout;
    int decides, stream, stored; /* stored: the type of x and y */
    const void *x;
    void *y;
    unsigned char *keep;
    uint64_t first;
    ptrdiff_t n, rows, cols, block, lead;
} creg_dropout_items;

/* DropBlock's mask of `items` in planes of height x width pixels of `pixel` elements each. `side` is that of a block.
 * `kept` counts the elements that are kept. */
typedef struct {
    creg_dropout_items items;
    ptrdiff_t height, width, pixel, side;
    int64_t kept;
} creg_drop_block;

/* The L2 penalty of n weights from the sums of squares of their `panels`, and its gradient. The squares are those of
 * the weights clipped to [-clipvalue, clipvalue], unless it is 0. */
typedef struct {
    const float *w;
    float *dw;
    double *panels;
    ptrdiff_t n, n_panels, block;
    double weight_decay, penalty;
    float clipvalue;
    int stream;
} creg_l2;

/* What a step does besides its update, if `any`: before it, clip the gradient to [-clipvalue, clipvalue] unless that is
 * 0, and multiply it by `scale`; after it, shrink the weights by `threshold` towards 0, and move `average`, unless it
 * is NULL, towards the weights: average = (1 - share) * average + share * w. `share` is that of the weights, or where
 * `from_weights`, that of the average. */
typedef struct {
    float clipvalue, scale, threshold, share;
    int any, from_weights;
    float *average;
} creg_modifiers;

/* One SGD step of n weights, its constants in float32. velocity may be NULL. */
typedef struct {
    float *w, *velocity;
    const float *dw;
    ptrdiff_t n, block;
    float lr, weight_decay, momentum;
    creg_modifiers modifiers;
} creg_sgd;

/* One step of AdamW (decoupled), or of Adam with L2, of n weights. adamw_constants() sets the float32 constants. */
typedef struct {
    float *w, *m, *v;
    const float *dw;
    ptrdiff_t n, block;
    int64_t step;
    double lr, weight_decay, betas[2];
    int decoupled;
    float shrink, l2, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, inv_sqrt_bias2, eps;
    creg_modifiers modifiers;
} creg_adamw;

/* Rows of `cols` weights, scaled to a norm of at most `limit`, and then their average. A task takes `block` rows. */
typedef struct {
    float *w;
    ptrdiff_t rows, cols, block;
    double limit;
    creg_modifiers modifiers;
} creg_max_norm;

/* Random numbers or noise of samples of `size` elements. A task takes `block` samples of uniform numbers, or of noise
 * one of the `pieces` of `block` elements of a sample; then block is a multiple of CREG_NOISE_GROUP. */
typedef struct {
    uint32_t key[2];
    const int64_t *index;
    const float *x, *sigma;
    float *y;
    double *uniform;
    ptrdiff_t samples, size, block, pieces;
} creg_noise;

/* The norms over rows. */
enum { CREG_LAYER_NORM, CREG_RMS_NORM };

/* Statistics and gradient means of a wide row. exact: float32 is not enough for the row. */
typedef struct {
    double mean, rstd, mean_g, mean_g_x_hat;
    int exact;
} creg_wide_row;

/* One call of a norm over `rows` rows of `cols` elements, forward or backward; unused pointers are NULL.
 *   forward:  y = norm(x); with a residual, h = residual + dropout(x) and y = norm(h)
 *   backward: dx = dh + the gradient at x, dropped = dropout's gradient of dx; dgamma and dbeta over all rows
 * Centred norms alone have beta, mean and dbeta. Dropout: dropout is NULL where p = 0, x (dropped) where p = 1. */
typedef struct {
    int kind, stream, stored; /* stored: the type of x, y, h, residual and their gradients */
    ptrdiff_t rows, cols;
    double eps;
    const float *gamma, *beta;
    const void *x, *residual, *dy, *dh;
    void *y, *h, *dx, *dropped;
    double *mean, *rstd; /* written forward, read backward */
    const creg_dropout *dropout;
    uint64_t offset; /* the position of x[0] in the random stream */

    /* Column sums (column_sums.h): dgamma and dbeta from the partial sums of each chunk of `step` rows. exact[k] marks
     * a chunk whose sums are computed again in float64. A single chunk's partial sums may be dgamma and dbeta. */
    ptrdiff_t step;
    float *partial_dgamma, *partial_dbeta, *dgamma, *dbeta;
    unsigned char *exact;

    /* dropout_add_norm of 16-bit tensors with rows longer than CREG_PANEL: a row for each task. */
    float *work;

    /* Rows across memory (channel_norm.h): the rows of a block, at neighbouring positions, are one element each of
     * `cols` planes of `across` elements. A task takes `step` rows of a block. sums: of dy * x_hat and of dy of each
     * plane, for each task. */
    ptrdiff_t across;
    double *sums;

    /* Wide rows (wide_rows.h): two sums of each panel of each row, and the statistics of each row. */
    double *panel_sums;
    creg_wide_row *wide;
} creg_norm;

/* The kernels of one instruction set and one type of tensors; stored[type] are those of each type. Those that take
 * float32 alone are NULL in the tables of other types. */
typedef struct creg_kernels {
    const char *isa;
    const struct creg_kernels *stored[CREG_BFLOAT16 + 1];
#define CREG_FLOAT32_KERNEL CREG_KERNEL
#define CREG_KERNEL(result, name, arguments) result(*name) arguments;
#include "kernels.def"
#undef CREG_KERNEL
#undef CREG_FLOAT32_KERNEL
} creg_kernels;

/* The float32 tables that this CPU and its operating system can run, best first; NULL past the end. */
const creg_kernels *creg_kernels_ranked(int rank);

/* The CPU's name from CPUID; an empty string on other architectures than x86-64. */
void creg_cpu_name(char name[49]);

/* Forced inlining lets kernels consist of small functions. An instrumented build defines it as `static inline`, because
 * forced inlining makes its compilation take minutes. */
#ifndef CREG_INLINE
#define CREG_INLINE static inline __attribute__((always_inline))
#endif

#define CREG_NOINLINE __attribute__((noinline))

/* Whether a norm subtracts the row's mean. */
CREG_INLINE int creg_is_centred(int kind) { return kind == CREG_LAYER_NORM; }

#if defined(__x86_64__)
#define CREG_X86 1
#elif defined(__aarch64__)
#define CREG_ARM64 1
#endif

#endif
