# Dropout, element by element and channel by channel: checks, allocation and the loop over blocks. The maths, and which
# random bits decide which element, is in csrc/dropout.h.
import operator

cimport numpy as cnp
from libc.math cimport rint
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from cregkit.kernels._runtime cimport (
    CREG_DROPOUT_GROUP, float32_array, floats, kernels, new_array, number, output, streams, unsigned64,
)
from cregkit.kernels._threads cimport parallel_for, run_task

cnp.import_array()

cdef enum:
    TASK_ELEMENTS = 16384  # a multiple of the group


# From the rate to the thresholds and the scale.
cdef void rate_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Random *r = <Random *>args
    r.fixed_p = <uint64_t>rint(r.rate * 281474976710656.0)
    r.dropout.threshold, r.dropout.tie = <uint16_t>(r.fixed_p >> 32), <uint32_t>r.fixed_p
    r.dropout.scale = <float>(1.0 / (1.0 - r.rate)) if r.rate < 1.0 else 0.0


cdef Random random_of(object p, object seed, object offset, ptrdiff_t n) except *:
    cdef Random r
    r.rate = number(p, "p", 0.0, 1.0)
    cdef uint64_t key = unsigned64(seed, "seed")
    r.offset = unsigned64(offset, "offset")
    if r.offset + <uint64_t>n < r.offset:
        raise ValueError(f"offset must leave room for {n} draws below 2**64, got {offset}")
    r.dropout.key[0], r.dropout.key[1] = <uint32_t>key, <uint32_t>(key >> 32)
    run_task(rate_task, &r, 0)
    return r


cdef bint drops_all(Random *r) noexcept nogil:
    return r.fixed_p >> 48 != 0


cdef struct Elements:
    Random random
    const float *x
    float *y
    unsigned char *keep
    ptrdiff_t n, lead  # lead: elements before the first whole group
    int stream


cdef Elements elements_of(Random random, ptrdiff_t n) noexcept:
    cdef Elements a
    a.random, a.n, a.x, a.y, a.keep, a.stream = random, n, NULL, NULL, NULL, 0
    a.lead = <ptrdiff_t>((CREG_DROPOUT_GROUP - random.offset % CREG_DROPOUT_GROUP) % CREG_DROPOUT_GROUP)
    return a


cdef ptrdiff_t task_start(Elements *a, ptrdiff_t task) noexcept nogil:
    return 0 if task == 0 else min(a.n, task * TASK_ELEMENTS + a.lead)


cdef ptrdiff_t task_count(Elements *a) noexcept nogil:
    return (a.n + TASK_ELEMENTS - 1) // TASK_ELEMENTS


# Whether nothing is left to chance: all dropped, or all kept. Then y is done.
cdef bint is_certain(Random *r, const float *x, float *y, ptrdiff_t n) noexcept nogil:
    if drops_all(r):
        memset(y, 0, n * sizeof(float))
        return True
    if r.fixed_p == 0 and x != y:
        memcpy(y, x, n * sizeof(float))
    return r.fixed_p == 0


cdef void dropout_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Elements *a = <Elements *>args
    cdef ptrdiff_t i = task_start(a, task), end = task_start(a, task + 1)
    if not is_certain(&a.random, a.x + i, a.y + i, end - i):
        kernels().dropout(a.x + i, a.y + i, a.random.offset + <uint64_t>i, end - i, &a.random.dropout, a.stream)


cdef void keep_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Elements *a = <Elements *>args
    cdef ptrdiff_t i = task_start(a, task), end = task_start(a, task + 1)
    kernels().dropout_keep(a.keep + i, a.random.offset + <uint64_t>i, end - i, &a.random.dropout)


cdef cnp.ndarray dropout_of(object x_, str name, object p, object seed, object offset, object out):
    cdef cnp.ndarray x = float32_array(x_, name)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(x)
    cdef Elements a = elements_of(random_of(p, seed, offset, n), n)
    cdef cnp.ndarray y = output(out, x, name)
    a.x, a.y, a.stream = floats(x), floats(y), streams(n, 2)
    with nogil:
        parallel_for(dropout_task, &a, task_count(&a), n)
    return y


def dropout(x, p=0.5, *, seed, offset=0, out=None):
    """Dropout with inverted scaling.

    ``y[i] = x[i] / (1 - p)`` with probability ``1 - p``, else 0. Element ``i`` (in flat C order) is decided by
    ``(seed, offset + i, p)`` alone, whatever the number of threads, the instruction set or the split of the array:
    ``dropout(x[k:], p, seed=s, offset=k)`` equals ``dropout(x, p, seed=s)[k:]``. Dropped NaN and Inf become 0 too.

    Parameters
    ----------
    x : float32 array of any shape, C-contiguous
    p : float
        Probability of dropping, 0 to 1, exact to 2**-48. 0 copies ``x``; 1 gives zeros.
    seed : int
        0 to 2**64 - 1: names the stream of random bits.
    offset : int
        Position in the stream of the first element; ``offset + x.size`` must stay below 2**64.
    out : float32 array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : float32 array like ``x``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype or layout, a read-only or overlapping ``out``, or ``p``, ``seed`` or ``offset`` out of range.

    Srivastava et al. (2014), "Dropout: A Simple Way to Prevent Neural Networks from Overfitting"; random bits:
    Philox4x32-10, Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3".

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.ones(1000, np.float32)
    >>> y = ck.dropout(x, 0.25, seed=7)
    >>> np.unique(y).round(3)
    array([0.   , 1.333], dtype=float32)
    >>> np.array_equal(ck.dropout(x[100:], 0.25, seed=7, offset=100), y[100:])
    True
    """
    return dropout_of(x, "x", p, seed, offset, out)


def dropout_backward(dy, p=0.5, *, seed, offset=0, out=None):
    """Gradient of :func:`dropout`: ``dx[i] = dy[i] / (1 - p)`` where the forward pass kept element ``i``, else 0.

    The same ``p``, ``seed`` and ``offset`` draw the same bits again, so no mask is stored. Arguments and errors are
    those of :func:`dropout`, with ``dy`` (float32, C-contiguous) in place of ``x``.

    Returns
    -------
    dx : float32 array like ``dy``

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.ones(1000, np.float32)
    >>> np.array_equal(ck.dropout_backward(x, 0.25, seed=7), ck.dropout(x, 0.25, seed=7))
    True
    """
    return dropout_of(dy, "dy", p, seed, offset, out)


def dropout_keep(shape, p=0.5, *, seed, offset=0):
    """The decisions of :func:`dropout` themselves, to look at.

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

    Examples
    --------
    >>> import cregkit as ck
    >>> kept = ck.dropout_keep((2, 500), 0.25, seed=7)
    >>> kept.shape, kept.dtype
    ((2, 500), dtype('bool'))
    >>> bool(abs(kept.mean() - 0.75) < 0.05)
    True
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
    cdef Elements a = elements_of(random_of(p, seed, offset, n), n)
    cdef cnp.ndarray keep = new_array(ndim, dims, cnp.NPY_BOOL)
    a.keep = <unsigned char *>cnp.PyArray_DATA(keep)
    with nogil:
        if drops_all(&a.random) or a.random.fixed_p == 0:
            memset(a.keep, not drops_all(&a.random), n)
        else:
            parallel_for(keep_task, &a, task_count(&a), n)
    return keep


cdef struct Channels:
    Random random
    const float *x
    float *y
    ptrdiff_t channels, size, step
    int stream


cdef void spatial_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Channels *a = <Channels *>args
    cdef ptrdiff_t c = task * a.step, at = c * a.size
    cdef ptrdiff_t channels = min(a.step, a.channels - c)
    if not is_certain(&a.random, a.x + at, a.y + at, channels * a.size):
        kernels().spatial_dropout(a.x + at, a.y + at, a.random.offset + <uint64_t>c, channels, a.size,
                                  &a.random.dropout, a.stream)


cdef cnp.ndarray spatial_of(object x_, str name, object p, object seed, object offset, object out):
    cdef cnp.ndarray x = float32_array(x_, name)
    if x.ndim < 2:
        raise ValueError(f"{name} must have shape (samples, channels, ...), got {(<object>x).shape}")
    cdef Channels a
    cdef ptrdiff_t n = cnp.PyArray_SIZE(x)
    a.channels = cnp.PyArray_DIM(x, 0) * cnp.PyArray_DIM(x, 1)
    a.size = n // a.channels if a.channels else 0
    a.random = random_of(p, seed, offset, a.channels)
    a.step = max(1, TASK_ELEMENTS // max(1, a.size))
    cdef cnp.ndarray y = output(out, x, name)
    a.x, a.y, a.stream = floats(x), floats(y), streams(n, 2)
    with nogil:
        parallel_for(spatial_task, &a, (a.channels + a.step - 1) // a.step, n)
    return y


def spatial_dropout(x, p=0.5, *, seed, offset=0, out=None):
    """Dropout of whole channels.

    ``y[n, c] = x[n, c] / (1 - p)`` with probability ``1 - p``, else 0 throughout; the decision of channel ``(n, c)`` is
    ``dropout_keep((N, C), p, seed=seed, offset=offset)[n, c]``, so ``offset`` counts channels.

    Parameters
    ----------
    x : float32 array, shape (N, C, ...), C-contiguous
    p, seed, offset, out
        As for :func:`dropout`.

    Returns
    -------
    y : float32 array like ``x``

    Raises
    ------
    TypeError, ValueError
        As for :func:`dropout`, and for an ``x`` with fewer than two dimensions.

    Tompson et al. (2015), "Efficient Object Localization Using Convolutional Networks", arXiv:1411.4280.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.ones((4, 100, 8, 8), np.float32)
    >>> y = ck.spatial_dropout(x, 0.25, seed=7)
    >>> bool(np.all(y == y[:, :, :1, :1]))  # a channel is kept or dropped as a whole
    True
    """
    return spatial_of(x, "x", p, seed, offset, out)


def spatial_dropout_backward(dy, p=0.5, *, seed, offset=0, out=None):
    """Gradient of :func:`spatial_dropout`: ``dx[n, c] = dy[n, c] / (1 - p)`` where the channel was kept, else 0.

    Arguments and errors are those of :func:`spatial_dropout`, with ``dy`` (float32, C-contiguous) in place of ``x``.

    Returns
    -------
    dx : float32 array like ``dy``

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.ones((4, 100, 8, 8), np.float32)
    >>> np.array_equal(ck.spatial_dropout_backward(x, 0.25, seed=7), ck.spatial_dropout(x, 0.25, seed=7))
    True
    """
    return spatial_of(dy, "dy", p, seed, offset, out)
