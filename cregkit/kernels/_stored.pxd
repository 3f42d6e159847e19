# Tensors and parameters of 16 bits: their float32 copies. The conversions are in csrc/convert.h.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t


# A float32 array of the values of a; a itself if it is float32, None if it is None.
cdef cnp.ndarray widened(cnp.ndarray a)

# Rounds float32 values into an array of 16-bit numbers. Nothing if `wide` is `to` itself, or None.
cdef int round_into(cnp.ndarray wide, cnp.ndarray to) except -1

# n elements of a tensor, from and to float32.
cdef void widen_elements(int stored, const void *x, float *y, ptrdiff_t n) noexcept nogil
cdef void round_elements(int stored, const float *x, void *y, ptrdiff_t n) noexcept nogil
