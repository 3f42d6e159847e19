# Layer norm over the last axis: checks, allocation and the loop over blocks of rows. The maths is in csrc/layer_norm.h.
cimport numpy as cnp
from libc.float cimport DBL_MAX
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._arrays cimport (
    doubles, float32_like, float32_rows, float32_vector, float64_statistics, floats, new_array, new_vector,
    number, output, refuse_overlap,
)
from cregkit.kernels._csrc cimport creg_columns, creg_wide
from cregkit.kernels._runtime cimport affine_rows, kernels, needs_affine_rows, rows_per_task, streams
from cregkit.kernels._threads cimport run_parallel
from cregkit.kernels.column_sums cimport (
    NormBackward, chunk_dbeta, chunk_dgamma, kept_for_sums, run_chunks, waits,
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
    cdef bint affine = needs_affine_rows(a.beta, cols)
    if affine:
        a.gamma = a.beta = NULL
    cdef creg_wide w
    if leaves_threads_idle(a.rows, cols):
        w = wide_call(False, a.rows, cols, a.stream)
        w.x, w.gamma, w.beta, w.y, w.eps = a.x, a.gamma, a.beta, a.y, a.eps
        wide_forward(&w, mean, rstd)
    else:
        run_parallel(forward_task, &a, (a.rows + a.step - 1) // a.step, a.rows * cols)
    if affine:
        affine_rows(y, gamma, beta)
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

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[1, 2, 3, 4]], np.float32)
    >>> ck.layer_norm(x).round(3)
    array([[-1.342, -0.447,  0.447,  1.342]], dtype=float32)
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

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> y, mean, rstd = ck.layer_norm_forward(np.array([[1, 2, 3, 4]], np.float32))
    >>> mean, rstd.round(3)
    (array([2.5]), array([0.894]))
    """
    cdef cnp.ndarray rows = float32_rows(x, "x")
    cdef cnp.ndarray mean = new_array(rows.ndim - 1, cnp.PyArray_DIMS(rows), cnp.NPY_FLOAT64)
    cdef cnp.ndarray rstd = new_array(rows.ndim - 1, cnp.PyArray_DIMS(rows), cnp.NPY_FLOAT64)
    return forward(rows, gamma, beta, eps, out, doubles(mean), doubles(rstd)), mean, rstd


cdef void backward_task(void *args, ptrdiff_t chunk) noexcept nogil:
    cdef NormBackward *a = <NormBackward *>args
    cdef creg_columns *c = &a.columns
    cdef ptrdiff_t i = chunk * c.step, at = i * c.cols
    if waits(a, chunk):
        return
    kernels().layer_norm_backward(c.dy + at, c.x + at, c.mean + i, c.rstd + i, a.gamma, a.dx + at,
                                  chunk_dgamma(a, chunk), chunk_dbeta(a, chunk), min(c.step, c.rows - i), c.cols,
                                  a.stream)


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

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[1, 2, 3, 4]], np.float32)
    >>> dy = np.array([[1, 0, 0, 0]], np.float32)
    >>> y, mean, rstd = ck.layer_norm_forward(x)
    >>> dx, dgamma, dbeta = ck.layer_norm_backward(dy, x, mean, rstd)
    >>> dx.round(3), dgamma
    (array([[ 0.268, -0.358, -0.089,  0.179]], dtype=float32), None)
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
    cdef cnp.ndarray dgamma = None, dbeta = None
    if gamma_ is not None:
        dgamma, dbeta = new_vector(cols, cnp.NPY_FLOAT32), new_vector(cols, cnp.NPY_FLOAT32)
    cdef ptrdiff_t rows = cnp.PyArray_SIZE(x_) // cols
    cdef int stream = streams(rows * cols, 3)
    cdef creg_wide w
    if is_wide(rows, cols):
        if gamma_ is not None:
            x_, dy_ = kept_for_sums(x_, dx, dy_), kept_for_sums(dy_, dx, dy_)
        w = wide_call(False, rows, cols, stream)
        w.dy, w.x, w.gamma, w.dx = floats(dy_), floats(x_), floats(gamma_), floats(dx)
        w.dgamma, w.dbeta = floats(dgamma), floats(dbeta)
        wide_backward(&w, doubles(mean_), doubles(rstd_))
        return dx, dgamma, dbeta
    cdef NormBackward a
    a.columns.dy, a.columns.x, a.columns.mean, a.columns.rstd = floats(dy_), floats(x_), doubles(mean_), doubles(rstd_)
    a.columns.dgamma, a.columns.dbeta, a.columns.rows, a.columns.cols = floats(dgamma), floats(dbeta), rows, cols
    a.gamma, a.dx, a.stream = floats(gamma_), floats(dx), stream
    run_chunks(&a, backward_task, &a)
    return dx, dgamma, dbeta
