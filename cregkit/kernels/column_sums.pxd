# Backward of the norms over rows: the loop over chunks of rows, then dgamma and dbeta as sums over all rows.
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._csrc cimport creg_norm
from cregkit.kernels._workspace cimport Workspace


# The number of chunks of n.step rows.
cdef inline ptrdiff_t chunks_of(const creg_norm *n) noexcept nogil:
    return (n.rows + n.step - 1) // n.step

# Sets n.work, for chunks of n.step rows, if the call needs it.
cdef int new_work(creg_norm *n, Workspace *w) except -1 nogil

# Runs a planned call. dx may be dy or x.
cdef int run_chunks(creg_norm *n, Workspace *w) except -1 nogil

# For a call whose rows are one chunk, which another loop sums into dgamma and dbeta. Call keep_overwritten before that
# loop: it copies the array that dx overwrites, if the sums may need it again. Call mend_sums after that loop: it
# computes the sums again in float64, if float32 was not enough.
cdef int keep_overwritten(creg_norm *n, Workspace *w) except -1 nogil
cdef int mend_sums(creg_norm *n, Workspace *w) except -1 nogil
