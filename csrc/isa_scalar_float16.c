/* The kernels in portable C, of float16 tensors. */
#define CREG_FLOAT16_STORED
#include "isa_scalar.c"
