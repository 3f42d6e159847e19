# The parallel loop that every op runs its tasks in, and the number of threads it uses.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t


# One task of a parallel loop. It must not raise or touch Python.
ctypedef void (*block_task)(void *args, ptrdiff_t task) noexcept nogil

# The largest number of threads of a call. Valid after the call has checked or allocated its arrays.
cdef int thread_limit() noexcept nogil

# Limits the calls of this thread to n threads, whatever blocks are open; 0: no more.
cdef void limit_calls(int n) noexcept nogil

cdef enum:
    # Calls on at least this many elements release the GIL. Smaller calls take about a microsecond, the release a tenth.
    ELEMENTS_WORTH_RELEASE = 8 * 1024

# The number of open num_threads blocks in the process. While it is 0, no call looks for a block.
cdef int open_blocks

# Finds the num_threads block of the caller's context.
cdef int find_limit() except -1


# find_limit() for large arrays. Ops call it with the shape of each array, because a call that uses threads has at least
# one large array.
cdef inline int find_limit_for(int ndim, cnp.npy_intp *shape) except -1:
    if open_blocks > 0 and cnp.PyArray_MultiplyList(shape, ndim) >= ELEMENTS_WORTH_RELEASE:
        find_limit()
    return 0


# Runs one task. Tasks run in IEEE 754's default floating-point mode, whatever mode the calling thread is in, so all
# arithmetic belongs in tasks.
cdef void run_task(block_task task, void *args, ptrdiff_t i) noexcept nogil

# Runs tasks 0 .. n_tasks - 1, on several threads if the loop has enough `elements`. A thread runs neighbouring tasks,
# in order or in reverse order. The caller must not hold the GIL.
cdef void parallel_for(block_task task, void *args, ptrdiff_t n_tasks, ptrdiff_t elements) noexcept nogil
cdef void parallel_for_backwards(block_task task, void *args, ptrdiff_t n_tasks, ptrdiff_t elements) noexcept nogil

# The same for a caller that holds the GIL. Large loops release it.
cdef void run_parallel(block_task task, void *args, ptrdiff_t n_tasks, ptrdiff_t elements) noexcept
