/* RMS norm (Zhang and Sennrich, 2019, "Root Mean Square Layer Normalization", arXiv:1910.07467), row by row.
 *
 * Forward    rstd = 1 / sqrt(sum(x^2) / n + eps),  x_hat = x * rstd,  y = x_hat * gamma
 * Saved      rstd, float64.
 * Backward   g = dy * gamma
 *            dx = rstd * (g - x_hat * mean(g * x_hat))
 *            dgamma = sum over rows of dy * x_hat
 */
#ifndef CREG_RMS_NORM_H
#define CREG_RMS_NORM_H

#include "reduce.h"

/* y of the `left` elements from j on, of a register at most. */
CREG_INLINE void rms_norm_part(const float *x, const float *gamma, float *y, ptrdiff_t j, ptrdiff_t left, vf rstd,
                               int stream)
{
    vf v = v_mul(v_load_part(x + j, left), rstd);
    if (gamma) v = v_mul(v, v_load_part(gamma + j, left));
    v_put_part(y + j, v, left, stream);
}

/* See layer_norm_groups(). */
CREG_INLINE ptrdiff_t rms_norm_groups(const float *x, const float *next, const float *gamma, float *y, ptrdiff_t j,
                                      ptrdiff_t cols, vf rstd, int stream)
{
    for (; j + CREG_LANES <= cols; j += CREG_LANES) {
        prefetch_group(next + j, stream);
        for (int k = 0; k < CREG_LANES; k += CREG_W) rms_norm_part(x, gamma, y, j + k, CREG_W, rstd, stream);
    }
    return j;
}

CREG_INLINE void rms_norm_row(const float *x, const float *next, const float *gamma, float *y, ptrdiff_t cols, vf rstd,
                              int stream)
{
    const ptrdiff_t lead = stream ? unaligned_lead(y, cols) : 0;
    for (ptrdiff_t j = 0; j < lead; j += CREG_W) rms_norm_part(x, gamma, y, j, lead - j, rstd, 0);
    ptrdiff_t j = rms_norm_groups(x, next, gamma, y, lead, cols, rstd, stream);
    for (; j < cols; j += CREG_W) rms_norm_part(x, gamma, y, j, cols - j, rstd, 0); /* tail */
}

/* One row of at least CREG_W elements, not streamed: see layer_norm_short_row(). */
CREG_INLINE void rms_norm_short_row(const float *x, const float *next, const float *gamma, float *y, ptrdiff_t cols,
                                    vf rstd)
{
    const ptrdiff_t last = cols - CREG_W;
    float end[CREG_W];
    v_store(end, v_load(x + last));
    ptrdiff_t j = rms_norm_groups(x, next, gamma, y, 0, cols, rstd, 0);
    for (; j < last; j += CREG_W) rms_norm_part(x, gamma, y, j, CREG_W, rstd, 0);
    rms_norm_part(end, AT(gamma, last), y + last, 0, CREG_W, rstd, 0);
}

static void rms_norm_row_exact(const float *x, const float *gamma, float *y, ptrdiff_t cols, double rstd)
{
    for (ptrdiff_t j = 0; j < cols; j++) y[j] = (float)((double)x[j] * rstd * (gamma ? (double)gamma[j] : 1.0));
}

/* A row's rstd, and whether float32 does for the rest. */
typedef struct {
    double rstd;
    int safe;
} rms_statistics;

CREG_INLINE rms_statistics rms_norm_finish(double squares, const float *x, ptrdiff_t cols, double eps)
{
    const double per_col = 1.0 / (double)cols;
    const int safe = cols > CREG_FEW && creg_is_safe(squares, squares * per_col + eps);
    if (!safe) squares = exact_sum(x, 1, 0, cols, 0.0, 1);
    return (rms_statistics){1.0 / sqrt(squares * per_col + eps), safe};
}

CREG_INLINE rms_statistics rms_norm_statistics(const float *x, ptrdiff_t cols, double eps)
{
    return rms_norm_finish(row_squares(x, cols), x, cols, eps);
}

CREG_INLINE void rms_norm_single_rows(const float *x, const float *fetch, const float *gamma, float *y, double *rstd,
                                      ptrdiff_t rows, ptrdiff_t cols, double eps, int stream)
{
    const ptrdiff_t lag = row_lag(cols);
    rms_statistics found[2];
    for (ptrdiff_t k = 0; k < rows + lag; k++) {
        if (k < rows) found[k % 2] = rms_norm_statistics(x + k * cols, cols, eps);
        if (k < lag) continue;
        const ptrdiff_t i = k - lag, at = i * cols;
        const rms_statistics row = found[i % 2];
        const float *next = fetch ? fetch + at : k + 1 < rows ? x + (k + 1) * cols : x + at;
        if (!row.safe)
            rms_norm_row_exact(x + at, gamma, y + at, cols, row.rstd);
        else if (stream)
            rms_norm_row(x + at, next, gamma, y + at, cols, v_set1((float)row.rstd), 1);
        else
            rms_norm_row(x + at, next, gamma, y + at, cols, v_set1((float)row.rstd), 0);
        if (rstd) rstd[i] = row.rstd;
    }
}

/* rstd of CREG_BATCH short rows from their sums of squares; whether one is not safe. See short_rows_finish(). */
static CREG_NOINLINE int short_squares_finish(const float *squares, double per_col, double eps, double *rstd,
                                              float *scale)
{
    int unsafe = 0;
    for (int i = 0; i < CREG_BATCH; i++) {
        const double total = squares[i], mean_plus_eps = total * per_col + eps;
        unsafe |= !creg_is_safe(total, mean_plus_eps);
        rstd[i] = 1.0 / sqrt(mean_plus_eps);
        scale[i] = (float)rstd[i];
    }
    return unsafe;
}

/* CREG_BATCH short rows; 0, with nothing done, if one of them is not safe. */
CREG_INLINE int rms_norm_batch(const float *x, const float *next, const float *gamma, float *y, double *rstd,
                               ptrdiff_t cols, const part *rest, double eps, int stream)
{
    float squares[CREG_BATCH], scale[CREG_BATCH];
    double inverse[CREG_BATCH];
    vf folds[CREG_BATCH];
#pragma GCC unroll 8
    for (int i = 0; i < CREG_BATCH; i++) folds[i] = short_folds(square_terms, x + i * cols, cols, rest).a;
    v_sums(folds, squares);
    if (short_squares_finish(squares, 1.0 / (double)cols, eps, inverse, scale)) return 0;
    for (ptrdiff_t i = 0, at = 0; i < CREG_BATCH; i++, at += cols)
        if (stream)
            rms_norm_row(x + at, next + at, gamma, y + at, cols, v_set1(scale[i]), 1);
        else
            rms_norm_short_row(x + at, next + at, gamma, y + at, cols, v_set1(scale[i]));
    if (rstd) memcpy(rstd, inverse, sizeof inverse);
    return 1;
}

CREG_INLINE void rms_norm_rows_of(const float *x, const float *fetch, const float *gamma, float *y, double *rstd,
                                  ptrdiff_t rows, ptrdiff_t cols, double eps, int stream)
{
    const part rest = part_of(cols % CREG_LANES);
    for (ptrdiff_t i = 0, n; i < rows; i += n) {
        const int batch = is_short(cols) && rows - i >= CREG_BATCH;
        const ptrdiff_t at = i * cols;
        n = batch ? CREG_BATCH : rows - i;
        const float *next = fetch ? fetch + at : i + 2 * n <= rows ? x + at + n * cols : x + at;
        if (!batch || !rms_norm_batch(x + at, next, gamma, y + at, AT(rstd, i), cols, &rest, eps, stream))
            rms_norm_single_rows(x + at, AT(fetch, at), gamma, y + at, AT(rstd, i), n, cols, eps, stream);
    }
}

/* Some rows; streamed stores are left for the caller to end. As many rows of `fetch` are fetched meanwhile, or, if it
 * is NULL, the next of x. By copies of the code that ask for gamma once. */
static void rms_norm_rows(const float *x, const float *fetch, const float *gamma, float *y, double *rstd,
                          ptrdiff_t rows, ptrdiff_t cols, double eps, int stream)
{
    if (gamma)
        rms_norm_rows_of(x, fetch, gamma, y, rstd, rows, cols, eps, stream);
    else
        rms_norm_rows_of(x, fetch, NULL, y, rstd, rows, cols, eps, stream);
}

static void creg_rms_norm_forward(const float *x, const float *gamma, float *y, double *rstd, ptrdiff_t rows,
                                  ptrdiff_t cols, double eps, int stream)
{
    rms_norm_rows(x, NULL, gamma, y, rstd, rows, cols, eps, stream);
    if (stream) v_stream_end();
}

/* g * x, and nothing for the second sum. */
typedef struct {
    const float *dy, *x, *gamma;
} rms_grad_operands;

CREG_INLINE vf2 rms_norm_grad_terms(const void *ctx, ptrdiff_t at, const vw *cut)
{
    const rms_grad_operands *o = ctx;
    vf g = v_load_cut(o->dy + at, cut);
    if (o->gamma) g = v_mul(g, v_load_cut(o->gamma + at, cut));
    return (vf2){v_mul(g, v_load_cut(o->x + at, cut)), v_set1(0.0f)};
}

CREG_INLINE double rms_norm_grad_mean_of(double sum_g_x, ptrdiff_t cols, double rstd)
{
    return sum_g_x * rstd / (double)cols;
}

CREG_INLINE int rms_norm_grad_is_safe(double mean_g_x_hat, const float *dy, const float *gamma, ptrdiff_t cols,
                                      double rstd)
{
    return cols > CREG_FEW && creg_is_safe_rstd(rstd) && gradients_are_safe(fabs(mean_g_x_hat), rstd, dy, gamma, cols);
}

CREG_INLINE double rms_norm_grad_mean(const float *dy, const float *x, const float *gamma, ptrdiff_t cols, double rstd)
{
    const rms_grad_operands operands = {dy, x, gamma};
    double g_x = 0.0;
    for (ptrdiff_t j = 0; j < cols; j += CREG_PANEL)
        g_x += (double)panel_sums(rms_norm_grad_terms, &operands, j, min_size(cols - j, CREG_PANEL)).a;
    return rms_norm_grad_mean_of(g_x, cols, rstd);
}

/* What gives dx of one row, and what dgamma gains. */
typedef struct {
    const float *dy, *x, *gamma, *more; /* dx + more is stored, if there is more */
    float *dx, *dgamma;
    vf rstd, mean_g_x_hat;
} rms_grad_row;

/* The `left` elements from j on, of a register at most. */
CREG_INLINE void rms_norm_grad_part(const rms_grad_row *r, ptrdiff_t j, ptrdiff_t left, int stream)
{
    const vf dv = v_load_part(r->dy + j, left), x_hat = v_mul(v_load_part(r->x + j, left), r->rstd);
    vf g = dv;
    if (r->gamma) {
        g = v_mul(dv, v_load_part(r->gamma + j, left));
        v_store_part(r->dgamma + j, v_add(v_load_part(r->dgamma + j, left), v_mul(dv, x_hat)), left);
    }
    vf v = v_mul(v_sub(g, v_mul(x_hat, r->mean_g_x_hat)), r->rstd);
    if (r->more) v = v_add(v, v_load_part(r->more + j, left));
    v_put_part(r->dx + j, v, left, stream);
}

/* The next row, `ahead` elements on, is fetched meanwhile. */
CREG_INLINE void rms_norm_grad_row_of(const rms_grad_row *r, ptrdiff_t ahead, ptrdiff_t cols, int stream)
{
    const ptrdiff_t lead = stream ? unaligned_lead(r->dx, cols) : 0;
    for (ptrdiff_t j = 0; j < lead; j += CREG_W) rms_norm_grad_part(r, j, lead - j, 0);
    ptrdiff_t j = lead;
    for (; j + CREG_LANES <= cols; j += CREG_LANES) { /* main loop */
        prefetch_group(r->dy + ahead + j, stream);
        prefetch_group(r->x + ahead + j, stream);
        if (r->more) prefetch_group(r->more + ahead + j, stream);
        if (!stream) prefetch_group(r->dx + j + WRITE_AHEAD, 0);
        for (int k = 0; k < CREG_LANES; k += CREG_W) rms_norm_grad_part(r, j + k, CREG_W, stream);
    }
    for (; j < cols; j += CREG_W) rms_norm_grad_part(r, j, cols - j, 0); /* tail */
}

CREG_INLINE void rms_norm_grad_row(const rms_grad_row *r, ptrdiff_t ahead, ptrdiff_t cols, int stream)
{
    if (stream)
        rms_norm_grad_row_of(r, ahead, cols, 1);
    else
        rms_norm_grad_row_of(r, ahead, cols, 0);
}

static double rms_norm_grad_mean_exact(const float *dy, const float *x, const float *gamma, ptrdiff_t cols, double rstd)
{
    double sum = 0.0;
    for (ptrdiff_t j = 0; j < cols; j++)
        sum += (double)dy[j] * (gamma ? (double)gamma[j] : 1.0) * ((double)x[j] * rstd);
    return sum / (double)cols;
}

static void rms_norm_grad_row_exact(const float *dy, const float *x, const float *gamma, const float *more, float *dx,
                                    float *dgamma, ptrdiff_t cols, double rstd, double mean_g_x_hat)
{
    for (ptrdiff_t j = 0; j < cols; j++) {
        const double dv = (double)dy[j], x_hat = (double)x[j] * rstd;
        if (gamma) dgamma[j] = (float)((double)dgamma[j] + dv * x_hat);
        dx[j] = (float)((dv * (gamma ? (double)gamma[j] : 1.0) - x_hat * mean_g_x_hat) * rstd);
        if (more) dx[j] += more[j];
    }
}

CREG_INLINE void rms_norm_grad_single_rows(const float *dy, const float *x, const double *rstd, const float *gamma,
                                           const float *more, float *dx, float *dgamma, ptrdiff_t rows,
                                           ptrdiff_t follow, ptrdiff_t cols, int stream)
{
    for (ptrdiff_t i = 0; i < rows; i++, dy += cols, x += cols, more = AT(more, cols), dx += cols) {
        const double mean_g_x_hat = rms_norm_grad_mean(dy, x, gamma, cols, rstd[i]);
        if (rms_norm_grad_is_safe(mean_g_x_hat, dy, gamma, cols, rstd[i])) {
            const rms_grad_row row = {
                dy, x, gamma, more, dx, dgamma, v_set1((float)rstd[i]), v_set1((float)mean_g_x_hat)};
            rms_norm_grad_row(&row, i + 1 < rows + follow ? cols : 0, cols, stream);
        } else
            rms_norm_grad_row_exact(dy, x, gamma, more, dx, dgamma, cols, rstd[i],
                                    rms_norm_grad_mean_exact(dy, x, gamma, cols, rstd[i]));
    }
}

/* CREG_BATCH short rows, the next ones `ahead` elements on; 0, with nothing done, if one of them needs float64. */
CREG_INLINE int rms_norm_grad_batch(const float *dy, const float *x, ptrdiff_t ahead, const double *rstd,
                                    const float *gamma, const float *more, float *dx, float *dgamma, ptrdiff_t cols,
                                    const part *rest, int stream)
{
    float g_x[CREG_BATCH];
    for (int i = 0; i < CREG_BATCH; i++) {
        const rms_grad_operands operands = {dy + i * cols, x + i * cols, gamma};
        g_x[i] = short_sums(rms_norm_grad_terms, &operands, cols, rest).a;
    }
    double means[CREG_BATCH];
    int unsafe = 0, plain = 1;
    for (int i = 0; i < CREG_BATCH; i++) {
        const double mean_g_x_hat = (double)g_x[i] * rstd[i] / (double)cols;
        means[i] = fabs(mean_g_x_hat);
        unsafe |= !creg_is_safe_rstd(rstd[i]);
        plain &= means_are_plain(means[i]);
        g_x[i] = (float)mean_g_x_hat;
    }
    if (unsafe || (!plain && !batch_gradients_are_safe(means, rstd, dy, gamma, cols))) return 0;
    for (ptrdiff_t i = 0, at = 0; i < CREG_BATCH; i++, at += cols) {
        const rms_grad_row row = {dy + at,       x + at, gamma, AT(more, at), dx + at, dgamma, v_set1((float)rstd[i]),
                                  v_set1(g_x[i])};
        rms_norm_grad_row(&row, ahead, cols, stream);
    }
    return 1;
}

CREG_INLINE void rms_norm_grad_rows_of(const float *dy, const float *x, const double *rstd, const float *gamma,
                                       const float *more, float *dx, float *dgamma, ptrdiff_t rows, ptrdiff_t follow,
                                       ptrdiff_t cols, int stream)
{
    const part rest = part_of(cols % CREG_LANES);
    for (ptrdiff_t i = 0, n; i < rows; i += n) {
        const int batch = is_short(cols) && rows - i >= CREG_BATCH;
        const ptrdiff_t at = i * cols;
        n = batch ? CREG_BATCH : rows - i;
        const ptrdiff_t behind = rows + follow - i - n, ahead = behind >= n ? n * cols : 0;
        if (!batch || !rms_norm_grad_batch(dy + at, x + at, ahead, rstd + i, gamma, AT(more, at), dx + at, dgamma, cols,
                                           &rest, stream))
            rms_norm_grad_single_rows(dy + at, x + at, rstd + i, gamma, AT(more, at), dx + at, dgamma, n, behind, cols,
                                      stream);
    }
}

/* Some rows, `follow` more of which lie behind them: dx plus `more`, and what dgamma gains. By copies of the code that
 * ask for gamma and `more` once. */
static void rms_norm_grad_rows(const float *dy, const float *x, const double *rstd, const float *gamma,
                               const float *more, float *dx, float *dgamma, ptrdiff_t rows, ptrdiff_t follow,
                               ptrdiff_t cols, int stream)
{
    if (gamma && !more)
        rms_norm_grad_rows_of(dy, x, rstd, gamma, NULL, dx, dgamma, rows, follow, cols, stream);
    else
        rms_norm_grad_rows_of(dy, x, rstd, gamma, more, dx, dgamma, rows, follow, cols, stream);
}

static void creg_rms_norm_backward(const float *dy, const float *x, const double *rstd, const float *gamma, float *dx,
                                   float *dgamma, ptrdiff_t rows, ptrdiff_t cols, int stream)
{
    zero_sums(dgamma, cols);
    rms_norm_grad_rows(dy, x, rstd, gamma, NULL, dx, dgamma, rows, 0, cols, stream);
    if (stream) v_stream_end();
}

#endif
