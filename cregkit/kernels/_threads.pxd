# The parallel loop that every op runs its tasks in, and the number of threads it uses.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t


# One task of a parallel loop: an op's own block function. It must not raise or touch Python.
ctypedef void (*block_task)(void *args, ptrdiff_t task) noexcept nogil

# How many threads a large enough call uses at most, from when its arrays have been checked or made.
cdef int thread_limit() noexcept nogil

cdef enum:
    # Numbers from which a call releases the GIL: fewer take about a microsecond, and letting go of it a tenth of that.
    ELEMENTS_WORTH_RELEASE = 8 * 1024

# Open num_threads blocks in the whole process. While there are none, no call looks for one.
cdef int open_blocks

# Finds the block of the context that a call comes from.
cdef int find_limit() except -1


# Every op comes here with the shapes of its arrays: any op that uses threads has one of this size.
cdef inline int find_limit_for(int ndim, cnp.npy_intp *shape) except -1:
    if open_blocks > 0 and cnp.PyArray_MultiplyList(shape, ndim) >= ELEMENTS_WORTH_RELEASE:
        find_limit()
    return 0


# Runs one task. Tasks run in IEEE 754's default mode, whatever mode the calling thread is in: arithmetic belongs in
# them.
cdef void run_task(block_task task, void *args, ptrdiff_t i) noexcept nogil

# Runs tasks 0 .. n_tasks - 1, over threads where `elements` numbers are worth it, each of which takes neighbouring ones
# in order, or backwards. Call it without the GIL.
cdef void parallel_for(block_task task, void *args, ptrdiff_t n_tasks, ptrdiff_t elements) noexcept nogil
cdef void parallel_for_backwards(block_task task, void *args, ptrdiff_t n_tasks, ptrdiff_t elements) noexcept nogil

# The same for a caller that holds the GIL, which is released where the work outweighs letting go of it.
cdef void run_parallel(block_task task, void *args, ptrdiff_t n_tasks, ptrdiff_t elements) noexcept
