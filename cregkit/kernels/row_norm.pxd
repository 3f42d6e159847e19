# The norms over rows: functions shared by layer norm and RMS norm, plain or after dropout and addition.
cimport numpy as cnp
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._csrc cimport creg_norm


# Neighbouring axes of an array, over which a norm takes its statistics.
cdef struct Axes:
    int first, count

# Initialises n as a call whose rows are these axes of x; all other fields are NULL or 0. The call reads and
# writes `arrays` arrays of x's size.
cdef void begin_call(creg_norm *n, int kind, cnp.ndarray x, Axes axes, int arrays) noexcept

# Run a planned call; forward without y finds mean and rstd alone. The call_ functions are for callers that hold the
# GIL: large calls release it.
cdef int run_forward(creg_norm *n) except -1 nogil
cdef int run_backward(creg_norm *n) except -1 nogil
cdef int call_forward(creg_norm *n) except -1
cdef int call_backward(creg_norm *n) except -1

# A checked gain or bias of these axes of x, or None.
cdef cnp.ndarray row_parameter(object a, str name, cnp.ndarray x, Axes axes)

# A new array for one float64 statistic of each row of x.
cdef cnp.ndarray row_statistic(cnp.ndarray x, Axes axes)

# The gain of a call: gain_offset + gamma, a float32 sum for each feature; gamma itself for gain_offset 0.
cdef cnp.ndarray sum_gain(cnp.ndarray gamma, object gain_offset)
cdef inline cnp.ndarray gain_of(cnp.ndarray gamma, object gain_offset):
    if PyFloat_CheckExact(gain_offset) and PyFloat_AS_DOUBLE(gain_offset) == 0.0:
        return gamma
    return sum_gain(gamma, gain_offset)

# The ops, from their Python arguments. Forward returns y, followed by the mean (of layer norm) and rstd if it `saves`
# them; backward returns dx, dgamma and, for layer norm, dbeta.
cdef object norm_forward(int kind, object x, object gamma, object beta, object eps, object axis, object gain_offset,
                         object out, bint saves)
cdef tuple norm_backward(int kind, object dy, object x, object mean, object rstd, object gamma, object axis,
                         object gain_offset, object out)
