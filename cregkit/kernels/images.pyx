# Transforms of images, one decision for each image: checks, allocation and the loop over images. The maths is in
# csrc/images.h and csrc/jitter.h.
import operator

import numpy as np

cimport numpy as cnp
from libc.float cimport FLT_MAX
from libc.math cimport floorf
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t

from cregkit.kernels._runtime cimport (
    creg_image, doubles, float32_array, float32_like, float32_number, floats, is_channels_last, kernels, new_array,
    output, per_sample, refuse_overlap,
)
from cregkit.kernels._threads cimport block_task, parallel_for

cnp.import_array()

cdef enum:
    TASK_ELEMENTS = 16384


cdef extern from * nogil:
    """
    static inline void creg_set_flag(int *flag) { __atomic_store_n(flag, 1, __ATOMIC_RELAXED); }
    """
    void creg_set_flag(int *flag)


# A batch of images, what is decided for each, and how many of them make a task.
cdef struct Images:
    creg_image image
    ptrdiff_t n, size, size_out, step
    int channels, last
    const float *x
    const float *other
    float *y
    const int64_t *whole  # corners, flips or boxes
    const float *factors
    const double *angles
    float fill
    ptrdiff_t height, width  # of the window
    int reflect
    int outside  # set where an image that must hold colours does not


cdef cnp.ndarray image_array(object x, str name):
    if isinstance(x, np.ndarray) and x.dtype == np.uint8:
        raise TypeError(f"{name} must be float32, got uint8: convert it with {name}.astype(np.float32) / 255, which "
                        f"gives values from 0 to 1")
    return float32_array(x, name)


cdef Images images_of(cnp.ndarray x, object channel_axis) except *:
    cdef Images a
    if x.ndim != 4:
        raise ValueError(f"x must have shape (samples, channels, height, width), or (samples, height, width, channels) "
                         f"with channel_axis=-1, got {(<object>x).shape}")
    a.last = is_channels_last(x, channel_axis)
    a.n = cnp.PyArray_DIM(x, 0)
    a.size = cnp.PyArray_DIM(x, 1) * cnp.PyArray_DIM(x, 2) * cnp.PyArray_DIM(x, 3)
    if a.size == 0:
        raise ValueError(f"x must have at least one channel, row and column, got shape {(<object>x).shape}")
    a.image.planes = 1 if a.last else cnp.PyArray_DIM(x, 1)
    a.image.height = cnp.PyArray_DIM(x, 1 if a.last else 2)
    a.image.width = cnp.PyArray_DIM(x, 2 if a.last else 3)
    a.image.pixel = cnp.PyArray_DIM(x, 3) if a.last else 1
    a.channels = <int>min(a.image.planes * a.image.pixel, <ptrdiff_t>1 << 30)
    a.x, a.other, a.y, a.whole, a.factors, a.angles = floats(x), NULL, NULL, NULL, NULL, NULL
    a.size_out, a.fill, a.height, a.width, a.reflect = a.size, 0.0, a.image.height, a.image.width, 0
    a.outside = 0
    return a


cdef void run(Images *a, block_task task) noexcept:
    a.step = max(1, TASK_ELEMENTS // a.size_out)
    with nogil:
        parallel_for(task, a, (a.n + a.step - 1) // a.step, a.n * a.size_out)


cdef ptrdiff_t task_end(Images *a, ptrdiff_t task) noexcept nogil:
    return min(a.n, (task + 1) * a.step)


cdef cnp.ndarray whole_numbers(object values, str name, Images *a, ptrdiff_t k):
    cdef cnp.ndarray checked = per_sample(values, name, cnp.NPY_INT64, a.n, k)
    a.whole = <const int64_t *>cnp.PyArray_DATA(checked)
    return checked


# Whether all of k whole numbers for each image lie in [low, high].
cdef int check_whole(Images *a, str name, ptrdiff_t k, int64_t low, int64_t high) except -1:
    cdef ptrdiff_t i
    for i in range(a.n * k):
        if not low <= a.whole[i] <= high:
            raise ValueError(f"{name} must hold whole numbers from {low} to {high}, got {a.whole[i]}")
    return 0


cdef int check_factors(Images *a, str name, ptrdiff_t k, ptrdiff_t column, float low, float high) except -1:
    cdef ptrdiff_t i
    cdef float value
    for i in range(a.n):
        value = a.factors[i * k + column]
        if not low <= value <= high:
            bounds = f"from {low:g} to {high:g}"
            if high == FLT_MAX:
                bounds = "finite" if low < 0 else "finite and at least 0"
            where = f"{name}[:, {column}]" if k > 1 else name
            raise ValueError(f"{where} must be {bounds}, got {np.float32(value)!s}")
    return 0


cdef cnp.ndarray output_of(Images *a, object out, cnp.ndarray x, tuple others):
    cdef cnp.ndarray y = output(out, x, "x")
    for other, name in others:
        refuse_overlap(y, "out", other, name, False)
    a.y = floats(y)
    return y


cdef void crop_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Images *a = <Images *>args
    cdef ptrdiff_t i
    for i in range(task * a.step, task_end(a, task)):
        kernels().crop_image(a.x + i * a.size, a.y + i * a.size_out, a.image, a.whole[2 * i], a.whole[2 * i + 1],
                             a.height, a.width, a.reflect)


def crop_images(x, corners, size, *, mode="zero", channel_axis=1):
    """A window of each image: ``y[i, :, r, c] = x[i, :, corners[i, 0] + r, corners[i, 1] + c]``.

    Where the window leaves the image there are zeros, or the image's reflection about its first and last pixel.

    Parameters
    ----------
    x : float32 array, shape (N, C, H, W), or (N, H, W, C) with ``channel_axis=-1``; C-contiguous
    corners : int64 array, shape (N, 2)
        Row and column of the windows' upper left pixels, -2**40 to 2**40.
    size : int or pair of int
        Height and width of the windows.
    mode : "zero" or "reflect"
    channel_axis : 1 or -1

    Returns
    -------
    y : float32 array of the layout of ``x`` with height and width ``size``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, or values out of range.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> ck.crop_images(x, np.array([[1, 1]]), (2, 2))[0, 0]
    array([[4., 5.],
           [7., 8.]], dtype=float32)
    """
    cdef cnp.ndarray x_ = image_array(x, "x")
    cdef Images a = images_of(x_, channel_axis)
    cdef cnp.ndarray _corners = whole_numbers(corners, "corners", &a, 2)
    check_whole(&a, "corners", 2, -(<int64_t>1 << 40), <int64_t>1 << 40)
    if mode not in ("zero", "reflect"):
        raise ValueError(f"mode must be 'zero' or 'reflect', got {mode!r}")
    a.reflect = mode == "reflect"
    a.height, a.width = window_size(size, a.n * a.channels)
    cdef cnp.npy_intp shape[4]
    shape[0], shape[1 if a.last else 2], shape[2 if a.last else 3], shape[3 if a.last else 1] = (
        a.n, a.height, a.width, a.channels)
    a.size_out = a.height * a.width * a.channels
    cdef cnp.ndarray y = new_array(4, shape, cnp.NPY_FLOAT32)
    a.y = floats(y)
    run(&a, crop_task)
    return y


cdef tuple window_size(object size, ptrdiff_t planes):
    try:
        height, width = (operator.index(side) for side in (size if isinstance(size, (tuple, list)) else (size, size)))
    except (TypeError, ValueError):
        raise TypeError(f"size must be a whole number or a pair of them (height, width), got {size!r}") from None
    if not (1 <= height < 1 << 40 and 1 <= width < 1 << 40 and height * width * max(1, planes) < 1 << 60):
        raise ValueError(f"size must be of whole numbers from 1 up that fit in memory, got {size!r}")
    return height, width


cdef void flip_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Images *a = <Images *>args
    cdef ptrdiff_t i
    for i in range(task * a.step, task_end(a, task)):
        kernels().flip_image(a.x + i * a.size, a.y + i * a.size, a.image, <int>a.whole[i])


def flip_images(x, flips, *, channel_axis=1, out=None):
    """Each image as it is (0), left to right (1), upside down (2) or both (3), as ``flips[i]`` says.

    Parameters
    ----------
    x : float32 array, shape (N, C, H, W), or (N, H, W, C) with ``channel_axis=-1``; C-contiguous
    flips : int64 array, shape (N,)
    channel_axis : 1 or -1
    out : float32 array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : float32 array like ``x``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, a read-only or overlapping ``out``, or values out of range.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    >>> ck.flip_images(x, np.array([1]))[0, 0]
    array([[1., 0.],
           [3., 2.]], dtype=float32)
    """
    cdef cnp.ndarray x_ = image_array(x, "x")
    cdef Images a = images_of(x_, channel_axis)
    cdef cnp.ndarray flips_ = whole_numbers(flips, "flips", &a, 1)
    check_whole(&a, "flips", 1, 0, 3)
    cdef cnp.ndarray y = output_of(&a, out, x_, ((flips_, "flips"),))
    run(&a, flip_task)
    return y


cdef void rotate_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Images *a = <Images *>args
    cdef ptrdiff_t i
    for i in range(task * a.step, task_end(a, task)):
        kernels().rotate_image(a.x + i * a.size, a.y + i * a.size, a.image, a.angles[i], a.fill)


def rotate_images(x, degrees, fill=0.0, *, channel_axis=1):
    """Each image turned counterclockwise about its centre, with bilinear interpolation.

    Pixel ``(r, c)`` of ``y`` is the point ``(r0 + (r - r0) cos + (c - c0) sin, c0 + (c - c0) cos - (r - r0) sin)`` of
    ``x``, with ``(r0, c0)`` the centre; outside of ``x`` all pixels are ``fill``. An angle of 0 copies.

    Parameters
    ----------
    x : float32 array, shape (N, C, H, W), or (N, H, W, C) with ``channel_axis=-1``; C-contiguous
    degrees : float64 array, shape (N,)
        Angles, -1e9 to 1e9.
    fill : float
    channel_axis : 1 or -1

    Returns
    -------
    y : float32 array like ``x``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, or values out of range.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> ck.rotate_images(x, np.array([90.0]))[0, 0].round(3)
    array([[2., 5., 8.],
           [1., 4., 7.],
           [0., 3., 6.]], dtype=float32)
    """
    cdef cnp.ndarray x_ = image_array(x, "x")
    cdef Images a = images_of(x_, channel_axis)
    cdef cnp.ndarray degrees_ = per_sample(degrees, "degrees", cnp.NPY_FLOAT64, a.n, 1)
    a.angles = doubles(degrees_)
    cdef ptrdiff_t i
    for i in range(a.n):
        if not -1e9 <= a.angles[i] <= 1e9:
            raise ValueError(f"degrees must hold angles from -1e9 to 1e9, got {a.angles[i]}")
    a.fill = float32_number(fill, "fill", -FLT_MAX, FLT_MAX)
    cdef cnp.ndarray y = output_of(&a, None, x_, ())
    run(&a, rotate_task)
    return y


cdef void box_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Images *a = <Images *>args
    cdef ptrdiff_t i, at
    for i in range(task * a.step, task_end(a, task)):
        at = i * a.size
        kernels().box_image(a.x + at, a.other + at if a.other != NULL else NULL, a.y + at, a.image, a.whole + 4 * i,
                            a.fill)


def cutout_images(x, boxes, fill=0.0, *, channel_axis=1, out=None):
    """Each image with the pixels of a box replaced: ``y[i, :, top:bottom, left:right] = fill``.

    Parameters
    ----------
    x : float32 array, shape (N, C, H, W), or (N, H, W, C) with ``channel_axis=-1``; C-contiguous
    boxes : int64 array, shape (N, 4)
        Top, left, bottom, right. What lies outside the image is left out; a box without pixels changes nothing.
    fill : float
    channel_axis : 1 or -1
    out : float32 array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : float32 array like ``x``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, a read-only or overlapping ``out``, or a ``fill`` that is not finite.

    DeVries and Taylor (2017), "Improved Regularization of Convolutional Neural Networks with Cutout", arXiv:1708.04552.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.ones((1, 1, 3, 3), np.float32)
    >>> ck.cutout_images(x, np.array([[0, 0, 2, 2]]))[0, 0]
    array([[0., 0., 1.],
           [0., 0., 1.],
           [1., 1., 1.]], dtype=float32)
    """
    cdef cnp.ndarray x_ = image_array(x, "x")
    cdef Images a = images_of(x_, channel_axis)
    cdef cnp.ndarray boxes_ = whole_numbers(boxes, "boxes", &a, 4)
    a.fill = float32_number(fill, "fill", -FLT_MAX, FLT_MAX)
    cdef cnp.ndarray y = output_of(&a, out, x_, ((boxes_, "boxes"),))
    run(&a, box_task)
    return y


def cutmix_images(x, other, boxes, *, channel_axis=1, out=None):
    """Each image with the pixels of a box from another: ``y[i, :, top:bottom, left:right] = other[i, ...]``.

    Parameters
    ----------
    x, other : float32 arrays, shape (N, C, H, W), or (N, H, W, C) with ``channel_axis=-1``; C-contiguous
    boxes : int64 array, shape (N, 4)
        As for :func:`cutout_images`.
    channel_axis : 1 or -1
    out : float32 array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : float32 array like ``x``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, or a read-only or overlapping ``out``.

    Yun et al. (2019), "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
    arXiv:1905.04899.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x, other = np.zeros((1, 1, 3, 3), np.float32), np.ones((1, 1, 3, 3), np.float32)
    >>> ck.cutmix_images(x, other, np.array([[0, 0, 2, 2]]))[0, 0]
    array([[1., 1., 0.],
           [1., 1., 0.],
           [0., 0., 0.]], dtype=float32)
    """
    cdef cnp.ndarray x_ = image_array(x, "x")
    cdef Images a = images_of(x_, channel_axis)
    cdef cnp.ndarray other_ = float32_like(other, "other", x_, "x")
    cdef cnp.ndarray boxes_ = whole_numbers(boxes, "boxes", &a, 4)
    cdef cnp.ndarray y = output_of(&a, out, x_, ((other_, "other"), (boxes_, "boxes")))
    a.other = floats(other_)
    run(&a, box_task)
    return y


cdef void mix_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Images *a = <Images *>args
    cdef ptrdiff_t i, at
    for i in range(task * a.step, task_end(a, task)):
        at = i * a.size
        kernels().mix(a.x + at, a.other + at, a.y + at, a.size, a.factors[i])


def mixup_images(x, other, weight, *, out=None):
    """A mixture of each image with another: ``y[i] = weight[i] * x[i] + (1 - weight[i]) * other[i]``.

    Parameters
    ----------
    x, other : float32 arrays, shape (N, C, H, W) or (N, H, W, C), C-contiguous
    weight : float32 array, shape (N,), 0 to 1
    out : float32 array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : float32 array like ``x``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, a read-only or overlapping ``out``, or a ``weight`` out of range.

    Zhang et al. (2018), "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x, other = np.zeros((1, 1, 1, 2), np.float32), np.ones((1, 1, 1, 2), np.float32)
    >>> ck.mixup_images(x, other, np.array([0.25], np.float32))[0, 0]
    array([[0.75, 0.75]], dtype=float32)
    """
    cdef cnp.ndarray x_ = image_array(x, "x")
    cdef Images a = images_of(x_, 1)
    cdef cnp.ndarray other_ = float32_like(other, "other", x_, "x")
    cdef cnp.ndarray weight_ = per_sample(weight, "weight", cnp.NPY_FLOAT32, a.n, 1)
    a.factors = floats(weight_)
    check_factors(&a, "weight", 1, 0, 0.0, 1.0)
    cdef cnp.ndarray y = output_of(&a, out, x_, ((other_, "other"), (weight_, "weight")))
    a.other = floats(other_)
    run(&a, mix_task)
    return y


cdef void jitter_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Images *a = <Images *>args
    cdef ptrdiff_t i, at
    cdef int fine
    for i in range(task * a.step, task_end(a, task)):
        at = i * a.size
        if a.channels in (1, 3):
            fine = kernels().jitter_image(a.x + at, a.y + at, a.image.height * a.image.width, a.channels, a.last,
                                          a.factors + 4 * i)
        else:  # their gray is the mean of the channels, so that all values are the pixels of one gray image
            fine = kernels().jitter_image(a.x + at, a.y + at, a.size, 1, 0, a.factors + 4 * i)
        if not fine:
            creg_set_flag(&a.outside)


cdef void colours_task(void *args, ptrdiff_t task) noexcept nogil:
    cdef Images *a = <Images *>args
    cdef ptrdiff_t first = task * a.step
    if not kernels().are_colours(a.x + first * a.size, (task_end(a, task) - first) * a.size):
        creg_set_flag(&a.outside)


cdef int check_channels(Images *a, object x, object channel_axis) except -1:
    cdef ptrdiff_t i
    for i in range(a.n if a.channels not in (1, 3) else 0):
        if a.factors[4 * i + 2] != 1.0 or a.factors[4 * i + 3] != floorf(a.factors[4 * i + 3]):
            raise ValueError(f"x must have 3 channels (red, green, blue) or 1 for saturation and hue, got {a.channels} "
                             f"in shape {x.shape} with channel_axis={channel_axis}: leave them at 1 and 0")
    return 0


def jitter_images(x, factors, *, channel_axis=1, out=None):
    """Each image in other colours: brightness ``b``, contrast ``c``, saturation ``s`` and hue ``h``, in this order.

    With gray = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), or the mean of any other number of channels, and clip to
    [0, 1]::

        brightness  x = clip(b x)
        contrast    x = clip(c x + (1 - c) m), m the mean of gray over the image after brightness
        saturation  x = clip(s x + (1 - s) gray(x))
        hue         the angle of x in HSV turned by h turns

    A factor of 1, or a hue of 0, leaves its step out, clipping included.

    Parameters
    ----------
    x : float32 array, shape (N, C, H, W), or (N, H, W, C) with ``channel_axis=-1``; C-contiguous
        Values from 0 to 1; what is rounded may exceed them by 1e-3, a quarter of a step of 8 bits. NaN stays in its
        image. Saturation and hue need 3 channels (red, green, blue), or 1, where they change nothing.
    factors : float32 array, shape (N, 4)
        ``b``, ``c``, ``s``, at least 0, and ``h`` of each image.
    channel_axis : 1 or -1
    out : float32 array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : float32 array like ``x``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout, shape or number of channels, a read-only or overlapping ``out``, or values or factors
        out of range.

    Hue: Smith (1978), "Color Gamut Transform Pairs".

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([0.2, 0.8], np.float32).reshape(1, 1, 1, 2)
    >>> ck.jitter_images(x, np.array([[1.5, 1, 1, 0]], np.float32))[0, 0].round(3)  # half as bright again
    array([[0.3, 1. ]], dtype=float32)
    """
    cdef cnp.ndarray x_ = image_array(x, "x")
    cdef Images a = images_of(x_, channel_axis)
    cdef cnp.ndarray factors_ = per_sample(factors, "factors", cnp.NPY_FLOAT32, a.n, 4)
    a.factors = floats(factors_)
    cdef ptrdiff_t column
    for column in range(4):
        check_factors(&a, "factors", 4, column, -FLT_MAX if column == 3 else 0.0, FLT_MAX)
    check_channels(&a, x_, channel_axis)
    cdef cnp.ndarray y = output_of(&a, out, x_, ((factors_, "factors"),))
    if out is not None:  # which stays as it is where x is refused; a new array is thrown away
        run(&a, colours_task)
    if not a.outside:
        run(&a, jitter_task)
    if a.outside:
        raise ValueError(f"x must hold values from 0 to 1, got {np.nanmin(x_)!s} to {np.nanmax(x_)!s}: divide 8-bit "
                         f"images by 255; standardise images and add noise after the jitter")
    return y
