# The instruction set in use, and the sizes of tasks.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._csrc cimport creg_kernels


# The table in use.
cdef const creg_kernels *kernels() noexcept nogil

# Rows for each task of a loop over rows, from the shape alone.
cdef ptrdiff_t rows_per_task(ptrdiff_t rows, ptrdiff_t cols) noexcept nogil

# Chunks of rows for column sums such as dgamma: rows in each (the last may have fewer), from the shape alone.
cdef ptrdiff_t rows_per_chunk(ptrdiff_t rows, ptrdiff_t cols) noexcept nogil

# Whether x_hat * gamma may overflow on the way to a finite x_hat * gamma + beta (beta may be NULL). affine_rows() then
# applies gain and bias: y = y * gamma + beta in float64.
cdef bint needs_affine_rows(const float *beta, ptrdiff_t cols) noexcept nogil
cdef void affine_rows(cnp.ndarray y, cnp.ndarray gamma, cnp.ndarray beta) noexcept

# Whether the outputs of an op that goes through so many arrays of so many elements should be written around the cache.
cdef int streams(ptrdiff_t elements, int arrays) noexcept nogil
