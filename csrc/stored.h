/* Tensors: inputs and outputs in the type in which they are stored. float32, or float16 (IEEE 754 binary16) or
 * bfloat16, of which a load widens exactly and a store rounds once, to nearest even; a NaN stays a NaN. The kernels
 * compute in float32 and float64. isa_<isa>_<type>.c defines CREG_FLOAT16_STORED or CREG_BFLOAT16_STORED.
 *
 *   x_load, x_load_part, x_load_window, x_store_part, x_put_part, ...  as v_load etc., of tensors
 */
#ifndef CREG_STORED_H
#define CREG_STORED_H

/* The float32 kernels of this instruction set. */
extern const creg_kernels CREG_TABLE(float32);
#define FLOAT32_KERNELS (&CREG_TABLE(float32))

#if defined CREG_FLOAT16_STORED || defined CREG_BFLOAT16_STORED

enum { STORES_ROUND = 1 };
typedef struct {
    uint16_t bits;
} stored;

#ifdef CREG_FLOAT16_STORED
CREG_INLINE vf v_widened(v_halves h) { return v_of_float16(h); }
CREG_INLINE v_halves v_rounded(vf a) { return v_to_float16(a); }
#else
CREG_INLINE vf v_widened(v_halves h) { return v_of_bfloat16(h); }
CREG_INLINE v_halves v_rounded(vf a) { return v_to_bfloat16(a); }
#endif

CREG_INLINE v_halves h_load_part(const uint16_t *p, ptrdiff_t n) { return n >= CREG_W ? h_load(p) : h_load_few(p, n); }
CREG_INLINE void h_store_part(uint16_t *p, v_halves a, ptrdiff_t n)
{
    if (n >= CREG_W)
        h_store(p, a);
    else
        h_store_few(p, a, n);
}

CREG_INLINE vf x_load(const stored *p) { return v_widened(h_load(&p->bits)); }
CREG_INLINE vf x_load_part(const stored *p, ptrdiff_t n) { return v_widened(h_load_part(&p->bits, n)); }
CREG_INLINE vf x_load_window(const stored *p, vw w) { return v_widened(h_load_window(&p->bits, w)); }
CREG_INLINE void x_store(stored *p, vf a) { h_store(&p->bits, v_rounded(a)); }
CREG_INLINE void x_store_part(stored *p, vf a, ptrdiff_t n) { h_store_part(&p->bits, v_rounded(a), n); }
CREG_INLINE void x_stream(stored *p, vf a) { h_stream(&p->bits, v_rounded(a)); }
CREG_INLINE float x_value(const stored *p) { return v_widened((v_halves){p->bits})[0]; }
CREG_INLINE void x_set(stored *p, float a) { p->bits = v_rounded(v_set1(a))[0]; }

#else

enum { STORES_ROUND = 0 };
typedef float stored;

CREG_INLINE vf x_load(const stored *p) { return v_load(p); }
CREG_INLINE vf x_load_part(const stored *p, ptrdiff_t n) { return v_load_part(p, n); }
CREG_INLINE vf x_load_window(const stored *p, vw w) { return v_load_window(p, w); }
CREG_INLINE void x_store(stored *p, vf a) { v_store(p, a); }
CREG_INLINE void x_store_part(stored *p, vf a, ptrdiff_t n) { v_store_part(p, a, n); }
CREG_INLINE void x_stream(stored *p, vf a) { v_stream(p, a); }
CREG_INLINE float x_value(const stored *p) { return *p; }
CREG_INLINE void x_set(stored *p, float a) { *p = a; }

#endif

/* Element j of an input or output; NULL of NULL. */
CREG_INLINE const stored *input_at(const void *tensor, ptrdiff_t j)
{
    return tensor ? (const stored *)tensor + j : NULL;
}
CREG_INLINE stored *output_at(void *tensor, ptrdiff_t j) { return tensor ? (stored *)tensor + j : NULL; }

#endif
