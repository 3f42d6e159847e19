/* The kernels for AVX2, of bfloat16 tensors. */
#define CREG_BFLOAT16_STORED
#include "isa_avx2.c"
