/* The norms over rows: the loops that layer norm and RMS norm share. The readable twins:
 * cregkit/oracle/layer_norm.py and cregkit/oracle/rms_norm.py
 *
 * Forward    statistics of a row, then y = x_hat * gamma + beta while the row is in L1. Short rows are processed
 *            CREG_BATCH at a time, with one number of each row in a vector.
 * Saved      mean and rstd of each row, float64
 * Backward   means of g and g * x_hat of a row, then dx, and the row's terms of its chunk's dgamma and dbeta
 * Numerics   Rows that float32 cannot hold (safety.h) are computed in float64, by the functions named _exact.
 * Layout     layer_norm.h and rms_norm.h hold the formulas. A `form` selects one; its fields are literal constants
 *            where it is constructed, so the compiler specialises the loops for it.
 */
#ifndef CREG_ROW_NORM_H
#define CREG_ROW_NORM_H

#include "column_sums.h"
#include "layer_norm.h"
#include "rms_norm.h"

enum {
    /* Backward of shorter rows is faster without non-temporal stores. */
    LONG_ROW = 6144 / sizeof(stored),
    /* Beyond the LLC, backward writes rows of at least this many columns two at a time. */
    LONG_PAIR = 2048
};

/* Literal constants. usual: forward has gamma, and beta for layer norm; backward has gamma and no dh. */
typedef struct {
    int kind, usual;
} form;

CREG_INLINE vf normalised(form f, vf x, row_scale row)
{
    return v_mul(creg_is_centred(f.kind) ? x_minus_mean(x, row) : x, row.rstd);
}

/* ---- forward ---- */

/* Gain and bias, starting at a given column; only centred norms have a bias. */
typedef struct {
    const float *gamma, *beta;
} gain_bias;

CREG_INLINE gain_bias columns_on(gain_bias a, ptrdiff_t j) { return (gain_bias){AT(a.gamma, j), AT(a.beta, j)}; }

CREG_INLINE vf norm_vector(form f, gain_bias a, vf x, ptrdiff_t j, ptrdiff_t left, row_scale row)
{
    vf v = normalised(f, x, row);
    if (f.usual || a.gamma) v = v_mul(v, v_load_part(a.gamma + j, left));
    if (creg_is_centred(f.kind) && (f.usual || a.beta)) v = v_add(v, v_load_part(a.beta + j, left));
    return v;
}

/* y of elements [j, j + left), at most a vector. */
CREG_INLINE void norm_part(form f, gain_bias a, const stored *x, stored *y, ptrdiff_t j, ptrdiff_t left, row_scale row,
                           int stream)
{
    x_put_part(y + j, norm_vector(f, a, x_load_part(x + j, left), j, left, row), left, stream);
}

/* Full groups of lanes from j on; returns the index behind the last one. Prefetches the row at `next`. */
CREG_INLINE ptrdiff_t norm_groups(form f, gain_bias a, const stored *x, const stored *next, stored *y, ptrdiff_t j,
                                  ptrdiff_t cols, row_scale row, int stream)
{
    for (; j + CREG_LANES <= cols; j += CREG_LANES) {
        prefetch_group(next + j, stream);
        for (int k = 0; k < CREG_LANES; k += CREG_W) norm_part(f, a, x, y, j + k, CREG_W, row, stream);
    }
    return j;
}

CREG_INLINE void norm_row(form f, gain_bias a, const stored *x, const stored *next, stored *y, ptrdiff_t cols,
                          row_scale row, int stream)
{
    const ptrdiff_t lead = stream ? unaligned_lead(y, cols) : 0;
    for (ptrdiff_t j = 0; j < lead; j += CREG_W) norm_part(f, a, x, y, j, lead - j, row, 0);
    ptrdiff_t j = norm_groups(f, a, x, next, y, lead, cols, row, stream);
    for (; j < cols; j += CREG_W) norm_part(f, a, x, y, j, cols - j, row, 0); /* tail */
}

/* One row of at least CREG_W elements, not streamed, with an overlapping tail vector. Its x is loaded first, because y
 * may be x. */
CREG_INLINE void norm_short_row(form f, gain_bias a, const stored *x, const stored *next, stored *y, ptrdiff_t cols,
                                row_scale row)
{
    const ptrdiff_t last = cols - CREG_W;
    const vf tail = x_load(x + last);
    ptrdiff_t j = norm_groups(f, a, x, next, y, 0, cols, row, 0);
    for (; j < last; j += CREG_W) norm_part(f, a, x, y, j, CREG_W, row, 0);
    x_store(y + last, norm_vector(f, a, tail, last, CREG_W, row));
}

static void norm_row_exact(int kind, gain_bias a, const stored *x, stored *y, ptrdiff_t cols, double mean, double rstd)
{
    for (ptrdiff_t j = 0; j < cols; j++) {
        const double v = ((double)x_value(x + j) - mean) * rstd * (a.gamma ? (double)a.gamma[j] : 1.0);
        x_set(y + j, (float)(creg_is_centred(kind) ? v + (a.beta ? (double)a.beta[j] : 0.0) : v));
    }
}

CREG_INLINE row_statistics statistics_of(int kind, const stored *x, ptrdiff_t cols, double eps)
{
    return kind == CREG_RMS_NORM ? rms_norm_finish(row_squares(x, cols), x, cols, eps)
                                 : layer_norm_finish(row_moments(x, cols), x, cols, eps);
}

CREG_INLINE void norm_single_rows(form f, const creg_norm *n, const stored *x, const stored *prefetched,
                                  ptrdiff_t first, ptrdiff_t rows)
{
    const gain_bias a = {n->gamma, n->beta};
    const ptrdiff_t cols = n->cols, lag = row_lag(cols);
    const int stream = n->stream;
    stored *y = output_at(n->y, first * cols);
    row_statistics found[2];
    for (ptrdiff_t k = 0; k < rows + lag; k++) {
        if (k < rows) found[k % 2] = statistics_of(f.kind, x + k * cols, cols, n->eps);
        if (k < lag) continue;
        const ptrdiff_t i = k - lag, at = i * cols;
        const row_statistics row = found[i % 2];
        const stored *next = prefetched ? prefetched + at : k + 1 < rows ? x + (k + 1) * cols : x + at;
        if (!row.safe)
            norm_row_exact(f.kind, a, x + at, y + at, cols, row.mean, row.rstd);
        else if (stream)
            norm_row(f, a, x + at, next, y + at, cols, row_scale_of(row.mean, row.rstd), 1);
        else
            norm_row(f, a, x + at, next, y + at, cols, row_scale_of(row.mean, row.rstd), 0);
        if (n->mean) n->mean[first + i] = row.mean;
        if (n->rstd) n->rstd[first + i] = row.rstd;
    }
}

CREG_INLINE row_scale short_scale(int kind, const float *hi, const float *lo, const float *scale, ptrdiff_t i)
{
    const vf rstd = v_set1(scale[i]);
    return creg_is_centred(kind) ? (row_scale){v_set1(hi[i]), v_set1(lo[i]), rstd} : (row_scale){rstd, rstd, rstd};
}

/* A batch with a row that needs float64 or a second pass. Not specialised: it is rare. */
static CREG_NOINLINE void norm_unsafe_batch(const creg_norm *n, const stored *x, const stored *prefetched,
                                            ptrdiff_t first)
{
    if (n->kind == CREG_RMS_NORM)
        norm_single_rows((form){CREG_RMS_NORM, 0}, n, x, prefetched, first, CREG_BATCH);
    else
        norm_single_rows((form){CREG_LAYER_NORM, 0}, n, x, prefetched, first, CREG_BATCH);
}

/* Batches of short rows. Layer norm computes the provisional means of the next batch before the sums of this one, which
 * hides the latency of their horizontal reductions; so its prefetches are a batch further ahead. */
CREG_INLINE void norm_batches(form f, const creg_norm *n, const stored *x, const stored *prefetched, ptrdiff_t first,
                              ptrdiff_t batches)
{
    const gain_bias a = {n->gamma, n->beta};
    const ptrdiff_t cols = n->cols, size = CREG_BATCH * cols;
    const part rest = part_of(cols % CREG_LANES);
    const int centred = creg_is_centred(f.kind), stream = n->stream;
    stored *y = output_at(n->y, first * cols);
    short_rows found[2];
    if (centred) short_shift(x, cols, &rest, found);
    for (ptrdiff_t k = 0; k < batches; k++, x += size, y += size, first += CREG_BATCH) {
        short_rows *s = centred ? found + k % 2 : found;
        if (centred && k + 1 < batches) short_shift(x + size, cols, &rest, found + (k + 1) % 2);
        if (f.kind == CREG_LAYER_NORM)
            layer_norm_short_statistics(x, cols, &rest, n->eps, s);
        else
            rms_norm_short_statistics(x, cols, &rest, n->eps, s);
        if (s->unsafe) {
            norm_unsafe_batch(n, x, AT(prefetched, k * size), first);
            continue;
        }
        const ptrdiff_t ahead = centred ? 2 : 1;
        const stored *next = prefetched ? prefetched + k * size : k + ahead < batches ? x + ahead * size : x;
        for (ptrdiff_t i = 0, at = 0; i < CREG_BATCH; i++, at += cols) {
            const row_scale row = short_scale(f.kind, s->hi, s->lo, s->scale, i);
            if (stream)
                norm_row(f, a, x + at, next + at, y + at, cols, row, 1);
            else
                norm_short_row(f, a, x + at, next + at, y + at, cols, row);
        }
        if (centred && n->mean) memcpy(n->mean + first, s->mean, sizeof s->mean);
        if (n->rstd) memcpy(n->rstd + first, s->rstd, sizeof s->rstd);
    }
}

CREG_INLINE void norm_rows_of(form f, const creg_norm *n, const stored *x, const stored *prefetched, ptrdiff_t first,
                              ptrdiff_t rows)
{
    const ptrdiff_t batches = is_short(n->cols) ? rows / CREG_BATCH : 0, done = batches * CREG_BATCH;
    const ptrdiff_t at = done * n->cols;
    if (batches) norm_batches(f, n, x, prefetched, first, batches);
    norm_single_rows(f, n, x + at, AT(prefetched, at), first + done, rows - done);
}

static CREG_NOINLINE void rms_norm_rows(const creg_norm *n, const stored *x, const stored *prefetched, ptrdiff_t first,
                                        ptrdiff_t rows)
{
    if (n->gamma)
        norm_rows_of((form){CREG_RMS_NORM, 1}, n, x, prefetched, first, rows);
    else
        norm_rows_of((form){CREG_RMS_NORM, 0}, n, x, prefetched, first, rows);
}

static CREG_NOINLINE void layer_norm_rows(const creg_norm *n, const stored *x, const stored *prefetched,
                                          ptrdiff_t first, ptrdiff_t rows)
{
    if (n->gamma && n->beta)
        norm_rows_of((form){CREG_LAYER_NORM, 1}, n, x, prefetched, first, rows);
    else
        norm_rows_of((form){CREG_LAYER_NORM, 0}, n, x, prefetched, first, rows);
}

/* y of rows [first, first + rows), read from x; the caller ends non-temporal stores. Prefetches as many rows of
 * `prefetched`, or the next rows of x if it is NULL. */
static void norm_rows(const creg_norm *n, const stored *x, const stored *prefetched, ptrdiff_t first, ptrdiff_t rows)
{
    if (n->kind == CREG_RMS_NORM)
        rms_norm_rows(n, x, prefetched, first, rows);
    else
        layer_norm_rows(n, x, prefetched, first, rows);
}

static void creg_norm_forward(const creg_norm *n, ptrdiff_t first, ptrdiff_t rows)
{
    norm_rows(n, input_at(n->x, first * n->cols), NULL, first, rows);
    if (n->stream) v_stream_end();
}

/* CREG_BATCH short rows. Returns 0, with nothing written, if a row needs float64. */
CREG_INLINE int batch_statistics(int kind, const creg_norm *n, ptrdiff_t first)
{
    const stored *x = input_at(n->x, first * n->cols);
    const part rest = part_of(n->cols % CREG_LANES);
    short_rows s;
    if (creg_is_centred(kind)) {
        short_shift(x, n->cols, &rest, &s);
        layer_norm_short_statistics(x, n->cols, &rest, n->eps, &s);
    } else
        rms_norm_short_statistics(x, n->cols, &rest, n->eps, &s);
    if (s.unsafe) return 0;
    if (creg_is_centred(kind)) memcpy(n->mean + first, s.mean, sizeof s.mean);
    memcpy(n->rstd + first, s.rstd, sizeof s.rstd);
    return 1;
}

static void creg_norm_statistics(const creg_norm *n, ptrdiff_t first, ptrdiff_t rows)
{
    const ptrdiff_t end = first + rows;
    for (ptrdiff_t i = first, size; i < end; i += size) {
        size = is_short(n->cols) ? min_size(CREG_BATCH, end - i) : 1;
        if (size == CREG_BATCH && batch_statistics(n->kind, n, i)) continue;
        for (ptrdiff_t k = i; k < i + size; k++) {
            const row_statistics row = statistics_of(n->kind, input_at(n->x, k * n->cols), n->cols, n->eps);
            if (creg_is_centred(n->kind)) n->mean[k] = row.mean;
            n->rstd[k] = row.rstd;
        }
    }
}

/* Of float32 tensors alone: y is not rounded in between. */
static void creg_affine_rows(const creg_norm *n, ptrdiff_t first, ptrdiff_t rows)
{
    float *y = (float *)n->y + first * n->cols;
    for (ptrdiff_t i = 0; i < rows; i++, y += n->cols)
        for (ptrdiff_t j = 0; j < n->cols; j++)
            y[j] = (float)((double)y[j] * (n->gamma ? (double)n->gamma[j] : 1.0) + (double)n->beta[j]);
}

/* ---- backward ---- */

/* The inputs and outputs of backward, starting at a given row and column. */
typedef struct {
    const stored *dy, *x, *dh;
    const float *gamma;
    stored *dx;
    float *unrounded, *dgamma, *dbeta; /* unrounded: of tensors that round, float32 in place of dx */
} grad_block;

CREG_INLINE grad_block rows_on(grad_block b, ptrdiff_t at)
{
    return (grad_block){b.dy + at, b.x + at, AT(b.dh, at), b.gamma, b.dx + at, AT(b.unrounded, at), b.dgamma, b.dbeta};
}

/* Sums of a row's terms. Each call names its function: through a pointer chosen before, the accumulators would stay in
 * memory. */
CREG_INLINE sums grad_panel_sums(int kind, const grad_operands *o, ptrdiff_t at, ptrdiff_t n)
{
    return kind == CREG_RMS_NORM ? panel_sums(rms_norm_grad_terms, o, at, n)
                                 : panel_sums(layer_norm_grad_terms, o, at, n);
}

CREG_INLINE sums grad_short_sums(int kind, const grad_operands *o, ptrdiff_t n, const part *rest)
{
    return kind == CREG_RMS_NORM ? short_sums(rms_norm_grad_terms, o, n, rest)
                                 : short_sums(layer_norm_grad_terms, o, n, rest);
}

CREG_INLINE grad_means grad_means_of(double sum_g, double sum_g_d, ptrdiff_t cols, double rstd)
{
    return (grad_means){sum_g / (double)cols, sum_g_d * rstd / (double)cols};
}

CREG_INLINE int grad_is_safe(grad_means means, grad_block b, ptrdiff_t cols, double rstd)
{
    return cols > CREG_FEW && creg_is_safe_rstd(rstd) &&
           gradients_are_safe(fabs(means.g) + fabs(means.g_x_hat), rstd, b.dy, b.gamma, cols);
}

CREG_INLINE grad_means norm_grad_means(int kind, grad_block b, ptrdiff_t cols, double mean, double rstd)
{
    const grad_operands operands = {b.dy, b.x, b.gamma, row_scale_of(mean, rstd)};
    double g = 0.0, g_d = 0.0;
    for (ptrdiff_t j = 0; j < cols; j += CREG_PANEL) {
        const sums s = grad_panel_sums(kind, &operands, j, min_size(cols - j, CREG_PANEL));
        if (creg_is_centred(kind)) g += (double)s.a;
        g_d += (double)s.b;
    }
    return grad_means_of(g, g_d, cols, rstd);
}

/* A row of a block, its scale and its means. Not nested: compilers would keep a nested block in memory. */
typedef struct {
    const stored *dy, *x, *dh;
    const float *gamma;
    stored *dx;
    float *unrounded, *dgamma, *dbeta;
    row_scale row;
    vf mean_g, mean_g_x_hat;
} grad_row;

CREG_INLINE grad_row grad_row_of(grad_block b, row_scale row, float mean_g, float mean_g_x_hat)
{
    return (grad_row){
        b.dy, b.x, b.dh, b.gamma, b.dx, b.unrounded, b.dgamma, b.dbeta, row, v_set1(mean_g), v_set1(mean_g_x_hat)};
}

/* A vector of dy and of x_hat. */
CREG_INLINE vf2 load_grad(form f, const grad_row *r, ptrdiff_t j, ptrdiff_t left)
{
    return (vf2){x_load_part(r->dy + j, left), normalised(f, x_load_part(r->x + j, left), r->row)};
}

/* Adds the terms of a row, then those of the second row, to a vector of dgamma and of dbeta. Each is stored before the
 * next is loaded: the other order is slower. */
CREG_INLINE void add_grad_terms(form f, const grad_row *r, ptrdiff_t j, vf2 t, const vf2 *second, ptrdiff_t left)
{
    vf dgamma = v_add(v_load_part(r->dgamma + j, left), v_mul(t.a, t.b));
    if (second) dgamma = v_add(dgamma, v_mul(second->a, second->b));
    v_store_part(r->dgamma + j, dgamma, left);
    if (!creg_is_centred(f.kind)) return;
    vf dbeta = v_add(v_load_part(r->dbeta + j, left), t.a);
    if (second) dbeta = v_add(dbeta, second->a);
    v_store_part(r->dbeta + j, dbeta, left);
}

/* dx of a vector of elements. */
CREG_INLINE vf norm_grad_vector(form f, const grad_row *r, ptrdiff_t j, vf2 t, vf gamma, ptrdiff_t left)
{
    vf g = f.usual || r->gamma ? v_mul(t.a, gamma) : t.a;
    if (creg_is_centred(f.kind)) g = v_sub(g, r->mean_g);
    vf v = v_mul(v_sub(g, v_mul(t.b, r->mean_g_x_hat)), r->row.rstd);
    if (!f.usual && r->dh) v = v_add(v, x_load_part(r->dh + j, left));
    return v;
}

/* dx of a vector or less of a row, and of a second one unless it is NULL: they share the loads and stores of gamma,
 * dgamma and dbeta. No loop over the rows: compilers would keep the rows' scales in memory. */
CREG_INLINE vf2 norm_grad_vectors(form f, const grad_row *r, const grad_row *second, ptrdiff_t j, ptrdiff_t left)
{
    const int gain = f.usual || r->gamma;
    const vf2 t = load_grad(f, r, j, left), u = second ? load_grad(f, second, j, left) : t;
    const vf gamma = gain ? v_load_part(r->gamma + j, left) : v_set1(1.0f);
    if (gain) add_grad_terms(f, r, j, t, second ? &u : NULL, left);
    const vf v = norm_grad_vector(f, r, j, t, gamma, left);
    return (vf2){v, second ? norm_grad_vector(f, second, j, u, gamma, left) : v};
}

CREG_INLINE void put_grad(const grad_row *r, ptrdiff_t j, vf v, ptrdiff_t left, int stream)
{
    put_part(r->dx + j, AT(r->unrounded, j), v, left, stream);
}

CREG_INLINE void norm_grad_part(form f, const grad_row *r, const grad_row *second, ptrdiff_t j, ptrdiff_t left)
{
    const vf2 v = norm_grad_vectors(f, r, second, j, left);
    put_grad(r, j, v.a, left, 0);
    if (second) put_grad(second, j, v.b, left, 0);
}

/* A cache line of one or two rows. Other stores between the parts of a line would end the combining of non-temporal
 * ones. */
CREG_INLINE void norm_grad_line(form f, const grad_row *r, const grad_row *second, ptrdiff_t j, int stream)
{
    vf2 v[LINE_VECS];
    for (int k = 0; k < LINE_VECS; k++) v[k] = norm_grad_vectors(f, r, second, j + k * CREG_W, CREG_W);
    for (int k = 0; k < LINE_VECS; k++) put_grad(r, j + k * CREG_W, v[k].a, CREG_W, stream);
    for (int k = 0; second && k < LINE_VECS; k++) put_grad(second, j + k * CREG_W, v[k].b, CREG_W, stream);
}

CREG_INLINE void prefetch_grad_row(form f, const grad_row *r, ptrdiff_t j, ptrdiff_t ahead, int stream)
{
    prefetch_group(r->dy + ahead + j, stream);
    prefetch_group(r->x + ahead + j, stream);
    if (!f.usual && r->dh) prefetch_group(r->dh + ahead + j, stream);
    if (!stream) prefetch_group(r->dx + j + WRITE_AHEAD, 0);
}

/* dx of one or two rows, which start at the same position in a cache line; prefetches those `ahead` elements on. */
CREG_INLINE void write_grad_rows_of(form f, const grad_row *r, const grad_row *second, ptrdiff_t ahead, ptrdiff_t cols,
                                    int stream)
{
    const ptrdiff_t lead = stream ? unaligned_lead(r->dx, cols) : 0;
    for (ptrdiff_t j = 0; j < lead; j += CREG_W) norm_grad_part(f, r, second, j, lead - j);
    ptrdiff_t j = lead;
    for (; j + CREG_LANES <= cols; j += CREG_LANES) { /* main loop */
        prefetch_grad_row(f, r, j, ahead, stream);
        if (second) prefetch_grad_row(f, second, j, ahead, stream);
        for (int k = 0; k < CREG_LANES; k += CREG_LINE) norm_grad_line(f, r, second, j + k, stream);
    }
    for (; j < cols; j += CREG_W) norm_grad_part(f, r, second, j, cols - j); /* tail */
}

CREG_INLINE void write_grad_rows(form f, const grad_row *r, const grad_row *second, ptrdiff_t ahead, ptrdiff_t cols,
                                 int stream)
{
    if (stream)
        write_grad_rows_of(f, r, second, ahead, cols, 1);
    else
        write_grad_rows_of(f, r, second, ahead, cols, 0);
}

/* norm_grad_means() in float64. It repeats the terms of layer_norm.h and rms_norm.h. */
static grad_means norm_grad_means_exact(int kind, grad_block b, ptrdiff_t cols, double mean, double rstd)
{
    double g = 0.0, g_x_hat = 0.0;
    for (ptrdiff_t j = 0; j < cols; j++) {
        const double term = (double)x_value(b.dy + j) * (b.gamma ? (double)b.gamma[j] : 1.0);
        if (creg_is_centred(kind)) g += term;
        g_x_hat += term * (((double)x_value(b.x + j) - mean) * rstd);
    }
    return (grad_means){g / (double)cols, g_x_hat / (double)cols};
}

static void norm_grad_row_exact(grad_block b, ptrdiff_t cols, double mean, double rstd, grad_means means)
{
    for (ptrdiff_t j = 0; j < cols; j++) {
        const double dv = (double)x_value(b.dy + j), x_hat = ((double)x_value(b.x + j) - mean) * rstd;
        if (b.dgamma) b.dgamma[j] = (float)((double)b.dgamma[j] + dv * x_hat);
        if (b.dbeta) b.dbeta[j] = (float)((double)b.dbeta[j] + dv);
        float dx = (float)((dv * (b.gamma ? (double)b.gamma[j] : 1.0) - means.g - x_hat * means.g_x_hat) * rstd);
        if (b.dh) dx += x_value(b.dh + j);
        put_value(b.dx + j, AT(b.unrounded, j), dx);
    }
}

CREG_INLINE double mean_at(int kind, const creg_norm *n, ptrdiff_t i)
{
    return creg_is_centred(kind) ? n->mean[i] : 0.0;
}

/* Sets row i, where b starts. Returns whether float32 is enough for it. */
CREG_INLINE int set_grad_row(form f, const creg_norm *n, grad_block b, ptrdiff_t i, grad_row *r)
{
    const double mean = mean_at(f.kind, n, i), rstd = n->rstd[i];
    const grad_means means = norm_grad_means(f.kind, b, n->cols, mean, rstd);
    *r = grad_row_of(b, row_scale_of(mean, rstd), (float)means.g, (float)means.g_x_hat);
    return grad_is_safe(means, b, n->cols, rstd);
}

static CREG_NOINLINE void norm_grad_row_in_float64(form f, const creg_norm *n, grad_block b, ptrdiff_t i)
{
    const double mean = mean_at(f.kind, n, i), rstd = n->rstd[i];
    norm_grad_row_exact(b, n->cols, mean, rstd, norm_grad_means_exact(f.kind, b, n->cols, mean, rstd));
}

/* Whether two rows are written at a time, which halves the loads and stores of dgamma and dbeta. Beyond the LLC this
 * pays for long rows alone. Non-temporal stores need both rows to have the same position in a cache line. */
CREG_INLINE int in_pairs(form f, const creg_norm *n)
{
    return f.usual && (!n->stream || (n->cols >= LONG_PAIR && n->cols % CREG_LINE == 0));
}

/* Rows i and i + 1, unless the second needs float64; `follow` more rows come after these. */
CREG_INLINE int norm_grad_pair(form f, const creg_norm *n, grad_block b, const grad_row *r, ptrdiff_t i,
                               ptrdiff_t follow, int stream)
{
    grad_row second;
    if (!set_grad_row(f, n, rows_on(b, n->cols), i + 1, &second)) return 0;
    write_grad_rows(f, r, &second, follow >= 2 ? 2 * n->cols : 0, n->cols, stream);
    return 1;
}

/* `follow` more rows come after these. */
CREG_INLINE void norm_grad_single_rows(form f, const creg_norm *n, grad_block b, ptrdiff_t first, ptrdiff_t rows,
                                       ptrdiff_t follow, int stream)
{
    const ptrdiff_t cols = n->cols;
    const int pairs = in_pairs(f, n);
    for (ptrdiff_t i = 0, size; i < rows; i += size, b = rows_on(b, size * cols)) {
        const ptrdiff_t behind = rows + follow - i - 1;
        grad_row r;
        size = 1;
        if (!set_grad_row(f, n, b, first + i, &r))
            norm_grad_row_in_float64(f, n, b, first + i);
        else if (pairs && i + 1 < rows && norm_grad_pair(f, n, b, &r, first + i, behind - 1, stream))
            size = 2;
        else
            write_grad_rows(f, &r, NULL, behind ? cols : 0, cols, stream);
    }
}

/* CREG_BATCH short rows; prefetches the rows `ahead` elements on. Returns 0, with nothing written, if a row needs
 * float64. */
CREG_INLINE int norm_grad_batch(form f, const creg_norm *n, grad_block b, ptrdiff_t first, ptrdiff_t ahead,
                                const part *rest, int stream)
{
    float hi[CREG_BATCH], lo[CREG_BATCH], scale[CREG_BATCH], g[CREG_BATCH], g_d[CREG_BATCH];
    double means[CREG_BATCH];
    const double *rstd = n->rstd + first;
    const ptrdiff_t cols = n->cols;
    const int centred = creg_is_centred(f.kind);
    int unsafe = 0, plain = 1;
    if (centred) split_means(n->mean + first, hi, lo, CREG_BATCH);
    for (int i = 0; i < CREG_BATCH; i++) {
        scale[i] = (float)rstd[i];
        unsafe |= !creg_is_safe_rstd(rstd[i]);
    }
    for (int i = 0; i < CREG_BATCH; i++) {
        const ptrdiff_t at = i * cols;
        const grad_operands operands = {b.dy + at, b.x + at, b.gamma, short_scale(f.kind, hi, lo, scale, i)};
        const sums s = grad_short_sums(f.kind, &operands, cols, rest);
        g[i] = centred ? s.a : 0.0f;
        g_d[i] = s.b;
    }
    for (int i = 0; i < CREG_BATCH; i++) {
        const double mean_g = centred ? (double)g[i] / (double)cols : 0.0;
        const double mean_g_x_hat = (double)g_d[i] * rstd[i] / (double)cols;
        means[i] = fabs(mean_g) + fabs(mean_g_x_hat);
        plain &= means_are_plain(means[i]);
        g[i] = (float)mean_g;
        g_d[i] = (float)mean_g_x_hat;
    }
    if (unsafe || (!plain && !batch_gradients_are_safe(means, rstd, b.dy, b.gamma, cols))) return 0;
    const int pairs = in_pairs(f, n);
    for (ptrdiff_t i = 0; i < CREG_BATCH; i += 1 + pairs) {
        const grad_row r = grad_row_of(rows_on(b, i * cols), short_scale(f.kind, hi, lo, scale, i), g[i], g_d[i]);
        const ptrdiff_t k = i + pairs;
        const grad_row next = grad_row_of(rows_on(b, k * cols), short_scale(f.kind, hi, lo, scale, k), g[k], g_d[k]);
        if (pairs)
            write_grad_rows(f, &r, &next, ahead, cols, stream);
        else
            write_grad_rows(f, &r, NULL, ahead, cols, stream);
    }
    return 1;
}

CREG_INLINE void norm_grad_rows_of(form f, const creg_norm *n, grad_block b, ptrdiff_t first, ptrdiff_t rows,
                                   ptrdiff_t follow, int stream)
{
    const ptrdiff_t cols = n->cols;
    const part rest = part_of(cols % CREG_LANES);
    for (ptrdiff_t i = 0, size; i < rows; i += size, b = rows_on(b, size * cols)) {
        const int batch = is_short(cols) && rows - i >= CREG_BATCH;
        size = batch ? CREG_BATCH : rows - i;
        const ptrdiff_t behind = rows + follow - i - size, ahead = behind >= size ? size * cols : 0;
        if (!batch || !norm_grad_batch(f, n, b, first + i, ahead, &rest, stream))
            norm_grad_single_rows(f, n, b, first + i, size, behind, stream);
    }
}

static CREG_NOINLINE void rms_norm_grad_rows(const creg_norm *n, const grad_block *b, ptrdiff_t first, ptrdiff_t rows,
                                             ptrdiff_t follow, int stream)
{
    if (b->gamma && !b->dh)
        norm_grad_rows_of((form){CREG_RMS_NORM, 1}, n, *b, first, rows, follow, stream);
    else
        norm_grad_rows_of((form){CREG_RMS_NORM, 0}, n, *b, first, rows, follow, stream);
}

static CREG_NOINLINE void layer_norm_grad_rows(const creg_norm *n, const grad_block *b, ptrdiff_t first, ptrdiff_t rows,
                                               ptrdiff_t follow, int stream)
{
    if (b->gamma && !b->dh)
        norm_grad_rows_of((form){CREG_LAYER_NORM, 1}, n, *b, first, rows, follow, stream);
    else
        norm_grad_rows_of((form){CREG_LAYER_NORM, 0}, n, *b, first, rows, follow, stream);
}

/* The chunk that starts at a row, its sums of dgamma and dbeta set to 0. */
CREG_INLINE grad_block begin_chunk(const creg_norm *n, ptrdiff_t first)
{
    const ptrdiff_t at = first * n->cols, sums = n->partial_dgamma ? first / n->step * n->cols : 0;
    const grad_block b = {input_at(n->dy, at),         input_at(n->x, at),
                          input_at(n->dh, at),         n->gamma,
                          output_at(n->dx, at),        NULL,
                          AT(n->partial_dgamma, sums), AT(n->partial_dbeta, sums)};
    zero_sums(b.dgamma, n->cols);
    zero_sums(b.dbeta, n->cols);
    return b;
}

/* dx of rows [first, first + rows), and their terms of the chunk's dgamma and dbeta; `follow` more rows come after. */
static void norm_grad_rows(const creg_norm *n, const grad_block *b, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t follow,
                           int stream)
{
    if (n->kind == CREG_RMS_NORM)
        rms_norm_grad_rows(n, b, first, rows, follow, stream);
    else
        layer_norm_grad_rows(n, b, first, rows, follow, stream);
}

static void creg_norm_backward(const creg_norm *n, ptrdiff_t first, ptrdiff_t rows)
{
    const grad_block b = begin_chunk(n, first);
    const int stream = n->stream && n->cols >= LONG_ROW;
    norm_grad_rows(n, &b, first, rows, 0, stream);
    if (stream) v_stream_end();
}

#endif
