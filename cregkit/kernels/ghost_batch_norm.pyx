# Ghost batch norm: a group norm with groups of one channel, whose samples are virtual batches.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t
from libc.string cimport memset

from cregkit.kernels._arrays cimport doubles, floats, number, output, tensor, tensor_like, whole_number
from cregkit.kernels._csrc cimport creg_group_norm, creg_shape
from cregkit.kernels._stored cimport round_into, widened
from cregkit.kernels._threads cimport run_task
from cregkit.kernels.batch_norm cimport parameter, running_statistics, shape_of
from cregkit.kernels.group_norm cimport backward, forward

cnp.import_array()


# Sets samples and shapes of a call: whole virtual batches. Returns the rows of the smaller one at the end, or 0.
cdef ptrdiff_t set_batches(creg_group_norm *a, cnp.ndarray x, object virtual_batch_size, object channel_axis) except -1:
    cdef creg_shape all = shape_of(x, channel_axis)
    cdef object wanted = whole_number(virtual_batch_size, "virtual_batch_size")
    if wanted < 1:
        raise ValueError(f"virtual_batch_size must be at least 1, got {wanted}")
    cdef ptrdiff_t samples = cnp.PyArray_DIM(x, 0), size = max(1, min(wanted, samples))
    cdef ptrdiff_t rows = all.n // samples if samples > 0 else 1
    if rows * all.c * all.s == 0:
        raise ValueError(f"x has no values in a sample: only its first axis may be empty, got shape "
                         f"{(<object>x).shape}")
    a.samples = samples // size
    a.channels.shape = a.groups.shape = creg_shape(size * rows, all.c, all.s)
    return samples % size * rows


# ---- the running statistics ----


cdef struct Update:
    const double *found
    float *running
    ptrdiff_t batches, c
    double momentum, factor, last_factor


# Each virtual batch updates them in turn. They are rounded to float32 once, at the end.
cdef void update_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Update *u = <Update *>args
    cdef ptrdiff_t i, j
    cdef double running, factor
    for j in range(u.c):
        running = u.running[j]
        for i in range(u.batches):
            factor = u.last_factor if i == u.batches - 1 else u.factor
            running = (1.0 - u.momentum) * running + u.momentum * (u.found[i * u.c + j] * factor)
        u.running[j] = <float>running


# `wide` is widened(value).
cdef int update_running(cnp.ndarray value, cnp.ndarray wide, cnp.ndarray found, double momentum, double factor,
                        double last_factor) except -1:
    cdef Update u
    if value is not None:
        u = Update(doubles(found), floats(wide), cnp.PyArray_DIM(found, 0), cnp.PyArray_DIM(found, 1), momentum,
                   factor, last_factor)
        run_task(update_task, &u, 0)
        round_into(wide, value)
    return 0


# From the biased to the unbiased variance of `count` values.
cdef double unbiased_factor(double count) noexcept:
    return count / (count - 1.0)


# ---- forward ----


cdef int refuse_single_values(cnp.ndarray x, ptrdiff_t count, ptrdiff_t last_count,
                              object virtual_batch_size) except -1:
    if cnp.PyArray_DIM(x, 0) > 0 and count > 1 and last_count > 1:
        return 0
    raise ValueError(f"x must have at least two values per channel in each virtual batch, got shape "
                     f"{(<object>x).shape} with virtual_batch_size={virtual_batch_size}: use another size, or "
                     f"batch_norm with running statistics")


def ghost_batch_norm_forward(x, virtual_batch_size, gamma=None, beta=None, running_mean=None, running_var=None,
                             momentum=0.1, eps=1e-5, *, unbiased=False, channel_axis=1, out=None):
    """Batch norm in training, of each virtual batch by itself.

    A batch is split along its first axis into virtual batches of ``virtual_batch_size`` samples; the last one may be
    smaller. ``y = (x - mean) / sqrt(var + eps) * gamma + beta`` with the mean and biased variance of each channel over
    its virtual batch. :func:`batch_norm` normalises at inference.

    Parameters
    ----------
    x : float32, float16 or bfloat16 array, shape (N, C, ...), or (N, ..., C) with ``channel_axis=-1``; C-contiguous
        At least two values per channel in each virtual batch.
        16-bit types: see :mod:`cregkit.functional`.
    virtual_batch_size : int
        Samples of a virtual batch, at least 1.
    gamma, beta : arrays, shape (C,), float32 or the dtype of ``x``, optional
        Gain and bias; without them 1 and 0.
    running_mean, running_var : arrays, shape (C,), float32 or the dtype of ``x``, optional
        Updated in place by each virtual batch in turn: ``running = (1 - momentum) * running + momentum * batch``,
        rounded once.
    momentum : float
        Weight of a virtual batch in the running statistics, 0 to 1.
    eps : float
        Added to the variance; finite, at least 0.
    unbiased : bool
        Update ``running_var`` with the variance divided by ``count - 1``, as PyTorch does, instead of ``count``.
    channel_axis : 1 or -1
    out : array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : array like ``x``
    mean, rstd : float64 arrays, shape (virtual batches, C)
        Mean and ``1 / sqrt(var + eps)`` of each channel of each virtual batch.

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout, shape, ``virtual_batch_size`` or ``channel_axis``, read-only or overlapping arrays,
        a single value per channel in a virtual batch, or a bad ``eps`` or ``momentum``. Nothing is changed then.

    References
    ----------
    Hoffer, E., Hubara, I. and Soudry, D. (2017). "Train longer, generalize better: closing the generalization gap in
    large batch training of neural networks". arXiv:1705.08741.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[1, 3], [3, 9], [20, 50], [60, 90]], np.float32)
    >>> y, mean, rstd = ck.ghost_batch_norm_forward(x, 2, eps=0)
    >>> y
    array([[-1., -1.],
           [ 1.,  1.],
           [-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> mean
    array([[ 2.,  6.],
           [40., 70.]])
    """
    cdef creg_group_norm a
    memset(&a, 0, sizeof(a))
    cdef cnp.ndarray x_ = tensor(x, "x"), y, mean, rstd, var, running_mean_, running_var_
    cdef ptrdiff_t rest = set_batches(&a, x_, virtual_batch_size, channel_axis), c = a.channels.shape.c
    cdef ptrdiff_t count = a.channels.shape.n * a.channels.shape.s
    cdef ptrdiff_t last_count = rest * a.channels.shape.s if rest > 0 else count
    cdef double weight = number(momentum, "momentum", 0.0, 1.0)
    refuse_single_values(x_, count, last_count, virtual_batch_size)
    y = output(out, x_, "x")
    cdef cnp.ndarray gamma_ = parameter(gamma, "gamma", c, y), beta_ = parameter(beta, "beta", c, y)
    running_mean_, running_var_ = running_statistics(running_mean, running_var, c, x_, y, gamma_, beta_)
    cdef double factor = unbiased_factor(count) if unbiased else 1.0
    cdef double last_factor = unbiased_factor(last_count) if unbiased else 1.0
    cdef cnp.ndarray means = widened(running_mean_), vars = widened(running_var_)
    y, mean, rstd, var = forward(&a, x_, gamma, beta, eps, rest, y)
    update_running(running_mean_, means, mean, weight, 1.0, 1.0)
    update_running(running_var_, vars, var, weight, factor, last_factor)
    return y, mean, rstd


# ---- backward ----


def ghost_batch_norm_backward(dy, x, virtual_batch_size, mean, rstd, gamma=None, *, channel_axis=1, out=None):
    """Gradients of ghost batch norm.

    With ``x_hat = (x - mean) * rstd``, means over each channel of its virtual batch:
    ``dx = gamma * rstd * (dy - mean(dy) - x_hat * mean(dy * x_hat))``; over the whole batch of each channel
    ``dgamma = sum(dy * x_hat)``, ``dbeta = sum(dy)``.

    Parameters
    ----------
    dy, x : float32, float16 or bfloat16 arrays, shape (N, C, ...), or (N, ..., C) with ``channel_axis=-1``
        Gradient of the output, and the input of the forward pass; both C-contiguous and of one dtype.
        16-bit types: see :mod:`cregkit.functional`.
    virtual_batch_size : int
        That of the forward pass.
    mean, rstd : float64 arrays, shape (virtual batches, C)
        As :func:`ghost_batch_norm_forward` returned them.
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
        For a wrong dtype, layout, shape, ``virtual_batch_size`` or ``channel_axis``, or a read-only or overlapping
        ``out``.

    References
    ----------
    Hoffer, E., Hubara, I. and Soudry, D. (2017). "Train longer, generalize better: closing the generalization gap in
    large batch training of neural networks". arXiv:1705.08741.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[1], [3], [1], [3], [1], [3], [1], [3]], np.float32)
    >>> dy = np.array([[0], [0], [0], [4], [0], [0], [0], [4]], np.float32)
    >>> y, mean, rstd = ck.ghost_batch_norm_forward(x, 4, eps=0)
    >>> dx, dgamma, dbeta = ck.ghost_batch_norm_backward(dy, x, 4, mean, rstd, np.ones(1, np.float32))
    >>> dx[:4].ravel(), dgamma, dbeta
    (array([ 0., -2.,  0.,  2.], dtype=float32), array([8.], dtype=float32), array([8.], dtype=float32))
    """
    cdef creg_group_norm a
    memset(&a, 0, sizeof(a))
    cdef cnp.ndarray x_ = tensor(x, "x"), dy_ = tensor_like(dy, "dy", x_, "x")
    cdef ptrdiff_t rest = set_batches(&a, x_, virtual_batch_size, channel_axis)
    return backward(&a, dy_, x_, mean, rstd, gamma, rest, out)
