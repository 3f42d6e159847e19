# The instruction set in use, and the sizes of tasks.
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._csrc cimport creg_kernels


# The table in use.
cdef const creg_kernels *kernels() noexcept nogil

# The rows of each task of a loop over rows. They depend on the shape alone.
cdef ptrdiff_t rows_per_task(ptrdiff_t rows, ptrdiff_t cols) noexcept nogil

# Whether an op with this many arrays of this many elements writes its outputs by non-temporal stores.
cdef int streams(ptrdiff_t elements, int arrays) noexcept nogil
