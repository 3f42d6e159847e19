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
 * before it. 33 to 200 columns, forward 1.35 to 1.75 times, backward 1.5 to 2.3 times as fast as one by one. Tried and
 * left: two halves of the accumulators one after the other, so that none is spilled (6 to 20 per cent more
 * instructions); leaving the loop at the tail instead of testing each register (the compiler no longer unrolls it: up
 * to a third more); eight rows at a time for longer rows (1.1 times slower); four rows of backward at a time, to load
 * gamma, dgamma and dbeta once for all (1.1 times slower, and 2 to 3 times beyond the cache); fetching into the second
 * level instead of the first (no difference).
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

CREG_INLINE vf layer_norm_of(vf x, const float *gamma, const float *beta, ptrdiff_t left, row_scale row)
{
    vf v = v_mul(x_minus_mean(x, row), row.rstd);
    if (gamma) v = v_mul(v, v_load_part(gamma, left));
    if (beta) v = v_add(v, v_load_part(beta, left));
    return v;
}

CREG_INLINE void layer_norm_group(const float *x, const float *gamma, const float *beta, float *y, ptrdiff_t n,
                                  row_scale row, int stream)
{
    for (int k = 0; k < CREG_VECS; k++) {
        const ptrdiff_t j = k * CREG_W, left = n - j;
        if (left <= 0) continue;
        v_put_part(y + j, layer_norm_of(v_load_part(x + j, left), AT(gamma, j), AT(beta, j), left, row), left, stream);
    }
}

/* One row; that at `next`, which may be x again, is fetched meanwhile. */
CREG_INLINE void layer_norm_row(const float *x, const float *next, const float *gamma, const float *beta, float *y,
                                ptrdiff_t cols, row_scale row, int stream)
{
    ptrdiff_t j = stream ? unaligned_lead(y, cols) : 0;
    if (j) layer_norm_group(x, gamma, beta, y, j, row, 0);
    for (; j + CREG_LANES <= cols; j += CREG_LANES) { /* main loop */
        prefetch_group(next + j);
        layer_norm_group(x + j, AT(gamma, j), AT(beta, j), y + j, CREG_LANES, row, stream);
    }
    if (j < cols) layer_norm_group(x + j, AT(gamma, j), AT(beta, j), y + j, cols - j, row, 0); /* tail */
}

/* One row of at least CREG_W elements, not streamed. The last register covers what the others leave over; of x it is
 * loaded first, since y may be x. */
CREG_INLINE void layer_norm_short_row(const float *x, const float *next, const float *gamma, const float *beta,
                                      float *y, ptrdiff_t cols, row_scale row)
{
    const ptrdiff_t last = cols - CREG_W;
    const vf end = v_load(x + last);
    ptrdiff_t j = 0;
    for (; j + CREG_LANES <= cols; j += CREG_LANES) { /* main loop */
        prefetch_group(next + j);
        layer_norm_group(x + j, AT(gamma, j), AT(beta, j), y + j, CREG_LANES, row, 0);
    }
    for (; j < last; j += CREG_W) v_store(y + j, layer_norm_of(v_load(x + j), AT(gamma, j), AT(beta, j), CREG_W, row));
    v_store(y + last, layer_norm_of(end, AT(gamma, last), AT(beta, last), CREG_W, row));
}

static void layer_norm_row_exact(const float *x, const float *gamma, const float *beta, float *y, ptrdiff_t cols,
                                 double mean, double rstd)
{
    for (ptrdiff_t j = 0; j < cols; j++) {
        const double x_hat = ((double)x[j] - mean) * rstd;
        y[j] = (float)(x_hat * (gamma ? (double)gamma[j] : 1.0) + (beta ? (double)beta[j] : 0.0));
    }
}

CREG_INLINE void layer_norm_single_rows(const float *x, const float *fetch, const float *gamma, const float *beta,
                                        float *y, double *mean, double *rstd, ptrdiff_t rows, ptrdiff_t cols,
                                        double eps, int stream)
{
    const double per_col = 1.0 / (double)cols;
    for (ptrdiff_t i = 0; i < rows; i++, x += cols, y += cols) {
        const float *next = fetch ? fetch + i * cols : i + 1 < rows ? x + cols : x;
        moments row = row_moments(x, cols);
        double variance_plus_eps = row.m2 * per_col + eps;
        const int safe = cols > CREG_FEW && creg_is_safe(row.m2, variance_plus_eps);
        if (!safe) {
            row = exact_moments(x, 1, 0, cols);
            variance_plus_eps = row.m2 * per_col + eps;
        }
        const double row_rstd = 1.0 / sqrt(variance_plus_eps);
        if (safe)
            layer_norm_row(x, next, gamma, beta, y, cols, row_scale_of(row.mean, row_rstd), stream);
        else
            layer_norm_row_exact(x, gamma, beta, y, cols, row.mean, row_rstd);
        if (mean) mean[i] = row.mean;
        if (rstd) rstd[i] = row_rstd;
    }
}

/* CREG_BATCH short rows, whose statistics end in vectors: one number of each row. 0 if a row needs
 * layer_norm_single_rows. */
CREG_INLINE int layer_norm_batch(const float *x, const float *next, const float *gamma, const float *beta, float *y,
                                 double *mean, double *rstd, ptrdiff_t cols, const part *rest, double eps, int stream)
{
    float shift[CREG_BATCH], sum[CREG_BATCH], squares[CREG_BATCH], hi[CREG_BATCH], lo[CREG_BATCH], scale[CREG_BATCH];
    double centre[CREG_BATCH], deviation[CREG_BATCH];
    const double per_col = 1.0 / (double)cols;
    for (int i = 0; i < CREG_BATCH; i++) {
        shift[i] = group_mean(x + i * cols, cols < CREG_LANES ? rest : NULL);
        const shifted ctx = {x + i * cols, v_set1(shift[i])};
        const sums s = short_sums(shifted_terms, &ctx, cols, rest);
        sum[i] = s.a;
        squares[i] = s.b;
    }
    int poor = 0;
    for (int i = 0; i < CREG_BATCH; i++) {
        const double total = sum[i], correction = total * per_col, m2 = (double)squares[i] - total * correction;
        const double variance_plus_eps = m2 * per_col + eps;
        poor |= (total * correction > m2) | !creg_is_safe(m2, variance_plus_eps);
        centre[i] = (double)shift[i] + correction;
        deviation[i] = 1.0 / sqrt(variance_plus_eps);
        hi[i] = (float)centre[i];
        lo[i] = (float)(centre[i] - (double)hi[i]);
        scale[i] = (float)deviation[i];
    }
    if (poor) return 0;
    for (ptrdiff_t i = 0, at = 0; i < CREG_BATCH; i++, at += cols) {
        const row_scale row = {v_set1(hi[i]), v_set1(lo[i]), v_set1(scale[i])};
        if (stream)
            layer_norm_row(x + at, next + at, gamma, beta, y + at, cols, row, 1);
        else
            layer_norm_short_row(x + at, next + at, gamma, beta, y + at, cols, row);
    }
    if (mean) memcpy(mean, centre, sizeof centre);
    if (rstd) memcpy(rstd, deviation, sizeof deviation);
    return 1;
}

CREG_INLINE void layer_norm_rows_of(const float *x, const float *fetch, const float *gamma, const float *beta, float *y,
                                    double *mean, double *rstd, ptrdiff_t rows, ptrdiff_t cols, double eps, int stream)
{
    const part rest = part_of(cols % CREG_LANES);
    for (ptrdiff_t i = 0, n; i < rows; i += n) {
        const int batch = is_short(cols) && rows - i >= CREG_BATCH;
        const ptrdiff_t at = i * cols;
        n = batch ? CREG_BATCH : rows - i;
        const float *next = fetch ? fetch + at : i + 2 * n <= rows ? x + at + n * cols : x + at;
        if (!batch ||
            !layer_norm_batch(x + at, next, gamma, beta, y + at, AT(mean, i), AT(rstd, i), cols, &rest, eps, stream))
            layer_norm_single_rows(x + at, AT(fetch, at), gamma, beta, y + at, AT(mean, i), AT(rstd, i), n, cols, eps,
                                   stream);
    }
}

/* Some rows; streamed stores are left for the caller to end. As many rows of `fetch` are fetched meanwhile, or, if it
 * is NULL, the next of x. With both gamma and beta, as mostly, by a copy of the code
 * that does not ask for them at every register. */
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
    return (grad_means){g / (double)cols, g_d * rstd / (double)cols};
}

/* A row's centre and scale, mean(g) and mean(g * x_hat). */
typedef struct {
    row_scale row;
    vf mean_g, mean_g_x_hat;
} grad_scale;

/* dx of `left` elements (of a register at most), plus `more` if there is any, and what dgamma and dbeta gain. */
CREG_INLINE void layer_norm_grad_part(const float *dy, const float *x, const float *gamma, const float *more, float *dx,
                                      float *dgamma, float *dbeta, ptrdiff_t left, grad_scale s, int stream)
{
    const vf dv = v_load_part(dy, left);
    const vf x_hat = v_mul(x_minus_mean(v_load_part(x, left), s.row), s.row.rstd);
    vf g = dv;
    if (gamma) {
        g = v_mul(dv, v_load_part(gamma, left));
        v_store_part(dgamma, v_add(v_load_part(dgamma, left), v_mul(dv, x_hat)), left);
        v_store_part(dbeta, v_add(v_load_part(dbeta, left), dv), left);
    }
    vf v = v_mul(v_sub(v_sub(g, s.mean_g), v_mul(x_hat, s.mean_g_x_hat)), s.row.rstd);
    if (more) v = v_add(v, v_load_part(more, left));
    v_put_part(dx, v, left, stream);
}

CREG_INLINE void layer_norm_grad_group(const float *dy, const float *x, const float *gamma, const float *more,
                                       float *dx, float *dgamma, float *dbeta, ptrdiff_t n, grad_scale s, int stream)
{
    for (ptrdiff_t j = 0; j < CREG_LANES; j += CREG_W)
        if (j < n)
            layer_norm_grad_part(dy + j, x + j, AT(gamma, j), AT(more, j), dx + j, AT(dgamma, j), AT(dbeta, j), n - j,
                                 s, stream);
}

/* dx of one row, plus `more` if there is any, and its part of dgamma and dbeta; the next row, `ahead` elements on, is
 * fetched meanwhile. */
CREG_INLINE void layer_norm_grad_row(const float *dy, const float *x, ptrdiff_t ahead, const float *gamma,
                                     const float *more, float *dx, float *dgamma, float *dbeta, ptrdiff_t cols,
                                     grad_scale s, int stream)
{
    ptrdiff_t j = stream ? unaligned_lead(dx, cols) : 0;
    if (j) layer_norm_grad_group(dy, x, gamma, more, dx, dgamma, dbeta, j, s, 0);
    for (; j + CREG_LANES <= cols; j += CREG_LANES) { /* main loop */
        prefetch_group(dy + ahead + j);
        prefetch_group(x + ahead + j);
        if (more) prefetch_group(more + ahead + j);
        layer_norm_grad_group(dy + j, x + j, AT(gamma, j), AT(more, j), dx + j, AT(dgamma, j), AT(dbeta, j), CREG_LANES,
                              s, stream);
    }
    for (; j < cols; j += CREG_W) /* tail */
        layer_norm_grad_part(dy + j, x + j, AT(gamma, j), AT(more, j), dx + j, AT(dgamma, j), AT(dbeta, j), cols - j, s,
                             0);
}

static void layer_norm_grad_row_exact(const float *dy, const float *x, const float *gamma, const float *more, float *dx,
                                      float *dgamma, float *dbeta, ptrdiff_t cols, double mean, double rstd)
{
    double sum_g = 0.0, sum_g_x_hat = 0.0;
    for (ptrdiff_t j = 0; j < cols; j++) {
        const double g = (double)dy[j] * (gamma ? (double)gamma[j] : 1.0);
        sum_g += g;
        sum_g_x_hat += g * (((double)x[j] - mean) * rstd);
    }
    const double mean_g = sum_g / (double)cols, mean_g_x_hat = sum_g_x_hat / (double)cols;
    for (ptrdiff_t j = 0; j < cols; j++) {
        const double dv = (double)dy[j], x_hat = ((double)x[j] - mean) * rstd;
        if (gamma) {
            dgamma[j] = (float)((double)dgamma[j] + dv * x_hat);
            dbeta[j] = (float)((double)dbeta[j] + dv);
        }
        dx[j] = (float)((dv * (gamma ? (double)gamma[j] : 1.0) - mean_g - x_hat * mean_g_x_hat) * rstd);
        if (more) dx[j] += more[j];
    }
}

CREG_INLINE void layer_norm_grad_single_rows(const float *dy, const float *x, const double *mean, const double *rstd,
                                             const float *gamma, const float *more, float *dx, float *dgamma,
                                             float *dbeta, ptrdiff_t rows, ptrdiff_t follow, ptrdiff_t cols, int stream)
{
    for (ptrdiff_t i = 0; i < rows; i++, dy += cols, x += cols, more = AT(more, cols), dx += cols) {
        const grad_means means = layer_norm_grad_means(dy, x, gamma, cols, mean[i], rstd[i]);
        const double check = means.g + means.g_x_hat;
        if (cols > CREG_FEW && creg_is_safe_rstd(rstd[i]) && check - check == 0.0) {
            const grad_scale s = {row_scale_of(mean[i], rstd[i]), v_set1((float)means.g), v_set1((float)means.g_x_hat)};
            layer_norm_grad_row(dy, x, i + 1 < rows + follow ? cols : 0, gamma, more, dx, dgamma, dbeta, cols, s,
                                stream);
        } else
            layer_norm_grad_row_exact(dy, x, gamma, more, dx, dgamma, dbeta, cols, mean[i], rstd[i]);
    }
}

/* CREG_BATCH short rows, the next ones `ahead` elements on; 0, with nothing done, if one of them needs float64. */
CREG_INLINE int layer_norm_grad_batch(const float *dy, const float *x, ptrdiff_t ahead, const double *mean,
                                      const double *rstd, const float *gamma, const float *more, float *dx,
                                      float *dgamma, float *dbeta, ptrdiff_t cols, const part *rest, int stream)
{
    float hi[CREG_BATCH], lo[CREG_BATCH], scale[CREG_BATCH], g[CREG_BATCH], g_d[CREG_BATCH];
    int unsafe = 0;
    for (int i = 0; i < CREG_BATCH; i++) {
        hi[i] = (float)mean[i];
        lo[i] = (float)(mean[i] - (double)hi[i]);
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
        const double check = mean_g + mean_g_x_hat;
        unsafe |= !(check - check == 0.0);
        g[i] = (float)mean_g;
        g_d[i] = (float)mean_g_x_hat;
    }
    if (unsafe) return 0;
    for (ptrdiff_t i = 0, at = 0; i < CREG_BATCH; i++, at += cols) {
        const row_scale row = {v_set1(hi[i]), v_set1(lo[i]), v_set1(scale[i])};
        layer_norm_grad_row(dy + at, x + at, ahead, gamma, AT(more, at), dx + at, dgamma, dbeta, cols,
                            (grad_scale){row, v_set1(g[i]), v_set1(g_d[i])}, stream);
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
