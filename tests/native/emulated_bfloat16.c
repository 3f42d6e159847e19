/* The emulated AVX-512 kernels, of bfloat16 tensors. */
#define CREG_BFLOAT16_STORED
#include "emulated.c"
