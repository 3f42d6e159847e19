# The table of whole calls for C++: see csrc/entries.h.
from cpython.pycapsule cimport PyCapsule_New
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint32_t, uint64_t

from cregkit.kernels._arrays cimport bytes_of
from cregkit.kernels._csrc cimport creg_batch_norm, creg_dropout_items, creg_group_norm, creg_norm
from cregkit.kernels._pool cimport pool_free, pool_malloc
from cregkit.kernels._runtime cimport kernels, streams
from cregkit.kernels._threads cimport limit_calls, run_task
from cregkit.kernels.batch_norm cimport plan_and_run as run_batch_norm
from cregkit.kernels.dropout cimport items_of, kernel_of, Layout, Random, run_items, set_rate
from cregkit.kernels.group_norm cimport plan_and_run as run_group_norm
from cregkit.kernels.row_norm cimport run_backward, run_forward

cdef extern from "entries.h":
    ctypedef struct creg_dropout_call:
        const void *x
        void *y
        ptrdiff_t n
        int stored, scaled
        double p
        uint64_t seed

    ctypedef struct creg_entries:
        int (*norm_forward)(creg_norm *call, int threads) except -1 nogil
        int (*norm_backward)(creg_norm *call, int threads) except -1 nogil
        int (*batch_norm)(creg_batch_norm *call, int threads) except -1 nogil
        int (*group_norm)(creg_group_norm *call, int threads) except -1 nogil
        void (*dropout)(const creg_dropout_call *call, int threads) noexcept nogil
        void *(*allocate)(size_t size) noexcept nogil
        void (*release)(void *memory) noexcept nogil


cdef int norm_forward(creg_norm *n, int threads) except -1 nogil:
    limit_calls(threads)
    n.stream = streams(2 * n.rows * n.cols * bytes_of(n.stored))
    try:
        return run_forward(n)
    finally:
        limit_calls(0)


cdef int norm_backward(creg_norm *n, int threads) except -1 nogil:
    limit_calls(threads)
    n.stream = streams(3 * n.rows * n.cols * bytes_of(n.stored))
    try:
        return run_backward(n)
    finally:
        limit_calls(0)


cdef int batch_norm(creg_batch_norm *a, int threads) except -1 nogil:
    limit_calls(threads)
    try:
        run_batch_norm(a)
        if a.running_mean != NULL or a.running_var != NULL:
            run_task(kernels().batch_norm_update, a, 0)
    finally:
        limit_calls(0)
    return 0


cdef int group_norm(creg_group_norm *a, int threads) except -1 nogil:
    limit_calls(threads)
    try:
        return run_group_norm(a, 0)
    finally:
        limit_calls(0)


cdef void dropout(const creg_dropout_call *call, int threads) noexcept nogil:
    cdef Random random
    cdef creg_dropout_items a
    random.rate, random.offset = call.p, 0
    random.dropout.key[0], random.dropout.key[1] = <uint32_t>call.seed, <uint32_t>(call.seed >> 32)
    set_rate(&random)
    if not call.scaled:
        random.dropout.scale = 1.0
    a = items_of(random, Layout(call.n, 1, 1))
    a.stored, a.x, a.y = call.stored, call.x, call.y
    limit_calls(threads)
    run_items(&a, kernel_of(&a))
    limit_calls(0)


cdef void *allocate(size_t size) noexcept nogil:
    return pool_malloc(NULL, size)


cdef void release(void *memory) noexcept nogil:
    pool_free(NULL, memory, 0)


cdef creg_entries entries = creg_entries(norm_forward, norm_backward, batch_norm, group_norm, dropout, allocate,
                                         release)
table = PyCapsule_New(&entries, "cregkit.kernels._entries.table", NULL)
