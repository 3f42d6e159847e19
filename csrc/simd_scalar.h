/* Portable C: four floats in a struct, loops the compiler may vectorise as it likes. Runs on any CPU.
 *
 * Every simd_<isa>.h defines these same operations over its own CREG_W floats, and says how many vectors of random
 * words are best drawn at once (PHILOX_TOGETHER); the op headers are written against them.
 *
 *   vf  CREG_W floats          vm  one keep/drop decision per float          vu  CREG_W / 2 unsigned 64-bit numbers
 *   vw  a window of leading lanes
 */
#ifndef CREG_SIMD_SCALAR_H
#define CREG_SIMD_SCALAR_H

#include <math.h>
#include <string.h>

enum { CREG_W = 4, PHILOX_TOGETHER = 1 };
typedef struct {
    float a[CREG_W];
} vf;
typedef struct {
    uint32_t a[CREG_W]; /* 1: keep */
} vm;
typedef struct {
    uint64_t a[CREG_W / 2];
} vu;
typedef ptrdiff_t vw; /* how many lanes */

#define CREG_EACH for (int i = 0; i < CREG_W; i++)
#define CREG_EACH_HALF for (int i = 0; i < CREG_W / 2; i++)

CREG_INLINE vf v_set1(float a)
{
    vf r;
    CREG_EACH r.a[i] = a;
    return r;
}

/* Loads and stores of whole registers. A stream goes past the cache and wants p aligned to the register. */
CREG_INLINE vf v_load(const float *p)
{
    vf r;
    CREG_EACH r.a[i] = p[i];
    return r;
}
CREG_INLINE void v_store(float *p, vf a) { CREG_EACH p[i] = a.a[i]; }
CREG_INLINE void v_stream(float *p, vf a) { v_store(p, a); }
CREG_INLINE void v_stream_end(void) {} /* makes the streamed stores visible to other threads */

/* The first n floats only (any n: none when n <= 0, all when n >= CREG_W); the other lanes are 0 and memory beyond is
 * neither read nor written. */
CREG_INLINE vf v_load_part(const float *p, ptrdiff_t n)
{
    vf r;
    CREG_EACH r.a[i] = i < n ? p[i] : 0.0f;
    return r;
}
CREG_INLINE void v_store_part(float *p, vf a, ptrdiff_t n) { CREG_EACH if (i < n) p[i] = a.a[i]; }

/* The same through a window of the first n lanes, which is made once for many registers. */
CREG_INLINE vw v_window(ptrdiff_t n) { return n; }
CREG_INLINE vf v_load_window(const float *p, vw w) { return v_load_part(p, w); }
CREG_INLINE vf v_only(vf a, vw w)
{
    CREG_EACH a.a[i] = i < w ? a.a[i] : 0.0f;
    return a;
}

CREG_INLINE vf v_add(vf a, vf b)
{
    CREG_EACH a.a[i] += b.a[i];
    return a;
}
CREG_INLINE vf v_sub(vf a, vf b)
{
    CREG_EACH a.a[i] -= b.a[i];
    return a;
}
CREG_INLINE vf v_mul(vf a, vf b)
{
    CREG_EACH a.a[i] *= b.a[i];
    return a;
}
CREG_INLINE vf v_div(vf a, vf b)
{
    CREG_EACH a.a[i] /= b.a[i];
    return a;
}
CREG_INLINE vf v_sqrt(vf a)
{
    CREG_EACH a.a[i] = sqrtf(a.a[i]);
    return a;
}

/* Four floats and their bits as GCC's and Clang's own vectors: compilers make branches of a loop that compares. */
typedef float lanes __attribute__((vector_size(sizeof(vf))));
typedef int32_t lane_bits __attribute__((vector_size(sizeof(vf))));

CREG_INLINE lanes lanes_of(vf a)
{
    lanes r;
    memcpy(&r, &a, sizeof r);
    return r;
}
CREG_INLINE vf lanes_chosen(lane_bits which, vf a, vf b) /* all bits of a lane: a; none: b */
{
    const lane_bits bits = (which & (lane_bits)lanes_of(a)) | (~which & (lane_bits)lanes_of(b));
    memcpy(&a, &bits, sizeof a);
    return a;
}

/* a > b ? a : b and a < b ? a : b: where one is NaN, b. */
CREG_INLINE vf v_max(vf a, vf b) { return lanes_chosen(lanes_of(a) > lanes_of(b), a, b); }
CREG_INLINE vf v_min(vf a, vf b) { return lanes_chosen(lanes_of(a) < lanes_of(b), a, b); }
CREG_INLINE vm v_equal(vf a, vf b)
{
    vm r;
    CREG_EACH r.a[i] = a.a[i] == b.a[i];
    return r;
}
CREG_INLINE vf v_select(vm which, vf a, vf b) /* which ? a : b */
{
    CREG_EACH a.a[i] = which.a[i] ? a.a[i] : b.a[i];
    return a;
}
CREG_INLINE vf v_reverse(vf a) /* the last lane first */
{
    vf r;
    CREG_EACH r.a[i] = a.a[CREG_W - 1 - i];
    return r;
}

/* A positive normal a as m * 2^e with m in [sqrt(1/2), sqrt(2)): subtracting the bits of sqrt(1/2) leaves e in the
 * place of the exponent. */
CREG_INLINE vf v_split(vf a, vf *e)
{
    for (int i = 0; i < CREG_W; i++) {
        int32_t bits;
        memcpy(&bits, &a.a[i], sizeof bits);
        const int32_t exponent = (bits - 0x3F3504F3) >> 23;
        bits -= (int32_t)((uint32_t)exponent << 23);
        e->a[i] = (float)exponent;
        memcpy(&a.a[i], &bits, sizeof bits);
    }
    return a;
}

/* The sum of the lanes, halves added to halves: the fixed order of acc_sum() in reduce.h. */
CREG_INLINE float v_sum(vf a) { return (a.a[0] + a.a[2]) + (a.a[1] + a.a[3]); }
/* Those of eight registers. */
CREG_INLINE void v_sums(const vf v[8], float out[8])
{
    for (int i = 0; i < 8; i++) out[i] = v_sum(v[i]);
}

/* Philox's arithmetic. Only the low 32 bits of each number count; products leave their high half above them. */
CREG_INLINE vu vu_set1(uint64_t a)
{
    vu r;
    CREG_EACH_HALF r.a[i] = a;
    return r;
}
CREG_INLINE vu vu_even_counters(uint64_t first) /* first, first + 2, first + 4 ... */
{
    vu r;
    CREG_EACH_HALF r.a[i] = first + 2 * (uint64_t)i;
    return r;
}
CREG_INLINE vu vu_add(vu a, vu b)
{
    CREG_EACH_HALF a.a[i] += b.a[i];
    return a;
}
CREG_INLINE vu vu_mul32(vu a, uint32_t b) /* low half of a times b, all 64 bits */
{
    CREG_EACH_HALF a.a[i] = (uint64_t)(uint32_t)a.a[i] * b;
    return a;
}
CREG_INLINE vu vu_xor(vu a, vu b)
{
    CREG_EACH_HALF a.a[i] ^= b.a[i];
    return a;
}
CREG_INLINE vu vu_high_xor(vu a, vu b, vu c) /* high half of a, xor b, xor c */
{
    CREG_EACH_HALF a.a[i] = (a.a[i] >> 32) ^ b.a[i] ^ c.a[i];
    return a;
}
CREG_INLINE vu vu_interleave(vu even, vu odd) /* low halves in turn: even[0], odd[0], even[1] ... as 32-bit words */
{
    CREG_EACH_HALF even.a[i] = (even.a[i] & 0xFFFFFFFFu) | (odd.a[i] << 32);
    return even;
}

CREG_INLINE uint32_t vu_word(vu words, int i) { return (uint32_t)(words.a[i / 2] >> (32 * (i % 2))); }

/* The upper 31 bits of each 32-bit word as a float, rounded to the nearest. */
CREG_INLINE vf v_upper_bits(vu words)
{
    vf r;
    CREG_EACH r.a[i] = (float)(int32_t)(vu_word(words, i) >> 1);
    return r;
}
CREG_INLINE vf v_odd_negated(vf a, vu words) /* the sign flipped where the word is odd */
{
    CREG_EACH a.a[i] = vu_word(words, i) & 1 ? -a.a[i] : a.a[i];
    return a;
}

/* draws holds 2 * CREG_W numbers of 16 bits, the low half of each word first: draw >= threshold decides keep. */
CREG_INLINE void vu_draws_at_least(vu draws, uint16_t threshold, vm keep[2])
{
    for (int i = 0; i < 2 * CREG_W; i++)
        keep[i / CREG_W].a[i % CREG_W] = (uint16_t)(draws.a[i / 4] >> (16 * (i % 4))) >= threshold;
}
CREG_INLINE int vu_any_draw_equals(vu draws, uint16_t threshold)
{
    int any = 0;
    for (int i = 0; i < 2 * CREG_W; i++) any |= (uint16_t)(draws.a[i / 4] >> (16 * (i % 4))) == threshold;
    return any;
}
CREG_INLINE vf v_keep(vm keep, vf a) /* kept lanes of a; +0 elsewhere, whatever a holds there */
{
    CREG_EACH a.a[i] = keep.a[i] ? a.a[i] : 0.0f;
    return a;
}
CREG_INLINE unsigned vm_bits(vm keep) /* bit i: lane i kept */
{
    unsigned bits = 0;
    CREG_EACH bits |= keep.a[i] << i;
    return bits;
}

#endif
