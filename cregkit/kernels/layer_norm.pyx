# Layer norm over the last axis: checks, allocation and the loop over blocks of rows. The maths is in csrc/layer_norm.h.
cimport numpy as cnp
from libc.float cimport DBL_MAX
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._runtime cimport (
    creg_wide, doubles, float32_like, float32_rows, float32_vector, float64_statistics, floats, kernels,
    merge_columns, new_array, new_vector, number, output, parallel_for, refuse_overlap, rows_per_chunk,
    rows_per_task, run_parallel, streams,
)
from cregkit.kernels.wide_rows cimport is_wide, leaves_threads_idle, wide_backward, wide_call, wide_forward

cnp.import_array()


cdef struct Forward:
    const float *x
    const float *gamma
    const float *beta
    float *y
    double *mean
    double *rstd
    ptrdiff_t rows, cols, step
    double eps
    int stream


cdef void forward_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Forward *a = <Forward *>args
    cdef ptrdiff_t i = task * a.step
    kernels().layer_norm_forward(a.x + i * a.cols, a.gamma, a.beta, a.y + i * a.cols,
                                 a.mean + i if a.mean != NULL else NULL, a.rstd + i if a.rstd != NULL else NULL,
                                 min(a.step, a.rows - i), a.cols, a.eps, a.stream)


cdef cnp.ndarray forward(cnp.ndarray x, object gamma_, object beta_, object eps, object out, double *mean,
                         double *rstd):
    cdef ptrdiff_t cols = cnp.PyArray_DIM(x, x.ndim - 1)
    cdef cnp.ndarray gamma = float32_vector(gamma_, "gamma", cols), beta = float32_vector(beta_, "beta", cols)
    cdef cnp.ndarray y = output(out, x, "x")
    if out is not None:
        refuse_overlap(y, "out", gamma, "gamma", False)
        refuse_overlap(y, "out", beta, "beta", False)
    cdef Forward a
    a.x, a.gamma, a.beta, a.y, a.mean, a.rstd = floats(x), floats(gamma), floats(beta), floats(y), mean, rstd
    a.cols, a.rows = cols, cnp.PyArray_SIZE(x) // cols
    a.step = rows_per_task(a.rows, cols)
    a.eps = number(eps, "eps", 0.0, DBL_MAX)
    a.stream = streams(a.rows * cols, 2)
    cdef creg_wide w
    if leaves_threads_idle(a.rows, cols):
        w = wide_call(False, a.rows, cols, a.stream)
        w.x, w.gamma, w.beta, w.y, w.eps = a.x, a.gamma, a.beta, a.y, a.eps
        wide_forward(&w, mean, rstd)
    else:
        run_parallel(forward_task, &a, (a.rows + a.step - 1) // a.step, a.rows * cols)
    return y


def layer_norm(x, gamma=None, beta=None, eps=1e-5, *, out=None):
    """Layer norm over the last axis.

    ``y = (x - mean(x)) / sqrt(var(x) + eps) * gamma + beta``, with the mean and biased variance of each row.

    Parameters
    ----------
    x : float32 array, shape (..., features), C-contiguous
    gamma, beta : float32 arrays, shape (features,), optional
        Gain and bias; without them 1 and 0.
    eps : float
        Added to the variance; finite, at least 0.
    out : float32 array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : float32 array like ``x``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout, shape, a read-only or overlapping ``out``, no columns, or a bad ``eps``.

    Ba, Kiros and Hinton (2016), "Layer Normalization", arXiv:1607.06450.
    """
    return forward(float32_rows(x, "x"), gamma, beta, eps, out, NULL, NULL)


def layer_norm_forward(x, gamma=None, beta=None, eps=1e-5, *, out=None):
    """Layer norm, with what :func:`layer_norm_backward` needs.

    Arguments and errors are those of :func:`layer_norm`.

    Returns
    -------
    y : float32 array like ``x``
    mean, rstd : float64 arrays, shape ``x.shape[:-1]``
        Mean and ``1 / sqrt(var + eps)`` of each row. float64, because a float32 mean of numbers around 1e6 would cost
        the gradients their accuracy.
    """
    cdef cnp.ndarray rows = float32_rows(x, "x")
    cdef cnp.ndarray mean = new_array(rows.ndim - 1, cnp.PyArray_DIMS(rows), cnp.NPY_FLOAT64)
    cdef cnp.ndarray rstd = new_array(rows.ndim - 1, cnp.PyArray_DIMS(rows), cnp.NPY_FLOAT64)
    return forward(rows, gamma, beta, eps, out, doubles(mean), doubles(rstd)), mean, rstd


cdef struct Backward:
    const float *dy
    const float *x
    const double *mean
    const double *rstd
    const float *gamma
    float *dx
    float *partial  # dgamma of each chunk of rows, then dbeta of each; NULL without gamma
    ptrdiff_t rows, cols, step, chunks
    int stream


cdef void backward_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Backward *a = <Backward *>args
    cdef ptrdiff_t i = task * a.step, at = i * a.cols
    cdef float *dgamma = NULL
    cdef float *dbeta = NULL
    if a.partial != NULL:
        dgamma = a.partial + task * a.cols
        dbeta = dgamma + a.chunks * a.cols
    kernels().layer_norm_backward(a.dy + at, a.x + at, a.mean + i, a.rstd + i, a.gamma, a.dx + at, dgamma, dbeta,
                                  min(a.step, a.rows - i), a.cols, a.stream)


def layer_norm_backward(dy, x, mean, rstd, gamma=None, *, out=None):
    """Gradients of layer norm.

    With ``x_hat = (x - mean) * rstd`` and ``g = dy * gamma``, means taken over each row:
    ``dx = rstd * (g - mean(g) - x_hat * mean(g * x_hat))``; over all rows ``dgamma = sum(dy * x_hat)``, ``dbeta =
    sum(dy)``.

    Parameters
    ----------
    dy, x : float32 arrays, shape (..., features), C-contiguous
        Gradient of the output, and the input of the forward pass.
    mean, rstd : float64 arrays, shape ``x.shape[:-1]``
        As :func:`layer_norm_forward` returned them.
    gamma : float32 array, shape (features,), optional
        The gain of the forward pass.
    out : float32 array like ``x``, optional
        Receives ``dx``; may be ``dy`` or ``x`` itself.

    Returns
    -------
    dx : float32 array like ``x``
    dgamma, dbeta : float32 arrays, shape (features,); None without ``gamma``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, or a read-only or overlapping ``out``.
    """
    cdef cnp.ndarray x_ = float32_rows(x, "x"), dy_ = float32_like(dy, "dy", x_, "x")
    cdef ptrdiff_t cols = cnp.PyArray_DIM(x_, x_.ndim - 1)
    cdef cnp.ndarray mean_ = float64_statistics(mean, "mean", x_.ndim - 1, cnp.PyArray_DIMS(x_))
    cdef cnp.ndarray rstd_ = float64_statistics(rstd, "rstd", x_.ndim - 1, cnp.PyArray_DIMS(x_))
    cdef cnp.ndarray gamma_ = float32_vector(gamma, "gamma", cols)
    cdef cnp.ndarray dx = output(out, x_, "x")
    if out is not None:
        refuse_overlap(dx, "out", dy_, "dy", True)
        for other, name in ((mean_, "mean"), (rstd_, "rstd"), (gamma_, "gamma")):
            refuse_overlap(dx, "out", other, name, False)
    cdef Backward a
    a.dy, a.x, a.gamma, a.dx = floats(dy_), floats(x_), floats(gamma_), floats(dx)
    a.mean, a.rstd = doubles(mean_), doubles(rstd_)
    a.cols, a.rows = cols, cnp.PyArray_SIZE(x_) // cols
    a.step = rows_per_task(a.rows, cols) if gamma_ is None else rows_per_chunk(a.rows, cols)
    a.chunks = (a.rows + a.step - 1) // a.step
    a.stream = streams(a.rows * cols, 3)
    cdef cnp.ndarray dgamma = None if gamma_ is None else new_vector(cols, cnp.NPY_FLOAT32)
    cdef cnp.ndarray dbeta = None if gamma_ is None else new_vector(cols, cnp.NPY_FLOAT32)
    cdef float *sums[2]
    sums[0], sums[1] = floats(dgamma), floats(dbeta)
    cdef creg_wide w
    if is_wide(a.rows, cols):
        w = wide_call(False, a.rows, cols, a.stream)
        w.dy, w.x, w.gamma, w.dx = a.dy, a.x, a.gamma, a.dx
        w.dgamma, w.dbeta = sums[0], sums[1]
        wide_backward(&w, a.mean, a.rstd)
        return dx, dgamma, dbeta
    cdef cnp.ndarray partial = None if gamma_ is None else new_vector(2 * a.chunks * cols, cnp.NPY_FLOAT32)
    a.partial = floats(partial)
    with nogil:
        parallel_for(backward_task, &a, a.chunks, a.rows * cols)
        if a.partial != NULL:
            merge_columns(a.partial, a.chunks, cols, sums[0])
            merge_columns(a.partial + a.chunks * cols, a.chunks, cols, sums[1])
    return dx, dgamma, dbeta
