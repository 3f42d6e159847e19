/* AVX-512 for CPUs without it: SIMDe's portable intrinsics, and those that its releases lack. As on the CPU, a masked
 * load or store accesses only the selected elements, and a non-temporal store to an unaligned address faults. */
#ifndef EMULATED_IMMINTRIN_H
#define EMULATED_IMMINTRIN_H

#define SIMDE_NO_NATIVE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/simde-f16.h>
#include <simde/x86/avx512.h>
#include <string.h>

#define __mmask16 simde__mmask16

static inline __m512 emulated_maskz_loadu_ps(uint16_t mask, const float *p)
{
    float a[16];
    for (int i = 0; i < 16; i++) a[i] = mask >> i & 1 ? p[i] : 0.0f;
    return _mm512_loadu_ps(a);
}

static inline void emulated_mask_storeu_ps(float *p, uint16_t mask, __m512 v)
{
    float a[16];
    _mm512_storeu_ps(a, v);
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) p[i] = a[i];
}

static inline void emulated_stream_ps(float *p, __m512 v)
{
    if ((uintptr_t)p % 64) __builtin_trap();
    _mm512_storeu_ps(p, v);
}

static inline __m256i emulated_maskz_loadu_epi16(uint16_t mask, const void *p)
{
    uint16_t a[16];
    for (int i = 0; i < 16; i++) a[i] = mask >> i & 1 ? ((const uint16_t *)p)[i] : 0;
    return _mm256_loadu_si256((const __m256i *)(const void *)a);
}

static inline void emulated_mask_storeu_epi16(void *p, uint16_t mask, __m256i v)
{
    uint16_t a[16];
    memcpy(a, &v, sizeof a);
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) ((uint16_t *)p)[i] = a[i];
}

static inline void emulated_stream_si256(__m256i *p, __m256i v)
{
    if ((uintptr_t)p % 32) __builtin_trap();
    memcpy(p, &v, sizeof v);
}

static inline __m512 emulated_cvtph_ps(__m256i v)
{
    uint16_t a[16];
    float b[16];
    memcpy(a, &v, sizeof a);
    for (int i = 0; i < 16; i++) b[i] = simde_float16_to_float32(simde_uint16_as_float16(a[i]));
    return _mm512_loadu_ps(b);
}

static inline __m256i emulated_cvtps_ph(__m512 v) /* to nearest even */
{
    float a[16];
    uint16_t b[16];
    _mm512_storeu_ps(a, v);
    for (int i = 0; i < 16; i++) b[i] = simde_float16_as_uint16(simde_float16_from_float32(a[i]));
    return _mm256_loadu_si256((const __m256i *)(const void *)b);
}

static inline __m256 emulated_extractf32x8_ps(__m512 v, int half)
{
    float a[16];
    _mm512_storeu_ps(a, v);
    return _mm256_loadu_ps(a + 8 * half);
}

static inline __m512i emulated_srai_epi32(__m512i v, unsigned count)
{
    int32_t a[16];
    memcpy(a, &v, sizeof a);
    for (int i = 0; i < 16; i++) a[i] >>= count;
    memcpy(&v, a, sizeof a);
    return v;
}

static inline __m512 emulated_cvtepi32_ps(__m512i v)
{
    int32_t a[16];
    float b[16];
    memcpy(a, &v, sizeof a);
    for (int i = 0; i < 16; i++) b[i] = (float)a[i];
    return _mm512_loadu_ps(b);
}

static inline __m512 emulated_shuffle_f32x4(__m512 v, __m512 w, int parts)
{
    float a[16], b[16], c[16];
    _mm512_storeu_ps(a, v);
    _mm512_storeu_ps(b, w);
    for (int i = 0; i < 16; i++) c[i] = (i < 8 ? a : b)[4 * (parts >> i / 4 * 2 & 3) + i % 4];
    return _mm512_loadu_ps(c);
}

static inline __m512 emulated_movehdup_ps(__m512 v)
{
    float a[16];
    _mm512_storeu_ps(a, v);
    for (int i = 0; i < 16; i += 2) a[i] = a[i + 1];
    return _mm512_loadu_ps(a);
}

#undef _mm512_shuffle_f32x4
#undef _mm512_movehdup_ps
#undef _mm512_srai_epi32
#undef _mm512_cvtepi32_ps
#undef _mm512_maskz_loadu_ps
#undef _mm512_mask_storeu_ps
#undef _mm512_stream_ps
#undef _mm256_maskz_loadu_epi16
#undef _mm256_mask_storeu_epi16
#undef _mm256_stream_si256
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_ph
#undef _mm512_extractf32x8_ps
#define _mm512_shuffle_f32x4 emulated_shuffle_f32x4
#define _mm512_movehdup_ps emulated_movehdup_ps
#define _mm512_srai_epi32 emulated_srai_epi32
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#define _mm512_maskz_loadu_ps emulated_maskz_loadu_ps
#define _mm512_mask_storeu_ps emulated_mask_storeu_ps
#define _mm512_stream_ps emulated_stream_ps
#define _mm256_maskz_loadu_epi16 emulated_maskz_loadu_epi16
#define _mm256_mask_storeu_epi16 emulated_mask_storeu_epi16
#define _mm256_stream_si256 emulated_stream_si256
#define _mm512_cvtph_ps emulated_cvtph_ps
#define _mm512_cvtps_ph(v, rounding) emulated_cvtps_ph(v)
#define _mm512_extractf32x8_ps emulated_extractf32x8_ps

#endif
