/* Sums in one fixed order, and moments that can be merged.
 *
 * Lanes      A panel (at most CREG_PANEL elements) is summed over CREG_LANES float32 lanes: element j goes to lane
 *            j mod CREG_LANES. Four groups of lanes are added as (0 + 1) + (2 + 3) before they reach the running sums;
 *            the final horizontal reduction adds the upper half of the lanes to the lower until one is left. Panels are
 *            merged in float64.
 * Moments    d = x - shift, shift = mean of the panel's first lanes (the provisional mean), in one pass over memory:
 *            mean = shift + sum(d) / n,  m2 = sum(d^2) - sum(d)^2 / n
 * Numerics   The one-pass form is accurate while the correction sum(d)^2 / n does not exceed m2. Other panels (a trend,
 *            a jump, constant values) get a second pass about the mean just found. The choice depends on the panel's
 *            values alone, so bits stay the same everywhere.
 * Source     Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance", also for merging.
 */
#ifndef CREG_REDUCE_H
#define CREG_REDUCE_H

#include "stored.h"

#include <math.h>

#define AT(p, j) ((p) ? (p) + (j) : NULL) /* an optional array from element j on */

enum { CREG_VECS = CREG_LANES / CREG_W };

typedef struct {
    vf v[CREG_VECS];
} acc;

typedef struct {
    vf a, b;
} vf2;

typedef struct {
    float a, b;
} sums;

typedef struct {
    double count, mean, m2;
} moments;

/* The two terms to be summed of elements [at, at + CREG_W), or of those in the window `cut`; the other lanes must be 0.
 * ctx holds the operands. */
typedef vf2 (*terms)(const void *ctx, ptrdiff_t at, const vw *cut);

CREG_INLINE vf v_load_cut(const float *p, const vw *cut) { return cut ? v_load_window(p, *cut) : v_load(p); }
CREG_INLINE vf x_load_cut(const stored *p, const vw *cut) { return cut ? x_load_window(p, *cut) : x_load(p); }
CREG_INLINE vf v_cut(vf a, const vw *cut) { return cut ? v_only(a, *cut) : a; }

/* A group of lanes of which only the first n <= CREG_LANES hold elements. */
typedef struct {
    ptrdiff_t n;
    vw cut[CREG_VECS];
} part;

CREG_INLINE part part_of(ptrdiff_t n)
{
    part p = {.n = n};
    for (int k = 0; k < CREG_VECS; k++) p.cut[k] = v_window(n - k * CREG_W);
    return p;
}

/* Vector k of a group, or of a part of one (p is not NULL): whether it holds no element, and its window, NULL for a
 * full vector. A window costs as much as an addition. */
CREG_INLINE int is_empty(const part *p, int k) { return p && p->n <= k * CREG_W; }
CREG_INLINE const vw *cut_of(const part *p, int k) { return p && p->n < (k + 1) * CREG_W ? p->cut + k : NULL; }

CREG_INLINE ptrdiff_t min_size(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

CREG_INLINE acc acc_zero(void)
{
    acc a;
    for (int k = 0; k < CREG_VECS; k++) a.v[k] = v_set1(0.0f);
    return a;
}

/* The horizontal reduction down to one vector, which v_sum() reduces further. */
CREG_INLINE vf acc_fold(acc a)
{
    for (int half = CREG_VECS / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++) a.v[k] = v_add(a.v[k], a.v[k + half]);
    return a.v[0];
}

CREG_INLINE float acc_sum(acc a) { return v_sum(acc_fold(a)); }

CREG_INLINE vf2 add2(vf2 x, vf2 y) { return (vf2){v_add(x.a, y.a), v_add(x.b, y.b)}; }

/* Adds the terms of one group of lanes, or of four groups `step` apart. p is NULL for full groups, else the part that
 * each group has. */
CREG_INLINE void add_groups(terms of, const void *ctx, ptrdiff_t at, const part *p, int groups, ptrdiff_t step, acc *a,
                            acc *b)
{
    for (int k = 0; k < CREG_VECS; k++) {
        const ptrdiff_t i = at + k * CREG_W;
        const vw *cut = p ? p->cut + k : NULL;
        if (is_empty(p, k)) continue;
        vf2 t = of(ctx, i, cut);
        if (groups == 4)
            t = add2(add2(t, of(ctx, i + step, cut)), add2(of(ctx, i + 2 * step, cut), of(ctx, i + 3 * step, cut)));
        a->v[k] = v_add(a->v[k], t.a);
        b->v[k] = v_add(b->v[k], t.b);
    }
}

/* Both sums over n elements from `at` on: a panel of a row. */
CREG_INLINE sums panel_sums(terms of, const void *ctx, ptrdiff_t at, ptrdiff_t n)
{
    acc a = acc_zero(), b = acc_zero();
    ptrdiff_t j = 0;
    for (; j + 4 * CREG_LANES <= n; j += 4 * CREG_LANES) add_groups(of, ctx, at + j, NULL, 4, CREG_LANES, &a, &b);
    for (; j + CREG_LANES <= n; j += CREG_LANES) add_groups(of, ctx, at + j, NULL, 1, 0, &a, &b);
    if (j < n) { /* tail */
        const part rest = part_of(n - j);
        add_groups(of, ctx, at + j, &rest, 1, 0, &a, &b);
    }
    return (sums){acc_sum(a), acc_sum(b)};
}

/* Both sums over several pieces (planes) of n elements, `stride` apart; four pieces run side by side. */
CREG_INLINE sums pieces_sums(terms of, const void *ctx, ptrdiff_t pieces, ptrdiff_t stride, ptrdiff_t n)
{
    if (pieces == 1) return panel_sums(of, ctx, 0, n);
    acc a = acc_zero(), b = acc_zero();
    const part rest = part_of(n % CREG_LANES);
    const ptrdiff_t whole = n - rest.n;
    ptrdiff_t i = 0;
    for (; i + 4 <= pieces; i += 4) {
        const ptrdiff_t at = i * stride;
        for (ptrdiff_t j = 0; j < whole; j += CREG_LANES) add_groups(of, ctx, at + j, NULL, 4, stride, &a, &b);
        if (rest.n) add_groups(of, ctx, at + whole, &rest, 4, stride, &a, &b);
    }
    for (; i < pieces; i++) {
        const ptrdiff_t at = i * stride;
        for (ptrdiff_t j = 0; j < whole; j += CREG_LANES) add_groups(of, ctx, at + j, NULL, 1, 0, &a, &b);
        if (rest.n) add_groups(of, ctx, at + whole, &rest, 1, 0, &a, &b);
    }
    return (sums){acc_sum(a), acc_sum(b)};
}

/* d = x - shift and its square. */
typedef struct {
    const stored *x;
    vf shift;
} shifted;

CREG_INLINE vf2 shifted_terms(const void *ctx, ptrdiff_t at, const vw *cut)
{
    const shifted *s = ctx;
    const vf d = v_cut(v_sub(x_load_cut(s->x + at, cut), s->shift), cut);
    return (vf2){d, v_mul(d, d)};
}

/* The horizontal reduction of a group of lanes, or of a part of one, down to one vector. */
CREG_INLINE vf group_fold(const stored *x, const part *p)
{
    acc a;
#pragma GCC unroll 16
    for (int k = 0; k < CREG_VECS; k++)
        a.v[k] = is_empty(p, k) ? v_set1(0.0f) : x_load_cut(x + k * CREG_W, cut_of(p, k));
    return acc_fold(a);
}

CREG_INLINE float per_lane(const part *p) { return 1.0f / (float)(p ? p->n : CREG_LANES); }

/* The provisional mean. */
CREG_INLINE float leading_mean(const stored *x, ptrdiff_t n)
{
    if (n >= CREG_LANES) return v_sum(group_fold(x, NULL)) * per_lane(NULL);
    const part few = part_of(n);
    return v_sum(group_fold(x, &few)) * per_lane(&few);
}

/* Moments of `pieces` runs of n elements, `stride` apart: together a panel. */
CREG_INLINE moments panel_moments(const stored *x, ptrdiff_t pieces, ptrdiff_t stride, ptrdiff_t n)
{
    const double count = (double)(pieces * n), per_count = 1.0 / count;
    float shift = leading_mean(x, n);
    for (int refined = 0;; refined = 1) {
        const shifted ctx = {x, v_set1(shift)};
        const sums s = pieces_sums(shifted_terms, &ctx, pieces, stride, n);
        const double total = s.a, correction = total * per_count, m2 = (double)s.b - total * correction;
        if (refined || !(total * correction > m2))
            return (moments){count, (double)shift + correction, m2 < 0.0 ? 0.0 : m2};
        shift = (float)((double)shift + correction);
    }
}

/* The moments of the union of a and b. */
CREG_INLINE moments moments_merge(moments a, moments b)
{
    const double count = a.count + b.count, delta = b.mean - a.mean;
    const double share = b.count / count;
    return (moments){count, a.mean + delta * share, a.m2 + b.m2 + delta * delta * (a.count * share)};
}

/* Moments of one row of any length. */
CREG_INLINE moments row_moments(const stored *x, ptrdiff_t cols)
{
    moments total = panel_moments(x, 1, 0, min_size(cols, CREG_PANEL));
    for (ptrdiff_t j = CREG_PANEL; j < cols; j += CREG_PANEL)
        total = moments_merge(total, panel_moments(x + j, 1, 0, min_size(cols - j, CREG_PANEL)));
    return total;
}

/* x^2; the second sum is 0, and the compiler removes it. */
CREG_INLINE vf2 square_terms(const void *ctx, ptrdiff_t at, const vw *cut)
{
    const vf v = x_load_cut((const stored *)ctx + at, cut);
    return (vf2){v_mul(v, v), v_set1(0.0f)};
}

CREG_INLINE double panel_squares(const stored *x, ptrdiff_t n) { return (double)panel_sums(square_terms, x, 0, n).a; }

CREG_INLINE double row_squares(const stored *x, ptrdiff_t cols)
{
    double total = 0.0;
    for (ptrdiff_t j = 0; j < cols; j += CREG_PANEL) total += panel_squares(x + j, min_size(cols - j, CREG_PANEL));
    return total;
}

/* hi + lo = mean, in float32. Two functions, because GCC 12 simplifies (double)(float)v of vectors to v, and lo to 0.
 */
static CREG_NOINLINE void round_means(const double *restrict mean, float *restrict hi, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) hi[i] = (float)mean[i];
}

static CREG_NOINLINE void split_means(const double *restrict mean, float *restrict hi, float *restrict lo, ptrdiff_t n)
{
    round_means(mean, hi, n);
    for (ptrdiff_t i = 0; i < n; i++) lo[i] = (float)(mean[i] - (double)hi[i]);
}

/* Sums in float64 of `pieces` runs of n elements. Eight lanes allow vectorisation in a fixed order. */
static double exact_sum(const stored *x, ptrdiff_t pieces, ptrdiff_t stride, ptrdiff_t n, double centre, int square)
{
    double lane[8] = {0};
    for (ptrdiff_t i = 0; i < pieces; i++)
        for (ptrdiff_t j = 0; j < n; j++) {
            const double d = (double)x_value(x + i * stride + j) - centre;
            lane[j & 7] += square ? d * d : d;
        }
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

static moments exact_moments(const stored *x, ptrdiff_t pieces, ptrdiff_t stride, ptrdiff_t n)
{
    const double count = (double)pieces * (double)n;
    const double mean = exact_sum(x, pieces, stride, n, 0.0, 0) / count;
    return (moments){count, mean, exact_sum(x, pieces, stride, n, mean, 1)};
}

#endif
