/* The kernels for AArch64, whose baseline includes NEON. */
#include "cregkit.h"

#ifdef CREG_ARM64
#define CREG_ISA "neon"
#define CREG_TABLE(type) creg_kernels_neon_##type
#include "simd_neon.h"
#include "table.h"
#endif
