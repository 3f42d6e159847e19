/* Batch norm (Ioffe and Szegedy, 2015, "Batch Normalization", arXiv:1502.03167), channel by channel over (n, c, s). The
 * readable twin: cregkit/oracle/batch_norm.py
 *
 * Training   mean, var = moments over n and s (var biased), rstd = 1 / sqrt(var + eps)
 *            x_hat = (x - mean) * rstd, y = x_hat * gamma + beta
 * Saved      mean and rstd, float64
 * Backward   dbeta = sum(dy), dgamma = sum(dy * x_hat)
 *            dx = gamma * rstd * (dy - mean(dy) - x_hat * mean(dy * x_hat))
 * Inference  y with given mean and var, which are constants in backward: dx = gamma * rstd * dy
 * Numerics   Moments are taken about a provisional mean (reduce.h; for columns, that of the chunk's first rows) and
 *            merged in float64 in the order of the chunks. x - mean is (x - hi) - lo with mean = hi + lo.
 * Layout     Columns (s == 1): a vector holds neighbouring channels, a chunk is a block of rows. Planes (s > 1): a
 * vector holds elements of one channel. The shape alone cuts chunks; a task takes some chunks of some channels.
 */
#ifndef CREG_BATCH_NORM_H
#define CREG_BATCH_NORM_H

#include "column_sums.h"
#include "rows.h"

/* y can be finite although x_hat * gamma overflows only with a bias above this. */
#define LARGE_BIAS 0x1p+100f

enum {
    /* The number of channels whose running sums fit in L1. */
    COLUMN_TILE = 1024,
    /* The number of leading rows whose mean is the provisional mean. */
    LEADING_ROWS = 16,
    /* The number of rows that are summed in registers before the running sums are updated. */
    SUM_ROWS = 4,
    /* The number of rows that share one load of their channels' parameters. */
    APPLY_ROWS = 4,
    /* The number of vectors of a plane that an iteration writes, unless it prefetches the next group. */
    PLANE_VECS = 4,
    /* Beyond L2, rows of at most this many channels are written as one run. */
    FLAT_CHANNELS = 1024,
    /* Rows of fewer channels than this are always written as one run. */
    SHORT_ROW = 64
};

/* ---- the plan ---- */

enum {
    TASK_CHANNELS = 1024,
    /* The second pass over a channel of at most this many elements (2 MiB) hits the cache. */
    CACHED_ELEMENTS = 524288,
    /* This many tasks of whole channels keep the threads busy. */
    WHOLE_TASKS = 8,
    /* A thousand channels of this many rows fit in L2. */
    FEW_ROWS = 64,
    /* Planes of this many elements let hardware prefetchers reach full speed beyond the LLC. */
    LONG_PLANE = 2048
};

CREG_INLINE ptrdiff_t max_size(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
CREG_INLINE ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }

static creg_cut with_tasks(creg_cut cut, creg_shape shape, ptrdiff_t chunk_step, ptrdiff_t channel_step)
{
    cut.chunk_step = max_size(1, chunk_step);
    cut.channel_step = max_size(1, channel_step);
    cut.tasks = ceil_div(max_size(1, cut.chunks), cut.chunk_step) * ceil_div(shape.c, cut.channel_step);
    return cut;
}

/* Chunks of `samples` samples, or of a piece of a plane longer than CREG_PANEL, and tasks of about `task_elements`
 * elements. */
static creg_cut chunks_of(creg_shape shape, ptrdiff_t samples, ptrdiff_t task_elements)
{
    const ptrdiff_t pieces = samples == 1 ? ceil_div(shape.s, CREG_PANEL) : 1,
                    piece = pieces == 1 ? shape.s : CREG_PANEL;
    const creg_cut cut = {
        .samples = samples, .pieces = pieces, .piece = piece, .chunks = ceil_div(shape.n, samples) * pieces};
    const ptrdiff_t of_channel = max_size(1, samples * piece);
    const ptrdiff_t channels = shape.s == 1 ? TASK_CHANNELS : max_size(1, task_elements / of_channel);
    const ptrdiff_t of_chunk = of_channel * max_size(1, min_size(channels, shape.c));
    return with_tasks(cut, shape, task_elements / of_chunk, channels);
}

/* The channels of a task of whole channels. A multiple of 64 for columns, so that tasks divide rows at cache lines. */
static ptrdiff_t channels_together(creg_shape shape)
{
    if (shape.s == 1) return min_size(TASK_CHANNELS, max_size(1, CREG_TASK / (64 * max_size(1, shape.n))) * 64);
    return max_size(1, CREG_TASK / max_size(1, shape.n * shape.s));
}

/* Whether a pass of sums precedes the pass that writes: always, except for y at inference. */
CREG_INLINE int has_sums(const creg_batch_norm *b) { return b->dy || !b->given_mean; }

/* Whether tasks take whole channels through all steps. Then the second pass hits the cache. Short planes are excluded
 * beyond the LLC, because each start of a plane slows the first pass down. Columns of few rows include inference, whose
 * channels' parameters are as large as the rows. See TUNING.md. */
static int by_whole_channels(const creg_batch_norm *b)
{
    const creg_shape shape = b->shape;
    const int streams = b->where == CREG_STREAM;
    if (!b->out || b->shared || ceil_div(shape.c, channels_together(shape)) < WHOLE_TASKS) return 0;
    if (shape.s == 1) return shape.n <= FEW_ROWS && !streams;
    return has_sums(b) && shape.n * shape.s <= CACHED_ELEMENTS && (!streams || shape.s >= LONG_PLANE);
}

/* Sets `count` and the cuts. Tasks of the pass that writes take whole samples, which are contiguous in memory. */
static void cut_batch(creg_batch_norm *b)
{
    const creg_shape shape = b->shape;
    const ptrdiff_t samples = shape.s == 1 ? CREG_CHUNK_ROWS : max_size(1, CREG_PANEL / max_size(1, shape.s));
    const ptrdiff_t share = shape.n * shape.c * shape.s / 64;
    const ptrdiff_t task = min_size(4 * CREG_TASK, max_size(CREG_TASK, share));
    b->count = (double)shape.n * (double)shape.s;
    b->summed = chunks_of(shape, samples, CREG_TASK);
    b->written = chunks_of(shape, max_size(1, task / max_size(1, shape.c * shape.s)), task);
    b->channelwise = with_tasks((creg_cut){.chunks = 1}, shape, 1, TASK_CHANNELS);
}

/* Makes tasks of `channels` whole channels. */
static void cut_whole_channels(creg_batch_norm *b, ptrdiff_t channels)
{
    b->whole = 1;
    b->summed = b->written = b->channelwise = with_tasks(b->summed, b->shape, b->summed.chunks, channels);
}

static void creg_batch_norm_plan(creg_batch_norm *b)
{
    cut_batch(b);
    if (by_whole_channels(b)) cut_whole_channels(b, channels_together(b->shape));
    if (!has_sums(b)) b->summed.chunks = b->summed.tasks = 0;
}

/* `samples` samples, `elements` elements of each plane. `start` is the index of the first element in channel 0. */
typedef struct {
    ptrdiff_t start, samples, elements;
} batch_chunk;

CREG_INLINE batch_chunk chunk_at(const creg_batch_norm *b, const creg_cut *cut, ptrdiff_t k)
{
    const creg_shape shape = b->shape;
    const ptrdiff_t n = k / cut->pieces * cut->samples, s = k % cut->pieces * cut->piece;
    return (batch_chunk){n * shape.c * shape.s + s, min_size(cut->samples, shape.n - n),
                         min_size(cut->piece, shape.s - s)};
}

CREG_INLINE double count_of(batch_chunk chunk) { return (double)chunk.samples * (double)chunk.elements; }

/* The part of a task: chunks [k0, k1) of channels [c0, c1). */
typedef struct {
    ptrdiff_t k0, k1, c0, c1;
} batch_part;

CREG_INLINE batch_part part_of_task(const creg_batch_norm *b, const creg_cut *cut, ptrdiff_t task)
{
    const ptrdiff_t c = b->shape.c, blocks = ceil_div(c, cut->channel_step);
    const ptrdiff_t k0 = task / blocks * cut->chunk_step, c0 = task % blocks * cut->channel_step;
    return (batch_part){k0, min_size(k0 + cut->chunk_step, cut->chunks), c0, min_size(c0 + cut->channel_step, c)};
}

/* ---- sums of a chunk's columns: of d and d^2 about a provisional mean hi, or of dy and dy * d about hi + lo ---- */

typedef struct {
    const stored *dy, *x;
    const float *hi, *lo;
    float *a, *b;
    ptrdiff_t rows, stride, n;
    int far; /* beyond the LLC: prefetches the next rows */
} columns;

/* dy and dy * (x - mean). */
typedef struct {
    const stored *dy, *x;
    vf hi, lo;
} channel_grad_operands;

CREG_INLINE vf2 channel_grad_terms(const void *ctx, ptrdiff_t at, const vw *cut)
{
    const channel_grad_operands *o = ctx;
    const vf g = x_load_cut(o->dy + at, cut);
    const vf d = v_cut(v_sub(v_sub(x_load_cut(o->x + at, cut), o->hi), o->lo), cut);
    return (vf2){g, v_mul(g, d)};
}

CREG_INLINE vf2 add_in_pairs(vf2 *t, int n)
{
    for (int half = n / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) t[i] = add2(t[i], t[i + half]);
    return t[0];
}

/* The terms of up to SUM_ROWS rows, `stride` apart, added in pairs. */
CREG_INLINE vf2 rows_terms(terms of, const void *ctx, int rows, ptrdiff_t stride, ptrdiff_t at, const vw *cut)
{
    vf2 t[SUM_ROWS];
    for (int i = 0; i < rows; i++) t[i] = of(ctx, at + i * stride, cut);
    return add_in_pairs(t, rows);
}

CREG_INLINE void add_columns(const columns *o, ptrdiff_t i, int rows, ptrdiff_t j, ptrdiff_t left, int grad)
{
    const vw window = v_window(left), *cut = left < CREG_W ? &window : NULL;
    const stored *x = o->x + i * o->stride;
    for (int k = rows; o->far && j % CREG_LINE == 0 && k < 2 * rows; k++) {
        __builtin_prefetch(x + k * o->stride + j, 0, 2);
        if (grad) __builtin_prefetch(o->dy + (i + k) * o->stride + j, 0, 2);
    }
    const vf hi = v_load_cut(o->hi + j, cut);
    vf2 t;
    if (grad) {
        const channel_grad_operands ctx = {o->dy + i * o->stride, x, hi, v_load_cut(o->lo + j, cut)};
        t = rows_terms(channel_grad_terms, &ctx, rows, o->stride, j, cut);
    } else {
        const shifted ctx = {x, hi};
        t = rows_terms(shifted_terms, &ctx, rows, o->stride, j, cut);
    }
    v_store_part(o->a + j, v_add(v_load_part(o->a + j, left), t.a), left);
    v_store_part(o->b + j, v_add(v_load_part(o->b + j, left), t.b), left);
}

CREG_INLINE void add_rows(const columns *o, ptrdiff_t i, int rows, int grad)
{
    ptrdiff_t j = 0;
    for (; j + CREG_W <= o->n; j += CREG_W) add_columns(o, i, rows, j, CREG_W, grad); /* main loop */
    if (j < o->n) add_columns(o, i, rows, j, o->n - j, grad);                         /* tail */
}

CREG_INLINE void sum_columns(columns o, int grad)
{
    memset(o.a, 0, sizeof(float) * (size_t)o.n);
    memset(o.b, 0, sizeof(float) * (size_t)o.n);
    ptrdiff_t i = 0;
    for (; i + SUM_ROWS <= o.rows; i += SUM_ROWS) add_rows(&o, i, SUM_ROWS, grad);
    for (; !grad && i + 2 <= o.rows; i += 2) add_rows(&o, i, 2, grad);
    for (; i < o.rows; i++) add_rows(&o, i, 1, grad);
}

/* ---- moments ---- */

static void leading_means(const stored *x, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t n, float *shift)
{
    const vf count = v_set1((float)rows);
    for (ptrdiff_t j = 0; j < n; j += CREG_W) {
        vf s = v_set1(0.0f);
        for (ptrdiff_t i = 0; i < rows; i++) s = v_add(s, x_load_part(x + i * stride + j, n - j));
        v_store(shift + j, v_div(s, count));
    }
}

static void columns_moments(const stored *x, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t n, int far, double *mean,
                            double *m2)
{
    float shift[COLUMN_TILE], sum[COLUMN_TILE], squares[COLUMN_TILE];
    leading_means(x, min_size(rows, LEADING_ROWS), stride, n, shift);
    const double per_count = 1.0 / (double)rows;
    for (int refined = 0, poor = 1; poor; refined = 1) {
        const columns all = {NULL, x, shift, NULL, sum, squares, rows, stride, n, far};
        sum_columns(all, 0);
        poor = 0;
        for (ptrdiff_t j = 0; j < n; j++) {
            const double total = sum[j], correction = total * per_count,
                         spread = (double)squares[j] - total * correction;
            mean[j] = (double)shift[j] + correction;
            m2[j] = spread < 0.0 ? 0.0 : spread;
            if (!refined && total * correction > spread) {
                shift[j] = (float)mean[j];
                poor = 1;
            }
        }
    }
}

/* ---- sums of a chunk ---- */

/* The sums of n columns from channel c on, or of channel c's planes, are stored at `to`. */
static void sum_channels(const creg_batch_norm *b, batch_chunk chunk, ptrdiff_t c, ptrdiff_t n, ptrdiff_t to)
{
    const creg_channels *ch = &b->channels;
    const ptrdiff_t rows = chunk.samples, stride = b->shape.c * b->shape.s, at = chunk.start + c * b->shape.s;
    const int far = b->where == CREG_STREAM;
    const stored *dy = input_at(b->dy, at), *x = input_at(b->x, at);
    if (b->shape.s == 1 && dy)
        sum_columns(
            (columns){dy, x, ch->hi + c, ch->lo + c, b->chunk_dy + to, b->chunk_dy_d + to, rows, stride, n, far}, 1);
    else if (b->shape.s == 1)
        columns_moments(x, rows, stride, n, far, b->chunk_mean + to, b->chunk_m2 + to);
    else if (dy) {
        const channel_grad_operands ctx = {dy, x, v_set1(ch->hi[c]), v_set1(ch->lo[c])};
        const sums t = pieces_sums(channel_grad_terms, &ctx, rows, stride, chunk.elements);
        b->chunk_dy[to] = t.a;
        b->chunk_dy_d[to] = t.b;
    } else {
        const moments m = panel_moments(x, rows, stride, chunk.elements);
        b->chunk_mean[to] = m.mean;
        b->chunk_m2[to] = m.m2;
    }
}

/* sum_channels() of CREG_BATCH channels of one sample, whose short planes share horizontal reductions. */
static CREG_NOINLINE void short_planes_moments(const stored *x, ptrdiff_t s, double *mean, double *m2)
{
    const part rest = part_of(s % CREG_LANES);
    const double per_count = 1.0 / (double)s;
    short_rows found;
    int poor = 0;
    short_shift(x, s, &rest, &found);
    short_moment_sums(x, s, &rest, &found);
    for (int i = 0; i < CREG_BATCH; i++) {
        const double total = found.sum[i] + 0.0f, correction = total * per_count,
                     spread = (double)found.squares[i] - total * correction;
        mean[i] = (double)found.shift[i] + correction;
        m2[i] = spread < 0.0 ? 0.0 : spread;
        poor |= total * correction > spread;
    }
    for (int i = 0; poor && i < CREG_BATCH; i++) {
        const moments m = panel_moments(x + i * s, 1, 0, s);
        mean[i] = m.mean;
        m2[i] = m.m2;
    }
}

static CREG_NOINLINE void short_planes_grad_sums(const stored *dy, const stored *x, ptrdiff_t s, const float *hi,
                                                 const float *lo, float *sum_dy, float *sum_dy_d)
{
    const part rest = part_of(s % CREG_LANES);
    vf of_dy[CREG_BATCH], of_dy_d[CREG_BATCH];
#pragma GCC unroll 8
    for (int i = 0; i < CREG_BATCH; i++) {
        const channel_grad_operands ctx = {dy + i * s, x + i * s, v_set1(hi[i]), v_set1(lo[i])};
        const vf2 folds = short_folds(channel_grad_terms, &ctx, s, &rest);
        of_dy[i] = folds.a;
        of_dy_d[i] = folds.b;
    }
    v_sums(of_dy, sum_dy);
    v_sums(of_dy_d, sum_dy_d);
    for (int i = 0; i < CREG_BATCH; i++) sum_dy[i] += 0.0f, sum_dy_d[i] += 0.0f; /* -0 becomes 0 */
}

static void sum_short_planes(const creg_batch_norm *b, ptrdiff_t at, ptrdiff_t c, ptrdiff_t to)
{
    const creg_channels *ch = &b->channels;
    if (b->dy)
        short_planes_grad_sums(input_at(b->dy, at), input_at(b->x, at), b->shape.s, ch->hi + c, ch->lo + c,
                               b->chunk_dy + to, b->chunk_dy_d + to);
    else
        short_planes_moments(input_at(b->x, at), b->shape.s, b->chunk_mean + to, b->chunk_m2 + to);
}

static void creg_batch_norm_sums(void *batch, ptrdiff_t task)
{
    const creg_batch_norm *b = batch;
    const batch_part part = part_of_task(b, &b->summed, task);
    const int batches = b->shape.n == 1 && is_short(b->shape.s);
    for (ptrdiff_t k = part.k0; k < part.k1; k++) {
        const batch_chunk chunk = chunk_at(b, &b->summed, k);
        for (ptrdiff_t c = part.c0, step; c < part.c1; c += step) {
            const int batch = batches && c + CREG_BATCH <= part.c1;
            const ptrdiff_t to = k * b->shape.c + c;
            step = b->shape.s == 1 ? COLUMN_TILE : batch ? CREG_BATCH : 1;
            if (batch)
                sum_short_planes(b, chunk.start + c * b->shape.s, c, to);
            else
                sum_channels(b, chunk, c, min_size(step, part.c1 - c), to);
        }
    }
}

/* ---- the channels' parameters ---- */

/* moments_merge() of each of n columns. */
CREG_INLINE void merge_each(double *mean, double *m2, double merged, const double *mean_k, const double *m2_k,
                            double count, ptrdiff_t n)
{
    const double share = count / (merged + count), weight = merged * share;
    for (ptrdiff_t j = 0; j < n; j++) {
        const double delta = mean_k[j] - mean[j];
        mean[j] += delta * share;
        m2[j] += m2_k[j] + delta * delta * weight;
    }
}

/* Merges the chunks' moments: the mean, and in var the sum of squared deviations. */
static void merge_moments(const creg_batch_norm *b, ptrdiff_t c0, ptrdiff_t c1)
{
    double *mean = b->channels.mean, *m2 = b->var, merged = count_of(chunk_at(b, &b->summed, 0));
    memcpy(mean + c0, b->chunk_mean + c0, sizeof(double) * (size_t)(c1 - c0));
    memcpy(m2 + c0, b->chunk_m2 + c0, sizeof(double) * (size_t)(c1 - c0));
    for (ptrdiff_t k = 1; k < b->summed.chunks; k++) {
        const double count = count_of(chunk_at(b, &b->summed, k));
        const ptrdiff_t at = k * b->shape.c + c0;
        merge_each(mean + c0, m2 + c0, merged, b->chunk_mean + at, b->chunk_m2 + at, count, c1 - c0);
        merged += count;
    }
}

/* From the mean and, in var, the sum of squared deviations: var and rstd, in float64 from x where float32 was not
 * enough. */
static void finish_statistics(const creg_batch_norm *b, ptrdiff_t c0, ptrdiff_t c1)
{
    const creg_shape shape = b->shape;
    const double count = b->count, eps = b->eps;
    double *mean = b->channels.mean, *var = b->var, *rstd = b->rstd;
    for (ptrdiff_t c = c0; c < c1; c++) { /* a separate loop, which compilers vectorise */
        var[c] = var[c] / count;
        rstd[c] = 1.0 / sqrt(var[c] + eps);
    }
    for (ptrdiff_t c = c0; c < c1; c++) {
        b->channels.exact[c] = 0;
        if (count > CREG_FEW && creg_is_safe(var[c], var[c] + eps)) continue;
        const moments m = exact_moments(input_at(b->x, c * shape.s), shape.n, shape.c * shape.s, shape.s);
        mean[c] = m.mean;
        var[c] = m.m2 / count;
        rstd[c] = 1.0 / sqrt(var[c] + eps);
        b->channels.exact[c] = m.m2 - m.m2 == 0.0; /* a channel with NaN or Inf becomes NaN either way */
    }
}

static void given_statistics(const creg_batch_norm *b, ptrdiff_t c0, ptrdiff_t n)
{
    const float *restrict given_mean = b->given_mean + c0, *restrict var = b->given_var + c0;
    double *restrict mean = b->channels.mean + c0, *restrict rstd = b->rstd + c0;
    unsigned char *restrict exact = b->channels.exact + c0;
    const double eps = b->eps;
    for (ptrdiff_t i = 0; i < n; i++) { /* a separate loop, which compilers vectorise */
        mean[i] = given_mean[i];
        rstd[i] = 1.0 / sqrt((double)var[i] + eps);
    }
    for (ptrdiff_t i = 0; i < n; i++) /* x - mean could overflow */
        exact[i] = (fabs(mean[i]) >= 0x1p+100) & (fabs(mean[i]) < (double)INFINITY);
}

/* Whether float32 holds a to full precision. */
CREG_INLINE int fits_float(double a)
{
    return (a == 0.0) | ((fabs(a) >= 0x1p-126) & (fabs(a) < 0x1p+127)) | (a - a != 0.0);
}

/* scale = rstd * gamma, and whether the scale needs float64. */
static void set_scales(const creg_batch_norm *b, const float *restrict gamma, ptrdiff_t c0, ptrdiff_t n)
{
    const double *restrict rstd = b->rstd + c0;
    double *restrict scale64 = b->channels.scale64 + c0;
    float *restrict scale = b->channels.scale + c0;
    unsigned char *restrict exact = b->channels.exact + c0;
    for (ptrdiff_t i = 0; gamma && i < n; i++) scale64[i] = rstd[i] * (double)gamma[c0 + i];
    if (!gamma) memcpy(scale64, rstd, sizeof(double) * (size_t)n);
    for (ptrdiff_t i = 0; i < n; i++) scale[i] = (float)scale64[i];
    for (ptrdiff_t i = 0; i < n; i++) exact[i] |= (unsigned char)!fits_float(scale64[i]);
}

static void set_bias(const creg_batch_norm *b, ptrdiff_t c0, ptrdiff_t n)
{
    const float *beta = b->beta;
    float *restrict bias = b->channels.bias + c0;
    for (ptrdiff_t i = 0; i < n; i++) bias[i] = beta ? beta[c0 + i] : 0.0f;
    if (!beta || creg_are_at_most(beta + c0, LARGE_BIAS, n)) return;
    for (ptrdiff_t i = 0; i < n; i++) /* d * scale could overflow on the way to a finite y */
        b->channels.exact[c0 + i] |= fabsf(bias[i]) > LARGE_BIAS;
}

/* ---- the channels' parameters, backward ---- */

static void exact_grad_sums(const creg_batch_norm *b, ptrdiff_t c)
{
    const creg_shape shape = b->shape;
    double sum_dy = 0.0, sum_dy_d = 0.0;
    for (ptrdiff_t i = 0; i < shape.n; i++)
        for (ptrdiff_t j = 0; j < shape.s; j++) {
            const ptrdiff_t at = (i * shape.c + c) * shape.s + j;
            const double dy = (double)x_value(input_at(b->dy, at));
            sum_dy += dy;
            sum_dy_d += dy * ((double)x_value(input_at(b->x, at)) - b->channels.mean[c]);
        }
    b->channels.k1_64[c] = sum_dy;
    b->channels.k2_64[c] = sum_dy_d;
}

/* Whether all gradients of channel c are so small that products lose bits to underflow, and one is not 0. */
static CREG_NOINLINE int channel_is_small(const stored *dy, creg_shape shape, ptrdiff_t c)
{
    float largest = 0.0f;
    for (ptrdiff_t i = 0; i < shape.n; i++)
        for (ptrdiff_t j = 0; j < shape.s; j++) {
            const float size = fabsf(x_value(dy + (i * shape.c + c) * shape.s + j));
            if (size >= (float)SMALLEST_SAFE_GRADIENT) return 0;
            largest = size > largest ? size : largest;
        }
    return largest > 0.0f;
}

/* Magnitudes of a channel's means of dy and dy * x_hat, times the count. Unless they are small, they show whether
 * float32 is enough; if they are small, the gradients decide. */
CREG_INLINE double channel_means(const creg_batch_norm *b, ptrdiff_t c)
{
    return fabs(b->channels.k1_64[c]) + fabs(b->channels.k2_64[c] * b->rstd[c]);
}

/* The limit of channel_means() up to which float32 is enough. A given mean is a float32, so x - mean is accurate
 * however small; and x_hat may be large. */
CREG_INLINE double largest_means(const creg_batch_norm *b)
{
    return b->given_mean ? (double)INFINITY : b->count * LARGEST_SAFE_GRADIENT;
}

/* Whether the means of channel c show that float32 is enough for its sums. */
CREG_INLINE int channel_is_plain(const creg_batch_norm *b, ptrdiff_t c)
{
    const double means = channel_means(b, c);
    return creg_is_safe_rstd(b->rstd[c]) & (means >= b->count * SMALLEST_SAFE_GRADIENT) & (means < largest_means(b));
}

/* Whether channel c is one of zeros, such as a dead unit's. The first and the last gradient distinguish it from one
 * whose sums cancelled. */
CREG_INLINE int channel_is_zero(const creg_batch_norm *b, ptrdiff_t c)
{
    const creg_shape shape = b->shape;
    const stored *first = input_at(b->dy, c * shape.s), *last = first + (shape.n - 1) * shape.c * shape.s + shape.s - 1;
    return (channel_means(b, c) == 0.0) & creg_is_safe_rstd(b->rstd[c]) & zeros_are_plain(b->rstd[c]) &
           (x_value(first) == 0.0f) & (x_value(last) == 0.0f);
}

/* Whether float32 is clearly enough for the sums of the channels [c, end). Compilers vectorise the first loop. */
CREG_INLINE int channels_are_plain(const creg_batch_norm *b, ptrdiff_t c, ptrdiff_t end)
{
    if (b->count <= CREG_FEW) return 0; /* such batches may be empty */
    int plain = 1;
    for (ptrdiff_t i = c; i < end; i++) plain &= channel_is_plain(b, i);
    if (plain) return 1;
    for (plain = 1; plain && c < end; c++) plain = channel_is_plain(b, c) || channel_is_zero(b, c);
    return plain;
}

/* Computes the sums of those channels of [c, end) that need float64 again. */
static CREG_NOINLINE void mend_grad_sums(const creg_batch_norm *b, ptrdiff_t c, ptrdiff_t end)
{
    for (; c < end; c++) {
        const double means = channel_means(b, c);
        const int exact = b->count <= CREG_FEW || !creg_is_safe_rstd(b->rstd[c]) || !(means < largest_means(b)) ||
                          (means < b->count * SMALLEST_SAFE_GRADIENT && channel_is_small(b->dy, b->shape, c));
        if (!exact) continue;
        exact_grad_sums(b, c);
        if (!b->given_mean) b->channels.exact[c] = 1; /* at inference, dx = dy * scale does not depend on the sums */
    }
}

/* Merges the chunks' sums of dy (into k1_64) and of dy * d (into k2_64), and computes dgamma and dbeta. */
static void merge_grad_sums(const creg_batch_norm *b, ptrdiff_t c0, ptrdiff_t c1)
{
    double *sums_dy = b->channels.k1_64, *sums_dy_d = b->channels.k2_64;
    memset(sums_dy + c0, 0, sizeof(double) * (size_t)(c1 - c0));
    memset(sums_dy_d + c0, 0, sizeof(double) * (size_t)(c1 - c0));
    for (ptrdiff_t k = 0, at = c0; k < b->summed.chunks; k++, at += b->shape.c) {
        add_partial(b->chunk_dy + at, c1 - c0, sums_dy + c0);
        add_partial(b->chunk_dy_d + at, c1 - c0, sums_dy_d + c0);
    }
    for (ptrdiff_t c = c0; c < c1; c += CREG_LINE) {
        const ptrdiff_t end = min_size(c + CREG_LINE, c1);
        if (!channels_are_plain(b, c, end)) mend_grad_sums(b, c, end);
    }
    for (ptrdiff_t c = c0; b->dgamma && c < c1; c++) {
        b->dgamma[c] = (float)(sums_dy_d[c] * b->rstd[c]);
        b->dbeta[c] = (float)sums_dy[c];
    }
}

/* Whether dx of a channel needs float64. */
CREG_INLINE int grad_needs_float64(double mean_dy, double mean_dy_x_hat, double k2)
{
    return (fabs(mean_dy) + fabs(mean_dy_x_hat) > LARGEST_SAFE_GRADIENT) | !fits_float(k2);
}

/* From the sums of dy and dy * d in k1_64 and k2_64 to k1 and k2. */
static void set_grad_means(const creg_batch_norm *b, ptrdiff_t c0, ptrdiff_t n)
{
    const creg_channels *ch = &b->channels;
    const double *restrict rstd = b->rstd + c0, count = b->count;
    double *restrict k1_64 = ch->k1_64 + c0, *restrict k2_64 = ch->k2_64 + c0;
    float *restrict k1 = ch->k1 + c0, *restrict k2 = ch->k2 + c0;
    unsigned char *restrict exact = ch->exact + c0;
    int any = 0;
    for (ptrdiff_t c = 0; c < n; c++) { /* separate loops, which compilers vectorise */
        k1_64[c] /= count;
        k2_64[c] = k2_64[c] * rstd[c] / count; /* mean(dy * x_hat), for now */
        any |= grad_needs_float64(k1_64[c], k2_64[c], k2_64[c] * rstd[c]);
    }
    for (ptrdiff_t c = 0; any && c < n; c++)
        exact[c] |= (unsigned char)grad_needs_float64(k1_64[c], k2_64[c], k2_64[c] * rstd[c]);
    for (ptrdiff_t c = 0; c < n; c++) {
        k2_64[c] *= rstd[c];
        k1[c] = (float)k1_64[c];
        k2[c] = (float)k2_64[c];
    }
}

/* ---- the steps over the channels ---- */

/* Before backward's sums: their centres hi + lo, and rstd in float32. */
static void creg_batch_norm_centres(void *batch, ptrdiff_t task)
{
    const creg_batch_norm *b = batch;
    const batch_part part = part_of_task(b, &b->channelwise, task);
    const ptrdiff_t c = part.c0, n = part.c1 - c;
    if (b->given_mean) given_statistics(b, c, n);
    split_means(b->channels.mean + c, b->channels.hi + c, b->channels.lo + c, n);
    set_scales(b, NULL, c, n);
}

/* Before the pass that writes. At inference dx = dy * scale: the formula of y on dy, without mean and bias. */
static void creg_batch_norm_affine(void *batch, ptrdiff_t task)
{
    const creg_batch_norm *b = batch;
    const batch_part part = part_of_task(b, &b->channelwise, task);
    const ptrdiff_t c = part.c0, n = part.c1 - c;
    set_scales(b, b->gamma, c, n);
    if (b->dy && !b->given_mean) {
        set_grad_means(b, c, n);
        return;
    }
    if (b->dy) memset(b->channels.mean + c, 0, sizeof(double) * (size_t)n);
    split_means(b->channels.mean + c, b->channels.hi + c, b->channels.lo + c, n);
    set_bias(b, c, n);
}

/* From the chunks' sums, or the given statistics, to the channels' statistics (forward) or dgamma and dbeta (backward).
 */
static void creg_batch_norm_merge(void *batch, ptrdiff_t task)
{
    const creg_batch_norm *b = batch;
    const batch_part part = part_of_task(b, &b->channelwise, task);
    if (b->dy)
        merge_grad_sums(b, part.c0, part.c1);
    else if (b->given_mean)
        given_statistics(b, part.c0, part.c1 - part.c0);
    else {
        merge_moments(b, part.c0, part.c1);
        finish_statistics(b, part.c0, part.c1);
    }
    if (!b->shared) creg_batch_norm_affine(batch, task);
}

static void update_running(float *running, const double *found, const creg_batch_norm *b, double factor)
{
    for (ptrdiff_t c = 0; running && c < b->shape.c; c++)
        running[c] = (float)((1.0 - b->momentum) * (double)running[c] + b->momentum * (found[c] * factor));
}

static void creg_batch_norm_update(void *batch, ptrdiff_t task)
{
    (void)task;
    const creg_batch_norm *b = batch;
    update_running(b->running_mean, b->channels.mean, b, 1.0);
    update_running(b->running_var, b->var, b, b->unbiased ? b->count / (b->count - 1.0) : 1.0);
}

/* ---- the pass that writes y, or with `grad` dx ----
 *
 * Where these functions are inlined, `grad` is literal and, except for rows of columns, `stream` too. */

/* The formula of dx: batch norm's, or group norm's, where gamma differs within a group. */
enum { OF_CHANNELS = 1, OF_GROUPS };

/* dy is read only with `grad`. */
typedef struct {
    const stored *dy, *x;
    stored *out;
} tensors;

CREG_INLINE tensors tensors_at(const tensors *t, ptrdiff_t at) { return (tensors){t->dy + at, t->x + at, t->out + at}; }

/* The parameters of CREG_W channels, or of one channel in all lanes. */
typedef struct {
    vf hi, lo, scale, bias, k1, k2;
} channel;

CREG_INLINE channel load_channels(const creg_channels *ch, ptrdiff_t c, ptrdiff_t left)
{
    return (channel){v_load_part(ch->hi + c, left),   v_load_part(ch->lo + c, left), v_load_part(ch->scale + c, left),
                     v_load_part(ch->bias + c, left), v_load_part(ch->k1 + c, left), v_load_part(ch->k2 + c, left)};
}

CREG_INLINE channel spread_channel(const creg_channels *ch, ptrdiff_t c)
{
    return (channel){v_set1(ch->hi[c]),   v_set1(ch->lo[c]), v_set1(ch->scale[c]),
                     v_set1(ch->bias[c]), v_set1(ch->k1[c]), v_set1(ch->k2[c])};
}

/* Elements [at, at + left), at most a vector. */
CREG_INLINE void write_part(const tensors *t, ptrdiff_t at, ptrdiff_t left, const channel *c, int grad, int stream)
{
    vf v = v_sub(v_sub(x_load_part(t->x + at, left), c->hi), c->lo);
    if (grad == OF_GROUPS)
        v = v_sub(v_sub(v_mul(x_load_part(t->dy + at, left), c->scale), c->k1), v_mul(v, c->k2));
    else if (grad)
        v = v_mul(v_sub(v_sub(x_load_part(t->dy + at, left), c->k1), v_mul(v, c->k2)), c->scale);
    else
        v = v_add(v_mul(v, c->scale), c->bias);
    x_put_part(t->out + at, v, left, stream);
}

CREG_INLINE void write_element(const tensors *t, ptrdiff_t at, const creg_channels *ch, ptrdiff_t c, int grad)
{
    const float x = x_value(t->x + at), dy = grad ? x_value(t->dy + at) : 0.0f;
    const double d = (double)x - ch->mean[c];
    const float d32 = (x - ch->hi[c]) - ch->lo[c];
    float v;
    if (grad == OF_GROUPS && ch->exact[c])
        v = (float)((double)dy * ch->scale64[c] - ch->k1_64[c] - d * ch->k2_64[c]);
    else if (grad == OF_GROUPS)
        v = (dy * ch->scale[c] - ch->k1[c]) - d32 * ch->k2[c];
    else if (grad && ch->exact[c])
        v = (float)(((double)dy - ch->k1_64[c] - d * ch->k2_64[c]) * ch->scale64[c]);
    else if (grad)
        v = ((dy - ch->k1[c]) - d32 * ch->k2[c]) * ch->scale[c];
    else if (ch->exact[c])
        v = (float)(d * ch->scale64[c] + (double)ch->bias[c]);
    else
        v = d32 * ch->scale[c] + ch->bias[c];
    x_set(t->out + at, v);
}

/* `rows` rows of `vecs` vectors, columns [j, j + n): a cache line, or less in the tail. With non-temporal stores,
 * where `rows` is 1, prefetches the next row. */
CREG_INLINE void write_line(const tensors *t, int rows, ptrdiff_t stride, ptrdiff_t j, ptrdiff_t n, int vecs,
                            const creg_channels *ch, int grad, int stream)
{
    channel of[LINE_VECS];
    for (int k = 0; k < vecs; k++) of[k] = load_channels(ch, j + k * CREG_W, n - k * CREG_W);
    if (stream) __builtin_prefetch(t->x + rows * stride + j, 0, 2);
    if (stream && grad) __builtin_prefetch(t->dy + rows * stride + j, 0, 2);
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < vecs; k++) write_part(t, i * stride + j + k * CREG_W, n - k * CREG_W, &of[k], grad, stream);
}

CREG_INLINE void write_rows(tensors t, int rows, ptrdiff_t stride, ptrdiff_t j, ptrdiff_t end, const creg_channels *ch,
                            int grad, int stream)
{
    for (; j + CREG_LINE <= end; j += CREG_LINE) /* main loop */
        write_line(&t, rows, stride, j, CREG_LINE, LINE_VECS, ch, grad, stream);
    for (; j < end; j += CREG_W) write_line(&t, rows, stride, j, end - j, 1, ch, grad, 0); /* tail */
}

CREG_INLINE void prefetch_inputs(const tensors *t, ptrdiff_t j, int grad, int stream)
{
    prefetch_ahead(t->x + j, stream);
    if (grad) prefetch_ahead(t->dy + j, stream);
}

CREG_INLINE void prefetch_next(const tensors *t, ptrdiff_t j, ptrdiff_t ahead, ptrdiff_t next, int grad, int stream)
{
    prefetch_inputs(t, j, grad, stream);
    if (next) __builtin_prefetch(t->x + j + next, 0, 2);
    if (next && grad) __builtin_prefetch(t->dy + j + next, 0, 2);
    if (!stream) __builtin_prefetch(t->out + j + ahead);
}

/* Rows of all c channels as one run of elements. Vectors cross the ends of rows, which saves tails of short rows, and
 * non-temporal stores fill cache lines in order: alternating between rows would flush write-combining buffers before
 * they are full. In L2, APPLY_ROWS rows at a time are faster, because they share each load of the parameters. The flat
 * parameters repeat the first ones after the last, so that a vector of them may start at any channel. */
CREG_INLINE void flat_run(const tensors *t, ptrdiff_t j, ptrdiff_t end, ptrdiff_t c, const creg_channels *flat,
                          int grad, int stream)
{
    const ptrdiff_t step = CREG_W % c;
    ptrdiff_t k = j % c;
    for (; j + CREG_W <= end; j += CREG_W) { /* main loop */
        const channel of = load_channels(flat, k, CREG_W);
        prefetch_next(t, j, WRITE_AHEAD, 0, grad, stream);
        write_part(t, j, CREG_W, &of, grad, stream);
        k += step;
        if (k >= c) k -= c;
    }
    if (j == end) return;
    const channel of = load_channels(flat, k, CREG_W); /* tail */
    write_part(t, j, end - j, &of, grad, 0);
}

CREG_INLINE void repeat_channels(float *to, const float *from, ptrdiff_t c)
{
    memcpy(to, from, sizeof(float) * (size_t)c);
    for (ptrdiff_t k = 0; k < CREG_LINE; k++) to[c + k] = to[k];
}

CREG_INLINE void write_flat(tensors t, ptrdiff_t n, ptrdiff_t c, const creg_channels *ch, int grad, int stream)
{
    float buffer[6][FLAT_CHANNELS + CREG_LINE];
    const creg_channels flat = {
        .hi = buffer[0], .lo = buffer[1], .scale = buffer[2], .bias = buffer[3], .k1 = buffer[4], .k2 = buffer[5]};
    repeat_channels(flat.hi, ch->hi, c);
    repeat_channels(flat.lo, ch->lo, c);
    repeat_channels(flat.scale, ch->scale, c);
    repeat_channels(grad ? flat.k1 : flat.bias, grad ? ch->k1 : ch->bias, c);
    if (grad) repeat_channels(flat.k2, ch->k2, c);
    const ptrdiff_t lead = stream ? unaligned_lead(t.out, n) : 0, end = stream ? lead + whole_lines(n - lead) : 0;
    if (lead) flat_run(&t, 0, lead, c, &flat, grad, 0);
    if (stream) flat_run(&t, lead, end, c, &flat, grad, 1);
    flat_run(&t, end, n, c, &flat, grad, 0);
}

CREG_INLINE int is_flat(ptrdiff_t c0, ptrdiff_t c1, ptrdiff_t c, int where)
{
    return c0 == 0 && c1 == c && c <= FLAT_CHANNELS && (where != CREG_NEAR || c < SHORT_ROW);
}

CREG_INLINE int any_exact(const creg_channels *ch, ptrdiff_t c0, ptrdiff_t c1)
{
    return memchr(ch->exact + c0, 1, (size_t)(c1 - c0)) != NULL;
}

/* Rows of the channels [c0, c1). */
CREG_INLINE void write_columns(tensors t, ptrdiff_t rows, const creg_batch_norm *b, ptrdiff_t c0, ptrdiff_t c1,
                               int grad)
{
    const creg_channels channels = b->channels, *ch = &channels; /* a copy: stores cannot alias it */
    const ptrdiff_t stride = b->shape.c;
    const int where = b->where, stream = where == CREG_STREAM;
    ptrdiff_t i = 0;
    if (any_exact(ch, c0, c1)) {
        for (; i < rows; i++)
            for (ptrdiff_t c = c0; c < c1; c++) write_element(&t, i * stride + c, ch, c, grad);
        return;
    }
    if (is_flat(c0, c1, stride, where)) {
        write_flat(t, rows * stride, stride, ch, grad, stream);
        return;
    }
    for (; where == CREG_NEAR && i + APPLY_ROWS <= rows; i += APPLY_ROWS)
        write_rows(tensors_at(&t, i * stride), APPLY_ROWS, stride, c0, c1, ch, grad, 0);
    for (; i < rows; i++) {
        const tensors row = tensors_at(&t, i * stride);
        const ptrdiff_t lead = stream ? unaligned_lead(row.out + c0, c1 - c0) : 0;
        write_rows(row, 1, stride, c0, c0 + lead, ch, grad, 0);
        write_rows(row, 1, stride, c0 + lead, c1, ch, grad, stream);
    }
}

CREG_INLINE void plane_run(const tensors *t, ptrdiff_t j, ptrdiff_t end, ptrdiff_t ahead, ptrdiff_t next,
                           const channel *of, int grad, int stream)
{
    for (; !next && j + PLANE_VECS * CREG_W <= end; j += PLANE_VECS * CREG_W) /* main loop */
        for (int k = 0; k < PLANE_VECS; k++) {
            prefetch_inputs(t, j + k * CREG_W, grad, stream);
            write_part(t, j + k * CREG_W, CREG_W, of, grad, stream);
        }
    for (; j + CREG_W <= end; j += CREG_W) {
        prefetch_next(t, j, ahead, next, grad, stream);
        write_part(t, j, CREG_W, of, grad, stream);
    }
    if (j < end) write_part(t, j, end - j, of, grad, 0); /* tail */
}

CREG_INLINE void write_plane(tensors t, ptrdiff_t n, ptrdiff_t ahead, ptrdiff_t next, const creg_channels *ch,
                             ptrdiff_t c, int grad, int stream)
{
    if (ch->exact[c]) {
        for (ptrdiff_t j = 0; j < n; j++) write_element(&t, j, ch, c, grad);
        return;
    }
    const channel of = spread_channel(ch, c);
    const ptrdiff_t lead = stream ? unaligned_lead(t.out, n) : 0, end = stream ? lead + whole_lines(n - lead) : 0;
    if (lead) plane_run(&t, 0, lead, ahead, next, &of, grad, 0);
    if (stream) plane_run(&t, lead, end, ahead, next, &of, grad, 1);
    plane_run(&t, end, n, ahead, next, &of, grad, 0);
}

CREG_INLINE void write_chunk(const tensors *t, const creg_batch_norm *b, batch_chunk chunk, ptrdiff_t c0, ptrdiff_t c1,
                             int grad)
{
    const creg_channels channels = b->channels; /* a copy: stores cannot alias it */
    const creg_shape shape = b->shape;
    const ptrdiff_t n = chunk.elements;
    if (shape.s == 1) {
        write_columns(tensors_at(t, chunk.start), chunk.samples, b, c0, c1, grad);
        return;
    }
    /* The distance of the prefetch for write: within the sample's channels, or to the next sample. */
    const ptrdiff_t ahead = (c1 - c0) * n > WRITE_AHEAD ? WRITE_AHEAD : shape.c * shape.s;
    for (ptrdiff_t i = 0; i < chunk.samples; i++)
        for (ptrdiff_t c = c0; c < c1; c++)
            write_plane(tensors_at(t, chunk.start + (i * shape.c + c) * shape.s), n, ahead, b->next, &channels, c, grad,
                        b->where == CREG_STREAM);
}

CREG_INLINE void write_task(tensors t, const creg_batch_norm *b, ptrdiff_t task, int grad)
{
    const batch_part part = part_of_task(b, &b->written, task);
    for (ptrdiff_t k = part.k0; k < part.k1; k++)
        write_chunk(&t, b, chunk_at(b, &b->written, k), part.c0, part.c1, grad);
    if (b->where == CREG_STREAM) v_stream_end();
}

/* y, or at inference dx from dy. */
static CREG_NOINLINE void write_affine(const void *x, const creg_batch_norm *b, ptrdiff_t task)
{
    write_task((tensors){x, x, b->out}, b, task, 0);
}

/* dx in training. */
static CREG_NOINLINE void write_gradient(const creg_batch_norm *b, ptrdiff_t task)
{
    write_task((tensors){b->dy, b->x, b->out}, b, task, OF_CHANNELS);
}

static void creg_batch_norm_apply(void *batch, ptrdiff_t task)
{
    const creg_batch_norm *b = batch;
    if (b->dy && !b->given_mean)
        write_gradient(b, task);
    else
        write_affine(b->dy ? b->dy : b->x, b, task);
}

static void creg_batch_norm_whole(void *batch, ptrdiff_t task)
{
    const creg_batch_norm *b = batch;
    if (b->dy) creg_batch_norm_centres(batch, task);
    creg_batch_norm_sums(batch, task);
    creg_batch_norm_merge(batch, task);
    creg_batch_norm_apply(batch, task);
}

#endif
