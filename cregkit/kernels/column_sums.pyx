# dgamma and dbeta of the norms: the loops over chunks of rows and tiles of columns, and what is done where float32 sums
# overflow or vanish. The maths is in csrc/reduce.h.
#
# Sums that come out infinite, NaN or small are computed again: in float64 for each chunk whose dy are not safe, from
# the partial sums for the others. That needs dy and x as they were. Where dx is written over one of them, a chunk that
# is not safe waits until its rows have been copied.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t
from libc.string cimport memchr, memcpy, memset

from cregkit.kernels._arrays cimport floats, new_array, new_vector
from cregkit.kernels._csrc cimport creg_columns
from cregkit.kernels._runtime cimport kernels, rows_per_chunk, rows_per_task
from cregkit.kernels._threads cimport block_task, parallel_for, run_task

cnp.import_array()


# Columns a task that merges takes.
cdef ptrdiff_t MERGE_COLUMNS = 1024


cdef bint any_marked(const unsigned char *marks, ptrdiff_t n) noexcept nogil:
    return memchr(marks, 1, n) != NULL


cdef ptrdiff_t chunks_of(const creg_columns *c) noexcept nogil:
    return (c.rows + c.step - 1) // c.step


cdef bint is_safe(const creg_columns *c, ptrdiff_t chunk) noexcept nogil:
    cdef ptrdiff_t i = chunk * c.step
    return kernels().sums_are_safe(c.dy + i * c.cols, min(c.step, c.rows - i) * c.cols)


# ---- merging ----


cdef ptrdiff_t merge_tasks(const creg_columns *c) noexcept nogil:
    return (c.cols + MERGE_COLUMNS - 1) // MERGE_COLUMNS


cdef void merge_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef const creg_columns *c = <const creg_columns *>args
    cdef ptrdiff_t j0 = task * MERGE_COLUMNS, j1 = min(j0 + MERGE_COLUMNS, c.cols)
    kernels().merge_columns(c.partial_dgamma, chunks_of(c), c.cols, j0, j1, c.dgamma)
    if c.dbeta != NULL:
        kernels().merge_columns(c.partial_dbeta, chunks_of(c), c.cols, j0, j1, c.dbeta)


cdef void merge_exact_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef const creg_columns *c = <const creg_columns *>args
    cdef ptrdiff_t j0 = task * MERGE_COLUMNS
    kernels().merge_columns_exact(c, j0, min(j0 + MERGE_COLUMNS, c.cols))


cdef struct Result:
    const creg_columns *columns
    bint safe


cdef void result_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Result *a = <Result *>args
    cdef const creg_columns *c = a.columns
    a.safe = kernels().sums_were_safe(c.dgamma, c.cols)
    if c.dbeta != NULL:
        a.safe = a.safe and kernels().sums_were_safe(c.dbeta, c.cols)


cdef bint result_is_safe(const creg_columns *c) noexcept nogil:
    cdef Result result = Result(c, True)
    run_task(result_task, &result, 0)
    return result.safe


cdef void mark_task(void *args, ptrdiff_t chunk) noexcept nogil:
    cdef NormBackward *a = <NormBackward *>args
    a.unsafe[chunk] = not is_safe(&a.columns, chunk)


cdef cnp.ndarray new_marks(NormBackward *a):
    cdef cnp.ndarray marks = new_vector(chunks_of(&a.columns), cnp.NPY_UINT8)
    a.unsafe = <unsigned char *>cnp.PyArray_DATA(marks)
    memset(a.unsafe, 0, chunks_of(&a.columns))
    return marks


# The sums again, in float64 for the chunks that are not safe.
cdef merge_again(NormBackward *a, cnp.ndarray marks):
    cdef creg_columns *c = &a.columns
    cdef cnp.ndarray _marks = marks
    if marks is None:
        _marks = new_marks(a)
        with nogil:
            parallel_for(mark_task, a, chunks_of(c), c.rows * c.cols)
    else:
        a.unsafe = <unsigned char *>cnp.PyArray_DATA(marks)
    c.exact = a.unsafe
    with nogil:
        parallel_for(merge_exact_task, c, merge_tasks(c), c.rows * c.cols)


# ---- chunks ----


cdef bint waits(const NormBackward *a, ptrdiff_t chunk) noexcept nogil:
    if a.unsafe == NULL or is_safe(&a.columns, chunk):
        return False
    a.unsafe[chunk] = 1
    return True


cdef float *chunk_dgamma(const NormBackward *a, ptrdiff_t chunk) noexcept nogil:
    return NULL if a.columns.partial_dgamma == NULL else a.columns.partial_dgamma + chunk * a.columns.cols


cdef float *chunk_dbeta(const NormBackward *a, ptrdiff_t chunk) noexcept nogil:
    return NULL if a.columns.partial_dbeta == NULL else a.columns.partial_dbeta + chunk * a.columns.cols


# Cuts the rows into chunks; the returned array holds their sums.
cdef cnp.ndarray cut_rows(creg_columns *c):
    c.partial_dgamma = c.partial_dbeta = NULL
    if c.dgamma == NULL:
        c.step = rows_per_task(c.rows, c.cols)
        return None
    c.step = rows_per_chunk(c.rows, c.cols)
    cdef ptrdiff_t size = chunks_of(c) * c.cols
    cdef cnp.ndarray partial = new_vector(size if c.dbeta == NULL else 2 * size, cnp.NPY_FLOAT32)
    c.partial_dgamma = floats(partial)
    if c.dbeta != NULL:
        c.partial_dbeta = c.partial_dgamma + size
    return partial


# A copy of the rows of the chunks that wait.
cdef cnp.ndarray waiting_rows(const NormBackward *a, const float *rows):
    cdef const creg_columns *c = &a.columns
    cdef ptrdiff_t k, at, size = c.step * c.cols, elements = c.rows * c.cols
    cdef cnp.ndarray copy = new_vector(elements, cnp.NPY_FLOAT32)
    for k in range(chunks_of(c)):
        if a.unsafe[k]:
            at = k * size
            memcpy(floats(copy) + at, rows + at, min(size, elements - at) * sizeof(float))
    return copy


# Runs the chunks that wait, from a copy of what dx is written over (dy, x or both, if they are one array), which is
# returned to be kept until all is merged.
cdef cnp.ndarray run_waiting(NormBackward *a, block_task task, void *args):
    cdef creg_columns *c = &a.columns
    cdef unsigned char *waiting = a.unsafe
    cdef cnp.ndarray copy = waiting_rows(a, a.dx)
    cdef ptrdiff_t k
    if c.dy == a.dx:
        c.dy = floats(copy)
    if c.x == a.dx:
        c.x = floats(copy)
    a.unsafe = NULL
    for k in range(chunks_of(c)):
        if waiting[k]:
            run_task(task, args, k)
    return copy


# Whether float32 was enough for the merged sums.
cdef bint merge(creg_columns *c) noexcept nogil:
    parallel_for(merge_task, c, merge_tasks(c), chunks_of(c) * c.cols)
    return c.rows == 1 or result_is_safe(c)  # a single product is right as it is


cdef run_chunks(NormBackward *a, block_task task, void *args):
    cdef creg_columns *c = &a.columns
    cdef cnp.ndarray _partial = cut_rows(c), marks = None, _kept
    cdef bint waiting, safe = True
    a.unsafe = NULL
    if c.dgamma != NULL and c.rows > 1 and (a.dx == c.dy or a.dx == c.x):
        marks = new_marks(a)
    with nogil:
        parallel_for(task, args, chunks_of(c), c.rows * c.cols)
        waiting = a.unsafe != NULL and any_marked(a.unsafe, chunks_of(c))
        if c.dgamma != NULL and not waiting:
            safe = merge(c) or a.unsafe != NULL
    if waiting:
        _kept = run_waiting(a, task, args)
        with nogil:
            safe = merge(c)
    if not safe:
        merge_again(a, marks)


# ---- one chunk ----


cdef bint all_safe(cnp.ndarray dy):
    cdef NormBackward scan
    scan.columns.dy, scan.columns.rows, scan.columns.cols = floats(dy), cnp.PyArray_SIZE(dy), 1
    scan.columns.step = 64 * 1024
    cdef cnp.ndarray _marks = new_marks(&scan)
    with nogil:
        parallel_for(mark_task, &scan, chunks_of(&scan.columns), scan.columns.rows)
    return not any_marked(scan.unsafe, chunks_of(&scan.columns))


cdef cnp.ndarray kept_for_sums(cnp.ndarray a, cnp.ndarray dx, cnp.ndarray dy):
    cdef cnp.ndarray copy
    if floats(a) != floats(dx) or all_safe(dy):
        return a
    copy = new_array(a.ndim, cnp.PyArray_DIMS(a), cnp.NPY_FLOAT32)
    memcpy(floats(copy), floats(a), cnp.PyArray_NBYTES(a))
    return copy


cdef mend_sums(creg_columns *c, const float *dx):
    cdef NormBackward a
    if c.dgamma == NULL or c.rows == 1 or dx == c.dy or dx == c.x:  # in place without a copy: they were safe
        return
    if result_is_safe(c):
        return
    a.columns = c[0]
    a.columns.step, a.columns.partial_dgamma, a.columns.partial_dbeta = c.rows, c.dgamma, c.dbeta
    merge_again(&a, None)
