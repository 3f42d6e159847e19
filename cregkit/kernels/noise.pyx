# Random numbers of samples, and Gaussian noise: checks, allocation and the loops over tasks, which are the kernels of
# csrc/noise.h. That header defines how bits become numbers.
cimport numpy as cnp
from libc.float cimport FLT_MAX
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from cregkit.kernels._arrays cimport (
    check_range, doubles, float32_array, floats, int64_vector, new_array, output, per_sample, refuse_overlaps,
    unsigned64, whole_number,
)
from cregkit.kernels._csrc cimport creg_noise, CREG_TASK
from cregkit.kernels._runtime cimport kernels
from cregkit.kernels._threads cimport parallel_for

cnp.import_array()

cdef enum:
    TASK_SAMPLES = 256


cdef void set_key(creg_noise *a, uint64_t seed) noexcept nogil:
    a.key[0], a.key[1] = <uint32_t>seed, <uint32_t>(seed >> 32)


cdef int set_index(creg_noise *a, cnp.ndarray index) except -1:
    a.index = <const int64_t *>cnp.PyArray_DATA(index)
    return check_range(a.index, cnp.PyArray_SIZE(index), 1, <int64_t>0, (<int64_t>1 << 32) - 1, "index",
                       "numbers of samples from 0 to 2**32 - 1")


def derive_seed(seed, *numbers):
    """Derive a seed from a seed and numbers, such as an epoch and a step.

    Numbers are applied in turn: ``derive_seed(seed, epoch, step)`` equals
    ``derive_seed(derive_seed(seed, epoch), step)``. The result consists of the first two words of Philox4x32-10 for
    the counter (number, 2), keyed by the seed.

    Parameters
    ----------
    seed
        Seed in [0, 2**64).
    *numbers
        Numbers in [0, 2**64).

    Returns
    -------
    int
        Seed in [0, 2**64).

    Raises
    ------
    TypeError
        An argument is not an int.
    ValueError
        An argument lies outside [0, 2**64).

    Examples
    --------
    >>> from cregkit.augment import derive_seed
    >>> derive_seed(42, 3)
    17358974384228951361
    >>> derive_seed(42, 3, 1) == derive_seed(derive_seed(42, 3), 1)
    True
    """
    cdef uint64_t derived = unsigned64(seed, "seed")
    for n in numbers:
        derived = kernels().derived_seed(derived, unsigned64(n, "numbers"))
    return derived


def sample_uniform(index, n, *, seed):
    """Random numbers that belong to samples: uniform in [0, 1), functions of ``(seed, index, position)`` alone.

    A sample's row is the same in any batch, in any order; its first numbers do not depend on ``n``.

    Parameters
    ----------
    index : int64 array, shape (N,), C-contiguous
        Numbers of the samples in their data set, 0 to 2**32 - 1.
    n : int
        Numbers per sample, 0 to 2**32.
    seed : int
        0 to 2**64 - 1: names the stream of random bits.

    Returns
    -------
    u : float64 array, shape (N, n), of whole multiples of 2**-53

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, or ``index``, ``n`` or ``seed`` out of range.

    References
    ----------
    Salmon, J. K., Moraes, M. A., Dror, R. O. and Shaw, D. E. (2011). "Parallel random numbers: as easy as 1, 2, 3".
    The random bits are those of Philox4x32-10.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> u = cregkit.sample_uniform(np.array([3, 5]), 2, seed=1)
    >>> u.shape, bool((u == np.floor(u * 2**53) / 2**53).all())
    ((2, 2), True)
    >>> bool((cregkit.sample_uniform(np.array([5]), 1, seed=1)[0] == u[1, :1]).all())
    True
    """
    cdef creg_noise a
    memset(&a, 0, sizeof(a))
    cdef cnp.ndarray index_ = int64_vector(index, "index")
    cdef ptrdiff_t samples = cnp.PyArray_DIM(index_, 0)
    set_index(&a, index_)
    numbers = whole_number(n, "n")
    if not 0 <= numbers <= 1 << 32 or samples and numbers >= (1 << 60) // samples:
        raise ValueError(f"n must be from 0 to 2**32 numbers that fit in memory, got {numbers}")
    cdef cnp.npy_intp shape[2]
    shape[0], shape[1] = samples, numbers
    a.samples, a.size, a.block = samples, numbers, TASK_SAMPLES
    set_key(&a, unsigned64(seed, "seed"))
    cdef cnp.ndarray u = new_array(2, shape, cnp.NPY_FLOAT64)
    a.uniform = doubles(u)
    with nogil:
        parallel_for(kernels().sample_uniform, &a, (samples + TASK_SAMPLES - 1) // TASK_SAMPLES, samples * a.size)
    return u


def gaussian_noise(x, sigma, index, *, seed, out=None):
    """Gaussian noise on samples: ``y[i] = x[i] + sigma[i] * z``, with ``z`` of the standard normal distribution.

    The noise of element ``j`` of sample ``i`` (in flat C order) depends on ``(seed, index[i], j)`` alone, not on the
    batch, the number of threads or the instruction set. ``|z|`` is at most 6.66.

    Parameters
    ----------
    x : float32 array, shape (N, ...), C-contiguous; less than 2**32 elements in a sample
    sigma : float32 array, shape (N,)
        Standard deviations, at least 0. A sample with 0 is copied.
    index : int64 array, shape (N,)
        Numbers of the samples in their data set, 0 to 2**32 - 1.
    seed : int
        0 to 2**64 - 1: names the stream of random bits.
    out : float32 array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : float32 array like ``x``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, a read-only or overlapping ``out``, or values out of range.

    References
    ----------
    Box, G. E. P. and Muller, M. E. (1958). "A Note on the Generation of Random Normal Deviates". Annals of Mathematical
    Statistics 29(2).
    Salmon, J. K., Moraes, M. A., Dror, R. O. and Shaw, D. E. (2011). "Parallel random numbers: as easy as 1, 2, 3".
    The random bits are those of Philox4x32-10.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = np.zeros((2, 3), np.float32)
    >>> cregkit.gaussian_noise(x, np.array([0, 1], np.float32), np.array([3, 5]), seed=1)
    array([[ 0.        ,  0.        ,  0.        ],
           [ 1.3592352 , -0.7112957 , -0.07587919]], dtype=float32)
    """
    cdef cnp.ndarray x_ = float32_array(x, "x")
    if x_.ndim == 0:
        raise ValueError("x must have shape (samples, ...), got a scalar array")
    cdef creg_noise a
    memset(&a, 0, sizeof(a))
    a.samples = cnp.PyArray_DIM(x_, 0)
    a.size = cnp.PyArray_SIZE(x_) // a.samples if a.samples else 0
    if a.size >> 32:
        raise ValueError(f"x must have less than 2**32 elements in a sample, got {a.size}: cut it into shorter samples")
    cdef cnp.ndarray sigma_ = per_sample(sigma, "sigma", cnp.NPY_FLOAT32, a.samples, 1)
    cdef cnp.ndarray index_ = per_sample(index, "index", cnp.NPY_INT64, a.samples, 1)
    set_index(&a, index_)
    set_key(&a, unsigned64(seed, "seed"))
    a.sigma = floats(sigma_)
    check_range(a.sigma, a.samples, 1, <float>0.0, FLT_MAX, "sigma", "finite numbers of at least 0")
    cdef cnp.ndarray y = output(out, x_, "x")
    refuse_overlaps(y, "out", ((sigma_, "sigma"), (index_, "index")))
    a.x, a.y = floats(x_), floats(y)
    a.block, a.pieces = CREG_TASK, (a.size + CREG_TASK - 1) // CREG_TASK
    with nogil:
        parallel_for(kernels().gaussian_noise, &a, a.samples * a.pieces, a.samples * a.size)
    return y
