# Dropout, addition to the residual stream and a norm in one pass over memory: checks and allocation. The loops are in
# row_norm.pyx, the maths in csrc/dropout_add_norm.h.
cimport numpy as cnp
from libc.float cimport DBL_MAX
from libc.stddef cimport ptrdiff_t
from libc.string cimport memset

from cregkit.kernels._arrays cimport (
    bytes_of, data, doubles, float64_statistics, floats, new_array, new_vector, number, output,
    refuse_overlap, tensor_like, tensor_rows,
)
from cregkit.kernels._csrc cimport CREG_LAYER_NORM, CREG_RMS_NORM, creg_dropout, creg_norm
from cregkit.kernels._stored cimport widened
from cregkit.kernels.dropout cimport Random, drops_all, random_of
from cregkit.kernels.row_norm cimport (
    Axes, begin_call, call_backward, call_forward, gain_of, row_parameter, row_statistic,
)

cnp.import_array()


# Like random_of(), but p = 0 needs no seed, because it draws nothing.
cdef Random draws_of(object p, object seed, object offset, ptrdiff_t n) except *:
    cdef double rate = number(p, "p", 0.0, 1.0)
    if seed is None and rate > 0.0:
        raise TypeError(f"seed is missing, and p = {p} draws random bits: pass seed= an int from 0 to 2**64 - 1")
    return random_of(rate, 0 if seed is None else seed, offset, n)


# NULL where p = 0, which draws nothing.
cdef creg_dropout *draws(Random *random) noexcept nogil:
    return &random.dropout if random.fixed_p != 0 else NULL


cdef Axes last_axis(cnp.ndarray x) noexcept:
    return Axes(x.ndim - 1, 1)


cdef cnp.ndarray new_like(cnp.ndarray x):
    return new_array(x.ndim, cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x))


cdef tuple forward(int kind, object x_, object residual_, object gamma_, object beta_, object p, object eps,
                   object gain_offset, object seed, object offset, object out):
    cdef cnp.ndarray x = tensor_rows(x_, "x"), residual = tensor_like(residual_, "residual", x, "x")
    cdef creg_norm n
    begin_call(&n, kind, x, last_axis(x), 4)
    cdef cnp.ndarray gamma = row_parameter(gamma_, "gamma", x, last_axis(x))
    cdef cnp.ndarray beta = row_parameter(beta_, "beta", x, last_axis(x))
    cdef cnp.ndarray gain = gain_of(widened(gamma), gain_offset), bias = widened(beta)
    cdef Random random = draws_of(p, seed, offset, n.rows * n.cols)
    n.eps = number(eps, "eps", 0.0, DBL_MAX)
    cdef cnp.ndarray y = output(out, x, "x")
    if out is not None:
        refuse_overlap(y, "out", residual, "residual", True)
        refuse_overlap(y, "out", gamma, "gamma", False)
        refuse_overlap(y, "out", beta, "beta", False)
    cdef cnp.ndarray h = new_like(x), rstd = row_statistic(x, last_axis(x))
    cdef cnp.ndarray mean = row_statistic(x, last_axis(x)) if kind == CREG_LAYER_NORM else None
    n.x, n.residual, n.gamma, n.beta = data(x), data(residual), floats(gain), floats(bias)
    n.y, n.h, n.mean, n.rstd = data(y), data(h), doubles(mean), doubles(rstd)
    n.dropout, n.offset = draws(&random), random.offset
    if drops_all(&random):
        n.x = NULL
    call_forward(&n)
    return (y, h, rstd) if mean is None else (y, h, mean, rstd)


def dropout_add_layer_norm_forward(x, residual, gamma=None, beta=None, p=0.0, eps=1e-5, *, seed=None, offset=0,
                                   out=None):
    """Dropout, addition and layer norm in one pass over memory.

    ``h = residual + dropout(x, p)``, ``y = layer_norm(h, gamma, beta, eps)``: the end of a transformer's sublayer.
    In float32, the bits are those of :func:`dropout`, a NumPy addition and :func:`layer_norm_forward` one after
    another. With 16-bit tensors, ``y`` is the norm of ``h`` before ``h`` is rounded.

    Parameters
    ----------
    x, residual : float32, float16 or bfloat16 arrays, shape (..., features), C-contiguous
        Output and input of the sublayer; both of one dtype.
        16-bit types: see :mod:`cregkit.functional`.
    gamma, beta : arrays, shape (features,), float32 or the dtype of ``x``, optional
        Gain and bias; without them 1 and 0.
    p : float
        Probability of dropping an element of ``x``, 0 to 1.
    eps : float
        Added to the variance; finite, at least 0.
    seed, offset : int
        As for :func:`dropout`; ``p = 0`` needs no seed.
    out : array like ``x``, optional
        Receives ``y``; may be ``x`` or ``residual`` itself.

    Returns
    -------
    y, h : arrays like ``x``
    mean, rstd : float64 arrays, shape ``x.shape[:-1]``
        Mean and ``1 / sqrt(var + eps)`` of each row of ``h``.

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout, shape, a read-only or overlapping ``out``, no columns, or a bad ``p``, ``eps``,
        ``seed`` or ``offset``.

    References
    ----------
    Vaswani, A. et al. (2017). "Attention Is All You Need". arXiv:1706.03762.

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
    return forward(CREG_LAYER_NORM, x, residual, gamma, beta, p, eps, 0.0, seed, offset, out)


def dropout_add_rms_norm_forward(x, residual, gamma=None, p=0.0, eps=1e-6, *, gain_offset=0.0, seed=None, offset=0,
                                 out=None):
    """Dropout, addition and RMS norm in one pass over memory.

    ``h = residual + dropout(x, p)``, ``y = rms_norm(h, gamma, eps, gain_offset=gain_offset)``. In float32, the bits are
    those of :func:`dropout`, a NumPy addition and :func:`rms_norm_forward` one after another. Arguments and errors are
    those of :func:`dropout_add_layer_norm_forward`, with the ``gain_offset`` of :func:`rms_norm` in place of ``beta``.

    Returns
    -------
    y, h : arrays like ``x``
    rstd : float64 array, shape ``x.shape[:-1]``
        ``1 / sqrt(mean(h**2) + eps)`` of each row.

    References
    ----------
    Touvron, H. et al. (2023). "LLaMA: Open and Efficient Foundation Language Models". arXiv:2302.13971.

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
    return forward(CREG_RMS_NORM, x, residual, gamma, None, p, eps, gain_offset, seed, offset, out)


cdef tuple backward(int kind, object dy_, object h_, object mean_, object rstd_, object gamma_, object p,
                    object gain_offset, object dh_, object seed, object offset):
    cdef cnp.ndarray h = tensor_rows(h_, "h"), dy = tensor_like(dy_, "dy", h, "h")
    cdef cnp.ndarray dh = None if dh_ is None else tensor_like(dh_, "dh", h, "h"), mean = None
    if kind == CREG_LAYER_NORM:
        mean = float64_statistics(mean_, "mean", h.ndim - 1, cnp.PyArray_DIMS(h))
    cdef cnp.ndarray rstd = float64_statistics(rstd_, "rstd", h.ndim - 1, cnp.PyArray_DIMS(h))
    cdef cnp.ndarray gamma = row_parameter(gamma_, "gamma", h, last_axis(h))
    cdef cnp.ndarray gain = gain_of(widened(gamma), gain_offset)
    cdef Random random = draws_of(p, seed, offset, cnp.PyArray_SIZE(h))
    cdef creg_norm n
    begin_call(&n, kind, h, last_axis(h), 3 if random.fixed_p == 0 else 4)
    cdef cnp.ndarray dresidual = new_like(h), dx = dresidual, dgamma = None, dbeta = None
    if gamma is not None:
        dgamma = new_vector(n.cols, cnp.NPY_FLOAT32)
        dbeta = None if mean is None else new_vector(n.cols, cnp.NPY_FLOAT32)
    n.dy, n.x, n.dh, n.gamma, n.mean, n.rstd = data(dy), data(h), data(dh), floats(gain), doubles(mean), doubles(rstd)
    n.dx, n.dgamma, n.dbeta = data(dresidual), floats(dgamma), floats(dbeta)
    cdef void *dropped = NULL
    if random.fixed_p != 0:
        dx = new_like(h)
        dropped = data(dx)
    if drops_all(&random):
        with nogil:
            memset(dropped, 0, n.rows * n.cols * bytes_of(n.stored))
    elif dropped != NULL:
        n.dropped, n.dropout, n.offset = dropped, &random.dropout, random.offset
    call_backward(&n)
    return (dx, dresidual, dgamma) if mean is None else (dx, dresidual, dgamma, dbeta)


def dropout_add_layer_norm_backward(dy, h, mean, rstd, gamma=None, p=0.0, *, dh=None, seed=None, offset=0):
    """Gradients of :func:`dropout_add_layer_norm_forward`, in one pass over memory.

    ``dresidual = dh + (dx of`` :func:`layer_norm_backward` ``at h)`` and ``dx = dropout_backward(dresidual, p)``, with
    the same draws as in the forward pass.

    Parameters
    ----------
    dy, h : float32, float16 or bfloat16 arrays, shape (..., features), C-contiguous
        Gradient of ``y``, and ``h`` as the forward pass returned it; both of one dtype.
        16-bit types: see :mod:`cregkit.functional`.
    mean, rstd : float64 arrays, shape ``h.shape[:-1]``
        As the forward pass returned them.
    gamma : array, shape (features,), float32 or the dtype of ``h``, optional
        The gain of the forward pass.
    p, seed, offset
        Those of the forward pass.
    dh : array like ``h``, optional
        Gradient of ``h`` from its uses other than the norm.

    Returns
    -------
    dx, dresidual : arrays like ``h``
        One and the same array for ``p = 0``.
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
    return backward(CREG_LAYER_NORM, dy, h, mean, rstd, gamma, p, 0.0, dh, seed, offset)


def dropout_add_rms_norm_backward(dy, h, rstd, gamma=None, p=0.0, *, gain_offset=0.0, dh=None, seed=None, offset=0):
    """Gradients of :func:`dropout_add_rms_norm_forward`, in one pass over memory.

    ``dresidual = dh + (dx of`` :func:`rms_norm_backward` ``at h)`` and ``dx = dropout_backward(dresidual, p)``.
    Arguments and errors are those of :func:`dropout_add_layer_norm_backward`, without ``mean``; ``gain_offset`` is
    that of the forward pass.

    Returns
    -------
    dx, dresidual : arrays like ``h``
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
    return backward(CREG_RMS_NORM, dy, h, None, rstd, gamma, p, gain_offset, dh, seed, offset)
