/* RMS norm (Zhang and Sennrich, 2019, "Root Mean Square Layer Normalization", arXiv:1910.07467): statistics, terms and
 * formula. The readable twin: cregkit/oracle/rms_norm.py
 *
 * Forward    rstd = 1 / sqrt(sum(x^2) / n + eps),  x_hat = x * rstd,  y = x_hat * gamma
 * Saved      rstd, float64
 * Backward   g = dy * gamma
 *            dx = rstd * (g - x_hat * mean(g * x_hat))
 *            dgamma = sum over rows of dy * x_hat
 * Layout     row_norm.h: the loops over rows, for which it is a norm whose mean, beta and mean(g) are 0.
 */
#ifndef CREG_RMS_NORM_H
#define CREG_RMS_NORM_H

#include "rows.h"

CREG_INLINE row_statistics rms_norm_finish(double squares, const stored *x, ptrdiff_t cols, double eps)
{
    const double per_col = 1.0 / (double)cols;
    const int safe = cols > CREG_FEW && creg_is_safe(squares, squares * per_col + eps);
    if (!safe) squares = exact_sum(x, 1, 0, cols, 0.0, 1);
    return (row_statistics){0.0, 1.0 / sqrt(squares * per_col + eps), safe};
}

/* rstd of a batch of short rows, one number of each row in a vector. Not inlined: see layer_norm_short_finish(). */
static CREG_NOINLINE void rms_norm_short_finish(short_rows *s, double per_col, double eps)
{
    int unsafe = 0;
    for (int i = 0; i < CREG_BATCH; i++) {
        const double total = s->squares[i], mean_plus_eps = total * per_col + eps;
        unsafe |= !creg_is_safe(total, mean_plus_eps);
        s->rstd[i] = 1.0 / sqrt(mean_plus_eps);
        s->scale[i] = (float)s->rstd[i];
    }
    s->unsafe = unsafe;
}

static CREG_NOINLINE void rms_norm_short_statistics(const stored *x, ptrdiff_t cols, const part *rest, double eps,
                                                    short_rows *s)
{
    vf folds[CREG_BATCH];
#pragma GCC unroll 8
    for (int i = 0; i < CREG_BATCH; i++) folds[i] = short_folds(square_terms, x + i * cols, cols, rest).a;
    v_sums(folds, s->squares);
    rms_norm_short_finish(s, 1.0 / (double)cols, eps);
}

/* 0, and g * x. */
CREG_INLINE vf2 rms_norm_grad_terms(const void *ctx, ptrdiff_t at, const vw *cut)
{
    const grad_operands *o = ctx;
    return (vf2){v_set1(0.0f), v_mul(grad_load(o, at, cut), x_load_cut(o->x + at, cut))};
}

#endif
