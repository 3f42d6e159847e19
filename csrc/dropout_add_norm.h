/* The end of a transformer's sublayer in one pass over memory: dropout, addition and a norm (Vaswani et al., 2017,
 * "Attention Is All You Need", arXiv:1706.03762, section 5.4). The readable twin: cregkit/oracle/dropout_add_norm.py
 *
 * Forward    h = residual + dropout(x),  y = norm(h): layer norm or RMS norm
 * Saved      h, and the norm's mean and rstd
 * Backward   dresidual = dh + the norm's gradient of dy at h  (dh: the gradient of h from its other uses)
 *            dx = dropout's gradient of dresidual, from the same draws
 * Layout     A tile of whole rows passes through all steps while it is in L1. The steps are the functions of
 *            dropout.h and row_norm.h, so the bits are those of the separate ops. An output that a later step reads
 *            is computed in a buffer in L1 before it is written with non-temporal stores. In creg_norm, dx and
 *            dropped are this backward's dresidual and dx.
 */
#ifndef CREG_DROPOUT_ADD_NORM_H
#define CREG_DROPOUT_ADD_NORM_H

#include "dropout.h"
#include "row_norm.h"

enum { TILE_ELEMENTS = 1024 };

/* The rows of a tile, a multiple of CREG_BATCH for short rows. Tiles are larger where their ends would cut groups of
 * draws, because a part of a group costs as much as a full group. */
CREG_INLINE ptrdiff_t tile_rows(const creg_norm *n)
{
    const int cuts = n->dropout && (n->cols % CREG_DROPOUT_GROUP || n->offset % CREG_DROPOUT_GROUP);
    const ptrdiff_t rows = (cuts ? CREG_PANEL : TILE_ELEMENTS) / n->cols;
    return rows > CREG_BATCH ? rows / CREG_BATCH * CREG_BATCH : rows > 1 ? rows : 1;
}

CREG_INLINE philox_keys dropout_keys(const creg_norm *n)
{
    return philox_keys_of(n->dropout ? n->dropout->key : (const uint32_t[2]){0, 0});
}

/* h = residual + x, or residual + 0 without x, which turns -0 into 0. Prefetches x `ahead` elements ahead. */
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

/* h = residual + dropout(x) of elements [at, at + size). */
CREG_INLINE void add_dropped(const creg_norm *n, const philox_keys *keys, float *h, ptrdiff_t at, ptrdiff_t size,
                             ptrdiff_t ahead)
{
    if (n->x && n->dropout)
        dropout_elements(n->x + at, n->residual + at, h, n->offset + (uint64_t)at, size, ahead, n->dropout, keys, 0);
    else
        add_elements(AT(n->x, at), n->residual + at, h, size, ahead);
}

static void creg_dropout_add_norm_forward(const creg_norm *n, ptrdiff_t first, ptrdiff_t rows)
{
    float buffer[CREG_PANEL];
    const philox_keys keys = dropout_keys(n);
    const int apart = n->stream && n->cols <= CREG_PANEL;
    const ptrdiff_t step = tile_rows(n);
    for (ptrdiff_t i = 0; i < rows; i += step) {
        const ptrdiff_t tile = min_size(step, rows - i), at = (first + i) * n->cols, size = tile * n->cols;
        const ptrdiff_t ahead = i + 2 * tile <= rows ? size : 0;
        /* The prefetches of both inputs complete while random bits are drawn. Without draws, the residual is
         * prefetched while the norm is written. */
        const float *prefetched = n->x && !n->dropout && ahead ? n->residual + at + ahead : NULL;
        float *h = apart ? buffer : n->h + at;
        add_dropped(n, &keys, h, at, size, ahead);
        if (apart) stream_row(h, n->h + at, size);
        norm_rows(n, h, prefetched, first + i, tile);
    }
    if (n->stream) v_stream_end();
}

static void creg_dropout_add_norm_backward(const creg_norm *n, ptrdiff_t first, ptrdiff_t rows)
{
    float buffer[CREG_PANEL];
    const philox_keys keys = dropout_keys(n);
    const int apart = n->stream && n->dropped && n->cols <= CREG_PANEL, at_once = n->stream && !n->dropped;
    const ptrdiff_t step = tile_rows(n);
    grad_block b = begin_chunk(n, first);
    for (ptrdiff_t i = 0; i < rows; i += step) {
        const ptrdiff_t tile = min_size(step, rows - i), at = (first + i) * n->cols, size = tile * n->cols;
        b.dx = apart ? buffer : n->dx + at;
        norm_grad_rows(n, &b, first + i, tile, rows - i - tile, at_once);
        if (apart) stream_row(b.dx, n->dx + at, size);
        if (n->dropped)
            dropout_elements(b.dx, NULL, n->dropped + at, n->offset + (uint64_t)at, size, 0, n->dropout, &keys,
                             n->stream);
        b = rows_on(b, size);
    }
    if (n->stream) v_stream_end();
}

#endif
