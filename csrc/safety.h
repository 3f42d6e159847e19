/* Whether float32 is enough for the intermediates of a row (channel, chunk). Otherwise they are computed in float64. */
#ifndef CREG_SAFETY_H
#define CREG_SAFETY_H

#include "reduce.h"

enum {
    /* Rows (channels) of at most this many values are always computed in float64: their gradients are differences that
     * cancel. */
    CREG_FEW = 4
};

/* Whether float32 squares are enough: none overflowed or was NaN, and variance + eps is so far above 2^-126 that the
 * loss from underflowed squares is below half an ulp. This bounds rstd to [2^-64, 2^48], on which backward relies. */
CREG_INLINE int creg_is_safe(double m2, double variance_plus_eps)
{
    return (m2 - m2 == 0.0) & (variance_plus_eps >= 0x1p-96) & (variance_plus_eps <= 0x1p+128);
}

CREG_INLINE int creg_is_safe_rstd(double rstd) { return (rstd >= 0x1p-64) & (rstd <= 0x1p+48); }

/* Smaller gradients lose bits to underflow in float32 products. With means above the largest, differences may overflow
 * on the way to a finite dx, and a subnormal x - mean may be too inexact. */
#define SMALLEST_SAFE_GRADIENT 0x1p-80
#define LARGEST_SAFE_GRADIENT 0x1p+80

CREG_INLINE vf v_magnitude(vf a) { return v_max(a, v_sub(v_set1(0.0f), a)); }

/* The smallest and the largest of 0 and the elements seen, in each lane. NaN is ignored. */
typedef struct {
    vf low, high;
} range;

enum {
    /* Independent ranges are updated in turn, which hides the latency of minimum and maximum. */
    RANGES = 4
};
typedef struct {
    range of[RANGES];
} ranges;

CREG_INLINE void widen(range *seen, vf v)
{
    seen->low = v_min(v, seen->low);
    seen->high = v_max(v, seen->high);
}

CREG_INLINE ranges no_ranges(void)
{
    ranges seen;
    for (int k = 0; k < RANGES; k++) seen.of[k] = (range){v_set1(0.0f), v_set1(0.0f)};
    return seen;
}

CREG_INLINE range merged(const ranges *seen)
{
    range all = seen->of[0];
    for (int k = 1; k < RANGES; k++) {
        all.low = v_min(all.low, seen->of[k].low);
        all.high = v_max(all.high, seen->of[k].high);
    }
    return all;
}

/* Elements [j, j + n), at most a vector, of a float32 array or of a tensor. */
typedef vf (*loader)(const void *p, ptrdiff_t j, ptrdiff_t n);

CREG_INLINE vf of_floats(const void *p, ptrdiff_t j, ptrdiff_t n) { return v_load_part((const float *)p + j, n); }
CREG_INLINE vf of_tensor(const void *p, ptrdiff_t j, ptrdiff_t n) { return x_load_part((const stored *)p + j, n); }

CREG_INLINE range range_of(loader load, const void *p, ptrdiff_t n)
{
    ranges seen = no_ranges();
    ptrdiff_t j = 0;
    for (; j + RANGES * CREG_W <= n; j += RANGES * CREG_W) /* main loop */
        for (int k = 0; k < RANGES; k++) widen(&seen.of[k], load(p, j + k * CREG_W, CREG_W));
    for (; j < n; j += CREG_W) widen(&seen.of[0], load(p, j, n - j)); /* tail */
    return merged(&seen);
}

/* The largest magnitude in each lane. NaN is ignored. */
CREG_INLINE vf largest_magnitudes(loader load, const void *p, ptrdiff_t n)
{
    const range seen = range_of(load, p, n);
    return v_max(seen.high, v_sub(v_set1(0.0f), seen.low));
}

CREG_INLINE int all_at_most(vf a, float limit)
{
    return vm_bits(v_equal(v_max(a, v_set1(limit)), v_set1(limit))) == (1u << CREG_W) - 1;
}

static int creg_are_at_most(const float *p, float limit, ptrdiff_t n)
{
    return all_at_most(largest_magnitudes(of_floats, p, n), limit);
}

CREG_INLINE vf v_clamp(vf a, float limit) { return v_max(v_min(a, v_set1(limit)), v_set1(-limit)); }

/* Whether the largest of these magnitudes is 0 or at least SMALLEST_SAFE_GRADIENT. */
CREG_INLINE int is_zero_or_plain(vf largest)
{
    return all_at_most(largest, 0.0f) || !all_at_most(largest, 0x1.fffffep-81f);
}

/* Whether the largest |a * b| (|a| where b is NULL) is 0 or at least SMALLEST_SAFE_GRADIENT. Both factors are scaled by
 * 2^75 to keep products from underflowing, and clamped to avoid infinity times 0. */
static CREG_NOINLINE int no_small_product(const stored *a, const float *b, ptrdiff_t n)
{
    const vf scale = v_set1(0x1p+75f), of_a = largest_magnitudes(of_tensor, a, n);
    vf products = v_set1(0.0f);
    if (!b || all_at_most(of_a, 0.0f)) return is_zero_or_plain(of_a);
    for (ptrdiff_t j = 0; j < n; j += CREG_W) {
        const vf u = v_clamp(v_mul(x_load_part(a + j, n - j), scale), 0x1p+127f);
        const vf v = v_clamp(v_mul(v_load_part(b + j, n - j), scale), 0x1p+127f);
        products = v_max(products, v_magnitude(v_mul(u, v)));
    }
    return all_at_most(products, 0.0f) || !all_at_most(products, 0x1.fffffep+69f);
}

/* Whether |mean(g)| + |mean(g * x_hat)|, g = dy * gamma, alone proves that float32 is enough for a row's dx. Smaller
 * means may be the result of cancellation or underflow. */
CREG_INLINE int means_are_plain(double means)
{
    return (means >= SMALLEST_SAFE_GRADIENT) & (means <= LARGEST_SAFE_GRADIENT);
}

/* Whether a row whose means and some of whose gradients are 0 may be treated as a row of zeros: up to this rstd (any
 * eps of at least 1e-7), underflowed products change dx by a subnormal number at most. */
CREG_INLINE int zeros_are_plain(double rstd) { return rstd <= 0x1p+12; }

CREG_INLINE int gradients_are_safe(double means, double rstd, const stored *dy, const float *gamma, ptrdiff_t n)
{
    if (!(means <= LARGEST_SAFE_GRADIENT)) return 0; /* or NaN */
    /* Three elements distinguish a row of zeros, such as padding, from one whose means cancelled. */
    const int zero = (means == 0.0) & zeros_are_plain(rstd) & (x_value(dy) == 0.0f) & (x_value(dy + n / 2) == 0.0f) &
                     (x_value(dy + n - 1) == 0.0f);
    return means_are_plain(means) || zero || no_small_product(dy, gamma, n);
}

#endif
