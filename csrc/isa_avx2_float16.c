/* The kernels for AVX2, of float16 tensors. */
#define CREG_FLOAT16_STORED
#include "isa_avx2.c"
