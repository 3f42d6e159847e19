/* Batch norm (Ioffe and Szegedy, 2015, "Batch Normalization", arXiv:1502.03167), channel by channel over (n, c, s).
 *
 * Training   mean, var = moments of the channel over n and s (var biased),  rstd = 1 / sqrt(var + eps)
 *            x_hat = (x - mean) * rstd,  y = x_hat * gamma + beta
 * Saved      mean and rstd, float64.
 * Backward   dbeta = sum(dy),  dgamma = sum(dy * x_hat)
 *            dx = gamma * rstd * (dy - mean(dy) - x_hat * mean(dy * x_hat))
 * Inference  the same y with given mean and var, which backward then treats as constants: dx = gamma * rstd * dy.
 *
 * The tensor is cut into chunks by its shape alone (cregkit/kernels/batch_norm.pyx); every pass takes one chunk of some
 * channels. Two layouts share all but the innermost loops:
 *   columns (s == 1): channels are contiguous, a vector holds neighbouring channels, a chunk is a block of rows;
 *   planes  (s > 1):  a channel's elements are contiguous, a vector holds elements of one plane.
 *
 * Numerical note   Moments are taken about a provisional mean (reduce.h; for columns, that of the chunk's first rows)
 * and merged in float64 in the order of the chunks. x - mean is (x - hi) - lo as in layer_norm.h.
 *
 * Speed   Beyond the cache, training is bound by the bytes of two passes, 12 an element forward and 20 backward, which
 * no order of sums avoids for columns; for planes whole channels in one task do, as their second pass reads the caches.
 * The last pass runs from the end of the tensor, of which the first has left most in the cache. Tried and left (Zen 3,
 * AVX2): eight instead of four rows summed in registers (1.4 times slower for 64 channels: rows whose distance is a
 * power of two share their place in the cache); fetching the next rows ahead (none to 1.3 times slower, same reason);
 * the write pass over four rows at a time with streamed stores (10 times slower), and every write pass as one run
 * (1.5 times slower near the core). On Zen 5, where a write pass streams, it fetches ahead (0.83 to 1 of the time); the
 * sums' rows fetched ahead as well make no difference at 16 MiB and take 1.1 times as long within the cache. What is
 * written of planes, or as one run of rows, is asked for ahead where it is not streamed (planes 0.83 to 0.98 of the
 * time on a Xeon, runs 0.94 to 1.0; other rows 1.0 to 1.08: left); fetching the planes of the sums ahead, by 256 to
 * 2048 elements or the next plane whole, into the first cache or the second, is no faster. Rows are written four at a
 * time near the core only: from 128 KiB on, one run, or one row after another where there are many channels, takes 0.6
 * to 0.95 of the time (a Xeon, AVX2 and AVX-512).
 *
 * Limits   Inference of planes takes 1.0 to 1.2 of the time of a copy of as many bytes, PyTorch's 1.1 to 1.3, 1.6 for
 * (16, 64, 500): no more than that is to be gained on it. Backward that reads x and dy a second time from the second
 * cache, (16, 64, 500) or (32, 256, 14, 14), takes 0.64 to 0.72 of the time of a copy of its 12 bytes an element,
 * PyTorch's 0.68 to 0.78.
 */
#ifndef CREG_BATCH_NORM_H
#define CREG_BATCH_NORM_H

#include "safety.h"
#include "stores.h"

#define LARGE_BIAS 0x1p+100f /* only with such a bias may y be finite where x_hat * gamma overflows */

enum {
    COLUMN_TILE = 1024, /* channels whose running sums stay in L1 together */
    LEADING_ROWS = 16,  /* rows that give the provisional mean */
    SUM_ROWS = 4,       /* rows summed in registers before the running sums are touched */
    APPLY_ROWS = 4,     /* rows that share one load of their channels' parameters */
    LINE_VECS = CREG_LINE / CREG_W,
    FLAT_CHANNELS = 1024, /* most channels whose rows are treated as one run where they are far from the core, */
    SHORT_ROW = 64        /* or where there are fewer channels than this */
};

CREG_INLINE const float *plane(const float *x, creg_shape shape, creg_chunk chunk, ptrdiff_t c)
{
    return x + (chunk.n0 * shape.c + c) * shape.s + chunk.s0;
}

CREG_INLINE double chunk_count(creg_chunk chunk)
{
    return (double)(chunk.n1 - chunk.n0) * (double)(chunk.s1 - chunk.s0);
}

CREG_INLINE int any_exact(const creg_channels *ch, ptrdiff_t c0, ptrdiff_t c1)
{
    return memchr(ch->exact + c0, 1, (size_t)(c1 - c0)) != NULL;
}

/* ---- moments ---- */

/* d = x - shift and its square, of one row's channels [at, at + CREG_W). */
CREG_INLINE vf2 column_moment_terms(const void *ctx, ptrdiff_t at, const vw *cut)
{
    const shifted *o = ctx;
    const vf d = v_sub(v_load_cut(o->x + at, cut), o->shift);
    return (vf2){d, v_mul(d, d)};
}

/* The terms of SUM_ROWS rows, `stride` apart, added in pairs; or of one row. */
CREG_INLINE vf2 rows_terms(terms of, const void *ctx, int rows, ptrdiff_t stride, ptrdiff_t at, const vw *cut)
{
    vf2 t[SUM_ROWS];
    for (int i = 0; i < rows; i++) t[i] = of(ctx, at + i * stride, cut);
    for (int half = rows / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) t[i] = add2(t[i], t[i + half]);
    return t[0];
}

CREG_INLINE void column_moments(const float *x, int rows, ptrdiff_t stride, ptrdiff_t j, const vw *cut,
                                const float *shift, float *sum, float *squares)
{
    const shifted ctx = {x, v_load(shift + j)};
    const vf2 t = rows_terms(column_moment_terms, &ctx, rows, stride, j, cut);
    v_store(sum + j, v_add(v_load(sum + j), t.a));
    v_store(squares + j, v_add(v_load(squares + j), t.b));
}

CREG_INLINE void columns_moments_rows(const float *x, int rows, ptrdiff_t stride, ptrdiff_t n, const float *shift,
                                      float *sum, float *squares)
{
    ptrdiff_t j = 0;
    for (; j + CREG_W <= n; j += CREG_W) column_moments(x, rows, stride, j, NULL, shift, sum, squares); /* main loop */
    const vw cut = v_window(n - j);
    if (j < n) column_moments(x, rows, stride, j, &cut, shift, sum, squares); /* tail */
}

CREG_INLINE void columns_leading_mean(const float *x, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t n, float *shift)
{
    const vf count = v_set1((float)rows);
    for (ptrdiff_t j = 0; j < n; j += CREG_W) {
        vf s = v_set1(0.0f);
        for (ptrdiff_t i = 0; i < rows; i++) s = v_add(s, v_load_part(x + i * stride + j, n - j));
        v_store(shift + j, v_div(s, count));
    }
}

static void columns_moments(const float *x, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t n, double *mean, double *m2)
{
    float shift[COLUMN_TILE], sum[COLUMN_TILE], squares[COLUMN_TILE];
    columns_leading_mean(x, min_size(rows, LEADING_ROWS), stride, n, shift);
    const double per_count = 1.0 / (double)rows;
    for (int refined = 0, poor = 1; poor; refined = 1) {
        memset(sum, 0, sizeof sum);
        memset(squares, 0, sizeof squares);
        ptrdiff_t i = 0;
        for (; i + SUM_ROWS <= rows; i += SUM_ROWS)
            columns_moments_rows(x + i * stride, SUM_ROWS, stride, n, shift, sum, squares);
        for (; i + 2 <= rows; i += 2) columns_moments_rows(x + i * stride, 2, stride, n, shift, sum, squares);
        if (i < rows) columns_moments_rows(x + i * stride, 1, stride, n, shift, sum, squares);
        poor = 0;
        for (ptrdiff_t j = 0; j < n; j++) {
            const double total = sum[j], correction = total * per_count,
                         spread = (double)squares[j] - total * correction;
            mean[j] = (double)shift[j] + correction;
            m2[j] = spread < 0.0 ? 0.0 : spread;
            if (!refined && total * correction > spread) {
                shift[j] = (float)mean[j];
                poor = 1;
            }
        }
    }
}

static void creg_batch_norm_moments(const float *x, creg_shape shape, creg_chunk chunk, ptrdiff_t c0, ptrdiff_t c1,
                                    double *mean, double *m2)
{
    if (shape.s == 1) {
        for (ptrdiff_t c = c0; c < c1; c += COLUMN_TILE)
            columns_moments(plane(x, shape, chunk, c), chunk.n1 - chunk.n0, shape.c, min_size(c1 - c, COLUMN_TILE),
                            mean + c, m2 + c);
        return;
    }
    for (ptrdiff_t c = c0; c < c1; c++) {
        const moments m =
            panel_moments(plane(x, shape, chunk, c), chunk.n1 - chunk.n0, shape.c * shape.s, chunk.s1 - chunk.s0);
        mean[c] = m.mean;
        m2[c] = m.m2;
    }
}

/* ---- the channels' parameters ---- */

static void creg_batch_norm_statistics(const float *x, creg_shape shape, const creg_chunk *chunks, ptrdiff_t n_chunks,
                                       const double *chunk_mean, const double *chunk_m2, double eps, ptrdiff_t c0,
                                       ptrdiff_t c1, double *mean, double *var, double *rstd, unsigned char *exact)
{
    double *m2 = var; /* until the end */
    const double count = (double)shape.n * (double)shape.s;
    double merged = chunk_count(chunks[0]);
    memcpy(mean + c0, chunk_mean + c0, sizeof(double) * (size_t)(c1 - c0));
    memcpy(m2 + c0, chunk_m2 + c0, sizeof(double) * (size_t)(c1 - c0));
    for (ptrdiff_t k = 1; k < n_chunks; k++) { /* moments_merge() of every channel */
        const double share = chunk_count(chunks[k]) / (merged + chunk_count(chunks[k])), weight = merged * share;
        const double *mean_k = chunk_mean + k * shape.c, *m2_k = chunk_m2 + k * shape.c;
        for (ptrdiff_t c = c0; c < c1; c++) {
            const double delta = mean_k[c] - mean[c];
            mean[c] += delta * share;
            m2[c] += m2_k[c] + delta * delta * weight;
        }
        merged += chunk_count(chunks[k]);
    }
    for (ptrdiff_t c = c0; c < c1; c++) { /* apart from what follows, so that it runs in vectors */
        var[c] = m2[c] / count;
        rstd[c] = 1.0 / sqrt(var[c] + eps);
    }
    for (ptrdiff_t c = c0; c < c1; c++) {
        exact[c] = 0;
        if (count > CREG_FEW && creg_is_safe(var[c], var[c] + eps)) continue;
        const moments m = exact_moments(x + c * shape.s, shape.n, shape.c * shape.s, shape.s);
        mean[c] = m.mean;
        var[c] = m.m2 / count;
        rstd[c] = 1.0 / sqrt(var[c] + eps);
        exact[c] = m.m2 - m.m2 == 0.0; /* a channel with NaN or Inf becomes NaN either way */
    }
}

static void creg_batch_norm_running(const float *restrict mean, const float *restrict var, double eps, ptrdiff_t c,
                                    double *restrict mean64, double *restrict rstd, unsigned char *restrict exact)
{
    for (ptrdiff_t i = 0; i < c; i++) { /* apart from what follows, so that it runs in vectors */
        mean64[i] = mean[i];
        rstd[i] = 1.0 / sqrt((double)var[i] + eps);
    }
    for (ptrdiff_t i = 0; i < c; i++) /* x - mean could overflow */
        exact[i] = (fabs(mean64[i]) >= 0x1p+100) & (fabs(mean64[i]) < (double)INFINITY);
}

/* Whether float32 holds it to full precision. */
CREG_INLINE int fits_float(double a)
{
    return (a == 0.0) | ((fabs(a) >= 0x1p-126) & (fabs(a) < 0x1p+127)) | (a - a != 0.0);
}

/* scale = rstd * gamma, and whether it takes float64. */
static void find_scales(const double *restrict rstd, const float *restrict gamma, double *restrict scale64,
                        float *restrict scale, unsigned char *restrict exact, ptrdiff_t n)
{
    if (gamma)
        for (ptrdiff_t i = 0; i < n; i++) scale64[i] = rstd[i] * (double)gamma[i];
    else
        memcpy(scale64, rstd, sizeof(double) * (size_t)n);
    for (ptrdiff_t i = 0; i < n; i++) scale[i] = (float)scale64[i];
    for (ptrdiff_t i = 0; i < n; i++) exact[i] |= (unsigned char)!fits_float(scale64[i]);
}

CREG_INLINE void set_scales(const creg_channels *ch, const double *rstd, const float *gamma, ptrdiff_t c0, ptrdiff_t c1)
{
    find_scales(rstd + c0, AT(gamma, c0), ch->scale64 + c0, ch->scale + c0, ch->exact + c0, c1 - c0);
}

static void creg_batch_norm_affine(const double *mean, const double *rstd, const float *gamma, const float *beta,
                                   ptrdiff_t c0, ptrdiff_t c1, const creg_channels *ch)
{
    const size_t n = (size_t)(c1 - c0);
    memcpy(ch->mean64 + c0, mean + c0, sizeof(double) * n);
    split_means(mean + c0, ch->hi + c0, ch->lo + c0, c1 - c0);
    set_scales(ch, rstd, gamma, c0, c1);
    if (!beta) {
        memset(ch->bias + c0, 0, sizeof(float) * n);
        return;
    }
    memcpy(ch->bias + c0, beta + c0, sizeof(float) * n);
    if (creg_are_at_most(beta + c0, LARGE_BIAS, c1 - c0)) return;
    for (ptrdiff_t c = c0; c < c1; c++) /* d * scale could overflow on the way to a finite y */
        ch->exact[c] |= fabsf(beta[c]) > LARGE_BIAS;
}

/* ---- y ---- */

CREG_INLINE vf affine(vf x, vf hi, vf lo, vf scale, vf bias)
{
    return v_add(v_mul(v_sub(v_sub(x, hi), lo), scale), bias);
}

CREG_INLINE float affine_exact(float x, const creg_channels *ch, ptrdiff_t c)
{
    return (float)(((double)x - ch->mean64[c]) * ch->scale64[c] + (double)ch->bias[c]);
}

/* `rows` rows of `vecs` registers' columns from j on, of which `n` are left: a cache line, or less at the end. */
CREG_INLINE void column_apply(const float *x, float *y, int rows, ptrdiff_t stride, ptrdiff_t j, ptrdiff_t n, int vecs,
                              const creg_channels *ch, int stream)
{
    vf hi[LINE_VECS], lo[LINE_VECS], scale[LINE_VECS], bias[LINE_VECS];
    for (int k = 0; k < vecs; k++) {
        const ptrdiff_t c = j + k * CREG_W, left = n - k * CREG_W;
        hi[k] = v_load_part(ch->hi + c, left), lo[k] = v_load_part(ch->lo + c, left);
        scale[k] = v_load_part(ch->scale + c, left), bias[k] = v_load_part(ch->bias + c, left);
    }
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < vecs; k++) {
            const ptrdiff_t at = i * stride + j + k * CREG_W, left = n - k * CREG_W;
            const vf v = v_load_part(x + at, left);
            v_put_part(y + at, affine(v, hi[k], lo[k], scale[k], bias[k]), left, stream);
        }
}

CREG_INLINE void columns_apply_rows(const float *x, float *y, int rows, ptrdiff_t stride, ptrdiff_t j, ptrdiff_t end,
                                    const creg_channels *ch, int stream)
{
    for (; j + CREG_LINE <= end; j += CREG_LINE) /* main loop */
        column_apply(x, y, rows, stride, j, CREG_LINE, LINE_VECS, ch, stream);
    for (; j < end; j += CREG_W) column_apply(x, y, rows, stride, j, end - j, 1, ch, 0); /* tail */
}

/* Rows of all c channels as one run of n elements: registers need not begin and end with a row, which counts where rows
 * are short, and streams fill whole cache lines one after another: streams to several rows in turn would break up the
 * lines that the processor gathers. Near the core it takes half as long again as APPLY_ROWS rows at a time, because
 * every register of x then needs its own load of the parameters. These go on after the last channel with the first
 * ones again. `from` is the first element's channel. */
typedef struct {
    float hi[FLAT_CHANNELS + CREG_LINE], lo[FLAT_CHANNELS + CREG_LINE], scale[FLAT_CHANNELS + CREG_LINE];
    float bias[FLAT_CHANNELS + CREG_LINE], k1[FLAT_CHANNELS + CREG_LINE], k2[FLAT_CHANNELS + CREG_LINE];
} flat_channels;

CREG_INLINE void repeat_channels(float *to, const float *from, ptrdiff_t c)
{
    memcpy(to, from, sizeof(float) * (size_t)c);
    for (ptrdiff_t k = 0; k < CREG_LINE; k++) to[c + k] = to[k];
}

CREG_INLINE int is_flat(ptrdiff_t c0, ptrdiff_t c1, ptrdiff_t c, int where)
{
    return c0 == 0 && c1 == c && c <= FLAT_CHANNELS && (where != CREG_NEAR || c < SHORT_ROW);
}

CREG_INLINE void flat_apply_run(const float *x, float *y, ptrdiff_t n, ptrdiff_t from, ptrdiff_t c,
                                const flat_channels *ch, int stream)
{
    const ptrdiff_t step = CREG_W % c;
    for (ptrdiff_t j = 0, k = from % c; j < n; j += CREG_W) {
        const vf hi = v_load(ch->hi + k), lo = v_load(ch->lo + k), scale = v_load(ch->scale + k);
        const vf v = v_load_part(x + j, n - j);
        fetch_ahead(x + j, stream);
        if (!stream) __builtin_prefetch(y + j + WRITE_AHEAD);
        v_put_part(y + j, affine(v, hi, lo, scale, v_load(ch->bias + k)), n - j, stream);
        k += step;
        if (k >= c) k -= c;
    }
}

static void flat_apply(const float *x, float *y, ptrdiff_t n, ptrdiff_t c, const creg_channels *ch, int stream)
{
    flat_channels flat;
    repeat_channels(flat.hi, ch->hi, c);
    repeat_channels(flat.lo, ch->lo, c);
    repeat_channels(flat.scale, ch->scale, c);
    repeat_channels(flat.bias, ch->bias, c);
    const ptrdiff_t lead = stream ? unaligned_lead(y, n) : 0, end = stream ? lead + whole_lines(n - lead) : 0;
    if (lead) flat_apply_run(x, y, lead, 0, c, &flat, 0);
    if (stream) flat_apply_run(x + lead, y + lead, end - lead, lead, c, &flat, 1);
    flat_apply_run(x + end, y + end, n - end, end, c, &flat, 0);
}

static void columns_apply(const float *x, float *y, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t c0, ptrdiff_t c1,
                          const creg_channels *ch, int where)
{
    const int stream = where == CREG_STREAM;
    ptrdiff_t i = 0;
    if (any_exact(ch, c0, c1)) {
        for (; i < rows; i++)
            for (ptrdiff_t c = c0; c < c1; c++) {
                const float v = x[i * stride + c];
                y[i * stride + c] =
                    ch->exact[c] ? affine_exact(v, ch, c) : ((v - ch->hi[c]) - ch->lo[c]) * ch->scale[c] + ch->bias[c];
            }
        return;
    }
    if (is_flat(c0, c1, stride, where)) {
        flat_apply(x, y, rows * stride, stride, ch, stream);
        return;
    }
    for (; where == CREG_NEAR && i + APPLY_ROWS <= rows; i += APPLY_ROWS)
        columns_apply_rows(x + i * stride, y + i * stride, APPLY_ROWS, stride, c0, c1, ch, stream);
    for (; i < rows; i++) {
        const ptrdiff_t lead = stream ? unaligned_lead(y + i * stride + c0, c1 - c0) : 0;
        columns_apply_rows(x + i * stride, y + i * stride, 1, stride, c0, c0 + lead, ch, 0);
        columns_apply_rows(x + i * stride, y + i * stride, 1, stride, c0 + lead, c1, ch, stream);
    }
}

/* How far on to ask for what is written next, where `run` elements of each sample are: within them, or in the next
 * sample. */
CREG_INLINE ptrdiff_t planes_ahead(creg_shape shape, ptrdiff_t run)
{
    return run > WRITE_AHEAD ? WRITE_AHEAD : shape.c * shape.s;
}

CREG_INLINE void plane_apply_run(const float *x, float *y, ptrdiff_t n, ptrdiff_t ahead, vf hi, vf lo, vf scale,
                                 vf bias, int stream)
{
    ptrdiff_t j = 0;
    for (; j + CREG_W <= n; j += CREG_W) { /* main loop */
        fetch_ahead(x + j, stream);
        if (!stream) __builtin_prefetch(y + j + ahead);
        v_put_part(y + j, affine(v_load(x + j), hi, lo, scale, bias), CREG_W, stream);
    }
    if (j < n) v_store_part(y + j, affine(v_load_part(x + j, n - j), hi, lo, scale, bias), n - j); /* tail */
}

static void plane_apply(const float *x, float *y, ptrdiff_t n, ptrdiff_t ahead, const creg_channels *ch, ptrdiff_t c,
                        int stream)
{
    if (ch->exact[c]) {
        for (ptrdiff_t j = 0; j < n; j++) y[j] = affine_exact(x[j], ch, c);
        return;
    }
    const vf hi = v_set1(ch->hi[c]), lo = v_set1(ch->lo[c]), scale = v_set1(ch->scale[c]), bias = v_set1(ch->bias[c]);
    const ptrdiff_t lead = stream ? unaligned_lead(y, n) : 0, end = stream ? lead + whole_lines(n - lead) : 0;
    if (lead) plane_apply_run(x, y, lead, ahead, hi, lo, scale, bias, 0);
    if (stream) plane_apply_run(x + lead, y + lead, end - lead, ahead, hi, lo, scale, bias, 1);
    plane_apply_run(x + end, y + end, n - end, ahead, hi, lo, scale, bias, 0);
}

static void creg_batch_norm_apply(const float *x, float *y, creg_shape shape, creg_chunk chunk, ptrdiff_t c0,
                                  ptrdiff_t c1, const creg_channels *ch, int where)
{
    const int stream = where == CREG_STREAM;
    const ptrdiff_t n = chunk.s1 - chunk.s0, ahead = planes_ahead(shape, (c1 - c0) * n);
    if (shape.s == 1)
        columns_apply(x + chunk.n0 * shape.c, y + chunk.n0 * shape.c, chunk.n1 - chunk.n0, shape.c, c0, c1, ch, where);
    else
        for (ptrdiff_t i = chunk.n0; i < chunk.n1; i++)
            for (ptrdiff_t c = c0; c < c1; c++) {
                const ptrdiff_t at = (i * shape.c + c) * shape.s + chunk.s0;
                plane_apply(x + at, y + at, n, ahead, ch, c, stream);
            }
    if (stream) v_stream_end();
}

/* ---- sums for backward: of dy and of dy * d, d = x - mean ---- */

/* dy and dy * (x - mean). */
typedef struct {
    const float *dy, *x;
    vf hi, lo;
} channel_grad_operands;

CREG_INLINE vf2 channel_grad_terms(const void *ctx, ptrdiff_t at, const vw *cut)
{
    const channel_grad_operands *o = ctx;
    const vf g = v_load_cut(o->dy + at, cut);
    const vf d = v_cut(v_sub(v_sub(v_load_cut(o->x + at, cut), o->hi), o->lo), cut);
    return (vf2){g, v_mul(g, d)};
}

CREG_INLINE void column_grad_sums(const float *dy, const float *x, int rows, ptrdiff_t stride, ptrdiff_t j,
                                  ptrdiff_t left, const float *hi, const float *lo, float *sum_dy, float *sum_dy_d)
{
    const vw window = v_window(left), *cut = left < CREG_W ? &window : NULL;
    const channel_grad_operands ctx = {dy, x, v_load_cut(hi + j, cut), v_load_cut(lo + j, cut)};
    const vf2 t = rows_terms(channel_grad_terms, &ctx, rows, stride, j, cut);
    v_put_part(sum_dy + j, v_add(v_load_part(sum_dy + j, left), t.a), left, 0);
    v_put_part(sum_dy_d + j, v_add(v_load_part(sum_dy_d + j, left), t.b), left, 0);
}

CREG_INLINE void columns_grad_sums_rows(const float *dy, const float *x, int rows, ptrdiff_t stride, ptrdiff_t n,
                                        const float *hi, const float *lo, float *sum_dy, float *sum_dy_d)
{
    ptrdiff_t j = 0;
    for (; j + CREG_W <= n; j += CREG_W) /* main loop */
        column_grad_sums(dy, x, rows, stride, j, CREG_W, hi, lo, sum_dy, sum_dy_d);
    if (j < n) column_grad_sums(dy, x, rows, stride, j, n - j, hi, lo, sum_dy, sum_dy_d); /* tail */
}

static void columns_grad_sums(const float *dy, const float *x, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t n,
                              const float *hi, const float *lo, float *sum_dy, float *sum_dy_d)
{
    memset(sum_dy, 0, sizeof(float) * (size_t)n);
    memset(sum_dy_d, 0, sizeof(float) * (size_t)n);
    ptrdiff_t i = 0;
    for (; i + SUM_ROWS <= rows; i += SUM_ROWS)
        columns_grad_sums_rows(dy + i * stride, x + i * stride, SUM_ROWS, stride, n, hi, lo, sum_dy, sum_dy_d);
    for (; i < rows; i++)
        columns_grad_sums_rows(dy + i * stride, x + i * stride, 1, stride, n, hi, lo, sum_dy, sum_dy_d);
}

static void creg_batch_norm_grad_sums(const float *dy, const float *x, creg_shape shape, creg_chunk chunk, ptrdiff_t c0,
                                      ptrdiff_t c1, const creg_channels *ch, float *sum_dy, float *sum_dy_d)
{
    const ptrdiff_t samples = chunk.n1 - chunk.n0, n = chunk.s1 - chunk.s0;
    if (shape.s == 1) {
        for (ptrdiff_t c = c0; c < c1; c += COLUMN_TILE)
            columns_grad_sums(plane(dy, shape, chunk, c), plane(x, shape, chunk, c), samples, shape.c,
                              min_size(c1 - c, COLUMN_TILE), ch->hi + c, ch->lo + c, sum_dy + c, sum_dy_d + c);
        return;
    }
    for (ptrdiff_t c = c0; c < c1; c++) {
        const channel_grad_operands ctx = {plane(dy, shape, chunk, c), plane(x, shape, chunk, c), v_set1(ch->hi[c]),
                                           v_set1(ch->lo[c])};
        const sums t = pieces_sums(channel_grad_terms, &ctx, samples, shape.c * shape.s, n);
        sum_dy[c] = t.a;
        sum_dy_d[c] = t.b;
    }
}

static void exact_grad_sums(const float *dy, const float *x, creg_shape shape, ptrdiff_t c, double mean, double *sum_dy,
                            double *sum_dy_d)
{
    *sum_dy = *sum_dy_d = 0.0;
    for (ptrdiff_t i = 0; i < shape.n; i++)
        for (ptrdiff_t j = 0; j < shape.s; j++) {
            const ptrdiff_t at = (i * shape.c + c) * shape.s + j;
            *sum_dy += (double)dy[at];
            *sum_dy_d += (double)dy[at] * ((double)x[at] - mean);
        }
}

/* Whether the gradients of channel c are so small that they lose bits to underflow. */
static CREG_NOINLINE int channel_is_small(const float *dy, creg_shape shape, ptrdiff_t c)
{
    float largest = 0.0f;
    for (ptrdiff_t i = 0; i < shape.n; i++)
        for (ptrdiff_t j = 0; j < shape.s; j++) {
            const float size = fabsf(dy[(i * shape.c + c) * shape.s + j]);
            if (size >= (float)SMALLEST_SAFE_GRADIENT) return 0;
            largest = size > largest ? size : largest;
        }
    return largest > 0.0f;
}

/* Magnitudes of a channel's means of dy and dy * x_hat, times the count; and whether they tell that float32 is enough.
 * Where they are small, its gradients have to be looked at. */
CREG_INLINE double channel_means(double sum_dy, double sum_dy_d, double rstd)
{
    return fabs(sum_dy) + fabs(sum_dy_d * rstd);
}

/* A channel of zeros, as of dead units, is told from one whose sums cancelled by its first and last gradient. */
CREG_INLINE int channel_is_plain(double means, double count, double rstd, float first, float last)
{
    return ((means >= count * SMALLEST_SAFE_GRADIENT) & (means < INFINITY)) |
           ((means == 0.0) & zeros_are_plain(rstd) & (first == 0.0f) & (last == 0.0f));
}

/* The sums of those of n channels from c on that float32 is not enough for, again. */
static CREG_NOINLINE void exact_grad_sums_of(const float *dy, const float *x, creg_shape shape, double count,
                                             const double *mean, const double *rstd, int training, ptrdiff_t c,
                                             ptrdiff_t n, const creg_channels *ch)
{
    double *sums_dy = ch->k1_64, *sums_dy_d = ch->k2_64;
    for (const ptrdiff_t end = c + n; c < end; c++) {
        const double means = channel_means(sums_dy[c], sums_dy_d[c], rstd[c]);
        int exact = count <= CREG_FEW || !creg_is_safe_rstd(rstd[c]) || !(means < INFINITY);
        if (!exact && means < count * SMALLEST_SAFE_GRADIENT) exact = channel_is_small(dy, shape, c);
        if (!exact) continue;
        exact_grad_sums(dy, x, shape, c, mean[c], sums_dy + c, sums_dy_d + c);
        if (training) ch->exact[c] = 1; /* else dx = dy * scale, which no sum enters */
    }
}

/* From the chunks' sums: those of the batch, left in k1_64 (of dy) and k2_64 (of dy * d), dgamma and dbeta. */
static void creg_batch_norm_grad_merge(const float *dy, const float *x, creg_shape shape, ptrdiff_t n_chunks,
                                       const float *chunk_dy, const float *chunk_dy_d, const double *mean,
                                       const double *rstd, int training, ptrdiff_t c0, ptrdiff_t c1, float *dgamma,
                                       float *dbeta, const creg_channels *ch)
{
    const double count = (double)shape.n * (double)shape.s;
    double *sums_dy = ch->k1_64, *sums_dy_d = ch->k2_64;
    memset(sums_dy + c0, 0, sizeof(double) * (size_t)(c1 - c0));
    memset(sums_dy_d + c0, 0, sizeof(double) * (size_t)(c1 - c0));
    for (ptrdiff_t k = 0; k < n_chunks; k++)
        for (ptrdiff_t c = c0; c < c1; c++) {
            sums_dy[c] += (double)chunk_dy[k * shape.c + c];
            sums_dy_d[c] += (double)chunk_dy_d[k * shape.c + c];
        }
    for (ptrdiff_t line = c0; line < c1; line += CREG_LINE) {
        const ptrdiff_t end = min_size(line + CREG_LINE, c1);
        const float *first = dy, *last = dy + (shape.n - 1) * shape.c * shape.s + shape.s - 1;
        int plain = count > CREG_FEW;
        for (ptrdiff_t c = plain ? line : end; c < end; c++) /* of fewer values there may be none to read */
            plain &=
                creg_is_safe_rstd(rstd[c]) & channel_is_plain(channel_means(sums_dy[c], sums_dy_d[c], rstd[c]), count,
                                                              rstd[c], first[c * shape.s], last[c * shape.s]);
        if (!plain) exact_grad_sums_of(dy, x, shape, count, mean, rstd, training, line, end - line, ch);
    }
    for (ptrdiff_t c = c0; dgamma && c < c1; c++) dgamma[c] = (float)(sums_dy_d[c] * rstd[c]);
    for (ptrdiff_t c = c0; dbeta && c < c1; c++) dbeta[c] = (float)sums_dy[c];
}

/* From these sums, over `count` values: the channels' parameters for dx. When mean and var are constants (training ==
 * 0) dx = dy * scale, which batch_norm_apply() computes with the centre and bias set to 0 here. */
static void creg_batch_norm_grad_affine(double count, const double *rstd, const float *gamma, int training,
                                        ptrdiff_t c0, ptrdiff_t c1, const creg_channels *ch)
{
    set_scales(ch, rstd, gamma, c0, c1);
    if (!training) {
        const size_t n = (size_t)(c1 - c0);
        memset(ch->mean64 + c0, 0, sizeof(double) * n);
        memset(ch->hi + c0, 0, sizeof(float) * n);
        memset(ch->lo + c0, 0, sizeof(float) * n);
        memset(ch->bias + c0, 0, sizeof(float) * n);
        return;
    }
    int plain = 1;
    for (ptrdiff_t c = c0; c < c1; c++) {
        const double mean_dy_x_hat = ch->k2_64[c] * rstd[c] / count;
        ch->k1_64[c] /= count;
        ch->k2_64[c] = mean_dy_x_hat * rstd[c];
        ch->k1[c] = (float)ch->k1_64[c];
        ch->k2[c] = (float)ch->k2_64[c];
        const double means = fabs(ch->k1_64[c]) + fabs(mean_dy_x_hat);
        plain &= (means <= 1.0 / SMALLEST_SAFE_GRADIENT) & fits_float(ch->k2_64[c]);
    }
    for (ptrdiff_t c = c0; !plain && c < c1; c++) { /* rarely: as above, for each channel */
        const double means = fabs(ch->k1_64[c]) + fabs(ch->k2_64[c] / rstd[c]);
        ch->exact[c] |= (means > 1.0 / SMALLEST_SAFE_GRADIENT) | !fits_float(ch->k2_64[c]);
    }
}

/* ---- dx ---- */

CREG_INLINE vf grad_affine(vf dy, vf x, vf hi, vf lo, vf k1, vf k2, vf scale)
{
    return v_mul(v_sub(v_sub(dy, k1), v_mul(v_sub(v_sub(x, hi), lo), k2)), scale);
}

CREG_INLINE float grad_affine_exact(float dy, float x, const creg_channels *ch, ptrdiff_t c)
{
    return (float)(((double)dy - ch->k1_64[c] - ((double)x - ch->mean64[c]) * ch->k2_64[c]) * ch->scale64[c]);
}

/* As column_apply(). */
CREG_INLINE void column_grad(const float *dy, const float *x, float *dx, int rows, ptrdiff_t stride, ptrdiff_t j,
                             ptrdiff_t n, int vecs, const creg_channels *ch, int stream)
{
    vf hi[LINE_VECS], lo[LINE_VECS], k1[LINE_VECS], k2[LINE_VECS], scale[LINE_VECS];
    for (int k = 0; k < vecs; k++) {
        const ptrdiff_t c = j + k * CREG_W, left = n - k * CREG_W;
        hi[k] = v_load_part(ch->hi + c, left), lo[k] = v_load_part(ch->lo + c, left);
        k1[k] = v_load_part(ch->k1 + c, left), k2[k] = v_load_part(ch->k2 + c, left);
        scale[k] = v_load_part(ch->scale + c, left);
    }
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < vecs; k++) {
            const ptrdiff_t at = i * stride + j + k * CREG_W, left = n - k * CREG_W;
            const vf g = v_load_part(dy + at, left), v = v_load_part(x + at, left);
            v_put_part(dx + at, grad_affine(g, v, hi[k], lo[k], k1[k], k2[k], scale[k]), left, stream);
        }
}

CREG_INLINE void columns_grad_rows(const float *dy, const float *x, float *dx, int rows, ptrdiff_t stride, ptrdiff_t j,
                                   ptrdiff_t end, const creg_channels *ch, int stream)
{
    for (; j + CREG_LINE <= end; j += CREG_LINE) /* main loop */
        column_grad(dy, x, dx, rows, stride, j, CREG_LINE, LINE_VECS, ch, stream);
    for (; j < end; j += CREG_W) column_grad(dy, x, dx, rows, stride, j, end - j, 1, ch, 0); /* tail */
}

CREG_INLINE void flat_grad_run(const float *dy, const float *x, float *dx, ptrdiff_t n, ptrdiff_t from, ptrdiff_t c,
                               const flat_channels *ch, int stream)
{
    const ptrdiff_t step = CREG_W % c;
    for (ptrdiff_t j = 0, k = from % c; j < n; j += CREG_W) {
        const vf hi = v_load(ch->hi + k), lo = v_load(ch->lo + k), k1 = v_load(ch->k1 + k), k2 = v_load(ch->k2 + k);
        const vf g = v_load_part(dy + j, n - j), v = v_load_part(x + j, n - j);
        fetch_ahead(dy + j, stream);
        fetch_ahead(x + j, stream);
        if (!stream) __builtin_prefetch(dx + j + WRITE_AHEAD);
        v_put_part(dx + j, grad_affine(g, v, hi, lo, k1, k2, v_load(ch->scale + k)), n - j, stream);
        k += step;
        if (k >= c) k -= c;
    }
}

static void flat_grad(const float *dy, const float *x, float *dx, ptrdiff_t n, ptrdiff_t c, const creg_channels *ch,
                      int stream)
{
    flat_channels flat;
    repeat_channels(flat.hi, ch->hi, c);
    repeat_channels(flat.lo, ch->lo, c);
    repeat_channels(flat.scale, ch->scale, c);
    repeat_channels(flat.k1, ch->k1, c);
    repeat_channels(flat.k2, ch->k2, c);
    const ptrdiff_t lead = stream ? unaligned_lead(dx, n) : 0, end = stream ? lead + whole_lines(n - lead) : 0;
    if (lead) flat_grad_run(dy, x, dx, lead, 0, c, &flat, 0);
    if (stream) flat_grad_run(dy + lead, x + lead, dx + lead, end - lead, lead, c, &flat, 1);
    flat_grad_run(dy + end, x + end, dx + end, n - end, end, c, &flat, 0);
}

static void columns_grad(const float *dy, const float *x, float *dx, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t c0,
                         ptrdiff_t c1, const creg_channels *ch, int where)
{
    const int stream = where == CREG_STREAM;
    ptrdiff_t i = 0;
    if (any_exact(ch, c0, c1)) {
        for (; i < rows; i++)
            for (ptrdiff_t c = c0; c < c1; c++) {
                const ptrdiff_t at = i * stride + c;
                dx[at] = ch->exact[c]
                             ? grad_affine_exact(dy[at], x[at], ch, c)
                             : ((dy[at] - ch->k1[c]) - ((x[at] - ch->hi[c]) - ch->lo[c]) * ch->k2[c]) * ch->scale[c];
            }
        return;
    }
    if (is_flat(c0, c1, stride, where)) {
        flat_grad(dy, x, dx, rows * stride, stride, ch, stream);
        return;
    }
    for (; where == CREG_NEAR && i + APPLY_ROWS <= rows; i += APPLY_ROWS)
        columns_grad_rows(dy + i * stride, x + i * stride, dx + i * stride, APPLY_ROWS, stride, c0, c1, ch, stream);
    for (; i < rows; i++) {
        const ptrdiff_t at = i * stride, lead = stream ? unaligned_lead(dx + at + c0, c1 - c0) : 0;
        columns_grad_rows(dy + at, x + at, dx + at, 1, stride, c0, c0 + lead, ch, 0);
        columns_grad_rows(dy + at, x + at, dx + at, 1, stride, c0 + lead, c1, ch, stream);
    }
}

CREG_INLINE void plane_grad_run(const float *dy, const float *x, float *dx, ptrdiff_t n, ptrdiff_t ahead, vf hi, vf lo,
                                vf k1, vf k2, vf scale, int stream)
{
    ptrdiff_t j = 0;
    for (; j + CREG_W <= n; j += CREG_W) { /* main loop */
        fetch_ahead(dy + j, stream);
        fetch_ahead(x + j, stream);
        if (!stream) __builtin_prefetch(dx + j + ahead);
        v_put_part(dx + j, grad_affine(v_load(dy + j), v_load(x + j), hi, lo, k1, k2, scale), CREG_W, stream);
    }
    if (j == n) return;
    const vf g = v_load_part(dy + j, n - j), v = v_load_part(x + j, n - j); /* tail */
    v_store_part(dx + j, grad_affine(g, v, hi, lo, k1, k2, scale), n - j);
}

static void plane_grad(const float *dy, const float *x, float *dx, ptrdiff_t n, ptrdiff_t ahead,
                       const creg_channels *ch, ptrdiff_t c, int stream)
{
    if (ch->exact[c]) {
        for (ptrdiff_t j = 0; j < n; j++) dx[j] = grad_affine_exact(dy[j], x[j], ch, c);
        return;
    }
    const vf hi = v_set1(ch->hi[c]), lo = v_set1(ch->lo[c]), k1 = v_set1(ch->k1[c]), k2 = v_set1(ch->k2[c]);
    const vf scale = v_set1(ch->scale[c]);
    const ptrdiff_t lead = stream ? unaligned_lead(dx, n) : 0, end = stream ? lead + whole_lines(n - lead) : 0;
    if (lead) plane_grad_run(dy, x, dx, lead, ahead, hi, lo, k1, k2, scale, 0);
    if (stream) plane_grad_run(dy + lead, x + lead, dx + lead, end - lead, ahead, hi, lo, k1, k2, scale, 1);
    plane_grad_run(dy + end, x + end, dx + end, n - end, ahead, hi, lo, k1, k2, scale, 0);
}

static void creg_batch_norm_grad_apply(const float *dy, const float *x, float *dx, creg_shape shape, creg_chunk chunk,
                                       ptrdiff_t c0, ptrdiff_t c1, const creg_channels *ch, int where)
{
    const int stream = where == CREG_STREAM;
    const ptrdiff_t n = chunk.s1 - chunk.s0, ahead = planes_ahead(shape, (c1 - c0) * n);
    if (shape.s == 1) {
        const ptrdiff_t at = chunk.n0 * shape.c;
        columns_grad(dy + at, x + at, dx + at, chunk.n1 - chunk.n0, shape.c, c0, c1, ch, where);
    } else
        for (ptrdiff_t i = chunk.n0; i < chunk.n1; i++)
            for (ptrdiff_t c = c0; c < c1; c++) {
                const ptrdiff_t at = (i * shape.c + c) * shape.s + chunk.s0;
                plane_grad(dy + at, x + at, dx + at, n, ahead, ch, c, stream);
            }
    if (stream) v_stream_end();
}

#endif
