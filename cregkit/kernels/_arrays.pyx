# Checks of arrays and numbers, and the allocation of outputs.
import operator

import numpy as np

from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from libc.float cimport DBL_MAX
from libc.stdint cimport uintptr_t

from cregkit.kernels._csrc cimport CREG_BFLOAT16, CREG_FLOAT16, CREG_FLOAT32
from cregkit.kernels._pool cimport pooled_array
from cregkit.kernels._threads cimport find_limit_for, run_task

cdef extern from "numpy/arrayobject.h":
    const int NPY_USERDEF  # the smallest number of a type that NumPy does not define

cnp.import_array()

# ---- arrays ----


cdef cnp.ndarray new_array(int ndim, cnp.npy_intp *shape, int dtype):
    find_limit_for(ndim, shape)
    return pooled_array(ndim, shape, dtype)


cdef cnp.ndarray new_vector(ptrdiff_t n, int dtype):
    cdef cnp.npy_intp shape = n
    return new_array(1, &shape, dtype)


cdef void *data(cnp.ndarray a) noexcept:
    return NULL if a is None else cnp.PyArray_DATA(a)


cdef float *floats(cnp.ndarray a) noexcept:
    return NULL if a is None else <float *>cnp.PyArray_DATA(a)


cdef double *doubles(cnp.ndarray a) noexcept:
    return NULL if a is None else <double *>cnp.PyArray_DATA(a)


cdef int stored_type(cnp.ndarray x) noexcept nogil:
    cdef int type = cnp.PyArray_TYPE(x)
    return CREG_FLOAT32 if type == cnp.NPY_FLOAT32 else CREG_FLOAT16 if type == cnp.NPY_FLOAT16 else CREG_BFLOAT16


# NumPy's number for ml_dtypes.bfloat16, known from the first array of this type; before, the number of no type.
cdef int bfloat16_number = -1


cdef bint is_bfloat16(cnp.ndarray a):
    global bfloat16_number
    cdef int number = cnp.PyArray_TYPE(a)
    if number < NPY_USERDEF:
        return False
    if number != bfloat16_number:
        scalar = (<object>a).dtype.type
        if (scalar.__module__, scalar.__name__) != ("ml_dtypes", "bfloat16"):
            return False
        bfloat16_number = number
    return True


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


cdef cnp.ndarray tensor(object a, str name):
    if not cnp.PyArray_CheckExact(a):
        a = foreign_array(a, name, cnp.NPY_FLOAT32)
    cdef int number = cnp.PyArray_TYPE(<cnp.ndarray>a)
    if number != cnp.NPY_FLOAT32 and number != cnp.NPY_FLOAT16 and not is_bfloat16(<cnp.ndarray>a):
        refuse_type(a, name, "float32, float16 or bfloat16", "np.float32")
    return checked_array(a, name, number)


# Raises unless a has the type of the tensor x or, where it is accepted, is float32.
cdef cnp.ndarray typed_array(object a, str name, cnp.ndarray x, str x_name, bint float32_accepted):
    if not cnp.PyArray_CheckExact(a):
        a = foreign_array(a, name, cnp.NPY_FLOAT32)
    cdef int number = cnp.PyArray_TYPE(<cnp.ndarray>a), wanted = cnp.PyArray_TYPE(x)
    if number != wanted and not (float32_accepted and number == cnp.NPY_FLOAT32):
        if not float32_accepted:
            refuse_type(a, name, f"{name_of(wanted)} like {x_name}", f"{x_name}.dtype")
        refuse_type(a, name, "float32" if wanted == cnp.NPY_FLOAT32 else f"float32 or {name_of(wanted)}", "np.float32")
    return checked_array(a, name, number)


cdef cnp.ndarray tensor_like(object a, str name, cnp.ndarray other, str other_name):
    return same_shape(typed_array(a, name, other, other_name, False), name, other, other_name)


cdef cnp.ndarray parameters(object a, str name, cnp.ndarray x, int ndim, cnp.npy_intp *shape):
    if a is None:
        return None
    return of_shape(typed_array(a, name, x, "x", True), name, ndim, shape, "one value per feature")


cdef str name_of(int dtype):
    return {cnp.NPY_FLOAT16: "float16", cnp.NPY_FLOAT32: "float32", cnp.NPY_FLOAT64: "float64",
            cnp.NPY_INT64: "int64"}.get(dtype, "bfloat16")


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
        if "bfloat16" in str(getattr(a, "dtype", "")):
            raise TypeError(
                f"{name} holds bfloat16, which NumPy cannot read in place: pass an array of ml_dtypes.bfloat16, for a "
                f"PyTorch tensor {name}.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)") from error
        raise TypeError(
            f"{name} is a {type(a).__module__}.{type(a).__name__} that cannot be read in place ({error}): pass it "
            f"detached, dense and on the CPU, or as a NumPy array") from error


# `cast` is the type to convert to.
cdef int refuse_type(object a, str name, str wanted, str cast) except -1:
    raise TypeError(f"{name} must be {wanted}, got {a.dtype.str if a.dtype.byteorder == '>' else a.dtype}: convert "
                    f"it with {name}.astype({cast})")


cdef int refuse_array(object a, str name, int dtype) except -1:
    if cnp.PyArray_TYPE(<cnp.ndarray>a) != dtype or cnp.PyArray_ISBYTESWAPPED(<cnp.ndarray>a):
        wanted = name_of(dtype)
        refuse_type(a, name, wanted, f"ml_dtypes.{wanted}" if wanted == "bfloat16" else f"np.{wanted}")
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


cdef cnp.ndarray tensor_rows(object a, str name):
    cdef cnp.ndarray x = tensor(a, name)
    if x.ndim == 0:
        raise ValueError(f"{name} must have at least one dimension, got a scalar array: pass shape (..., features)")
    if cnp.PyArray_DIM(x, x.ndim - 1) == 0:
        raise ValueError(f"{name} has no columns to normalise over: its last axis must not be empty, got shape "
                         f"{shape_of(x)}")
    return x


cdef cnp.ndarray float32_like(object a, str name, cnp.ndarray other, str other_name):
    return same_shape(checked_array(a, name, cnp.NPY_FLOAT32), name, other, other_name)


cdef cnp.ndarray same_shape(cnp.ndarray x, str name, cnp.ndarray other, str other_name):
    if not cnp.PyArray_SAMESHAPE(x, other):
        raise ValueError(f"{name} must have the shape of {other_name}, {shape_of(other)}, got {shape_of(x)}")
    return x


# `why` tells what the shape means.
cdef cnp.ndarray array_of_shape(object a, str name, int dtype, int ndim, cnp.npy_intp *shape, str why):
    return of_shape(checked_array(a, name, dtype), name, ndim, shape, why)


cdef cnp.ndarray of_shape(cnp.ndarray x, str name, int ndim, cnp.npy_intp *shape, str why):
    if x.ndim != ndim or not cnp.PyArray_CompareLists(cnp.PyArray_DIMS(x), shape, ndim):
        wanted = tuple([shape[i] for i in range(ndim)])
        raise ValueError(f"{name} must have shape {wanted}, {why}, got {shape_of(x)}")
    return x


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
        return new_array(like.ndim, cnp.PyArray_DIMS(like), cnp.PyArray_TYPE(like))
    cdef cnp.ndarray y = tensor_like(out, "out", like, name)
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


cdef uint64_t unsigned64(object value, str name) except? -1:
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
