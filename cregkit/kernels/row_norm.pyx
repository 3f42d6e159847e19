# The norms over rows: checks, allocation and the loop over blocks of rows. The maths is in csrc/row_norm.h.
cimport numpy as cnp
from libc.float cimport DBL_MAX
from libc.stddef cimport ptrdiff_t
from libc.string cimport memset

from cregkit.kernels._arrays cimport (
    doubles, float32_like, float32_rows, float32_vector, float64_statistics, floats, new_array, new_vector, number,
    output, refuse_overlap,
)
from cregkit.kernels._csrc cimport CREG_LAYER_NORM, creg_norm
from cregkit.kernels._runtime cimport kernels, rows_per_task, streams
from cregkit.kernels._threads cimport run_parallel
from cregkit.kernels.column_sums cimport chunks_of, run_chunks
from cregkit.kernels.wide_rows cimport is_wide, leaves_threads_idle, wide_backward, wide_forward

cnp.import_array()


cdef void begin_call(creg_norm *n, int kind, cnp.ndarray x, int arrays) noexcept:
    memset(n, 0, sizeof(n[0]))
    n.kind, n.cols = kind, cnp.PyArray_DIM(x, x.ndim - 1)
    n.rows = cnp.PyArray_MultiplyList(cnp.PyArray_DIMS(x), x.ndim - 1)
    n.stream = streams(n.rows * n.cols, arrays)


cdef cnp.ndarray row_statistic(cnp.ndarray x):
    return new_array(x.ndim - 1, cnp.PyArray_DIMS(x), cnp.NPY_FLOAT64)


# ---- forward ----


cdef void forward_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef const creg_norm *n = <const creg_norm *>args
    cdef ptrdiff_t first = task * n.step, rows = min(n.step, n.rows - first)
    if n.residual != NULL:
        kernels().dropout_add_norm_forward(n, first, rows)
    else:
        kernels().norm_forward(n, first, rows)


cdef void affine_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef const creg_norm *n = <const creg_norm *>args
    cdef ptrdiff_t first = task * n.step
    kernels().affine_rows(n, first, min(n.step, n.rows - first))


# Whether x_hat * gamma may overflow although x_hat * gamma + beta is finite. A bias below 2^100 cannot make that
# difference: it is lost in rounding.
cdef bint gain_may_overflow(const creg_norm *n) noexcept nogil:
    return n.beta != NULL and not kernels().are_at_most(n.beta, 2.0**100, n.cols)


# Where the gain may overflow, a second loop applies gain and bias in float64.
cdef int run_forward(creg_norm *n) except -1:
    cdef const float *gamma = n.gamma
    cdef const float *beta = n.beta
    cdef bint apart = gain_may_overflow(n)
    if apart:
        n.gamma = n.beta = NULL
    n.step = rows_per_task(n.rows, n.cols)
    if is_wide(n) and leaves_threads_idle(n):
        wide_forward(n)
    else:
        run_parallel(forward_task, n, chunks_of(n), n.rows * n.cols)
    if apart:
        n.gamma, n.beta = gamma, beta
        run_parallel(affine_task, n, chunks_of(n), n.rows * n.cols)
    return 0


cdef cnp.ndarray norm_forward(int kind, cnp.ndarray x, object gamma, object beta, object eps, object out,
                              cnp.ndarray mean, cnp.ndarray rstd):
    cdef creg_norm n
    begin_call(&n, kind, x, 2)
    cdef cnp.ndarray gamma_ = float32_vector(gamma, "gamma", n.cols), beta_ = float32_vector(beta, "beta", n.cols)
    cdef cnp.ndarray y = output(out, x, "x")
    if out is not None:
        refuse_overlap(y, "out", gamma_, "gamma", False)
        refuse_overlap(y, "out", beta_, "beta", False)
    n.eps = number(eps, "eps", 0.0, DBL_MAX)
    n.x, n.gamma, n.beta, n.y = floats(x), floats(gamma_), floats(beta_), floats(y)
    n.mean, n.rstd = doubles(mean), doubles(rstd)
    run_forward(&n)
    return y


# ---- backward ----


cdef int run_backward(creg_norm *n) except -1:
    return wide_backward(n) if is_wide(n) else run_chunks(n)


cdef tuple norm_backward(int kind, object dy, object x, object mean, object rstd, object gamma, object out):
    cdef cnp.ndarray x_ = float32_rows(x, "x"), dy_ = float32_like(dy, "dy", x_, "x"), mean_ = None
    cdef creg_norm n
    begin_call(&n, kind, x_, 3)
    cdef bint centred = kind == CREG_LAYER_NORM
    if centred:
        mean_ = float64_statistics(mean, "mean", x_.ndim - 1, cnp.PyArray_DIMS(x_))
    cdef cnp.ndarray rstd_ = float64_statistics(rstd, "rstd", x_.ndim - 1, cnp.PyArray_DIMS(x_))
    cdef cnp.ndarray gamma_ = float32_vector(gamma, "gamma", n.cols)
    cdef cnp.ndarray dx = output(out, x_, "x")
    if out is not None:
        refuse_overlap(dx, "out", dy_, "dy", True)
        for other, name in ((mean_, "mean"), (rstd_, "rstd"), (gamma_, "gamma")):
            refuse_overlap(dx, "out", other, name, False)
    cdef cnp.ndarray dgamma = None, dbeta = None
    if gamma_ is not None:
        dgamma = new_vector(n.cols, cnp.NPY_FLOAT32)
        dbeta = new_vector(n.cols, cnp.NPY_FLOAT32) if centred else None
    n.dy, n.x, n.gamma, n.mean, n.rstd = floats(dy_), floats(x_), floats(gamma_), doubles(mean_), doubles(rstd_)
    n.dx, n.dgamma, n.dbeta = floats(dx), floats(dgamma), floats(dbeta)
    run_backward(&n)
    return (dx, dgamma, dbeta) if centred else (dx, dgamma)
