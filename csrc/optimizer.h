/* Weight decay and the optimiser steps that contain it, element by element, in place. The readable twin:
 * cregkit/oracle/optimizer.py
 *
 * L2         penalty = weight_decay / 2 * sum(w^2),  its gradient = weight_decay * w
 * SGD        g = dw + weight_decay * w,  velocity = momentum * velocity + g,  w -= lr * velocity
 * AdamW      (Loshchilov and Hutter, 2019, arXiv:1711.05101)  w *= 1 - lr * weight_decay, g = dw;
 *            with L2 in Adam's gradient instead (Kingma and Ba, 2015, arXiv:1412.6980)  g = dw + weight_decay * w;
 *            m = beta1 * m + (1 - beta1) * g,  v = beta2 * v + (1 - beta2) * g^2
 *            w -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
 * Gradient   clipped to [-clipvalue, clipvalue], then multiplied by `scale`, which limits the norm of all gradients
 * L1         the proximal step of lr * l1 * |w| (Parikh and Boyd, 2014, "Proximal Algorithms"):
 *            w = sign(w) * max(|w| - lr * l1, 0) = w - clip(w, -lr * l1, lr * l1)
 * Max-norm   (Srivastava et al., 2014)  w *= min(1, limit / norm(w)) for each row, the incoming weights of a unit
 * Average    (Polyak and Juditsky, 1992)  average = m * average + (1 - m) * w
 * Numerics   Constants are computed in float64 and rounded once. A sum of squares that float32 cannot hold is computed
 *            again in float64. The norm of a row is computed in float64, and the factor leaves room for roundings, so
 *            that no norm exceeds its limit and a second pass changes nothing. An average moves from its nearer end,
 *            so that it does not drift where w is constant: base + (share * other - share * base).
 * Layout     Blocks of elements, or of rows; sums of panels of CREG_PANEL elements, merged in float64.
 */
#ifndef CREG_OPTIMIZER_H
#define CREG_OPTIMIZER_H

#include "dropout.h"
#include "safety.h"

/* NaN stays NaN: v_min and v_max return their second operand then. */
CREG_INLINE vf v_clip(vf a, float limit) { return v_max(v_set1(-limit), v_min(v_set1(limit), a)); }

/* The square of a clipped element, NaN where the element is not finite; the second sum is 0. */
CREG_INLINE vf2 clipped_terms(const void *l2, ptrdiff_t at, const vw *cut)
{
    const creg_l2 *a = l2;
    const vf x = x_load_cut(a->w + at, cut), clipped = v_clip(x, a->clipvalue);
    return (vf2){v_add(v_mul(clipped, clipped), v_sub(x, x)), v_set1(0.0f)};
}

static CREG_NOINLINE double exact_clipped(const float *x, ptrdiff_t n, double limit)
{
    double lane[8] = {0};
    for (ptrdiff_t j = 0; j < n; j++) {
        const double v = (double)x[j], clipped = v > limit ? limit : v < -limit ? -limit : v;
        lane[j & 7] += clipped * clipped + (v - v);
    }
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

/* The sum of squares of a panel, correct for elements of any magnitude. */
static void creg_sum_squares(void *l2, ptrdiff_t task)
{
    const creg_l2 *a = l2;
    const ptrdiff_t i = task * CREG_PANEL, n = min_size(CREG_PANEL, a->n - i);
    const int clips = a->clipvalue > 0.0f;
    double squares = clips ? (double)panel_sums(clipped_terms, a, i, n).a : panel_squares(a->w + i, n);
    if (!creg_is_safe(squares, squares))
        squares = clips ? exact_clipped(a->w + i, n, (double)a->clipvalue) : exact_sum(a->w + i, 1, 0, n, 0.0, 1);
    a->panels[task] = squares;
}

static void creg_l2_penalty(void *l2, ptrdiff_t task)
{
    (void)task;
    creg_l2 *a = l2;
    double total = 0.0;
    for (ptrdiff_t k = 0; k < a->n_panels; k++) total += a->panels[k];
    a->penalty = a->weight_decay * 0.5 * total;
}

static void creg_l2_gradient(void *l2, ptrdiff_t task)
{
    const creg_l2 *a = l2;
    const ptrdiff_t i = task * a->block;
    const creg_dropout product = {.scale = (float)a->weight_decay, .shift = -0.0f};
    affine_elements(a->w + i, NULL, a->dw + i, min_size(a->block, a->n - i), &product, a->stream);
    if (a->stream) v_stream_end();
}

CREG_INLINE vf modified_gradient(const creg_modifiers *m, vf g)
{
    if (m->clipvalue > 0.0f) g = v_clip(g, m->clipvalue);
    return v_mul(g, v_set1(m->scale));
}

CREG_INLINE void move_average(const creg_modifiers *m, vf w, ptrdiff_t at, ptrdiff_t n)
{
    const vf old = v_load_part(m->average + at, n), share = v_set1(m->share);
    const vf base = m->from_weights ? w : old, other = m->from_weights ? old : w;
    v_store_part(m->average + at, v_add(base, v_sub(v_mul(share, other), v_mul(share, base))), n);
}

CREG_INLINE vf modified_weights(const creg_modifiers *m, vf w, ptrdiff_t at, ptrdiff_t n)
{
    if (m->threshold > 0.0f) w = v_sub(w, v_clip(w, m->threshold));
    if (m->average) move_average(m, w, at, n);
    return w;
}

CREG_INLINE void sgd_part(const creg_sgd *a, ptrdiff_t at, ptrdiff_t n, int modifies)
{
    const vf old = v_load_part(a->w + at, n);
    vf g = v_load_part(a->dw + at, n);
    if (modifies) g = modified_gradient(&a->modifiers, g);
    g = v_add(g, v_mul(v_set1(a->weight_decay), old));
    if (a->velocity) {
        g = v_add(v_mul(v_set1(a->momentum), v_load_part(a->velocity + at, n)), g);
        v_store_part(a->velocity + at, g, n);
    }
    vf w = v_sub(old, v_mul(v_set1(a->lr), g));
    if (modifies) w = modified_weights(&a->modifiers, w, at, n);
    v_store_part(a->w + at, w, n);
}

CREG_INLINE void sgd_block(const creg_sgd *a, ptrdiff_t task, int modifies)
{
    const ptrdiff_t end = min_size((task + 1) * a->block, a->n);
    ptrdiff_t j = task * a->block;
    for (; j + CREG_W <= end; j += CREG_W) sgd_part(a, j, CREG_W, modifies); /* main loop */
    if (j < end) sgd_part(a, j, end - j, modifies);                          /* tail */
}

static void creg_sgd_step(void *sgd, ptrdiff_t task)
{
    const creg_sgd a = *(const creg_sgd *)sgd; /* a copy: stores to w cannot alias it */
    if (a.modifiers.any)
        sgd_block(&a, task, 1);
    else
        sgd_block(&a, task, 0);
}

/* base^n by squaring. Its correctly rounded products give the same bits with any maths library. */
static double power(double base, int64_t n)
{
    double result = 1.0;
    for (; n > 0; n >>= 1, base *= base)
        if (n & 1) result *= base;
    return result;
}

static void creg_adamw_constants(void *adamw, ptrdiff_t task)
{
    (void)task;
    creg_adamw *a = adamw;
    const double beta1 = a->betas[0], beta2 = a->betas[1];
    a->shrink = a->decoupled ? (float)(1.0 - a->lr * a->weight_decay) : 1.0f;
    a->l2 = a->decoupled ? 0.0f : (float)a->weight_decay;
    a->beta1 = (float)beta1, a->one_minus_beta1 = (float)(1.0 - beta1);
    a->beta2 = (float)beta2, a->one_minus_beta2 = (float)(1.0 - beta2);
    a->step_size = (float)(a->lr / (1.0 - power(beta1, a->step)));
    a->inv_sqrt_bias2 = (float)(1.0 / sqrt(1.0 - power(beta2, a->step)));
}

CREG_INLINE void adamw_part(const creg_adamw *a, ptrdiff_t at, ptrdiff_t n, int modifies)
{
    float *w = a->w + at, *m = a->m + at, *v = a->v + at;
    const vf old = v_load_part(w, n);
    vf g = v_load_part(a->dw + at, n);
    if (modifies) g = modified_gradient(&a->modifiers, g);
    g = v_add(g, v_mul(v_set1(a->l2), old));
    const vf first = v_add(v_mul(v_set1(a->beta1), v_load_part(m, n)), v_mul(v_set1(a->one_minus_beta1), g));
    const vf second = v_add(v_mul(v_set1(a->beta2), v_load_part(v, n)), v_mul(v_mul(v_set1(a->one_minus_beta2), g), g));
    const vf root = v_add(v_mul(v_sqrt(second), v_set1(a->inv_sqrt_bias2)), v_set1(a->eps));
    const vf step = v_div(v_mul(v_set1(a->step_size), first), root);
    v_store_part(m, first, n);
    v_store_part(v, second, n);
    vf new = v_sub(v_mul(old, v_set1(a->shrink)), step);
    if (modifies) new = modified_weights(&a->modifiers, new, at, n);
    v_store_part(w, new, n);
}

CREG_INLINE void adamw_block(const creg_adamw *a, ptrdiff_t task, int modifies)
{
    const ptrdiff_t end = min_size((task + 1) * a->block, a->n);
    ptrdiff_t j = task * a->block;
    for (; j + CREG_W <= end; j += CREG_W) adamw_part(a, j, CREG_W, modifies); /* main loop */
    if (j < end) adamw_part(a, j, end - j, modifies);                          /* tail */
}

static void creg_adamw_step(void *adamw, ptrdiff_t task)
{
    const creg_adamw a = *(const creg_adamw *)adamw; /* a copy: stores to w cannot alias it */
    if (a.modifiers.any)
        adamw_block(&a, task, 1);
    else
        adamw_block(&a, task, 0);
}

/* The factor that takes a row to the limit, less a few roundings; 1 where the norm is less or not finite. Where the sum
 * of squares in float32, with an error below 2^-15, is clearly less, it decides. */
static float max_norm_factor(const float *w, ptrdiff_t n, double limit)
{
    const double estimate = row_squares(w, n);
    if (creg_is_safe(estimate, estimate) && estimate < limit * limit * (1.0 - 0x1p-12)) return 1.0f;
    const double squares = exact_sum(w, 1, 0, n, 0.0, 1);
    const int exceeds = (squares > limit * limit) & (squares - squares == 0.0);
    return exceeds ? (float)(limit / sqrt(squares) * (1.0 - 0x1p-22)) : 1.0f;
}

CREG_INLINE void max_norm_part(const creg_max_norm *a, float factor, ptrdiff_t at, ptrdiff_t n)
{
    const vf w = v_mul(v_load_part(a->w + at, n), v_set1(factor));
    if (factor != 1.0f) v_store_part(a->w + at, w, n);
    if (a->modifiers.average) move_average(&a->modifiers, w, at, n);
}

static void creg_limit_norms(void *max_norm, ptrdiff_t task)
{
    const creg_max_norm a = *(const creg_max_norm *)max_norm; /* a copy: stores to w cannot alias it */
    const ptrdiff_t end = min_size((task + 1) * a.block, a.rows);
    for (ptrdiff_t row = task * a.block; row < end; row++) {
        const ptrdiff_t past = (row + 1) * a.cols;
        ptrdiff_t j = row * a.cols;
        const float factor = max_norm_factor(a.w + j, a.cols, a.limit);
        if (factor == 1.0f && !a.modifiers.average) continue;
        for (; j + CREG_W <= past; j += CREG_W) max_norm_part(&a, factor, j, CREG_W); /* main loop */
        if (j < past) max_norm_part(&a, factor, j, past - j);                         /* tail */
    }
}

#endif
