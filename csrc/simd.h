/* The operations that are written once for all instruction sets, with the vectors of GCC and Clang: an operator
 * compiles to one instruction. Each simd_<isa>.h defines CREG_W and includes this header. Its own operations are
 * described in simd_scalar.h. The op headers use no others, except the operators + and ^ of vu.
 *
 *   vf  CREG_W floats          vm  one keep/drop decision per float          vu  CREG_W / 2 unsigned 64-bit numbers
 *   vw  a window of leading lanes
 */
#ifndef CREG_SIMD_H
#define CREG_SIMD_H

#include <string.h>

#define CREG_VECTOR __attribute__((vector_size(CREG_W * sizeof(float))))
typedef float vf CREG_VECTOR;
typedef uint64_t vu CREG_VECTOR;
typedef int32_t v_ints CREG_VECTOR;
typedef uint32_t v_words CREG_VECTOR; /* a vu as CREG_W words */
typedef float vf_in_memory CREG_VECTOR __attribute__((aligned(sizeof(float)), may_alias));

/* Loads and stores of full vectors. */
CREG_INLINE vf v_load(const float *p) { return *(const vf_in_memory *)p; }
CREG_INLINE void v_store(float *p, vf a) { *(vf_in_memory *)p = a; }

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
