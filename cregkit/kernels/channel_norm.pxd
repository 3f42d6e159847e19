# The norms over rows that lie across memory: the loops over tasks. The maths is in csrc/channel_norm.h.
from cregkit.kernels._csrc cimport creg_norm


# Run a planned call with n.across > 1.
cdef void across_forward(creg_norm *n) noexcept
cdef int across_backward(creg_norm *n) except -1
