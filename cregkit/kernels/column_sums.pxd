# Backward of the norms: the loop over chunks of rows, and dgamma and dbeta as sums over all rows.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._csrc cimport creg_columns
from cregkit.kernels._threads cimport block_task


# The caller fills in dy to cols of columns, and gamma, dx and stream. dgamma is NULL without gamma, dbeta for RMS norm
# too. dx may be dy or x.
cdef struct NormBackward:
    creg_columns columns
    const float *gamma
    float *dx
    int stream
    unsigned char *unsafe  # for run_chunks() alone


# Runs task(args, chunk) for each chunk of rows, and merges their sums. A task begins by asking waits().
cdef run_chunks(NormBackward *a, block_task task, void *args)

# Whether this chunk is left for later: float32 may not do for its sums, and dx is written over what they are made of.
cdef bint waits(const NormBackward *a, ptrdiff_t chunk) noexcept nogil

# Where the sums of a chunk go; NULL where there are none.
cdef float *chunk_dgamma(const NormBackward *a, ptrdiff_t chunk) noexcept nogil
cdef float *chunk_dbeta(const NormBackward *a, ptrdiff_t chunk) noexcept nogil

# For rows that are one chunk, whose sums lie in dgamma and dbeta already. Before: `a`, or a copy of it where it is what
# dx is written over and float32 may not do for the sums. After: the sums computed again, where float32 did not.
cdef cnp.ndarray kept_for_sums(cnp.ndarray a, cnp.ndarray dx, cnp.ndarray dy)
cdef mend_sums(creg_columns *c, const float *dx)
