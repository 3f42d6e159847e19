/* The kernels for NEON, of bfloat16 tensors. */
#define CREG_BFLOAT16_STORED
#include "isa_neon.c"
