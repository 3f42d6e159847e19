/* Weight decay and the optimiser steps that carry it, element by element, in place.
 *
 * L2         penalty = weight_decay / 2 * sum(w^2),  its gradient = weight_decay * w
 * SGD        g = dw + weight_decay * w,  velocity = momentum * velocity + g,  w -= lr * velocity
 * AdamW      (Loshchilov and Hutter, 2019, arXiv:1711.05101)  w *= 1 - lr * weight_decay, g = dw;
 *            with L2 in Adam's gradient instead (Kingma and Ba, 2015, arXiv:1412.6980)  g = dw + weight_decay * w;
 *            m = beta1 * m + (1 - beta1) * g,  v = beta2 * v + (1 - beta2) * g^2
 *            w -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
 *
 * Numerics   An element that is infinite or NaN after its step in float32 takes it again in float64, so that no sum
 * overflows on the way to a finite weight.
 */
#ifndef CREG_OPTIMIZER_H
#define CREG_OPTIMIZER_H

#include "reduce.h"

/* Sum of squares of at most CREG_PANEL elements, whatever their magnitude. */
static double creg_sum_squares(const float *x, ptrdiff_t n)
{
    const double squares = panel_squares(x, n);
    return creg_is_safe(squares, squares) ? squares : exact_sum(x, 1, 0, n, 0.0, 1);
}

CREG_INLINE int all_finite(vf a)
{
    const vf zero = v_sub(a, a);
    return vm_bits(v_equal(zero, zero)) == (1u << CREG_W) - 1;
}

/* One step in float64 of each of the n <= CREG_W elements that came out infinite or NaN, where a sum may have
 * overflowed on the way to a finite one. `old` and `old_velocity` are what w and velocity were. */
static CREG_NOINLINE void sgd_exact(float *w, const float *dw, float *velocity, vf old, vf old_velocity, ptrdiff_t n,
                                    const creg_sgd *sgd)
{
    float from[CREG_W], moving[CREG_W];
    v_store(from, old);
    v_store(moving, old_velocity);
    for (ptrdiff_t i = 0; i < n && i < CREG_W; i++) {
        if (w[i] - w[i] == 0.0f) continue;
        double g = (double)dw[i] + (double)sgd->weight_decay * (double)from[i];
        if (velocity) {
            g = (double)sgd->momentum * (double)moving[i] + g;
            velocity[i] = (float)g;
        }
        w[i] = (float)((double)from[i] - (double)sgd->lr * g);
    }
}

CREG_INLINE void sgd_part(float *w, const float *dw, float *velocity, ptrdiff_t n, const creg_sgd *sgd)
{
    const vf old = v_load_part(w, n), old_velocity = velocity ? v_load_part(velocity, n) : old;
    vf g = v_add(v_load_part(dw, n), v_mul(v_set1(sgd->weight_decay), old));
    if (velocity) {
        g = v_add(v_mul(v_set1(sgd->momentum), old_velocity), g);
        v_put_part(velocity, g, n, 0);
    }
    const vf next = v_sub(old, v_mul(v_set1(sgd->lr), g));
    v_put_part(w, next, n, 0);
    if (!all_finite(next)) sgd_exact(w, dw, velocity, old, old_velocity, n, sgd);
}

static void creg_sgd_step(float *w, const float *dw, float *velocity, ptrdiff_t n, const creg_sgd *sgd)
{
    ptrdiff_t j = 0;
    for (; j + CREG_W <= n; j += CREG_W) sgd_part(w + j, dw + j, AT(velocity, j), CREG_W, sgd); /* main loop */
    if (j < n) sgd_part(w + j, dw + j, AT(velocity, j), n - j, sgd);                            /* tail */
}

/* As sgd_exact(). */
static CREG_NOINLINE void adamw_exact(float *w, const float *dw, float *m, float *v, vf old, vf old_m, vf old_v,
                                      ptrdiff_t n, const creg_adamw *a)
{
    float from[CREG_W], first[CREG_W], second[CREG_W];
    v_store(from, old);
    v_store(first, old_m);
    v_store(second, old_v);
    for (ptrdiff_t i = 0; i < n && i < CREG_W; i++) {
        if (w[i] - w[i] == 0.0f && v[i] - v[i] == 0.0f) continue;
        const double g = (double)dw[i] + (double)a->l2 * (double)from[i];
        const double mean = (double)a->beta1 * (double)first[i] + (double)a->one_minus_beta1 * g;
        const double square = (double)a->beta2 * (double)second[i] + (double)a->one_minus_beta2 * g * g;
        const double root = sqrt(square) * (double)a->inv_sqrt_bias2 + (double)a->eps;
        m[i] = (float)mean;
        v[i] = (float)square;
        w[i] = (float)((double)from[i] * (double)a->shrink - (double)a->step_size * mean / root);
    }
}

CREG_INLINE void adamw_part(float *w, const float *dw, float *m, float *v, ptrdiff_t n, const creg_adamw *a)
{
    const vf old = v_load_part(w, n), old_m = v_load_part(m, n), old_v = v_load_part(v, n);
    const vf g = v_add(v_load_part(dw, n), v_mul(v_set1(a->l2), old));
    const vf first = v_add(v_mul(v_set1(a->beta1), old_m), v_mul(v_set1(a->one_minus_beta1), g));
    const vf second = v_add(v_mul(v_set1(a->beta2), old_v), v_mul(v_mul(v_set1(a->one_minus_beta2), g), g));
    const vf root = v_add(v_mul(v_sqrt(second), v_set1(a->inv_sqrt_bias2)), v_set1(a->eps));
    const vf next = v_sub(v_mul(old, v_set1(a->shrink)), v_div(v_mul(v_set1(a->step_size), first), root));
    v_put_part(m, first, n, 0);
    v_put_part(v, second, n, 0);
    v_put_part(w, next, n, 0);
    if (!all_finite(v_add(next, second))) adamw_exact(w, dw, m, v, old, old_m, old_v, n, a);
}

static void creg_adamw_step(float *w, const float *dw, float *m, float *v, ptrdiff_t n, const creg_adamw *a)
{
    ptrdiff_t j = 0;
    for (; j + CREG_W <= n; j += CREG_W) adamw_part(w + j, dw + j, m + j, v + j, CREG_W, a); /* main loop */
    if (j < n) adamw_part(w + j, dw + j, m + j, v + j, n - j, a);                            /* tail */
}

#endif
