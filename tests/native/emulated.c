/* The AVX-512 kernels on any CPU: csrc/isa_avx512.c without its compiler target, with emulated/immintrin.h, as the best
 * table of this CPU. The driver is compiled with -Dcreg_kernels_ranked=emulated_ranked. */
#include "cregkit.h"

#define CREG_ISA "avx512-emulated"
#define CREG_TABLE(type) emulated_avx512_##type
#include "simd_avx512.h"
#include "table.h"

const creg_kernels *emulated_ranked(int rank);
const creg_kernels *emulated_ranked(int rank)
{
    return rank == 0 ? &emulated_avx512_float32 : creg_kernels_ranked(rank - 1);
}
