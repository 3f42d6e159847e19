# The checked rate, seed and position in the random stream, for ops that draw random bits; the calls of dropout.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint64_t

from cregkit.kernels._csrc cimport creg_dropout, creg_dropout_items
from cregkit.kernels._threads cimport block_task


cdef struct Random:
    creg_dropout dropout
    double rate
    uint64_t fixed_p  # p * 2**48
    uint64_t offset


# From p, seed and offset, for n draws.
cdef Random random_of(object p, object seed, object offset, ptrdiff_t n) except *

# Sets thresholds and scale from `rate`.
cdef void set_rate(Random *r) noexcept nogil

# Whether p = 1, which draws cannot express.
cdef bint drops_all(Random *r) noexcept nogil

# Where the decisions of an array are: n, rows and cols of creg_dropout_items.
cdef struct Layout:
    ptrdiff_t n, rows, cols

# The record of a call.
cdef creg_dropout_items items_of(Random random, Layout layout) noexcept nogil

# Runs the tasks of a call whose operands are set; the kernel of a call.
cdef void run_items(creg_dropout_items *a, block_task kernel) noexcept nogil
cdef block_task kernel_of(creg_dropout_items *a) noexcept nogil

# Runs the tasks of `a` on x, into a new array or out.
cdef cnp.ndarray apply(creg_dropout_items *a, block_task kernel, cnp.ndarray x, str name, object out)
