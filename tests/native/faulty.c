/* Tables with one kernel that does what no kernel may, for tests/native/test_native.py to see that the driver notices: the
 * driver is compiled with -Dcreg_kernels_ranked=faulty_ranked, this file with FAULT, a statement on scale's arguments.
 */
#include "cregkit.h"

static void faulty_scale(const creg_kernels *right, int rank, const float *x, float *y, ptrdiff_t n, float factor,
                         int stream)
{
    right->scale(x, y, n, factor, stream);
    if (n > 0) FAULT;
    (void)rank;
}

#define RANK(r)                                                                                                        \
    static void scale_##r(const float *x, float *y, ptrdiff_t n, float factor, int stream)                             \
    {                                                                                                                  \
        faulty_scale(creg_kernels_ranked(r), r, x, y, n, factor, stream);                                              \
    }
RANK(0)
RANK(1)
RANK(2)

const creg_kernels *faulty_ranked(int rank);
const creg_kernels *faulty_ranked(int rank)
{
    static creg_kernels tables[3];
    static void (*const scales[3])(const float *, float *, ptrdiff_t, float, int) = {scale_0, scale_1, scale_2};
    const creg_kernels *right = creg_kernels_ranked(rank);
    if (!right) return NULL;
    tables[rank] = *right;
    tables[rank].scale = scales[rank];
    return &tables[rank];
}
