/* Prefetches and stores: how the passes over memory move their data. The measurements are in TUNING.md. */
#ifndef CREG_STORES_H
#define CREG_STORES_H

#include "reduce.h"

enum {
    /* Elements of a cache line. */
    CREG_LINE = 64 / sizeof(float),
    /* How far ahead a pass prefetches what it reads from beyond the LLC. */
    AHEAD = 2048,
    /* How far ahead a pass prefetches for write. Stores retire in order: one that misses L1 holds up those behind it.
     */
    WRITE_AHEAD = 512
};

/* Prefetches a group of lanes: hardware prefetchers stop at page boundaries, and idle while a row is read from L1 a
 * second time. With streaming stores it goes to L2, because they share L1's few line fill buffers. */
CREG_INLINE void prefetch_group(const float *p, int stream)
{
    for (int j = 0; j < CREG_LANES; j += CREG_LINE)
        if (stream)
            __builtin_prefetch(p + j, 0, 2);
        else
            __builtin_prefetch(p + j);
}

/* Prefetches what a streaming pass reads next: streaming stores hide the pattern of its loads from some hardware
 * prefetchers. */
CREG_INLINE void fetch_ahead(const float *p, int stream)
{
    if (stream) __builtin_prefetch(p + AHEAD, 0, 2);
}

/* Elements before p reaches a cache line, at most n. Streaming stores need aligned vectors, and are fast only for lines
 * that they write whole. */
CREG_INLINE ptrdiff_t unaligned_lead(const float *p, ptrdiff_t n)
{
    const ptrdiff_t off = (ptrdiff_t)((uintptr_t)p / sizeof(float) % CREG_LINE);
    return off ? min_size(CREG_LINE - off, n) : 0;
}

/* How many of n elements fill whole cache lines. */
CREG_INLINE ptrdiff_t whole_lines(ptrdiff_t n) { return n / CREG_LINE * CREG_LINE; }

CREG_INLINE void v_put_part(float *p, vf a, ptrdiff_t n, int stream)
{
    if (n < CREG_W)
        v_store_part(p, a, n);
    else if (stream)
        v_stream(p, a);
    else
        v_store(p, a);
}

/* Copies cached elements to memory with streaming stores. */
CREG_INLINE void stream_row(const float *from, float *to, ptrdiff_t n)
{
    ptrdiff_t j = unaligned_lead(to, n);
    if (j) memcpy(to, from, sizeof(float) * (size_t)j);
    for (; j + CREG_W <= n; j += CREG_W) v_stream(to + j, v_load(from + j));
    if (j < n) memcpy(to + j, from + j, sizeof(float) * (size_t)(n - j));
}

#endif
