/* AVX-512 (F, BW, DQ, VL): 16 floats per vector, masks for tails. The operations are described in simd.h and
 * simd_scalar.h. */
#ifndef CREG_SIMD_AVX512_H
#define CREG_SIMD_AVX512_H

#include <immintrin.h>

enum { CREG_W = 16 };
#include "simd.h"

typedef __mmask16 vm;
typedef __mmask16 vw;

CREG_INLINE vw v_window(ptrdiff_t n) { return n >= CREG_W ? 0xFFFF : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }

CREG_INLINE vf v_set1(float a) { return _mm512_set1_ps(a); }
CREG_INLINE void v_stream(float *p, vf a) { _mm512_stream_ps(p, a); }
CREG_INLINE size_t window_length(vw w) { return (size_t)__builtin_popcount(w); }
CREG_INLINE vf v_load_window(const float *p, vw w)
{
    masked_load_of(p, sizeof *p * window_length(w));
    return _mm512_maskz_loadu_ps(w, p);
}
CREG_INLINE vf v_only(vf a, vw w) { return _mm512_maskz_mov_ps(w, a); }
/* GCC does not remove a mask of ones, so literal full widths use unmasked instructions. */
CREG_INLINE vf v_load_part(const float *p, ptrdiff_t n)
{
    return __builtin_constant_p(n) && n >= CREG_W ? v_load(p) : v_load_window(p, v_window(n));
}
CREG_INLINE void v_store_part(float *p, vf a, ptrdiff_t n)
{
    if (__builtin_constant_p(n) && n >= CREG_W) {
        v_store(p, a);
        return;
    }
    masked_store_of(p, sizeof *p * window_length(v_window(n)));
    _mm512_mask_storeu_ps(p, v_window(n), a);
}

CREG_INLINE v_halves h_load_window(const uint16_t *p, vw w)
{
    masked_load_of(p, sizeof *p * window_length(w));
    return (v_halves)_mm256_maskz_loadu_epi16(w, p);
}
CREG_INLINE v_halves h_load_few(const uint16_t *p, ptrdiff_t n) { return h_load_window(p, v_window(n)); }
CREG_INLINE void h_store_few(uint16_t *p, v_halves a, ptrdiff_t n)
{
    masked_store_of(p, sizeof *p * window_length(v_window(n)));
    _mm256_mask_storeu_epi16(p, v_window(n), (__m256i)a);
}
CREG_INLINE void h_stream(uint16_t *p, v_halves a) { _mm256_stream_si256((__m256i *)(void *)p, (__m256i)a); }

CREG_INLINE vf v_of_float16(v_halves h) { return _mm512_cvtph_ps((__m256i)h); }
CREG_INLINE v_halves v_to_float16(vf a) { return (v_halves)_mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT); }
/* The upper half of word i, from or to number i. */
CREG_INLINE vf v_of_bfloat16(v_halves h)
{
    const __m512i words = _mm512_castsi256_si512((__m256i)h),
                  order = _mm512_set_epi16(15, 0, 14, 0, 13, 0, 12, 0, 11, 0, 10, 0, 9, 0, 8, 0, 7, 0, 6, 0, 5, 0, 4, 0,
                                           3, 0, 2, 0, 1, 0, 0, 0);
    return (vf)_mm512_maskz_permutexvar_epi16(0xAAAAAAAA, order, words);
}
/* AVX512_BF16's conversion would flush subnormal numbers. A NaN keeps its upper half, in which a bit is set because an
 * operation has returned it. */
CREG_INLINE v_halves v_to_bfloat16(vf a)
{
    const __m512i bits = _mm512_castps_si512(a),
                  odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
    const __m512i rounded = _mm512_mask_add_epi32(bits, _mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), bits, half);
    const __m512i order = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 31, 29, 27, 25, 23, 21, 19,
                                           17, 15, 13, 11, 9, 7, 5, 3, 1);
    return (v_halves)_mm512_castsi512_si256(_mm512_permutexvar_epi16(order, rounded));
}

CREG_INLINE vf v_sqrt(vf a) { return _mm512_sqrt_ps(a); }

CREG_INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
CREG_INLINE vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
CREG_INLINE vm v_equal(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
CREG_INLINE vf v_select(vm which, vf a, vf b) { return _mm512_mask_blend_ps(which, b, a); }
CREG_INLINE vf v_reverse(vf a)
{
    return _mm512_permutexvar_ps(_mm512_set_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), a);
}

CREG_INLINE float v_sum(vf a)
{
    __m256 h8 = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 h4 = _mm_add_ps(_mm256_castps256_ps128(h8), _mm256_extractf128_ps(h8, 1));
    __m128 h2 = _mm_add_ps(h4, _mm_movehl_ps(h4, h4));
    return _mm_cvtss_f32(_mm_add_ss(h2, _mm_movehdup_ps(h2)));
}

CREG_INLINE vf add_halves(vf a, vf b) /* the halves of a added, then those of b */
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
}
CREG_INLINE vf add_quarters(vf a, vf b) /* the two quarters of each half of a added, then those of b */
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
}
CREG_INLINE void v_sums(const vf v[8], float out[8])
{
    const vf ab = add_halves(v[0], v[1]), cd = add_halves(v[2], v[3]);
    const vf ef = add_halves(v[4], v[5]), gh = add_halves(v[6], v[7]);
    const __m512d abcd = _mm512_castps_pd(add_quarters(ab, cd)), efgh = _mm512_castps_pd(add_quarters(ef, gh));
    const vf pairs = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(abcd, efgh)),
                                   _mm512_castpd_ps(_mm512_unpackhi_pd(abcd, efgh))); /* aaee bbff ccgg ddhh */
    const vf sums = _mm512_add_ps(pairs, _mm512_movehdup_ps(pairs));
    const __m512i order = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 14, 10, 6, 2, 12, 8, 4, 0);
    _mm256_storeu_ps(out, _mm512_castps512_ps256(_mm512_permutexvar_ps(order, sums)));
}

CREG_INLINE vu vu_mul32(vu a, uint32_t b) { return (vu)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b)); }
CREG_INLINE vu vu_high_xor(vu a, vu b, vu c) /* GCC 12 does not combine two operators */
{
    return (vu)_mm512_ternarylogic_epi64((__m512i)(a >> 32), (__m512i)b, (__m512i)c, 0x96);
}
CREG_INLINE vu vu_interleave(vu even, vu odd)
{
    return (vu)_mm512_mask_blend_epi32(0xAAAA, (__m512i)even, (__m512i)(odd << 32));
}

CREG_INLINE vf v_drop(v_words draws, v_words threshold, vf a)
{
    return _mm512_maskz_mov_ps(_mm512_cmpge_epi32_mask((__m512i)draws, (__m512i)threshold), a);
}
CREG_INLINE int v_any(v_words a) { return _mm512_test_epi32_mask((__m512i)a, (__m512i)a) != 0; }
CREG_INLINE vm vm_of_bytes(const unsigned char *p)
{
    return _mm_cmpneq_epi8_mask(_mm_loadu_si128((const __m128i *)p), _mm_setzero_si128());
}
CREG_INLINE unsigned vm_bits(vm keep) { return keep; }

CREG_INLINE void v_stream_end(void) { _mm_sfence(); }

#endif
