# Batch norm over any layout: checks, allocation, the cut into chunks and the loops over them. The maths is in
# csrc/batch_norm.h.
#
# A batch is (n, c, s): s contiguous elements of each channel in each sample, 1 where channels come last. Chunks, the
# pieces whose sums are taken in float32, follow from that shape alone: CREG_CHUNK_ROWS samples where s is 1; else as
# many whole planes as fit CREG_PANEL elements, or pieces of CREG_PANEL elements of larger planes.
#
# Training takes two passes over the chunks with a step over the channels between them. A task is one chunk of some
# channels in one pass; or, mostly, where the planes of a channel fit into the caches, or there are few rows of many
# channels, all of it for some channels, so that the second pass reads what the first one left there.
import numpy as np

cimport numpy as cnp
from libc.float cimport DBL_MAX
from libc.stddef cimport ptrdiff_t
from libc.string cimport memset

from cregkit.kernels._runtime cimport (
    CREG_CHUNK_ROWS, CREG_FAR, CREG_NEAR, CREG_PANEL, CREG_STREAM, creg_channels, creg_chunk, creg_shape, doubles,
    float32_array, float32_like, float32_vector, float64_statistics, floats, is_channels_last, kernels, new_vector,
    number, output, refuse_overlap, streams, writable,
)
from cregkit.kernels._threads cimport parallel_for, parallel_for_backwards, run_task

cnp.import_array()

cdef enum:
    TASK_ELEMENTS = 16384
    TASK_CHANNELS = 1024
    CACHED_ELEMENTS = 524288  # of a channel: 2 MiB
    FAR_ELEMENTS = 32768  # of a tensor: 128 KiB
    PARAMETER_COST = 16  # a square root and a division in float64, and some
    WHOLE_TASKS = 8  # so few whole channels keep the threads busy
    FEW_ROWS = 64  # of which a thousand channels fit into the second cache
    LONG_PLANE = 2048  # a run of memory that is worth starting from beyond the caches


# What is done with chunk k, or with the parameters, of the channels [c0, c1).
ctypedef void (*chunk_step)(Pass *a, creg_chunk chunk, ptrdiff_t k, ptrdiff_t c0, ptrdiff_t c1) noexcept nogil
ctypedef void (*parameter_step)(Pass *a, ptrdiff_t c0, ptrdiff_t c1) noexcept nogil


# The tensor in chunks, and how many of them, and of the channels, make a task.
cdef struct Cut:
    creg_chunk *chunks
    ptrdiff_t n_chunks, chunk_step, channel_step


# A call's operands, and its steps.
cdef struct Pass:
    chunk_step first, last  # first and before are NULL where there is nothing to sum, or to prepare
    parameter_step before, between, step
    creg_shape shape
    Cut summed, written
    ptrdiff_t elements
    const float *x
    const float *dy
    float *out
    double *chunk_mean  # [chunk][channel], training forward
    double *chunk_m2
    float *chunk_dy  # [chunk][channel], backward
    float *chunk_dy_d
    double *mean
    double *var
    double *rstd
    const float *gamma
    const float *beta
    float *dgamma
    float *dbeta
    const float *given_mean  # inference
    const float *given_var
    float *running_mean  # training forward
    float *running_var
    creg_channels channels
    double eps, momentum, count  # values of a channel, those of other processes included
    bint training, unbiased
    int where


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


cdef ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    return (a + b - 1) // b


# Fills a cut into chunks of so many samples, of pieces of CREG_PANEL elements where a chunk is less than one plane, and
# tasks of about so many elements; the returned array keeps the chunks alive.
cdef cnp.ndarray cut(Cut *of, creg_shape shape, ptrdiff_t samples, ptrdiff_t task_elements):
    cdef ptrdiff_t i, j, k = 0
    cdef ptrdiff_t pieces = ceil_div(shape.s, CREG_PANEL) if samples == 1 else 1
    cdef ptrdiff_t piece = shape.s if pieces == 1 else CREG_PANEL
    of.n_chunks = ceil_div(shape.n, samples) * pieces
    cdef cnp.ndarray memory = new_vector(of.n_chunks * sizeof(creg_chunk), cnp.NPY_UINT8)
    of.chunks = <creg_chunk *>cnp.PyArray_DATA(memory)
    for i in range(0, shape.n, samples):
        for j in range(pieces):
            of.chunks[k] = creg_chunk(i, min(i + samples, shape.n), j * piece, min((j + 1) * piece, shape.s))
            k += 1
    cdef ptrdiff_t of_channel = max(1, samples * piece)
    of.channel_step = TASK_CHANNELS if shape.s == 1 else max(1, task_elements // of_channel)
    of.chunk_step = max(1, task_elements // (of_channel * max(1, min(of.channel_step, shape.c))))
    return memory


cdef cnp.ndarray cut_for_sums(Pass *a):
    cdef ptrdiff_t samples = CREG_CHUNK_ROWS if a.shape.s == 1 else max(1, CREG_PANEL // max(1, a.shape.s))
    return cut(&a.summed, a.shape, samples, TASK_ELEMENTS)


# Where there is nothing to sum, a task takes what lies together in memory: whole samples.
cdef cnp.ndarray cut_for_writing(Pass *a):
    cdef ptrdiff_t task_elements = min(4 * TASK_ELEMENTS, max(TASK_ELEMENTS, a.elements // 64))
    return cut(&a.written, a.shape, max(1, task_elements // max(1, a.shape.c * a.shape.s)), task_elements)


cdef void set_shape(Pass *a, creg_shape shape, int arrays) noexcept:
    a.shape, a.elements, a.count = shape, shape.n * shape.c * shape.s, <double>shape.n * <double>shape.s
    a.where = CREG_STREAM if streams(a.elements, arrays) else CREG_FAR if a.elements >= FAR_ELEMENTS else CREG_NEAR


# Allocates the channels' parameters; the returned array keeps them alive.
cdef cnp.ndarray allocate_channels(Pass *a):
    cdef ptrdiff_t c = a.shape.c
    cdef cnp.ndarray memory = new_vector(c * (4 * sizeof(double) + 6 * sizeof(float) + 1), cnp.NPY_UINT8)
    cdef double *wide = <double *>cnp.PyArray_DATA(memory)
    cdef float *narrow = <float *>(wide + 4 * c)
    a.channels.mean64, a.channels.scale64 = wide, wide + c
    a.channels.k1_64, a.channels.k2_64 = wide + 2 * c, wide + 3 * c
    a.channels.hi, a.channels.lo, a.channels.scale = narrow, narrow + c, narrow + 2 * c
    a.channels.bias, a.channels.k1, a.channels.k2 = narrow + 3 * c, narrow + 4 * c, narrow + 5 * c
    a.channels.exact = <unsigned char *>(narrow + 6 * c)
    memset(a.channels.exact, 0, c)
    return memory


# Runs a step for one task of a cut.
cdef void run_step(Pass *a, chunk_step run, Cut *of, ptrdiff_t task) noexcept nogil:
    cdef ptrdiff_t steps = ceil_div(a.shape.c, of.channel_step)
    cdef ptrdiff_t c0 = task % steps * of.channel_step, k, k0 = task // steps * of.chunk_step
    for k in range(k0, min(k0 + of.chunk_step, of.n_chunks)):
        run(a, of.chunks[k], k, c0, min(c0 + of.channel_step, a.shape.c))


cdef ptrdiff_t task_count(Pass *a, Cut *of) noexcept nogil:
    return ceil_div(of.n_chunks, of.chunk_step) * ceil_div(a.shape.c, of.channel_step)


cdef void first_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Pass *a = <Pass *>args
    run_step(a, a.first, &a.summed, task)


cdef void step_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Pass *a = <Pass *>args
    cdef ptrdiff_t c0 = task * TASK_CHANNELS
    a.step(a, c0, min(c0 + TASK_CHANNELS, a.shape.c))


cdef void last_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Pass *a = <Pass *>args
    run_step(a, a.last, &a.written, task)


cdef void whole_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Pass *a = <Pass *>args
    cdef ptrdiff_t step = channels_together(a), k, c0 = task * step, c1 = min(c0 + step, a.shape.c)
    if a.before != NULL:
        a.before(a, c0, c1)
    if a.first != NULL:
        for k in range(a.summed.n_chunks):
            a.first(a, a.summed.chunks[k], k, c0, c1)
    a.between(a, c0, c1)
    for k in range(a.summed.n_chunks):
        a.last(a, a.summed.chunks[k], k, c0, c1)


# Whole channels of a task: of columns a multiple of 64, so that it cuts rows into runs of whole cache lines.
cdef ptrdiff_t channels_together(Pass *a) noexcept nogil:
    if a.shape.s == 1:
        return min(<ptrdiff_t>TASK_CHANNELS, max(<ptrdiff_t>1, TASK_ELEMENTS // (64 * max(1, a.shape.n))) * 64)
    return max(1, TASK_ELEMENTS // max(1, a.shape.n * a.shape.s))


# A step over the channels; cost: how many numbers of a tensor take as long as one channel.
cdef void over_channels(Pass *a, parameter_step step, ptrdiff_t cost) noexcept nogil:
    if step != NULL:
        a.step = step
        parallel_for(step_task, a, ceil_div(a.shape.c, TASK_CHANNELS), a.shape.c * cost)


# Backwards: what the pass before read last is still in the cache.
cdef void write(Pass *a) noexcept nogil:
    parallel_for_backwards(last_task, a, task_count(a, &a.written), a.elements)


# Whether the second pass over a whole channel would find it in the caches, and the first one is not held up by as many
# starts as there are short planes: from 80 MiB on those took 1.3 to 1.9 times as long (a Xeon) as two passes straight
# through the tensor do. Few rows are taken so in inference too, where the channels' parameters are as large as the
# rows: (20, 33333) takes 0.78 of the time forward and backward and 0.83 in inference, (64, 40001) 0.78 to 0.92. Not
# where they are streamed: (64, 400000) took 1.04, 0.87 and 1.05.
cdef bint by_whole_channels(Pass *a) noexcept nogil:
    if a.shape.s == 1:
        return a.shape.n <= FEW_ROWS and a.where != CREG_STREAM
    if a.first == NULL or a.shape.n * a.shape.s > CACHED_ELEMENTS:
        return False
    return a.where != CREG_STREAM or a.shape.s >= LONG_PLANE


# The sums, and what the channels' parameters need of them.
cdef void find_sums(Pass *a, parameter_step between) noexcept nogil:
    cdef ptrdiff_t chunks = 0
    over_channels(a, a.before, PARAMETER_COST)
    if a.first != NULL:
        parallel_for(first_task, a, task_count(a, &a.summed), a.elements)
        chunks = a.summed.n_chunks
    over_channels(a, between, chunks + PARAMETER_COST)


# All steps.
cdef void run(Pass *a) noexcept nogil:
    cdef ptrdiff_t whole_tasks = ceil_div(a.shape.c, channels_together(a))
    if by_whole_channels(a) and whole_tasks >= WHOLE_TASKS:
        parallel_for(whole_task, a, whole_tasks, a.elements)
        return
    find_sums(a, a.between)
    write(a)


# The rest of run() after find_sums(), when a Python function has put together what this process and others have found.
cdef void use_sums(Pass *a, parameter_step between) noexcept nogil:
    over_channels(a, between, PARAMETER_COST)
    if a.elements > 0:
        write(a)


cdef int merge_moments(Pass *a, object merge, cnp.ndarray mean, cnp.ndarray var, cnp.ndarray rstd) except -1:
    count, mean[...], m2 = merge(a.count, mean, var * a.count)
    if count < 2:
        raise ValueError(f"x must have at least two values per channel in training, got {count:g} in all processes")
    a.count = count
    with np.errstate(divide="ignore", invalid="ignore"):  # a constant channel with eps = 0, or NaN
        np.divide(m2, a.count, out=var)
        np.divide(1.0, np.sqrt(var + a.eps), out=rstd)
    return 0


cdef int merge_gradient_sums(Pass *a, object merge) except -1:
    cdef cnp.npy_intp c = a.shape.c
    cdef cnp.ndarray sums_dy = cnp.PyArray_SimpleNewFromData(1, &c, cnp.NPY_FLOAT64, a.channels.k1_64)
    cdef cnp.ndarray sums_dy_d = cnp.PyArray_SimpleNewFromData(1, &c, cnp.NPY_FLOAT64, a.channels.k2_64)
    count, sums_dy[...], sums_dy_d[...] = merge(a.count, sums_dy.copy(), sums_dy_d.copy())
    a.count = count
    return 0


cdef void moments(Pass *a, creg_chunk chunk, ptrdiff_t k, ptrdiff_t c0, ptrdiff_t c1) noexcept nogil:
    cdef ptrdiff_t at = k * a.shape.c
    kernels().batch_norm_moments(a.x, a.shape, chunk, c0, c1, a.chunk_mean + at, a.chunk_m2 + at)


cdef void statistics(Pass *a, ptrdiff_t c0, ptrdiff_t c1) noexcept nogil:
    kernels().batch_norm_statistics(a.x, a.shape, a.summed.chunks, a.summed.n_chunks, a.chunk_mean, a.chunk_m2, a.eps,
                                    c0, c1, a.mean, a.var, a.rstd, a.channels.exact)


cdef void affine(Pass *a, ptrdiff_t c0, ptrdiff_t c1) noexcept nogil:
    kernels().batch_norm_affine(a.mean, a.rstd, a.gamma, a.beta, c0, c1, &a.channels)


cdef void training_parameters(Pass *a, ptrdiff_t c0, ptrdiff_t c1) noexcept nogil:
    statistics(a, c0, c1)
    affine(a, c0, c1)


cdef void use_given_statistics(Pass *a, ptrdiff_t c0, ptrdiff_t c1) noexcept nogil:
    kernels().batch_norm_running(a.given_mean + c0, a.given_var + c0, a.eps, c1 - c0, a.mean + c0, a.rstd + c0,
                                 a.channels.exact + c0)


cdef void inference_parameters(Pass *a, ptrdiff_t c0, ptrdiff_t c1) noexcept nogil:
    use_given_statistics(a, c0, c1)
    affine(a, c0, c1)


# For the sums of backward: x_hat without gain and bias.
cdef void x_hat_parameters(Pass *a, ptrdiff_t c0, ptrdiff_t c1) noexcept nogil:
    if not a.training:
        use_given_statistics(a, c0, c1)
    kernels().batch_norm_affine(a.mean, a.rstd, NULL, NULL, c0, c1, &a.channels)


cdef void apply(Pass *a, creg_chunk chunk, ptrdiff_t k, ptrdiff_t c0, ptrdiff_t c1) noexcept nogil:
    kernels().batch_norm_apply(a.x, a.out, a.shape, chunk, c0, c1, &a.channels, a.where)


cdef void grad_sums(Pass *a, creg_chunk chunk, ptrdiff_t k, ptrdiff_t c0, ptrdiff_t c1) noexcept nogil:
    cdef ptrdiff_t at = k * a.shape.c
    kernels().batch_norm_grad_sums(a.dy, a.x, a.shape, chunk, c0, c1, &a.channels, a.chunk_dy + at,
                                   a.chunk_dy_d + at)


cdef void grad_merge(Pass *a, ptrdiff_t c0, ptrdiff_t c1) noexcept nogil:
    kernels().batch_norm_grad_merge(a.dy, a.x, a.shape, a.summed.n_chunks, a.chunk_dy, a.chunk_dy_d, a.mean, a.rstd,
                                    a.training, c0, c1, a.dgamma, a.dbeta, &a.channels)


cdef void grad_affine(Pass *a, ptrdiff_t c0, ptrdiff_t c1) noexcept nogil:
    kernels().batch_norm_grad_affine(a.count, a.rstd, a.gamma, a.training, c0, c1, &a.channels)


cdef void grad_parameters(Pass *a, ptrdiff_t c0, ptrdiff_t c1) noexcept nogil:
    grad_merge(a, c0, c1)
    grad_affine(a, c0, c1)


cdef void grad_apply(Pass *a, creg_chunk chunk, ptrdiff_t k, ptrdiff_t c0, ptrdiff_t c1) noexcept nogil:
    if a.training:
        kernels().batch_norm_grad_apply(a.dy, a.x, a.out, a.shape, chunk, c0, c1, &a.channels, a.where)
    else:  # dx = dy * scale
        kernels().batch_norm_apply(a.dy, a.out, a.shape, chunk, c0, c1, &a.channels, a.where)


# A checked vector that `out` must not touch.
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

    Ioffe and Szegedy (2015), "Batch Normalization", arXiv:1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[1, 10], [3, 30]], np.float32)
    >>> mean, var = np.array([2, 20], np.float32), np.array([1, 100], np.float32)
    >>> ck.batch_norm(x, mean, var).round(3)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    """
    cdef Pass a
    cdef cnp.ndarray x_ = float32_array(x, "x")
    cdef creg_shape shape = shape_of(x_, "x", channel_axis)
    cdef cnp.ndarray y = output(out, x_, "x")
    cdef cnp.ndarray mean_ = required_parameter(mean, "mean", shape.c, y)
    cdef cnp.ndarray var_ = required_parameter(var, "var", shape.c, y)
    cdef cnp.ndarray gamma_ = parameter(gamma, "gamma", shape.c, y), beta_ = parameter(beta, "beta", shape.c, y)
    a.eps = number(eps, "eps", 0.0, DBL_MAX)
    a.before, a.first, a.between, a.last = NULL, NULL, inference_parameters, apply
    set_shape(&a, shape, 2)
    cdef cnp.ndarray _summed = cut_for_sums(&a) if by_whole_channels(&a) else None
    cdef cnp.ndarray _written = cut_for_writing(&a), _channels = allocate_channels(&a)
    cdef cnp.ndarray mean64 = new_vector(shape.c, cnp.NPY_FLOAT64), rstd = new_vector(shape.c, cnp.NPY_FLOAT64)
    a.given_mean, a.given_var = floats(mean_), floats(var_)
    a.x, a.out = floats(x_), floats(y)
    a.mean, a.rstd, a.gamma, a.beta = doubles(mean64), doubles(rstd), floats(gamma_), floats(beta_)
    with nogil:
        run(&a)
    return y


cdef cnp.ndarray running(object value, str name, ptrdiff_t c, cnp.ndarray x, cnp.ndarray y):
    cdef cnp.ndarray vector = parameter(value, name, c, y)
    if vector is not None:
        writable(vector, name)
        refuse_overlap(vector, name, x, "x", False)
    return vector


cdef void update_running(float *running, const double *batch, ptrdiff_t c, double momentum,
                         double factor) noexcept nogil:
    cdef ptrdiff_t i
    if running != NULL:
        for i in range(c):
            running[i] = <float>((1.0 - momentum) * running[i] + momentum * (batch[i] * factor))


cdef void running_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Pass *a = <Pass *>args
    update_running(a.running_mean, a.mean, a.shape.c, a.momentum, 1.0)
    update_running(a.running_var, a.var, a.shape.c, a.momentum, a.count / (a.count - 1.0) if a.unbiased else 1.0)


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

    Ioffe and Szegedy (2015), "Batch Normalization", arXiv:1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[1, 10], [3, 30]], np.float32)
    >>> y, mean, rstd = ck.batch_norm_forward(x)
    >>> y.round(3), mean
    (array([[-1., -1.],
           [ 1.,  1.]], dtype=float32), array([ 2., 20.]))
    """
    cdef Pass a
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
    a.eps = number(eps, "eps", 0.0, DBL_MAX)
    set_shape(&a, shape, 2)
    cdef cnp.ndarray _summed = cut_for_sums(&a), _written = cut_for_writing(&a), _channels = allocate_channels(&a)
    cdef cnp.ndarray mean = new_vector(shape.c, cnp.NPY_FLOAT64), rstd = new_vector(shape.c, cnp.NPY_FLOAT64)
    cdef cnp.ndarray var = new_vector(shape.c, cnp.NPY_FLOAT64)
    cdef cnp.ndarray partial = new_vector(2 * a.summed.n_chunks * shape.c, cnp.NPY_FLOAT64)
    a.running_mean, a.running_var, a.unbiased = floats(running_mean_), floats(running_var_), unbiased
    a.x, a.out = floats(x_), floats(y)
    a.chunk_mean, a.chunk_m2 = doubles(partial), doubles(partial) + a.summed.n_chunks * shape.c
    a.mean, a.var, a.rstd, a.gamma, a.beta = doubles(mean), doubles(var), doubles(rstd), floats(gamma_), floats(beta_)
    a.before, a.first, a.between, a.last = NULL, moments, training_parameters, apply
    if merge is None:
        with nogil:
            run(&a)
    else:
        mean[...] = var[...] = 0.0
        with nogil:
            if a.elements > 0:  # else they are 0
                find_sums(&a, statistics)
        merge_moments(&a, merge, mean, var, rstd)
        with nogil:
            use_sums(&a, affine)
    run_task(running_task, &a, 0)
    return y, mean, rstd


# Both backwards. a.training, a.eps, a.mean and a.rstd are set.
cdef tuple backward(Pass *a, cnp.ndarray dy, cnp.ndarray x, object gamma, creg_shape shape, cnp.ndarray dx,
                    object merge):
    cdef cnp.ndarray gamma_ = parameter(gamma, "gamma", shape.c, dx)
    refuse_overlap(dx, "out", dy, "dy", True)
    set_shape(a, shape, 3)
    cdef cnp.ndarray _summed = cut_for_sums(a), _written = cut_for_writing(a), _channels = allocate_channels(a)
    cdef cnp.ndarray partial = new_vector(2 * a.summed.n_chunks * shape.c, cnp.NPY_FLOAT32)
    cdef cnp.ndarray dgamma = None if gamma_ is None else new_vector(shape.c, cnp.NPY_FLOAT32)
    cdef cnp.ndarray dbeta = None if gamma_ is None else new_vector(shape.c, cnp.NPY_FLOAT32)
    a.dy, a.x, a.out = floats(dy), floats(x), floats(dx)
    a.chunk_dy, a.chunk_dy_d = floats(partial), floats(partial) + a.summed.n_chunks * shape.c
    a.gamma, a.beta, a.dgamma, a.dbeta = floats(gamma_), NULL, floats(dgamma), floats(dbeta)
    a.before, a.first, a.between, a.last = x_hat_parameters, grad_sums, grad_parameters, grad_apply
    if merge is None:
        with nogil:
            run(a)
    else:
        for sums in (dgamma, dbeta):
            if sums is not None:
                sums[...] = 0.0
        memset(a.channels.k1_64, 0, 2 * shape.c * sizeof(double))  # k2_64 lies behind it
        with nogil:
            if a.elements > 0:  # else they are 0
                find_sums(a, grad_merge)
        merge_gradient_sums(a, merge)
        with nogil:
            use_sums(a, grad_affine)
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

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[1, 10], [2, 20], [4, 60]], np.float32)
    >>> y, mean, rstd = ck.batch_norm_forward(x)
    >>> dx, dgamma, dbeta = ck.batch_norm_backward(y, x, mean, rstd, np.ones(2, np.float32))
    >>> dgamma.round(3)
    array([3., 3.], dtype=float32)
    """
    cdef Pass a
    cdef cnp.ndarray x_ = float32_array(x, "x"), dy_ = float32_like(dy, "dy", x_, "x")
    cdef creg_shape shape = shape_of(x_, "x", channel_axis)
    cdef cnp.npy_intp c = shape.c
    cdef cnp.ndarray mean_ = float64_statistics(mean, "mean", 1, &c), rstd_ = float64_statistics(rstd, "rstd", 1, &c)
    cdef cnp.ndarray dx = output(out, x_, "x")
    refuse_overlap(dx, "out", mean_, "mean", False)
    refuse_overlap(dx, "out", rstd_, "rstd", False)
    a.training, a.mean, a.rstd = True, doubles(mean_), doubles(rstd_)
    return backward(&a, dy_, x_, gamma, shape, dx, merge)


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

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[1, 10], [3, 30]], np.float32)
    >>> mean, var = np.array([2, 20], np.float32), np.array([1, 100], np.float32)
    >>> dx, dgamma, dbeta = ck.batch_norm_inference_backward(np.ones_like(x), x, mean, var)
    >>> dx.round(3)
    array([[1. , 0.1],
           [1. , 0.1]], dtype=float32)
    """
    cdef Pass a
    cdef cnp.ndarray x_ = float32_array(x, "x"), dy_ = float32_like(dy, "dy", x_, "x")
    cdef creg_shape shape = shape_of(x_, "x", channel_axis)
    cdef cnp.ndarray dx = output(out, x_, "x")
    cdef cnp.ndarray mean_ = required_parameter(mean, "mean", shape.c, dx)
    cdef cnp.ndarray var_ = required_parameter(var, "var", shape.c, dx)
    cdef cnp.ndarray mean64 = new_vector(shape.c, cnp.NPY_FLOAT64), rstd = new_vector(shape.c, cnp.NPY_FLOAT64)
    a.given_mean, a.given_var = floats(mean_), floats(var_)
    a.training, a.eps, a.mean, a.rstd = False, number(eps, "eps", 0.0, DBL_MAX), doubles(mean64), doubles(rstd)
    return backward(&a, dy_, x_, gamma, shape, dx, None)
