# Norms of few wide rows, whose tasks divide each row by columns.
from cregkit.kernels._csrc cimport CREG_PANEL, CREG_WIDE_ROWS, creg_norm
from cregkit.kernels._workspace cimport Workspace


# Whether backward divides rows by columns. The shape alone decides, because the order of the sums over rows depends on
# it.
cdef inline bint is_wide(const creg_norm *n) noexcept nogil:
    return 0 < n.rows <= CREG_WIDE_ROWS and n.cols >= 2 * CREG_PANEL

# Whether forward divides such rows by columns, which changes no bit: if whole rows would leave threads idle.
cdef bint leaves_threads_idle(const creg_norm *n) noexcept nogil

# Run a planned call.
cdef int wide_forward(creg_norm *n, Workspace *w) except -1 nogil
cdef int wide_backward(creg_norm *n, Workspace *w) except -1 nogil
