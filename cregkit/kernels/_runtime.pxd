# The instruction set in use, and the sizes of tasks.
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._csrc cimport creg_kernels


# The table in use, of float32 tensors, and that of a type of tensors (CREG_FLOAT32 ...).
cdef const creg_kernels *kernels() noexcept nogil
cdef const creg_kernels *kernels_of(int stored) noexcept nogil

# The rows of each task of a loop over rows. They depend on the shape alone.
cdef ptrdiff_t rows_per_task(ptrdiff_t rows, ptrdiff_t cols) noexcept nogil

# Whether an op that reads and writes so many bytes writes its outputs by non-temporal stores.
cdef int streams(ptrdiff_t bytes) noexcept nogil
