# The norms over rows that lie across memory: the loops over tasks. The maths is in csrc/channel_norm.h.
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._csrc cimport creg_kernels, CREG_MERGE_TILE, creg_norm
from cregkit.kernels._runtime cimport kernels_of
from cregkit.kernels._threads cimport parallel_for
from cregkit.kernels._workspace cimport reserve


cdef void across_forward(creg_norm *n) noexcept nogil:
    cdef const creg_kernels *k = kernels_of(n.stored)
    parallel_for(k.channel_norm_forward, n, k.channel_norm_plan(n), n.rows * n.cols)


cdef int across_backward(creg_norm *n, Workspace *w) except -1 nogil:
    cdef const creg_kernels *k = kernels_of(n.stored)
    cdef ptrdiff_t tasks = k.channel_norm_plan(n)
    if n.dgamma != NULL:
        n.sums = <double *>reserve(w, 2 * tasks * n.cols * sizeof(double))
    parallel_for(k.channel_norm_backward, n, tasks, n.rows * n.cols)
    if n.dgamma != NULL:
        parallel_for(k.channel_norm_reduce, n, (n.cols + CREG_MERGE_TILE - 1) // CREG_MERGE_TILE,
                     2 * tasks * n.cols)
    return 0
