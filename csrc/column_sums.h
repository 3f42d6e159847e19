/* dgamma and dbeta of the norms over rows: sums over rows of dy * x_hat and dy. The readable twins:
 * cregkit/oracle/layer_norm.py and cregkit/oracle/rms_norm.py
 *
 * Layout     A chunk of rows is summed in float32, by the norms' backward; the chunks are merged in float64, in order.
 * Numerics   Where a float32 sum may overflow or underflow, its chunk is summed again in float64.
 */
#ifndef CREG_COLUMN_SUMS_H
#define CREG_COLUMN_SUMS_H

#include "safety.h"

CREG_INLINE void zero_sums(float *sums, ptrdiff_t cols)
{
    if (sums) memset(sums, 0, sizeof(float) * (size_t)cols);
}

static void add_partial(const float *partial, ptrdiff_t n, double *total)
{
    for (ptrdiff_t i = 0; i < n; i++) total[i] += (double)partial[i];
}

static void merge_partials(const creg_norm *n, const float *partial, ptrdiff_t j0, ptrdiff_t j1, float *out)
{
    for (ptrdiff_t j = j0; j < j1; j += CREG_MERGE_TILE) {
        double total[CREG_MERGE_TILE] = {0};
        const ptrdiff_t size = min_size(CREG_MERGE_TILE, j1 - j);
        for (ptrdiff_t i = 0, at = j; i < n->rows; i += n->step, at += n->cols) add_partial(partial + at, size, total);
        for (ptrdiff_t t = 0; t < size; t++) out[j + t] = (float)total[t];
    }
}

static void creg_merge_columns(const creg_norm *n, ptrdiff_t j0, ptrdiff_t j1)
{
    merge_partials(n, n->partial_dgamma, j0, j1, n->dgamma);
    if (n->dbeta) merge_partials(n, n->partial_dbeta, j0, j1, n->dbeta);
}

/* The totals of up to CREG_MERGE_TILE columns of `count` rows of float64 sums, `stride` apart. */
static void merge_sums(const double *sums, ptrdiff_t count, ptrdiff_t stride, ptrdiff_t n, float *out)
{
    double total[CREG_MERGE_TILE] = {0};
    for (ptrdiff_t i = 0; i < count; i++)
        for (ptrdiff_t j = 0; j < n; j++) total[j] += sums[i * stride + j];
    for (ptrdiff_t j = 0; j < n; j++) out[j] = (float)total[j];
}

/* Sums over rows [i, end) of columns [j, j + size), added to the totals. */
static void add_rows_exact(const creg_norm *n, ptrdiff_t i, ptrdiff_t end, ptrdiff_t j, ptrdiff_t size, double *dgamma,
                           double *dbeta)
{
    for (; i < end; i++) {
        const stored *dy = input_at(n->dy, i * n->cols + j), *x = input_at(n->x, i * n->cols + j);
        const double mean = n->mean ? n->mean[i] : 0.0;
        for (ptrdiff_t t = 0; t < size; t++) {
            const double g = (double)x_value(dy + t);
            dgamma[t] += g * (((double)x_value(x + t) - mean) * n->rstd[i]);
            dbeta[t] += g;
        }
    }
}

static void creg_merge_columns_exact(const creg_norm *n, ptrdiff_t j0, ptrdiff_t j1)
{
    for (ptrdiff_t j = j0; j < j1; j += CREG_MERGE_TILE) {
        double dgamma[CREG_MERGE_TILE] = {0}, dbeta[CREG_MERGE_TILE] = {0};
        const ptrdiff_t size = min_size(CREG_MERGE_TILE, j1 - j);
        for (ptrdiff_t k = 0, i = 0; i < n->rows; k++, i += n->step) {
            if (n->exact[k]) {
                add_rows_exact(n, i, min_size(i + n->step, n->rows), j, size, dgamma, dbeta);
                continue;
            }
            add_partial(n->partial_dgamma + k * n->cols + j, size, dgamma);
            if (n->dbeta) add_partial(n->partial_dbeta + k * n->cols + j, size, dbeta);
        }
        for (ptrdiff_t t = 0; t < size; t++) n->dgamma[j + t] = (float)dgamma[t];
        for (ptrdiff_t t = 0; n->dbeta && t < size; t++) n->dbeta[j + t] = (float)dbeta[t];
    }
}

/* Whether a chunk's float32 sums can neither overflow nor, because all of dy is small, underflow. */
static int creg_chunk_is_safe(const creg_norm *n, ptrdiff_t chunk)
{
    const ptrdiff_t i = chunk * n->step;
    const vf largest =
        largest_magnitudes(of_tensor, input_at(n->dy, i * n->cols), min_size(n->step, n->rows - i) * n->cols);
    return all_at_most(largest, 0x1p+80f) && is_zero_or_plain(largest);
}

/* x; the second sum is 0. */
CREG_INLINE vf2 plain_terms(const void *ctx, ptrdiff_t at, const vw *cut)
{
    return (vf2){v_load_cut((const float *)ctx + at, cut), v_set1(0.0f)};
}

static int were_safe(const float *sums, ptrdiff_t n)
{
    const float sum = panel_sums(plain_terms, sums, 0, n).a;
    if (sum - sum != 0.0f) return 0;
    return fabsf(sum) >= (float)n * (float)SMALLEST_SAFE_GRADIENT ||
           is_zero_or_plain(largest_magnitudes(of_floats, sums, n));
}

/* Whether the merged sums are finite, and the largest magnitudes of dgamma and of dbeta are 0 or not small. */
static int creg_sums_were_safe(const creg_norm *n)
{
    return were_safe(n->dgamma, n->cols) && (!n->dbeta || were_safe(n->dbeta, n->cols));
}

#endif
