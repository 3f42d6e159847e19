# Norms of few wide rows, each of which is shared by its columns.
from cregkit.kernels._csrc cimport creg_norm


# Whether backward goes this way: by the shape alone, because the order of the sums over rows depends on it.
cdef bint is_wide(const creg_norm *n) noexcept nogil

# Whether forward does, where no bit depends on it: if whole rows would leave threads idle.
cdef bint leaves_threads_idle(const creg_norm *n) noexcept nogil

# Run a planned call.
cdef int wide_forward(creg_norm *n) except -1
cdef int wide_backward(creg_norm *n) except -1
