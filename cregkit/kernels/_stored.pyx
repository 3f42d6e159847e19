# Tensors and parameters of 16 bits: the loops that convert them from and to float32. The conversions are in
# csrc/convert.h.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._arrays cimport bytes_of, data, floats, new_array, stored_type
from cregkit.kernels._csrc cimport CREG_FLOAT32, CREG_TASK
from cregkit.kernels._runtime cimport kernels_of
from cregkit.kernels._threads cimport parallel_for

cnp.import_array()


cdef struct Conversion:
    int stored
    char *tensor
    float *floats
    ptrdiff_t n


cdef void widen_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef const Conversion *a = <const Conversion *>args
    cdef ptrdiff_t i = task * CREG_TASK
    kernels_of(a.stored).to_float32(a.tensor + i * bytes_of(a.stored), a.floats + i, min(CREG_TASK, a.n - i))


cdef void round_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef const Conversion *a = <const Conversion *>args
    cdef ptrdiff_t i = task * CREG_TASK
    kernels_of(a.stored).from_float32(a.floats + i, a.tensor + i * bytes_of(a.stored), min(CREG_TASK, a.n - i))


cdef void widen_elements(int stored, const void *x, float *y, ptrdiff_t n) noexcept nogil:
    cdef Conversion a = Conversion(stored, <char *>x, y, n)
    parallel_for(widen_task, &a, (n + CREG_TASK - 1) // CREG_TASK, n)


cdef void round_elements(int stored, const float *x, void *y, ptrdiff_t n) noexcept nogil:
    cdef Conversion a = Conversion(stored, <char *>y, <float *>x, n)
    parallel_for(round_task, &a, (n + CREG_TASK - 1) // CREG_TASK, n)


cdef cnp.ndarray widened(cnp.ndarray a):
    if a is None or stored_type(a) == CREG_FLOAT32:
        return a
    cdef cnp.ndarray wide = new_array(a.ndim, cnp.PyArray_DIMS(a), cnp.NPY_FLOAT32)
    widen_elements(stored_type(a), data(a), floats(wide), cnp.PyArray_SIZE(a))
    return wide


cdef int round_into(cnp.ndarray wide, cnp.ndarray to) except -1:
    if wide is not to:
        round_elements(stored_type(to), floats(wide), data(to), cnp.PyArray_SIZE(to))
    return 0
