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
CREG_INLINE void add_elements(const stored *x, const stored *residual, stored *h, ptrdiff_t n, ptrdiff_t ahead)
{
    const vf zero = v_set1(0.0f);
    ptrdiff_t j = 0;
    for (; j + CREG_LANES <= n; j += CREG_LANES) { /* main loop */
        if (ahead) prefetch_group((x ? x : residual) + j + ahead, 0);
        for (ptrdiff_t k = j; k < j + CREG_LANES; k += CREG_W)
            x_store(h + k, v_add(x_load(residual + k), x ? x_load(x + k) : zero));
    }
    for (; j < n; j += CREG_W) /* tail */
        x_store_part(h + j, v_add(x_load_part(residual + j, n - j), x ? x_load_part(x + j, n - j) : zero), n - j);
}

/* h = residual + dropout(x) of elements [at, at + size). */
CREG_INLINE void add_dropped(const creg_norm *n, const philox_keys *keys, stored *h, ptrdiff_t at, ptrdiff_t size,
                             ptrdiff_t ahead)
{
    const stored *x = input_at(n->x, at), *residual = input_at(n->residual, at);
    if (x && n->dropout)
        dropout_elements(x, residual, h, n->offset + (uint64_t)at, size, ahead, n->dropout, keys, 0);
    else
        add_elements(x, residual, h, size, ahead);
}

/* ---- 16-bit tensors: tiles are widened, computed by the float32 kernel in L1, and rounded ---- */

enum { IS_WIDENED = sizeof(stored) < sizeof(float) };

/* Space for CREG_WORK_ROWS arrays of a tile's size: on the stack, or of long rows the task's part of `work`. */
typedef struct {
    float here[CREG_WORK_ROWS][CREG_PANEL];
} tile_space;

CREG_INLINE float *tile_array(const creg_norm *n, tile_space *space, ptrdiff_t first, int k)
{
    return n->cols <= CREG_PANEL ? space->here[k] : n->work + (first / n->step * CREG_WORK_ROWS + k) * n->cols;
}

/* The call of the float32 kernel on a tile of widened rows. */
CREG_INLINE creg_norm widened_call(const creg_norm *n, ptrdiff_t row, ptrdiff_t rows)
{
    creg_norm tile = *n;
    tile.stored = CREG_FLOAT32, tile.stream = 0;
    tile.rows = tile.step = rows;
    tile.offset += (uint64_t)(row * n->cols);
    tile.mean = AT(n->mean, row), tile.rstd = AT(n->rstd, row);
    return tile;
}

static CREG_NOINLINE void widened_forward(const creg_norm *n, ptrdiff_t first, ptrdiff_t rows)
{
    tile_space space;
    float *x = tile_array(n, &space, first, 0), *residual = tile_array(n, &space, first, 1),
          *h = tile_array(n, &space, first, 2);
    const ptrdiff_t step = tile_rows(n);
    for (ptrdiff_t i = 0; i < rows; i += step) {
        const ptrdiff_t tile = min_size(step, rows - i), at = (first + i) * n->cols, size = tile * n->cols;
        const ptrdiff_t ahead = i + 2 * tile <= rows ? size : 0;
        creg_norm call = widened_call(n, first + i, tile);
        if (n->x) widen_elements(input_at(n->x, at), x, size, ahead);
        widen_elements(input_at(n->residual, at), residual, size, ahead);
        call.x = n->x ? x : NULL, call.residual = residual, call.h = h, call.y = x;
        FLOAT32_KERNELS->dropout_add_norm_forward(&call, 0, tile);
        round_elements(h, output_at(n->h, at), size, n->stream);
        round_elements(x, output_at(n->y, at), size, n->stream);
    }
    if (n->stream) v_stream_end();
}

static CREG_NOINLINE void widened_backward(const creg_norm *n, ptrdiff_t first, ptrdiff_t rows)
{
    tile_space space;
    float *dy = tile_array(n, &space, first, 0), *x = tile_array(n, &space, first, 1),
          *dh = tile_array(n, &space, first, 2), *dropped = tile_array(n, &space, first, 3);
    const ptrdiff_t step = tile_rows(n);
    const grad_block chunk = begin_chunk(n, first);
    for (ptrdiff_t i = 0; i < rows; i += step) {
        const ptrdiff_t tile = min_size(step, rows - i), at = (first + i) * n->cols, size = tile * n->cols;
        const ptrdiff_t ahead = i + 2 * tile <= rows ? size : 0;
        creg_norm call = widened_call(n, first + i, tile);
        widen_elements(input_at(n->dy, at), dy, size, ahead);
        widen_elements(input_at(n->x, at), x, size, ahead);
        if (n->dh) widen_elements(input_at(n->dh, at), dh, size, ahead);
        call.dy = dy, call.x = x, call.dh = n->dh ? dh : NULL, call.dx = dy, call.dropped = dropped;
        call.partial_dgamma = chunk.dgamma, call.partial_dbeta = chunk.dbeta, call.continues = 1;
        FLOAT32_KERNELS->dropout_add_norm_backward(&call, 0, tile);
        round_elements(dy, output_at(n->dx, at), size, n->stream);
        round_elements(dropped, output_at(n->dropped, at), size, n->stream);
    }
    if (n->stream) v_stream_end();
}

/* ---- the kernels ---- */

static void creg_dropout_add_norm_forward(const creg_norm *n, ptrdiff_t first, ptrdiff_t rows)
{
    if (IS_WIDENED) {
        widened_forward(n, first, rows);
        return;
    }
    stored buffer[CREG_PANEL];
    const philox_keys keys = dropout_keys(n);
    const int apart = n->stream && n->cols <= CREG_PANEL;
    const ptrdiff_t step = tile_rows(n);
    for (ptrdiff_t i = 0; i < rows; i += step) {
        const ptrdiff_t tile = min_size(step, rows - i), at = (first + i) * n->cols, size = tile * n->cols;
        const ptrdiff_t ahead = i + 2 * tile <= rows ? size : 0;
        /* The prefetches of both inputs complete while random bits are drawn. Without draws, the residual is
         * prefetched while the norm is written. */
        const stored *prefetched = n->x && !n->dropout && ahead ? input_at(n->residual, at + ahead) : NULL;
        stored *h = apart ? buffer : output_at(n->h, at);
        add_dropped(n, &keys, h, at, size, ahead);
        if (apart) stream_row(h, output_at(n->h, at), size);
        norm_rows(n, h, prefetched, first + i, tile);
    }
    if (n->stream) v_stream_end();
}

static void creg_dropout_add_norm_backward(const creg_norm *n, ptrdiff_t first, ptrdiff_t rows)
{
    if (IS_WIDENED) {
        widened_backward(n, first, rows);
        return;
    }
    stored buffer[CREG_PANEL];
    const philox_keys keys = dropout_keys(n);
    const int apart = n->stream && n->dropped && n->cols <= CREG_PANEL, at_once = n->stream && !n->dropped;
    const ptrdiff_t step = tile_rows(n);
    grad_block b = begin_chunk(n, first);
    for (ptrdiff_t i = 0; i < rows; i += step) {
        const ptrdiff_t tile = min_size(step, rows - i), at = (first + i) * n->cols, size = tile * n->cols;
        b.dx = apart ? buffer : output_at(n->dx, at);
        norm_grad_rows(n, &b, first + i, tile, rows - i - tile, at_once);
        if (apart) stream_row(b.dx, output_at(n->dx, at), size);
        if (n->dropped)
            dropout_elements(b.dx, NULL, output_at(n->dropped, at), n->offset + (uint64_t)at, size, 0, n->dropout, &keys,
                             n->stream);
        b = rows_on(b, size);
    }
    if (n->stream) v_stream_end();
}

#endif
