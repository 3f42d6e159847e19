/* The C contract of cregkit: one table of kernels per instruction set, each kernel the maths of one block.
 *
 * Conventions
 *   - Kernels never allocate, spawn threads, keep state or touch Python. Sizes are ptrdiff_t.
 *   - Arrays are C-contiguous. Only natural (4 or 8 byte) alignment is asked for; alignment never changes a bit.
 *   - y may be x and dx may be dy, exactly; apart from that an output overlaps nothing.
 *   - NULL gamma means a gain of 1, NULL beta a bias of 0. A NULL output is not written.
 *   - stream != 0 writes around the cache: for outputs so large that nothing of them would be left in it.
 *
 * Why the bits are the same everywhere
 *   - Only +, -, *, / and sqrt, each correctly rounded by IEEE 754; the build forbids contraction into fma.
 *   - A sum runs over CREG_LANES virtual lanes, whatever the register width, folded in one fixed order.
 *   - At most CREG_PANEL elements (or CREG_CHUNK_ROWS rows) are summed in float32; panels and chunks, cut by the shape
 *     alone, are merged one after another in float64.
 *
 * Which numbers are right: all finite ones, of every input. Where a float32 intermediate overflowed, or is so small
 * that lost subnormals could count, the row (channel, column sum) is computed again in float64: see creg_is_safe() and
 * gradients_are_safe() in reduce.h.
 */
#ifndef CREGKIT_H
#define CREGKIT_H

#include <stddef.h>
#include <stdint.h>

enum {
    CREG_LANES = 64,          /* virtual lanes of a sum */
    CREG_PANEL = 4096,        /* elements of a row (or plane) summed in float32 before float64 takes over */
    CREG_CHUNK_ROWS = 64,     /* rows of a column sum taken in float32 before float64 takes over */
    CREG_WIDE_ROWS = 16,      /* the most rows that are shared out by columns: see wide_rows.h */
    CREG_TILE = 1024,         /* columns of those that are stored together */
    CREG_DROPOUT_GROUP = 128, /* elements that share 16 Philox counters */
    CREG_NOISE_GROUP = 64     /* elements of a sample's noise that do */
};

/* What flip_image reverses. */
enum { CREG_FLIP_NONE, CREG_FLIP_HORIZONTAL, CREG_FLIP_VERTICAL };

/* Where a call's arrays are: near the core; far from it, rows to be written one after another; or beyond the cache,
 * outputs to be written around it. */
enum { CREG_NEAR, CREG_FAR, CREG_STREAM };

/* A batch seen as (n, c, s): n samples, c channels, s contiguous elements of a channel in a sample (1: channels last).
 */
typedef struct {
    ptrdiff_t n, c, s;
} creg_shape;

/* A piece of every channel whose sums are taken in float32: samples [n0, n1) and elements [s0, s1) of each. */
typedef struct {
    ptrdiff_t n0, n1, s0, s1;
} creg_chunk;

/* What batch norm's passes read of each channel: arrays of c elements.
 *   forward:  y  = ((x - hi) - lo) * scale + bias                hi + lo = mean, scale = gamma * rstd, bias = beta
 *   backward: dx = ((dy - k1) - ((x - hi) - lo) * k2) * scale    k1 = mean(dy), k2 = rstd * mean(dy * x_hat)
 * A channel that float32 cannot hold has exact = 1 and is taken from the float64 arrays instead. */
typedef struct {
    float *hi, *lo, *scale, *bias, *k1, *k2;
    double *mean64, *scale64, *k1_64, *k2_64;
    unsigned char *exact;
} creg_channels;

/* One image: `planes` planes of height x width pixels, `pixel` floats each. See images.h. */
typedef struct {
    ptrdiff_t planes, height, width, pixel;
} creg_image;

/* Dropout's parameters as the kernels want them. */
typedef struct {
    uint32_t key[2];    /* the seed's low and high half */
    uint16_t threshold; /* top 16 bits of p: a smaller draw drops */
    uint32_t tie;       /* next 32 bits of p: where a draw equals the threshold, a smaller second draw drops */
    float scale;        /* 1 / (1 - p) */
} creg_dropout;

/* One SGD step, its constants in float32. See optimizer.h. */
typedef struct {
    float lr, weight_decay, momentum;
} creg_sgd;

/* One AdamW step (l2 = 0), or one of Adam with L2 (shrink = 1). See optimizer.h. */
typedef struct {
    float shrink, l2, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, inv_sqrt_bias2, eps;
} creg_adamw;

/* Column sums of a norm's backward: partial sums of each chunk of `step` rows, and what they were summed from. exact[k]
 * marks a chunk that is summed again in float64. RMS norm has no mean, partial_dbeta and dbeta. The partial sums of a
 * single chunk may lie in dgamma and dbeta. */
typedef struct {
    const float *dy, *x;
    const double *mean, *rstd;
    float *partial_dgamma, *partial_dbeta, *dgamma, *dbeta;
    ptrdiff_t rows, cols, step;
    const unsigned char *exact;
} creg_columns;

/* What is known of a wide row. exact = 1: float32 does not do for it. */
typedef struct {
    double mean, rstd, mean_g, mean_g_x_hat;
    int exact;
} creg_wide_row;

/* A norm of at most CREG_WIDE_ROWS rows of cols columns, one after another, shared out by columns. See wide_rows.h. */
typedef struct {
    int rms;                               /* RMS norm: without beta, mean and dbeta */
    const float *x, *residual, *dy, *more; /* more: what is added to dx, or NULL */
    const float *gamma, *beta;
    float *h, *y;                         /* h = residual + dropout(x) is normalised, or x where h is NULL */
    float *dx, *dropped, *dgamma, *dbeta; /* dropped: dropout's gradient of dx, or NULL */
    double *sums;                         /* two of each panel of each row */
    creg_wide_row row[CREG_WIDE_ROWS];
    ptrdiff_t rows, cols;
    double eps;
    uint64_t first;              /* the first element's place in the random stream */
    const creg_dropout *dropout; /* NULL where p = 0 */
    int stream;
} creg_wide;

/* Dropout, addition and a norm in one: the same for both norms. See dropout_add_norm.h. */
typedef void creg_dropout_add_norm_forward(const float *x, const float *residual, const float *gamma, const float *beta,
                                           float *y, float *h, double *mean, double *rstd, ptrdiff_t rows,
                                           ptrdiff_t cols, double eps, uint64_t first, const creg_dropout *dropout,
                                           int stream);
typedef void creg_dropout_add_norm_backward(const float *dy, const float *h, const double *mean, const double *rstd,
                                            const float *gamma, const float *dh, float *dx, float *dresidual,
                                            float *dgamma, float *dbeta, ptrdiff_t rows, ptrdiff_t cols, uint64_t first,
                                            const creg_dropout *dropout, int stream);

typedef struct {
    const char *isa;

    /* layer_norm.h, rms_norm.h: a block of whole rows. dgamma and dbeta receive the sums over at most CREG_CHUNK_ROWS
     * rows. */
    void (*layer_norm_forward)(const float *x, const float *gamma, const float *beta, float *y, double *mean,
                               double *rstd, ptrdiff_t rows, ptrdiff_t cols, double eps, int stream);
    void (*layer_norm_backward)(const float *dy, const float *x, const double *mean, const double *rstd,
                                const float *gamma, float *dx, float *dgamma, float *dbeta, ptrdiff_t rows,
                                ptrdiff_t cols, int stream);
    void (*rms_norm_forward)(const float *x, const float *gamma, float *y, double *rstd, ptrdiff_t rows, ptrdiff_t cols,
                             double eps, int stream);
    void (*rms_norm_backward)(const float *dy, const float *x, const double *rstd, const float *gamma, float *dx,
                              float *dgamma, ptrdiff_t rows, ptrdiff_t cols, int stream);
    /* out[j] = sum over chunks of partial[chunk * cols + j], for columns [j0, j1). */
    void (*merge_columns)(const float *partial, ptrdiff_t chunks, ptrdiff_t cols, ptrdiff_t j0, ptrdiff_t j1,
                          float *out);
    /* dgamma and dbeta of columns [j0, j1), exactly where marked; whether float32 is enough for a chunk with these dy,
     * and whether it was for dgamma or dbeta. */
    void (*merge_columns_exact)(const creg_columns *columns, ptrdiff_t j0, ptrdiff_t j1);
    int (*sums_are_safe)(const float *dy, ptrdiff_t n);
    int (*sums_were_safe)(const float *sums, ptrdiff_t n);
    /* y = y * gamma + beta in float64, in place. */
    void (*affine_rows)(float *y, const float *gamma, const float *beta, ptrdiff_t rows, ptrdiff_t cols);
    /* Whether all |p| <= limit, apart from NaN. */
    int (*are_at_most)(const float *p, float limit, ptrdiff_t n);

    /* batch_norm.h: one chunk of the channels [c0, c1); x, dy, y and dx point at the whole tensor. Chunk results are
     * stored at [chunk index][channel]. */
    void (*batch_norm_moments)(const float *x, creg_shape shape, creg_chunk chunk, ptrdiff_t c0, ptrdiff_t c1,
                               double *mean, double *m2);
    void (*batch_norm_statistics)(const float *x, creg_shape shape, const creg_chunk *chunks, ptrdiff_t n_chunks,
                                  const double *chunk_mean, const double *chunk_m2, double eps, ptrdiff_t c0,
                                  ptrdiff_t c1, double *mean, double *var, double *rstd, unsigned char *exact);
    void (*batch_norm_running)(const float *mean, const float *var, double eps, ptrdiff_t c, double *mean64,
                               double *rstd, unsigned char *exact);
    void (*batch_norm_affine)(const double *mean, const double *rstd, const float *gamma, const float *beta,
                              ptrdiff_t c0, ptrdiff_t c1, const creg_channels *channels);
    void (*batch_norm_apply)(const float *x, float *y, creg_shape shape, creg_chunk chunk, ptrdiff_t c0, ptrdiff_t c1,
                             const creg_channels *channels, int where);
    void (*batch_norm_grad_sums)(const float *dy, const float *x, creg_shape shape, creg_chunk chunk, ptrdiff_t c0,
                                 ptrdiff_t c1, const creg_channels *channels, float *sum_dy, float *sum_dy_d);
    void (*batch_norm_grad_merge)(const float *dy, const float *x, creg_shape shape, ptrdiff_t n_chunks,
                                  const float *chunk_dy, const float *chunk_dy_d, const double *mean,
                                  const double *rstd, int training, ptrdiff_t c0, ptrdiff_t c1, float *dgamma,
                                  float *dbeta, const creg_channels *channels);
    void (*batch_norm_grad_affine)(double count, const double *rstd, const float *gamma, int training, ptrdiff_t c0,
                                   ptrdiff_t c1, const creg_channels *channels);
    void (*batch_norm_grad_apply)(const float *dy, const float *x, float *dx, creg_shape shape, creg_chunk chunk,
                                  ptrdiff_t c0, ptrdiff_t c1, const creg_channels *channels, int where);

    /* dropout.h: the elements (channels) [first, first + n) of the random stream. */
    void (*dropout)(const float *x, float *y, uint64_t first, ptrdiff_t n, const creg_dropout *dropout, int stream);
    void (*dropout_keep)(unsigned char *keep, uint64_t first, ptrdiff_t n, const creg_dropout *dropout);
    void (*spatial_dropout)(const float *x, float *y, uint64_t first, ptrdiff_t channels, ptrdiff_t size,
                            const creg_dropout *dropout, int stream);

    /* dropout_add_norm.h: a block of whole rows, the first element of which is element `first` of the random stream.
     * dgamma and dbeta as above. RMS norm has no beta, mean and dbeta. */
    creg_dropout_add_norm_forward *dropout_add_layer_norm_forward, *dropout_add_rms_norm_forward;
    creg_dropout_add_norm_backward *dropout_add_layer_norm_backward, *dropout_add_rms_norm_backward;

    /* wide_rows.h, forward and backward, each in this order: sums of each panel of each row, each row's statistics from
     * them, what is stored of a panel or tile. Backward starts from a row's mean and rstd. */
    void (*wide_sums)(const creg_wide *wide, ptrdiff_t panel, ptrdiff_t row);
    void (*wide_statistics)(creg_wide *wide, ptrdiff_t row);
    void (*wide_write)(const creg_wide *wide, ptrdiff_t panel, ptrdiff_t row);
    void (*wide_grad_sums)(const creg_wide *wide, ptrdiff_t panel, ptrdiff_t row);
    void (*wide_grad_means)(creg_wide *wide, ptrdiff_t row);
    void (*wide_grad_tile)(const creg_wide *wide, ptrdiff_t tile);

    /* optimizer.h: n elements; sum_squares takes at most CREG_PANEL. */
    double (*sum_squares)(const float *x, ptrdiff_t n);
    void (*scale)(const float *x, float *y, ptrdiff_t n, float factor, int stream);
    void (*sgd_step)(float *w, const float *dw, float *velocity, ptrdiff_t n, const creg_sgd *sgd);
    void (*adamw_step)(float *w, const float *dw, float *m, float *v, ptrdiff_t n, const creg_adamw *adamw);

    /* noise.h: the n-th seed derived from a seed; n uniform numbers, and elements [first, first + n) of the noise, of
     * the sample with this index. `first` is a multiple of CREG_NOISE_GROUP; a sample has less than 2^32 elements. */
    uint64_t (*derived_seed)(uint64_t seed, uint64_t n);
    void (*sample_uniform)(double *u, uint32_t index, ptrdiff_t n, const uint32_t key[2]);
    void (*gaussian_noise)(const float *x, float *y, uint32_t index, ptrdiff_t first, ptrdiff_t n, float sigma,
                           const uint32_t key[2]);

    /* images.h, jitter.h: one image each. crop_image and rotate_image cannot write over x. `other` may be NULL. */
    void (*crop_image)(const float *x, float *y, creg_image image, ptrdiff_t top, ptrdiff_t left, ptrdiff_t height,
                       ptrdiff_t width, int reflect);
    void (*flip_image)(const float *x, float *y, creg_image image, int flips);
    void (*rotate_image)(const float *x, float *y, creg_image image, double degrees, float fill);
    void (*box_image)(const float *x, const float *other, float *y, creg_image image, const int64_t box[4], float fill);
    void (*mix)(const float *x, const float *other, float *y, ptrdiff_t n, float weight);
    /* Both return whether x holds colours: values from 0 to 1, apart from rounding and NaN. y is of no use if not. */
    int (*jitter_image)(const float *x, float *y, ptrdiff_t n, int channels, int channels_last, const float factors[4]);
    int (*are_colours)(const float *x, ptrdiff_t n);
} creg_kernels;

/* The tables this CPU and its operating system can run, best first; NULL past the end. */
const creg_kernels *creg_kernels_ranked(int rank);

/* Its name, from CPUID where there is one. */
void creg_cpu_name(char name[49]);

/* Forced, for kernels to be made of small functions. A build that is instrumented may leave it to the compiler: what
 * has been inlined everywhere takes such a build minutes. */
#ifndef CREG_INLINE
#define CREG_INLINE static inline __attribute__((always_inline))
#endif

#define CREG_NOINLINE __attribute__((noinline))

#if defined(__x86_64__)
#define CREG_X86 1
#elif defined(__aarch64__)
#define CREG_ARM64 1
#endif

#endif
