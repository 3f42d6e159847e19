# DropBlock: checks, and two loops over tasks. The first builds the mask and counts the kept elements
# (csrc/drop_block.h), the second applies it (csrc/dropout.h).
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t
from libc.string cimport memset

from cregkit.kernels._arrays cimport (
    is_channels_last, new_vector, number, output, stored_type, tensor, whole_number,
)
from cregkit.kernels._csrc cimport CREG_DRAWS, creg_drop_block, CREG_DROPS_ALL, creg_kernels, CREG_TASK
from cregkit.kernels._runtime cimport kernels_of
from cregkit.kernels._threads cimport parallel_for, run_task
from cregkit.kernels.dropout cimport apply, items_of, Layout, random_of

cnp.import_array()


cdef struct Rate:
    double p, gamma
    ptrdiff_t height, width, side


# Computes gamma, the probability of a seed. It is at most p.
cdef void gamma_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Rate *r = <Rate *>args
    cdef ptrdiff_t places = (r.height - r.side + 1) * (r.width - r.side + 1)
    r.gamma = r.p * <double>(r.height * r.width) / <double>(r.side * r.side * places)


# Computes the scale from the count. If nothing is kept, y is 0.
cdef void scale_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef creg_drop_block *b = <creg_drop_block *>args
    if b.kept == 0:
        b.items.decides = CREG_DROPS_ALL
    else:
        b.items.dropout.scale = <float>(<double>b.items.n / <double>b.kept)


cdef ptrdiff_t side_of(object block_size) except -1:
    side = whole_number(block_size, "block_size")
    if side < 1:
        raise ValueError(f"block_size must be at least 1, got {side}")
    return min(side, 1 << 62)


cdef cnp.ndarray drop_block_of(object x_, str name, object p, object block_size, object seed, object offset,
                               object channel_axis, object out):
    cdef cnp.ndarray x = tensor(x_, name), keep
    cdef const creg_kernels *k = kernels_of(stored_type(x))
    if x.ndim != 4:
        raise ValueError(f"{name} must have shape (samples, channels, height, width) or (samples, height, width, "
                         f"channels), got {(<object>x).shape}")
    cdef bint last = is_channels_last(x, channel_axis)
    cdef creg_drop_block b
    cdef Rate r
    memset(&b, 0, sizeof(b))
    b.height, b.width = cnp.PyArray_DIM(x, 1 if last else 2), cnp.PyArray_DIM(x, 2 if last else 3)
    b.pixel, b.side = cnp.PyArray_DIM(x, 3) if last else 1, min(side_of(block_size), min(b.height, b.width))
    r.p, r.gamma, r.height, r.width, r.side = number(p, "p", 0.0, 1.0), 0.0, b.height, b.width, b.side
    cdef ptrdiff_t n = cnp.PyArray_SIZE(x), plane = b.height * b.width * b.pixel
    if n:
        run_task(gamma_task, &r, 0)
    b.items = items_of(random_of(r.gamma, seed, offset, n), Layout(n, 1, 1))
    b.items.stored = stored_type(x)
    if b.items.decides != CREG_DRAWS or n == 0:
        return apply(&b.items, k.dropout_forward, x, name, out)
    cdef cnp.ndarray y = output(out, x, name)
    keep = new_vector(n, cnp.NPY_BOOL)
    b.items.keep = <unsigned char *>cnp.PyArray_DATA(keep)
    b.items.block, b.items.lead = max(1, CREG_TASK // plane) * plane, 0
    with nogil:
        parallel_for(k.drop_block_mask, &b, (n + b.items.block - 1) // b.items.block, n)
    run_task(scale_task, &b, 0)
    b.items.block = CREG_TASK
    return apply(&b.items, k.dropout_by_mask if b.kept else k.dropout_forward, x, name, y)


def drop_block(x, p=0.1, block_size=7, *, seed, offset=0, channel_axis=1, out=None):
    """Dropout of square blocks of each channel: DropBlock.

    Each element may be the last, at the lower right, of a block of ``block_size x block_size`` elements of its channel,
    if such a block fits. It is one with probability ``gamma = p / block_size**2 * height * width / ((height -
    block_size + 1) * (width - block_size + 1))``, decided as by ``dropout_keep(x.shape, gamma, seed=seed,
    offset=offset)``. Then ``y[i] = x[i] * x.size / kept`` outside all blocks, 0 within; ``kept`` is the number of
    elements of ``x`` outside all blocks.

    Blocks overlap, so the dropped share is below ``p``, and about ``1 - exp(-p)`` far from the edges. ``p`` = 1 is no
    exception. Where blocks cover everything, ``y`` is 0. A ``block_size`` larger than the height or width is reduced to
    the smaller of them.

    Parameters
    ----------
    x : float32, float16 or bfloat16 array, shape (N, C, H, W) or (N, H, W, C), C-contiguous
        16-bit types: see :mod:`cregkit.functional`.
    p : float
        0 to 1. 0 copies ``x``.
    block_size : int
        Side of a block, from 1. With 1, ``p`` is the probability of dropping an element.
    seed, offset, out
        As for :func:`dropout`; ``offset`` counts elements.
    channel_axis : 1 or -1
        Which axis holds the channels. Decisions are drawn in the order of memory, so layouts have different masks.

    Returns
    -------
    y : array like ``x``

    Raises
    ------
    TypeError, ValueError
        As for :func:`dropout`, for an ``x`` that has not four dimensions, or another ``block_size`` or
        ``channel_axis``.

    References
    ----------
    Ghiasi, G., Lin, T.-Y. and Le, Q. V. (2018). "DropBlock: A regularization method for convolutional networks".
    arXiv:1810.12890. The scale follows its Algorithm 1: one for the whole mask. So it depends on the batch.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> cregkit.drop_block(np.ones((1, 1, 4, 6), np.float32), 0.3, 2, seed=5)[0, 0]
    array([[1.2, 1.2, 1.2, 1.2, 1.2, 1.2],
           [0. , 0. , 1.2, 1.2, 1.2, 1.2],
           [0. , 0. , 1.2, 1.2, 1.2, 1.2],
           [1.2, 1.2, 1.2, 1.2, 1.2, 1.2]], dtype=float32)
    """
    return drop_block_of(x, "x", p, block_size, seed, offset, channel_axis, out)


def drop_block_backward(dy, p=0.1, block_size=7, *, seed, offset=0, channel_axis=1, out=None):
    """Gradient of :func:`drop_block`: ``dx[i] = dy[i] * x.size / kept`` outside all blocks, else 0.

    Parameters
    ----------
    dy : float32, float16 or bfloat16 array, shape (N, C, H, W) or (N, H, W, C), C-contiguous
        Gradient of the output.
        16-bit types: see :mod:`cregkit.functional`.
    p, block_size, seed, offset, channel_axis
        As in the forward pass: they draw the same bits again, so that no mask is stored.
    out : array like ``dy``, optional
        Receives ``dx``; may be ``dy`` itself.

    Returns
    -------
    dx : array like ``dy``

    Raises
    ------
    TypeError, ValueError
        As for :func:`drop_block`.

    References
    ----------
    Ghiasi, G., Lin, T.-Y. and Le, Q. V. (2018). "DropBlock: A regularization method for convolutional networks".
    arXiv:1810.12890.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> cregkit.drop_block_backward(np.ones((1, 1, 4, 6), np.float32), 0.3, 2, seed=5)[0, 0, 1]
    array([0. , 0. , 1.2, 1.2, 1.2, 1.2], dtype=float32)
    """
    return drop_block_of(dy, "dy", p, block_size, seed, offset, channel_axis, out)
