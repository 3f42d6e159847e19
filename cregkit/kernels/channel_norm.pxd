# The norms over rows that lie across memory: the loops over tasks. The maths is in csrc/channel_norm.h.
from cregkit.kernels._csrc cimport creg_norm
from cregkit.kernels._workspace cimport Workspace


# Run a planned call with n.across > 1.
cdef void across_forward(creg_norm *n) noexcept nogil
cdef int across_backward(creg_norm *n, Workspace *w) except -1 nogil
