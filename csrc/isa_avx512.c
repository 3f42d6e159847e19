/* The kernels for AVX-512 (F, BW, DQ, VL). */
#include "cregkit.h"

#ifdef CREG_X86
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c"))),                  \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")
#endif
#define CREG_ISA "avx512"
#define CREG_TABLE(type) creg_kernels_avx512_##type
#include "simd_avx512.h"
#include "table.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
