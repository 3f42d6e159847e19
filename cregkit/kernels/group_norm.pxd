# Group norm: forward and backward, which ghost batch norm shares.
#
# The caller has set samples and shapes of `a`, which is 0 otherwise. `rest`: the rows of a smaller sample after these;
# 0 if there is none.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._csrc cimport creg_group_norm


# Returns y, mean, rstd and var.
cdef tuple forward(creg_group_norm *a, cnp.ndarray x, object gamma, object beta, object eps, ptrdiff_t rest,
                   object out)

# Returns dx, dgamma and dbeta.
cdef tuple backward(creg_group_norm *a, cnp.ndarray dy, cnp.ndarray x, object mean, object rstd, object gamma,
                    ptrdiff_t rest, object out)

# Runs a call whose shapes and operands are set; without channels.out, it finds the statistics alone.
cdef int plan_and_run(creg_group_norm *a, ptrdiff_t rest) except -1 nogil
