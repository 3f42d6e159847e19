/* Layer norm and RMS norm over an axis that is not the last, such as the channels of (N, C, H, W), without a transposed
 * copy (LayerNorm2d of ConvNeXt: Liu et al., 2022, arXiv:2201.03545). The readable twins: cregkit/oracle/layer_norm.py
 * and cregkit/oracle/rms_norm.py
 *
 * Forward    the formulas of layer_norm.h and rms_norm.h
 * Saved      mean and rstd of each row, float64
 * Backward   g = dy * gamma, dx = rstd * (g - mean(g) - x_hat * mean(g * x_hat)), dgamma = sum of dy * x_hat,
 *            dbeta = sum of dy over the rows
 * Numerics   Sums over at most CREG_CHUNK_ROWS planes are float32; they are merged in order in float64. Rows that
 *            float32 cannot hold (safety.h) are computed in float64.
 * Layout     A row is one element each of `cols` planes, so a vector holds neighbouring rows. A task takes some rows,
 *            few enough that their elements stay in L2 between the passes.
 */
#ifndef CREG_CHANNEL_NORM_H
#define CREG_CHANNEL_NORM_H

#include "batch_norm.h"

enum {
    /* The most rows of a task; a multiple of CREG_LANES. */
    MOST_ROWS = 256,
    /* The approximate number of elements of a task (256 KiB). */
    TILE_FLOATS = 65536,
    /* The planes that share each load of the rows' statistics. */
    PLANES = 4
};

/* The tiles of all blocks, a task each. */
CREG_INLINE ptrdiff_t tiles_of(const creg_norm *n) { return n->rows / n->across * ceil_div(n->across, n->step); }

/* Sets `step` and returns the number of tasks. */
static ptrdiff_t creg_channel_norm_plan(creg_norm *n)
{
    const ptrdiff_t rows = TILE_FLOATS / n->cols / CREG_LANES * CREG_LANES;
    n->step = min_size(MOST_ROWS, max_size(CREG_LANES, rows));
    return tiles_of(n);
}

/* Some rows of a block: their first element is at `at`, and the first of their statistics at `row`. */
typedef struct {
    ptrdiff_t at, row, rows;
    ptrdiff_t next; /* from here to the next tile, whose elements are prefetched into L2 */
} row_tile;

CREG_INLINE row_tile tile_of_task(const creg_norm *n, ptrdiff_t task)
{
    const ptrdiff_t tiles = ceil_div(n->across, n->step), block = task / tiles, j = task % tiles * n->step;
    const ptrdiff_t rows = min_size(n->step, n->across - j), end = j + rows;
    const ptrdiff_t after = end < n->across ? n->step : (block + 1) * n->across < n->rows ? n->cols * n->across - j : 0;
    return (row_tile){block * n->cols * n->across + j, block * n->across + j, rows, after};
}

/* The statistics of a tile's rows. */
typedef struct {
    double mean[MOST_ROWS], rstd[MOST_ROWS];
    float hi[MOST_ROWS], lo[MOST_ROWS], scale[MOST_ROWS];
    unsigned char exact[MOST_ROWS];
    int any_exact;
} rows_across;

static void set_tile_floats(rows_across *t, ptrdiff_t rows)
{
    split_means(t->mean, t->hi, t->lo, rows);
    for (ptrdiff_t j = 0; j < rows; j++) t->scale[j] = (float)t->rstd[j];
}

/* ---- forward ---- */

/* Moments of each row about its mean or, of RMS norm, about 0. */
static void tile_moments(const creg_norm *n, row_tile tile, double *mean, double *m2)
{
    static const float zeros[MOST_ROWS];
    double mean_k[MOST_ROWS], m2_k[MOST_ROWS];
    float sum[MOST_ROWS], squares[MOST_ROWS];
    const int centred = creg_is_centred(n->kind);
    for (ptrdiff_t c = 0; c < n->cols; c += CREG_CHUNK_ROWS) {
        const stored *x = input_at(n->x, tile.at + c * n->across);
        const ptrdiff_t planes = min_size(CREG_CHUNK_ROWS, n->cols - c);
        if (!centred) {
            sum_columns(
                (columns){
                    .x = x, .hi = zeros, .a = sum, .b = squares, .rows = planes, .stride = n->across, .n = tile.rows},
                0);
            for (ptrdiff_t j = 0; j < tile.rows; j++) m2[j] = (c ? m2[j] : 0.0) + (double)squares[j];
            continue;
        }
        if (c == 0) {
            columns_moments(x, planes, n->across, tile.rows, 0, mean, m2);
            continue;
        }
        columns_moments(x, planes, n->across, tile.rows, 0, mean_k, m2_k);
        merge_each(mean, m2, (double)c, mean_k, m2_k, (double)planes, tile.rows);
    }
}

static void tile_statistics(const creg_norm *n, row_tile tile, rows_across *t)
{
    double m2[MOST_ROWS];
    const double per_col = 1.0 / (double)n->cols, eps = n->eps;
    const int centred = creg_is_centred(n->kind);
    memset(t->mean, 0, sizeof t->mean);
    tile_moments(n, tile, t->mean, m2);
    t->any_exact = 0;
    for (ptrdiff_t j = 0; j < tile.rows; j++) t->rstd[j] = 1.0 / sqrt(m2[j] * per_col + eps);
    for (ptrdiff_t j = 0; j < tile.rows; j++) {
        t->exact[j] = n->cols <= CREG_FEW || !creg_is_safe(m2[j], m2[j] * per_col + eps);
        if (!t->exact[j]) continue;
        const stored *x = input_at(n->x, tile.at + j);
        const moments exact = exact_moments(x, n->cols, n->across, 1);
        if (centred) t->mean[j] = exact.mean;
        m2[j] = centred ? exact.m2 : exact_sum(x, n->cols, n->across, 1, 0.0, 1);
        t->rstd[j] = 1.0 / sqrt(m2[j] * per_col + eps);
        t->any_exact = 1;
    }
    set_tile_floats(t, tile.rows);
}

/* Gain and bias of up to PLANES planes from plane c on, loaded once: stores could alias gamma and beta. */
typedef struct {
    vf gain[PLANES], bias[PLANES];
} plane_parameters;

CREG_INLINE plane_parameters parameters_of(const creg_norm *n, int planes, ptrdiff_t c)
{
    plane_parameters p;
    for (int k = 0; k < planes; k++) {
        p.gain[k] = v_set1(n->gamma ? n->gamma[c + k] : 1.0f);
        p.bias[k] = v_set1(n->beta ? n->beta[c + k] : 0.0f);
    }
    return p;
}

/* Rows [j, j + left), at most a vector, of `planes` planes. */
CREG_INLINE void norm_across(const creg_norm *n, int centred, int planes, const stored *x, stored *y,
                             const plane_parameters *p, const rows_across *t, ptrdiff_t next, ptrdiff_t j,
                             ptrdiff_t left, int stream)
{
    const vf hi = v_load_part(t->hi + j, left), lo = v_load_part(t->lo + j, left),
             scale = v_load_part(t->scale + j, left);
    for (int k = 0; k < planes; k++) {
        const ptrdiff_t at = k * n->across + j;
        vf v = x_load_part(x + at, left);
        __builtin_prefetch(x + at + next, 0, 2);
        if (!stream) __builtin_prefetch(y + at + 2 * planes * n->across);
        if (centred) v = v_sub(v_sub(v, hi), lo);
        v = v_mul(v, scale);
        if (n->gamma) v = v_mul(v, p->gain[k]);
        if (centred && n->beta) v = v_add(v, p->bias[k]);
        x_put_part(y + at, v, left, stream);
    }
}

/* The first rows of each plane of a tile, before stores are aligned, if the planes are aligned alike. */
CREG_INLINE ptrdiff_t lead_of_planes(const creg_norm *n, const stored *first, ptrdiff_t rows)
{
    return n->across % CREG_LINE ? 0 : unaligned_lead(first, rows);
}

/* A tile of `planes` planes; the stores are aligned from row `lead` on. */
CREG_INLINE void norm_planes(const creg_norm *n, int centred, int planes, ptrdiff_t at, ptrdiff_t c,
                             const rows_across *t, row_tile tile, ptrdiff_t lead)
{
    const plane_parameters p = parameters_of(n, planes, c);
    const stored *x = input_at(n->x, at);
    stored *y = output_at(n->y, at);
    const ptrdiff_t rows = tile.rows, next = tile.next;
    const ptrdiff_t end = n->stream ? lead + whole_lines(rows - lead) : 0;
    for (ptrdiff_t j = 0; j < lead; j += CREG_W) norm_across(n, centred, planes, x, y, &p, t, next, j, lead - j, 0);
    for (ptrdiff_t j = lead; j < end; j += CREG_W) norm_across(n, centred, planes, x, y, &p, t, next, j, CREG_W, 1);
    ptrdiff_t j = max_size(lead, end);
    for (; j + CREG_W <= rows; j += CREG_W) norm_across(n, centred, planes, x, y, &p, t, next, j, CREG_W, 0);
    if (j < rows) norm_across(n, centred, planes, x, y, &p, t, next, j, rows - j, 0); /* tail */
}

/* One plane with rows that need float64, or a bias that does. */
static void norm_plane_exact(const creg_norm *n, ptrdiff_t at, ptrdiff_t c, const rows_across *t, ptrdiff_t rows)
{
    const float gain = n->gamma ? n->gamma[c] : 1.0f, bias = n->beta ? n->beta[c] : 0.0f;
    const int large = fabsf(bias) > LARGE_BIAS, centred = creg_is_centred(n->kind);
    for (ptrdiff_t j = 0; j < rows; j++) {
        const float x = x_value(input_at(n->x, at + j));
        stored *y = output_at(n->y, at + j);
        if (t->exact[j] || large) {
            const double v = ((double)x - t->mean[j]) * t->rstd[j] * (double)gain;
            x_set(y, (float)(centred ? v + (double)bias : v));
        } else {
            float v = (centred ? x - t->hi[j] - t->lo[j] : x) * t->scale[j];
            if (n->gamma) v *= gain;
            x_set(y, centred && n->beta ? v + bias : v);
        }
    }
}

CREG_INLINE void norm_tile(const creg_norm *norm, int centred, row_tile tile, const rows_across *t)
{
    const creg_norm call = *norm, *n = &call; /* a copy: stores cannot alias it */
    /* The part vectors cost a short tile more than they save. */
    const ptrdiff_t lead = tile.rows == MOST_ROWS ? lead_of_planes(n, output_at(n->y, tile.at), tile.rows) : 0;
    ptrdiff_t c = 0, at = tile.at;
    for (; !n->stream && c + PLANES <= n->cols; c += PLANES, at += PLANES * n->across)
        norm_planes(n, centred, PLANES, at, c, t, tile, lead);
    for (; c < n->cols; c++, at += n->across)
        norm_planes(n, centred, 1, at, c, t, tile, n->stream ? unaligned_lead(output_at(n->y, at), tile.rows) : lead);
}

static void creg_channel_norm_forward(void *norm, ptrdiff_t task)
{
    const creg_norm *n = norm;
    const row_tile tile = tile_of_task(n, task);
    rows_across t;
    tile_statistics(n, tile, &t);
    if (n->mean) memcpy(n->mean + tile.row, t.mean, sizeof(double) * (size_t)tile.rows);
    if (n->rstd) memcpy(n->rstd + tile.row, t.rstd, sizeof(double) * (size_t)tile.rows);
    if (!n->y) return;
    if (t.any_exact || (n->beta && !creg_are_at_most(n->beta, LARGE_BIAS, n->cols)))
        for (ptrdiff_t c = 0; c < n->cols; c++) norm_plane_exact(n, tile.at + c * n->across, c, &t, tile.rows);
    else if (creg_is_centred(n->kind))
        norm_tile(n, 1, tile, &t);
    else
        norm_tile(n, 0, tile, &t);
    if (n->stream) v_stream_end();
}

/* ---- backward ---- */

/* dy * x_hat and dy of one plane. */
typedef struct {
    const stored *dy, *x;
    const float *hi, *lo, *scale;
} plane_grad_operands;

CREG_INLINE vf2 plane_grad_terms(const void *ctx, ptrdiff_t at, const vw *cut)
{
    const plane_grad_operands *o = ctx;
    const vf dy = x_load_cut(o->dy + at, cut);
    const vf d = v_sub(v_sub(x_load_cut(o->x + at, cut), v_load_cut(o->hi + at, cut)), v_load_cut(o->lo + at, cut));
    return (vf2){v_mul(dy, v_mul(d, v_load_cut(o->scale + at, cut))), dy};
}

/* Sums of g and g * d of each row. */
typedef struct {
    float g[MOST_ROWS], g_d[MOST_ROWS];
} tile_sums;

CREG_INLINE void add_across(const creg_norm *n, int planes, ptrdiff_t at, const plane_parameters *p,
                            const rows_across *t, tile_sums *s, ptrdiff_t j, ptrdiff_t left)
{
    const vf hi = v_load_part(t->hi + j, left), lo = v_load_part(t->lo + j, left);
    vf2 terms[SUM_ROWS];
    for (int k = 0; k < planes; k++) {
        const ptrdiff_t from = at + k * n->across + j;
        const vf dy = x_load_part(input_at(n->dy, from), left), g = n->gamma ? v_mul(dy, p->gain[k]) : dy;
        terms[k] = (vf2){g, v_mul(g, v_sub(v_sub(x_load_part(input_at(n->x, from), left), hi), lo))};
    }
    const vf2 sum = add_in_pairs(terms, planes);
    v_store_part(s->g + j, v_add(v_load_part(s->g + j, left), sum.a), left);
    v_store_part(s->g_d + j, v_add(v_load_part(s->g_d + j, left), sum.b), left);
}

CREG_INLINE void add_planes(const creg_norm *n, int planes, ptrdiff_t at, ptrdiff_t c, const rows_across *t,
                            tile_sums *s, ptrdiff_t rows)
{
    const plane_parameters p = parameters_of(n, planes, c);
    ptrdiff_t j = 0;
    for (; j + CREG_W <= rows; j += CREG_W) add_across(n, planes, at, &p, t, s, j, CREG_W); /* main loop */
    if (j < rows) add_across(n, planes, at, &p, t, s, j, rows - j);                         /* tail */
}

/* The sums of a plane in float64. */
static void plane_sums_exact(const creg_norm *n, ptrdiff_t at, const rows_across *t, ptrdiff_t rows,
                             double *of_dy_x_hat, double *of_dy)
{
    *of_dy_x_hat = *of_dy = 0.0;
    for (ptrdiff_t j = 0; j < rows; j++) {
        const double dy = (double)x_value(input_at(n->dy, at + j));
        *of_dy_x_hat += dy * (((double)x_value(input_at(n->x, at + j)) - t->mean[j]) * t->rstd[j]);
        *of_dy += dy;
    }
}

/* Whether a float32 sum is neither so small that its terms may have underflowed, nor so large that x_hat may have, in
 * a product with a huge dy. */
CREG_INLINE int sum_is_plain(float sum, ptrdiff_t rows)
{
    return fabsf(sum) >= (float)rows * (float)SMALLEST_SAFE_GRADIENT && fabsf(sum) <= (float)LARGEST_SAFE_GRADIENT;
}

/* The sums of dy * x_hat and of dy of each plane, stored at [tile][plane]. */
CREG_INLINE double *sums_dy_x_hat(const creg_norm *n) { return n->sums; }
CREG_INLINE double *sums_dy(const creg_norm *n) { return n->sums + tiles_of(n) * n->cols; }

/* Stores the sums of one plane at `to`: its float32 sums, if they are plain. */
CREG_INLINE void store_plane_sums(const creg_norm *n, ptrdiff_t at, const rows_across *t, ptrdiff_t rows,
                                  float dy_x_hat, float dy, ptrdiff_t to)
{
    double *of_dy_x_hat = sums_dy_x_hat(n) + to, *of_dy = sums_dy(n) + to;
    const int plain = !t->any_exact && sum_is_plain(dy_x_hat, rows) && sum_is_plain(dy, rows);
    const int zero = dy_x_hat == 0.0f && dy == 0.0f;
    *of_dy_x_hat = (double)dy_x_hat;
    *of_dy = (double)dy;
    if (!plain && !(zero && all_at_most(largest_magnitudes(of_tensor, input_at(n->dy, at), rows), 0.0f)))
        plane_sums_exact(n, at, t, rows, of_dy_x_hat, of_dy);
}

/* Up to CREG_BATCH planes, which share horizontal reductions. */
static CREG_NOINLINE void plane_sums(const creg_norm *n, ptrdiff_t at, const rows_across *t, ptrdiff_t rows,
                                     ptrdiff_t planes, ptrdiff_t to)
{
    const part rest = part_of(rows % CREG_LANES);
    vf folds[2][CREG_BATCH];
    float found[2][CREG_BATCH];
    for (ptrdiff_t k = 0; k < CREG_BATCH; k++) {
        const ptrdiff_t from = at + min_size(k, planes - 1) * n->across;
        const plane_grad_operands operands = {input_at(n->dy, from), input_at(n->x, from), t->hi, t->lo, t->scale};
        const vf2 fold = short_folds(plane_grad_terms, &operands, rows, &rest);
        folds[0][k] = fold.a;
        folds[1][k] = fold.b;
    }
    v_sums(folds[0], found[0]);
    v_sums(folds[1], found[1]);
    for (ptrdiff_t k = 0; k < planes; k++) /* + 0 turns -0 into 0 */
        store_plane_sums(n, at + k * n->across, t, rows, found[0][k] + 0.0f, found[1][k] + 0.0f, to + k);
}

static void tile_grad_sums(const creg_norm *n, row_tile tile, ptrdiff_t task, const rows_across *t, double *g,
                           double *g_d)
{
    tile_sums s;
    for (ptrdiff_t c = 0; c < n->cols; c += CREG_CHUNK_ROWS) {
        const ptrdiff_t end = min_size(c + CREG_CHUNK_ROWS, n->cols);
        memset(&s, 0, sizeof s);
        for (ptrdiff_t k = c; k < end; k += CREG_BATCH) {
            const ptrdiff_t at = tile.at + k * n->across, planes = min_size(CREG_BATCH, end - k);
            ptrdiff_t i = 0;
            for (; i + SUM_ROWS <= planes; i += SUM_ROWS)
                add_planes(n, SUM_ROWS, at + i * n->across, k + i, t, &s, tile.rows);
            for (; i < planes; i++) add_planes(n, 1, at + i * n->across, k + i, t, &s, tile.rows);
            if (n->sums) plane_sums(n, at, t, tile.rows, planes, task * n->cols + k);
        }
        for (ptrdiff_t j = 0; j < tile.rows; j++) {
            g[j] = (c ? g[j] : 0.0) + (double)s.g[j];
            g_d[j] = (c ? g_d[j] : 0.0) + (double)s.g_d[j];
        }
    }
}

/* Means of g and g * x_hat of a row, in float64. */
static grad_means row_means_exact(const creg_norm *n, row_tile tile, ptrdiff_t j, double mean, double rstd)
{
    double g = 0.0, g_x_hat = 0.0;
    for (ptrdiff_t c = 0, at = tile.at + j; c < n->cols; c++, at += n->across) {
        const double term = (double)x_value(input_at(n->dy, at)) * (n->gamma ? (double)n->gamma[c] : 1.0);
        if (creg_is_centred(n->kind)) g += term;
        g_x_hat += term * (((double)x_value(input_at(n->x, at)) - mean) * rstd);
    }
    return (grad_means){g / (double)n->cols, g_x_hat / (double)n->cols};
}

/* Whether the largest gradient |g| of a row is 0 or at least SMALLEST_SAFE_GRADIENT. */
static int row_is_plain(const creg_norm *n, row_tile tile, ptrdiff_t j)
{
    double largest = 0.0;
    for (ptrdiff_t c = 0, at = tile.at + j; c < n->cols; c++, at += n->across) {
        const double g = fabs((double)x_value(input_at(n->dy, at)) * (n->gamma ? (double)n->gamma[c] : 1.0));
        if (g >= SMALLEST_SAFE_GRADIENT) return 1;
        largest = g > largest ? g : largest;
    }
    return largest == 0.0;
}

/* Each row's means, from its sums. */
static void tile_grad_means(const creg_norm *n, row_tile tile, rows_across *t, double *g, double *g_d)
{
    const double per_col = 1.0 / (double)n->cols;
    const int centred = creg_is_centred(n->kind);
    for (ptrdiff_t j = 0; j < tile.rows; j++) {
        const double mean_g = centred ? g[j] * per_col : 0.0, mean_g_x_hat = g_d[j] * t->rstd[j] * per_col;
        const double means = fabs(mean_g) + fabs(mean_g_x_hat);
        g[j] = mean_g, g_d[j] = mean_g_x_hat;
        t->exact[j] =
            t->exact[j] || !(means <= LARGEST_SAFE_GRADIENT) || (!means_are_plain(means) && !row_is_plain(n, tile, j));
        if (!t->exact[j]) continue;
        const grad_means found = row_means_exact(n, tile, j, t->mean[j], t->rstd[j]);
        g[j] = found.g, g_d[j] = found.g_x_hat;
        t->any_exact = 1;
    }
}

CREG_INLINE void grad_across(const creg_norm *n, int centred, int planes, ptrdiff_t at, const plane_parameters *p,
                             const rows_across *t, const tile_sums *means, ptrdiff_t next, ptrdiff_t j, ptrdiff_t left)
{
    const vf hi = v_load_part(t->hi + j, left), lo = v_load_part(t->lo + j, left),
             scale = v_load_part(t->scale + j, left);
    const vf mean_g = v_load_part(means->g + j, left), mean_g_x_hat = v_load_part(means->g_d + j, left);
    for (int k = 0; k < planes; k++) {
        const ptrdiff_t from = at + k * n->across + j;
        const stored *x = input_at(n->x, from), *dy = input_at(n->dy, from);
        vf x_hat = x_load_part(x, left), g = x_load_part(dy, left);
        __builtin_prefetch(x + next, 0, 2);
        __builtin_prefetch(dy + next, 0, 2);
        if (centred) x_hat = v_sub(v_sub(x_hat, hi), lo);
        x_hat = v_mul(x_hat, scale);
        if (n->gamma) g = v_mul(g, p->gain[k]);
        if (centred) g = v_sub(g, mean_g);
        x_store_part(output_at(n->dx, from), v_mul(v_sub(g, v_mul(x_hat, mean_g_x_hat)), scale), left);
    }
}

CREG_INLINE void grad_planes(const creg_norm *n, int centred, int planes, ptrdiff_t at, ptrdiff_t c,
                             const rows_across *t, const tile_sums *means, row_tile tile, ptrdiff_t lead)
{
    const plane_parameters p = parameters_of(n, planes, c);
    const ptrdiff_t rows = tile.rows, next = tile.next;
    for (ptrdiff_t j = 0; j < lead; j += CREG_W) grad_across(n, centred, planes, at, &p, t, means, next, j, lead - j);
    ptrdiff_t j = lead;
    for (; j + CREG_W <= rows; j += CREG_W) /* main loop */
        grad_across(n, centred, planes, at, &p, t, means, next, j, CREG_W);
    if (j < rows) grad_across(n, centred, planes, at, &p, t, means, next, j, rows - j); /* tail */
}

CREG_INLINE void grad_tile(const creg_norm *norm, int centred, row_tile tile, const rows_across *t,
                           const tile_sums *means)
{
    const creg_norm call = *norm, *n = &call; /* a copy: stores cannot alias it */
    const ptrdiff_t lead = lead_of_planes(n, output_at(n->dx, tile.at), tile.rows);
    ptrdiff_t c = 0, at = tile.at;
    for (; c + PLANES <= n->cols; c += PLANES, at += PLANES * n->across)
        grad_planes(n, centred, PLANES, at, c, t, means, tile, lead);
    for (; c < n->cols; c++, at += n->across) grad_planes(n, centred, 1, at, c, t, means, tile, lead);
}

static void grad_plane_exact(const creg_norm *n, ptrdiff_t at, ptrdiff_t c, const rows_across *t, const double *g,
                             const double *g_x_hat, const tile_sums *means, ptrdiff_t rows)
{
    const int centred = creg_is_centred(n->kind);
    const float gain = n->gamma ? n->gamma[c] : 1.0f;
    for (ptrdiff_t j = 0; j < rows; j++) {
        const float x = x_value(input_at(n->x, at + j)), dy = x_value(input_at(n->dy, at + j));
        stored *dx = output_at(n->dx, at + j);
        if (t->exact[j]) {
            const double x_hat = ((double)x - t->mean[j]) * t->rstd[j];
            x_set(dx, (float)(((double)dy * (double)gain - g[j] - x_hat * g_x_hat[j]) * t->rstd[j]));
            continue;
        }
        const float x_hat = (centred ? x - t->hi[j] - t->lo[j] : x) * t->scale[j];
        float v = n->gamma ? dy * gain : dy;
        if (centred) v -= means->g[j];
        x_set(dx, (v - x_hat * means->g_d[j]) * t->scale[j]);
    }
}

static void creg_channel_norm_backward(void *norm, ptrdiff_t task)
{
    const creg_norm *n = norm;
    const row_tile tile = tile_of_task(n, task);
    const int centred = creg_is_centred(n->kind);
    double g[MOST_ROWS], g_d[MOST_ROWS];
    rows_across t = {.any_exact = 0};
    tile_sums means;
    for (ptrdiff_t j = 0; j < tile.rows; j++) {
        t.mean[j] = centred ? n->mean[tile.row + j] : 0.0;
        t.rstd[j] = n->rstd[tile.row + j];
        t.exact[j] = n->cols <= CREG_FEW || !creg_is_safe_rstd(t.rstd[j]);
        t.any_exact |= t.exact[j];
    }
    set_tile_floats(&t, tile.rows);
    tile_grad_sums(n, tile, task, &t, g, g_d);
    tile_grad_means(n, tile, &t, g, g_d);
    for (ptrdiff_t j = 0; j < tile.rows; j++) means.g[j] = (float)g[j], means.g_d[j] = (float)g_d[j];
    if (t.any_exact)
        for (ptrdiff_t c = 0; c < n->cols; c++)
            grad_plane_exact(n, tile.at + c * n->across, c, &t, g, g_d, &means, tile.rows);
    else if (centred)
        grad_tile(n, 1, tile, &t, &means);
    else
        grad_tile(n, 0, tile, &t, &means);
}

static void creg_channel_norm_reduce(void *norm, ptrdiff_t task)
{
    const creg_norm *n = norm;
    const ptrdiff_t j = task * CREG_MERGE_TILE, size = min_size(CREG_MERGE_TILE, n->cols - j);
    merge_sums(sums_dy_x_hat(n) + j, tiles_of(n), n->cols, size, n->dgamma + j);
    if (n->dbeta) merge_sums(sums_dy(n) + j, tiles_of(n), n->cols, size, n->dbeta + j);
}

#endif
