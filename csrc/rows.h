/* Helpers of the norms over rows: sums of short rows, and the statistics of a row. */
#ifndef CREG_ROWS_H
#define CREG_ROWS_H

#include "safety.h"
#include "stores.h"

enum {
    /* Short rows are processed this many at a time. The latency of the horizontal reductions, the square root and the
     * division of a single short row would dominate. */
    CREG_BATCH = 8
};

CREG_INLINE int is_short(ptrdiff_t cols) { return cols < 4 * CREG_LANES && cols >= CREG_W && cols > CREG_FEW; }

/* The number of rows, 0 or 1, by which statistics run ahead of writing: the CPU writes a row during the latency of the
 * next row's horizontal reduction, square root and division. 0 for rows of which two do not fit in L1. */
CREG_INLINE ptrdiff_t row_lag(ptrdiff_t cols) { return cols <= 2048; }

/* A row's mean (hi + lo) and scale, in vectors. RMS norm has no mean. */
typedef struct {
    vf hi, lo, rstd;
} row_scale;

CREG_INLINE row_scale row_scale_of(double mean, double rstd)
{
    const float hi = (float)mean;
    return (row_scale){v_set1(hi), v_set1((float)(mean - (double)hi)), v_set1((float)rstd)};
}

/* A row's mean and rstd, and whether float32 is enough for the rest. */
typedef struct {
    double mean, rstd;
    int safe;
} row_statistics;

/* CREG_BATCH short rows: their sums, and mean (hi + lo) and scale in float32. */
typedef struct {
    float shift[CREG_BATCH], sum[CREG_BATCH], squares[CREG_BATCH], hi[CREG_BATCH], lo[CREG_BATCH], scale[CREG_BATCH];
    double mean[CREG_BATCH], rstd[CREG_BATCH];
    int unsafe; /* some row needs more than one pass of float32 */
} short_rows;

/* The inputs of a row's backward; and its means of g and g * x_hat, g = dy * gamma. */
typedef struct {
    const stored *dy, *x;
    const float *gamma;
    row_scale row;
} grad_operands;

typedef struct {
    double g, g_x_hat;
} grad_means;

CREG_INLINE vf grad_load(const grad_operands *o, ptrdiff_t at, const vw *cut)
{
    const vf g = x_load_cut(o->dy + at, cut);
    return o->gamma ? v_mul(g, v_load_cut(o->gamma + at, cut)) : g;
}

/* panel_sums() of a short row, reduced to one vector for each sum; `rest` is its tail, a part of a group. Lanes start
 * with their first terms instead of 0, so the caller adds 0 at the end, which turns -0 into 0. */
CREG_INLINE vf2 short_folds(terms of, const void *ctx, ptrdiff_t n, const part *rest)
{
    const ptrdiff_t whole = n - rest->n;
    acc a, b;
#pragma GCC unroll 16
    for (int k = 0; k < CREG_VECS; k++) {
        vf2 t = {v_set1(0.0f), v_set1(0.0f)};
        if (whole)
            t = of(ctx, k * CREG_W, NULL);
        else if (!is_empty(rest, k))
            t = of(ctx, k * CREG_W, cut_of(rest, k));
        a.v[k] = t.a;
        b.v[k] = t.b;
    }
    for (ptrdiff_t j = CREG_LANES; j < whole; j += CREG_LANES) add_groups(of, ctx, j, NULL, 1, 0, &a, &b);
    if (whole && rest->n) add_groups(of, ctx, whole, rest, 1, 0, &a, &b);
    return (vf2){acc_fold(a), acc_fold(b)};
}

CREG_INLINE sums short_sums(terms of, const void *ctx, ptrdiff_t n, const part *rest)
{
    const vf2 folds = short_folds(of, ctx, n, rest);
    return (sums){v_sum(folds.a) + 0.0f, v_sum(folds.b) + 0.0f};
}

/* The provisional means of a batch of short rows. */
CREG_INLINE void short_shift(const stored *x, ptrdiff_t cols, const part *rest, short_rows *s)
{
    const part *first = cols < CREG_LANES ? rest : NULL;
    vf folds[CREG_BATCH];
#pragma GCC unroll 8
    for (int i = 0; i < CREG_BATCH; i++) folds[i] = group_fold(x + i * cols, first);
    v_sums(folds, s->shift);
    const float per = per_lane(first);
    for (int i = 0; i < CREG_BATCH; i++) s->shift[i] *= per;
}

/* The sums of d and d^2 of a batch of short rows, d = x - shift; the caller adds 0. */
CREG_INLINE void short_moment_sums(const stored *x, ptrdiff_t cols, const part *rest, short_rows *s)
{
    vf sum[CREG_BATCH], squares[CREG_BATCH];
#pragma GCC unroll 8
    for (int i = 0; i < CREG_BATCH; i++) {
        const shifted ctx = {x + i * cols, v_set1(s->shift[i])};
        const vf2 folds = short_folds(shifted_terms, &ctx, cols, rest);
        sum[i] = folds.a;
        squares[i] = folds.b;
    }
    v_sums(sum, s->sum);
    v_sums(squares, s->squares);
}

/* gradients_are_safe() for a batch of short rows. */
static CREG_NOINLINE int batch_gradients_are_safe(const double *means, const double *rstd, const stored *dy,
                                                  const float *gamma, ptrdiff_t cols)
{
    for (int i = 0; i < CREG_BATCH; i++)
        if (!gradients_are_safe(means[i], rstd[i], dy + i * cols, gamma, cols)) return 0;
    return 1;
}

#endif
