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

CREG_INLINE void rms_norm_row(const float *x, const float *gamma, float *y, ptrdiff_t cols, double rstd, int stream)
{
    const vf scale = v_set1((float)rstd);
    ptrdiff_t j = stream ? unaligned_lead(y, cols) : 0;
    if (j) rms_norm_group(x, gamma, y, j, scale, 0);
    for (; j + CREG_LANES <= cols; j += CREG_LANES) /* main loop */
        rms_norm_group(x + j, AT(gamma, j), y + j, CREG_LANES, scale, stream);
    if (j < cols) rms_norm_group(x + j, AT(gamma, j), y + j, cols - j, scale, 0); /* tail */
}

static void rms_norm_row_exact(const float *x, const float *gamma, float *y, ptrdiff_t cols, double rstd)
{
    for (ptrdiff_t j = 0; j < cols; j++) y[j] = (float)((double)x[j] * rstd * (gamma ? (double)gamma[j] : 1.0));
}

static void creg_rms_norm_forward(const float *x, const float *gamma, float *y, double *rstd, ptrdiff_t rows,
                                  ptrdiff_t cols, double eps, int stream)
{
    const double per_col = 1.0 / (double)cols;
    for (ptrdiff_t i = 0; i < rows; i++, x += cols, y += cols) {
        double squares = row_squares(x, cols);
        const int safe = cols > CREG_FEW && creg_is_safe(squares, squares * per_col + eps);
        if (!safe) squares = exact_sum(x, 1, 0, cols, 0.0, 1);
        const double row_rstd = 1.0 / sqrt(squares * per_col + eps);
        if (safe)
            rms_norm_row(x, gamma, y, cols, row_rstd, stream);
        else
            rms_norm_row_exact(x, gamma, y, cols, row_rstd);
        if (rstd) rstd[i] = row_rstd;
    }
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

/* What a row's dx is made with, in registers. */
typedef struct {
    vf rstd, mean_g_x_hat;
} rms_grad_row;

/* dx of `rows` <= GRAD_ROWS rows, columns [j, j + left), at most a register's worth, and their part of dgamma, added
 * row after row. All loads come before the
 * stores: with rows a multiple of 4 KiB apart, a load would wait for the store to the row before, whose address looks
 * the same. */
CREG_INLINE void rms_norm_grad_column(const float *dy, const float *x, const float *gamma, float *dx, float *dgamma,
                                      int rows, ptrdiff_t cols, ptrdiff_t j, ptrdiff_t left, const rms_grad_row *r,
                                      int stream)
{
    vf dv[GRAD_ROWS], x_hat[GRAD_ROWS];
    for (int i = 0; i < rows; i++) {
        dv[i] = v_load_part(dy + i * cols + j, left);
        x_hat[i] = v_mul(v_load_part(x + i * cols + j, left), r[i].rstd);
    }
    const vf gain = gamma ? v_load_part(gamma + j, left) : v_set1(1.0f);
    for (int i = 0; i < rows; i++) {
        const vf g = gamma ? v_mul(dv[i], gain) : dv[i];
        v_put_part(dx + i * cols + j, v_mul(v_sub(g, v_mul(x_hat[i], r[i].mean_g_x_hat)), r[i].rstd), left, stream);
    }
    if (gamma) {
        vf sum = v_load_part(dgamma + j, left);
        for (int i = 0; i < rows; i++) sum = v_add(sum, v_mul(dv[i], x_hat[i]));
        v_put_part(dgamma + j, sum, left, 0);
    }
}

CREG_INLINE void rms_norm_grad_rows(const float *dy, const float *x, const float *gamma, float *dx, float *dgamma,
                                    int rows, ptrdiff_t cols, const rms_grad_row *of_rows, int stream)
{
    rms_grad_row r[GRAD_ROWS]; /* a copy that no store can alias, so that it stays in registers */
    for (int i = 0; i < rows; i++) r[i] = of_rows[i];
    ptrdiff_t j = stream ? unaligned_lead(dx, cols) : 0;
    if (j) rms_norm_grad_column(dy, x, gamma, dx, dgamma, rows, cols, 0, j, r, 0);
    for (; j + CREG_LANES <= cols; j += CREG_LANES) /* main loop */
        for (int k = 0; k < CREG_LANES; k += CREG_W)
            rms_norm_grad_column(dy, x, gamma, dx, dgamma, rows, cols, j + k, CREG_W, r, stream);
    for (; j + CREG_W <= cols; j += CREG_W)
        rms_norm_grad_column(dy, x, gamma, dx, dgamma, rows, cols, j, CREG_W, r, stream);
    if (j < cols) rms_norm_grad_column(dy, x, gamma, dx, dgamma, rows, cols, j, cols - j, r, 0); /* tail */
}

static void rms_norm_grad_row_exact(const float *dy, const float *x, const float *gamma, float *dx, float *dgamma,
                                    ptrdiff_t cols, double rstd)
{
    double sum = 0.0;
    for (ptrdiff_t j = 0; j < cols; j++)
        sum += (double)dy[j] * (gamma ? (double)gamma[j] : 1.0) * ((double)x[j] * rstd);
    const double mean_g_x_hat = sum / (double)cols;
    for (ptrdiff_t j = 0; j < cols; j++) {
        const double dv = (double)dy[j], x_hat = (double)x[j] * rstd;
        if (gamma) dgamma[j] = (float)((double)dgamma[j] + dv * x_hat);
        dx[j] = (float)((dv * (gamma ? (double)gamma[j] : 1.0) - x_hat * mean_g_x_hat) * rstd);
    }
}

static void creg_rms_norm_backward(const float *dy, const float *x, const double *rstd, const float *gamma, float *dx,
                                   float *dgamma, ptrdiff_t rows, ptrdiff_t cols, int stream)
{
    if (gamma) memset(dgamma, 0, sizeof(float) * (size_t)cols);
    const int together = !stream || (cols % CREG_W == 0 && unaligned_lead(dx, CREG_W) == 0);
    for (ptrdiff_t i = 0; i < rows;) {
        rms_grad_row r[GRAD_ROWS];
        int n = 0, safe = 1;
        while (safe && n < GRAD_ROWS && i + n < rows) { /* as many rows as float32 can treat */
            const double row_rstd = rstd[i + n];
            const double mean_g_x_hat = rms_norm_grad_mean(dy + n * cols, x + n * cols, gamma, cols, row_rstd);
            safe = cols > CREG_FEW && creg_is_safe_rstd(row_rstd) && mean_g_x_hat - mean_g_x_hat == 0.0;
            if (safe) r[n++] = (rms_grad_row){v_set1((float)row_rstd), v_set1((float)mean_g_x_hat)};
        }
        if (n == GRAD_ROWS && together)
            rms_norm_grad_rows(dy, x, gamma, dx, dgamma, GRAD_ROWS, cols, r, stream);
        else
            for (int k = 0; k < n; k++) {
                const ptrdiff_t at = k * cols;
                rms_norm_grad_rows(dy + at, x + at, gamma, dx + at, dgamma, 1, cols, r + k, stream);
            }
        if (!safe) {
            const ptrdiff_t at = n * cols;
            rms_norm_grad_row_exact(dy + at, x + at, gamma, dx + at, dgamma, cols, rstd[i + n]);
            n++;
        }
        i += n;
        dy += n * cols, x += n * cols, dx += n * cols;
    }
    if (stream) v_stream_end();
}

#endif
