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

#include "convert.h"
#include "dropout.h"
#include "row_norm.h"

enum { TILE_ELEMENTS = 1024 };

/* The rows of a tile, a multiple of CREG_BATCH for short rows. Tiles are larger where their ends would cut steps of
 * draws, because a part of a step costs as much as a full step. */
CREG_INLINE ptrdiff_t tile_rows(const creg_norm *n)
{
    const int cuts = n->dropout && (n->cols % STEP || n->offset % STEP);
    const ptrdiff_t rows = (cuts ? CREG_PANEL : TILE_ELEMENTS) / n->cols;
    return rows > CREG_BATCH ? rows / CREG_BATCH * CREG_BATCH : rows > 1 ? rows : 1;
}

CREG_INLINE void start_norm_draws(const creg_norm *n, draws *random)
{
    if (n->dropout) start_draws(random, n->dropout->key);
}

/* h = residual + x, or residual + 0 without x, which turns -0 into 0. Prefetches x `ahead` elements ahead. */
CREG_INLINE void add_elements(dropout_arrays a, ptrdiff_t n, ptrdiff_t ahead)
{
    const vf zero = v_set1(0.0f);
    ptrdiff_t j = 0;
    for (; j + CREG_LANES <= n; j += CREG_LANES) { /* main loop */
        if (ahead) prefetch_group((a.x ? a.x : a.residual) + j + ahead, 0);
        if (STORES_ROUND && ahead && a.x) prefetch_group(a.residual + j + ahead, 0);
        for (ptrdiff_t k = j; k < j + CREG_LANES; k += CREG_W)
            put_elements(&a, k, v_add(x_load(a.residual + k), a.x ? x_load(a.x + k) : zero), CREG_W, 0);
    }
    for (; j < n; j += CREG_W) { /* tail */
        const vf v = v_add(x_load_part(a.residual + j, n - j), a.x ? x_load_part(a.x + j, n - j) : zero);
        put_elements(&a, j, v, n - j, 0);
    }
}

/* h, or unrounded_h in its place, = residual + dropout(x) of elements [at, at + size). */
CREG_INLINE void add_dropped(const creg_norm *n, draws *random, stored *h, float *unrounded_h, ptrdiff_t at,
                             ptrdiff_t size, ptrdiff_t ahead)
{
    const dropout_arrays a = {input_at(n->x, at), input_at(n->residual, at), h, NULL, unrounded_h, NULL};
    if (a.x && n->dropout)
        dropout_elements(a, n->offset + (uint64_t)at, size, ahead, n->dropout, random, 0);
    else
        add_elements(a, size, ahead);
}

/* ---- tensors that round: steps after the first read a tile's float32 numbers, not its rounded ones ---- */

/* A tile's float32 numbers: on the stack, or of long rows the task's row of `work`. */
CREG_INLINE float *unrounded_tile(const creg_norm *n, float *here, ptrdiff_t first)
{
    return STORES_ROUND && n->cols > CREG_PANEL ? n->work + first / n->step * n->cols : here;
}

static CREG_NOINLINE void forward_of_tile(const creg_norm *n, draws *random, float *unrounded, ptrdiff_t row,
                                          ptrdiff_t rows, ptrdiff_t ahead)
{
    const ptrdiff_t at = row * n->cols, size = rows * n->cols;
    creg_norm norm = *n;
    add_dropped(n, random, output_at(n->h, at), unrounded, at, size, ahead);
    round_elements(unrounded, output_at(n->h, at), size, n->stream);
    norm.stream = 0;
    norm.x = norm.y = unrounded;
    norm.mean = AT(n->mean, row), norm.rstd = AT(n->rstd, row);
    FLOAT32_KERNELS->norm_forward(&norm, 0, rows);
    round_elements(unrounded, output_at(n->y, at), size, n->stream);
}

/* dropout's gradient of dx, of elements [at, at + size). The unrounded dx is rounded into dx. */
CREG_INLINE void drop_gradient(const creg_norm *n, draws *random, const grad_block *b, ptrdiff_t at, ptrdiff_t size)
{
    const dropout_arrays a = {.x = b->dx, .y = output_at(n->dropped, at), .unrounded_x = b->unrounded};
    if (STORES_ROUND) round_elements(b->unrounded, b->dx, size, n->stream);
    dropout_elements(a, n->offset + (uint64_t)at, size, 0, n->dropout, random, n->stream);
}

/* ---- the kernels ---- */

static void creg_dropout_add_norm_forward(const creg_norm *n, ptrdiff_t first, ptrdiff_t rows)
{
    float space[CREG_PANEL];
    float *unrounded = unrounded_tile(n, space, first);
    stored *buffer = (void *)space;
    draws random;
    start_norm_draws(n, &random);
    const int apart = n->stream && n->cols <= CREG_PANEL;
    const ptrdiff_t step = tile_rows(n);
    for (ptrdiff_t i = 0; i < rows; i += step) {
        const ptrdiff_t tile = min_size(step, rows - i), at = (first + i) * n->cols, size = tile * n->cols;
        const ptrdiff_t ahead = i + 2 * tile <= rows ? size : 0;
        if (STORES_ROUND) {
            forward_of_tile(n, &random, unrounded, first + i, tile, ahead);
            continue;
        }
        /* The prefetches of both inputs complete while random bits are drawn. Without draws, the residual is
         * prefetched while the norm is written. */
        const stored *prefetched = n->x && !n->dropout && ahead ? input_at(n->residual, at + ahead) : NULL;
        stored *h = apart ? buffer : output_at(n->h, at);
        add_dropped(n, &random, h, NULL, at, size, ahead);
        if (apart) stream_row(h, output_at(n->h, at), size);
        norm_rows(n, h, prefetched, first + i, tile);
    }
    if (n->stream) v_stream_end();
}

static void creg_dropout_add_norm_backward(const creg_norm *n, ptrdiff_t first, ptrdiff_t rows)
{
    float space[CREG_PANEL];
    float *unrounded = unrounded_tile(n, space, first);
    stored *buffer = (void *)space;
    draws random;
    start_norm_draws(n, &random);
    const int apart = n->stream && n->dropped && n->cols <= CREG_PANEL, at_once = n->stream && !n->dropped;
    const ptrdiff_t step = tile_rows(n);
    grad_block b = begin_chunk(n, first);
    for (ptrdiff_t i = 0; i < rows; i += step) {
        const ptrdiff_t tile = min_size(step, rows - i), at = (first + i) * n->cols, size = tile * n->cols;
        b.dx = apart && !STORES_ROUND ? buffer : output_at(n->dx, at);
        b.unrounded = n->dropped ? unrounded : NULL;
        norm_grad_rows(n, &b, first + i, tile, rows - i - tile, at_once);
        if (apart && !STORES_ROUND) stream_row(b.dx, output_at(n->dx, at), size);
        if (n->dropped) drop_gradient(n, &random, &b, at, size);
        b = rows_on(b, size);
    }
    if (n->stream) v_stream_end();
}

#endif
