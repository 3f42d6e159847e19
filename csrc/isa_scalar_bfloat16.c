/* The kernels in portable C, of bfloat16 tensors. */
#define CREG_BFLOAT16_STORED
#include "isa_scalar.c"
