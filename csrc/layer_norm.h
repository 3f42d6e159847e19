/* Layer norm (Ba, Kiros and Hinton, 2016, "Layer Normalization", arXiv:1607.06450), row by row.
 *
 * Forward    mean = sum(x) / n,  var = sum((x - mean)^2) / n,  rstd = 1 / sqrt(var + eps)
 *            x_hat = (x - mean) * rstd,  y = x_hat * gamma + beta
 * Saved      mean and rstd, float64.
 * Backward   g = dy * gamma
 *            dx = rstd * (g - mean(g) - x_hat * mean(g * x_hat))
 *            dgamma = sum over rows of dy * x_hat,  dbeta = sum over rows of dy
 *
 * Numerical note   x - mean is taken as (x - hi) - lo with hi + lo = mean in two float32: (x - hi) is exact where it
 * matters (x close to a large mean), so that y is as good at an offset of 1e6 as at 0. x * rstd - mean * rstd would
 * cancel. Forward and backward use the same split, hence the same x_hat, bit for bit.
 *
 * Speed   Beyond the last cache it is a copy: the next row is fetched while this one is written, and stores go around
 * the cache. Within the caches it is bound by additions, six an element (x - shift, two sums, hi, lo, beta): three
 * cycles for eight elements on two adders, all that a copy from the third level takes. (512, 768) therefore runs at
 * half a copy's speed there (Zen 3, AVX2, one thread: 88 us and 44). A row of a few registers is bound by all else: its
 * folds, root and division, a test for gamma and beta at every register, a mask for every tail. So short rows go eight
 * at a time: one number of each row in a vector, the masks of the tail made once, the last register laid over the one
 * before it. 33 to 200 columns, forward 1.35 to 1.75 times, backward 1.5 to 2.3 times as fast as one by one. Longer
 * rows up to 2048 are written one row behind their statistics (row_lag()), and the inner loops ask for nothing but the
 * arrays they need: on Zen 5 with AVX-512, in cycles for 16 elements in L1, forward 7.2 -> 5.7 (512 columns), 9.2
 * -> 7.7 (256), backward 10.5 -> 9.1; with AVX2 forward 13.6 -> 10.6 (256), RMS norm 5.9 -> 4.3 (512). Tried and left:
 * two halves of the accumulators one after the other, so that none is spilled (6 to 20 per cent more instructions);
 * eight rows at a time for longer rows (1.1 times slower); two rows of backward at a time, to load gamma, dgamma and
 * dbeta once for both (no difference with AVX-512, 1.1 to 1.4 times slower with AVX2), and four (1.1 times slower, and
 * 2 to 3 times beyond the cache); backward's sums a row ahead as forward's (1.1 times slower); fetching into the second
 * level instead of the first where nothing is streamed (no difference). Of what a row of 16 to 128 columns took, much
 * were masks for registers that are whole or empty, statistics that the compiler did not take as vectors
 * (short_rows_finish()) and the wait for the provisional means (layer_norm_batches()): without, it takes 0.63 to 0.85
 * of the time on Zen 5 with AVX-512 and 0.55 to 0.8 with AVX2. The folds of eight rows of forward are one transposition
 * since (no difference on Zen 5; on a Xeon 0.7 to 0.85 of the time with both, RMS norm 0.65 to 0.9 with AVX-512;
 * backward 1.0, and 1.1 with AVX2: left). Tried there and left: code for each number of registers, so that none is
 * asked about (no difference), masks for the last register instead of laying it over the one before it (0.9 to 1.03 of
 * the time), a copy of the eight rows in aligned places (0.95 with AVX-512, 1.07 with AVX2), the writing a batch behind
 * the sums too (no difference), fetching every line ahead (no difference). What bounds the backward of short rows are
 * the additions into dgamma and dbeta (without those it takes 0.75 of the time). Tried there and left: two rows at a
 * time into them (1.1 times faster in the first cache, no difference in the third, 1.1 to 1.5 times slower beyond),
 * four and eight (slower), not fetching ahead (no difference). dx is asked for WRITE_AHEAD too: 0.8 to 0.9 of the time
 * within the second cache and 0.65 to 0.8 in the third (a Xeon with 2 MiB of second cache, AVX-512 and AVX2; RMS norm
 * 0.65 to 0.9). A row ahead instead is 1.0 to 1.1 times slower from 2048 columns on; two rows at a time into the sums
 * take 0.93 of the time there and 1.05 below.
 *
 * Limits   Rows wider than the first cache, as (8, 65537), are read twice from the second: 0.42 to 0.55 of a copy's
 * bandwidth, one thread as two, and 1.1 to 1.4 times as fast as PyTorch's. Tried there and left: asking for y instead
 * of the next row (0.97 to 1.02 of the time); y at eight distances from x modulo a page (no difference); sharing the
 * columns out (wide_rows.h: no difference where there are rows for all threads). From 16 MiB on a norm of rows of a
 * thousand columns takes 0.95 to 1.1 of a copy's time, and the best peer 1.18 (RMS norm, ONNX Runtime): no more than
 * that is to be gained.
 */
#ifndef CREG_LAYER_NORM_H
#define CREG_LAYER_NORM_H

#include "reduce.h"

/* A row's centre and scale in registers. */
typedef struct {
    vf hi, lo, rstd;
} row_scale;

CREG_INLINE row_scale row_scale_of(double mean, double rstd)
{
    const float hi = (float)mean;
    return (row_scale){v_set1(hi), v_set1((float)(mean - (double)hi)), v_set1((float)rstd)};
}

CREG_INLINE vf x_minus_mean(vf x, row_scale row) { return v_sub(v_sub(x, row.hi), row.lo); }

/* y of the `left` elements from j on, of a register at most. */
CREG_INLINE void layer_norm_part(const float *x, const float *gamma, const float *beta, float *y, ptrdiff_t j,
                                 ptrdiff_t left, row_scale row, int stream)
{
    vf v = v_mul(x_minus_mean(v_load_part(x + j, left), row), row.rstd);
    if (gamma) v = v_mul(v, v_load_part(gamma + j, left));
    if (beta) v = v_add(v, v_load_part(beta + j, left));
    v_put_part(y + j, v, left, stream);
}

/* Whole groups of lanes from j on; returns where they end. The row at `next`, which may be x again, is fetched
 * meanwhile. */
CREG_INLINE ptrdiff_t layer_norm_groups(const float *x, const float *next, const float *gamma, const float *beta,
                                        float *y, ptrdiff_t j, ptrdiff_t cols, row_scale row, int stream)
{
    for (; j + CREG_LANES <= cols; j += CREG_LANES) {
        prefetch_group(next + j, stream);
        for (int k = 0; k < CREG_LANES; k += CREG_W) layer_norm_part(x, gamma, beta, y, j + k, CREG_W, row, stream);
    }
    return j;
}

CREG_INLINE void layer_norm_row(const float *x, const float *next, const float *gamma, const float *beta, float *y,
                                ptrdiff_t cols, row_scale row, int stream)
{
    const ptrdiff_t lead = stream ? unaligned_lead(y, cols) : 0;
    for (ptrdiff_t j = 0; j < lead; j += CREG_W) layer_norm_part(x, gamma, beta, y, j, lead - j, row, 0);
    ptrdiff_t j = layer_norm_groups(x, next, gamma, beta, y, lead, cols, row, stream);
    for (; j < cols; j += CREG_W) layer_norm_part(x, gamma, beta, y, j, cols - j, row, 0); /* tail */
}

/* One row of at least CREG_W elements, not streamed. The last register covers what the others leave over; of x it is
 * loaded first, since y may be x. */
CREG_INLINE void layer_norm_short_row(const float *x, const float *next, const float *gamma, const float *beta,
                                      float *y, ptrdiff_t cols, row_scale row)
{
    const ptrdiff_t last = cols - CREG_W;
    float end[CREG_W];
    v_store(end, v_load(x + last));
    ptrdiff_t j = layer_norm_groups(x, next, gamma, beta, y, 0, cols, row, 0);
    for (; j < last; j += CREG_W) layer_norm_part(x, gamma, beta, y, j, CREG_W, row, 0);
    layer_norm_part(end, AT(gamma, last), AT(beta, last), y + last, 0, CREG_W, row, 0);
}

static void layer_norm_row_exact(const float *x, const float *gamma, const float *beta, float *y, ptrdiff_t cols,
                                 double mean, double rstd)
{
    for (ptrdiff_t j = 0; j < cols; j++) {
        const double x_hat = ((double)x[j] - mean) * rstd;
        y[j] = (float)(x_hat * (gamma ? (double)gamma[j] : 1.0) + (beta ? (double)beta[j] : 0.0));
    }
}

/* A row's mean and rstd, and whether float32 does for the rest. */
typedef struct {
    double mean, rstd;
    int safe;
} row_statistics;

CREG_INLINE row_statistics layer_norm_finish(moments row, const float *x, ptrdiff_t cols, double eps)
{
    const double per_col = 1.0 / (double)cols;
    double variance_plus_eps = row.m2 * per_col + eps;
    const int safe = cols > CREG_FEW && creg_is_safe(row.m2, variance_plus_eps);
    if (!safe) {
        row = exact_moments(x, 1, 0, cols);
        variance_plus_eps = row.m2 * per_col + eps;
    }
    return (row_statistics){row.mean, 1.0 / sqrt(variance_plus_eps), safe};
}

CREG_INLINE row_statistics layer_norm_statistics(const float *x, ptrdiff_t cols, double eps)
{
    return layer_norm_finish(row_moments(x, cols), x, cols, eps);
}

CREG_INLINE void layer_norm_single_rows(const float *x, const float *fetch, const float *gamma, const float *beta,
                                        float *y, double *mean, double *rstd, ptrdiff_t rows, ptrdiff_t cols,
                                        double eps, int stream)
{
    const ptrdiff_t lag = row_lag(cols);
    row_statistics found[2];
    for (ptrdiff_t k = 0; k < rows + lag; k++) {
        if (k < rows) found[k % 2] = layer_norm_statistics(x + k * cols, cols, eps);
        if (k < lag) continue;
        const ptrdiff_t i = k - lag, at = i * cols;
        const row_statistics row = found[i % 2];
        const float *next = fetch ? fetch + at : k + 1 < rows ? x + (k + 1) * cols : x + at;
        if (!row.safe)
            layer_norm_row_exact(x + at, gamma, beta, y + at, cols, row.mean, row.rstd);
        else if (stream)
            layer_norm_row(x + at, next, gamma, beta, y + at, cols, row_scale_of(row.mean, row.rstd), 1);
        else
            layer_norm_row(x + at, next, gamma, beta, y + at, cols, row_scale_of(row.mean, row.rstd), 0);
        if (mean) mean[i] = row.mean;
        if (rstd) rstd[i] = row.rstd;
    }
}

/* What is known of CREG_BATCH short rows. */
typedef struct {
    float shift[CREG_BATCH], sum[CREG_BATCH], squares[CREG_BATCH], hi[CREG_BATCH], lo[CREG_BATCH], scale[CREG_BATCH];
    double mean[CREG_BATCH], rstd[CREG_BATCH];
    int poor; /* a row needs layer_norm_single_rows() */
} short_rows;

CREG_INLINE void short_rows_shift(const float *x, ptrdiff_t cols, const part *rest, short_rows *s)
{
    const part *first = cols < CREG_LANES ? rest : NULL;
    vf folds[CREG_BATCH];
#pragma GCC unroll 8
    for (int i = 0; i < CREG_BATCH; i++) folds[i] = group_fold(x + i * cols, first);
    v_sums(folds, s->shift);
    const float per = per_lane(first);
    for (int i = 0; i < CREG_BATCH; i++) s->shift[i] *= per;
}

CREG_INLINE void short_rows_sums(const float *x, ptrdiff_t cols, const part *rest, short_rows *s)
{
    vf sum[CREG_BATCH], squares[CREG_BATCH];
#pragma GCC unroll 8
    for (int i = 0; i < CREG_BATCH; i++) {
        const shifted ctx = {x + i * cols, v_set1(s->shift[i])};
        const vf2 folds = short_folds(shifted_terms, &ctx, cols, rest);
        sum[i] = folds.a;
        squares[i] = folds.b;
    }
    v_sums(sum, s->sum);
    v_sums(squares, s->squares);
}

/* The rest of the statistics, one number of each row in a vector. On its own, for compilers to see a loop here. */
static CREG_NOINLINE void short_rows_finish(short_rows *s, double per_col, double eps)
{
    int poor = 0;
    for (int i = 0; i < CREG_BATCH; i++) {
        const double total = s->sum[i] + 0.0f, correction = total * per_col,
                     m2 = (double)s->squares[i] - total * correction;
        const double variance_plus_eps = m2 * per_col + eps;
        poor |= (total * correction > m2) | !creg_is_safe(m2, variance_plus_eps);
        s->mean[i] = (double)s->shift[i] + correction;
        s->rstd[i] = 1.0 / sqrt(variance_plus_eps);
        s->scale[i] = (float)s->rstd[i];
    }
    split_means(s->mean, s->hi, s->lo, CREG_BATCH);
    s->poor = poor;
}

/* Batches of short rows. The shift of one is found before the sums of the one before it are, which hides the folds. */
CREG_INLINE void layer_norm_batches(const float *x, const float *fetch, const float *gamma, const float *beta, float *y,
                                    double *mean, double *rstd, ptrdiff_t batches, ptrdiff_t cols, double eps,
                                    int stream)
{
    const part rest = part_of(cols % CREG_LANES);
    const ptrdiff_t size = CREG_BATCH * cols;
    short_rows found[2];
    if (batches) short_rows_shift(x, cols, &rest, found);
    for (ptrdiff_t k = 0; k < batches; k++, x += size, y += size) {
        short_rows *s = found + k % 2;
        if (k + 1 < batches) short_rows_shift(x + size, cols, &rest, found + (k + 1) % 2);
        short_rows_sums(x, cols, &rest, s);
        short_rows_finish(s, 1.0 / (double)cols, eps);
        if (s->poor) {
            layer_norm_single_rows(x, AT(fetch, k * size), gamma, beta, y, AT(mean, k * CREG_BATCH),
                                   AT(rstd, k * CREG_BATCH), CREG_BATCH, cols, eps, stream);
            continue;
        }
        const float *next = fetch ? fetch + k * size : k + 2 < batches ? x + 2 * size : x;
        for (ptrdiff_t i = 0, at = 0; i < CREG_BATCH; i++, at += cols) {
            const row_scale row = {v_set1(s->hi[i]), v_set1(s->lo[i]), v_set1(s->scale[i])};
            if (stream)
                layer_norm_row(x + at, next + at, gamma, beta, y + at, cols, row, 1);
            else
                layer_norm_short_row(x + at, next + at, gamma, beta, y + at, cols, row);
        }
        if (mean) memcpy(mean + k * CREG_BATCH, s->mean, sizeof s->mean);
        if (rstd) memcpy(rstd + k * CREG_BATCH, s->rstd, sizeof s->rstd);
    }
}

CREG_INLINE void layer_norm_rows_of(const float *x, const float *fetch, const float *gamma, const float *beta, float *y,
                                    double *mean, double *rstd, ptrdiff_t rows, ptrdiff_t cols, double eps, int stream)
{
    const ptrdiff_t batches = is_short(cols) ? rows / CREG_BATCH : 0, done = batches * CREG_BATCH, at = done * cols;
    layer_norm_batches(x, fetch, gamma, beta, y, mean, rstd, batches, cols, eps, stream);
    layer_norm_single_rows(x + at, AT(fetch, at), gamma, beta, y + at, AT(mean, done), AT(rstd, done), rows - done,
                           cols, eps, stream);
}

/* Some rows; streamed stores are left for the caller to end. As many rows of `fetch` are fetched meanwhile, or, if it
 * is NULL, the next of x. With both gamma and beta, as mostly, by a copy of the code that does not ask for them at
 * every register. */
static void layer_norm_rows(const float *x, const float *fetch, const float *gamma, const float *beta, float *y,
                            double *mean, double *rstd, ptrdiff_t rows, ptrdiff_t cols, double eps, int stream)
{
    if (gamma && beta)
        layer_norm_rows_of(x, fetch, gamma, beta, y, mean, rstd, rows, cols, eps, stream);
    else
        layer_norm_rows_of(x, fetch, gamma, beta, y, mean, rstd, rows, cols, eps, stream);
}

static void creg_layer_norm_forward(const float *x, const float *gamma, const float *beta, float *y, double *mean,
                                    double *rstd, ptrdiff_t rows, ptrdiff_t cols, double eps, int stream)
{
    layer_norm_rows(x, NULL, gamma, beta, y, mean, rstd, rows, cols, eps, stream);
    if (stream) v_stream_end();
}

/* g and g * (x - mean). */
typedef struct {
    const float *dy, *x, *gamma;
    row_scale row;
} grad_operands;

CREG_INLINE vf2 layer_norm_grad_terms(const void *ctx, ptrdiff_t at, const vw *cut)
{
    const grad_operands *o = ctx;
    vf g = v_load_cut(o->dy + at, cut);
    if (o->gamma) g = v_mul(g, v_load_cut(o->gamma + at, cut));
    const vf d = v_cut(x_minus_mean(v_load_cut(o->x + at, cut), o->row), cut);
    return (vf2){g, v_mul(g, d)};
}

/* What dx needs of a row: mean(g) and mean(g * x_hat). */
typedef struct {
    double g, g_x_hat;
} grad_means;

CREG_INLINE grad_means layer_norm_grad_means_of(double sum_g, double sum_g_d, ptrdiff_t cols, double rstd)
{
    return (grad_means){sum_g / (double)cols, sum_g_d * rstd / (double)cols};
}

CREG_INLINE int layer_norm_grad_is_safe(grad_means means, const float *dy, const float *gamma, ptrdiff_t cols,
                                        double rstd)
{
    return cols > CREG_FEW && creg_is_safe_rstd(rstd) &&
           gradients_are_safe(fabs(means.g) + fabs(means.g_x_hat), rstd, dy, gamma, cols);
}

CREG_INLINE grad_means layer_norm_grad_means(const float *dy, const float *x, const float *gamma, ptrdiff_t cols,
                                             double mean, double rstd)
{
    const grad_operands operands = {dy, x, gamma, row_scale_of(mean, rstd)};
    double g = 0.0, g_d = 0.0;
    for (ptrdiff_t j = 0; j < cols; j += CREG_PANEL) {
        const sums s = panel_sums(layer_norm_grad_terms, &operands, j, min_size(cols - j, CREG_PANEL));
        g += (double)s.a;
        g_d += (double)s.b;
    }
    return layer_norm_grad_means_of(g, g_d, cols, rstd);
}

/* What gives dx of one row, and what dgamma and dbeta gain. */
typedef struct {
    const float *dy, *x, *gamma, *more; /* dx + more is stored, if there is more */
    float *dx, *dgamma, *dbeta;
    row_scale row;
    vf mean_g, mean_g_x_hat;
} grad_row;

/* The `left` elements from j on, of a register at most. */
CREG_INLINE void layer_norm_grad_part(const grad_row *r, ptrdiff_t j, ptrdiff_t left, int stream)
{
    const vf dv = v_load_part(r->dy + j, left);
    const vf x_hat = v_mul(x_minus_mean(v_load_part(r->x + j, left), r->row), r->row.rstd);
    vf g = dv;
    if (r->gamma) {
        g = v_mul(dv, v_load_part(r->gamma + j, left));
        v_store_part(r->dgamma + j, v_add(v_load_part(r->dgamma + j, left), v_mul(dv, x_hat)), left);
        v_store_part(r->dbeta + j, v_add(v_load_part(r->dbeta + j, left), dv), left);
    }
    vf v = v_mul(v_sub(v_sub(g, r->mean_g), v_mul(x_hat, r->mean_g_x_hat)), r->row.rstd);
    if (r->more) v = v_add(v, v_load_part(r->more + j, left));
    v_put_part(r->dx + j, v, left, stream);
}

/* The next row, `ahead` elements on, is fetched meanwhile. */
CREG_INLINE void layer_norm_grad_row_of(const grad_row *r, ptrdiff_t ahead, ptrdiff_t cols, int stream)
{
    const ptrdiff_t lead = stream ? unaligned_lead(r->dx, cols) : 0;
    for (ptrdiff_t j = 0; j < lead; j += CREG_W) layer_norm_grad_part(r, j, lead - j, 0);
    ptrdiff_t j = lead;
    for (; j + CREG_LANES <= cols; j += CREG_LANES) { /* main loop */
        prefetch_group(r->dy + ahead + j, stream);
        prefetch_group(r->x + ahead + j, stream);
        if (r->more) prefetch_group(r->more + ahead + j, stream);
        if (!stream) prefetch_group(r->dx + j + WRITE_AHEAD, 0);
        for (int k = 0; k < CREG_LANES; k += CREG_W) layer_norm_grad_part(r, j + k, CREG_W, stream);
    }
    for (; j < cols; j += CREG_W) layer_norm_grad_part(r, j, cols - j, 0); /* tail */
}

CREG_INLINE void layer_norm_grad_row(const grad_row *r, ptrdiff_t ahead, ptrdiff_t cols, int stream)
{
    if (stream)
        layer_norm_grad_row_of(r, ahead, cols, 1);
    else
        layer_norm_grad_row_of(r, ahead, cols, 0);
}

static grad_means layer_norm_grad_means_exact(const float *dy, const float *x, const float *gamma, ptrdiff_t cols,
                                              double mean, double rstd)
{
    double g = 0.0, g_x_hat = 0.0;
    for (ptrdiff_t j = 0; j < cols; j++) {
        const double term = (double)dy[j] * (gamma ? (double)gamma[j] : 1.0);
        g += term;
        g_x_hat += term * (((double)x[j] - mean) * rstd);
    }
    return (grad_means){g / (double)cols, g_x_hat / (double)cols};
}

static void layer_norm_grad_row_exact(const float *dy, const float *x, const float *gamma, const float *more, float *dx,
                                      float *dgamma, float *dbeta, ptrdiff_t cols, double mean, double rstd,
                                      grad_means means)
{
    for (ptrdiff_t j = 0; j < cols; j++) {
        const double dv = (double)dy[j], x_hat = ((double)x[j] - mean) * rstd;
        if (gamma) {
            dgamma[j] = (float)((double)dgamma[j] + dv * x_hat);
            dbeta[j] = (float)((double)dbeta[j] + dv);
        }
        dx[j] = (float)((dv * (gamma ? (double)gamma[j] : 1.0) - means.g - x_hat * means.g_x_hat) * rstd);
        if (more) dx[j] += more[j];
    }
}

CREG_INLINE void layer_norm_grad_single_rows(const float *dy, const float *x, const double *mean, const double *rstd,
                                             const float *gamma, const float *more, float *dx, float *dgamma,
                                             float *dbeta, ptrdiff_t rows, ptrdiff_t follow, ptrdiff_t cols, int stream)
{
    for (ptrdiff_t i = 0; i < rows; i++, dy += cols, x += cols, more = AT(more, cols), dx += cols) {
        const grad_means means = layer_norm_grad_means(dy, x, gamma, cols, mean[i], rstd[i]);
        if (layer_norm_grad_is_safe(means, dy, gamma, cols, rstd[i])) {
            const grad_row row = {dy,
                                  x,
                                  gamma,
                                  more,
                                  dx,
                                  dgamma,
                                  dbeta,
                                  row_scale_of(mean[i], rstd[i]),
                                  v_set1((float)means.g),
                                  v_set1((float)means.g_x_hat)};
            layer_norm_grad_row(&row, i + 1 < rows + follow ? cols : 0, cols, stream);
        } else
            layer_norm_grad_row_exact(dy, x, gamma, more, dx, dgamma, dbeta, cols, mean[i], rstd[i],
                                      layer_norm_grad_means_exact(dy, x, gamma, cols, mean[i], rstd[i]));
    }
}

/* CREG_BATCH short rows, the next ones `ahead` elements on; 0, with nothing done, if one of them needs float64. */
CREG_INLINE int layer_norm_grad_batch(const float *dy, const float *x, ptrdiff_t ahead, const double *mean,
                                      const double *rstd, const float *gamma, const float *more, float *dx,
                                      float *dgamma, float *dbeta, ptrdiff_t cols, const part *rest, int stream)
{
    float hi[CREG_BATCH], lo[CREG_BATCH], scale[CREG_BATCH], g[CREG_BATCH], g_d[CREG_BATCH];
    double means[CREG_BATCH];
    int unsafe = 0, plain = 1;
    split_means(mean, hi, lo, CREG_BATCH);
    for (int i = 0; i < CREG_BATCH; i++) {
        scale[i] = (float)rstd[i];
        unsafe |= !creg_is_safe_rstd(rstd[i]);
    }
    for (int i = 0; i < CREG_BATCH; i++) {
        const row_scale row = {v_set1(hi[i]), v_set1(lo[i]), v_set1(scale[i])};
        const grad_operands operands = {dy + i * cols, x + i * cols, gamma, row};
        const sums s = short_sums(layer_norm_grad_terms, &operands, cols, rest);
        g[i] = s.a;
        g_d[i] = s.b;
    }
    for (int i = 0; i < CREG_BATCH; i++) {
        const double mean_g = (double)g[i] / (double)cols, mean_g_x_hat = (double)g_d[i] * rstd[i] / (double)cols;
        means[i] = fabs(mean_g) + fabs(mean_g_x_hat);
        plain &= means_are_plain(means[i]);
        g[i] = (float)mean_g;
        g_d[i] = (float)mean_g_x_hat;
    }
    if (unsafe || (!plain && !batch_gradients_are_safe(means, rstd, dy, gamma, cols))) return 0;
    for (ptrdiff_t i = 0, at = 0; i < CREG_BATCH; i++, at += cols) {
        const grad_row row = {dy + at,      x + at,        gamma, AT(more, at),
                              dx + at,      dgamma,        dbeta, {v_set1(hi[i]), v_set1(lo[i]), v_set1(scale[i])},
                              v_set1(g[i]), v_set1(g_d[i])};
        layer_norm_grad_row(&row, ahead, cols, stream);
    }
    return 1;
}

CREG_INLINE void layer_norm_grad_rows_of(const float *dy, const float *x, const double *mean, const double *rstd,
                                         const float *gamma, const float *more, float *dx, float *dgamma, float *dbeta,
                                         ptrdiff_t rows, ptrdiff_t follow, ptrdiff_t cols, int stream)
{
    const part rest = part_of(cols % CREG_LANES);
    for (ptrdiff_t i = 0, n; i < rows; i += n) {
        const int batch = is_short(cols) && rows - i >= CREG_BATCH;
        const ptrdiff_t at = i * cols;
        n = batch ? CREG_BATCH : rows - i;
        const ptrdiff_t behind = rows + follow - i - n, ahead = behind >= n ? n * cols : 0;
        if (!batch || !layer_norm_grad_batch(dy + at, x + at, ahead, mean + i, rstd + i, gamma, AT(more, at), dx + at,
                                             dgamma, dbeta, cols, &rest, stream))
            layer_norm_grad_single_rows(dy + at, x + at, mean + i, rstd + i, gamma, AT(more, at), dx + at, dgamma,
                                        dbeta, n, behind, cols, stream);
    }
}

/* Some rows, `follow` more of which lie behind them: dx plus `more`, and what dgamma and dbeta gain. By copies of the
 * code that ask for gamma and `more` once. */
static void layer_norm_grad_rows(const float *dy, const float *x, const double *mean, const double *rstd,
                                 const float *gamma, const float *more, float *dx, float *dgamma, float *dbeta,
                                 ptrdiff_t rows, ptrdiff_t follow, ptrdiff_t cols, int stream)
{
    if (gamma && !more)
        layer_norm_grad_rows_of(dy, x, mean, rstd, gamma, NULL, dx, dgamma, dbeta, rows, follow, cols, stream);
    else
        layer_norm_grad_rows_of(dy, x, mean, rstd, gamma, more, dx, dgamma, dbeta, rows, follow, cols, stream);
}

static void creg_layer_norm_backward(const float *dy, const float *x, const double *mean, const double *rstd,
                                     const float *gamma, float *dx, float *dgamma, float *dbeta, ptrdiff_t rows,
                                     ptrdiff_t cols, int stream)
{
    zero_sums(dgamma, cols);
    zero_sums(dbeta, cols);
    layer_norm_grad_rows(dy, x, mean, rstd, gamma, NULL, dx, dgamma, dbeta, rows, 0, cols, stream);
    if (stream) v_stream_end();
}

#endif
