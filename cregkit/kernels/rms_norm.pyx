# RMS norm over the last axis: checks, allocation and the loop over blocks of rows. The maths is in csrc/rms_norm.h.
cimport numpy as cnp
from libc.float cimport DBL_MAX
from libc.stddef cimport ptrdiff_t

from cregkit.kernels._arrays cimport (
    doubles, float32_like, float32_rows, float32_vector, float64_statistics, floats, new_array, new_vector,
    number, output, refuse_overlap,
)
from cregkit.kernels._csrc cimport creg_columns, creg_wide
from cregkit.kernels._runtime cimport kernels, rows_per_task, streams
from cregkit.kernels._threads cimport run_parallel
from cregkit.kernels.column_sums cimport NormBackward, chunk_dgamma, kept_for_sums, run_chunks, waits
from cregkit.kernels.wide_rows cimport is_wide, leaves_threads_idle, wide_backward, wide_call, wide_forward

cnp.import_array()


cdef struct Forward:
    const float *x
    const float *gamma
    float *y
    double *rstd
    ptrdiff_t rows, cols, step
    double eps
    int stream


cdef void forward_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Forward *a = <Forward *>args
    cdef ptrdiff_t i = task * a.step
    kernels().rms_norm_forward(a.x + i * a.cols, a.gamma, a.y + i * a.cols, a.rstd + i if a.rstd != NULL else NULL,
                               min(a.step, a.rows - i), a.cols, a.eps, a.stream)


cdef cnp.ndarray forward(cnp.ndarray x, object gamma_, object eps, object out, double *rstd):
    cdef ptrdiff_t cols = cnp.PyArray_DIM(x, x.ndim - 1)
    cdef cnp.ndarray gamma = float32_vector(gamma_, "gamma", cols)
    cdef cnp.ndarray y = output(out, x, "x")
    if out is not None:
        refuse_overlap(y, "out", gamma, "gamma", False)
    cdef Forward a
    a.x, a.gamma, a.y, a.rstd = floats(x), floats(gamma), floats(y), rstd
    a.cols, a.rows = cols, cnp.PyArray_SIZE(x) // cols
    a.step = rows_per_task(a.rows, cols)
    a.eps = number(eps, "eps", 0.0, DBL_MAX)
    a.stream = streams(a.rows * cols, 2)
    cdef creg_wide w
    if leaves_threads_idle(a.rows, cols):
        w = wide_call(True, a.rows, cols, a.stream)
        w.x, w.gamma, w.y, w.eps = a.x, a.gamma, a.y, a.eps
        wide_forward(&w, NULL, rstd)
    else:
        run_parallel(forward_task, &a, (a.rows + a.step - 1) // a.step, a.rows * cols)
    return y


def rms_norm(x, gamma=None, eps=1e-6, *, out=None):
    """RMS norm over the last axis.

    ``y = x / sqrt(mean(x**2) + eps) * gamma``, with the mean square of each row.

    Parameters
    ----------
    x : float32 array, shape (..., features), C-contiguous
    gamma : float32 array, shape (features,), optional
        Gain; without it 1.
    eps : float
        Added to the mean square; finite, at least 0.
    out : float32 array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : float32 array like ``x``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout, shape, a read-only or overlapping ``out``, no columns, or a bad ``eps``.

    Zhang and Sennrich (2019), "Root Mean Square Layer Normalization", arXiv:1910.07467.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[1, 2, 3, 4]], np.float32)
    >>> ck.rms_norm(x).round(3)
    array([[0.365, 0.73 , 1.095, 1.461]], dtype=float32)
    """
    return forward(float32_rows(x, "x"), gamma, eps, out, NULL)


def rms_norm_forward(x, gamma=None, eps=1e-6, *, out=None):
    """RMS norm, with what :func:`rms_norm_backward` needs.

    Arguments and errors are those of :func:`rms_norm`.

    Returns
    -------
    y : float32 array like ``x``
    rstd : float64 array, shape ``x.shape[:-1]``
        ``1 / sqrt(mean(x**2) + eps)`` of each row. float64, because float32 cannot hold it for every finite row.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> y, rstd = ck.rms_norm_forward(np.array([[1, 2, 3, 4]], np.float32))
    >>> rstd.round(3)
    array([0.365])
    """
    cdef cnp.ndarray rows = float32_rows(x, "x")
    cdef cnp.ndarray rstd = new_array(rows.ndim - 1, cnp.PyArray_DIMS(rows), cnp.NPY_FLOAT64)
    return forward(rows, gamma, eps, out, doubles(rstd)), rstd


cdef void backward_task(void *args, ptrdiff_t chunk) noexcept nogil:
    cdef NormBackward *a = <NormBackward *>args
    cdef creg_columns *c = &a.columns
    cdef ptrdiff_t i = chunk * c.step, at = i * c.cols
    if waits(a, chunk):
        return
    kernels().rms_norm_backward(c.dy + at, c.x + at, c.rstd + i, a.gamma, a.dx + at, chunk_dgamma(a, chunk),
                                min(c.step, c.rows - i), c.cols, a.stream)


def rms_norm_backward(dy, x, rstd, gamma=None, *, out=None):
    """Gradients of RMS norm.

    With ``x_hat = x * rstd`` and ``g = dy * gamma``: ``dx = rstd * (g - x_hat * mean(g * x_hat))``, the mean taken over
    each row; ``dgamma = sum(dy * x_hat)`` over all rows.

    Parameters
    ----------
    dy, x : float32 arrays, shape (..., features), C-contiguous
        Gradient of the output, and the input of the forward pass.
    rstd : float64 array, shape ``x.shape[:-1]``
        As :func:`rms_norm_forward` returned it.
    gamma : float32 array, shape (features,), optional
        The gain of the forward pass.
    out : float32 array like ``x``, optional
        Receives ``dx``; may be ``dy`` or ``x`` itself.

    Returns
    -------
    dx : float32 array like ``x``
    dgamma : float32 array, shape (features,); None without ``gamma``

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
    >>> y, rstd = ck.rms_norm_forward(x)
    >>> dx, dgamma = ck.rms_norm_backward(dy, x, rstd, np.ones(4, np.float32))
    >>> dx.round(3), dgamma.round(3)
    (array([[ 0.353, -0.024, -0.037, -0.049]], dtype=float32), array([0.365, 0.   , 0.   , 0.   ], dtype=float32))
    """
    cdef cnp.ndarray x_ = float32_rows(x, "x"), dy_ = float32_like(dy, "dy", x_, "x")
    cdef ptrdiff_t cols = cnp.PyArray_DIM(x_, x_.ndim - 1)
    cdef cnp.ndarray rstd_ = float64_statistics(rstd, "rstd", x_.ndim - 1, cnp.PyArray_DIMS(x_))
    cdef cnp.ndarray gamma_ = float32_vector(gamma, "gamma", cols)
    cdef cnp.ndarray dx = output(out, x_, "x")
    if out is not None:
        refuse_overlap(dx, "out", dy_, "dy", True)
        for other, name in ((rstd_, "rstd"), (gamma_, "gamma")):
            refuse_overlap(dx, "out", other, name, False)
    cdef cnp.ndarray dgamma = None if gamma_ is None else new_vector(cols, cnp.NPY_FLOAT32)
    cdef ptrdiff_t rows = cnp.PyArray_SIZE(x_) // cols
    cdef int stream = streams(rows * cols, 3)
    cdef creg_wide w
    if is_wide(rows, cols):
        if gamma_ is not None:
            x_, dy_ = kept_for_sums(x_, dx, dy_), kept_for_sums(dy_, dx, dy_)
        w = wide_call(True, rows, cols, stream)
        w.dy, w.x, w.gamma, w.dx, w.dgamma = floats(dy_), floats(x_), floats(gamma_), floats(dx), floats(dgamma)
        wide_backward(&w, NULL, doubles(rstd_))
        return dx, dgamma
    cdef NormBackward a
    a.columns.dy, a.columns.x, a.columns.mean, a.columns.rstd = floats(dy_), floats(x_), NULL, doubles(rstd_)
    a.columns.dgamma, a.columns.dbeta, a.columns.rows, a.columns.cols = floats(dgamma), NULL, rows, cols
    a.gamma, a.dx, a.stream = floats(gamma_), floats(dx), stream
    run_chunks(&a, backward_task, &a)
    return dx, dgamma
