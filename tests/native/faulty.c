/* Tables with a faulty l2_gradient: tests/native/test_native.py checks that the driver detects it. The driver is
 * compiled with -Dcreg_kernels_ranked=faulty_ranked, this file with FAULT, a statement on x, y, n, stream and rank.
 */
#include "cregkit.h"

static void faulty_gradient(int rank, void *l2, ptrdiff_t task)
{
    creg_kernels_ranked(rank)->l2_gradient(l2, task);
    const creg_l2 *a = l2;
    const float *x = a->w;
    float *y = a->dw;
    const ptrdiff_t n = a->n;
    const int stream = a->stream;
    if (n > 0) FAULT;
    (void)x, (void)y, (void)stream;
}

static void gradient_0(void *l2, ptrdiff_t task) { faulty_gradient(0, l2, task); }
static void gradient_1(void *l2, ptrdiff_t task) { faulty_gradient(1, l2, task); }
static void gradient_2(void *l2, ptrdiff_t task) { faulty_gradient(2, l2, task); }

const creg_kernels *faulty_ranked(int rank);
const creg_kernels *faulty_ranked(int rank)
{
    static creg_kernels tables[3];
    static void (*const gradients[3])(void *, ptrdiff_t) = {gradient_0, gradient_1, gradient_2};
    const creg_kernels *right = creg_kernels_ranked(rank);
    if (!right) return NULL;
    tables[rank] = *right;
    tables[rank].l2_gradient = gradients[rank];
    tables[rank].stored[CREG_FLOAT32] = &tables[rank];
    return &tables[rank];
}
