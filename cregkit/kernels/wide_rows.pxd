# Norms of few wide rows, each of which is shared by its columns.
from cregkit.kernels._csrc cimport CREG_PANEL, CREG_WIDE_ROWS, creg_norm


# Whether backward goes this way: by the shape alone, because the order of the sums over rows depends on it.
cdef inline bint is_wide(const creg_norm *n) noexcept nogil:
    return 0 < n.rows <= CREG_WIDE_ROWS and n.cols >= 2 * CREG_PANEL

# Whether forward of such rows does, where no bit depends on it: if whole rows would leave threads idle.
cdef bint leaves_threads_idle(const creg_norm *n) noexcept nogil

# Run a planned call.
cdef int wide_forward(creg_norm *n) except -1
cdef int wide_backward(creg_norm *n) except -1
