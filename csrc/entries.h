/* Whole calls of the ops for C++: checks and outputs are the caller's, planning, threads and temporary memory are not.
 *
 * Calls      cregkit.kernels._entries.table is a capsule of one creg_entries. Calls need no GIL and use up to `threads`
 *            threads. They return 0, or -1 with a MemoryError raised in Python; the outputs are then undefined.
 * Records    The caller zeroes the record and sets its shape, its type, eps and the operands; see cregkit.h.
 */
#ifndef CREG_ENTRIES_H
#define CREG_ENTRIES_H

#include "cregkit.h"

/* Dropout of n elements of contiguous memory, from the start of the seed's random stream. y may be x. Kept elements
 * are divided by 1 - p if `scaled`. */
typedef struct {
    const void *x;
    void *y;
    ptrdiff_t n;
    int stored, scaled;
    double p;
    uint64_t seed;
} creg_dropout_call;

typedef struct {
    /* `across` is 1 for rows that are contiguous. Without y, forward finds mean and rstd alone. Backward with gamma
     * needs dgamma and, if it is centred, dbeta. */
    int (*norm_forward)(creg_norm *call, int threads);
    int (*norm_backward)(creg_norm *call, int threads);

    /* Forward, or backward if dy is set. Training has channels.mean, var and rstd; without `out`, forward finds these
     * alone. Inference has given_mean and given_var. */
    int (*batch_norm)(creg_batch_norm *call, int threads);

    /* Forward, or backward if channels.dy is set. groups.channels.mean, groups.rstd and, forward, groups.var hold the
     * statistics; without channels.out, forward finds these alone. */
    int (*group_norm)(creg_group_norm *call, int threads);

    void (*dropout)(const creg_dropout_call *call, int threads);

    /* Recycled memory, aligned to 64 bytes; NULL if there is none. */
    void *(*allocate)(size_t size);
    void (*release)(void *memory);
} creg_entries;

#endif
