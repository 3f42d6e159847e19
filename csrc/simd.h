/* The operations that are written once for all instruction sets, with the vectors of GCC and Clang: an operator
 * compiles to one instruction. Each simd_<isa>.h defines CREG_W and includes this header. Its own operations are
 * described in simd_scalar.h. The op headers use no others, except the operators of vu and v_words.
 *
 *   vf  CREG_W floats          vm  one keep/drop decision per float          vu  CREG_W / 2 unsigned 64-bit numbers
 *   vw  a window of leading lanes                                          v_halves  CREG_W numbers of 16 bits
 */
#ifndef CREG_SIMD_H
#define CREG_SIMD_H

#include <string.h>

#define CREG_VECTOR __attribute__((vector_size(CREG_W * sizeof(float))))
typedef float vf CREG_VECTOR;
typedef uint64_t vu CREG_VECTOR;
typedef int32_t v_ints CREG_VECTOR;
typedef uint32_t v_words CREG_VECTOR;       /* a vu as CREG_W words */
typedef uint16_t v_word_halves CREG_VECTOR; /* v_words as halves */
typedef unsigned char v_bytes __attribute__((vector_size(CREG_W)));
typedef uint16_t v_halves __attribute__((vector_size(CREG_W * sizeof(uint16_t))));
typedef float vf_in_memory CREG_VECTOR __attribute__((aligned(sizeof(float)), may_alias));

/* AddressSanitizer does not check masked loads and stores itself: each announces the bytes that it reads or writes. */
#ifdef __SANITIZE_ADDRESS__
void __asan_loadN(const void *p, size_t size);
void __asan_storeN(void *p, size_t size);
CREG_INLINE void masked_load_of(const void *p, size_t size) { __asan_loadN(p, size); }
CREG_INLINE void masked_store_of(void *p, size_t size) { __asan_storeN(p, size); }
#else
CREG_INLINE void masked_load_of(const void *p, size_t size) { (void)p, (void)size; }
CREG_INLINE void masked_store_of(void *p, size_t size) { (void)p, (void)size; }
#endif

/* Loads and stores of full vectors. */
CREG_INLINE vf v_load(const float *p) { return *(const vf_in_memory *)p; }
CREG_INLINE void v_store(float *p, vf a) { *(vf_in_memory *)p = a; }
CREG_INLINE v_halves h_load(const uint16_t *p)
{
    v_halves h;
    memcpy(&h, p, sizeof h);
    return h;
}
CREG_INLINE void h_store(uint16_t *p, v_halves h) { memcpy(p, &h, sizeof h); }

/* The first n numbers, less than a vector, in steps of a power of two. Not inlined: the branches would make compilation
 * slow and the kernels large. */
static CREG_NOINLINE __attribute__((unused)) v_halves h_load_steps(const uint16_t *p, ptrdiff_t n)
{
    uint16_t h[CREG_W] = {0};
    ptrdiff_t i = 0;
    for (size_t size = CREG_W / 2; size > 0; size /= 2)
        if (n & (ptrdiff_t)size) {
            memcpy(h + i, p + i, size * sizeof *h);
            i += (ptrdiff_t)size;
        }
    return h_load(h);
}
static CREG_NOINLINE __attribute__((unused)) void h_store_steps(uint16_t *p, v_halves a, ptrdiff_t n)
{
    uint16_t h[CREG_W];
    ptrdiff_t i = 0;
    h_store(h, a);
    for (size_t size = CREG_W / 2; size > 0; size /= 2)
        if (n & (ptrdiff_t)size) {
            memcpy(p + i, h + i, size * sizeof *h);
            i += (ptrdiff_t)size;
        }
}

CREG_INLINE vf v_add(vf a, vf b) { return a + b; }
CREG_INLINE vf v_sub(vf a, vf b) { return a - b; }
CREG_INLINE vf v_mul(vf a, vf b) { return a * b; }
CREG_INLINE vf v_div(vf a, vf b) { return a / b; }

/* Splits a positive normal a into m * 2^e with m in [sqrt(1/2), sqrt(2)): subtracting the bits of sqrt(1/2) leaves e in
 * the exponent's bits. */
CREG_INLINE vf v_split(vf a, vf *e)
{
    const v_ints exponent = ((v_ints)a - 0x3F3504F3) >> 23;
    *e = __builtin_convertvector(exponent, vf);
    return (vf)((v_words)a - ((v_words)exponent << 23));
}

/* Random words. A word holds two draws, signed numbers of 16 bits. v_drop() compares the high one in place, the low one
 * after a shift into the high half. */
CREG_INLINE v_words v_rotated(v_words a, int left) { return (a << left) | (a >> (32 - left)); }
CREG_INLINE v_words v_words_of(uint32_t a) { return (v_words){0} + a; }
/* All ones in each half of a word that is equal to that of b. */
CREG_INLINE v_words v_equal_halves(v_words a, v_words b) { return (v_words)((v_word_halves)a == (v_word_halves)b); }

/* Stores, for each draw, 1 if it is at least the threshold, else 0. */
CREG_INLINE void v_store_kept(unsigned char *to, v_words draws, v_words threshold)
{
    const v_bytes kept = __builtin_convertvector(((v_ints)draws >= (v_ints)threshold) & 1, v_bytes);
    memcpy(to, &kept, sizeof kept);
}

/* Arithmetic of Philox. Only the low 32 bits of each number are used; products have their high half above them. */
CREG_INLINE vu vu_set1(uint64_t a) { return (vu){0} + a; }
CREG_INLINE vu vu_even_counters(uint64_t first) /* first, first + 2, first + 4 ... */
{
    static const uint64_t steps[] = {0, 2, 4, 6, 8, 10, 12, 14};
    vu n;
    memcpy(&n, steps, sizeof n);
    return n + first;
}

/* The upper 31 bits of each 32-bit word as a float, rounded to nearest. */
CREG_INLINE vf v_upper_bits(vu words) { return __builtin_convertvector((v_ints)((v_words)words >> 1), vf); }
/* a with the sign flipped where the word is odd. */
CREG_INLINE vf v_odd_negated(vf a, vu words) { return (vf)((v_words)a ^ ((v_words)words << 31)); }

#endif
