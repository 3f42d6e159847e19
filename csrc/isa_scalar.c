/* The kernels in portable C. */
#include "cregkit.h"
#define CREG_ISA "scalar"
#define CREG_TABLE creg_kernels_scalar
#include "simd_scalar.h"
#include "table.h"
