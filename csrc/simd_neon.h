/* AArch64 NEON: 4 floats per vector. The operations are described in simd.h and simd_scalar.h. */
#ifndef CREG_SIMD_NEON_H
#define CREG_SIMD_NEON_H

#include <arm_neon.h>

enum { CREG_W = 4 };
#include "simd.h"

typedef uint32x4_t vm; /* all bits of a lane */
typedef struct {
    ptrdiff_t n;
    vm lanes;
} vw;

CREG_INLINE vw v_window(ptrdiff_t n)
{
    static const uint32_t lanes[CREG_W] = {0, 1, 2, 3};
    const uint32_t inside = n >= CREG_W ? CREG_W : n <= 0 ? 0 : (uint32_t)n;
    return (vw){n, vcltq_u32(vld1q_u32(lanes), vdupq_n_u32(inside))};
}

CREG_INLINE vf v_set1(float a) { return vdupq_n_f32(a); }
CREG_INLINE void v_stream(float *p, vf a) { vst1q_f32(p, a); } /* non-temporal stores are not faster here */
CREG_INLINE vf v_load_part(const float *p, ptrdiff_t n)
{
    float part[CREG_W] = {0};
    if (n > 0) memcpy(part, p, sizeof(float) * (size_t)(n < CREG_W ? n : CREG_W));
    return vld1q_f32(part);
}
CREG_INLINE void v_store_part(float *p, vf a, ptrdiff_t n)
{
    float part[CREG_W];
    vst1q_f32(part, a);
    if (n > 0) memcpy(p, part, sizeof(float) * (size_t)(n < CREG_W ? n : CREG_W));
}
CREG_INLINE vf v_keep(vm keep, vf a) { return vreinterpretq_f32_u32(vandq_u32(keep, vreinterpretq_u32_f32(a))); }
CREG_INLINE vf v_load_window(const float *p, vw w) { return v_load_part(p, w.n); }
CREG_INLINE vf v_only(vf a, vw w) { return v_keep(w.lanes, a); }

CREG_INLINE v_halves h_load_few(const uint16_t *p, ptrdiff_t n) { return h_load_steps(p, n); }
CREG_INLINE void h_store_few(uint16_t *p, v_halves a, ptrdiff_t n) { h_store_steps(p, a, n); }
CREG_INLINE v_halves h_load_window(const uint16_t *p, vw w) { return w.n >= CREG_W ? h_load(p) : h_load_few(p, w.n); }
CREG_INLINE void h_stream(uint16_t *p, v_halves a) { h_store(p, a); }

CREG_INLINE vf v_of_float16(v_halves h) { return vcvt_f32_f16(vreinterpret_f16_u16((uint16x4_t)h)); }
CREG_INLINE v_halves v_to_float16(vf a) { return (v_halves)vreinterpret_u16_f16(vcvt_f16_f32(a)); }
CREG_INLINE vf v_of_bfloat16(v_halves h) { return (vf)(__builtin_convertvector(h, v_words) << 16); }
CREG_INLINE v_halves v_to_bfloat16(vf a)
{
    const uint32x4_t bits = vreinterpretq_u32_f32(a), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7FFF)), odd);
    return (v_halves)vshrn_n_u32(vbslq_u32(vceqq_f32(a, a), rounded, vdupq_n_u32(0x7FC00000)), 16);
}

CREG_INLINE vf v_sqrt(vf a) { return vsqrtq_f32(a); }

CREG_INLINE vm v_equal(vf a, vf b) { return vceqq_f32(a, b); }
CREG_INLINE vf v_select(vm which, vf a, vf b) { return vbslq_f32(which, a, b); }
CREG_INLINE vf v_max(vf a, vf b) { return v_select(vcgtq_f32(a, b), a, b); } /* vmaxq_f32 would give NaN */
CREG_INLINE vf v_min(vf a, vf b) { return v_select(vcltq_f32(a, b), a, b); }
CREG_INLINE vf v_reverse(vf a)
{
    const float32x4_t pairs = vrev64q_f32(a);
    return vextq_f32(pairs, pairs, 2);
}

CREG_INLINE float v_sum(vf a)
{
    const float32x2_t h2 = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(h2, 0) + vget_lane_f32(h2, 1);
}
CREG_INLINE void v_sums(const vf v[8], float out[8])
{
    for (int i = 0; i < 8; i++) out[i] = v_sum(v[i]);
}

CREG_INLINE vu vu_mul32(vu a, uint32_t b) { return vmull_u32(vmovn_u64(a), vdup_n_u32(b)); }
CREG_INLINE vu vu_high_xor(vu a, vu b, vu c) { return (a >> 32) ^ b ^ c; }
CREG_INLINE vu vu_interleave(vu even, vu odd) { return vsliq_n_u64(even, odd, 32); }

CREG_INLINE vf v_drop(v_words draws, v_words threshold, vf a)
{
    return v_keep(vcgeq_s32((int32x4_t)draws, (int32x4_t)threshold), a);
}
CREG_INLINE int v_any(v_words a) { return vmaxvq_u32((uint32x4_t)a) != 0; }
CREG_INLINE vm vm_of_bytes(const unsigned char *p)
{
    uint32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    const uint32x4_t words = vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes)))));
    return vtstq_u32(words, words);
}
CREG_INLINE unsigned vm_bits(vm keep)
{
    static const uint32_t weights[CREG_W] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(keep, vld1q_u32(weights)));
}

CREG_INLINE void v_stream_end(void) {}

#endif
