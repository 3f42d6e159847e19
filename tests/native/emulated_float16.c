/* The emulated AVX-512 kernels, of float16 tensors. */
#define CREG_FLOAT16_STORED
#include "emulated.c"
