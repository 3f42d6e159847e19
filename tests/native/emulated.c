/* The AVX-512 kernels on any CPU: csrc/isa_avx512.c without its compiler target, with emulated/immintrin.h. */
#include "cregkit.h"

#define CREG_ISA "avx512-emulated"
#define CREG_TABLE(type) emulated_avx512_##type
#include "simd_avx512.h"
#include "table.h"
