/* The kernels for AVX2 and F16C. */
#include "cregkit.h"

#ifdef CREG_X86
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,f16c,sse4.2"))), apply_to = function)
#else
#pragma GCC target("avx2,f16c,sse4.2")
#endif
#define CREG_ISA "avx2"
#define CREG_TABLE(type) creg_kernels_avx2_##type
#include "simd_avx2.h"
#include "table.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
