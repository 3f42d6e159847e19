/* The kernels for NEON, of float16 tensors. */
#define CREG_FLOAT16_STORED
#include "isa_neon.c"
