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
    bytes_of, data, doubles, float64_statistics, floats, is_channels_last, new_vector, number, output, parameters,
    refuse_overlap, refuse_overlaps, stored_type, tensor, tensor_like, writable,
)
from cregkit.kernels._csrc cimport creg_batch_norm, creg_channels, CREG_FAR, CREG_NEAR, creg_shape, CREG_STREAM
from cregkit.kernels._runtime cimport kernels, kernels_of, streams
from cregkit.kernels._stored cimport round_into, widened
from cregkit.kernels._threads cimport parallel_for, parallel_for_backwards, run_task
from cregkit.kernels._workspace cimport release, reserve, Workspace

cnp.import_array()

cdef enum:
    # Tensors of at least this size count as beyond L2.
    FAR_BYTES = 128 * 1024
    # A channel's square root and division in float64 take as long as this many elements.
    PARAMETER_COST = 16


cdef creg_shape shape_of(cnp.ndarray x, object channel_axis) except *:
    if x.ndim < 2:
        raise ValueError(f"x must have at least two dimensions (samples and channels), got shape {(<object>x).shape}")
    cdef int i, axis = x.ndim - 1 if is_channels_last(x, channel_axis) else 1
    cdef creg_shape shape = creg_shape(1, cnp.PyArray_DIM(x, axis), 1)
    for i in range(axis):
        shape.n *= cnp.PyArray_DIM(x, i)
    for i in range(axis + 1, x.ndim):
        shape.s *= cnp.PyArray_DIM(x, i)
    return shape


cdef int where_of(ptrdiff_t bytes, int arrays) noexcept nogil:
    return CREG_STREAM if streams(arrays * bytes) else CREG_FAR if bytes >= FAR_BYTES else CREG_NEAR


# Plans a call: the cuts, and memory for the chunks' sums and the channels' parameters. The caller has set the shape,
# and `dy` and `given_mean`, which tell the kind of call.
cdef int plan(creg_batch_norm *a, Workspace *w) except -1 nogil:
    cdef ptrdiff_t c = a.shape.c
    a.where = where_of(elements_of(a) * bytes_of(a.stored), 2 if a.dy == NULL else 3)
    kernels_of(a.stored).batch_norm_plan(a)
    cdef ptrdiff_t sums = a.summed.chunks * c, n_wide = 2 * sums + 5 * c
    cdef double *wide = <double *>reserve(w, n_wide * sizeof(double) + c * (6 * sizeof(float) + 1))
    cdef float *narrow = <float *>(wide + n_wide)
    cdef creg_channels *ch = &a.channels
    a.chunk_mean, a.chunk_m2 = wide, wide + sums
    a.chunk_dy, a.chunk_dy_d = <float *>wide, <float *>wide + sums
    wide += 2 * sums
    ch.scale64, ch.k1_64, ch.k2_64 = wide, wide + c, wide + 2 * c
    if a.given_mean != NULL:
        ch.mean, a.rstd = wide + 3 * c, wide + 4 * c
    ch.hi, ch.lo, ch.scale = narrow, narrow + c, narrow + 2 * c
    ch.bias, ch.k1, ch.k2 = narrow + 3 * c, narrow + 4 * c, narrow + 5 * c
    ch.exact = <unsigned char *>(narrow + 6 * c)
    memset(ch.exact, 0, c)
    return 0


cdef ptrdiff_t elements_of(const creg_batch_norm *a) noexcept nogil:
    return a.shape.n * a.shape.c * a.shape.s


# The cost of a step over the channels, in elements.
cdef ptrdiff_t channels_cost(const creg_batch_norm *a, ptrdiff_t chunks) noexcept nogil:
    return a.shape.c * (chunks + PARAMETER_COST)


# The steps before the pass that writes. At inference, forward has no sums: 0 tasks, 0 chunks.
cdef void find_parameters(creg_batch_norm *a) noexcept nogil:
    if a.dy != NULL:
        parallel_for(kernels_of(a.stored).batch_norm_centres, a, a.channelwise.tasks, channels_cost(a, 0))
    parallel_for(kernels_of(a.stored).batch_norm_sums, a, a.summed.tasks, elements_of(a))
    parallel_for(kernels_of(a.stored).batch_norm_merge, a, a.channelwise.tasks, channels_cost(a, a.summed.chunks))


# In reverse order, because the end of the tensor is still in the cache after the previous pass.
cdef void write(creg_batch_norm *a) noexcept nogil:
    parallel_for_backwards(kernels_of(a.stored).batch_norm_apply, a, a.written.tasks, elements_of(a))


cdef void run(creg_batch_norm *a) noexcept nogil:
    if a.whole:
        parallel_for(kernels_of(a.stored).batch_norm_whole, a, a.written.tasks, elements_of(a))
    else:
        find_parameters(a)
        if a.out != NULL:
            write(a)


cdef int plan_and_run(creg_batch_norm *a) except -1 nogil:
    cdef Workspace w = Workspace(NULL)
    try:
        plan(a, &w)
        run(a)
    finally:
        release(&w)
    return 0


# The first half of run() for a part of a batch. `first` and `second` are the results to merge; those of an empty part
# are 0.
cdef int begin_part(creg_batch_norm *a, cnp.ndarray first, cnp.ndarray second) except -1:
    first[...] = second[...] = 0.0
    with nogil:
        if elements_of(a) > 0:
            find_parameters(a)
    return 0


# The second half, with the merged results.
cdef int finish_part(creg_batch_norm *a) except -1:
    with nogil:
        parallel_for(kernels_of(a.stored).batch_norm_affine, a, a.channelwise.tasks, channels_cost(a, 0))
        write(a)
    return 0


# Forward of a part of a batch. `merge` combines the moments of this process with those of the others.
cdef int forward_merged(creg_batch_norm *a, object merge, cnp.ndarray mean, cnp.ndarray var,
                        cnp.ndarray rstd) except -1:
    cdef Workspace w = Workspace(NULL)
    try:
        plan(a, &w)
        begin_part(a, mean, var)
        count, mean[...], m2 = merge(a.count, mean, var * a.count)
        if count < 2:
            raise ValueError(f"x must have at least two values per channel in training, got {count:g} in all processes")
        a.count = count
        with np.errstate(divide="ignore", invalid="ignore"):  # a constant channel with eps = 0, or NaN
            np.divide(m2, a.count, out=var)
            np.divide(1.0, np.sqrt(var + a.eps), out=rstd)
        return finish_part(a)
    finally:
        release(&w)


# Backward of a part of a batch.
cdef int backward_merged(creg_batch_norm *a, object merge, cnp.ndarray dgamma, cnp.ndarray dbeta) except -1:
    cdef cnp.npy_intp c = a.shape.c
    cdef cnp.ndarray sums_dy, sums_dy_d
    cdef Workspace w = Workspace(NULL)
    try:
        plan(a, &w)
        sums_dy = cnp.PyArray_SimpleNewFromData(1, &c, cnp.NPY_FLOAT64, a.channels.k1_64)
        sums_dy_d = cnp.PyArray_SimpleNewFromData(1, &c, cnp.NPY_FLOAT64, a.channels.k2_64)
        if dgamma is not None:
            dgamma[...] = dbeta[...] = 0.0  # those of an empty part
        begin_part(a, sums_dy, sums_dy_d)
        a.count, sums_dy[...], sums_dy_d[...] = merge(a.count, sums_dy.copy(), sums_dy_d.copy())
        return finish_part(a)
    finally:
        release(&w)


cdef cnp.ndarray parameter(object value, str name, cnp.npy_intp c, cnp.ndarray out):
    cdef cnp.ndarray vector = parameters(value, name, out, 1, &c)
    refuse_overlap(out, "out", vector, name, False)
    return vector


cdef cnp.ndarray required_parameter(object value, str name, ptrdiff_t c, cnp.ndarray out):
    if value is None:
        raise TypeError(f"{name} must be an array of shape ({c},), got None")
    return parameter(value, name, c, out)


def batch_norm(x, mean, var, gamma=None, beta=None, eps=1e-5, *, channel_axis=1, out=None):
    """Batch norm at inference, with given statistics.

    ``y = (x - mean) / sqrt(var + eps) * gamma + beta``, channel by channel.

    Parameters
    ----------
    x : float32, float16 or bfloat16 array, shape (N, C, ...), or (..., C) with ``channel_axis=-1``; C-contiguous
        16-bit types: see :mod:`cregkit.functional`.
    mean, var : arrays, shape (C,), float32 or the dtype of ``x``
        Running statistics.
    gamma, beta : arrays, shape (C,), float32 or the dtype of ``x``, optional
        Gain and bias; without them 1 and 0.
    eps : float
        Added to the variance; finite, at least 0.
    channel_axis : 1 or -1
    out : array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : array like ``x``

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
    cdef cnp.ndarray x_ = tensor(x, "x")
    a.shape, a.stored = shape_of(x_, channel_axis), stored_type(x_)
    cdef cnp.ndarray y = output(out, x_, "x")
    cdef cnp.ndarray mean_ = required_parameter(mean, "mean", a.shape.c, y)
    cdef cnp.ndarray var_ = required_parameter(var, "var", a.shape.c, y)
    cdef cnp.ndarray gamma_ = parameter(gamma, "gamma", a.shape.c, y), beta_ = parameter(beta, "beta", a.shape.c, y)
    cdef cnp.ndarray means = widened(mean_), vars = widened(var_), gain = widened(gamma_), bias = widened(beta_)
    a.given_mean, a.given_var, a.eps = floats(means), floats(vars), number(eps, "eps", 0.0, DBL_MAX)
    a.x, a.out, a.gamma, a.beta = data(x_), data(y), floats(gain), floats(bias)
    with nogil:
        plan_and_run(&a)
    return y


cdef cnp.ndarray running_statistic(object value, str name, ptrdiff_t c, cnp.ndarray x, cnp.ndarray y,
                                   cnp.ndarray gamma, cnp.ndarray beta):
    cdef cnp.ndarray vector = parameter(value, name, c, y)
    if vector is not None:
        writable(vector, name)
        refuse_overlaps(vector, name, ((x, "x"), (gamma, "gamma"), (beta, "beta")))
    return vector


cdef tuple running_statistics(object mean, object var, ptrdiff_t c, cnp.ndarray x, cnp.ndarray y, cnp.ndarray gamma,
                              cnp.ndarray beta):
    cdef cnp.ndarray mean_ = running_statistic(mean, "running_mean", c, x, y, gamma, beta)
    cdef cnp.ndarray var_ = running_statistic(var, "running_var", c, x, y, gamma, beta)
    if mean_ is not None:
        refuse_overlap(mean_, "running_mean", var_, "running_var", False)
    return mean_, var_


def batch_norm_forward(x, gamma=None, beta=None, running_mean=None, running_var=None, momentum=0.1, eps=1e-5, *,
                       unbiased=False, channel_axis=1, merge=None, out=None):
    """Batch norm in training, with what :func:`batch_norm_backward` needs.

    ``y = (x - mean) / sqrt(var + eps) * gamma + beta`` with the mean and biased variance of each channel over the
    batch.

    Parameters
    ----------
    x : float32, float16 or bfloat16 array, shape (N, C, ...), or (..., C) with ``channel_axis=-1``; C-contiguous
        At least two values per channel.
        16-bit types: see :mod:`cregkit.functional`.
    gamma, beta : arrays, shape (C,), float32 or the dtype of ``x``, optional
        Gain and bias; without them 1 and 0.
    running_mean, running_var : arrays, shape (C,), float32 or the dtype of ``x``, optional
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
    out : array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : array like ``x``
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
    cdef cnp.ndarray x_ = tensor(x, "x")
    a.shape, a.stored = shape_of(x_, channel_axis), stored_type(x_)
    cdef ptrdiff_t c = a.shape.c
    a.momentum = number(momentum, "momentum", 0.0, 1.0)
    if merge is None and a.shape.n * a.shape.s < 2:
        raise ValueError(f"x must have at least two values per channel in training, got shape {(<object>x_).shape}: "
                         f"use batch_norm with running statistics, or a larger batch")
    cdef cnp.ndarray y = output(out, x_, "x")
    cdef cnp.ndarray gamma_ = parameter(gamma, "gamma", c, y), beta_ = parameter(beta, "beta", c, y)
    cdef cnp.ndarray running_mean_, running_var_
    running_mean_, running_var_ = running_statistics(running_mean, running_var, c, x_, y, gamma_, beta_)
    a.eps, a.shared, a.unbiased = number(eps, "eps", 0.0, DBL_MAX), merge is not None, bool(unbiased)
    cdef cnp.ndarray gain = widened(gamma_), bias = widened(beta_)
    a.x, a.out, a.gamma, a.beta = data(x_), data(y), floats(gain), floats(bias)
    cdef cnp.ndarray mean = new_vector(c, cnp.NPY_FLOAT64), rstd = new_vector(c, cnp.NPY_FLOAT64)
    cdef cnp.ndarray var = new_vector(c, cnp.NPY_FLOAT64)
    a.channels.mean, a.var, a.rstd = doubles(mean), doubles(var), doubles(rstd)
    cdef cnp.ndarray means = widened(running_mean_), vars = widened(running_var_)
    a.running_mean, a.running_var = floats(means), floats(vars)
    if merge is None:
        with nogil:
            plan_and_run(&a)
    else:
        forward_merged(&a, merge, mean, var, rstd)
    run_task(kernels().batch_norm_update, &a, 0)
    round_into(means, running_mean_)
    round_into(vars, running_var_)
    return y, mean, rstd


# Backward in training and at inference. The caller has set the shape and the statistics of `a`.
cdef tuple gradients(creg_batch_norm *a, cnp.ndarray dy, cnp.ndarray x, object gamma, cnp.ndarray dx, object merge):
    cdef ptrdiff_t c = a.shape.c
    cdef cnp.ndarray gamma_ = parameter(gamma, "gamma", c, dx)
    refuse_overlap(dx, "out", dy, "dy", True)
    cdef cnp.ndarray gain = widened(gamma_)
    a.dy, a.x, a.out, a.gamma, a.shared = data(dy), data(x), data(dx), floats(gain), merge is not None
    cdef cnp.ndarray dgamma = None if gamma_ is None else new_vector(c, cnp.NPY_FLOAT32)
    cdef cnp.ndarray dbeta = None if gamma_ is None else new_vector(c, cnp.NPY_FLOAT32)
    a.dgamma, a.dbeta = floats(dgamma), floats(dbeta)
    if merge is None:
        with nogil:
            plan_and_run(a)
    else:
        backward_merged(a, merge, dgamma, dbeta)
    return dx, dgamma, dbeta


def batch_norm_backward(dy, x, mean, rstd, gamma=None, *, channel_axis=1, merge=None, out=None):
    """Gradients of batch norm in training.

    With ``x_hat = (x - mean) * rstd``, sums and means over the batch of each channel: ``dbeta = sum(dy)``,
    ``dgamma = sum(dy * x_hat)``, ``dx = gamma * rstd * (dy - mean(dy) - x_hat * mean(dy * x_hat))``.

    Parameters
    ----------
    dy, x : float32, float16 or bfloat16 arrays, shape (N, C, ...), or (..., C) with ``channel_axis=-1``
        Gradient of the output, and the input of the forward pass; both C-contiguous and of one dtype.
        16-bit types: see :mod:`cregkit.functional`.
    mean, rstd : float64 arrays, shape (C,)
        As :func:`batch_norm_forward` returned them.
    gamma : array, shape (C,), float32 or the dtype of ``x``, optional
        The gain of the forward pass.
    channel_axis : 1 or -1
    merge : function, optional
        As for :func:`batch_norm_forward`, for the sums of this part of the batch: ``merge(count, sum_dy, sum_dy_d)``,
        with ``d = x - mean``, returns those of the whole. ``dgamma`` and ``dbeta`` stay those of the part.
    out : array like ``x``, optional
        Receives ``dx``; may be ``dy`` or ``x`` itself.

    Returns
    -------
    dx : array like ``x``
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
    cdef creg_batch_norm a
    memset(&a, 0, sizeof(a))
    cdef cnp.ndarray x_ = tensor(x, "x"), dy_ = tensor_like(dy, "dy", x_, "x")
    a.shape, a.stored = shape_of(x_, channel_axis), stored_type(x_)
    cdef cnp.npy_intp c = a.shape.c
    cdef cnp.ndarray mean_ = float64_statistics(mean, "mean", 1, &c), rstd_ = float64_statistics(rstd, "rstd", 1, &c)
    cdef cnp.ndarray dx = output(out, x_, "x")
    refuse_overlap(dx, "out", mean_, "mean", False)
    refuse_overlap(dx, "out", rstd_, "rstd", False)
    a.channels.mean, a.rstd = doubles(mean_), doubles(rstd_)
    return gradients(&a, dy_, x_, gamma, dx, merge)


def batch_norm_inference_backward(dy, x, mean, var, gamma=None, eps=1e-5, *, channel_axis=1, out=None):
    """Gradients of :func:`batch_norm`, whose statistics are constants.

    With ``rstd = 1 / sqrt(var + eps)``: ``dx = dy * gamma * rstd``, ``dgamma = sum(dy * (x - mean) * rstd)``,
    ``dbeta = sum(dy)`` over each channel.

    Parameters
    ----------
    dy, x : float32, float16 or bfloat16 arrays, shape (N, C, ...), or (..., C) with ``channel_axis=-1``
        Both C-contiguous and of one dtype.
        16-bit types: see :mod:`cregkit.functional`.
    mean, var : arrays, shape (C,), float32 or the dtype of ``x``
        The statistics of the forward pass.
    gamma : array, shape (C,), float32 or the dtype of ``x``, optional
        The gain of the forward pass.
    eps : float
        As in the forward pass.
    channel_axis : 1 or -1
    out : array like ``x``, optional
        Receives ``dx``; may be ``dy`` or ``x`` itself.

    Returns
    -------
    dx : array like ``x``
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
    cdef creg_batch_norm a
    memset(&a, 0, sizeof(a))
    cdef cnp.ndarray x_ = tensor(x, "x"), dy_ = tensor_like(dy, "dy", x_, "x")
    a.shape, a.stored = shape_of(x_, channel_axis), stored_type(x_)
    cdef ptrdiff_t c = a.shape.c
    cdef cnp.ndarray dx = output(out, x_, "x")
    cdef cnp.ndarray mean_ = required_parameter(mean, "mean", c, dx), var_ = required_parameter(var, "var", c, dx)
    cdef cnp.ndarray means = widened(mean_), vars = widened(var_)
    a.given_mean, a.given_var, a.eps = floats(means), floats(vars), number(eps, "eps", 0.0, DBL_MAX)
    return gradients(&a, dy_, x_, gamma, dx, None)
