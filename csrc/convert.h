/* Tensors from and to float32 arrays: exact widening, and rounding to nearest even. */
#ifndef CREG_CONVERT_H
#define CREG_CONVERT_H

#include "stores.h"

/* Prefetches x `ahead` elements ahead; 0: no prefetch. */
CREG_INLINE void widen_elements(const stored *x, float *y, ptrdiff_t n, ptrdiff_t ahead)
{
    ptrdiff_t j = 0;
    for (; j + CREG_LANES <= n; j += CREG_LANES) { /* main loop */
        if (ahead) prefetch_group(x + j + ahead, 0);
        for (ptrdiff_t k = j; k < j + CREG_LANES; k += CREG_W) v_store(y + k, x_load(x + k));
    }
    for (; j < n; j += CREG_W) v_store_part(y + j, x_load_part(x + j, n - j), n - j); /* tail */
}

CREG_INLINE void round_elements(const float *x, stored *y, ptrdiff_t n, int stream)
{
    const ptrdiff_t lead = stream ? unaligned_lead(y, n) : 0;
    for (ptrdiff_t j = 0; j < lead; j += CREG_W) x_store_part(y + j, v_load_part(x + j, lead - j), lead - j);
    ptrdiff_t j = lead;
    for (; j + CREG_W <= n; j += CREG_W) x_put_part(y + j, v_load(x + j), CREG_W, stream); /* main loop */
    if (j < n) x_store_part(y + j, v_load_part(x + j, n - j), n - j);                      /* tail */
}

static void creg_to_float32(const void *x, float *y, ptrdiff_t n) { widen_elements(x, y, n, 0); }
static void creg_from_float32(const float *x, void *y, ptrdiff_t n) { round_elements(x, y, n, 0); }

#endif
