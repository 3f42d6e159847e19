# The checked rate, seed and position in the random stream, for ops that draw random bits.
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint64_t

from cregkit.kernels._csrc cimport creg_dropout


cdef struct Random:
    creg_dropout dropout
    double rate
    uint64_t fixed_p  # p * 2**48
    uint64_t offset


# From p, seed and offset, for n draws.
cdef Random random_of(object p, object seed, object offset, ptrdiff_t n) except *

# Whether p = 1, which draws cannot express.
cdef bint drops_all(Random *r) noexcept nogil
