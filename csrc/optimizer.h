/* Weight decay and the optimiser steps that carry it, element by element, in place.
 *
 * L2         penalty = weight_decay / 2 * sum(w^2),  its gradient = weight_decay * w
 * SGD        g = dw + weight_decay * w,  velocity = momentum * velocity + g,  w -= lr * velocity
 * AdamW      (Loshchilov and Hutter, 2019, arXiv:1711.05101)  w *= 1 - lr * weight_decay, g = dw;
 *            with L2 in Adam's gradient instead (Kingma and Ba, 2015, arXiv:1412.6980)  g = dw + weight_decay * w;
 *            m = beta1 * m + (1 - beta1) * g,  v = beta2 * v + (1 - beta2) * g^2
 *            w -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
 */
#ifndef CREG_OPTIMIZER_H
#define CREG_OPTIMIZER_H

#include "safety.h"
#include "stores.h"

/* Sum of squares of at most CREG_PANEL elements, whatever their magnitude. */
static double creg_sum_squares(const float *x, ptrdiff_t n)
{
    const double squares = panel_squares(x, n);
    return creg_is_safe(squares, squares) ? squares : exact_sum(x, 1, 0, n, 0.0, 1);
}

CREG_INLINE void sgd_part(float *w, const float *dw, float *velocity, ptrdiff_t n, const creg_sgd *sgd)
{
    const vf old = v_load_part(w, n);
    vf g = v_add(v_load_part(dw, n), v_mul(v_set1(sgd->weight_decay), old));
    if (velocity) {
        g = v_add(v_mul(v_set1(sgd->momentum), v_load_part(velocity, n)), g);
        v_put_part(velocity, g, n, 0);
    }
    v_put_part(w, v_sub(old, v_mul(v_set1(sgd->lr), g)), n, 0);
}

static void creg_sgd_step(float *w, const float *dw, float *velocity, ptrdiff_t n, const creg_sgd *sgd)
{
    ptrdiff_t j = 0;
    for (; j + CREG_W <= n; j += CREG_W) sgd_part(w + j, dw + j, AT(velocity, j), CREG_W, sgd); /* main loop */
    if (j < n) sgd_part(w + j, dw + j, AT(velocity, j), n - j, sgd);                            /* tail */
}

CREG_INLINE void adamw_part(float *w, const float *dw, float *m, float *v, ptrdiff_t n, const creg_adamw *a)
{
    const vf old = v_load_part(w, n);
    const vf g = v_add(v_load_part(dw, n), v_mul(v_set1(a->l2), old));
    const vf first = v_add(v_mul(v_set1(a->beta1), v_load_part(m, n)), v_mul(v_set1(a->one_minus_beta1), g));
    const vf second = v_add(v_mul(v_set1(a->beta2), v_load_part(v, n)), v_mul(v_mul(v_set1(a->one_minus_beta2), g), g));
    const vf root = v_add(v_mul(v_sqrt(second), v_set1(a->inv_sqrt_bias2)), v_set1(a->eps));
    const vf step = v_div(v_mul(v_set1(a->step_size), first), root);
    v_put_part(m, first, n, 0);
    v_put_part(v, second, n, 0);
    v_put_part(w, v_sub(v_mul(old, v_set1(a->shrink)), step), n, 0);
}

static void creg_adamw_step(float *w, const float *dw, float *m, float *v, ptrdiff_t n, const creg_adamw *a)
{
    ptrdiff_t j = 0;
    for (; j + CREG_W <= n; j += CREG_W) adamw_part(w + j, dw + j, m + j, v + j, CREG_W, a); /* main loop */
    if (j < n) adamw_part(w + j, dw + j, m + j, v + j, n - j, a);                            /* tail */
}

#endif
