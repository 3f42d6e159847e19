/* Layer norm (Ba, Kiros and Hinton, 2016, "Layer Normalization", arXiv:1607.06450): statistics, terms and formula. The
 * readable twin: cregkit/oracle/layer_norm.py
 *
 * Forward    mean = sum(x) / n,  var = sum((x - mean)^2) / n,  rstd = 1 / sqrt(var + eps)
 *            x_hat = (x - mean) * rstd,  y = x_hat * gamma + beta
 * Saved      mean and rstd, float64
 * Backward   g = dy * gamma
 *            dx = rstd * (g - mean(g) - x_hat * mean(g * x_hat))
 *            dgamma = sum over rows of dy * x_hat,  dbeta = sum over rows of dy
 * Numerics   x - mean is (x - hi) - lo with hi + lo = mean in two float32: x - hi is exact for x close to a large mean,
 *            so y is as accurate at an offset of 1e6 as at 0. x * rstd - mean * rstd would cancel. Forward and backward
 *            use the same split, hence the same bits of x_hat.
 * Layout     row_norm.h: the loops over rows.
 */
#ifndef CREG_LAYER_NORM_H
#define CREG_LAYER_NORM_H

#include "rows.h"

CREG_INLINE vf x_minus_mean(vf x, row_scale row) { return v_sub(v_sub(x, row.hi), row.lo); }

CREG_INLINE row_statistics layer_norm_finish(moments row, const stored *x, ptrdiff_t cols, double eps)
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

/* Not inlined: compilers vectorise the loop over the rows only in a separate function. */
static CREG_NOINLINE void layer_norm_short_finish(short_rows *s, double per_col, double eps)
{
    int unsafe = 0;
    for (int i = 0; i < CREG_BATCH; i++) {
        const double total = s->sum[i] + 0.0f, correction = total * per_col,
                     m2 = (double)s->squares[i] - total * correction;
        const double variance_plus_eps = m2 * per_col + eps;
        unsafe |= (total * correction > m2) | !creg_is_safe(m2, variance_plus_eps);
        s->mean[i] = (double)s->shift[i] + correction;
        s->rstd[i] = 1.0 / sqrt(variance_plus_eps);
        s->scale[i] = (float)s->rstd[i];
    }
    split_means(s->mean, s->hi, s->lo, CREG_BATCH);
    s->unsafe = unsafe;
}

static CREG_NOINLINE void layer_norm_short_statistics(const stored *x, ptrdiff_t cols, const part *rest, double eps,
                                                      short_rows *s)
{
    short_moment_sums(x, cols, rest, s);
    layer_norm_short_finish(s, 1.0 / (double)cols, eps);
}

/* g and g * (x - mean). */
CREG_INLINE vf2 layer_norm_grad_terms(const void *ctx, ptrdiff_t at, const vw *cut)
{
    const grad_operands *o = ctx;
    const vf g = grad_load(o, at, cut), d = v_cut(x_minus_mean(x_load_cut(o->x + at, cut), o->row), cut);
    return (vf2){g, v_mul(g, d)};
}

#endif
