# dgamma and dbeta of the norms over rows: the loops over chunks of rows and tiles of columns. The maths is in
# csrc/column_sums.h.
#
# Float32 sums that are infinite, NaN or small are computed again: in float64 for chunks whose dy are not safe, from the
# partial sums for the other chunks. That needs dy and x. Where dx overwrites one of them, a chunk that is not safe
# waits until its rows have been copied; n.exact marks it.
from libc.stddef cimport ptrdiff_t
from libc.string cimport memchr, memcpy, memset

from cregkit.kernels._arrays cimport bytes_of
from cregkit.kernels._csrc cimport CREG_CHUNK_ROWS, CREG_FLOAT32, creg_norm, CREG_PANEL
from cregkit.kernels._runtime cimport kernels, kernels_of, rows_per_task
from cregkit.kernels._threads cimport parallel_for, run_task
from cregkit.kernels._workspace cimport reserve

# Columns of a task that merges partial sums, and elements of a task that scans dy.
cdef ptrdiff_t MERGE_COLUMNS = 1024, SCAN_ELEMENTS = 64 * 1024


# At least eight rows, because the sums of a chunk cost as many stores and loads as a row.
cdef ptrdiff_t rows_per_chunk(ptrdiff_t rows) noexcept nogil:
    return min(<ptrdiff_t>CREG_CHUNK_ROWS, max(<ptrdiff_t>8, (rows + 15) // 16))


cdef bint overwrites_input(const creg_norm *n) noexcept nogil:
    return n.dgamma != NULL and n.rows > 1 and (n.dx == n.dy or n.dx == n.x)


# ---- marks ----


cdef bint any_marked(const creg_norm *n) noexcept nogil:
    return memchr(n.exact, 1, chunks_of(n)) != NULL


# Sets n.exact to new marks, all 0.
cdef int new_marks(creg_norm *n, Workspace *w) except -1 nogil:
    n.exact = <unsigned char *>reserve(w, chunks_of(n))
    memset(n.exact, 0, chunks_of(n))
    return 0


cdef void mark_task(void *args, ptrdiff_t chunk) noexcept nogil:
    cdef creg_norm *n = <creg_norm *>args
    n.exact[chunk] = not kernels_of(n.stored).chunk_is_safe(n, chunk)


cdef int mark_unsafe_chunks(creg_norm *n, Workspace *w) except -1 nogil:
    new_marks(n, w)
    parallel_for(mark_task, n, chunks_of(n), n.rows * n.cols)
    return 0


# ---- merging ----


cdef ptrdiff_t merge_tasks(const creg_norm *n) noexcept nogil:
    return (n.cols + MERGE_COLUMNS - 1) // MERGE_COLUMNS


cdef void merge_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef const creg_norm *n = <const creg_norm *>args
    cdef ptrdiff_t j0 = task * MERGE_COLUMNS
    kernels().merge_columns(n, j0, min(j0 + MERGE_COLUMNS, n.cols))


cdef void merge_exact_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef const creg_norm *n = <const creg_norm *>args
    cdef ptrdiff_t j0 = task * MERGE_COLUMNS
    kernels_of(n.stored).merge_columns_exact(n, j0, min(j0 + MERGE_COLUMNS, n.cols))


cdef void merge_exact(creg_norm *n) noexcept nogil:
    parallel_for(merge_exact_task, n, merge_tasks(n), n.rows * n.cols)


cdef struct Verdict:
    const creg_norm *n
    bint safe


cdef void verdict_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Verdict *verdict = <Verdict *>args
    verdict.safe = kernels().sums_were_safe(verdict.n)


# Whether float32 was enough for the sums. Sums over one row are single products, which need no check.
cdef bint sums_were_safe(const creg_norm *n) noexcept nogil:
    cdef Verdict verdict = Verdict(n, True)
    if n.rows > 1:
        run_task(verdict_task, &verdict, 0)
    return verdict.safe


# Merges the chunks' sums; returns whether float32 was enough for them.
cdef bint merge(creg_norm *n) noexcept nogil:
    parallel_for(merge_task, n, merge_tasks(n), chunks_of(n) * n.cols)
    return sums_were_safe(n)


# ---- chunks ----


# Divides the rows into chunks, with memory for their partial sums.
cdef int cut_rows(creg_norm *n, Workspace *w) except -1 nogil:
    if n.dgamma == NULL:
        n.step = rows_per_task(n.rows, n.cols)
        return 0
    n.step = rows_per_chunk(n.rows)
    cdef ptrdiff_t size = chunks_of(n) * n.cols
    n.partial_dgamma = <float *>reserve(w, (size if n.dbeta == NULL else 2 * size) * sizeof(float))
    if n.dbeta != NULL:
        n.partial_dbeta = n.partial_dgamma + size
    return 0


cdef void run_chunk(const creg_norm *n, ptrdiff_t chunk) noexcept nogil:
    cdef ptrdiff_t first = chunk * n.step, rows = min(n.step, n.rows - first)
    if n.dropped != NULL:
        kernels_of(n.stored).dropout_add_norm_backward(n, first, rows)
    else:
        kernels_of(n.stored).norm_backward(n, first, rows)


cdef void chunk_task(void *args, ptrdiff_t chunk) noexcept nogil:
    cdef creg_norm *n = <creg_norm *>args
    if n.exact != NULL and not kernels_of(n.stored).chunk_is_safe(n, chunk):
        n.exact[chunk] = 1
    else:
        run_chunk(n, chunk)


cdef void waiting_task(void *args, ptrdiff_t chunk) noexcept nogil:
    run_chunk(<creg_norm *>args, chunk)


# Makes the call read `copy` in place of each input that dx overwrites: dy, x, or both if they are one array.
cdef void read_from(creg_norm *n, const void *copy) noexcept nogil:
    cdef const void *overwritten = n.dx
    if n.dy == overwritten:
        n.dy = copy
    if n.x == overwritten:
        n.x = copy


# Runs the waiting chunks on a copy of their rows.
cdef int run_waiting(creg_norm *n, Workspace *w) except -1 nogil:
    cdef ptrdiff_t k, row = n.cols * bytes_of(n.stored), size = n.step * row, whole = n.rows * row
    cdef char *rows = <char *>reserve(w, whole)
    for k in range(chunks_of(n)):
        if n.exact[k]:
            memcpy(rows + k * size, <const char *>n.dx + k * size, min(size, whole - k * size))
    read_from(n, rows)
    for k in range(chunks_of(n)):
        if n.exact[k]:
            run_task(waiting_task, n, k)
    return 0


cdef int new_work(creg_norm *n, Workspace *w) except -1 nogil:
    if n.stored != CREG_FLOAT32 and n.cols > CREG_PANEL and (n.residual != NULL or n.dropped != NULL):
        n.work = <float *>reserve(w, chunks_of(n) * n.cols * sizeof(float))
    return 0


cdef int run_chunks(creg_norm *n, Workspace *w) except -1 nogil:
    cdef bint waiting, safe = True
    cut_rows(n, w)
    new_work(n, w)
    if overwrites_input(n):
        new_marks(n, w)
    parallel_for(chunk_task, n, chunks_of(n), n.rows * n.cols)
    waiting = n.exact != NULL and any_marked(n)
    if n.dgamma != NULL and not waiting:
        safe = merge(n) or n.exact != NULL
    if waiting:
        run_waiting(n, w)
        safe = merge(n)
    if safe:
        return 0
    if n.exact == NULL:
        mark_unsafe_chunks(n, w)
    merge_exact(n)
    return 0


# ---- one chunk ----


cdef bint all_safe(const creg_norm *n, Workspace *w) except -1 nogil:
    cdef creg_norm scan
    memset(&scan, 0, sizeof(scan))
    scan.stored, scan.dy, scan.rows, scan.cols, scan.step = n.stored, n.dy, n.rows * n.cols, 1, SCAN_ELEMENTS
    mark_unsafe_chunks(&scan, w)
    return not any_marked(&scan)


cdef int keep_overwritten(creg_norm *n, Workspace *w) except -1 nogil:
    if not overwrites_input(n) or all_safe(n, w):
        return 0
    cdef ptrdiff_t size = n.rows * n.cols * bytes_of(n.stored)
    cdef void *copy = reserve(w, size)
    memcpy(copy, n.dx, size)
    read_from(n, copy)
    return 0


cdef int mend_sums(creg_norm *n, Workspace *w) except -1 nogil:
    # In place without a copy: keep_overwritten found that all dy are safe.
    if n.dgamma == NULL or overwrites_input(n) or sums_were_safe(n):
        return 0
    n.step, n.partial_dgamma, n.partial_dbeta = n.rows, n.dgamma, n.dbeta
    mark_unsafe_chunks(n, w)
    merge_exact(n)
    return 0
