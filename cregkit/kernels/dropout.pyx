# Dropout of elements and of channels: checks, allocation and the loop over tasks, which are the kernels of
# csrc/dropout.h. That header defines which random bits decide which element.
import operator

cimport numpy as cnp
from libc.math cimport rint
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from cregkit.kernels._arrays cimport float32_array, floats, new_array, number, output, unsigned64
from cregkit.kernels._csrc cimport (
    CREG_DRAWS, creg_dropout_items, CREG_DROPOUT_GROUP, CREG_DROPS_ALL, CREG_KEEPS_ALL, CREG_TASK,
)
from cregkit.kernels._runtime cimport kernels, streams
from cregkit.kernels._threads cimport block_task, parallel_for, run_task

cnp.import_array()


# Computes the thresholds and the scale from the rate.
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


# The record of dropout of n items of `size` elements.
cdef creg_dropout_items items_of(Random random, ptrdiff_t n, ptrdiff_t size) noexcept:
    cdef creg_dropout_items a
    memset(&a, 0, sizeof(a))
    a.dropout, a.first, a.n, a.size = random.dropout, random.offset, n, size
    a.decides = CREG_DROPS_ALL if drops_all(&random) else CREG_DRAWS if random.fixed_p else CREG_KEEPS_ALL
    a.block = max(1, CREG_TASK // max(1, size))
    return a


# Makes tasks on single elements begin at groups of draws.
cdef void align(creg_dropout_items *a) noexcept:
    a.lead = <ptrdiff_t>((CREG_DROPOUT_GROUP - a.first % CREG_DROPOUT_GROUP) % CREG_DROPOUT_GROUP)


cdef void run(creg_dropout_items *a, block_task kernel) noexcept:
    with nogil:
        parallel_for(kernel, a, (a.n + a.block - 1) // a.block, a.n * a.size)


cdef cnp.ndarray apply(creg_dropout_items *a, block_task kernel, cnp.ndarray x, str name, object out):
    cdef cnp.ndarray y = output(out, x, name)
    a.x, a.y, a.stream = floats(x), floats(y), streams(cnp.PyArray_SIZE(x), 2)
    run(a, kernel)
    return y


cdef cnp.ndarray dropout_of(object x_, str name, object p, object seed, object offset, object out):
    cdef cnp.ndarray x = float32_array(x_, name)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(x)
    cdef creg_dropout_items a = items_of(random_of(p, seed, offset, n), n, 1)
    align(&a)
    return apply(&a, kernels().dropout_forward, x, name, out)


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

    References
    ----------
    Srivastava, N., Hinton, G., Krizhevsky, A., Sutskever, I. and Salakhutdinov, R. (2014). "Dropout: A Simple Way to
    Prevent Neural Networks from Overfitting". JMLR 15.
    Salmon, J. K., Moraes, M. A., Dror, R. O. and Shaw, D. E. (2011). "Parallel random numbers: as easy as 1, 2, 3".
    The random bits are those of Philox4x32-10.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = np.arange(1, 9, dtype=np.float32)
    >>> cregkit.dropout(x, 0.5, seed=1)
    array([ 0.,  4.,  0.,  8., 10.,  0., 14., 16.], dtype=float32)
    >>> cregkit.dropout(x[4:], 0.5, seed=1, offset=4)
    array([10.,  0., 14., 16.], dtype=float32)
    """
    return dropout_of(x, "x", p, seed, offset, out)


def dropout_backward(dy, p=0.5, *, seed, offset=0, out=None):
    """Gradient of :func:`dropout`: ``dx[i] = dy[i] / (1 - p)`` where the forward pass kept element ``i``, else 0.

    Parameters
    ----------
    dy : float32 array of any shape, C-contiguous
        Gradient of the output.
    p, seed, offset
        As in the forward pass: they draw the same bits again, so that no mask is stored.
    out : float32 array like ``dy``, optional
        Receives ``dx``; may be ``dy`` itself.

    Returns
    -------
    dx : float32 array like ``dy``

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
    array([0., 2., 0., 2., 2., 0., 2., 2.], dtype=float32)
    """
    return dropout_of(dy, "dy", p, seed, offset, out)


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
    Salmon, J. K., Moraes, M. A., Dror, R. O. and Shaw, D. E. (2011). "Parallel random numbers: as easy as 1, 2, 3".
    The random bits are those of Philox4x32-10.

    Examples
    --------
    >>> import cregkit
    >>> cregkit.dropout_keep((2, 4), 0.5, seed=1)
    array([[False,  True, False,  True],
           [ True, False,  True,  True]])
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
    cdef creg_dropout_items a = items_of(random_of(p, seed, offset, n), n, 1)
    cdef cnp.ndarray keep = new_array(ndim, dims, cnp.NPY_BOOL)
    a.keep = <unsigned char *>cnp.PyArray_DATA(keep)
    align(&a)
    run(&a, kernels().dropout_keep)
    return keep


cdef cnp.ndarray spatial_of(object x_, str name, object p, object seed, object offset, object out):
    cdef cnp.ndarray x = float32_array(x_, name)
    if x.ndim < 2:
        raise ValueError(f"{name} must have shape (samples, channels, ...), got {(<object>x).shape}")
    cdef ptrdiff_t channels = cnp.PyArray_DIM(x, 0) * cnp.PyArray_DIM(x, 1)
    cdef ptrdiff_t size = cnp.PyArray_SIZE(x) // channels if channels else 0
    cdef creg_dropout_items a = items_of(random_of(p, seed, offset, channels), channels, size)
    return apply(&a, kernels().spatial_dropout, x, name, out)


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
    array([[[ 0.,  0.],
            [ 6.,  8.],
            [ 0.,  0.],
            [14., 16.]]], dtype=float32)
    """
    return spatial_of(x, "x", p, seed, offset, out)


def spatial_dropout_backward(dy, p=0.5, *, seed, offset=0, out=None):
    """Gradient of :func:`spatial_dropout`: ``dx[n, c] = dy[n, c] / (1 - p)`` where the channel was kept, else 0.

    Parameters
    ----------
    dy : float32 array, shape (N, C, ...), C-contiguous
        Gradient of the output.
    p, seed, offset
        As in the forward pass: they draw the same bits again, so that no mask is stored.
    out : float32 array like ``dy``, optional
        Receives ``dx``; may be ``dy`` itself.

    Returns
    -------
    dx : float32 array like ``dy``

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
    array([0., 2., 0., 2.], dtype=float32)
    """
    return spatial_of(dy, "dy", p, seed, offset, out)
