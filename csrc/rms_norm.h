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

CREG_INLINE void rms_norm_group(const float *x, const float *gamma, float *y, ptrdiff_t n, vf rstd, int stream)
{
    for (int k = 0; k < CREG_VECS; k++) {
        const ptrdiff_t j = k * CREG_W, left = n - j;
        if (left <= 0) continue;
        vf v = v_mul(v_load_part(x + j, left), rstd);
        if (gamma) v = v_mul(v, v_load_part(gamma + j, left));
        v_put_part(y + j, v, left, stream);
    }
}

/* One row; that at `next`, which may be x again, is fetched meanwhile. */
CREG_INLINE void rms_norm_row(const float *x, const float *next, const float *gamma, float *y, ptrdiff_t cols,
                              double rstd, int stream)
{
    const vf scale = v_set1((float)rstd);
    ptrdiff_t j = stream ? unaligned_lead(y, cols) : 0;
    if (j) rms_norm_group(x, gamma, y, j, scale, 0);
    for (; j + CREG_LANES <= cols; j += CREG_LANES) { /* main loop */
        prefetch_group(next + j);
        rms_norm_group(x + j, AT(gamma, j), y + j, CREG_LANES, scale, stream);
    }
    if (j < cols) rms_norm_group(x + j, AT(gamma, j), y + j, cols - j, scale, 0); /* tail */
}

static void rms_norm_row_exact(const float *x, const float *gamma, float *y, ptrdiff_t cols, double rstd)
{
    for (ptrdiff_t j = 0; j < cols; j++) y[j] = (float)((double)x[j] * rstd * (gamma ? (double)gamma[j] : 1.0));
}

/* Some rows; streamed stores are left for the caller to end. As many rows of `fetch` are fetched meanwhile, or, if it
 * is NULL, the next of x. */
static void rms_norm_rows(const float *x, const float *fetch, const float *gamma, float *y, double *rstd,
                          ptrdiff_t rows, ptrdiff_t cols, double eps, int stream)
{
    const double per_col = 1.0 / (double)cols;
    for (ptrdiff_t i = 0; i < rows; i++, x += cols, y += cols) {
        const float *next = fetch ? fetch + i * cols : i + 1 < rows ? x + cols : x;
        double squares = row_squares(x, cols);
        const int safe = cols > CREG_FEW && creg_is_safe(squares, squares * per_col + eps);
        if (!safe) squares = exact_sum(x, 1, 0, cols, 0.0, 1);
        const double row_rstd = 1.0 / sqrt(squares * per_col + eps);
        if (safe)
            rms_norm_row(x, next, gamma, y, cols, row_rstd, stream);
        else
            rms_norm_row_exact(x, gamma, y, cols, row_rstd);
        if (rstd) rstd[i] = row_rstd;
    }
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

CREG_INLINE vf2 rms_norm_grad_terms(const void *ctx, ptrdiff_t at, ptrdiff_t left)
{
    const rms_grad_operands *o = ctx;
    vf g = v_load_part(o->dy + at, left);
    if (o->gamma) g = v_mul(g, v_load_part(o->gamma + at, left));
    return (vf2){v_mul(g, v_load_part(o->x + at, left)), v_set1(0.0f)};
}

CREG_INLINE double rms_norm_grad_mean(const float *dy, const float *x, const float *gamma, ptrdiff_t cols, double rstd)
{
    const rms_grad_operands operands = {dy, x, gamma};
    double g_x = 0.0;
    for (ptrdiff_t j = 0; j < cols; j += CREG_PANEL)
        g_x += (double)panel_sums(rms_norm_grad_terms, &operands, j, min_size(cols - j, CREG_PANEL)).a;
    return g_x * rstd / (double)cols;
}

CREG_INLINE void rms_norm_grad_group(const float *dy, const float *x, const float *gamma, const float *more, float *dx,
                                     float *dgamma, ptrdiff_t n, vf rstd, vf mean_g_x_hat, int stream)
{
    for (int k = 0; k < CREG_VECS; k++) {
        const ptrdiff_t j = k * CREG_W, left = n - j;
        if (left <= 0) continue;
        const vf dv = v_load_part(dy + j, left), x_hat = v_mul(v_load_part(x + j, left), rstd);
        vf g = dv;
        if (gamma) {
            g = v_mul(dv, v_load_part(gamma + j, left));
            v_store_part(dgamma + j, v_add(v_load_part(dgamma + j, left), v_mul(dv, x_hat)), left);
        }
        vf v = v_mul(v_sub(g, v_mul(x_hat, mean_g_x_hat)), rstd);
        if (more) v = v_add(v, v_load_part(more + j, left));
        v_put_part(dx + j, v, left, stream);
    }
}

/* dx of one row, plus `more` if there is any, and its part of dgamma; the next row, `ahead` elements on, is fetched
 * meanwhile. */
CREG_INLINE void rms_norm_grad_row(const float *dy, const float *x, ptrdiff_t ahead, const float *gamma,
                                   const float *more, float *dx, float *dgamma, ptrdiff_t cols, double rstd,
                                   double mean_g_x_hat, int stream)
{
    const vf scale = v_set1((float)rstd), mean = v_set1((float)mean_g_x_hat);
    ptrdiff_t j = stream ? unaligned_lead(dx, cols) : 0;
    if (j) rms_norm_grad_group(dy, x, gamma, more, dx, dgamma, j, scale, mean, 0);
    for (; j + CREG_LANES <= cols; j += CREG_LANES) { /* main loop */
        prefetch_group(dy + ahead + j);
        prefetch_group(x + ahead + j);
        if (more) prefetch_group(more + ahead + j);
        rms_norm_grad_group(dy + j, x + j, AT(gamma, j), AT(more, j), dx + j, AT(dgamma, j), CREG_LANES, scale, mean,
                            stream);
    }
    if (j < cols) /* tail */
        rms_norm_grad_group(dy + j, x + j, AT(gamma, j), AT(more, j), dx + j, AT(dgamma, j), cols - j, scale, mean, 0);
}

static void rms_norm_grad_row_exact(const float *dy, const float *x, const float *gamma, const float *more, float *dx,
                                    float *dgamma, ptrdiff_t cols, double rstd)
{
    double sum = 0.0;
    for (ptrdiff_t j = 0; j < cols; j++)
        sum += (double)dy[j] * (gamma ? (double)gamma[j] : 1.0) * ((double)x[j] * rstd);
    const double mean_g_x_hat = sum / (double)cols;
    for (ptrdiff_t j = 0; j < cols; j++) {
        const double dv = (double)dy[j], x_hat = (double)x[j] * rstd;
        if (gamma) dgamma[j] = (float)((double)dgamma[j] + dv * x_hat);
        dx[j] = (float)((dv * (gamma ? (double)gamma[j] : 1.0) - x_hat * mean_g_x_hat) * rstd);
        if (more) dx[j] += more[j];
    }
}

/* Some rows, `follow` more of which lie behind them: dx plus `more`, and what dgamma gains. */
CREG_INLINE void rms_norm_grad_rows(const float *dy, const float *x, const double *rstd, const float *gamma,
                                    const float *more, float *dx, float *dgamma, ptrdiff_t rows, ptrdiff_t follow,
                                    ptrdiff_t cols, int stream)
{
    for (ptrdiff_t i = 0; i < rows; i++, dy += cols, x += cols, more = AT(more, cols), dx += cols) {
        const double mean_g_x_hat = rms_norm_grad_mean(dy, x, gamma, cols, rstd[i]);
        if (cols > CREG_FEW && creg_is_safe_rstd(rstd[i]) && mean_g_x_hat - mean_g_x_hat == 0.0)
            rms_norm_grad_row(dy, x, i + 1 < rows + follow ? cols : 0, gamma, more, dx, dgamma, cols, rstd[i],
                              mean_g_x_hat, stream);
        else
            rms_norm_grad_row_exact(dy, x, gamma, more, dx, dgamma, cols, rstd[i]);
    }
}

static void creg_rms_norm_backward(const float *dy, const float *x, const double *rstd, const float *gamma, float *dx,
                                   float *dgamma, ptrdiff_t rows, ptrdiff_t cols, int stream)
{
    zero_sums(dgamma, cols);
    rms_norm_grad_rows(dy, x, rstd, gamma, NULL, dx, dgamma, rows, 0, cols, stream);
    if (stream) v_stream_end();
}

#endif
