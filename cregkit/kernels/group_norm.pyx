# Group norm and instance norm over any layout: checks, allocation and the loops over tasks. The kernels are the tasks
# of these loops. The algorithm, and how a call is divided into tasks, are in csrc/group_norm.h.
cimport numpy as cnp
from libc.float cimport DBL_MAX
from libc.stddef cimport ptrdiff_t
from libc.string cimport memset

from cregkit.kernels._arrays cimport (
    bytes_of, data, doubles, float64_array, float64_statistics, floats, new_array, new_vector, number, output,
    refuse_overlap, refuse_overlaps, stored_type, tensor, tensor_like, whole_number,
)
from cregkit.kernels._csrc cimport (
    CREG_MERGE_TILE, creg_batch_norm, creg_channels, creg_group_norm, creg_kernels, creg_shape,
)
from cregkit.kernels._runtime cimport kernels_of
from cregkit.kernels._stored cimport round_into, widened
from cregkit.kernels._threads cimport parallel_for, parallel_for_backwards, run_task
from cregkit.kernels._workspace cimport release, reserve, Workspace
from cregkit.kernels.batch_norm cimport parameter, running_statistics, shape_of, where_of

cnp.import_array()

cdef enum:
    # A group's square root and division in float64 take as long as this many elements.
    PARAMETER_COST = 16


# ---- the plan ----


# Sets the shapes of a call with so many groups.
cdef int set_shapes(creg_group_norm *a, cnp.ndarray x, object num_groups, object channel_axis) except -1:
    cdef creg_shape all = shape_of(x, channel_axis)
    if not 1 <= num_groups <= all.c or all.c % num_groups:
        raise ValueError(f"num_groups must divide the {all.c} channels of x, got {num_groups}")
    cdef ptrdiff_t samples = cnp.PyArray_DIM(x, 0), groups = num_groups, together = all.c // groups
    cdef ptrdiff_t rows = all.n // samples if samples > 0 else 1
    if rows * all.s == 0:
        raise ValueError(f"x has no positions to normalise over: only its first axis may be empty, got shape "
                         f"{(<object>x).shape}")
    a.samples = samples
    a.channels.shape = creg_shape(rows, all.c, all.s)
    a.groups.shape = creg_shape(rows, groups, together * all.s)
    return 0


cdef ptrdiff_t elements_of(const creg_group_norm *a) noexcept nogil:
    return a.samples * a.channels.shape.n * a.channels.shape.c * a.channels.shape.s


# The batch norm whose sums are taken.
cdef creg_batch_norm *summed_of(creg_group_norm *a) noexcept nogil:
    return &a.channels if a.by_channels else &a.groups


# Plans a call: the cuts, and memory for the chunks' sums and the parameters. The caller has set the shapes and the
# operands.
cdef int plan(creg_group_norm *a, Workspace *w) except -1 nogil:
    cdef bint backward = a.channels.dy != NULL
    a.channels.where = where_of(elements_of(a) * bytes_of(a.channels.stored), 3 if backward else 2)
    a.groups.where = a.channels.where
    kernels_of(a.channels.stored).group_norm_plan(a)
    cdef creg_batch_norm *summed = summed_of(a)
    cdef ptrdiff_t c = a.samples * a.channels.shape.c, g = a.samples * a.groups.shape.c
    cdef ptrdiff_t sums = a.samples * summed.summed.chunks * summed.shape.c
    cdef double *wide = <double *>reserve(w, (2 * sums + 6 * c) * sizeof(double) + 6 * c * sizeof(float) + c + g)
    cdef float *narrow = <float *>(wide + 2 * sums + 6 * c)
    cdef creg_channels *ch = &a.channels.channels
    if backward:
        summed.chunk_dy, summed.chunk_dy_d = <float *>wide, <float *>wide + sums
    else:
        summed.chunk_mean, summed.chunk_m2 = wide, wide + sums
    wide += 2 * sums
    ch.mean, ch.scale64, ch.k1_64, ch.k2_64 = wide, wide + c, wide + 2 * c, wide + 3 * c
    a.channels.rstd, a.channels.var = wide + 4 * c, wide + 5 * c
    ch.hi, ch.lo, ch.scale = narrow, narrow + c, narrow + 2 * c
    ch.bias, ch.k1, ch.k2 = narrow + 3 * c, narrow + 4 * c, narrow + 5 * c
    ch.exact = <unsigned char *>(narrow + 6 * c)
    a.groups.channels.exact = ch.exact + c
    memset(a.groups.channels.exact, 0, g)
    return 0


cdef void run(creg_group_norm *a) noexcept nogil:
    cdef ptrdiff_t per_sample = a.groups.channelwise.tasks, samples = a.samples, elements = elements_of(a)
    cdef ptrdiff_t cost = samples * (a.channels.shape.c + PARAMETER_COST * a.groups.shape.c)
    cdef const creg_kernels *k = kernels_of(a.channels.stored)
    if a.whole:
        parallel_for(k.group_norm_whole, a, (samples + a.sample_step - 1) // a.sample_step * per_sample,
                     elements)
    else:
        if a.channels.dy != NULL:
            parallel_for(k.group_norm_centres, a, samples * per_sample, cost)
        parallel_for(k.group_norm_sums, a, samples * summed_of(a).summed.tasks, elements)
        parallel_for(k.group_norm_merge, a, samples * per_sample, cost)
        if a.channels.out != NULL:
            parallel_for_backwards(k.group_norm_apply, a, samples * a.channels.written.tasks, elements)


cdef void reduce(creg_group_norm *a) noexcept nogil:
    if a.dgamma != NULL:
        parallel_for(kernels_of(a.channels.stored).group_norm_reduce, a,
                     (a.channels.shape.c + CREG_MERGE_TILE - 1) // CREG_MERGE_TILE, a.samples * a.channels.shape.c)


# The sample after the last one of `a`, of `rows` rows.
cdef creg_group_norm sample_after(const creg_group_norm *a, ptrdiff_t rows) noexcept nogil:
    cdef creg_group_norm one = a[0]
    cdef ptrdiff_t at = elements_of(a) * bytes_of(a.channels.stored)
    cdef ptrdiff_t group = a.samples * a.groups.shape.c, channel = a.samples * a.channels.shape.c
    one.samples = 1
    one.channels.shape.n = one.groups.shape.n = rows
    one.channels.x = one.groups.x = <const char *>a.channels.x + at
    one.channels.out = <char *>a.channels.out + at
    one.groups.channels.mean, one.groups.rstd = a.groups.channels.mean + group, a.groups.rstd + group
    if a.channels.dy == NULL:
        one.groups.var = a.groups.var + group
    else:
        one.channels.dy = <const char *>a.channels.dy + at
    if a.sums_dy != NULL:
        one.sums_dy, one.sums_dy_x_hat = a.sums_dy + channel, a.sums_dy_x_hat + channel
    return one


# Runs a call whose shapes and operands are set. `rest`: see group_norm.pxd.
cdef int plan_and_run(creg_group_norm *a, ptrdiff_t rest) except -1 nogil:
    cdef creg_group_norm last
    cdef Workspace w = Workspace(NULL)
    try:
        if rest > 0:
            last = sample_after(a, rest)
            plan(&last, &w)
        plan(a, &w)
        run(a)
        if rest > 0:
            run(&last)
            a.samples += 1
        reduce(a)
    finally:
        release(&w)
    return 0


# ---- forward ----


cdef tuple forward(creg_group_norm *a, cnp.ndarray x, object gamma, object beta, object eps, ptrdiff_t rest,
                   object out):
    cdef ptrdiff_t c = a.channels.shape.c
    cdef cnp.npy_intp[2] shape = [a.samples + (rest > 0), a.groups.shape.c]
    cdef cnp.ndarray y = output(out, x, "x")
    cdef cnp.ndarray gamma_ = parameter(gamma, "gamma", c, y), beta_ = parameter(beta, "beta", c, y)
    cdef cnp.ndarray mean = new_array(2, shape, cnp.NPY_FLOAT64), rstd = new_array(2, shape, cnp.NPY_FLOAT64)
    cdef cnp.ndarray var = new_array(2, shape, cnp.NPY_FLOAT64)
    a.groups.eps = number(eps, "eps", 0.0, DBL_MAX)
    a.groups.channels.mean, a.groups.rstd, a.groups.var = doubles(mean), doubles(rstd), doubles(var)
    cdef cnp.ndarray gain = widened(gamma_), bias = widened(beta_)
    a.groups.stored = a.channels.stored = stored_type(x)
    a.groups.x = a.channels.x = data(x)
    a.channels.out, a.channels.gamma, a.channels.beta = data(y), floats(gain), floats(bias)
    with nogil:
        plan_and_run(a, rest)
    return y, mean, rstd, var


cdef tuple group_norm_of(object x, object num_groups, object gamma, object beta, object eps, object channel_axis,
                         object out):
    cdef creg_group_norm a
    memset(&a, 0, sizeof(a))
    cdef cnp.ndarray x_ = tensor(x, "x")
    set_shapes(&a, x_, whole_number(num_groups, "num_groups"), channel_axis)
    return forward(&a, x_, gamma, beta, eps, 0, out)


def group_norm(x, num_groups, gamma=None, beta=None, eps=1e-5, *, channel_axis=1, out=None):
    """Group norm of each sample.

    ``y = (x - mean) / sqrt(var + eps) * gamma + beta``, with the mean and biased variance of each group of neighbouring
    channels in each sample.

    Parameters
    ----------
    x : float32, float16 or bfloat16 array, shape (N, C, ...), or (N, ..., C) with ``channel_axis=-1``; C-contiguous
        16-bit types: see :mod:`cregkit.functional`.
    num_groups : int
        Number of groups; divides C.
    gamma, beta : arrays, shape (C,), float32 or the dtype of ``x``, optional
        Gain and bias of each channel; without them 1 and 0.
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
        For a wrong dtype, layout, shape, ``num_groups`` or ``channel_axis``, a read-only or overlapping ``out``, or a
        bad ``eps``.

    References
    ----------
    Wu, Y. and He, K. (2018). "Group Normalization". arXiv:1803.08494.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[1, 3, 20, 60]], np.float32)
    >>> ck.group_norm(x, 2, eps=0)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    return group_norm_of(x, num_groups, gamma, beta, eps, channel_axis, out)[0]


def group_norm_forward(x, num_groups, gamma=None, beta=None, eps=1e-5, *, channel_axis=1, out=None):
    """Group norm, with what :func:`group_norm_backward` needs.

    Arguments and errors are those of :func:`group_norm`.

    Returns
    -------
    y : array like ``x``
    mean, rstd : float64 arrays, shape (N, num_groups)
        Mean and ``1 / sqrt(var + eps)`` of each group of each sample.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> y, mean, rstd = ck.group_norm_forward(np.array([[1, 3, 20, 60]], np.float32), 2, eps=0)
    >>> mean, rstd
    (array([[ 2., 40.]]), array([[1.  , 0.05]]))
    """
    return group_norm_of(x, num_groups, gamma, beta, eps, channel_axis, out)[:3]


def instance_norm(x, gamma=None, beta=None, eps=1e-5, *, channel_axis=1, out=None):
    """Instance norm: group norm with groups of one channel.

    ``y = (x - mean) / sqrt(var + eps) * gamma + beta``, with the mean and biased variance of each channel of each
    sample. Arguments and errors are those of :func:`group_norm`, without ``num_groups``.

    Returns
    -------
    y : array like ``x``

    References
    ----------
    Ulyanov, D., Vedaldi, A. and Lempitsky, V. (2016). "Instance Normalization: The Missing Ingredient for Fast
    Stylization". arXiv:1607.08022.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[[1, 3], [20, 60]]], np.float32)
    >>> ck.instance_norm(x, eps=0)
    array([[[-1.,  1.],
            [-1.,  1.]]], dtype=float32)
    """
    return instance_norm_of(x, gamma, beta, None, None, 0.0, eps, channel_axis, out)[0]


# The means over the samples, into the running statistics.
cdef struct Update:
    const double *found
    float *running
    ptrdiff_t samples, c
    double momentum, factor


cdef void update_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Update *u = <Update *>args
    cdef ptrdiff_t i, j
    cdef double total
    for j in range(u.c):
        total = 0.0
        for i in range(u.samples):
            total += u.found[i * u.c + j]
        total = total / u.samples * u.factor
        u.running[j] = <float>((1.0 - u.momentum) * u.running[j] + u.momentum * total)


# `wide` is widened(value).
cdef int update_running(cnp.ndarray value, cnp.ndarray wide, cnp.ndarray found, double momentum,
                        double factor) except -1:
    cdef Update u
    if value is not None and cnp.PyArray_DIM(found, 0) > 0:
        u = Update(doubles(found), floats(wide), cnp.PyArray_DIM(found, 0), cnp.PyArray_DIM(found, 1), momentum,
                   factor)
        run_task(update_task, &u, 0)
        round_into(wide, value)
    return 0


cdef tuple instance_norm_of(object x, object gamma, object beta, object running_mean, object running_var,
                            object momentum, object eps, object channel_axis, object out):
    cdef creg_group_norm a
    memset(&a, 0, sizeof(a))
    cdef cnp.ndarray x_ = tensor(x, "x"), y, mean, rstd, var, running_mean_, running_var_
    cdef ptrdiff_t c = shape_of(x_, channel_axis).c
    cdef double weight = number(momentum, "momentum", 0.0, 1.0)
    set_shapes(&a, x_, c, channel_axis)
    y = output(out, x_, "x")
    cdef cnp.ndarray gamma_ = parameter(gamma, "gamma", c, y), beta_ = parameter(beta, "beta", c, y)
    running_mean_, running_var_ = running_statistics(running_mean, running_var, c, x_, y, gamma_, beta_)
    cdef double count = a.groups.shape.n * a.groups.shape.s
    if running_var_ is not None and count < 2 and a.samples > 0:
        raise ValueError(f"x must have at least two values per channel of a sample to update running_var, got shape "
                         f"{(<object>x_).shape}")
    cdef cnp.ndarray means = widened(running_mean_), vars = widened(running_var_)
    y, mean, rstd, var = forward(&a, x_, gamma, beta, eps, 0, y)
    update_running(running_mean_, means, mean, weight, 1.0)
    update_running(running_var_, vars, var, weight, count / (count - 1.0))
    return y, mean, rstd


def instance_norm_forward(x, gamma=None, beta=None, running_mean=None, running_var=None, momentum=0.1, eps=1e-5, *,
                          channel_axis=1, out=None):
    """Instance norm, with what :func:`instance_norm_backward` needs.

    Other arguments and errors are those of :func:`instance_norm`. With running statistics, :func:`batch_norm`
    normalises at inference.

    Parameters
    ----------
    x, gamma, beta, eps, channel_axis, out
        As for :func:`instance_norm`.
    running_mean, running_var : arrays, shape (C,), float32 or the dtype of ``x``, optional
        Updated in place: ``running = (1 - momentum) * running + momentum * mean over the samples`` of the means and of
        the unbiased variances, as PyTorch does.
    momentum : float
        Weight of this batch in the running statistics, 0 to 1.

    Returns
    -------
    y : array like ``x``
    mean, rstd : float64 arrays, shape (N, C)
        Mean and ``1 / sqrt(var + eps)`` of each channel of each sample.

    Raises
    ------
    TypeError, ValueError
        As for :func:`instance_norm`; read-only or overlapping running statistics, or a ``running_var`` with a single
        value per channel. Nothing is changed then.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> running_mean = np.zeros(2, np.float32)
    >>> y, mean, rstd = ck.instance_norm_forward(np.array([[[1, 3], [20, 60]]], np.float32), running_mean=running_mean)
    >>> mean, running_mean
    (array([[ 2., 40.]]), array([0.2, 4. ], dtype=float32))
    """
    return instance_norm_of(x, gamma, beta, running_mean, running_var, momentum, eps, channel_axis, out)


# ---- backward ----


cdef tuple backward(creg_group_norm *a, cnp.ndarray dy, cnp.ndarray x, object mean, object rstd, object gamma,
                    ptrdiff_t rest, object out):
    cdef ptrdiff_t c = a.channels.shape.c, samples = a.samples + (rest > 0)
    cdef cnp.npy_intp[2] shape = [samples, a.groups.shape.c]
    cdef cnp.ndarray mean_ = float64_statistics(mean, "mean", 2, shape)
    cdef cnp.ndarray rstd_ = float64_statistics(rstd, "rstd", 2, shape)
    cdef cnp.ndarray dx = output(out, x, "x"), gamma_ = parameter(gamma, "gamma", c, dx)
    cdef cnp.ndarray dgamma = None, dbeta = None, sums
    refuse_overlap(dx, "out", dy, "dy", True)
    refuse_overlaps(dx, "out", ((mean_, "mean"), (rstd_, "rstd")))
    if gamma_ is not None:
        dgamma, dbeta = new_vector(c, cnp.NPY_FLOAT32), new_vector(c, cnp.NPY_FLOAT32)
        sums = new_vector(2 * samples * c, cnp.NPY_FLOAT64)
        a.sums_dy, a.sums_dy_x_hat = doubles(sums), doubles(sums) + samples * c
    a.groups.channels.mean, a.groups.rstd = doubles(mean_), doubles(rstd_)
    cdef cnp.ndarray gain = widened(gamma_)
    a.groups.stored = a.channels.stored = stored_type(x)
    a.groups.x = a.channels.x = data(x)
    a.channels.dy, a.channels.out, a.channels.gamma = data(dy), data(dx), floats(gain)
    a.dgamma, a.dbeta = floats(dgamma), floats(dbeta)
    with nogil:
        plan_and_run(a, rest)
    return dx, dgamma, dbeta


# None groups: one group per channel.
cdef tuple group_gradients(object dy, object x, object mean, object rstd, object gamma, object num_groups,
                           object channel_axis, object out):
    cdef creg_group_norm a
    memset(&a, 0, sizeof(a))
    cdef cnp.ndarray x_ = tensor(x, "x"), dy_ = tensor_like(dy, "dy", x_, "x")
    set_shapes(&a, x_, shape_of(x_, channel_axis).c if num_groups is None else num_groups, channel_axis)
    return backward(&a, dy_, x_, mean, rstd, gamma, 0, out)


# The number of groups that a forward pass returned statistics of.
cdef object groups_of(cnp.ndarray mean):
    if mean.ndim != 2:
        raise ValueError(f"mean must have shape (N, num_groups), as the forward pass returned it, got "
                         f"{(<object>mean).shape}")
    return cnp.PyArray_DIM(mean, 1)


def group_norm_backward(dy, x, mean, rstd, gamma=None, *, channel_axis=1, out=None):
    """Gradients of group norm.

    With ``x_hat = (x - mean) * rstd`` and ``g = dy * gamma``, means over each group of each sample:
    ``dx = rstd * (g - mean(g) - x_hat * mean(g * x_hat))``; over the samples and the positions of each channel
    ``dgamma = sum(dy * x_hat)``, ``dbeta = sum(dy)``.

    Parameters
    ----------
    dy, x : float32, float16 or bfloat16 arrays, shape (N, C, ...), or (N, ..., C) with ``channel_axis=-1``
        Gradient of the output, and the input of the forward pass; both C-contiguous and of one dtype.
        16-bit types: see :mod:`cregkit.functional`.
    mean, rstd : float64 arrays, shape (N, num_groups)
        As :func:`group_norm_forward` returned them.
    gamma : array, shape (C,), float32 or the dtype of ``x``, optional
        The gain of the forward pass.
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
        For a wrong dtype, layout, shape or ``channel_axis``, or a read-only or overlapping ``out``.

    References
    ----------
    Wu, Y. and He, K. (2018). "Group Normalization". arXiv:1803.08494.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[1, 3, 20, 60, 5, 7, 30, 50]], np.float32)
    >>> dy = np.array([[1, 0, 0, 0, 0, 0, 0, 8]], np.float32)
    >>> y, mean, rstd = ck.group_norm_forward(x, 2, eps=0)
    >>> dx, dgamma, dbeta = ck.group_norm_backward(dy, x, mean, rstd, np.ones(8, np.float32))
    >>> dbeta
    array([1., 0., 0., 0., 0., 0., 0., 8.], dtype=float32)
    """
    cdef cnp.ndarray mean_ = float64_array(mean, "mean")
    return group_gradients(dy, x, mean_, rstd, gamma, groups_of(mean_), channel_axis, out)


def instance_norm_backward(dy, x, mean, rstd, gamma=None, *, channel_axis=1, out=None):
    """Gradients of instance norm.

    Those of :func:`group_norm_backward`, with groups of one channel. Arguments and errors are the same.

    Returns
    -------
    dx : array like ``x``
    dgamma, dbeta : float32 arrays, shape (C,); None without ``gamma``

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[[1, 3, 5, 7, 9]]], np.float32)
    >>> y, mean, rstd = ck.instance_norm_forward(x)
    >>> dx, dgamma, dbeta = ck.instance_norm_backward(np.ones_like(x), x, mean, rstd, np.ones(1, np.float32))
    >>> dx, dbeta
    (array([[[0., 0., 0., 0., 0.]]], dtype=float32), array([5.], dtype=float32))
    """
    return group_gradients(dy, x, mean, rstd, gamma, None, channel_axis, out)
