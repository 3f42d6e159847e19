# Dropout of elements, channels and samples: checks, allocation and the loop over tasks, which are the kernels of
# csrc/dropout.h. That header defines which random bits decide which element.
import operator

cimport numpy as cnp
from libc.math cimport rint, sqrt
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int16_t, uint32_t, uint64_t
from libc.string cimport memset

from cregkit.kernels._arrays cimport (
    bytes_of, data, is_channels_last, new_array, number, output, stored_type, tensor, unsigned64,
)
from cregkit.kernels._csrc cimport (
    CREG_DRAWS, CREG_DRAWS_BLOCK, creg_dropout_items, CREG_DROPS_ALL, CREG_KEEPS_ALL, creg_kernels, CREG_TASK,
)
from cregkit.kernels._runtime cimport kernels, kernels_of, streams
from cregkit.kernels._threads cimport block_task, parallel_for, run_task

cnp.import_array()

# ---- rates, seeds and offsets ----


# Computes the thresholds and the scale from the rate. A shift of -0 changes no product.
cdef void rate_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Random *r = <Random *>args
    r.fixed_p = <uint64_t>rint(r.rate * 281474976710656.0)
    r.dropout.threshold, r.dropout.tie = <int16_t>(<int>(r.fixed_p >> 32) - 32768), <uint32_t>r.fixed_p
    r.dropout.scale = <float>(1.0 / (1.0 - r.rate)) if r.rate < 1.0 else 0.0
    r.dropout.shift, r.dropout.fill = -0.0, 0.0


cdef enum:
    INVERTED, ALPHA, ALPHA_BACKWARD


# Alpha dropout's constants; backward's have no shift and fill. At p = 1 nothing is kept.
cdef void alpha_task(void *args, ptrdiff_t kind) noexcept nogil:
    cdef Random *r = <Random *>args
    cdef double alpha = -1.7580993408473766, p = r.rate if r.rate < 1.0 else 0.0
    cdef double scale = 1.0 / sqrt((alpha * alpha * p + 1.0) * (1.0 - p))
    r.dropout.scale = <float>scale
    if kind == ALPHA:
        r.dropout.shift, r.dropout.fill = <float>(-scale * alpha * p), <float>(scale * alpha * (1.0 - p))


cdef void set_rate(Random *r) noexcept nogil:
    run_task(rate_task, r, 0)


cdef Random random_of(object p, object seed, object offset, ptrdiff_t n) except *:
    cdef Random r
    r.rate = number(p, "p", 0.0, 1.0)
    cdef uint64_t key = unsigned64(seed, "seed")
    r.offset = unsigned64(offset, "offset")
    if r.offset + <uint64_t>n < r.offset:
        raise ValueError(f"offset must leave room for {n} draws below 2**64, got {offset}")
    r.dropout.key[0], r.dropout.key[1] = <uint32_t>key, <uint32_t>(key >> 32)
    set_rate(&r)
    return r


cdef bint drops_all(Random *r) noexcept nogil:
    return r.fixed_p >> 48 != 0

# ---- the layouts of decisions ----


cdef Layout channels_of(cnp.ndarray x, str name, object channel_axis) except *:
    if x.ndim < 2:
        raise ValueError(f"{name} must have shape (samples, channels, ...) or (samples, ..., channels), got "
                         f"{(<object>x).shape}")
    cdef bint last = is_channels_last(x, channel_axis)
    cdef ptrdiff_t channels = cnp.PyArray_DIM(x, x.ndim - 1 if last else 1), n = cnp.PyArray_SIZE(x)
    cdef ptrdiff_t rows = n // (cnp.PyArray_DIM(x, 0) * channels) if n else 1
    return Layout(n, rows, channels if last and rows > 1 else 1)


cdef Layout samples_of(cnp.ndarray x, str name, object mode) except *:
    if mode not in ("row", "batch"):
        raise ValueError(f"mode must be 'row' or 'batch', got {mode!r}")
    if x.ndim == 0:
        raise ValueError(f"{name} must have shape (samples, ...), got {(<object>x).shape}")
    cdef ptrdiff_t n = cnp.PyArray_SIZE(x)
    return Layout(n, (n // cnp.PyArray_DIM(x, 0) if mode == "row" else n) if n else 1, 1)

# ---- calls ----


cdef creg_dropout_items items_of(Random random, Layout layout) noexcept nogil:
    cdef creg_dropout_items a
    memset(&a, 0, sizeof(a))
    a.dropout, a.first, a.n, a.rows, a.cols = random.dropout, random.offset, layout.n, layout.rows, layout.cols
    a.decides = CREG_DROPS_ALL if drops_all(&random) else CREG_DRAWS if random.fixed_p else CREG_KEEPS_ALL
    a.block = max(1, CREG_TASK // a.cols) * a.cols
    if a.rows == 1:  # tasks begin at blocks of draws
        a.lead = <ptrdiff_t>((CREG_DRAWS_BLOCK - a.first % CREG_DRAWS_BLOCK) % CREG_DRAWS_BLOCK)
    return a


cdef void run(creg_dropout_items *a, block_task kernel) noexcept nogil:
    parallel_for(kernel, a, (a.n + a.block - 1) // a.block, a.n)


cdef void run_items(creg_dropout_items *a, block_task kernel) noexcept nogil:
    a.stream = streams(2 * a.n * bytes_of(a.stored))
    run(a, kernel)


cdef block_task kernel_of(creg_dropout_items *a) noexcept nogil:
    cdef const creg_kernels *k = kernels_of(a.stored)
    if a.decides != CREG_DRAWS or (a.rows == 1 and a.dropout.fill == 0.0):
        return k.dropout_forward
    if a.rows == 1:
        return k.dropout_by_mask
    return k.dropout_items_forward if a.cols == 1 else k.dropout_channels_last


cdef cnp.ndarray apply(creg_dropout_items *a, block_task kernel, cnp.ndarray x, str name, object out):
    cdef cnp.ndarray y = output(out, x, name)
    a.x, a.y = data(x), data(y)
    with nogil:
        run_items(a, kernel)
    return y


cdef cnp.ndarray dropout_of(cnp.ndarray x, str name, Layout layout, int kind, object p, object seed, object offset,
                            object out):
    cdef Random random = random_of(p, seed, offset, layout.n // layout.rows)
    if kind != INVERTED:
        run_task(alpha_task, &random, kind)
    cdef creg_dropout_items a = items_of(random, layout)
    a.stored = stored_type(x)
    return apply(&a, kernel_of(&a), x, name, out)


cdef cnp.ndarray elements_dropout(object x_, str name, int kind, object p, object seed, object offset, object out):
    cdef cnp.ndarray x = tensor(x_, name)
    return dropout_of(x, name, Layout(cnp.PyArray_SIZE(x), 1, 1), kind, p, seed, offset, out)


cdef cnp.ndarray channels_dropout(object x_, str name, int kind, object p, object seed, object offset,
                                  object channel_axis, object out):
    cdef cnp.ndarray x = tensor(x_, name)
    return dropout_of(x, name, channels_of(x, name, channel_axis), kind, p, seed, offset, out)


cdef cnp.ndarray samples_dropout(object x_, str name, object p, object seed, object offset, object mode, object out):
    cdef cnp.ndarray x = tensor(x_, name)
    return dropout_of(x, name, samples_of(x, name, mode), INVERTED, p, seed, offset, out)


def dropout(x, p=0.5, *, seed, offset=0, out=None):
    """Dropout with inverted scaling.

    ``y[i] = x[i] / (1 - p)`` with probability ``1 - p``, else 0. Element ``i`` (in flat C order) is decided by
    ``(seed, offset + i, p)`` alone, whatever the number of threads, the instruction set or the split of the array:
    ``dropout(x[k:], p, seed=s, offset=k)`` equals ``dropout(x, p, seed=s)[k:]``. Dropped NaN and Inf become 0 too.

    Parameters
    ----------
    x : float32, float16 or bfloat16 array of any shape, C-contiguous
        16-bit types: see :mod:`cregkit.functional`.
    p : float
        Probability of dropping, 0 to 1, exact to 2**-48. 0 copies ``x``; 1 gives zeros.
    seed : int
        0 to 2**64 - 1: names the stream of random bits.
    offset : int
        Position in the stream of the first element; ``offset + x.size`` must stay below 2**64.
    out : array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : array like ``x``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype or layout, a read-only or overlapping ``out``, or ``p``, ``seed`` or ``offset`` out of range.

    References
    ----------
    Srivastava, N., Hinton, G., Krizhevsky, A., Sutskever, I. and Salakhutdinov, R. (2014). "Dropout: A Simple Way to
    Prevent Neural Networks from Overfitting". JMLR 15.
    Jenkins, B. (2007). "A small noncryptographic PRNG". The random bits are those of JSF32, which starts each block of
    4096 elements from words of Philox4x32-10.
    Salmon, J. K., Moraes, M. A., Dror, R. O. and Shaw, D. E. (2011). "Parallel random numbers: as easy as 1, 2, 3".

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = np.arange(1, 9, dtype=np.float32)
    >>> cregkit.dropout(x, 0.5, seed=1)
    array([ 0.,  4.,  0.,  0., 10., 12.,  0., 16.], dtype=float32)
    >>> cregkit.dropout(x[4:], 0.5, seed=1, offset=4)
    array([10., 12.,  0., 16.], dtype=float32)
    """
    return elements_dropout(x, "x", INVERTED, p, seed, offset, out)


def dropout_backward(dy, p=0.5, *, seed, offset=0, out=None):
    """Gradient of :func:`dropout`: ``dx[i] = dy[i] / (1 - p)`` where the forward pass kept element ``i``, else 0.

    Parameters
    ----------
    dy : float32, float16 or bfloat16 array of any shape, C-contiguous
        Gradient of the output.
        16-bit types: see :mod:`cregkit.functional`.
    p, seed, offset
        As in the forward pass: they draw the same bits again, so that no mask is stored.
    out : array like ``dy``, optional
        Receives ``dx``; may be ``dy`` itself.

    Returns
    -------
    dx : array like ``dy``

    Raises
    ------
    TypeError, ValueError
        As for :func:`dropout`.

    References
    ----------
    Srivastava, N., Hinton, G., Krizhevsky, A., Sutskever, I. and Salakhutdinov, R. (2014). "Dropout: A Simple Way to
    Prevent Neural Networks from Overfitting". JMLR 15.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> cregkit.dropout_backward(np.ones(8, np.float32), 0.5, seed=1)
    array([0., 2., 0., 0., 2., 2., 0., 2.], dtype=float32)
    """
    return elements_dropout(dy, "dy", INVERTED, p, seed, offset, out)


def dropout_keep(shape, p=0.5, *, seed, offset=0):
    """The decisions of :func:`dropout`, True with probability ``1 - p``.

    Parameters
    ----------
    shape : int or tuple of int
    p, seed, offset
        As for :func:`dropout`.

    Returns
    -------
    keep : bool array of this shape, True where the element is kept

    Raises
    ------
    TypeError, ValueError
        For a bad shape, or ``p``, ``seed`` or ``offset`` out of range.

    References
    ----------
    Jenkins, B. (2007). "A small noncryptographic PRNG". The random bits are those of JSF32, which starts each block of
    4096 elements from words of Philox4x32-10.
    Salmon, J. K., Moraes, M. A., Dror, R. O. and Shaw, D. E. (2011). "Parallel random numbers: as easy as 1, 2, 3".

    Examples
    --------
    >>> import cregkit
    >>> cregkit.dropout_keep((2, 4), 0.5, seed=1)
    array([[False,  True, False, False],
           [ True,  True, False,  True]])
    """
    cdef cnp.npy_intp dims[32]
    cdef int ndim = 0
    cdef ptrdiff_t n = 1
    sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
    if len(sizes) > 32:
        raise ValueError(f"shape must have at most 32 dimensions, got {len(sizes)}")
    for size in sizes:
        try:
            whole = operator.index(size)
        except TypeError:
            raise TypeError(f"shape must be whole numbers, got {shape!r}") from None
        if not 0 <= whole < 1 << 62 or (n and whole * n >= 1 << 62):
            raise ValueError(f"shape must be of sizes from 0 up that fit in memory, got {shape!r}")
        dims[ndim] = whole
        n *= whole
        ndim += 1
    cdef creg_dropout_items a = items_of(random_of(p, seed, offset, n), Layout(n, 1, 1))
    cdef cnp.ndarray keep = new_array(ndim, dims, cnp.NPY_BOOL)
    a.keep = <unsigned char *>cnp.PyArray_DATA(keep)
    with nogil:
        run(&a, kernels().dropout_keep)
    return keep


def spatial_dropout(x, p=0.5, *, seed, offset=0, channel_axis=1, out=None):
    """Dropout of whole channels, as PyTorch's ``Dropout1d``, ``Dropout2d`` and ``Dropout3d`` of a batch.

    ``y[n, c] = x[n, c] / (1 - p)`` with probability ``1 - p``, else 0 throughout; the decision of channel ``(n, c)`` is
    ``dropout_keep((N, C), p, seed=seed, offset=offset)[n, c]``, so ``offset`` counts channels. It is the same in both
    layouts.

    Parameters
    ----------
    x : float32, float16 or bfloat16 array, shape (N, C, ...) or (N, ..., C), C-contiguous
        16-bit types: see :mod:`cregkit.functional`.
    p, seed, offset, out
        As for :func:`dropout`.
    channel_axis : 1 or -1
        Which axis holds the channels.

    Returns
    -------
    y : array like ``x``

    Raises
    ------
    TypeError, ValueError
        As for :func:`dropout`, and for an ``x`` with fewer than two dimensions or another ``channel_axis``.

    References
    ----------
    Tompson, J., Goroshin, R., Jain, A., LeCun, Y. and Bregler, C. (2015). "Efficient Object Localization Using
    Convolutional Networks". arXiv:1411.4280.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = np.arange(1, 9, dtype=np.float32).reshape(1, 4, 2)
    >>> cregkit.spatial_dropout(x, 0.5, seed=1)
    array([[[0., 0.],
            [6., 8.],
            [0., 0.],
            [0., 0.]]], dtype=float32)
    """
    return channels_dropout(x, "x", INVERTED, p, seed, offset, channel_axis, out)


def spatial_dropout_backward(dy, p=0.5, *, seed, offset=0, channel_axis=1, out=None):
    """Gradient of :func:`spatial_dropout`: ``dx[n, c] = dy[n, c] / (1 - p)`` where the channel was kept, else 0.

    Parameters
    ----------
    dy : float32, float16 or bfloat16 array, shape (N, C, ...) or (N, ..., C), C-contiguous
        Gradient of the output.
        16-bit types: see :mod:`cregkit.functional`.
    p, seed, offset, channel_axis
        As in the forward pass: they draw the same bits again, so that no mask is stored.
    out : array like ``dy``, optional
        Receives ``dx``; may be ``dy`` itself.

    Returns
    -------
    dx : array like ``dy``

    Raises
    ------
    TypeError, ValueError
        As for :func:`spatial_dropout`.

    References
    ----------
    Tompson, J., Goroshin, R., Jain, A., LeCun, Y. and Bregler, C. (2015). "Efficient Object Localization Using
    Convolutional Networks". arXiv:1411.4280.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> cregkit.spatial_dropout_backward(np.ones((1, 4, 2), np.float32), 0.5, seed=1)[0, :, 0]
    array([0., 2., 0., 0.], dtype=float32)
    """
    return channels_dropout(dy, "dy", INVERTED, p, seed, offset, channel_axis, out)


def drop_path(x, p=0.5, *, seed, offset=0, mode="row", out=None):
    """Dropout of whole samples: stochastic depth, for the branch of a residual block.

    ``y[n] = x[n] / (1 - p)`` with probability ``1 - p``, else 0 throughout. The decision of sample ``n`` is
    ``dropout_keep(N, p, seed=seed, offset=offset)[n]``, so ``offset`` counts samples; with ``mode="batch"`` all samples
    have the decision of sample 0.

    Parameters
    ----------
    x : float32, float16 or bfloat16 array, shape (N, ...), C-contiguous
        16-bit types: see :mod:`cregkit.functional`.
    p, seed, offset, out
        As for :func:`dropout`.
    mode : "row" or "batch"
        Whether each sample has its own decision, or the batch has one.

    Returns
    -------
    y : array like ``x``

    Raises
    ------
    TypeError, ValueError
        As for :func:`dropout`, and for an ``x`` without dimensions or another ``mode``.

    References
    ----------
    Huang, G., Sun, Y., Liu, Z., Sedra, D. and Weinberger, K. (2016). "Deep Networks with Stochastic Depth".
    arXiv:1603.09382. It drops a branch for the whole batch and scales at inference; timm and torchvision drop and
    scale as here.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = np.arange(1, 9, dtype=np.float32).reshape(4, 2)
    >>> cregkit.drop_path(x, 0.5, seed=1)
    array([[0., 0.],
           [6., 8.],
           [0., 0.],
           [0., 0.]], dtype=float32)
    >>> cregkit.drop_path(x, 0.5, seed=1, mode="batch").any()
    np.False_
    """
    return samples_dropout(x, "x", p, seed, offset, mode, out)


def drop_path_backward(dy, p=0.5, *, seed, offset=0, mode="row", out=None):
    """Gradient of :func:`drop_path`: ``dx[n] = dy[n] / (1 - p)`` where the sample was kept, else 0.

    Parameters
    ----------
    dy : float32, float16 or bfloat16 array, shape (N, ...), C-contiguous
        Gradient of the output.
        16-bit types: see :mod:`cregkit.functional`.
    p, seed, offset, mode
        As in the forward pass: they draw the same bits again, so that no mask is stored.
    out : array like ``dy``, optional
        Receives ``dx``; may be ``dy`` itself.

    Returns
    -------
    dx : array like ``dy``

    Raises
    ------
    TypeError, ValueError
        As for :func:`drop_path`.

    References
    ----------
    Huang, G., Sun, Y., Liu, Z., Sedra, D. and Weinberger, K. (2016). "Deep Networks with Stochastic Depth".
    arXiv:1603.09382.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> cregkit.drop_path_backward(np.ones((4, 2), np.float32), 0.5, seed=1)[:, 0]
    array([0., 2., 0., 0.], dtype=float32)
    """
    return samples_dropout(dy, "dy", p, seed, offset, mode, out)


def alpha_dropout(x, p=0.5, *, seed, offset=0, out=None):
    """Dropout for SELU, which keeps a mean of 0 and a variance of 1.

    ``y[i] = a * x[i] + b`` with probability ``1 - p``, else ``a * alpha + b``, the same for all dropped elements:
    ``alpha = -1.7580993408473766``, the limit of SELU at minus infinity, ``a = 1 / sqrt((alpha**2 * p + 1) * (1 - p))``
    and ``b = -a * alpha * p``, as in PyTorch. ``dropout_keep`` has the decisions.

    Parameters
    ----------
    x : float32, float16 or bfloat16 array of any shape, C-contiguous
        16-bit types: see :mod:`cregkit.functional`.
    p, seed, offset, out
        As for :func:`dropout`. ``p = 1`` gives zeros, as in PyTorch.

    Returns
    -------
    y : array like ``x``

    Raises
    ------
    TypeError, ValueError
        As for :func:`dropout`.

    References
    ----------
    Klambauer, G., Unterthiner, T., Mayr, A. and Hochreiter, S. (2017). "Self-Normalizing Neural Networks".
    arXiv:1706.02515.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = np.arange(1, 5, dtype=np.float32)
    >>> cregkit.alpha_dropout(x, 0.5, seed=1).round(3)
    array([-0.779,  2.552, -0.779, -0.779], dtype=float32)
    """
    return elements_dropout(x, "x", ALPHA, p, seed, offset, out)


def alpha_dropout_backward(dy, p=0.5, *, seed, offset=0, out=None):
    """Gradient of :func:`alpha_dropout`: ``dx[i] = a * dy[i]`` where the forward pass kept element ``i``, else 0.

    Parameters
    ----------
    dy : float32, float16 or bfloat16 array of any shape, C-contiguous
        Gradient of the output.
        16-bit types: see :mod:`cregkit.functional`.
    p, seed, offset
        As in the forward pass: they draw the same bits again, so that no mask is stored.
    out : array like ``dy``, optional
        Receives ``dx``; may be ``dy`` itself.

    Returns
    -------
    dx : array like ``dy``

    Raises
    ------
    TypeError, ValueError
        As for :func:`dropout`.

    References
    ----------
    Klambauer, G., Unterthiner, T., Mayr, A. and Hochreiter, S. (2017). "Self-Normalizing Neural Networks".
    arXiv:1706.02515.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> cregkit.alpha_dropout_backward(np.ones(4, np.float32), 0.5, seed=1).round(3)
    array([0.   , 0.886, 0.   , 0.   ], dtype=float32)
    """
    return elements_dropout(dy, "dy", ALPHA_BACKWARD, p, seed, offset, out)


def feature_alpha_dropout(x, p=0.5, *, seed, offset=0, channel_axis=1, out=None):
    """Alpha dropout of whole channels.

    ``y[n, c] = a * x[n, c] + b`` where :func:`spatial_dropout` keeps channel ``(n, c)``, else ``a * alpha + b``
    throughout, with the constants of :func:`alpha_dropout`.

    Parameters
    ----------
    x : float32, float16 or bfloat16 array, shape (N, C, ...) or (N, ..., C), C-contiguous
        16-bit types: see :mod:`cregkit.functional`.
    p, seed, offset, channel_axis, out
        As for :func:`spatial_dropout`. ``p = 1`` gives zeros, as in PyTorch.

    Returns
    -------
    y : array like ``x``

    Raises
    ------
    TypeError, ValueError
        As for :func:`spatial_dropout`.

    References
    ----------
    Klambauer, G., Unterthiner, T., Mayr, A. and Hochreiter, S. (2017). "Self-Normalizing Neural Networks".
    arXiv:1706.02515.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> cregkit.feature_alpha_dropout(np.ones((1, 4, 2), np.float32), 0.5, seed=1)[0, :, 0].round(3)
    array([-0.779,  1.666, -0.779, -0.779], dtype=float32)
    """
    return channels_dropout(x, "x", ALPHA, p, seed, offset, channel_axis, out)


def feature_alpha_dropout_backward(dy, p=0.5, *, seed, offset=0, channel_axis=1, out=None):
    """Gradient of :func:`feature_alpha_dropout`: ``dx[n, c] = a * dy[n, c]`` where the channel was kept, else 0.

    Parameters
    ----------
    dy : float32, float16 or bfloat16 array, shape (N, C, ...) or (N, ..., C), C-contiguous
        Gradient of the output.
        16-bit types: see :mod:`cregkit.functional`.
    p, seed, offset, channel_axis
        As in the forward pass: they draw the same bits again, so that no mask is stored.
    out : array like ``dy``, optional
        Receives ``dx``; may be ``dy`` itself.

    Returns
    -------
    dx : array like ``dy``

    Raises
    ------
    TypeError, ValueError
        As for :func:`spatial_dropout`.

    References
    ----------
    Klambauer, G., Unterthiner, T., Mayr, A. and Hochreiter, S. (2017). "Self-Normalizing Neural Networks".
    arXiv:1706.02515.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> cregkit.feature_alpha_dropout_backward(np.ones((1, 4, 2), np.float32), 0.5, seed=1)[0, :, 0].round(3)
    array([0.   , 0.886, 0.   , 0.   ], dtype=float32)
    """
    return channels_dropout(dy, "dy", ALPHA_BACKWARD, p, seed, offset, channel_axis, out)
