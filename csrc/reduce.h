/* Sums in one fixed order, and moments that can be merged.
 *
 * A panel (at most CREG_PANEL elements) is summed over CREG_LANES float32 lanes: element j goes to lane j mod
 * CREG_LANES. Four groups of lanes are added as (0 + 1) + (2 + 3) before they reach the running sums, which shortens
 * both the chain of roundings and the chain of additions the processor waits for; at the end the lanes are folded by
 * adding the upper half to the lower until one is left. Panels are merged in float64.
 *
 * Moments use a provisional mean, the mean of the panel's first lanes. With d = x - shift,
 *     mean = shift + sum(d) / n,     m2 = sum(d^2) - sum(d)^2 / n,
 * in one pass over memory. It loses nothing while the correction sum(d)^2 / n does not exceed m2; a panel where it does
 * (a trend, a jump, a constant row) is passed over once more about the mean just found. That choice depends on the
 * panel's values alone, so it never changes bits between machines. It costs one pass where the corrected two-pass
 * algorithm costs two (Chan, Golub and LeVeque, 1983, "Algorithms for computing the sample variance"; merging: ibid.).
 */
#ifndef CREG_REDUCE_H
#define CREG_REDUCE_H

#include <math.h>
#include <string.h>

#define AT(p, j) ((p) ? (p) + (j) : NULL) /* an optional array from element j on */

enum {
    CREG_VECS = CREG_LANES / CREG_W,
    CREG_LINE = 64 / sizeof(float) /* elements of a cache line */
};

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
CREG_INLINE vf v_cut(vf a, const vw *cut) { return cut ? v_only(a, *cut) : a; }

/* A group of lanes of which only the first n <= CREG_LANES are there. */
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

/* Register k of a group, or of a part of one: whether nothing of it is there, and where to cut it, if at all. A cut
 * costs as much as another addition. */
CREG_INLINE int is_empty(const part *p, int k) { return p && p->n <= k * CREG_W; }
CREG_INLINE const vw *cut_of(const part *p, int k) { return p && p->n < (k + 1) * CREG_W ? p->cut + k : NULL; }

CREG_INLINE ptrdiff_t min_size(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* Asks for a group of lanes that is needed soon. Processors fetch ahead by themselves, but only within a page, and not
 * while a row that is in the cache already is gone over once more. Where outputs are streamed, into the second cache:
 * the first has a dozen lines under way at most, and streamed stores take their share of them. (On a Xeon layer norm
 * of rows of 16 KiB took 0.85 of the time so, dropout 0.8; on Zen 5 it makes no difference.) */
CREG_INLINE void prefetch_group(const float *p, int stream)
{
    for (int j = 0; j < CREG_LANES; j += CREG_LINE)
        if (stream)
            __builtin_prefetch(p + j, 0, 2);
        else
            __builtin_prefetch(p + j);
}

/* Asks for what a run reads next where its arrays are beyond the cache: streamed stores keep some processors from
 * seeing by themselves where the loads go. (Dropout of 16 and 32 MiB took 0.3 of the time so on Zen 5, batch norm 0.9
 * to 1.) */
enum { AHEAD = 2048 };
CREG_INLINE void fetch_ahead(const float *p, int stream)
{
    if (stream) __builtin_prefetch(p + AHEAD, 0, 2);
}

/* How far ahead a run asks for what it is to store. Stores leave the processor in order, so that those into sums, which
 * are in the first cache, wait behind any that is not. */
enum { WRITE_AHEAD = 512 };

CREG_INLINE acc acc_zero(void)
{
    acc a;
    for (int k = 0; k < CREG_VECS; k++) a.v[k] = v_set1(0.0f);
    return a;
}

/* The lanes folded into one register, which v_sum() folds further. */
CREG_INLINE vf acc_fold(acc a)
{
    for (int half = CREG_VECS / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++) a.v[k] = v_add(a.v[k], a.v[k + half]);
    return a.v[0];
}

CREG_INLINE float acc_sum(acc a) { return v_sum(acc_fold(a)); }

CREG_INLINE vf2 add2(vf2 x, vf2 y) { return (vf2){v_add(x.a, y.a), v_add(x.b, y.b)}; }

/* Adds the terms of one group of lanes, or of four, `step` apart; of whole groups, or of the same part of each. */
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

/* With so few values a gradient is what is left when its terms cancel, so neither float32 terms nor float32 sums behind
 * rstd would do. */
enum { CREG_FEW = 4 };

/* Short rows are summed and scaled CREG_BATCH at a time: a row alone is mostly waiting, for its folds and for the root
 * and the division behind them. */
enum { CREG_BATCH = 8 };

CREG_INLINE int is_short(ptrdiff_t cols) { return cols < 4 * CREG_LANES && cols >= CREG_W && cols > CREG_FEW; }

/* How many rows the statistics run ahead of the rows that are written: folding a row's sums, the root and the division
 * take a hundred cycles in which the processor can write the row before. Not where two rows crowd the first cache. */
CREG_INLINE ptrdiff_t row_lag(ptrdiff_t cols) { return cols <= 2048; }

/* panel_sums() of a short row, the part of a group at whose end is `rest`, down to a register each. The lanes start
 * with the first terms instead of 0 plus them, so that 0 must be added at last, which makes the same of a -0. */
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
    const float *x;
    vf shift;
} shifted;

CREG_INLINE vf2 shifted_terms(const void *ctx, ptrdiff_t at, const vw *cut)
{
    const shifted *s = ctx;
    const vf d = v_cut(v_sub(v_load_cut(s->x + at, cut), s->shift), cut);
    return (vf2){d, v_mul(d, d)};
}

/* The sum of a group of lanes, or of the part of it that is there, down to a register. */
CREG_INLINE vf group_fold(const float *x, const part *p)
{
    acc a;
#pragma GCC unroll 16
    for (int k = 0; k < CREG_VECS; k++)
        a.v[k] = is_empty(p, k) ? v_set1(0.0f) : v_load_cut(x + k * CREG_W, cut_of(p, k));
    return acc_fold(a);
}

CREG_INLINE float per_lane(const part *p) { return 1.0f / (float)(p ? p->n : CREG_LANES); }

/* The provisional mean. */
CREG_INLINE float leading_mean(const float *x, ptrdiff_t n)
{
    if (n >= CREG_LANES) return v_sum(group_fold(x, NULL)) * per_lane(NULL);
    const part few = part_of(n);
    return v_sum(group_fold(x, &few)) * per_lane(&few);
}

/* Moments of `pieces` runs of n elements, `stride` apart: together a panel. */
CREG_INLINE moments panel_moments(const float *x, ptrdiff_t pieces, ptrdiff_t stride, ptrdiff_t n)
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

/* a and b together. */
CREG_INLINE moments moments_merge(moments a, moments b)
{
    const double count = a.count + b.count, delta = b.mean - a.mean;
    const double share = b.count / count;
    return (moments){count, a.mean + delta * share, a.m2 + b.m2 + delta * delta * (a.count * share)};
}

/* Moments of one row of any length. */
CREG_INLINE moments row_moments(const float *x, ptrdiff_t cols)
{
    moments total = panel_moments(x, 1, 0, min_size(cols, CREG_PANEL));
    for (ptrdiff_t j = CREG_PANEL; j < cols; j += CREG_PANEL)
        total = moments_merge(total, panel_moments(x + j, 1, 0, min_size(cols - j, CREG_PANEL)));
    return total;
}

/* x^2, and nothing for the second sum: the compiler drops it. */
CREG_INLINE vf2 square_terms(const void *ctx, ptrdiff_t at, const vw *cut)
{
    const vf v = v_load_cut((const float *)ctx + at, cut);
    return (vf2){v_mul(v, v), v_set1(0.0f)};
}

CREG_INLINE double panel_squares(const float *x, ptrdiff_t n) { return (double)panel_sums(square_terms, x, 0, n).a; }

CREG_INLINE double row_squares(const float *x, ptrdiff_t cols)
{
    double total = 0.0;
    for (ptrdiff_t j = 0; j < cols; j += CREG_PANEL) total += panel_squares(x + j, min_size(cols - j, CREG_PANEL));
    return total;
}

/* Whether float32 squares were enough: nothing overflowed (or was NaN), and variance + eps is so far above the smallest
 * float32 squares (2^-126) that what they lost is below half an ulp. It also bounds rstd to [2^-64, 2^48], which is
 * what the backward passes go by. */
CREG_INLINE int creg_is_safe(double m2, double variance_plus_eps)
{
    return (m2 - m2 == 0.0) & (variance_plus_eps >= 0x1p-96) & (variance_plus_eps <= 0x1p+128);
}

CREG_INLINE int creg_is_safe_rstd(double rstd) { return (rstd >= 0x1p-64) & (rstd <= 0x1p+48); }

/* Gradients below it lose bits to underflow in float32 products; with means above its inverse, differences may overflow
 * on the way to a finite dx. */
#define SMALLEST_SAFE_GRADIENT 0x1p-80

CREG_INLINE vf v_magnitude(vf a) { return v_max(a, v_sub(v_set1(0.0f), a)); }

/* The smallest and largest of 0 and the elements seen, lane by lane. NaN is ignored. */
typedef struct {
    vf low, high;
} range;

/* Ranges that are widened in turn, so that none waits for the one before. */
enum { RANGES = 4 };
typedef struct {
    range of[RANGES];
} ranges;

CREG_INLINE void widen(range *seen, vf v)
{
    seen->low = v_min(v, seen->low);
    seen->high = v_max(v, seen->high);
}

CREG_INLINE ranges no_ranges(void)
{
    ranges seen;
    for (int k = 0; k < RANGES; k++) seen.of[k] = (range){v_set1(0.0f), v_set1(0.0f)};
    return seen;
}

CREG_INLINE range merged(const ranges *seen)
{
    range all = seen->of[0];
    for (int k = 1; k < RANGES; k++) {
        all.low = v_min(all.low, seen->of[k].low);
        all.high = v_max(all.high, seen->of[k].high);
    }
    return all;
}

CREG_INLINE range range_of(const float *p, ptrdiff_t n)
{
    ranges seen = no_ranges();
    ptrdiff_t j = 0;
    for (; j + RANGES * CREG_W <= n; j += RANGES * CREG_W) /* main loop */
        for (int k = 0; k < RANGES; k++) widen(&seen.of[k], v_load(p + j + k * CREG_W));
    for (; j < n; j += CREG_W) widen(&seen.of[0], v_load_part(p + j, n - j)); /* tail */
    return merged(&seen);
}

/* The largest magnitudes of n elements, lane by lane, but NaN. */
CREG_INLINE vf largest_magnitudes(const float *p, ptrdiff_t n)
{
    const range seen = range_of(p, n);
    return v_max(seen.high, v_sub(v_set1(0.0f), seen.low));
}

CREG_INLINE int all_at_most(vf a, float limit)
{
    return vm_bits(v_equal(v_max(a, v_set1(limit)), v_set1(limit))) == (1u << CREG_W) - 1;
}

static int creg_are_at_most(const float *p, float limit, ptrdiff_t n)
{
    return all_at_most(largest_magnitudes(p, n), limit);
}

CREG_INLINE vf v_clamp(vf a, float limit) { return v_max(v_min(a, v_set1(limit)), v_set1(-limit)); }

/* Whether the largest of |a * b| is 0 or at least SMALLEST_SAFE_GRADIENT; of |a|, where b is NULL. Both factors are
 * scaled by 2^75, so that no product vanishes, and clamped, so that none is infinity times 0. */
static CREG_NOINLINE int no_small_product(const float *a, const float *b, ptrdiff_t n)
{
    const vf scale = v_set1(0x1p+75f), of_a = largest_magnitudes(a, n);
    vf products = v_set1(0.0f);
    if (all_at_most(of_a, 0.0f)) return 1;
    if (!b) return !all_at_most(of_a, 0x1.fffffep-81f);
    for (ptrdiff_t j = 0; j < n; j += CREG_W) {
        const vf u = v_clamp(v_mul(v_load_part(a + j, n - j), scale), 0x1p+127f);
        const vf v = v_clamp(v_mul(v_load_part(b + j, n - j), scale), 0x1p+127f);
        products = v_max(products, v_magnitude(v_mul(u, v)));
    }
    return all_at_most(products, 0.0f) || !all_at_most(products, 0x1.fffffep+69f);
}

/* Whether float32 is enough for dx of a row, given the magnitudes of its means of g and g * x_hat, g = dy * gamma,
 * added. These tell it, except where they are so small that they may have cancelled or vanished. */
CREG_INLINE int means_are_plain(double means)
{
    return (means >= SMALLEST_SAFE_GRADIENT) & (means <= 1.0 / SMALLEST_SAFE_GRADIENT);
}

/* Whether gradients whose means vanished are taken for zeros by a few of them. Up to this rstd, which an eps of 1e-6
 * keeps, products that vanished could give a subnormal dx at most. */
CREG_INLINE int zeros_are_plain(double rstd) { return rstd <= 0x1p+12; }

CREG_INLINE int gradients_are_safe(double means, double rstd, const float *dy, const float *gamma, ptrdiff_t n)
{
    if (!(means <= 1.0 / SMALLEST_SAFE_GRADIENT)) return 0; /* or NaN */
    /* A row of zeros, as of padding, is told from one whose means cancelled by a few of its elements. */
    const int zero =
        (means == 0.0) & zeros_are_plain(rstd) & (dy[0] == 0.0f) & (dy[n / 2] == 0.0f) & (dy[n - 1] == 0.0f);
    return means_are_plain(means) || zero || no_small_product(dy, gamma, n);
}

/* The same of a batch of short rows. */
static CREG_NOINLINE int batch_gradients_are_safe(const double *means, const double *rstd, const float *dy,
                                                  const float *gamma, ptrdiff_t cols)
{
    for (int i = 0; i < CREG_BATCH; i++)
        if (!gradients_are_safe(means[i], rstd[i], dy + i * cols, gamma, cols)) return 0;
    return 1;
}

/* hi + lo = mean, in float32. Two functions, since GCC 12 takes (double)(float)v of a vector for v, and lo for 0. */
static CREG_NOINLINE void round_means(const double *restrict mean, float *restrict hi, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) hi[i] = (float)mean[i];
}

static CREG_NOINLINE void split_means(const double *restrict mean, float *restrict hi, float *restrict lo, ptrdiff_t n)
{
    round_means(mean, hi, n);
    for (ptrdiff_t i = 0; i < n; i++) lo[i] = (float)(mean[i] - (double)hi[i]);
}

/* The float64 forms: `pieces` runs of n elements. Eight lanes, so that they vectorise with a fixed order. */
static double exact_sum(const float *x, ptrdiff_t pieces, ptrdiff_t stride, ptrdiff_t n, double centre, int square)
{
    double lane[8] = {0};
    for (ptrdiff_t i = 0; i < pieces; i++)
        for (ptrdiff_t j = 0; j < n; j++) {
            const double d = (double)x[i * stride + j] - centre;
            lane[j & 7] += square ? d * d : d;
        }
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

static moments exact_moments(const float *x, ptrdiff_t pieces, ptrdiff_t stride, ptrdiff_t n)
{
    const double count = (double)pieces * (double)n;
    const double mean = exact_sum(x, pieces, stride, n, 0.0, 0) / count;
    return (moments){count, mean, exact_sum(x, pieces, stride, n, mean, 1)};
}

/* Starts column sums at 0, if there are any. */
CREG_INLINE void zero_sums(float *sums, ptrdiff_t cols)
{
    if (sums) memset(sums, 0, sizeof(float) * (size_t)cols);
}

/* Sums of float32 partial sums: one row of cols for each chunk. */
static void creg_merge_columns(const float *partial, ptrdiff_t chunks, ptrdiff_t cols, ptrdiff_t j0, ptrdiff_t j1,
                               float *out)
{
    enum { TILE = 256 };
    for (ptrdiff_t j = j0; j < j1; j += TILE) {
        double sum[TILE] = {0};
        const ptrdiff_t n = min_size(TILE, j1 - j);
        for (ptrdiff_t k = 0; k < chunks; k++)
            for (ptrdiff_t i = 0; i < n; i++) sum[i] += (double)partial[k * cols + j + i];
        for (ptrdiff_t i = 0; i < n; i++) out[j + i] = (float)sum[i];
    }
}

/* Sums of dy and of dy * x_hat over a chunk of rows, for columns [j, j + n), added to the totals in float64. */
CREG_INLINE void add_exact_columns(const creg_columns *c, ptrdiff_t chunk, ptrdiff_t j, ptrdiff_t n, double *dgamma,
                                   double *dbeta)
{
    for (ptrdiff_t i = chunk * c->step; i < min_size((chunk + 1) * c->step, c->rows); i++)
        for (ptrdiff_t t = 0, at = i * c->cols + j; t < n; t++, at++) {
            const double dy = (double)c->dy[at], mean = c->mean ? c->mean[i] : 0.0;
            dgamma[t] += dy * (((double)c->x[at] - mean) * c->rstd[i]);
            dbeta[t] += dy;
        }
}

static void creg_merge_columns_exact(const creg_columns *c, ptrdiff_t j0, ptrdiff_t j1)
{
    enum { TILE = 256 };
    for (ptrdiff_t j = j0; j < j1; j += TILE) {
        double dgamma[TILE] = {0}, dbeta[TILE] = {0};
        const ptrdiff_t n = min_size(TILE, j1 - j);
        for (ptrdiff_t k = 0; k * c->step < c->rows; k++) {
            if (c->exact[k]) {
                add_exact_columns(c, k, j, n, dgamma, dbeta);
                continue;
            }
            const ptrdiff_t at = k * c->cols + j;
            for (ptrdiff_t t = 0; t < n; t++) dgamma[t] += (double)c->partial_dgamma[at + t];
            for (ptrdiff_t t = 0; c->dbeta && t < n; t++) dbeta[t] += (double)c->partial_dbeta[at + t];
        }
        for (ptrdiff_t t = 0; t < n; t++) c->dgamma[j + t] = (float)dgamma[t];
        for (ptrdiff_t t = 0; c->dbeta && t < n; t++) c->dbeta[j + t] = (float)dbeta[t];
    }
}

/* y = y * gamma + beta in float64. */
static void creg_affine_rows(float *y, const float *gamma, const float *beta, ptrdiff_t rows, ptrdiff_t cols)
{
    for (ptrdiff_t i = 0; i < rows; i++, y += cols)
        for (ptrdiff_t j = 0; j < cols; j++)
            y[j] = (float)((double)y[j] * (gamma ? (double)gamma[j] : 1.0) + (double)beta[j]);
}

/* Whether a chunk's float32 sums of dy and dy * x_hat can neither overflow, nor vanish because all of dy is small. */
static int creg_sums_are_safe(const float *dy, ptrdiff_t n)
{
    const vf largest = largest_magnitudes(dy, n);
    return all_at_most(largest, 0x1p+80f) && (!all_at_most(largest, 0x1.fffffep-81f) || all_at_most(largest, 0.0f));
}

/* x, and nothing for the second sum. */
CREG_INLINE vf2 plain_terms(const void *ctx, ptrdiff_t at, const vw *cut)
{
    return (vf2){v_load_cut((const float *)ctx + at, cut), v_set1(0.0f)};
}

/* Whether such sums came out so: none infinite or NaN, nor all of them small. */
static int creg_sums_were_safe(const float *sums, ptrdiff_t n)
{
    const float sum = panel_sums(plain_terms, sums, 0, n).a;
    if (sum - sum != 0.0f) return 0;
    return fabsf(sum) >= (float)n * (float)SMALLEST_SAFE_GRADIENT || no_small_product(sums, NULL, n);
}

/* The lead-in that brings p to a cache line, at most n elements: streamed stores want aligned registers and, to be
 * fast, lines that nothing else is stored to. */
CREG_INLINE ptrdiff_t unaligned_lead(const float *p, ptrdiff_t n)
{
    const ptrdiff_t off = (ptrdiff_t)((uintptr_t)p / sizeof(float) % CREG_LINE);
    return off ? min_size(CREG_LINE - off, n) : 0;
}

/* How many of n elements fill whole cache lines. */
CREG_INLINE ptrdiff_t whole_lines(ptrdiff_t n) { return n / CREG_LINE * CREG_LINE; }

CREG_INLINE void v_put_part(float *p, vf a, ptrdiff_t n, int stream)
{
    if (n < CREG_W)
        v_store_part(p, a, n);
    else if (stream)
        v_stream(p, a);
    else
        v_store(p, a);
}

/* Copies a row that is in the cache to memory, around the cache. */
CREG_INLINE void stream_row(const float *from, float *to, ptrdiff_t n)
{
    ptrdiff_t j = unaligned_lead(to, n);
    if (j) memcpy(to, from, sizeof(float) * (size_t)j);
    for (; j + CREG_W <= n; j += CREG_W) v_stream(to + j, v_load(from + j));
    if (j < n) memcpy(to + j, from + j, sizeof(float) * (size_t)(n - j));
}

#endif
