/* Prefetches and stores of the passes over memory. Measurements: TUNING.md. */
#ifndef CREG_STORES_H
#define CREG_STORES_H

#include "reduce.h"

enum {
    /* The elements of a cache line of a tensor. */
    CREG_LINE = 64 / sizeof(stored),
    LINE_VECS = CREG_LINE / CREG_W,
    /* The distance, in elements, of prefetches of inputs that lie beyond the LLC. */
    READ_AHEAD = 8192 / sizeof(stored),
    /* The distance, in elements, of prefetches for write. Stores retire in order: one that misses L1 stalls the next.
     */
    WRITE_AHEAD = 2048 / sizeof(stored)
};

/* Prefetches n elements. Hardware prefetchers stop at page boundaries, and idle while a row is read from L1 a
 * second time. With non-temporal stores the prefetch goes to L2, because both would share L1's few line fill buffers.
 */
CREG_INLINE void prefetch_elements(const stored *p, int n, int stream)
{
    for (int j = 0; j < n; j += CREG_LINE)
        if (stream)
            __builtin_prefetch(p + j, 0, 2);
        else
            __builtin_prefetch(p + j);
}

/* Prefetches a group of lanes. */
CREG_INLINE void prefetch_group(const stored *p, int stream) { prefetch_elements(p, CREG_LANES, stream); }

/* Prefetches the input of a pass with non-temporal stores, which hide the pattern of its loads from some hardware
 * prefetchers. */
CREG_INLINE void prefetch_ahead(const stored *p, int stream)
{
    if (stream) __builtin_prefetch(p + READ_AHEAD, 0, 2);
}

/* The number of elements, at most n, before p reaches a cache line. Non-temporal stores need aligned vectors, and are
 * fast only for cache lines that they write in full. */
CREG_INLINE ptrdiff_t unaligned_lead(const stored *p, ptrdiff_t n)
{
    const ptrdiff_t off = (ptrdiff_t)((uintptr_t)p / sizeof(stored) % CREG_LINE);
    return off ? min_size(CREG_LINE - off, n) : 0;
}

/* The largest multiple of a cache line in n elements. */
CREG_INLINE ptrdiff_t whole_lines(ptrdiff_t n) { return n / CREG_LINE * CREG_LINE; }

CREG_INLINE void x_put_part(stored *p, vf a, ptrdiff_t n, int stream)
{
    if (n < CREG_W)
        x_store_part(p, a, n);
    else if (stream)
        x_stream(p, a);
    else
        x_store(p, a);
}

/* A result that a later step reads. Of tensors that round, it may be kept in float32, at `unrounded` in place of p. */
CREG_INLINE void put_part(stored *p, float *unrounded, vf a, ptrdiff_t n, int stream)
{
    if (STORES_ROUND && unrounded)
        v_store_part(unrounded, a, n);
    else
        x_put_part(p, a, n, stream);
}

CREG_INLINE void put_value(stored *p, float *unrounded, float a)
{
    if (STORES_ROUND && unrounded)
        *unrounded = a;
    else
        x_set(p, a);
}

/* Copies n elements to whole cache lines in memory with non-temporal stores. */
CREG_INLINE void stream_lines(const stored *from, stored *to, ptrdiff_t n)
{
    enum { VEC = sizeof(vf) / sizeof(stored) };
    for (ptrdiff_t j = 0; j < n; j += VEC) {
        vf line; /* `from` may not be aligned as a float is */
        memcpy(&line, from + j, sizeof line);
        v_stream((void *)(to + j), line);
    }
}

/* Copies elements from the cache to memory, whole lines with non-temporal stores. */
CREG_INLINE void stream_row(const stored *from, stored *to, ptrdiff_t n)
{
    const ptrdiff_t lead = unaligned_lead(to, n), end = lead + whole_lines(n - lead);
    if (lead) memcpy(to, from, sizeof(stored) * (size_t)lead);
    stream_lines(from + lead, to + lead, end - lead);
    if (end < n) memcpy(to + end, from + end, sizeof(stored) * (size_t)(n - end));
}

#endif
