/* The norms over rows, plain or after dropout and addition, for few wide rows: tasks divide each row by columns. The
 * readable twins: cregkit/oracle/layer_norm.py, rms_norm.py and dropout_add_norm.py
 *
 * Forward    1. sums of panels of CREG_PANEL columns of a row, after h = residual + dropout(x)
 *            2. a row's statistics from the sums of its panels, merged in order in float64
 *            3. y of a panel
 * Backward   1. sums of panels,  2. a row's means of g and g * x_hat
 *            3. dx of a tile of CREG_TILE columns of all rows, with the tile's dgamma and dbeta
 * Layout     The formulas are those of row_norm.h and dropout_add_norm.h, so the bits are those of whole rows. A tile's
 *            dgamma and dbeta stay in L1 over all rows; the partial sums of chunks of rows would need as much memory
 *            as the rows.
 */
#ifndef CREG_WIDE_ROWS_H
#define CREG_WIDE_ROWS_H

#include "dropout_add_norm.h"

CREG_INLINE ptrdiff_t panels_of(const creg_norm *n) { return (n->cols + CREG_PANEL - 1) / CREG_PANEL; }

CREG_INLINE double *panel_sums_of(const creg_norm *n, ptrdiff_t row) { return n->panel_sums + 2 * row * panels_of(n); }

/* What is normalised. */
CREG_INLINE const stored *wide_input(const creg_norm *n) { return n->h ? n->h : n->x; }

/* A task's panel: columns [j, j + size) of a row, the position `at` of its first element, and its two sums. A thread
 * runs neighbouring tasks: the same columns of all rows, which share gamma and beta. */
typedef struct {
    ptrdiff_t row, j, at, size;
    double *sums;
} wide_panel;

CREG_INLINE wide_panel panel_of(const creg_norm *n, ptrdiff_t task)
{
    const ptrdiff_t row = task % n->rows, panel = task / n->rows, j = panel * CREG_PANEL;
    return (wide_panel){row, j, row * n->cols + j, min_size(CREG_PANEL, n->cols - j),
                        panel_sums_of(n, row) + 2 * panel};
}

static void creg_wide_sums(void *norm, ptrdiff_t task)
{
    const creg_norm *n = norm;
    const wide_panel p = panel_of(n, task);
    const stored *x = wide_input(n) + p.at;
    if (n->residual) {
        draws random;
        start_norm_draws(n, &random);
        add_dropped(n, &random, output_at(n->h, p.at), NULL, p.at, p.size, 0);
    }
    if (n->kind == CREG_RMS_NORM)
        p.sums[0] = panel_squares(x, p.size);
    else {
        const moments m = panel_moments(x, 1, 0, p.size);
        p.sums[0] = m.mean;
        p.sums[1] = m.m2;
    }
}

static row_statistics merged_rms_norm(const creg_norm *n, ptrdiff_t row)
{
    const double *sums = panel_sums_of(n, row);
    double squares = 0.0;
    for (ptrdiff_t k = 0; k < panels_of(n); k++) squares += sums[2 * k];
    return rms_norm_finish(squares, wide_input(n) + row * n->cols, n->cols, n->eps);
}

static row_statistics merged_layer_norm(const creg_norm *n, ptrdiff_t row)
{
    const double *sums = panel_sums_of(n, row);
    moments total = {0};
    for (ptrdiff_t k = 0, j = 0; k < panels_of(n); k++, j += CREG_PANEL) {
        const moments panel = {(double)min_size(CREG_PANEL, n->cols - j), sums[2 * k], sums[2 * k + 1]};
        total = k ? moments_merge(total, panel) : panel;
    }
    return layer_norm_finish(total, wide_input(n) + row * n->cols, n->cols, n->eps);
}

static void creg_wide_statistics(void *norm, ptrdiff_t row)
{
    const creg_norm *n = norm;
    const row_statistics found = n->kind == CREG_RMS_NORM ? merged_rms_norm(n, row) : merged_layer_norm(n, row);
    n->wide[row] = (creg_wide_row){.mean = found.mean, .rstd = found.rstd, .exact = !found.safe};
    if (n->mean) n->mean[row] = found.mean;
    if (n->rstd) n->rstd[row] = found.rstd;
}

CREG_INLINE void wide_write(form f, const creg_norm *n, wide_panel p)
{
    const ptrdiff_t ahead = p.row + 1 < n->rows ? n->cols : 0;
    const gain_bias a = columns_on((gain_bias){n->gamma, n->beta}, p.j);
    const stored *x = wide_input(n) + p.at;
    const creg_wide_row *found = n->wide + p.row;
    const row_scale scale = row_scale_of(found->mean, found->rstd);
    stored *y = output_at(n->y, p.at);
    if (found->exact)
        norm_row_exact(f.kind, a, x, y, p.size, found->mean, found->rstd);
    else if (n->stream)
        norm_row(f, a, x, x + ahead, y, p.size, scale, 1);
    else
        norm_row(f, a, x, x + ahead, y, p.size, scale, 0);
}

static void creg_wide_write(void *norm, ptrdiff_t task)
{
    const creg_norm *n = norm;
    const wide_panel p = panel_of(n, task);
    if (n->kind == CREG_RMS_NORM)
        wide_write((form){CREG_RMS_NORM, 0}, n, p);
    else if (n->gamma && n->beta)
        wide_write((form){CREG_LAYER_NORM, 1}, n, p);
    else
        wide_write((form){CREG_LAYER_NORM, 0}, n, p);
    if (n->stream) v_stream_end();
}

/* The first row, from column j on. */
CREG_INLINE grad_block wide_block(const creg_norm *n, ptrdiff_t j)
{
    return (grad_block){input_at(n->dy, j), input_at(n->x, j),   input_at(n->dh, j),
                        AT(n->gamma, j),    output_at(n->dx, j), NULL,
                        AT(n->dgamma, j),   AT(n->dbeta, j)};
}

static void creg_wide_grad_sums(void *norm, ptrdiff_t task)
{
    const creg_norm *n = norm;
    const wide_panel p = panel_of(n, task);
    const row_scale scale = row_scale_of(mean_at(n->kind, n, p.row), n->rstd[p.row]);
    const grad_operands operands = {input_at(n->dy, p.at), input_at(n->x, p.at), AT(n->gamma, p.j), scale};
    if (n->kind == CREG_RMS_NORM) {
        p.sums[0] = 0.0;
        p.sums[1] = (double)panel_sums(rms_norm_grad_terms, &operands, 0, p.size).b;
    } else {
        const sums found = panel_sums(layer_norm_grad_terms, &operands, 0, p.size);
        p.sums[0] = (double)found.a;
        p.sums[1] = (double)found.b;
    }
}

static void creg_wide_grad_means(void *norm, ptrdiff_t row)
{
    const creg_norm *n = norm;
    const double *sums = panel_sums_of(n, row), mean = mean_at(n->kind, n, row), rstd = n->rstd[row];
    const grad_block b = rows_on(wide_block(n, 0), row * n->cols);
    double g = 0.0, g_d = 0.0;
    for (ptrdiff_t k = 0; k < panels_of(n); k++) {
        g += sums[2 * k];
        g_d += sums[2 * k + 1];
    }
    grad_means means = grad_means_of(g, g_d, n->cols, rstd);
    const int exact = !grad_is_safe(means, b, n->cols, rstd);
    if (exact) means = norm_grad_means_exact(n->kind, b, n->cols, mean, rstd);
    n->wide[row] = (creg_wide_row){mean, rstd, means.g, means.g_x_hat, exact};
}

/* dx in columns [j, j + size) of all rows, then dropout's gradient of it, which reads dx from L1. */
CREG_INLINE void wide_grad_tile(form f, const creg_norm *n, ptrdiff_t j, ptrdiff_t size)
{
    draws random;
    start_norm_draws(n, &random);
    const int stream = n->stream && !n->dropped;
    float unrounded[CREG_TILE];
    grad_block b = wide_block(n, j);
    zero_sums(b.dgamma, size);
    zero_sums(b.dbeta, size);
    for (ptrdiff_t i = 0, at = j; i < n->rows; i++, at += n->cols, b = rows_on(b, n->cols)) {
        const creg_wide_row *r = n->wide + i;
        if (STORES_ROUND && n->dropped) b.unrounded = unrounded;
        if (r->exact)
            norm_grad_row_exact(b, size, r->mean, r->rstd, (grad_means){r->mean_g, r->mean_g_x_hat});
        else {
            const row_scale scale = row_scale_of(r->mean, r->rstd);
            const grad_row row = grad_row_of(b, scale, (float)r->mean_g, (float)r->mean_g_x_hat);
            write_grad_rows(f, &row, 1, i + 1 < n->rows ? n->cols : 0, size, stream);
        }
        if (n->dropped) drop_gradient(n, &random, &b, at, size);
    }
}

static void creg_wide_grad_tile(void *norm, ptrdiff_t tile)
{
    const creg_norm *n = norm;
    const ptrdiff_t j = tile * CREG_TILE, size = min_size(CREG_TILE, n->cols - j);
    if (n->kind == CREG_RMS_NORM && n->gamma && !n->dh)
        wide_grad_tile((form){CREG_RMS_NORM, 1}, n, j, size);
    else if (n->kind == CREG_RMS_NORM)
        wide_grad_tile((form){CREG_RMS_NORM, 0}, n, j, size);
    else if (n->gamma && !n->dh)
        wide_grad_tile((form){CREG_LAYER_NORM, 1}, n, j, size);
    else
        wide_grad_tile((form){CREG_LAYER_NORM, 0}, n, j, size);
    if (n->stream) v_stream_end();
}

#endif
