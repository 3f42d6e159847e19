/* The emulated AVX-512 kernels as the best table of this CPU. The driver is compiled with
 * -Dcreg_kernels_ranked=emulated_ranked. */
#include "cregkit.h"

extern const creg_kernels emulated_avx512_float32;

const creg_kernels *emulated_ranked(int rank);
const creg_kernels *emulated_ranked(int rank)
{
    return rank == 0 ? &emulated_avx512_float32 : creg_kernels_ranked(rank - 1);
}
