# Batch norm over any layout: checks, allocation and the loops over tasks. The kernels are the tasks of these loops. The
# algorithm, and how a batch is divided into tasks, are in csrc/batch_norm.h.
#
# Training makes two passes over the chunks, with a step over the channels between them. A task is some chunks of some
# channels in one pass. Where the planes of a channel fit in the caches, or few rows have many channels, a task takes
# some channels through all steps instead, so that its second pass hits the cache.
import numpy as np

cimport numpy as cnp
from libc.float cimport DBL_MAX
from libc.stddef cimport ptrdiff_t
from libc.string cimport memset

from cregkit.kernels._arrays cimport (
    doubles, float32_array, float32_like, float32_vector, float64_statistics, floats, is_channels_last,
    new_vector, number, output, refuse_overlap, writable,
)
from cregkit.kernels._csrc cimport (
    creg_batch, creg_batch_norm, creg_batch_norm_grad, creg_channels, CREG_FAR, CREG_NEAR, creg_shape, CREG_STREAM,
)
from cregkit.kernels._runtime cimport kernels, streams
from cregkit.kernels._threads cimport parallel_for, parallel_for_backwards, run_task

cnp.import_array()

cdef enum:
    # Tensors of at least this many elements (128 KiB) count as beyond L2.
    FAR_ELEMENTS = 32768
    # A channel's square root and division in float64 take as long as this many elements.
    PARAMETER_COST = 16


cdef creg_shape shape_of(cnp.ndarray x, str name, object channel_axis) except *:
    cdef int i
    if x.ndim < 2:
        raise ValueError(f"{name} must have at least two dimensions (samples and channels), got shape "
                         f"{(<object>x).shape}")
    cdef bint last = is_channels_last(x, channel_axis)
    cdef creg_shape shape
    shape.n, shape.s = cnp.PyArray_DIM(x, 0), 1
    if not last:
        shape.c = cnp.PyArray_DIM(x, 1)
        for i in range(2, x.ndim):
            shape.s *= cnp.PyArray_DIM(x, i)
    else:
        shape.c = cnp.PyArray_DIM(x, x.ndim - 1)
        for i in range(1, x.ndim - 1):
            shape.n *= cnp.PyArray_DIM(x, i)
    return shape


# Plans a call on `arrays` tensors: the cuts, and the channels' parameters, which the returned array keeps alive.
# `sums`: whether a pass of sums precedes the pass that writes.
cdef cnp.ndarray plan(creg_batch *a, int arrays, bint sums):
    cdef ptrdiff_t c = a.shape.c, elements = elements_of(a)
    cdef cnp.ndarray memory = new_vector(c * (4 * sizeof(double) + 6 * sizeof(float) + 1), cnp.NPY_UINT8)
    cdef double *wide = <double *>cnp.PyArray_DATA(memory)
    cdef float *narrow = <float *>(wide + 4 * c)
    cdef creg_channels *ch = &a.channels
    ch.mean64, ch.scale64, ch.k1_64, ch.k2_64 = wide, wide + c, wide + 2 * c, wide + 3 * c
    ch.hi, ch.lo, ch.scale = narrow, narrow + c, narrow + 2 * c
    ch.bias, ch.k1, ch.k2 = narrow + 3 * c, narrow + 4 * c, narrow + 5 * c
    ch.exact = <unsigned char *>(narrow + 6 * c)
    memset(ch.exact, 0, c)
    a.count = <double>a.shape.n * <double>a.shape.s
    a.where = CREG_STREAM if streams(elements, arrays) else CREG_FAR if elements >= FAR_ELEMENTS else CREG_NEAR
    kernels().batch_norm_plan(a, sums)
    return memory


cdef ptrdiff_t elements_of(const creg_batch *a) noexcept nogil:
    return a.shape.n * a.shape.c * a.shape.s


# The cost of a step over the channels, in elements.
cdef ptrdiff_t channels_cost(const creg_batch *a, ptrdiff_t chunks) noexcept nogil:
    return a.shape.c * (chunks + PARAMETER_COST)


cdef void find_statistics(creg_batch_norm *a) noexcept nogil:
    cdef ptrdiff_t chunks = 0
    if a.batch.given_mean == NULL:
        parallel_for(kernels().batch_norm_moments, a, a.batch.summed.tasks, elements_of(&a.batch))
        chunks = a.batch.summed.chunks
    parallel_for(kernels().batch_norm_statistics, a, a.batch.channelwise.tasks, channels_cost(&a.batch, chunks))


# In reverse order, because the end of the tensor is still in the cache after the previous pass.
cdef void normalise(creg_batch_norm *a) noexcept nogil:
    parallel_for_backwards(kernels().batch_norm_apply, a, a.batch.written.tasks, elements_of(&a.batch))


cdef void forward(creg_batch_norm *a) noexcept nogil:
    if a.batch.whole:
        parallel_for(kernels().batch_norm_whole, a, a.batch.summed.tasks, elements_of(&a.batch))
        return
    find_statistics(a)
    normalise(a)


cdef void find_gradient_sums(creg_batch_norm_grad *a) noexcept nogil:
    cdef ptrdiff_t tasks = a.batch.channelwise.tasks
    parallel_for(kernels().batch_norm_grad_centres, a, tasks, channels_cost(&a.batch, 0))
    parallel_for(kernels().batch_norm_grad_sums, a, a.batch.summed.tasks, elements_of(&a.batch))
    parallel_for(kernels().batch_norm_grad_merge, a, tasks, channels_cost(&a.batch, a.batch.summed.chunks))


cdef void find_dx(creg_batch_norm_grad *a) noexcept nogil:
    parallel_for_backwards(kernels().batch_norm_grad_apply, a, a.batch.written.tasks, elements_of(&a.batch))


cdef void backward(creg_batch_norm_grad *a) noexcept nogil:
    if a.batch.whole:
        parallel_for(kernels().batch_norm_grad_whole, a, a.batch.summed.tasks, elements_of(&a.batch))
        return
    find_gradient_sums(a)
    find_dx(a)


# forward() of a part of a batch. `merge` combines the moments of this process with those of the others.
cdef int forward_merged(creg_batch_norm *a, object merge, cnp.ndarray mean, cnp.ndarray var,
                        cnp.ndarray rstd) except -1:
    mean[...] = var[...] = 0.0
    with nogil:
        if elements_of(&a.batch) > 0:  # the moments of an empty part stay 0
            find_statistics(a)
    count, mean[...], m2 = merge(a.batch.count, mean, var * a.batch.count)
    if count < 2:
        raise ValueError(f"x must have at least two values per channel in training, got {count:g} in all processes")
    a.batch.count = count
    with np.errstate(divide="ignore", invalid="ignore"):  # a constant channel with eps = 0, or NaN
        np.divide(m2, a.batch.count, out=var)
        np.divide(1.0, np.sqrt(var + a.batch.eps), out=rstd)
    with nogil:
        parallel_for(kernels().batch_norm_affine, a, a.batch.channelwise.tasks, channels_cost(&a.batch, 0))
        normalise(a)
    return 0


# backward() of a part of a batch.
cdef int backward_merged(creg_batch_norm_grad *a, object merge, cnp.ndarray dgamma, cnp.ndarray dbeta) except -1:
    cdef cnp.npy_intp c = a.batch.shape.c
    cdef cnp.ndarray sums_dy = cnp.PyArray_SimpleNewFromData(1, &c, cnp.NPY_FLOAT64, a.batch.channels.k1_64)
    cdef cnp.ndarray sums_dy_d = cnp.PyArray_SimpleNewFromData(1, &c, cnp.NPY_FLOAT64, a.batch.channels.k2_64)
    for sums in (dgamma, dbeta, sums_dy, sums_dy_d):
        if sums is not None:
            sums[...] = 0.0
    with nogil:
        if elements_of(&a.batch) > 0:  # the sums of an empty part stay 0
            find_gradient_sums(a)
    count, sums_dy[...], sums_dy_d[...] = merge(a.batch.count, sums_dy.copy(), sums_dy_d.copy())
    a.batch.count = count
    with nogil:
        parallel_for(kernels().batch_norm_grad_affine, a, a.batch.channelwise.tasks, channels_cost(&a.batch, 0))
        find_dx(a)
    return 0


# A checked vector that `out` must not overlap.
cdef cnp.ndarray parameter(object value, str name, ptrdiff_t c, cnp.ndarray out):
    cdef cnp.ndarray vector = float32_vector(value, name, c)
    refuse_overlap(out, "out", vector, name, False)
    return vector


cdef cnp.ndarray required_parameter(object value, str name, ptrdiff_t c, cnp.ndarray out):
    if value is None:
        raise TypeError(f"{name} must be a float32 array of shape ({c},), got None")
    return parameter(value, name, c, out)


def batch_norm(x, mean, var, gamma=None, beta=None, eps=1e-5, *, channel_axis=1, out=None):
    """Batch norm at inference, with given statistics.

    ``y = (x - mean) / sqrt(var + eps) * gamma + beta``, channel by channel.

    Parameters
    ----------
    x : float32 array, shape (N, C, ...), or (..., C) with ``channel_axis=-1``; C-contiguous
    mean, var : float32 arrays, shape (C,)
        Running statistics.
    gamma, beta : float32 arrays, shape (C,), optional
        Gain and bias; without them 1 and 0.
    eps : float
        Added to the variance; finite, at least 0.
    channel_axis : 1 or -1
    out : float32 array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : float32 array like ``x``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout, shape or ``channel_axis``, a read-only or overlapping ``out``, or a bad ``eps``.

    References
    ----------
    Ioffe, S. and Szegedy, C. (2015). "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
    Covariate Shift". arXiv:1502.03167.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = np.array([[1, 2], [3, 6]], np.float32)
    >>> mean, var = np.array([1, 2], np.float32), np.array([4, 16], np.float32)
    >>> cregkit.batch_norm(x, mean, var, eps=0)
    array([[0., 0.],
           [1., 1.]], dtype=float32)
    """
    cdef creg_batch_norm a
    memset(&a, 0, sizeof(a))
    cdef cnp.ndarray x_ = float32_array(x, "x")
    cdef creg_shape shape = shape_of(x_, "x", channel_axis)
    cdef cnp.ndarray y = output(out, x_, "x")
    cdef cnp.ndarray mean_ = required_parameter(mean, "mean", shape.c, y)
    cdef cnp.ndarray var_ = required_parameter(var, "var", shape.c, y)
    cdef cnp.ndarray gamma_ = parameter(gamma, "gamma", shape.c, y), beta_ = parameter(beta, "beta", shape.c, y)
    a.batch.shape, a.batch.eps = shape, number(eps, "eps", 0.0, DBL_MAX)
    cdef cnp.ndarray _channels = plan(&a.batch, 2, False)
    cdef cnp.ndarray found = new_vector(2 * shape.c, cnp.NPY_FLOAT64)
    a.batch.given_mean, a.batch.given_var = floats(mean_), floats(var_)
    a.batch.mean, a.batch.rstd = doubles(found), doubles(found) + shape.c
    a.batch.x, a.y, a.batch.gamma, a.beta = floats(x_), floats(y), floats(gamma_), floats(beta_)
    with nogil:
        forward(&a)
    return y


cdef cnp.ndarray running(object value, str name, ptrdiff_t c, cnp.ndarray x, cnp.ndarray y):
    cdef cnp.ndarray vector = parameter(value, name, c, y)
    if vector is not None:
        writable(vector, name)
        refuse_overlap(vector, name, x, "x", False)
    return vector


def batch_norm_forward(x, gamma=None, beta=None, running_mean=None, running_var=None, momentum=0.1, eps=1e-5, *,
                       unbiased=False, channel_axis=1, merge=None, out=None):
    """Batch norm in training, with what :func:`batch_norm_backward` needs.

    ``y = (x - mean) / sqrt(var + eps) * gamma + beta`` with the mean and biased variance of each channel over the
    batch.

    Parameters
    ----------
    x : float32 array, shape (N, C, ...), or (..., C) with ``channel_axis=-1``; C-contiguous
        At least two values per channel.
    gamma, beta : float32 arrays, shape (C,), optional
        Gain and bias; without them 1 and 0.
    running_mean, running_var : float32 arrays, shape (C,), optional
        Updated in place: ``running = (1 - momentum) * running + momentum * batch``.
    momentum : float
        Weight of this batch in the running statistics, 0 to 1.
    eps : float
        Added to the variance; finite, at least 0.
    unbiased : bool
        Update ``running_var`` with the variance divided by ``count - 1``, as PyTorch does, instead of ``count``.
    channel_axis : 1 or -1
    merge : function, optional
        Where ``x`` is a part of a batch that several processes hold: ``merge(count, mean, m2)`` gets the number of
        values per channel, float64 means and sums of squared deviations of this part, and returns those of the batch.
        The part may then be empty.
    out : float32 array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : float32 array like ``x``
    mean, rstd : float64 arrays, shape (C,)
        Mean and ``1 / sqrt(var + eps)`` of each channel.

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout, shape or ``channel_axis``, read-only or overlapping arrays, a single value per
        channel, or a bad ``eps`` or ``momentum``. Nothing is changed then.

    References
    ----------
    Ioffe, S. and Szegedy, C. (2015). "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
    Covariate Shift". arXiv:1502.03167.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = np.array([[1, 2], [3, 6]], np.float32)
    >>> y, mean, rstd = cregkit.batch_norm_forward(x, eps=0)
    >>> y
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> mean, rstd
    (array([2., 4.]), array([1. , 0.5]))
    """
    cdef creg_batch_norm a
    memset(&a, 0, sizeof(a))
    cdef cnp.ndarray x_ = float32_array(x, "x")
    cdef creg_shape shape = shape_of(x_, "x", channel_axis)
    a.momentum = number(momentum, "momentum", 0.0, 1.0)
    if merge is None and shape.n * shape.s < 2:
        raise ValueError(f"x must have at least two values per channel in training, got shape {(<object>x_).shape}: "
                         f"use batch_norm with running statistics, or a larger batch")
    cdef cnp.ndarray y = output(out, x_, "x")
    cdef cnp.ndarray gamma_ = parameter(gamma, "gamma", shape.c, y), beta_ = parameter(beta, "beta", shape.c, y)
    cdef cnp.ndarray running_mean_ = running(running_mean, "running_mean", shape.c, x_, y)
    cdef cnp.ndarray running_var_ = running(running_var, "running_var", shape.c, x_, y)
    for running_, name in ((running_mean_, "running_mean"), (running_var_, "running_var")):
        if running_ is not None:
            refuse_overlap(running_, name, gamma_, "gamma", False)
            refuse_overlap(running_, name, beta_, "beta", False)
    if running_mean_ is not None:
        refuse_overlap(running_mean_, "running_mean", running_var_, "running_var", False)
    a.batch.shape, a.batch.eps, a.batch.shared = shape, number(eps, "eps", 0.0, DBL_MAX), merge is not None
    cdef cnp.ndarray _channels = plan(&a.batch, 2, True)
    cdef cnp.ndarray mean = new_vector(shape.c, cnp.NPY_FLOAT64), rstd = new_vector(shape.c, cnp.NPY_FLOAT64)
    cdef cnp.ndarray var = new_vector(shape.c, cnp.NPY_FLOAT64)
    cdef cnp.ndarray partial = new_vector(2 * a.batch.summed.chunks * shape.c, cnp.NPY_FLOAT64)
    a.running_mean, a.running_var, a.unbiased = floats(running_mean_), floats(running_var_), bool(unbiased)
    a.chunk_mean, a.chunk_m2 = doubles(partial), doubles(partial) + a.batch.summed.chunks * shape.c
    a.batch.mean, a.var, a.batch.rstd = doubles(mean), doubles(var), doubles(rstd)
    a.batch.x, a.y, a.batch.gamma, a.beta = floats(x_), floats(y), floats(gamma_), floats(beta_)
    if merge is None:
        with nogil:
            forward(&a)
    else:
        forward_merged(&a, merge, mean, var, rstd)
    run_task(kernels().batch_norm_update, &a, 0)
    return y, mean, rstd


# Backward in training and at inference. The caller has set the shape and the statistics of `a`.
cdef tuple gradients(creg_batch_norm_grad *a, cnp.ndarray dy, cnp.ndarray x, object gamma, cnp.ndarray dx,
                     object merge):
    cdef ptrdiff_t c = a.batch.shape.c
    cdef cnp.ndarray gamma_ = parameter(gamma, "gamma", c, dx)
    refuse_overlap(dx, "out", dy, "dy", True)
    a.batch.shared = merge is not None
    cdef cnp.ndarray _channels = plan(&a.batch, 3, True)
    cdef cnp.ndarray partial = new_vector(2 * a.batch.summed.chunks * c, cnp.NPY_FLOAT32)
    cdef cnp.ndarray dgamma = None if gamma_ is None else new_vector(c, cnp.NPY_FLOAT32)
    cdef cnp.ndarray dbeta = None if gamma_ is None else new_vector(c, cnp.NPY_FLOAT32)
    a.dy, a.batch.x, a.dx, a.batch.gamma = floats(dy), floats(x), floats(dx), floats(gamma_)
    a.chunk_dy, a.chunk_dy_d = floats(partial), floats(partial) + a.batch.summed.chunks * c
    a.dgamma, a.dbeta = floats(dgamma), floats(dbeta)
    if merge is None:
        with nogil:
            backward(a)
    else:
        backward_merged(a, merge, dgamma, dbeta)
    return dx, dgamma, dbeta


def batch_norm_backward(dy, x, mean, rstd, gamma=None, *, channel_axis=1, merge=None, out=None):
    """Gradients of batch norm in training.

    With ``x_hat = (x - mean) * rstd``, sums and means over the batch of each channel: ``dbeta = sum(dy)``,
    ``dgamma = sum(dy * x_hat)``, ``dx = gamma * rstd * (dy - mean(dy) - x_hat * mean(dy * x_hat))``.

    Parameters
    ----------
    dy, x : float32 arrays, shape (N, C, ...), or (..., C) with ``channel_axis=-1``; C-contiguous
        Gradient of the output, and the input of the forward pass.
    mean, rstd : float64 arrays, shape (C,)
        As :func:`batch_norm_forward` returned them.
    gamma : float32 array, shape (C,), optional
        The gain of the forward pass.
    channel_axis : 1 or -1
    merge : function, optional
        As for :func:`batch_norm_forward`, for the sums of this part of the batch: ``merge(count, sum_dy, sum_dy_d)``,
        with ``d = x - mean``, returns those of the whole. ``dgamma`` and ``dbeta`` stay those of the part.
    out : float32 array like ``x``, optional
        Receives ``dx``; may be ``dy`` or ``x`` itself.

    Returns
    -------
    dx : float32 array like ``x``
    dgamma, dbeta : float32 arrays, shape (C,); None without ``gamma``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout, shape or ``channel_axis``, or a read-only or overlapping ``out``.

    References
    ----------
    Ioffe, S. and Szegedy, C. (2015). "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
    Covariate Shift". arXiv:1502.03167.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = np.array([[1, 5], [3, 9], [1, 5], [3, 9], [1, 5], [3, 9], [1, 5], [3, 9]], np.float32)
    >>> dy = np.array([[1, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [1, 0], [2, 8]], np.float32)
    >>> y, mean, rstd = cregkit.batch_norm_forward(x, eps=0)
    >>> dx, dgamma, dbeta = cregkit.batch_norm_backward(dy, x, mean, rstd, np.ones(2, np.float32))
    >>> dx[:2]
    array([[ 0.5,  0. ],
           [-0.5, -1. ]], dtype=float32)
    >>> dgamma, dbeta
    (array([0., 8.], dtype=float32), array([4., 8.], dtype=float32))
    """
    cdef creg_batch_norm_grad a
    memset(&a, 0, sizeof(a))
    cdef cnp.ndarray x_ = float32_array(x, "x"), dy_ = float32_like(dy, "dy", x_, "x")
    a.batch.shape = shape_of(x_, "x", channel_axis)
    cdef cnp.npy_intp c = a.batch.shape.c
    cdef cnp.ndarray mean_ = float64_statistics(mean, "mean", 1, &c), rstd_ = float64_statistics(rstd, "rstd", 1, &c)
    cdef cnp.ndarray dx = output(out, x_, "x")
    refuse_overlap(dx, "out", mean_, "mean", False)
    refuse_overlap(dx, "out", rstd_, "rstd", False)
    a.batch.mean, a.batch.rstd = doubles(mean_), doubles(rstd_)
    return gradients(&a, dy_, x_, gamma, dx, merge)


def batch_norm_inference_backward(dy, x, mean, var, gamma=None, eps=1e-5, *, channel_axis=1, out=None):
    """Gradients of :func:`batch_norm`, whose statistics are constants.

    With ``rstd = 1 / sqrt(var + eps)``: ``dx = dy * gamma * rstd``, ``dgamma = sum(dy * (x - mean) * rstd)``,
    ``dbeta = sum(dy)`` over each channel.

    Parameters
    ----------
    dy, x : float32 arrays, shape (N, C, ...), or (..., C) with ``channel_axis=-1``; C-contiguous
    mean, var : float32 arrays, shape (C,)
        The statistics of the forward pass.
    gamma : float32 array, shape (C,), optional
        The gain of the forward pass.
    eps : float
        As in the forward pass.
    channel_axis : 1 or -1
    out : float32 array like ``x``, optional
        Receives ``dx``; may be ``dy`` or ``x`` itself.

    Returns
    -------
    dx : float32 array like ``x``
    dgamma, dbeta : float32 arrays, shape (C,); None without ``gamma``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout, shape or ``channel_axis``, a read-only or overlapping ``out``, or a bad ``eps``.

    References
    ----------
    Ioffe, S. and Szegedy, C. (2015). "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
    Covariate Shift". arXiv:1502.03167.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = dy = np.array([[1, 2], [3, 6]], np.float32)
    >>> mean, var = np.array([1, 2], np.float32), np.array([4, 16], np.float32)
    >>> cregkit.batch_norm_inference_backward(dy, x, mean, var, np.ones(2, np.float32), eps=0)[0]
    array([[0.5, 0.5],
           [1.5, 1.5]], dtype=float32)
    """
    cdef creg_batch_norm_grad a
    memset(&a, 0, sizeof(a))
    cdef cnp.ndarray x_ = float32_array(x, "x"), dy_ = float32_like(dy, "dy", x_, "x")
    a.batch.shape = shape_of(x_, "x", channel_axis)
    cdef ptrdiff_t c = a.batch.shape.c
    cdef cnp.ndarray dx = output(out, x_, "x")
    cdef cnp.ndarray mean_ = required_parameter(mean, "mean", c, dx), var_ = required_parameter(var, "var", c, dx)
    cdef cnp.ndarray found = new_vector(2 * c, cnp.NPY_FLOAT64)
    a.batch.given_mean, a.batch.given_var, a.batch.eps = floats(mean_), floats(var_), number(eps, "eps", 0.0, DBL_MAX)
    a.batch.mean, a.batch.rstd = doubles(found), doubles(found) + c
    return gradients(&a, dy_, x_, gamma, dx, None)
