# Checks of arrays and numbers, and the allocation of outputs.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint64_t

from cregkit.kernels._csrc cimport CREG_FLOAT32

ctypedef fused Number:
    float
    double
    int64_t


# Checked arrays. A tensor is float32, float16 or bfloat16; its parameters are float32 or have its type. Each function
# raises a TypeError or ValueError that names the argument, the value and the remedy.
cdef cnp.ndarray tensor(object a, str name)
cdef cnp.ndarray tensor_rows(object a, str name)
cdef cnp.ndarray tensor_like(object a, str name, cnp.ndarray other, str other_name)
cdef cnp.ndarray parameters(object a, str name, cnp.ndarray x, int ndim, cnp.npy_intp *shape)
cdef cnp.ndarray float32_array(object a, str name)
cdef cnp.ndarray float64_array(object a, str name)
cdef cnp.ndarray float32_like(object a, str name, cnp.ndarray other, str other_name)
cdef cnp.ndarray int64_vector(object a, str name)
cdef cnp.ndarray per_sample(object a, str name, int dtype, ptrdiff_t n, ptrdiff_t k)
cdef cnp.ndarray float64_statistics(object a, str name, int ndim, cnp.npy_intp *shape)
cdef bint is_channels_last(cnp.ndarray x, object channel_axis) except -1
cdef cnp.ndarray writable(cnp.ndarray a, str name)
cdef cnp.ndarray output(object out, cnp.ndarray like, str name)
cdef int refuse_overlaps(cnp.ndarray x, str name, tuple others) except -1  # others: pairs (array, name)
cdef int refuse_overlap(cnp.ndarray out, str out_name, cnp.ndarray a, str name, bint same_is_fine) except -1

# The type of a tensor (CREG_FLOAT32 ...), and the size of its elements.
cdef int stored_type(cnp.ndarray x) noexcept nogil
cdef inline ptrdiff_t bytes_of(int stored) noexcept nogil:
    return 4 if stored == CREG_FLOAT32 else 2

# New arrays, and the data pointers of optional arrays (None: NULL).
cdef cnp.ndarray new_array(int ndim, cnp.npy_intp *shape, int dtype)
cdef cnp.ndarray new_vector(ptrdiff_t n, int dtype)
cdef void *data(cnp.ndarray a) noexcept
cdef float *floats(cnp.ndarray a) noexcept
cdef double *doubles(cnp.ndarray a) noexcept

# Checked numbers: within [low, high], not NaN. With high = DBL_MAX, any finite number of at least low.
cdef double number(object value, str name, double low, double high) except? -1
cdef float float32_number(object value, str name, double low, double high) except? -1
cdef object whole_number(object value, str name)
cdef uint64_t unsigned64(object value, str name) except? -1

# Raises unless n numbers, `step` apart, are within [low, high].
cdef int check_range(const Number *values, ptrdiff_t n, ptrdiff_t step, Number low, Number high, str name,
                     str wanted) except -1
