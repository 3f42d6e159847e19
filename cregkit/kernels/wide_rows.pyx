# Norms of few wide rows: the loops over panels and tiles of columns. The maths is in csrc/wide_rows.h.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._arrays cimport doubles, new_vector
from cregkit.kernels._csrc cimport CREG_PANEL, CREG_TILE, creg_norm, creg_wide_row
from cregkit.kernels._runtime cimport kernels
from cregkit.kernels._threads cimport parallel_for, run_task, thread_limit
from cregkit.kernels.column_sums cimport keep_overwritten, mend_sums

cnp.import_array()


cdef ptrdiff_t IDLE_ELEMENTS = 32 * 1024


# Dividing rows by columns costs a second loop, and reads each row again from a slower cache (csrc/TUNING.md).
cdef bint leaves_threads_idle(const creg_norm *n) noexcept nogil:
    cdef ptrdiff_t threads = thread_limit(), turns = (n.rows + threads - 1) // threads, idle = turns * threads - n.rows
    return idle * 7 > n.rows and idle * n.cols >= IDLE_ELEMENTS * threads


cdef ptrdiff_t panels(const creg_norm *n) noexcept nogil:
    return (n.cols + CREG_PANEL - 1) // CREG_PANEL


# A thread runs neighbouring tasks. These are the same columns of all rows, which share gamma, beta and a tile's sums.
cdef void sums_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef const creg_norm *n = <const creg_norm *>args
    kernels().wide_sums(n, task // n.rows, task % n.rows)


cdef void statistics_task(void *args, ptrdiff_t row) noexcept nogil:
    kernels().wide_statistics(<const creg_norm *>args, row)


cdef void write_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef const creg_norm *n = <const creg_norm *>args
    kernels().wide_write(n, task // n.rows, task % n.rows)


# One thread merges the rows' statistics, with about a hundred additions per row.
cdef void forward(creg_norm *n) noexcept nogil:
    cdef ptrdiff_t i
    parallel_for(sums_task, n, n.rows * panels(n), n.rows * n.cols)
    for i in range(n.rows):
        run_task(statistics_task, n, i)
    parallel_for(write_task, n, n.rows * panels(n), n.rows * n.cols)


cdef int wide_forward(creg_norm *n) except -1:
    cdef creg_wide_row[16] rows  # CREG_WIDE_ROWS
    cdef cnp.ndarray sums = new_vector(2 * n.rows * panels(n), cnp.NPY_FLOAT64)
    cdef ptrdiff_t i
    n.panel_sums, n.wide = doubles(sums), rows
    with nogil:
        forward(n)
    for i in range(n.rows):
        if n.mean != NULL:
            n.mean[i] = rows[i].mean
        if n.rstd != NULL:
            n.rstd[i] = rows[i].rstd
    return 0


cdef void grad_sums_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef const creg_norm *n = <const creg_norm *>args
    kernels().wide_grad_sums(n, task // n.rows, task % n.rows)


cdef void grad_means_task(void *args, ptrdiff_t row) noexcept nogil:
    kernels().wide_grad_means(<const creg_norm *>args, row)


cdef void grad_tile_task(void *args, ptrdiff_t tile) noexcept nogil:
    kernels().wide_grad_tile(<const creg_norm *>args, tile)


cdef void backward(creg_norm *n) noexcept nogil:
    cdef ptrdiff_t i
    parallel_for(grad_sums_task, n, n.rows * panels(n), n.rows * n.cols)
    for i in range(n.rows):
        run_task(grad_means_task, n, i)
    parallel_for(grad_tile_task, n, (n.cols + CREG_TILE - 1) // CREG_TILE, n.rows * n.cols)


cdef int wide_backward(creg_norm *n) except -1:
    cdef creg_wide_row[16] rows  # CREG_WIDE_ROWS
    cdef object _kept = keep_overwritten(n)
    cdef cnp.ndarray sums = new_vector(2 * n.rows * panels(n), cnp.NPY_FLOAT64)
    cdef ptrdiff_t i
    n.panel_sums, n.wide = doubles(sums), rows
    for i in range(n.rows):
        rows[i].mean = n.mean[i] if n.mean != NULL else 0.0
        rows[i].rstd = n.rstd[i]
    with nogil:
        backward(n)
    return mend_sums(n)
