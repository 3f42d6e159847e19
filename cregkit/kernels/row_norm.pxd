# The norms over rows: functions shared by layer norm and RMS norm, plain or after dropout and addition.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._csrc cimport creg_norm


# Initialises n as a call over the last axis of x; all other fields are NULL or 0. The call reads and writes `arrays`
# arrays of x's size.
cdef void begin_call(creg_norm *n, int kind, cnp.ndarray x, int arrays) noexcept

# Run a planned call.
cdef int run_forward(creg_norm *n) except -1
cdef int run_backward(creg_norm *n) except -1

# A new array for one float64 statistic of each row of x.
cdef cnp.ndarray row_statistic(cnp.ndarray x)

# The ops, from their Python arguments. Forward returns y and fills mean and rstd, if they are given; backward returns
# dx, dgamma and, for layer norm, dbeta.
cdef cnp.ndarray norm_forward(int kind, cnp.ndarray x, object gamma, object beta, object eps, object out,
                              cnp.ndarray mean, cnp.ndarray rstd)
cdef tuple norm_backward(int kind, object dy, object x, object mean, object rstd, object gamma, object out)
