/* Tables with a faulty dropout_forward of tensors of TYPE: tests/native/test_native.py checks that the driver detects
 * it. The driver is compiled with -Dcreg_kernels_ranked=faulty_ranked, this file with TYPE, STORED, the C type of an
 * element, and FAULT, a statement on x, y, n, stream and rank.
 */
#include "cregkit.h"

static void faulty_forward(int rank, void *items, ptrdiff_t task)
{
    creg_kernels_ranked(rank)->stored[TYPE]->dropout_forward(items, task);
    const creg_dropout_items *a = items;
    const STORED *x = a->x;
    STORED *y = a->y;
    const ptrdiff_t n = a->n;
    const int stream = a->stream;
    if (n > 0) FAULT;
    (void)x, (void)y, (void)stream;
}

static void forward_0(void *items, ptrdiff_t task) { faulty_forward(0, items, task); }
static void forward_1(void *items, ptrdiff_t task) { faulty_forward(1, items, task); }
static void forward_2(void *items, ptrdiff_t task) { faulty_forward(2, items, task); }

const creg_kernels *faulty_ranked(int rank);
const creg_kernels *faulty_ranked(int rank)
{
    static creg_kernels tables[3], faulty[3];
    static void (*const forwards[3])(void *, ptrdiff_t) = {forward_0, forward_1, forward_2};
    const creg_kernels *right = creg_kernels_ranked(rank);
    if (!right) return NULL;
    tables[rank] = *right;
    faulty[rank] = *right->stored[TYPE];
    faulty[rank].dropout_forward = forwards[rank];
    tables[rank].stored[TYPE] = &faulty[rank];
    return &tables[rank];
}
