/* Dropout (Srivastava et al., 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting"), inverted
 * scaling. The readable twin: cregkit/oracle/dropout.py
 *
 * Forward    y = x * scale where kept, 0 where dropped; scale = 1 / (1 - p)
 * Saved      nothing
 * Backward   dx = dy * scale where kept: the same bits are drawn again
 * Spatial    (Tompson et al., 2015, arXiv:1411.4280) one decision per channel instead of one per element
 * Numerics   A 16-bit draw below the threshold drops. A draw equal to it, one in 65536, is a tie: a second draw of 32
 *            bits decides, so that the probability is p to 2^-48.
 * Layout     Element i of the random stream is in group i / 128, whose 16 Philox counters give 4 x 16 words. Element e
 *            of a group has the low (even e) or high half of word e / 32 of counter (e % 32) / 2: the order in which a
 *            vector of words lies in memory, so that one 16-bit comparison decides 2 * CREG_W elements.
 */
#ifndef CREG_DROPOUT_H
#define CREG_DROPOUT_H

#include "philox.h"
#include "safety.h"
#include "stores.h"

enum {
    GROUP = CREG_DROPOUT_GROUP,
    COUNTERS = 16,
    /* The number of groups whose words are drawn at once. */
    TOGETHER = CREG_W * PHILOX_TOGETHER > COUNTERS ? CREG_W * PHILOX_TOGETHER / COUNTERS : 1
};

/* Dropout of full groups, plus the residual unless it is NULL; ties count as kept. `vectors` vectors of words are drawn
 * at a time. Returns whether there was a tie that a second draw may drop. */
CREG_INLINE int dropout_full_groups(const float *x, const float *residual, float *y, uint64_t group, int groups,
                                    int vectors, const creg_dropout *d, const philox_keys *keys, int stream)
{
    const vf scale = v_set1(d->scale);
    int tie = 0;
    for (int first = 0; first < groups * COUNTERS; first += vectors * CREG_W) {
        vu words[PHILOX_TOGETHER][4];
        philox_vectors(group * COUNTERS + (uint64_t)first, vectors, keys, words);
        for (int i = 0; i < vectors; i++)
            for (int j = 0; j < 4; j++) {
                const int k = first + i * CREG_W;
                const vu draws = words[i][j];
                vm keep[2];
                vu_draws_at_least(draws, d->threshold, keep);
                tie |= vu_any_draw_equals(draws, d->threshold);
                for (int half = 0; half < 2; half++) {
                    const ptrdiff_t e = k / COUNTERS * GROUP + 32 * j + k % COUNTERS * 2 + half * CREG_W;
                    vf v = v_keep(keep[half], v_mul(v_load(x + e), scale));
                    if (residual) v = v_add(v_load(residual + e), v);
                    v_put_part(y + e, v, CREG_W, stream);
                }
            }
    }
    return tie && d->tie != 0;
}

/* Decides the ties of elements [e0, e1) of a group; y and the residual point at element e0. */
static void dropout_ties(const float *residual, float *y, uint64_t group, ptrdiff_t e0, ptrdiff_t e1,
                         const creg_dropout *d)
{
    for (int k = 0; k < COUNTERS; k++) {
        uint32_t word[4];
        philox(group * COUNTERS + (uint64_t)k, PHILOX_DRAWS, d->key, word);
        for (int h = 0; h < 8; h++) {
            const ptrdiff_t e = 32 * (h / 2) + 2 * k + h % 2;
            if (e < e0 || e >= e1 || (uint16_t)(word[h / 2] >> (16 * (h % 2))) != d->threshold) continue;
            uint32_t second[4];
            philox(group * GROUP + (uint64_t)e, PHILOX_TIES, d->key, second);
            if (second[0] < d->tie) y[e - e0] = residual ? residual[e - e0] + 0.0f : 0.0f;
        }
    }
}

CREG_INLINE void dropout_groups(const float *x, const float *residual, float *y, uint64_t group, int groups,
                                int vectors, const creg_dropout *d, const philox_keys *keys, int stream)
{
    if (!dropout_full_groups(x, residual, y, group, groups, vectors, d, keys, stream)) return;
    for (int g = 0; g < groups; g++)
        dropout_ties(AT(residual, g * GROUP), y + g * GROUP, group + (uint64_t)g, 0, GROUP, d);
}

/* Elements [e0, e1) of a group, copied into a full group on the stack. */
static void dropout_part_group(const float *x, const float *residual, float *y, uint64_t group, ptrdiff_t e0,
                               ptrdiff_t e1, const creg_dropout *d, const philox_keys *keys)
{
    float whole[GROUP] = {0};
    const size_t bytes = sizeof(float) * (size_t)(e1 - e0);
    memcpy(whole + e0, x, bytes);
    if (dropout_full_groups(whole, NULL, whole, group, 1, 1, d, keys, 0))
        dropout_ties(NULL, whole + e0, group, e0, e1, d);
    for (ptrdiff_t e = e0; residual && e < e1; e++) whole[e] = residual[e - e0] + whole[e];
    memcpy(y, whole + e0, bytes);
}

/* y = dropout(x) with draws [first, first + n) of the random stream, plus the residual unless it is NULL. Prefetches
 * `ahead` elements ahead; 0: no prefetch. */
CREG_INLINE void dropout_elements(const float *x, const float *residual, float *y, uint64_t first, ptrdiff_t n,
                                  ptrdiff_t ahead, const creg_dropout *d, const philox_keys *keys, int stream)
{
    uint64_t group = first / GROUP;
    const ptrdiff_t e0 = (ptrdiff_t)(first % GROUP);
    ptrdiff_t i = 0;
    if (e0 && n > 0) {
        i = min_size(GROUP - e0, n);
        dropout_part_group(x, residual, y, group++, e0, e0 + i, d, keys);
    }
    const int aligned = stream && unaligned_lead(y + i, 1) == 0;
    for (; i + TOGETHER * GROUP <= n; i += TOGETHER * GROUP, group += TOGETHER) { /* main loop */
        for (ptrdiff_t j = 0; ahead && j < TOGETHER * GROUP; j += CREG_LANES) {
            prefetch_group(x + i + ahead + j, stream);
            if (residual) prefetch_group(residual + i + ahead + j, stream);
        }
        dropout_groups(x + i, AT(residual, i), y + i, group, TOGETHER, PHILOX_TOGETHER, d, keys, aligned);
    }
    for (; i + GROUP <= n; i += GROUP, group++)
        dropout_groups(x + i, AT(residual, i), y + i, group, 1, 1, d, keys, aligned);
    if (i < n) dropout_part_group(x + i, AT(residual, i), y + i, group, 0, n - i, d, keys); /* tail */
}

/* The same through a buffer in L1, where y is not aligned at the start of a group, as non-temporal stores need. */
static void dropout_unaligned(const float *x, float *y, uint64_t first, ptrdiff_t n, const creg_dropout *d,
                              const philox_keys *keys)
{
    float buffer[CREG_PANEL];
    for (ptrdiff_t i = 0, step; i < n; i += step) {
        const uint64_t at = first + (uint64_t)i;
        step = min_size(CREG_PANEL - (ptrdiff_t)(at % GROUP), n - i);
        dropout_elements(x + i, NULL, buffer, at, step, READ_AHEAD, d, keys, 0);
        stream_row(buffer, y + i, step);
    }
}

/* A task's items [at, end). */
typedef struct {
    ptrdiff_t at, end;
} item_range;

CREG_INLINE item_range items_of(const creg_dropout_items *a, ptrdiff_t task)
{
    return (item_range){task ? min_size(a->n, task * a->block + a->lead) : 0,
                        min_size(a->n, (task + 1) * a->block + a->lead)};
}

/* Whether p = 0 or p = 1, which need no draws; then writes y. */
static int decided(const creg_dropout_items *a, item_range items)
{
    const ptrdiff_t at = items.at * a->size;
    const size_t bytes = sizeof(float) * (size_t)((items.end - items.at) * a->size);
    if (a->decides == CREG_DROPS_ALL) memset(a->y + at, 0, bytes);
    if (a->decides == CREG_KEEPS_ALL && a->x != a->y) memcpy(a->y + at, a->x + at, bytes);
    return a->decides != CREG_DRAWS;
}

static void creg_dropout_forward(void *items, ptrdiff_t task)
{
    const creg_dropout_items *a = items;
    const item_range range = items_of(a, task);
    if (decided(a, range)) return;
    const uint64_t first = a->first + (uint64_t)range.at;
    const ptrdiff_t n = range.end - range.at, lead = (ptrdiff_t)(-first % GROUP);
    const philox_keys keys = philox_keys_of(a->dropout.key);
    const float *x = a->x + range.at;
    float *y = a->y + range.at;
    if (a->stream && unaligned_lead(y + lead, 1))
        dropout_unaligned(x, y, first, n, &a->dropout, &keys);
    else
        dropout_elements(x, NULL, y, first, n, READ_AHEAD, &a->dropout, &keys, a->stream);
    if (a->stream) v_stream_end();
}

/* Decisions [first, first + n), one byte each. */
static void draw_keep(unsigned char *keep, uint64_t first, ptrdiff_t n, const creg_dropout *d)
{
    const philox_keys keys = philox_keys_of(d->key);
    float ones[GROUP], kept[GROUP];
    for (int e = 0; e < GROUP; e++) ones[e] = 1.0f;
    for (ptrdiff_t i = 0; i < n;) {
        const ptrdiff_t e0 = (ptrdiff_t)((first + (uint64_t)i) % GROUP), e1 = min_size(GROUP, e0 + n - i);
        dropout_part_group(ones, NULL, kept, (first + (uint64_t)i) / GROUP, e0, e1, d, &keys);
        for (ptrdiff_t e = 0; e < e1 - e0; e++) keep[i + e] = kept[e] != 0.0f;
        i += e1 - e0;
    }
}

static void creg_dropout_keep(void *items, ptrdiff_t task)
{
    const creg_dropout_items *a = items;
    const item_range range = items_of(a, task);
    const ptrdiff_t n = range.end - range.at;
    if (a->decides == CREG_DRAWS)
        draw_keep(a->keep + range.at, a->first + (uint64_t)range.at, n, &a->dropout);
    else
        memset(a->keep + range.at, a->decides == CREG_KEEPS_ALL, (size_t)n);
}

CREG_INLINE void scale_group(const float *x, float *y, ptrdiff_t n, vf factor, int stream)
{
    for (int k = 0; k < CREG_VECS; k++) {
        const ptrdiff_t j = k * CREG_W, left = n - j;
        if (left <= 0) continue;
        v_put_part(y + j, v_mul(v_load_part(x + j, left), factor), left, stream);
    }
}

/* y = x * factor. */
static void scale_elements(const float *x, float *y, ptrdiff_t n, float factor, int stream)
{
    const vf f = v_set1(factor);
    ptrdiff_t j = unaligned_lead(y, n);
    if (j) scale_group(x, y, j, f, 0);
    for (; j + CREG_LANES <= n; j += CREG_LANES) scale_group(x + j, y + j, CREG_LANES, f, stream); /* main loop */
    if (j < n) scale_group(x + j, y + j, n - j, f, 0);                                             /* tail */
    if (stream) v_stream_end();
}

static void creg_spatial_dropout(void *items, ptrdiff_t task)
{
    const creg_dropout_items a = *(const creg_dropout_items *)items; /* a copy: stores to y cannot alias it */
    const item_range range = items_of(&a, task);
    unsigned char keep[GROUP];
    if (decided(&a, range)) return;
    for (ptrdiff_t c = range.at, k = 0; c < range.end; c++, k = (k + 1) % GROUP) {
        const ptrdiff_t at = c * a.size;
        if (k == 0) draw_keep(keep, a.first + (uint64_t)c, min_size(GROUP, range.end - c), &a.dropout);
        if (keep[k])
            scale_elements(a.x + at, a.y + at, a.size, a.dropout.scale, a.stream);
        else
            memset(a.y + at, 0, sizeof(float) * (size_t)a.size);
    }
}

#endif
