# Norms of few wide rows, shared out by columns.
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._csrc cimport creg_wide


# Whether these rows are in backward, where the order of the sums over rows depends on it: by their shape alone.
cdef bint is_wide(ptrdiff_t rows, ptrdiff_t cols) noexcept nogil

# Whether they are in forward, where no bit depends on it: if whole rows would leave threads without work.
cdef bint leaves_threads_idle(ptrdiff_t rows, ptrdiff_t cols) noexcept nogil

# A call of which all else is NULL or 0.
cdef creg_wide wide_call(bint rms, ptrdiff_t rows, ptrdiff_t cols, int stream) noexcept nogil

# Both fill in w.sums and w.row, and let go of the GIL. mean and rstd are as the norms take them, NULL for none.
cdef wide_forward(creg_wide *w, double *mean, double *rstd)
cdef wide_backward(creg_wide *w, const double *mean, const double *rstd)
