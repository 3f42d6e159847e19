/* Any CPU: four floats in a 16-byte vector of GCC and Clang, which they turn into SSE2, AltiVec or plain C.
 *
 * Every simd_<isa>.h defines these operations over CREG_W floats. simd.h has the other operations.
 */
#ifndef CREG_SIMD_SCALAR_H
#define CREG_SIMD_SCALAR_H

#include <math.h>

enum { CREG_W = 4 };
#include "simd.h"

typedef v_ints vm;    /* all bits of a lane: keep */
typedef ptrdiff_t vw; /* how many lanes */

CREG_INLINE vf v_set1(float a) { return (vf){a, a, a, a}; }

/* A non-temporal store, where there is one; p must be aligned. */
CREG_INLINE void v_stream(float *p, vf a) { v_store(p, a); }
CREG_INLINE void v_stream_end(void) {} /* makes non-temporal stores visible to other threads */

/* Less than a vector. Not inlined: the branches would make compilation slow and the kernels large. */
static CREG_NOINLINE vf v_load_few(const float *p, ptrdiff_t n)
{
    return n == 3 ? (vf){p[0], p[1], p[2]} : n == 2 ? (vf){p[0], p[1]} : n == 1 ? (vf){p[0]} : (vf){0};
}
static CREG_NOINLINE void v_store_few(float *p, vf a, ptrdiff_t n)
{
    if (n > 1)
        memcpy(p, &a, 2 * sizeof *p);
    else if (n == 1)
        p[0] = a[0];
    if (n == 3) p[2] = a[2];
}

/* The first n floats: none when n <= 0, all when n >= CREG_W. Other lanes are 0; memory beyond them is neither read nor
 * written. */
CREG_INLINE vf v_load_part(const float *p, ptrdiff_t n) { return n >= CREG_W ? v_load(p) : v_load_few(p, n); }
CREG_INLINE void v_store_part(float *p, vf a, ptrdiff_t n)
{
    if (n >= CREG_W)
        v_store(p, a);
    else
        v_store_few(p, a, n);
}

CREG_INLINE vf v_keep(vm keep, vf a) { return (vf)(keep & (vm)a); } /* +0 in the other lanes, even where a is NaN */

/* The same with a window of the first n lanes, which serves many vectors. */
CREG_INLINE vw v_window(ptrdiff_t n) { return n >= CREG_W ? CREG_W : n <= 0 ? 0 : n; }
CREG_INLINE vf v_load_window(const float *p, vw w) { return v_load_part(p, w); }
CREG_INLINE vf v_only(vf a, vw w)
{
    static const int32_t window[2 * CREG_W] = {-1, -1, -1, -1};
    vm lanes;
    memcpy(&lanes, window + CREG_W - w, sizeof lanes);
    return v_keep(lanes, a);
}

/* The same of 16-bit numbers; few: less than a vector. */
CREG_INLINE v_halves h_load_few(const uint16_t *p, ptrdiff_t n) { return h_load_steps(p, n); }
CREG_INLINE void h_store_few(uint16_t *p, v_halves a, ptrdiff_t n) { h_store_steps(p, a, n); }
CREG_INLINE v_halves h_load_window(const uint16_t *p, vw w) { return w >= CREG_W ? h_load(p) : h_load_few(p, w); }
CREG_INLINE void h_stream(uint16_t *p, v_halves a) { h_store(p, a); }

CREG_INLINE vf v_sqrt(vf a) { return (vf){sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])}; }

CREG_INLINE vm v_equal(vf a, vf b) { return a == b; }
CREG_INLINE vf v_select(vm which, vf a, vf b) { return (vf)((which & (vm)a) | (~which & (vm)b)); } /* which ? a : b */
/* a > b ? a : b and a < b ? a : b, which give b where either is NaN. */
CREG_INLINE vf v_max(vf a, vf b) { return v_select(a > b, a, b); }
CREG_INLINE vf v_min(vf a, vf b) { return v_select(a < b, a, b); }
CREG_INLINE vf v_reverse(vf a) { return (vf){a[3], a[2], a[1], a[0]}; } /* the last lane first */

/* The sum of the lanes, halves added to halves: the fixed order of acc_sum() in reduce.h. */
CREG_INLINE float v_sum(vf a) { return (a[0] + a[2]) + (a[1] + a[3]); }
/* The sums of eight vectors. */
CREG_INLINE void v_sums(const vf v[8], float out[8])
{
    for (int i = 0; i < 8; i++) out[i] = v_sum(v[i]);
}

CREG_INLINE vu vu_mul32(vu a, uint32_t b) /* low half of a times b, all 64 bits */
{
    return (vu){(uint64_t)(uint32_t)a[0] * b, (uint64_t)(uint32_t)a[1] * b};
}
CREG_INLINE vu vu_high_xor(vu a, vu b, vu c) { return (a >> 32) ^ b ^ c; } /* high half of a, xor b, xor c */
/* The low halves, interleaved as 32-bit words: even[0], odd[0], even[1] ... */
CREG_INLINE vu vu_interleave(vu even, vu odd) { return (even & 0xFFFFFFFFu) | (odd << 32); }

/* a where the draw, a signed 32-bit number, is at least the threshold, else +0. */
CREG_INLINE vf v_drop(v_words draws, v_words threshold, vf a) { return v_keep((v_ints)draws >= (v_ints)threshold, a); }
CREG_INLINE int v_any(v_words a) { return (((vu)a)[0] | ((vu)a)[1]) != 0; } /* whether a word is not 0 */
CREG_INLINE vm vm_of_bytes(const unsigned char *p)                          /* byte i, 0 or 1: lane i kept */
{
    return -(vm){p[0], p[1], p[2], p[3]};
}
CREG_INLINE unsigned vm_bits(vm keep) /* bit i: lane i kept */
{
    const vu bits = (vu)(keep & (vm){1, 2, 4, 8});
    const uint64_t both = bits[0] | bits[1];
    return (unsigned)(both | both >> 32);
}

CREG_INLINE vf v_of_bfloat16(v_halves h) { return (vf)(__builtin_convertvector(h, v_words) << 16); }
/* To nearest even: the upper half plus 1 where the lower half is above 0x8000, or equal to it with an odd upper half.
 */
static CREG_NOINLINE __attribute__((unused)) v_halves v_to_bfloat16(vf a)
{
    const v_words bits = (v_words)a, rounded = bits + 0x7FFF + (bits >> 16 & 1), number = (v_words)(a == a);
    return __builtin_convertvector(((rounded & number) | (0x7FC00000 & ~number)) >> 16, v_halves);
}

/* A float16's exponent and significand, moved to those of a float32, are a number 2^112 times too small; of infinity
 * and NaN, the exponent is not yet all ones. */
static CREG_NOINLINE __attribute__((unused)) vf v_of_float16(v_halves h)
{
    const v_words bits = __builtin_convertvector(h, v_words), sign = (bits & 0x8000) << 16;
    const v_words magnitude = (bits & 0x7FFF) << 13, special = (v_words)(magnitude >= 0x0F800000);
    const v_words finite = (v_words)((vf)magnitude * v_set1(0x1p+112f));
    return (vf)(sign | (special & (magnitude | 0x7F800000)) | (~special & finite));
}

/* Subnormal results are rounded by an addition to 1/2, whose last place is theirs. */
static CREG_NOINLINE __attribute__((unused)) v_halves v_to_float16(vf a)
{
    const v_words bits = (v_words)a & 0x7FFFFFFF, sign = ((v_words)a & 0x80000000) >> 16;
    const v_words small = (v_words)(bits < 0x38800000), large = (v_words)(bits >= 0x47800000);
    const v_words subnormal = (v_words)((vf)bits + v_set1(0.5f)) - 0x3F000000;
    const v_words normal = (bits - 0x38000000 + 0xFFF + (bits >> 13 & 1)) >> 13;
    const v_words beyond = 0x7C00 | ((v_words)(bits > 0x7F800000) & 0x0200);
    const v_words magnitude = (small & subnormal) | (large & beyond) | (~(small | large) & normal);
    return __builtin_convertvector(sign | magnitude, v_halves);
}

#endif
