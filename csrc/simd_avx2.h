/* AVX2: 8 floats per vector. The operations are described in simd.h and simd_scalar.h. */
#ifndef CREG_SIMD_AVX2_H
#define CREG_SIMD_AVX2_H

#include <immintrin.h>

enum { CREG_W = 8 };
#include "simd.h"

typedef __m256i vm; /* all bits of a lane */
typedef __m256i vw;

/* Windows are loaded from an array of ones followed by zeros. */
CREG_INLINE vw v_window(ptrdiff_t n)
{
    static const int32_t window[2 * CREG_W] = {-1, -1, -1, -1, -1, -1, -1, -1};
    const ptrdiff_t lanes = n >= CREG_W ? CREG_W : n <= 0 ? 0 : n;
    return _mm256_loadu_si256((const __m256i *)(window + CREG_W - lanes));
}

CREG_INLINE vf v_set1(float a) { return _mm256_set1_ps(a); }
CREG_INLINE void v_stream(float *p, vf a) { _mm256_stream_ps(p, a); }
CREG_INLINE ptrdiff_t window_length(vw w)
{
    return __builtin_ctz(~(unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(w)));
}
CREG_INLINE vf v_load_window(const float *p, vw w)
{
    masked_load_of(p, sizeof *p * (size_t)window_length(w));
    return _mm256_maskload_ps(p, w);
}
CREG_INLINE vf v_only(vf a, vw w) { return _mm256_and_ps(a, _mm256_castsi256_ps(w)); }
CREG_INLINE vf v_load_part(const float *p, ptrdiff_t n)
{
    return n >= CREG_W ? v_load(p) : v_load_window(p, v_window(n)); /* a masked load of a full vector costs more */
}
CREG_INLINE void v_store_part(float *p, vf a, ptrdiff_t n)
{
    if (n >= CREG_W) {
        v_store(p, a);
        return;
    }
    if (n <= 0) return;
    __m128 rest = _mm256_castps256_ps128(a); /* by halves: a masked store takes 40 micro-operations on some CPUs */
    if (n & 4) {
        _mm_storeu_ps(p, rest);
        rest = _mm256_extractf128_ps(a, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)p, rest);
        rest = _mm_movehl_ps(rest, rest);
        p += 2;
    }
    if (n & 1) _mm_store_ss(p, rest);
}

CREG_INLINE v_halves h_load_few(const uint16_t *p, ptrdiff_t n) { return h_load_steps(p, n); }
CREG_INLINE void h_store_few(uint16_t *p, v_halves a, ptrdiff_t n) { h_store_steps(p, a, n); }
CREG_INLINE v_halves h_load_window(const uint16_t *p, vw w)
{
    return window_length(w) >= CREG_W ? h_load(p) : h_load_few(p, window_length(w));
}
CREG_INLINE void h_stream(uint16_t *p, v_halves a) { _mm_stream_si128((__m128i *)(void *)p, (__m128i)a); }

CREG_INLINE vf v_of_float16(v_halves h) { return _mm256_cvtph_ps((__m128i)h); }
CREG_INLINE v_halves v_to_float16(vf a) { return (v_halves)_mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT); }
CREG_INLINE vf v_of_bfloat16(v_halves h) { return (vf)(__builtin_convertvector(h, v_words) << 16); }
CREG_INLINE v_halves v_to_bfloat16(vf a)
{
    const __m256i bits = _mm256_castps_si256(a),
                  odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i number = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_ORD_Q));
    const __m256i half = _mm256_and_si256(_mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)), number);
    const __m256i upper = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
    return (v_halves)_mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
}

CREG_INLINE vf v_sqrt(vf a) { return _mm256_sqrt_ps(a); }

CREG_INLINE vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
CREG_INLINE vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
CREG_INLINE vm v_equal(vf a, vf b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }
CREG_INLINE vf v_select(vm which, vf a, vf b) { return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(which)); }
CREG_INLINE vf v_reverse(vf a) { return _mm256_permutevar8x32_ps(a, _mm256_set_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }

CREG_INLINE float v_sum(vf a)
{
    __m128 h4 = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 h2 = _mm_add_ps(h4, _mm_movehl_ps(h4, h4));
    return _mm_cvtss_f32(_mm_add_ss(h2, _mm_movehdup_ps(h2)));
}
CREG_INLINE vf add_halves(vf a, vf b) /* the halves of a added, then those of b */
{
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
CREG_INLINE vf add_pairs(vf a, vf b) /* 64-bit halves of each 128 bits added, those of a and b interleaved */
{
    const __m256d c = _mm256_castps_pd(a), d = _mm256_castps_pd(b);
    return _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(c, d)), _mm256_castpd_ps(_mm256_unpackhi_pd(c, d)));
}
CREG_INLINE void v_sums(const vf v[8], float out[8])
{
    const vf ab = add_halves(v[0], v[1]), cd = add_halves(v[2], v[3]);
    const vf ef = add_halves(v[4], v[5]), gh = add_halves(v[6], v[7]);
    const vf abcd = add_pairs(ab, cd), efgh = add_pairs(ef, gh); /* aacc bbdd, eegg ffhh */
    const vf sums = _mm256_add_ps(_mm256_shuffle_ps(abcd, efgh, 0x88), _mm256_shuffle_ps(abcd, efgh, 0xDD));
    _mm256_storeu_ps(out, _mm256_permutevar8x32_ps(sums, _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0)));
}

CREG_INLINE vu vu_mul32(vu a, uint32_t b) { return (vu)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b)); }
CREG_INLINE vu vu_high_xor(vu a, vu b, vu c) { return (a >> 32) ^ b ^ c; }
CREG_INLINE vu vu_interleave(vu even, vu odd)
{
    return (vu)_mm256_blend_epi32((__m256i)even, (__m256i)(odd << 32), 0xAA);
}

CREG_INLINE vf v_drop(v_words draws, v_words threshold, vf a)
{
    return _mm256_andnot_ps((vf)_mm256_cmpgt_epi32((__m256i)threshold, (__m256i)draws), a);
}
CREG_INLINE int v_any(v_words a) { return !_mm256_testz_si256((__m256i)a, (__m256i)a); }
CREG_INLINE vm vm_of_bytes(const unsigned char *p)
{
    return _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
CREG_INLINE unsigned vm_bits(vm keep) { return (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(keep)); }

CREG_INLINE void v_stream_end(void) { _mm_sfence(); }

#endif
