# Norms of few wide rows: the loops over panels and tiles of columns. The maths is in csrc/wide_rows.h.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t
from libc.string cimport memset

from cregkit.kernels._arrays cimport doubles, new_vector
from cregkit.kernels._csrc cimport creg_columns, CREG_PANEL, CREG_TILE, creg_wide, CREG_WIDE_ROWS
from cregkit.kernels._runtime cimport kernels
from cregkit.kernels._threads cimport parallel_for, run_task, thread_limit
from cregkit.kernels.column_sums cimport mend_sums

cnp.import_array()


cdef ptrdiff_t WIDE_COLUMNS = 2 * CREG_PANEL, IDLE_ELEMENTS = 32 * 1024


cdef bint is_wide(ptrdiff_t rows, ptrdiff_t cols) noexcept nogil:
    return 0 < rows <= CREG_WIDE_ROWS and cols >= WIDE_COLUMNS


# Sharing out takes a second loop, 3 us on a Xeon, and reads a row twice from further away. On two threads (1, 1000000)
# takes 0.5 of the time so, (3, 200001) 0.8, (5, 200001) 0.9, but (5, 20000) and (8, 16384) took 1.2.
cdef bint leaves_threads_idle(ptrdiff_t rows, ptrdiff_t cols) noexcept nogil:
    if not is_wide(rows, cols):
        return False
    cdef ptrdiff_t threads = thread_limit(), turns = (rows + threads - 1) // threads, idle = turns * threads - rows
    return idle * 7 > rows and idle * cols >= IDLE_ELEMENTS * threads


cdef creg_wide wide_call(bint rms, ptrdiff_t rows, ptrdiff_t cols, int stream) noexcept nogil:
    cdef creg_wide w
    memset(&w, 0, sizeof(w))
    w.rms, w.rows, w.cols, w.stream = rms, rows, cols, stream
    return w


cdef ptrdiff_t panels(const creg_wide *w) noexcept nogil:
    return (w.cols + CREG_PANEL - 1) // CREG_PANEL


# Neighbouring tasks, which one thread does, are the same columns of all rows: so are gamma's and beta's, and, in
# backward, the tile's.
cdef void sums_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef creg_wide *w = <creg_wide *>args
    kernels().wide_sums(w, task // w.rows, task % w.rows)


cdef void statistics_task(void *args, ptrdiff_t task) noexcept nogil:
    kernels().wide_statistics(<creg_wide *>args, task)


cdef void write_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef creg_wide *w = <creg_wide *>args
    kernels().wide_write(w, task // w.rows, task % w.rows)


# A row's statistics are a hundred additions, unless it needs float64, so that one thread makes them.
cdef void forward(creg_wide *w) noexcept nogil:
    cdef ptrdiff_t elements = w.rows * w.cols, i
    parallel_for(sums_task, w, w.rows * panels(w), elements)
    for i in range(w.rows):
        run_task(statistics_task, w, i)
    parallel_for(write_task, w, w.rows * panels(w), elements)


cdef wide_forward(creg_wide *w, double *mean, double *rstd):
    cdef cnp.ndarray sums = new_vector(2 * w.rows * panels(w), cnp.NPY_FLOAT64)
    cdef ptrdiff_t i
    w.sums = doubles(sums)
    with nogil:
        forward(w)
    for i in range(w.rows):
        if mean != NULL:
            mean[i] = w.row[i].mean
        if rstd != NULL:
            rstd[i] = w.row[i].rstd


cdef void grad_sums_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef creg_wide *w = <creg_wide *>args
    kernels().wide_grad_sums(w, task // w.rows, task % w.rows)


cdef void grad_means_task(void *args, ptrdiff_t task) noexcept nogil:
    kernels().wide_grad_means(<creg_wide *>args, task)


cdef void grad_tile_task(void *args, ptrdiff_t task) noexcept nogil:
    kernels().wide_grad_tile(<creg_wide *>args, task)


cdef void backward(creg_wide *w) noexcept nogil:
    cdef ptrdiff_t elements = w.rows * w.cols, i
    parallel_for(grad_sums_task, w, w.rows * panels(w), elements)
    for i in range(w.rows):
        run_task(grad_means_task, w, i)
    parallel_for(grad_tile_task, w, (w.cols + CREG_TILE - 1) // CREG_TILE, elements)


cdef wide_backward(creg_wide *w, const double *mean, const double *rstd):
    cdef cnp.ndarray sums = new_vector(2 * w.rows * panels(w), cnp.NPY_FLOAT64)
    cdef ptrdiff_t i
    w.sums = doubles(sums)
    for i in range(w.rows):
        w.row[i].mean = mean[i] if mean != NULL else 0.0
        w.row[i].rstd = rstd[i]
    cdef creg_columns columns
    columns.dy, columns.x, columns.mean, columns.rstd = w.dy, w.x, mean, rstd
    columns.dgamma, columns.dbeta, columns.rows, columns.cols = w.dgamma, w.dbeta, w.rows, w.cols
    with nogil:
        backward(w)
    mend_sums(&columns, w.dx)
