/* DropBlock (Ghiasi, Lin and Le, 2018, "DropBlock: A regularization method for convolutional networks",
 * arXiv:1810.12890). The readable twin: cregkit/oracle/drop_block.py
 *
 * Seeds      Each element may be the last of a block of side x side pixels of its channel, with probability gamma, if
 *            such a block fits: gamma = p / side^2 * height * width / ((height - side + 1) * (width - side + 1))
 * Forward    y = x * scale where no block lies, else 0; scale = the number of elements / the number of kept ones
 * Saved      nothing
 * Backward   dx = dy * scale where kept: the same bits are drawn again
 * Numerics   Counts are whole numbers, so their sum is the same in any order.
 * Layout     A task draws the decisions of whole planes in the order of memory, a byte each, and spreads the seeds over
 *            their blocks: along rows, then along columns, by windows of 2, 4, 8 ... elements. Windows pass over the
 *            end of a row or plane into the next one, whose first side - 1 columns and rows have no seeds.
 */
#ifndef CREG_DROP_BLOCK_H
#define CREG_DROP_BLOCK_H

#include "dropout.h"

/* Keeps the elements at which no block of the planes could end. */
static void keep_margins(unsigned char *keep, ptrdiff_t n, const creg_drop_block *b)
{
    const ptrdiff_t row = b->width * b->pixel, margin = b->side - 1;
    for (ptrdiff_t plane = 0; plane < n; plane += b->height * row) {
        memset(keep + plane, 1, (size_t)(margin * row));
        if (b->pixel == 1)
            for (ptrdiff_t k = 0; k < margin; k++)
                for (ptrdiff_t r = margin; r < b->height; r++) keep[plane + r * row + k] = 1;
        else
            for (ptrdiff_t r = margin; r < b->height; r++)
                memset(keep + plane + r * row, 1, (size_t)(margin * b->pixel));
    }
}

/* Drops each element that has a dropped one among itself and the next side - 1 at distances of `step`. */
static void spread(unsigned char *keep, ptrdiff_t n, ptrdiff_t side, ptrdiff_t step)
{
    for (ptrdiff_t window = 1, more; window < side; window += more) {
        more = min_size(window, side - window);
        const unsigned char *ahead = keep + more * step;
        for (ptrdiff_t i = 0; i < n - more * step; i++) keep[i] &= ahead[i];
    }
}

/* The sum of n bytes, which are 0 or 1. */
static int64_t count_kept(const unsigned char *keep, ptrdiff_t n)
{
    enum { LANES = 64, MOST = 255 * LANES };
    int64_t kept = 0;
    for (ptrdiff_t at = 0; at < n; at += MOST) {
        const ptrdiff_t end = min_size(at + MOST, n);
        unsigned char sums[LANES] = {0};
        ptrdiff_t i = at;
        for (; i + LANES <= end; i += LANES) /* main loop */
            for (int k = 0; k < LANES; k++) sums[k] += keep[i + k];
        for (; i < end; i++) kept += keep[i]; /* tail */
        for (int k = 0; k < LANES; k++) kept += sums[k];
    }
    return kept;
}

static void creg_drop_block_mask(void *block, ptrdiff_t task)
{
    creg_drop_block *b = block;
    const creg_dropout_items *a = &b->items;
    const element_range range = elements_of(a, task);
    const ptrdiff_t n = range.end - range.at;
    unsigned char *keep = a->keep + range.at;
    draws random;
    start_draws(&random, a->dropout.key);
    draw_keep(keep, a->first + (uint64_t)range.at, n, &a->dropout, &random);
    keep_margins(keep, n, b);
    spread(keep, n, b->side, b->pixel);
    spread(keep, n, b->side, b->width * b->pixel);
    __atomic_fetch_add(&b->kept, count_kept(keep, n), __ATOMIC_RELAXED);
}

#endif
