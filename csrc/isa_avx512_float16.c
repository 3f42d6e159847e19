/* The kernels for AVX-512, of float16 tensors. */
#define CREG_FLOAT16_STORED
#include "isa_avx512.c"
