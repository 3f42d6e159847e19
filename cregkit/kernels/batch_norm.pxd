# Batch norm: checks that group norm and ghost batch norm share.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._csrc cimport creg_batch_norm, creg_shape


# x as (n, c, s): see csrc/cregkit.h.
cdef creg_shape shape_of(cnp.ndarray x, object channel_axis) except *

# CREG_NEAR, CREG_FAR or CREG_STREAM for a call that reads and writes `arrays` arrays of so many bytes.
cdef int where_of(ptrdiff_t bytes, int arrays) noexcept nogil

# Runs a call whose shape and operands are set; without `out`, it finds the statistics alone.
cdef int plan_and_run(creg_batch_norm *a) except -1 nogil

# A checked vector, float32 or of the type of `out`, which it must not overlap.
cdef cnp.ndarray parameter(object value, str name, cnp.npy_intp c, cnp.ndarray out)

# The checked running mean and variance, which are updated in place and so overlap no other array.
cdef tuple running_statistics(object mean, object var, ptrdiff_t c, cnp.ndarray x, cnp.ndarray y, cnp.ndarray gamma,
                              cnp.ndarray beta)
