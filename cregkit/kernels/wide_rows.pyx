# Norms of few wide rows: the loops over panels and tiles of columns. The maths is in csrc/wide_rows.h.
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._csrc cimport creg_kernels, CREG_PANEL, CREG_TILE, creg_norm, creg_wide_row
from cregkit.kernels._runtime cimport kernels_of
from cregkit.kernels._threads cimport block_task, parallel_for, run_task, thread_limit
from cregkit.kernels._workspace cimport reserve
from cregkit.kernels.column_sums cimport keep_overwritten, mend_sums

cdef ptrdiff_t IDLE_ELEMENTS = 32 * 1024


# Dividing rows by columns costs a second loop, and reads each row again from a slower cache (csrc/TUNING.md).
cdef bint leaves_threads_idle(const creg_norm *n) noexcept nogil:
    cdef ptrdiff_t threads = thread_limit(), turns = (n.rows + threads - 1) // threads, idle = turns * threads - n.rows
    return idle * 7 > n.rows and idle * n.cols >= IDLE_ELEMENTS * threads


cdef ptrdiff_t tiles_of(const creg_norm *n, ptrdiff_t cols) noexcept nogil:
    return (n.cols + cols - 1) // cols


# The sums of all panels, the statistics of each row from them, then the outputs. One thread finds the statistics, with
# about a hundred additions per row.
cdef int run_steps(creg_norm *n, Workspace *w, block_task sums, block_task statistics, block_task write,
                   ptrdiff_t tasks) except -1 nogil:
    cdef creg_wide_row[16] rows  # CREG_WIDE_ROWS
    cdef ptrdiff_t i, panels = n.rows * tiles_of(n, CREG_PANEL), elements = n.rows * n.cols
    n.panel_sums, n.wide = <double *>reserve(w, 2 * panels * sizeof(double)), rows
    parallel_for(sums, n, panels, elements)
    for i in range(n.rows):
        run_task(statistics, n, i)
    parallel_for(write, n, tasks, elements)
    return 0


cdef int wide_forward(creg_norm *n, Workspace *w) except -1 nogil:
    cdef const creg_kernels *k = kernels_of(n.stored)
    return run_steps(n, w, k.wide_sums, k.wide_statistics, k.wide_write, n.rows * tiles_of(n, CREG_PANEL))


cdef int wide_backward(creg_norm *n, Workspace *w) except -1 nogil:
    cdef const creg_kernels *k = kernels_of(n.stored)
    keep_overwritten(n, w)
    run_steps(n, w, k.wide_grad_sums, k.wide_grad_means, k.wide_grad_tile, tiles_of(n, CREG_TILE))
    return mend_sums(n, w)
