/* A sublayer's output on its way into the residual stream: dropout, addition and a norm in one pass over memory
 * (Vaswani et al., 2017, "Attention Is All You Need", arXiv:1706.03762, section 5.4: "we apply dropout to the output of
 * each sub-layer, before it is added to the sub-layer input and normalized").
 *
 * Forward    h = residual + dropout(x),  y = norm(h): layer norm or RMS norm
 * Saved      h, and the norm's mean and rstd.
 * Backward   dresidual = norm's gradient of dy at h, plus dh, what else flows into h
 *            dx = dropout's gradient of dresidual: the same draws again
 *
 * A tile of whole rows (TILE_ELEMENTS, or one row) goes through all steps while it is in the first cache.
 * The steps are those of dropout.h, layer_norm.h and rms_norm.h themselves, so that the bits are those of the ops one
 * after another. Where an output that is read again is streamed, it is made in a place of its own that stays in the
 * cache.
 *
 * Speed   Shares of the bandwidth of a copy of as many bytes, on one thread (Zen 3, AVX2), for p = 0, (4096, 1024):
 * forward 0.73 with layer norm and 0.88 with RMS norm, backward 0.73 and 0.73. Tiles of 1024 elements instead of 4096,
 * and the residual fetched while the norm is written instead of while it is added, made forward 1.2 times as fast;
 * streaming dresidual at once where nothing is drawn made backward 1.2 to 1.3 times as fast. With dropout, forward
 * (0.59) and backward (0.47) are bound by Philox and by the additions of layer norm, see dropout.h and layer_norm.h.
 * Tried and left: streaming h in pieces of 512 elements while it is made (0.98 to 1.02 of the time); fetching the
 * residual with the norm where there is dropout too (1.03 times as long); fetching the next rows of dy, h and dh while
 * backward draws instead of while it goes over the row (1.1 to 1.2 times as long on two threads); tiles of 512 and 2048
 * elements in backward with dropout (no difference).
 *
 * Limits   On a Xeon with AVX-512, two threads, p = 0, forward into out= takes 1.0 to 1.2 of the time of a copy of as
 * many bytes from (1024, 512) on; ONNX Runtime's fused RMS norm takes 1.4 to 1.7 of it, and is passed 1.3 to 1.6 times.
 *
 * Where p = 0, dropout is NULL, and so is dx, which would be dresidual again. Where p = 1, x is NULL in forward and dx
 * (all 0) in backward.
 */
#ifndef CREG_DROPOUT_ADD_NORM_H
#define CREG_DROPOUT_ADD_NORM_H

#include "dropout.h"
#include "layer_norm.h"
#include "rms_norm.h"

enum { TILE_ELEMENTS = 1024 };

/* Rows of a tile: whole batches of short ones. Where its ends cut groups of dropout's draws, whose parts cost as much
 * as a whole, it is larger. */
CREG_INLINE ptrdiff_t tile_rows(ptrdiff_t cols, uint64_t first, const creg_dropout *dropout)
{
    const int cuts = dropout && (cols % GROUP || first % GROUP);
    const ptrdiff_t elements = cuts ? CREG_PANEL : TILE_ELEMENTS;
    const ptrdiff_t rows = elements / cols;
    return rows > CREG_BATCH ? rows / CREG_BATCH * CREG_BATCH : rows > 1 ? rows : 1;
}

/* h = residual + x; without x, plus 0, which makes -0 of a residual 0. Those `ahead` of x are fetched meanwhile. */
CREG_INLINE void add_elements(const float *x, const float *residual, float *h, ptrdiff_t n, ptrdiff_t ahead)
{
    const vf zero = v_set1(0.0f);
    ptrdiff_t j = 0;
    for (; j + CREG_LANES <= n; j += CREG_LANES) { /* main loop */
        if (ahead) prefetch_group((x ? x : residual) + j + ahead, 0);
        for (ptrdiff_t k = j; k < j + CREG_LANES; k += CREG_W)
            v_store(h + k, v_add(v_load(residual + k), x ? v_load(x + k) : zero));
    }
    for (; j < n; j += CREG_W) /* tail */
        v_store_part(h + j, v_add(v_load_part(residual + j, n - j), x ? v_load_part(x + j, n - j) : zero), n - j);
}

/* h = residual + dropout(x): without dropout x itself, without x 0. */
CREG_INLINE void add_dropped(const float *x, const float *residual, float *h, ptrdiff_t n, ptrdiff_t ahead,
                             uint64_t first, const creg_dropout *dropout, const philox_keys *keys)
{
    if (x && dropout)
        dropout_elements(x, residual, h, first, n, ahead, dropout, keys, 0);
    else
        add_elements(x, residual, h, n, ahead);
}

CREG_INLINE philox_keys dropout_keys(const creg_dropout *dropout)
{
    return philox_keys_of(dropout ? dropout->key : (const uint32_t[2]){0, 0});
}

CREG_INLINE void dropout_add_norm_forward(int rms, const float *x, const float *residual, const float *gamma,
                                          const float *beta, float *y, float *h, double *mean, double *rstd,
                                          ptrdiff_t rows, ptrdiff_t cols, double eps, uint64_t first,
                                          const creg_dropout *dropout, int stream)
{
    float place[CREG_PANEL];
    const philox_keys keys = dropout_keys(dropout);
    const int apart = stream && cols <= CREG_PANEL;
    const ptrdiff_t step = tile_rows(cols, first, dropout);
    for (ptrdiff_t i = 0; i < rows; i += step) {
        const ptrdiff_t tile = min_size(step, rows - i), at = i * cols, n = tile * cols;
        const ptrdiff_t ahead = i + 2 * tile <= rows ? n : 0;
        /* Drawing leaves the time to fetch both arrays; without it, the second is fetched while the norm is written. */
        const float *fetch = x && !dropout && ahead ? residual + at + ahead : NULL;
        float *row = apart ? place : h + at;
        add_dropped(AT(x, at), residual + at, row, n, ahead, first + (uint64_t)at, dropout, &keys);
        if (apart) stream_row(row, h + at, n);
        if (rms)
            rms_norm_rows(row, fetch, gamma, y + at, rstd + i, tile, cols, eps, stream);
        else
            layer_norm_rows(row, fetch, gamma, beta, y + at, mean + i, rstd + i, tile, cols, eps, stream);
    }
    if (stream) v_stream_end();
}

CREG_INLINE void dropout_add_norm_backward(int rms, const float *dy, const float *h, const double *mean,
                                           const double *rstd, const float *gamma, const float *dh, float *dx,
                                           float *dresidual, float *dgamma, float *dbeta, ptrdiff_t rows,
                                           ptrdiff_t cols, uint64_t first, const creg_dropout *dropout, int stream)
{
    float place[CREG_PANEL];
    const philox_keys keys = dropout_keys(dropout);
    const int apart = stream && dx && cols <= CREG_PANEL, at_once = stream && !dx;
    const ptrdiff_t step = tile_rows(cols, first, dropout);
    zero_sums(dgamma, cols);
    zero_sums(dbeta, cols);
    for (ptrdiff_t i = 0; i < rows; i += step) {
        const ptrdiff_t tile = min_size(step, rows - i), follow = rows - i - tile, at = i * cols, n = tile * cols;
        float *row = apart ? place : dresidual + at;
        if (rms)
            rms_norm_grad_rows(dy + at, h + at, rstd + i, gamma, AT(dh, at), row, dgamma, tile, follow, cols, at_once);
        else
            layer_norm_grad_rows(dy + at, h + at, mean + i, rstd + i, gamma, AT(dh, at), row, dgamma, dbeta, tile,
                                 follow, cols, at_once);
        if (apart) stream_row(row, dresidual + at, n);
        if (dx) dropout_elements(row, NULL, dx + at, first + (uint64_t)at, n, 0, dropout, &keys, stream);
    }
    if (stream) v_stream_end();
}

static void creg_dropout_add_layer_norm_forward(const float *x, const float *residual, const float *gamma,
                                                const float *beta, float *y, float *h, double *mean, double *rstd,
                                                ptrdiff_t rows, ptrdiff_t cols, double eps, uint64_t first,
                                                const creg_dropout *dropout, int stream)
{
    dropout_add_norm_forward(0, x, residual, gamma, beta, y, h, mean, rstd, rows, cols, eps, first, dropout, stream);
}

static void creg_dropout_add_rms_norm_forward(const float *x, const float *residual, const float *gamma,
                                              const float *beta, float *y, float *h, double *mean, double *rstd,
                                              ptrdiff_t rows, ptrdiff_t cols, double eps, uint64_t first,
                                              const creg_dropout *dropout, int stream)
{
    dropout_add_norm_forward(1, x, residual, gamma, beta, y, h, mean, rstd, rows, cols, eps, first, dropout, stream);
}

static void creg_dropout_add_layer_norm_backward(const float *dy, const float *h, const double *mean,
                                                 const double *rstd, const float *gamma, const float *dh, float *dx,
                                                 float *dresidual, float *dgamma, float *dbeta, ptrdiff_t rows,
                                                 ptrdiff_t cols, uint64_t first, const creg_dropout *dropout,
                                                 int stream)
{
    dropout_add_norm_backward(0, dy, h, mean, rstd, gamma, dh, dx, dresidual, dgamma, dbeta, rows, cols, first, dropout,
                              stream);
}

static void creg_dropout_add_rms_norm_backward(const float *dy, const float *h, const double *mean, const double *rstd,
                                               const float *gamma, const float *dh, float *dx, float *dresidual,
                                               float *dgamma, float *dbeta, ptrdiff_t rows, ptrdiff_t cols,
                                               uint64_t first, const creg_dropout *dropout, int stream)
{
    dropout_add_norm_backward(1, dy, h, mean, rstd, gamma, dh, dx, dresidual, dgamma, dbeta, rows, cols, first, dropout,
                              stream);
}

#endif
