# dgamma and dbeta of the norms over rows: the loops over chunks of rows and tiles of columns. The maths is in
# csrc/column_sums.h.
#
# Float32 sums that are infinite, NaN or small are computed again: in float64 for chunks whose dy are not safe, from the
# partial sums for the other chunks. That needs dy and x. Where dx overwrites one of them, a chunk that is not safe
# waits until its rows have been copied; n.exact marks it.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t
from libc.string cimport memchr, memcpy, memset

from cregkit.kernels._arrays cimport bytes_of, floats, new_vector
from cregkit.kernels._csrc cimport CREG_CHUNK_ROWS, CREG_FLOAT32, creg_norm, CREG_PANEL
from cregkit.kernels._runtime cimport kernels, kernels_of, rows_per_task
from cregkit.kernels._threads cimport parallel_for, run_task

cnp.import_array()


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


# Sets n.exact to new marks, all 0; the returned array owns them.
cdef cnp.ndarray new_marks(creg_norm *n):
    cdef cnp.ndarray marks = new_vector(chunks_of(n), cnp.NPY_UINT8)
    n.exact = <unsigned char *>cnp.PyArray_DATA(marks)
    memset(n.exact, 0, chunks_of(n))
    return marks


cdef void mark_task(void *args, ptrdiff_t chunk) noexcept nogil:
    cdef creg_norm *n = <creg_norm *>args
    n.exact[chunk] = not kernels_of(n.stored).chunk_is_safe(n, chunk)


cdef cnp.ndarray mark_unsafe_chunks(creg_norm *n):
    cdef cnp.ndarray marks = new_marks(n)
    with nogil:
        parallel_for(mark_task, n, chunks_of(n), n.rows * n.cols)
    return marks


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


# Divides the rows into chunks; the returned array owns their partial sums.
cdef cnp.ndarray cut_rows(creg_norm *n):
    if n.dgamma == NULL:
        n.step = rows_per_task(n.rows, n.cols)
        return None
    n.step = rows_per_chunk(n.rows)
    cdef ptrdiff_t size = chunks_of(n) * n.cols
    cdef cnp.ndarray partial = new_vector(size if n.dbeta == NULL else 2 * size, cnp.NPY_FLOAT32)
    n.partial_dgamma = floats(partial)
    if n.dbeta != NULL:
        n.partial_dbeta = n.partial_dgamma + size
    return partial


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


# Runs the waiting chunks on a copy of their rows. Returns the copy, which must live until the sums are merged.
cdef cnp.ndarray run_waiting(creg_norm *n):
    cdef ptrdiff_t k, row = n.cols * bytes_of(n.stored), size = n.step * row, whole = n.rows * row
    cdef cnp.ndarray copy = new_vector(whole, cnp.NPY_UINT8)
    cdef char *rows = <char *>cnp.PyArray_DATA(copy)
    for k in range(chunks_of(n)):
        if n.exact[k]:
            memcpy(rows + k * size, <const char *>n.dx + k * size, min(size, whole - k * size))
    read_from(n, rows)
    for k in range(chunks_of(n)):
        if n.exact[k]:
            run_task(waiting_task, n, k)
    return copy


cdef cnp.ndarray new_work(creg_norm *n):
    if n.stored == CREG_FLOAT32 or n.cols <= CREG_PANEL or (n.residual == NULL and n.dropped == NULL):
        return None
    cdef cnp.ndarray work = new_vector(chunks_of(n) * n.cols, cnp.NPY_FLOAT32)
    n.work = floats(work)
    return work


cdef int run_chunks(creg_norm *n) except -1:
    cdef cnp.ndarray _partial = cut_rows(n), _work = new_work(n), marks = None, _kept
    cdef bint waiting, safe = True
    if overwrites_input(n):
        marks = new_marks(n)
    with nogil:
        parallel_for(chunk_task, n, chunks_of(n), n.rows * n.cols)
        waiting = n.exact != NULL and any_marked(n)
        if n.dgamma != NULL and not waiting:
            safe = merge(n) or n.exact != NULL
    if waiting:
        _kept = run_waiting(n)
        with nogil:
            safe = merge(n)
    if safe:
        return 0
    if marks is None:
        marks = mark_unsafe_chunks(n)
    with nogil:
        merge_exact(n)
    return 0


# ---- one chunk ----


cdef bint all_safe(const creg_norm *n):
    cdef creg_norm scan
    memset(&scan, 0, sizeof(scan))
    scan.stored, scan.dy, scan.rows, scan.cols, scan.step = n.stored, n.dy, n.rows * n.cols, 1, SCAN_ELEMENTS
    cdef cnp.ndarray _marks = mark_unsafe_chunks(&scan)
    return not any_marked(&scan)


cdef object keep_overwritten(creg_norm *n):
    if not overwrites_input(n) or all_safe(n):
        return None
    cdef ptrdiff_t size = n.rows * n.cols * bytes_of(n.stored)
    cdef cnp.ndarray copy = new_vector(size, cnp.NPY_UINT8)
    memcpy(cnp.PyArray_DATA(copy), n.dx, size)
    read_from(n, cnp.PyArray_DATA(copy))
    return copy


cdef int mend_sums(creg_norm *n) except -1:
    # In place without a copy: keep_overwritten found that all dy are safe.
    if n.dgamma == NULL or overwrites_input(n) or sums_were_safe(n):
        return 0
    n.step, n.partial_dgamma, n.partial_dbeta = n.rows, n.dgamma, n.dbeta
    cdef cnp.ndarray _marks = mark_unsafe_chunks(n)
    with nogil:
        merge_exact(n)
    return 0
