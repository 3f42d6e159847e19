/* Weight decay and the optimiser steps that contain it, element by element, in place. The readable twin:
 * cregkit/oracle/optimizer.py
 *
 * L2         penalty = weight_decay / 2 * sum(w^2),  its gradient = weight_decay * w
 * SGD        g = dw + weight_decay * w,  velocity = momentum * velocity + g,  w -= lr * velocity
 * AdamW      (Loshchilov and Hutter, 2019, arXiv:1711.05101)  w *= 1 - lr * weight_decay, g = dw;
 *            with L2 in Adam's gradient instead (Kingma and Ba, 2015, arXiv:1412.6980)  g = dw + weight_decay * w;
 *            m = beta1 * m + (1 - beta1) * g,  v = beta2 * v + (1 - beta2) * g^2
 *            w -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
 * Numerics   Constants are computed in float64 and rounded once. A sum of squares that float32 cannot hold is computed
 *            again in float64.
 * Layout     Blocks of elements; sums of panels of CREG_PANEL elements, merged in float64.
 */
#ifndef CREG_OPTIMIZER_H
#define CREG_OPTIMIZER_H

#include "dropout.h"
#include "safety.h"

/* The sum of squares of a panel, correct for elements of any magnitude. */
static void creg_sum_squares(void *l2, ptrdiff_t task)
{
    const creg_l2 *a = l2;
    const ptrdiff_t i = task * CREG_PANEL, n = min_size(CREG_PANEL, a->n - i);
    const double squares = panel_squares(a->w + i, n);
    a->panels[task] = creg_is_safe(squares, squares) ? squares : exact_sum(a->w + i, 1, 0, n, 0.0, 1);
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

CREG_INLINE void sgd_part(const creg_sgd *a, ptrdiff_t at, ptrdiff_t n)
{
    const vf old = v_load_part(a->w + at, n);
    vf g = v_add(v_load_part(a->dw + at, n), v_mul(v_set1(a->weight_decay), old));
    if (a->velocity) {
        g = v_add(v_mul(v_set1(a->momentum), v_load_part(a->velocity + at, n)), g);
        v_store_part(a->velocity + at, g, n);
    }
    v_store_part(a->w + at, v_sub(old, v_mul(v_set1(a->lr), g)), n);
}

static void creg_sgd_step(void *sgd, ptrdiff_t task)
{
    const creg_sgd a = *(const creg_sgd *)sgd; /* a copy: stores to w cannot alias it */
    const ptrdiff_t end = min_size((task + 1) * a.block, a.n);
    ptrdiff_t j = task * a.block;
    for (; j + CREG_W <= end; j += CREG_W) sgd_part(&a, j, CREG_W); /* main loop */
    if (j < end) sgd_part(&a, j, end - j);                          /* tail */
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

CREG_INLINE void adamw_part(const creg_adamw *a, ptrdiff_t at, ptrdiff_t n)
{
    float *w = a->w + at, *m = a->m + at, *v = a->v + at;
    const vf old = v_load_part(w, n);
    const vf g = v_add(v_load_part(a->dw + at, n), v_mul(v_set1(a->l2), old));
    const vf first = v_add(v_mul(v_set1(a->beta1), v_load_part(m, n)), v_mul(v_set1(a->one_minus_beta1), g));
    const vf second = v_add(v_mul(v_set1(a->beta2), v_load_part(v, n)), v_mul(v_mul(v_set1(a->one_minus_beta2), g), g));
    const vf root = v_add(v_mul(v_sqrt(second), v_set1(a->inv_sqrt_bias2)), v_set1(a->eps));
    const vf step = v_div(v_mul(v_set1(a->step_size), first), root);
    v_store_part(m, first, n);
    v_store_part(v, second, n);
    v_store_part(w, v_sub(v_mul(old, v_set1(a->shrink)), step), n);
}

static void creg_adamw_step(void *adamw, ptrdiff_t task)
{
    const creg_adamw a = *(const creg_adamw *)adamw; /* a copy: stores to w cannot alias it */
    const ptrdiff_t end = min_size((task + 1) * a.block, a.n);
    ptrdiff_t j = task * a.block;
    for (; j + CREG_W <= end; j += CREG_W) adamw_part(&a, j, CREG_W); /* main loop */
    if (j < end) adamw_part(&a, j, end - j);                          /* tail */
}

#endif
