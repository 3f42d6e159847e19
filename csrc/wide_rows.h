/* Norms of few wide rows, each row shared out over threads by its columns: layer norm, RMS norm, and both behind
 * dropout and addition. The maths is that of layer_norm.h, rms_norm.h and dropout_add_norm.h, taken apart into
 *     sums of panels        of CREG_PANEL columns of a row; here h = residual + dropout(x) is made
 *     a row's statistics    from the sums of its panels, in their order, in float64
 *     what is stored        forward: y of a panel; backward: dx of CREG_TILE columns of all rows, and their dgamma and
 *                           dbeta
 * so that the bits are those of whole rows, whichever way is taken.
 *
 * Speed   Whole rows have dgamma and dbeta of their own chunk each, which for two rows is as much memory again as the
 * rows; here they stay in the first cache over all rows. Two threads on a Xeon with AVX-512, A/B in turn: backward of
 * (8, 65537) 258 -> 170 us, (5, 200001) 860 -> 390, (2, 1048576) 3550 -> 1100, (16, 8192) the same. Tried and left:
 * tiles of 2048 columns ((16, 8192), whose rows lie 32 KiB apart, 1.2 times slower); several rows at a time through all
 * steps, so that the second reading is from the second cache (0.85 to 1 of the time at (32, 65537), 1.25 times slower
 * for rows of 4 MiB, and a loop over threads for each group); chunks of two rows, summed in float64 (1.1 to 1.2 times
 * slower). Forward gains where whole rows would leave threads idle, only, and is taken apart only there.
 */
#ifndef CREG_WIDE_ROWS_H
#define CREG_WIDE_ROWS_H

#include "dropout_add_norm.h"

CREG_INLINE ptrdiff_t panels_of(const creg_wide *w) { return (w->cols + CREG_PANEL - 1) / CREG_PANEL; }

/* The rows that are normalised. */
CREG_INLINE const float *wide_input(const creg_wide *w) { return w->h ? w->h : w->x; }

static void creg_wide_sums(const creg_wide *w, ptrdiff_t panel, ptrdiff_t row)
{
    const ptrdiff_t j = panel * CREG_PANEL, at = row * w->cols + j, n = min_size(CREG_PANEL, w->cols - j);
    double *out = w->sums + 2 * (row * panels_of(w) + panel);
    if (w->residual) {
        const philox_keys keys = dropout_keys(w->dropout);
        add_dropped(AT(w->x, at), w->residual + at, w->h + at, n, 0, w->first + (uint64_t)at, w->dropout, &keys);
    }
    if (w->rms)
        out[0] = panel_squares(wide_input(w) + at, n);
    else {
        const moments m = panel_moments(wide_input(w) + at, 1, 0, n);
        out[0] = m.mean;
        out[1] = m.m2;
    }
}

CREG_INLINE double panel_count(const creg_wide *w, ptrdiff_t panel)
{
    return (double)min_size(CREG_PANEL, w->cols - panel * CREG_PANEL);
}

static void creg_wide_statistics(creg_wide *w, ptrdiff_t row)
{
    const float *x = wide_input(w) + row * w->cols;
    const double *sums = w->sums + 2 * row * panels_of(w);
    creg_wide_row *out = w->row + row;
    if (w->rms) {
        double squares = 0.0;
        for (ptrdiff_t k = 0; k < panels_of(w); k++) squares += sums[2 * k];
        const rms_statistics found = rms_norm_finish(squares, x, w->cols, w->eps);
        *out = (creg_wide_row){.rstd = found.rstd, .exact = !found.safe};
    } else {
        moments total = {panel_count(w, 0), sums[0], sums[1]};
        for (ptrdiff_t k = 1; k < panels_of(w); k++)
            total = moments_merge(total, (moments){panel_count(w, k), sums[2 * k], sums[2 * k + 1]});
        const row_statistics found = layer_norm_finish(total, x, w->cols, w->eps);
        *out = (creg_wide_row){.mean = found.mean, .rstd = found.rstd, .exact = !found.safe};
    }
}

/* y of a panel: columns [j, j + CREG_PANEL) of a row, or those that are left. */
CREG_INLINE void wide_write(const creg_wide *w, const float *gamma, const float *beta, ptrdiff_t row, ptrdiff_t j,
                            int stream)
{
    const ptrdiff_t n = min_size(CREG_PANEL, w->cols - j), ahead = row + 1 < w->rows ? w->cols : 0;
    const float *x = wide_input(w) + row * w->cols + j;
    const creg_wide_row found = w->row[row];
    float *y = w->y + row * w->cols + j;
    if (found.exact && w->rms)
        rms_norm_row_exact(x, gamma, y, n, found.rstd);
    else if (found.exact)
        layer_norm_row_exact(x, gamma, beta, y, n, found.mean, found.rstd);
    else if (w->rms)
        rms_norm_row(x, x + ahead, gamma, y, n, v_set1((float)found.rstd), stream);
    else
        layer_norm_row(x, x + ahead, gamma, beta, y, n, row_scale_of(found.mean, found.rstd), stream);
}

static void creg_wide_write(const creg_wide *w, ptrdiff_t panel, ptrdiff_t row)
{
    const ptrdiff_t j = panel * CREG_PANEL;
    if (w->stream) {
        wide_write(w, AT(w->gamma, j), AT(w->beta, j), row, j, 1);
        v_stream_end();
    } else if (w->gamma && w->beta)
        wide_write(w, w->gamma + j, w->beta + j, row, j, 0);
    else
        wide_write(w, AT(w->gamma, j), AT(w->beta, j), row, j, 0);
}

static void creg_wide_grad_sums(const creg_wide *w, ptrdiff_t panel, ptrdiff_t row)
{
    const ptrdiff_t j = panel * CREG_PANEL, at = row * w->cols + j, n = min_size(CREG_PANEL, w->cols - j);
    double *out = w->sums + 2 * (row * panels_of(w) + panel);
    const creg_wide_row *r = w->row + row;
    if (w->rms) {
        const rms_grad_operands operands = {w->dy + at, w->x + at, AT(w->gamma, j)};
        out[0] = (double)panel_sums(rms_norm_grad_terms, &operands, 0, n).a;
    } else {
        const grad_operands operands = {w->dy + at, w->x + at, AT(w->gamma, j), row_scale_of(r->mean, r->rstd)};
        const sums found = panel_sums(layer_norm_grad_terms, &operands, 0, n);
        out[0] = (double)found.a;
        out[1] = (double)found.b;
    }
}

static void creg_wide_grad_means(creg_wide *w, ptrdiff_t row)
{
    const float *dy = w->dy + row * w->cols, *x = w->x + row * w->cols;
    const double *sums = w->sums + 2 * row * panels_of(w);
    creg_wide_row *out = w->row + row;
    double a = 0.0, b = 0.0;
    for (ptrdiff_t k = 0; k < panels_of(w); k++) {
        a += sums[2 * k];
        if (!w->rms) b += sums[2 * k + 1];
    }
    if (w->rms) {
        out->mean_g_x_hat = rms_norm_grad_mean_of(a, w->cols, out->rstd);
        out->exact = !rms_norm_grad_is_safe(out->mean_g_x_hat, dy, w->gamma, w->cols, out->rstd);
        if (out->exact) out->mean_g_x_hat = rms_norm_grad_mean_exact(dy, x, w->gamma, w->cols, out->rstd);
    } else {
        grad_means means = layer_norm_grad_means_of(a, b, w->cols, out->rstd);
        out->exact = !layer_norm_grad_is_safe(means, dy, w->gamma, w->cols, out->rstd);
        if (out->exact) means = layer_norm_grad_means_exact(dy, x, w->gamma, w->cols, out->mean, out->rstd);
        out->mean_g = means.g;
        out->mean_g_x_hat = means.g_x_hat;
    }
}

/* Columns [j, j + n) of all rows: dx of the norm plus `more`, then dropout's gradient of it. */
CREG_INLINE void wide_grad_tile(const creg_wide *w, const float *gamma, const float *more, ptrdiff_t j, ptrdiff_t n,
                                int stream)
{
    const philox_keys keys = dropout_keys(w->dropout);
    float *dgamma = AT(w->dgamma, j), *dbeta = AT(w->dbeta, j);
    zero_sums(dgamma, n);
    zero_sums(dbeta, n);
    for (ptrdiff_t i = 0, at = j; i < w->rows; i++, at += w->cols) {
        const ptrdiff_t ahead = i + 1 < w->rows ? w->cols : 0;
        const creg_wide_row *r = w->row + i;
        const float *dy = w->dy + at, *x = w->x + at;
        float *dx = w->dx + at;
        const grad_means means = {r->mean_g, r->mean_g_x_hat};
        const vf rstd = v_set1((float)r->rstd), mean_g_x_hat = v_set1((float)means.g_x_hat);
        if (r->exact && w->rms)
            rms_norm_grad_row_exact(dy, x, gamma, AT(more, at), dx, dgamma, n, r->rstd, means.g_x_hat);
        else if (r->exact)
            layer_norm_grad_row_exact(dy, x, gamma, AT(more, at), dx, dgamma, dbeta, n, r->mean, r->rstd, means);
        else if (w->rms) {
            const rms_grad_row row = {dy, x, gamma, AT(more, at), dx, dgamma, rstd, mean_g_x_hat};
            rms_norm_grad_row(&row, ahead, n, stream);
        } else {
            const row_scale scale = row_scale_of(r->mean, r->rstd);
            const grad_row row = {dy,     x,     gamma, AT(more, at),           dx,
                                  dgamma, dbeta, scale, v_set1((float)means.g), mean_g_x_hat};
            layer_norm_grad_row(&row, ahead, n, stream);
        }
        if (w->dropped)
            dropout_elements(dx, NULL, w->dropped + at, w->first + (uint64_t)at, n, 0, w->dropout, &keys, w->stream);
    }
}

static void creg_wide_grad_tile(const creg_wide *w, ptrdiff_t tile)
{
    const ptrdiff_t j = tile * CREG_TILE, n = min_size(CREG_TILE, w->cols - j);
    const int stream = w->stream && !w->dropped; /* what dropout reads again stays in the cache */
    if (w->gamma && !w->more)
        wide_grad_tile(w, w->gamma + j, NULL, j, n, stream);
    else
        wide_grad_tile(w, AT(w->gamma, j), w->more, j, n, stream);
    if (w->stream) v_stream_end();
}

#endif
