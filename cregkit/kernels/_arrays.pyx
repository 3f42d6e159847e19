# Checks of arrays and numbers, and the allocation of outputs.
import operator

import numpy as np

from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from libc.float cimport DBL_MAX
from libc.stdint cimport uintptr_t

from cregkit.kernels._pool cimport pooled_array
from cregkit.kernels._threads cimport find_limit_for, run_task

cnp.import_array()

# ---- arrays ----


cdef cnp.ndarray new_array(int ndim, cnp.npy_intp *shape, int dtype):
    find_limit_for(ndim, shape)
    return pooled_array(ndim, shape, dtype)


cdef cnp.ndarray new_vector(ptrdiff_t n, int dtype):
    cdef cnp.npy_intp shape = n
    return new_array(1, &shape, dtype)


cdef float *floats(cnp.ndarray a) noexcept:
    return NULL if a is None else <float *>cnp.PyArray_DATA(a)


cdef double *doubles(cnp.ndarray a) noexcept:
    return NULL if a is None else <double *>cnp.PyArray_DATA(a)


cdef bint is_plain(cnp.ndarray a, int dtype) noexcept:
    return (cnp.PyArray_TYPE(a) == dtype and cnp.PyArray_CHKFLAGS(a, cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_ALIGNED)
            and not cnp.PyArray_ISBYTESWAPPED(a))


# `a` as an array, without a copy or cast; it must be C-contiguous and hold numbers of this type.
cdef cnp.ndarray checked_array(object a, str name, int dtype):
    if not cnp.PyArray_CheckExact(a):
        a = foreign_array(a, name, dtype)
    if not is_plain(<cnp.ndarray>a, dtype):
        refuse_array(a, name, dtype)
    find_limit_for(cnp.PyArray_NDIM(<cnp.ndarray>a), cnp.PyArray_DIMS(<cnp.ndarray>a))
    return <cnp.ndarray>a


cdef str name_of(int dtype):
    return {cnp.NPY_FLOAT32: "float32", cnp.NPY_FLOAT64: "float64", cnp.NPY_INT64: "int64"}[dtype]


cdef object foreign_array(object a, str name, int dtype):
    if isinstance(a, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost: fill it first with {name}.filled(value)")
    if isinstance(a, np.ndarray):
        return np.asarray(a)
    if not hasattr(a, "__dlpack__"):
        raise TypeError(
            f"{name} must be a NumPy array (or a CPU object with __dlpack__), got {type(a).__name__}: "
            f"convert it with np.asarray({name}, dtype=np.{name_of(dtype)})")
    try:
        return np.from_dlpack(a)
    except Exception as error:
        raise TypeError(
            f"{name} is a {type(a).__module__}.{type(a).__name__} that cannot be read in place ({error}): pass it "
            f"detached, dense and on the CPU, or as a NumPy array") from error


cdef int refuse_array(object a, str name, int dtype) except -1:
    cdef str wanted = name_of(dtype)
    if a.dtype != np.dtype(wanted):
        raise TypeError(f"{name} must be {wanted}, got {a.dtype.str if a.dtype.byteorder == '>' else a.dtype}: convert "
                        f"it with {name}.astype(np.{wanted})")
    if not a.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous, got shape {a.shape} with strides {a.strides}: copy it with "
                         f"np.ascontiguousarray({name})")
    raise ValueError(f"{name} must be aligned to its {a.itemsize}-byte numbers, got address {a.ctypes.data:#x}: "
                     f"copy it with {name}.copy()")


cdef cnp.ndarray float32_array(object a, str name):
    return checked_array(a, name, cnp.NPY_FLOAT32)


cdef cnp.ndarray float64_array(object a, str name):
    return checked_array(a, name, cnp.NPY_FLOAT64)


cdef str shape_of(cnp.ndarray a):
    return str((<object>a).shape)


cdef cnp.ndarray float32_rows(object a, str name):
    cdef cnp.ndarray x = checked_array(a, name, cnp.NPY_FLOAT32)
    if x.ndim == 0:
        raise ValueError(f"{name} must have at least one dimension, got a scalar array: pass shape (..., features)")
    if cnp.PyArray_DIM(x, x.ndim - 1) == 0:
        raise ValueError(f"{name} has no columns to normalise over: its last axis must not be empty, got shape "
                         f"{shape_of(x)}")
    return x


cdef cnp.ndarray float32_like(object a, str name, cnp.ndarray other, str other_name):
    cdef cnp.ndarray x = checked_array(a, name, cnp.NPY_FLOAT32)
    if not cnp.PyArray_SAMESHAPE(x, other):
        raise ValueError(f"{name} must have the shape of {other_name}, {shape_of(other)}, got {shape_of(x)}")
    return x


# `why` tells what the shape means.
cdef cnp.ndarray array_of_shape(object a, str name, int dtype, int ndim, cnp.npy_intp *shape, str why):
    cdef cnp.ndarray x = checked_array(a, name, dtype)
    if x.ndim != ndim or not cnp.PyArray_CompareLists(cnp.PyArray_DIMS(x), shape, ndim):
        wanted = tuple([shape[i] for i in range(ndim)])
        raise ValueError(f"{name} must have shape {wanted}, {why}, got {shape_of(x)}")
    return x


cdef cnp.ndarray float32_features(object a, str name, int ndim, cnp.npy_intp *shape):
    if a is None:
        return None
    return array_of_shape(a, name, cnp.NPY_FLOAT32, ndim, shape, "one value per feature")


cdef cnp.ndarray float32_vector(object a, str name, cnp.npy_intp n):
    return float32_features(a, name, 1, &n)


cdef cnp.ndarray int64_vector(object a, str name):
    cdef cnp.ndarray x = checked_array(a, name, cnp.NPY_INT64)
    if x.ndim != 1:
        raise ValueError(f"{name} must have one dimension, a number per sample, got shape {shape_of(x)}")
    return x


# One number (k = 1) or k numbers for each of n samples: shape (n,) or (n, k).
cdef cnp.ndarray per_sample(object a, str name, int dtype, ptrdiff_t n, ptrdiff_t k):
    cdef cnp.npy_intp[2] shape = [n, k]
    if k == 1:
        return array_of_shape(a, name, dtype, 1, shape, "one number per sample")
    return array_of_shape(a, name, dtype, 2, shape, "one row per sample")


cdef bint is_channels_last(cnp.ndarray x, object channel_axis) except -1:
    try:
        wanted = operator.index(channel_axis)
    except TypeError:
        raise TypeError(
            f"channel_axis must be 1 or -1, got {type(channel_axis).__name__} {channel_axis!r:.60}") from None
    if wanted not in (1, -1, x.ndim - 1):
        raise ValueError(f"channel_axis must be 1 (channels first) or -1 (channels last), got {wanted}")
    return wanted != 1


cdef cnp.ndarray float64_statistics(object a, str name, int ndim, cnp.npy_intp *shape):
    return array_of_shape(a, name, cnp.NPY_FLOAT64, ndim, shape, "as the forward pass returned it")


cdef cnp.ndarray writable(cnp.ndarray a, str name):
    if not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError(f"{name} is read-only and would be written to: pass a writable array, such as {name}.copy()")
    return a


cdef cnp.ndarray output(object out, cnp.ndarray like, str name):
    if out is None:
        return new_array(like.ndim, cnp.PyArray_DIMS(like), cnp.NPY_FLOAT32)
    cdef cnp.ndarray y = float32_like(out, "out", like, name)
    writable(y, "out")
    refuse_overlap(y, "out", like, name, True)
    return y


cdef int refuse_overlaps(cnp.ndarray x, str name, tuple others) except -1:
    for other, other_name in others:
        refuse_overlap(x, name, other, other_name, False)
    return 0


cdef int refuse_overlap(cnp.ndarray out, str out_name, cnp.ndarray a, str name, bint same_is_fine) except -1:
    if a is None:
        return 0
    cdef uintptr_t out_start = <uintptr_t>cnp.PyArray_DATA(out), a_start = <uintptr_t>cnp.PyArray_DATA(a)
    cdef uintptr_t out_end = out_start + cnp.PyArray_NBYTES(out), a_end = a_start + cnp.PyArray_NBYTES(a)
    if out_start >= a_end or a_start >= out_end:
        return 0
    if same_is_fine and out_start == a_start and out_end == a_end:
        return 0
    cdef str itself = f", or {name} itself" if same_is_fine else ""
    raise ValueError(f"{out_name} overlaps {name} in memory, which would be overwritten while it is read: pass a "
                     f"separate array{itself}")

# ---- numbers ----


cdef double number(object value, str name, double low, double high) except? -1:
    cdef double v
    if PyFloat_CheckExact(value):
        v = PyFloat_AS_DOUBLE(value)
    elif isinstance(value, np.ndarray) and value.ndim or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {type(value).__name__} {value!r:.60}")
    else:
        try:
            v = float(value)
        except OverflowError:
            raise ValueError(f"{name} must be finite, got a number too large for a float") from None
    if not low <= v <= high:
        bounds = f"finite and at least {low:g}" if high == DBL_MAX else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} must be {bounds}, got {value}")
    return v


cdef struct Rounding:
    double wide
    float narrow


cdef void round_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Rounding *a = <Rounding *>args
    a.narrow = <float>a.wide


cdef float float32_number(object value, str name, double low, double high) except? -1:
    cdef Rounding a
    a.wide = number(value, name, low, high)
    run_task(round_task, &a, 0)
    return a.narrow


cdef object whole_number(object value, str name):
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {type(value).__name__} {value!r:.60}") from None


cdef uint64_t unsigned64(object value, str name) except? 0xFFFFFFFFFFFFFFFF:
    whole = whole_number(value, name)
    if not 0 <= whole < 1 << 64:
        raise ValueError(f"{name} must be from 0 to 2**64 - 1, got {whole}")
    return whole


# `wanted` tells the range in words.
cdef int check_range(const Number *values, ptrdiff_t n, ptrdiff_t step, Number low, Number high, str name,
                     str wanted) except -1:
    cdef ptrdiff_t i
    for i in range(n):
        if not low <= values[i * step] <= high:
            got = np.float32(values[i * step]) if Number is float else values[i * step]
            raise ValueError(f"{name} must hold {wanted}, got {got!s}")
    return 0
