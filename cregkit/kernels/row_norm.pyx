# The norms over rows: checks, allocation and the loop over blocks of rows. The maths is in csrc/row_norm.h.
import operator

cimport numpy as cnp
from libc.float cimport DBL_MAX, FLT_MAX
from libc.stddef cimport ptrdiff_t
from libc.string cimport memcpy, memset

from cregkit.kernels._arrays cimport (
    bytes_of, data, doubles, float64_statistics, floats, new_array, number, output, parameters, refuse_overlap,
    stored_type, tensor, tensor_like,
)
from cregkit.kernels._csrc cimport CREG_FLOAT32, CREG_LAYER_NORM, creg_norm
from cregkit.kernels._runtime cimport kernels, kernels_of, rows_per_task, streams
from cregkit.kernels._stored cimport round_elements, widen_elements, widened
from cregkit.kernels._threads cimport ELEMENTS_WORTH_RELEASE, parallel_for, run_parallel
from cregkit.kernels._workspace cimport release, reserve, Workspace
from cregkit.kernels.channel_norm cimport across_backward, across_forward
from cregkit.kernels.column_sums cimport chunks_of, new_work, run_chunks
from cregkit.kernels.wide_rows cimport is_wide, leaves_threads_idle, wide_backward, wide_forward

cnp.import_array()

cdef enum:
    MOST_DIMENSIONS = 64  # of a NumPy array


# ---- axes ----


# One axis, from 0 to x.ndim - 1.
cdef int axis_of(object axis, cnp.ndarray x) except -1:
    try:
        index = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis must be an int or a tuple of ints, got {type(axis).__name__} {axis!r:.60}") from None
    if not -x.ndim <= index < x.ndim:
        raise ValueError(f"axis must be from {-x.ndim} to {x.ndim - 1} for x of shape {(<object>x).shape}, got {index}")
    return index % x.ndim


# row_axes() of any argument.
cdef Axes checked_row_axes(object axis, cnp.ndarray x) except *:
    if x.ndim == 0:
        raise ValueError("x must have at least one dimension, got a scalar array: pass shape (..., features)")
    cdef list named = sorted([axis_of(one, x) for one in (axis if isinstance(axis, tuple) else (axis,))])
    cdef int count = len(set(named))
    cdef tuple shape = (<object>x).shape, last = tuple(range(-count, 0))
    if not 0 < count == len(named):
        raise ValueError(f"axis must name at least one axis, and each only once, got {axis}")
    if named[count - 1] - named[0] != count - 1:
        raise ValueError(f"axis must name one axis of x, or several neighbouring ones such as (-2, -1), got {axis} for "
                         f"x of shape {shape}: pass np.ascontiguousarray(np.moveaxis(x, {tuple(named)}, {last})) and "
                         f"axis={last}")
    for i in named:
        if shape[i] == 0:
            raise ValueError(f"x has no columns to normalise over: its axis {i} must not be empty, got shape {shape}")
    return Axes(named[0], count)


# The axes of x that form a row. Here alone the norms decide which axes they support.
cdef Axes row_axes(object axis, cnp.ndarray x) except *:
    if type(axis) is int and axis == -1 and x.ndim > 0 and cnp.PyArray_DIM(x, x.ndim - 1) > 0:
        return Axes(x.ndim - 1, 1)
    return checked_row_axes(axis, x)


cdef void begin_call(creg_norm *n, int kind, cnp.ndarray x, Axes axes, int arrays) noexcept:
    memset(n, 0, sizeof(n[0]))
    cdef cnp.npy_intp *shape = cnp.PyArray_DIMS(x)
    cdef int after = axes.first + axes.count
    n.kind, n.stored = kind, stored_type(x)
    n.cols = cnp.PyArray_MultiplyList(shape + axes.first, axes.count)
    n.across = cnp.PyArray_MultiplyList(shape + after, x.ndim - after)
    n.rows = cnp.PyArray_MultiplyList(shape, axes.first) * n.across
    n.stream = streams(arrays * n.rows * n.cols * bytes_of(n.stored))


# The shape of x without the axes, and how many dimensions it has.
cdef int rows_shape(cnp.ndarray x, Axes axes, cnp.npy_intp *shape) noexcept:
    cdef int before = axes.first, after = x.ndim - before - axes.count
    memcpy(shape, cnp.PyArray_DIMS(x), before * sizeof(cnp.npy_intp))
    memcpy(shape + before, cnp.PyArray_DIMS(x) + before + axes.count, after * sizeof(cnp.npy_intp))
    return before + after


cdef cnp.ndarray row_statistic(cnp.ndarray x, Axes axes):
    cdef cnp.npy_intp[MOST_DIMENSIONS] shape
    cdef int ndim = rows_shape(x, axes, shape)
    return new_array(ndim, shape, cnp.NPY_FLOAT64)


cdef cnp.ndarray given_statistic(object a, str name, cnp.ndarray x, Axes axes):
    cdef cnp.npy_intp[MOST_DIMENSIONS] shape
    cdef int ndim = rows_shape(x, axes, shape)
    return float64_statistics(a, name, ndim, shape)


cdef cnp.ndarray row_parameter(object a, str name, cnp.ndarray x, Axes axes):
    return parameters(a, name, x, axes.count, cnp.PyArray_DIMS(x) + axes.first)


# ---- gain_offset ----


cdef struct Gain:
    const float *gamma
    float *gain
    double gain_offset
    ptrdiff_t n


cdef void gain_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef const Gain *a = <const Gain *>args
    cdef float gain_offset = <float>a.gain_offset
    cdef ptrdiff_t j
    for j in range(a.n):
        a.gain[j] = gain_offset + a.gamma[j]


cdef cnp.ndarray sum_gain(cnp.ndarray gamma, object gain_offset):
    cdef Gain a
    a.gain_offset = number(gain_offset, "gain_offset", -FLT_MAX, FLT_MAX)
    if a.gain_offset == 0.0:
        return gamma
    if gamma is None:
        raise ValueError(f"gain_offset must be 0 without gamma, got {gain_offset}: pass gamma, to which it is added")
    cdef cnp.ndarray gain = new_array(gamma.ndim, cnp.PyArray_DIMS(gamma), cnp.NPY_FLOAT32)
    a.gamma, a.gain, a.n = floats(gamma), floats(gain), cnp.PyArray_SIZE(gamma)
    run_parallel(gain_task, &a, 1, a.n)
    return gain


# ---- forward ----


cdef void forward_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef const creg_norm *n = <const creg_norm *>args
    cdef ptrdiff_t first = task * n.step, rows = min(n.step, n.rows - first)
    if n.residual != NULL:
        kernels_of(n.stored).dropout_add_norm_forward(n, first, rows)
    else:
        kernels_of(n.stored).norm_forward(n, first, rows)


cdef void statistics_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef const creg_norm *n = <const creg_norm *>args
    cdef ptrdiff_t first = task * n.step
    kernels_of(n.stored).norm_statistics(n, first, min(n.step, n.rows - first))


cdef void affine_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef const creg_norm *n = <const creg_norm *>args
    cdef ptrdiff_t first = task * n.step
    kernels().affine_rows(n, first, min(n.step, n.rows - first))


# Whether x_hat * gamma may overflow although x_hat * gamma + beta is finite. A bias below 2^100 cannot make that
# difference: it is lost in rounding.
cdef bint gain_may_overflow(const creg_norm *n) noexcept nogil:
    return n.beta != NULL and not kernels().are_at_most(n.beta, 2.0**100, n.cols)


# Float32 memory for a tensor, with its values if it is an input; NULL if there is none.
cdef float *new_copy(const creg_norm *n, const void *values, bint input, Workspace *w) except? NULL nogil:
    cdef ptrdiff_t elements = n.rows * n.cols
    cdef float *copy
    if values == NULL:
        return NULL
    copy = <float *>reserve(w, elements * sizeof(float))
    if input:
        widen_elements(n.stored, values, copy, elements)
    return copy


# Forward of 16-bit tensors on float32 copies.
cdef int forward_of_copies(creg_norm *n, Workspace *w) except -1 nogil:
    cdef creg_norm wide = n[0]
    cdef ptrdiff_t elements = n.rows * n.cols
    wide.stored = CREG_FLOAT32
    wide.x, wide.residual = new_copy(n, n.x, True, w), new_copy(n, n.residual, True, w)
    wide.y, wide.h = new_copy(n, n.y, False, w), new_copy(n, n.h, False, w)
    forward_in(&wide, w)
    round_elements(n.stored, <const float *>wide.y, n.y, elements)
    if n.h != NULL:
        round_elements(n.stored, <const float *>wide.h, n.h, elements)
    return 0


# Where the gain may overflow, a second loop applies gain and bias in float64.
cdef int forward_in(creg_norm *n, Workspace *w) except -1 nogil:
    if n.across > 1:
        across_forward(n)
        return 0
    if n.y == NULL:
        n.step = rows_per_task(n.rows, n.cols)
        parallel_for(statistics_task, n, chunks_of(n), n.rows * n.cols)
        return 0
    cdef const float *gamma = n.gamma
    cdef const float *beta = n.beta
    cdef bint apart = gain_may_overflow(n)
    if n.stored != CREG_FLOAT32 and (apart or (n.residual != NULL and is_wide(n))):
        return forward_of_copies(n, w)
    if apart:
        n.gamma = n.beta = NULL
    n.step = rows_per_task(n.rows, n.cols)
    new_work(n, w)
    if is_wide(n) and leaves_threads_idle(n):
        wide_forward(n, w)
    else:
        parallel_for(forward_task, n, chunks_of(n), n.rows * n.cols)
    if apart:
        n.gamma, n.beta = gamma, beta
        parallel_for(affine_task, n, chunks_of(n), n.rows * n.cols)
    return 0


cdef int run_forward(creg_norm *n) except -1 nogil:
    cdef Workspace w = Workspace(NULL)
    try:
        return forward_in(n, &w)
    finally:
        release(&w)


# Whether a call is large enough to release the GIL.
cdef bint is_large(const creg_norm *n) noexcept nogil:
    return n.rows * n.cols >= ELEMENTS_WORTH_RELEASE


cdef int call_forward(creg_norm *n) except -1:
    if not is_large(n):
        return run_forward(n)
    with nogil:
        return run_forward(n)


cdef object norm_forward(int kind, object x, object gamma, object beta, object eps, object axis, object gain_offset,
                         object out, bint saves):
    cdef cnp.ndarray x_ = tensor(x, "x"), mean = None, rstd = None
    cdef Axes axes = row_axes(axis, x_)
    if saves:
        rstd = row_statistic(x_, axes)
        if kind == CREG_LAYER_NORM:
            mean = row_statistic(x_, axes)
    cdef creg_norm n
    begin_call(&n, kind, x_, axes, 2)
    cdef cnp.ndarray gamma_ = row_parameter(gamma, "gamma", x_, axes), beta_ = row_parameter(beta, "beta", x_, axes)
    cdef cnp.ndarray gain = gain_of(widened(gamma_), gain_offset), bias = widened(beta_), y = output(out, x_, "x")
    if out is not None:
        refuse_overlap(y, "out", gamma_, "gamma", False)
        refuse_overlap(y, "out", beta_, "beta", False)
    n.eps = number(eps, "eps", 0.0, DBL_MAX)
    n.x, n.gamma, n.beta, n.y = data(x_), floats(gain), floats(bias), data(y)
    n.mean, n.rstd = doubles(mean), doubles(rstd)
    call_forward(&n)
    if not saves:
        return y
    return (y, rstd) if mean is None else (y, mean, rstd)


# ---- backward ----


cdef int run_backward(creg_norm *n) except -1 nogil:
    cdef Workspace w = Workspace(NULL)
    try:
        if n.across > 1:
            return across_backward(n, &w)
        return wide_backward(n, &w) if is_wide(n) else run_chunks(n, &w)
    finally:
        release(&w)


cdef int call_backward(creg_norm *n) except -1:
    if not is_large(n):
        return run_backward(n)
    with nogil:
        return run_backward(n)


cdef tuple norm_backward(int kind, object dy, object x, object mean, object rstd, object gamma, object axis,
                         object gain_offset, object out):
    cdef cnp.ndarray x_ = tensor(x, "x"), dy_ = tensor_like(dy, "dy", x_, "x"), mean_ = None
    cdef Axes axes = row_axes(axis, x_)
    cdef creg_norm n
    begin_call(&n, kind, x_, axes, 3)
    cdef bint centred = kind == CREG_LAYER_NORM
    if centred:
        mean_ = given_statistic(mean, "mean", x_, axes)
    cdef cnp.ndarray rstd_ = given_statistic(rstd, "rstd", x_, axes)
    cdef cnp.ndarray gamma_ = row_parameter(gamma, "gamma", x_, axes), gain = gain_of(widened(gamma_), gain_offset)
    cdef cnp.ndarray dx = output(out, x_, "x")
    if out is not None:
        refuse_overlap(dx, "out", dy_, "dy", True)
        for other, name in ((mean_, "mean"), (rstd_, "rstd"), (gamma_, "gamma")):
            refuse_overlap(dx, "out", other, name, False)
    cdef cnp.ndarray dgamma = None, dbeta = None
    if gamma_ is not None:
        dgamma = new_array(axes.count, cnp.PyArray_DIMS(gamma_), cnp.NPY_FLOAT32)
        dbeta = new_array(axes.count, cnp.PyArray_DIMS(gamma_), cnp.NPY_FLOAT32) if centred else None
    n.dy, n.x, n.gamma, n.mean, n.rstd = data(dy_), data(x_), floats(gain), doubles(mean_), doubles(rstd_)
    n.dx, n.dgamma, n.dbeta = data(dx), floats(dgamma), floats(dbeta)
    call_backward(&n)
    return (dx, dgamma, dbeta) if centred else (dx, dgamma)
