/* The kernels for AVX-512, of bfloat16 tensors. */
#define CREG_BFLOAT16_STORED
#include "isa_avx512.c"
