/* The kernels in portable C. */
#include "cregkit.h"
#define CREG_ISA "scalar"
#define CREG_TABLE(type) creg_kernels_scalar_##type
#include "simd_scalar.h"
#include "table.h"
