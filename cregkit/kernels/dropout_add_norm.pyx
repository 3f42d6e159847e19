# Dropout, addition to the residual stream and layer norm or RMS norm in one pass: checks, allocation and the loop over
# blocks of rows. The maths is in csrc/dropout_add_norm.h.
cimport numpy as cnp
from libc.float cimport DBL_MAX
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint64_t
from libc.string cimport memset

from cregkit.kernels._arrays cimport (
    doubles, float32_like, float32_rows, float32_vector, float64_statistics, floats, new_array, new_vector,
    number, output, refuse_overlap,
)
from cregkit.kernels._csrc cimport (
    creg_columns, creg_dropout, creg_dropout_add_norm_backward, creg_dropout_add_norm_forward, creg_wide,
)
from cregkit.kernels._runtime cimport affine_rows, kernels, needs_affine_rows, rows_per_task, streams
from cregkit.kernels._threads cimport run_parallel
from cregkit.kernels.column_sums cimport NormBackward, chunk_dbeta, chunk_dgamma, run_chunks
from cregkit.kernels.dropout cimport Random, drops_all, random_of
from cregkit.kernels.wide_rows cimport is_wide, leaves_threads_idle, wide_backward, wide_call, wide_forward

cnp.import_array()


# As random_of(), but p = 0 draws nothing and needs no seed.
cdef Random draws_of(object p, object seed, object offset, ptrdiff_t n) except *:
    cdef double rate = number(p, "p", 0.0, 1.0)
    if seed is None and rate > 0.0:
        raise TypeError(f"seed is missing, and p = {p} draws random bits: pass seed= an int from 0 to 2**64 - 1")
    return random_of(rate, 0 if seed is None else seed, offset, n)


# NULL where there is nothing to draw.
cdef creg_dropout *draws(Random *random) noexcept nogil:
    return &random.dropout if random.fixed_p != 0 else NULL


cdef struct Forward:
    creg_dropout_add_norm_forward *kernel
    Random random
    const float *x
    const float *residual
    const float *gamma
    const float *beta
    float *y
    float *h
    double *mean  # NULL for RMS norm
    double *rstd
    ptrdiff_t rows, cols, step
    double eps
    int stream


cdef void forward_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Forward *a = <Forward *>args
    cdef ptrdiff_t i = task * a.step, at = i * a.cols
    cdef const float *x = a.x + at
    if drops_all(&a.random):
        x = NULL
    a.kernel(x, a.residual + at, a.gamma, a.beta, a.y + at, a.h + at, a.mean + i if a.mean != NULL else NULL,
             a.rstd + i, min(a.step, a.rows - i), a.cols, a.eps, a.random.offset + <uint64_t>at, draws(&a.random),
             a.stream)


cdef tuple forward(creg_dropout_add_norm_forward *kernel, bint centred, object x_, object residual_, object gamma_,
                   object beta_, object p, object eps, object seed, object offset, object out):
    cdef cnp.ndarray x = float32_rows(x_, "x"), residual = float32_like(residual_, "residual", x, "x")
    cdef ptrdiff_t size = cnp.PyArray_SIZE(x), cols = cnp.PyArray_DIM(x, x.ndim - 1)
    cdef cnp.ndarray gamma = float32_vector(gamma_, "gamma", cols), beta = float32_vector(beta_, "beta", cols)
    cdef Forward a
    a.kernel, a.random, a.eps = kernel, draws_of(p, seed, offset, size), number(eps, "eps", 0.0, DBL_MAX)
    cdef cnp.ndarray y = output(out, x, "x")
    if out is not None:
        refuse_overlap(y, "out", residual, "residual", True)
        refuse_overlap(y, "out", gamma, "gamma", False)
        refuse_overlap(y, "out", beta, "beta", False)
    cdef cnp.ndarray h = new_array(x.ndim, cnp.PyArray_DIMS(x), cnp.NPY_FLOAT32)
    cdef cnp.ndarray mean = new_array(x.ndim - 1, cnp.PyArray_DIMS(x), cnp.NPY_FLOAT64) if centred else None
    cdef cnp.ndarray rstd = new_array(x.ndim - 1, cnp.PyArray_DIMS(x), cnp.NPY_FLOAT64)
    a.x, a.residual, a.gamma, a.beta = floats(x), floats(residual), floats(gamma), floats(beta)
    a.y, a.h, a.mean, a.rstd = floats(y), floats(h), doubles(mean), doubles(rstd)
    a.cols, a.rows = cols, size // cols
    a.step, a.stream = rows_per_task(a.rows, cols), streams(size, 4)
    cdef bint affine = needs_affine_rows(a.beta, cols)
    if affine:
        a.gamma = a.beta = NULL
    cdef creg_wide w
    if leaves_threads_idle(a.rows, cols):
        w = wide_call(not centred, a.rows, cols, a.stream)
        w.residual, w.gamma, w.beta, w.y, w.h, w.eps = a.residual, a.gamma, a.beta, a.y, a.h, a.eps
        if not drops_all(&a.random):
            w.x, w.first, w.dropout = a.x, a.random.offset, draws(&a.random)
        wide_forward(&w, a.mean, a.rstd)
    else:
        run_parallel(forward_task, &a, (a.rows + a.step - 1) // a.step, size)
    if affine:
        affine_rows(y, gamma, beta)
    return (y, h, mean, rstd) if centred else (y, h, rstd)


def dropout_add_layer_norm_forward(x, residual, gamma=None, beta=None, p=0.0, eps=1e-5, *, seed=None, offset=0,
                                   out=None):
    """Dropout, addition and layer norm in one pass over memory.

    ``h = residual + dropout(x, p)``, ``y = layer_norm(h, gamma, beta, eps)``: the end of a sublayer of a transformer.
    The bits are those of :func:`dropout`, a NumPy addition and :func:`layer_norm_forward` one after another.

    Parameters
    ----------
    x, residual : float32 arrays, shape (..., features), C-contiguous
        What the sublayer gave, and what went into it.
    gamma, beta : float32 arrays, shape (features,), optional
        Gain and bias; without them 1 and 0.
    p : float
        Probability of dropping an element of ``x``, 0 to 1.
    eps : float
        Added to the variance; finite, at least 0.
    seed, offset : int
        As for :func:`dropout`; ``p = 0`` needs no seed.
    out : float32 array like ``x``, optional
        Receives ``y``; may be ``x`` or ``residual`` itself.

    Returns
    -------
    y, h : float32 arrays like ``x``
    mean, rstd : float64 arrays, shape ``x.shape[:-1]``
        Mean and ``1 / sqrt(var + eps)`` of each row of ``h``.

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout, shape, a read-only or overlapping ``out``, no columns, or a bad ``p``, ``eps``,
        ``seed`` or ``offset``.

    Vaswani et al. (2017), "Attention Is All You Need", arXiv:1706.03762.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x, residual = np.random.default_rng(0).standard_normal((2, 16, 64), dtype=np.float32)
    >>> y, h, mean, rstd = ck.dropout_add_layer_norm_forward(x, residual, p=0.1, seed=7)
    >>> np.array_equal(h, residual + ck.dropout(x, 0.1, seed=7))
    True
    >>> np.array_equal(y, ck.layer_norm(h))
    True
    """
    return forward(kernels().dropout_add_layer_norm_forward, True, x, residual, gamma, beta, p, eps, seed, offset, out)


def dropout_add_rms_norm_forward(x, residual, gamma=None, p=0.0, eps=1e-6, *, seed=None, offset=0, out=None):
    """Dropout, addition and RMS norm in one pass over memory.

    ``h = residual + dropout(x, p)``, ``y = rms_norm(h, gamma, eps)``. The bits are those of :func:`dropout`, a NumPy
    addition and :func:`rms_norm_forward` one after another. Arguments and errors are those of
    :func:`dropout_add_layer_norm_forward`, without ``beta``.

    Returns
    -------
    y, h : float32 arrays like ``x``
    rstd : float64 array, shape ``x.shape[:-1]``
        ``1 / sqrt(mean(h**2) + eps)`` of each row.

    Touvron et al. (2023), "LLaMA: Open and Efficient Foundation Language Models", arXiv:2302.13971.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x, residual = np.random.default_rng(0).standard_normal((2, 16, 64), dtype=np.float32)
    >>> y, h, rstd = ck.dropout_add_rms_norm_forward(x, residual, p=0.1, seed=7)
    >>> np.array_equal(h, residual + ck.dropout(x, 0.1, seed=7))
    True
    >>> np.array_equal(y, ck.rms_norm(h))
    True
    """
    return forward(kernels().dropout_add_rms_norm_forward, False, x, residual, gamma, None, p, eps, seed, offset, out)


cdef struct Backward:
    NormBackward norm  # at h, into dresidual
    creg_dropout_add_norm_backward *kernel
    Random random
    const float *dh
    float *dx  # NULL for p = 0


cdef void backward_task(void *args, ptrdiff_t chunk) noexcept nogil:
    cdef Backward *a = <Backward *>args
    cdef NormBackward *norm = &a.norm
    cdef creg_columns *c = &norm.columns
    cdef ptrdiff_t i = chunk * c.step, at = i * c.cols, rows = min(c.step, c.rows - i)
    cdef float *dx = a.dx + at if a.dx != NULL else NULL
    cdef const float *dh = a.dh
    if dh != NULL:
        dh = dh + at
    if drops_all(&a.random):
        memset(dx, 0, rows * c.cols * sizeof(float))
        dx = NULL
    a.kernel(c.dy + at, c.x + at, c.mean + i if c.mean != NULL else NULL, c.rstd + i, norm.gamma, dh, dx, norm.dx + at,
             chunk_dgamma(norm, chunk), chunk_dbeta(norm, chunk), rows, c.cols, a.random.offset + <uint64_t>at,
             draws(&a.random), norm.stream)


cdef backward_wide(Backward *a):
    cdef creg_columns *c = &a.norm.columns
    cdef creg_wide w = wide_call(c.mean == NULL, c.rows, c.cols, a.norm.stream)
    w.dy, w.x, w.more, w.gamma, w.dx, w.dgamma, w.dbeta = c.dy, c.x, a.dh, a.norm.gamma, a.norm.dx, c.dgamma, c.dbeta
    if drops_all(&a.random):
        memset(a.dx, 0, c.rows * c.cols * sizeof(float))
    else:
        w.dropped, w.first, w.dropout = a.dx, a.random.offset, draws(&a.random)
    wide_backward(&w, c.mean, c.rstd)


cdef tuple backward(creg_dropout_add_norm_backward *kernel, bint centred, object dy_, object h_, object mean_,
                    object rstd_, object gamma_, object p, object dh_, object seed, object offset):
    cdef cnp.ndarray h = float32_rows(h_, "h"), dy = float32_like(dy_, "dy", h, "h")
    cdef cnp.ndarray dh = None if dh_ is None else float32_like(dh_, "dh", h, "h")
    cdef ptrdiff_t size = cnp.PyArray_SIZE(h), cols = cnp.PyArray_DIM(h, h.ndim - 1)
    cdef cnp.ndarray mean = None
    if centred:
        mean = float64_statistics(mean_, "mean", h.ndim - 1, cnp.PyArray_DIMS(h))
    cdef cnp.ndarray rstd = float64_statistics(rstd_, "rstd", h.ndim - 1, cnp.PyArray_DIMS(h))
    cdef cnp.ndarray gamma = float32_vector(gamma_, "gamma", cols)
    cdef Backward a
    a.kernel, a.random = kernel, draws_of(p, seed, offset, size)
    cdef cnp.ndarray dresidual = new_array(h.ndim, cnp.PyArray_DIMS(h), cnp.NPY_FLOAT32)
    cdef cnp.ndarray dx = None
    if a.random.fixed_p != 0:
        dx = new_array(h.ndim, cnp.PyArray_DIMS(h), cnp.NPY_FLOAT32)
    cdef cnp.ndarray dgamma = None, dbeta = None
    if gamma is not None:
        dgamma = new_vector(cols, cnp.NPY_FLOAT32)
        dbeta = new_vector(cols, cnp.NPY_FLOAT32) if centred else None
    cdef creg_columns *c = &a.norm.columns
    c.dy, c.x, c.mean, c.rstd, c.rows, c.cols = floats(dy), floats(h), doubles(mean), doubles(rstd), size // cols, cols
    c.dgamma, c.dbeta = floats(dgamma), floats(dbeta)
    a.norm.gamma, a.norm.dx, a.norm.stream = floats(gamma), floats(dresidual), streams(size, 3 if dx is None else 4)
    a.dh, a.dx = floats(dh), floats(dx)
    if is_wide(c.rows, cols):
        backward_wide(&a)
    else:
        run_chunks(&a.norm, backward_task, &a)
    if dx is None:
        dx = dresidual
    return (dx, dresidual, dgamma, dbeta) if centred else (dx, dresidual, dgamma)


def dropout_add_layer_norm_backward(dy, h, mean, rstd, gamma=None, p=0.0, *, dh=None, seed=None, offset=0):
    """Gradients of :func:`dropout_add_layer_norm_forward`, in one pass over memory.

    ``dresidual = dh + (dx of`` :func:`layer_norm_backward` ``at h)`` and ``dx = dropout_backward(dresidual, p)``, with
    the same draws as in the forward pass.

    Parameters
    ----------
    dy, h : float32 arrays, shape (..., features), C-contiguous
        Gradient of ``y``, and ``h`` as the forward pass returned it.
    mean, rstd : float64 arrays, shape ``h.shape[:-1]``
        As the forward pass returned them.
    gamma : float32 array, shape (features,), optional
        The gain of the forward pass.
    p, seed, offset
        Those of the forward pass.
    dh : float32 array like ``h``, optional
        Gradient of ``h`` itself, where something besides the norm reads it.

    Returns
    -------
    dx, dresidual : float32 arrays like ``h``
        For ``p = 0``, where they are equal, one and the same array.
    dgamma, dbeta : float32 arrays, shape (features,); None without ``gamma``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, or a bad ``p``, ``seed`` or ``offset``.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x, residual = np.random.default_rng(0).standard_normal((2, 16, 64), dtype=np.float32)
    >>> y, h, mean, rstd = ck.dropout_add_layer_norm_forward(x, residual, p=0.1, seed=7)
    >>> dx, dresidual, *_ = ck.dropout_add_layer_norm_backward(np.ones_like(y), h, mean, rstd, p=0.1, seed=7)
    >>> np.array_equal(dx, ck.dropout_backward(dresidual, 0.1, seed=7))
    True
    """
    return backward(kernels().dropout_add_layer_norm_backward, True, dy, h, mean, rstd, gamma, p, dh, seed, offset)


def dropout_add_rms_norm_backward(dy, h, rstd, gamma=None, p=0.0, *, dh=None, seed=None, offset=0):
    """Gradients of :func:`dropout_add_rms_norm_forward`, in one pass over memory.

    ``dresidual = dh + (dx of`` :func:`rms_norm_backward` ``at h)`` and ``dx = dropout_backward(dresidual, p)``.
    Arguments and errors are those of :func:`dropout_add_layer_norm_backward`, without ``mean``.

    Returns
    -------
    dx, dresidual : float32 arrays like ``h``
    dgamma : float32 array, shape (features,); None without ``gamma``

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x, residual = np.random.default_rng(0).standard_normal((2, 16, 64), dtype=np.float32)
    >>> y, h, rstd = ck.dropout_add_rms_norm_forward(x, residual, p=0.1, seed=7)
    >>> dx, dresidual, _ = ck.dropout_add_rms_norm_backward(np.ones_like(y), h, rstd, p=0.1, seed=7)
    >>> np.array_equal(dx, ck.dropout_backward(dresidual, 0.1, seed=7))
    True
    """
    return backward(kernels().dropout_add_rms_norm_backward, False, dy, h, None, rstd, gamma, p, dh, seed, offset)
