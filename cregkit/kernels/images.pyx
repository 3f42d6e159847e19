# Transforms of images, with parameters for each image: checks, allocation and the loop over tasks, which are the
# kernels of csrc/images.h and csrc/jitter.h.
import operator

import numpy as np

cimport numpy as cnp
from libc.float cimport FLT_MAX
from libc.math cimport floorf
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t
from libc.string cimport memset

from cregkit.kernels._arrays cimport (
    check_range, doubles, float32_array, float32_like, float32_number, floats, is_channels_last, new_array, output,
    per_sample, refuse_overlaps,
)
from cregkit.kernels._csrc cimport creg_images, CREG_TASK
from cregkit.kernels._runtime cimport kernels
from cregkit.kernels._threads cimport block_task, parallel_for

cnp.import_array()


cdef cnp.ndarray image_array(object x, str name):
    if isinstance(x, np.ndarray) and x.dtype == np.uint8:
        raise TypeError(f"{name} must be float32, got uint8: convert it with {name}.astype(np.float32) / 255, which "
                        f"gives values from 0 to 1")
    return float32_array(x, name)


cdef creg_images images_of(cnp.ndarray x, object channel_axis) except *:
    cdef creg_images a
    memset(&a, 0, sizeof(a))
    if x.ndim != 4:
        raise ValueError(f"x must have shape (samples, channels, height, width), or (samples, height, width, channels) "
                         f"with channel_axis=-1, got {(<object>x).shape}")
    cdef bint last = is_channels_last(x, channel_axis)
    a.channels_last = last
    a.n = cnp.PyArray_DIM(x, 0)
    a.size = cnp.PyArray_DIM(x, 1) * cnp.PyArray_DIM(x, 2) * cnp.PyArray_DIM(x, 3)
    if a.size == 0:
        raise ValueError(f"x must have at least one channel, row and column, got shape {(<object>x).shape}")
    a.planes, a.pixel = 1 if last else cnp.PyArray_DIM(x, 1), cnp.PyArray_DIM(x, 3) if last else 1
    a.height, a.width = cnp.PyArray_DIM(x, 1 if last else 2), cnp.PyArray_DIM(x, 2 if last else 3)
    a.x = floats(x)
    return a


# Runs a kernel over images whose outputs have `size` elements each.
cdef void run(creg_images *a, block_task kernel, ptrdiff_t size) noexcept:
    a.block = max(1, CREG_TASK // size)
    with nogil:
        parallel_for(kernel, a, (a.n + a.block - 1) // a.block, a.n * size)


cdef cnp.ndarray whole_numbers(object values, str name, creg_images *a, ptrdiff_t k):
    cdef cnp.ndarray checked = per_sample(values, name, cnp.NPY_INT64, a.n, k)
    a.geometry = <const int64_t *>cnp.PyArray_DATA(checked)
    return checked


cdef cnp.ndarray output_of(creg_images *a, object out, cnp.ndarray x, tuple others):
    cdef cnp.ndarray y = output(out, x, "x")
    refuse_overlaps(y, "out", others)
    a.y = floats(y)
    return y


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

    References
    ----------
    Shorten, C. and Khoshgoftaar, T. M. (2019). "A survey on Image Data Augmentation for Deep Learning". Journal of Big
    Data 6, 60.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> cregkit.crop_images(x, np.array([[-1, 1]]), 2)[0, 0]
    array([[0., 0.],
           [2., 3.]], dtype=float32)
    >>> cregkit.crop_images(x, np.array([[-1, 1]]), 2, mode="reflect")[0, 0]
    array([[5., 6.],
           [2., 3.]], dtype=float32)
    """
    cdef cnp.ndarray x_ = image_array(x, "x")
    cdef creg_images a = images_of(x_, channel_axis)
    cdef cnp.ndarray _corners = whole_numbers(corners, "corners", &a, 2)
    cdef int64_t furthest = <int64_t>1 << 40
    check_range(a.geometry, 2 * a.n, 1, -furthest, furthest, "corners", "whole numbers from -2**40 to 2**40")
    if mode not in ("zero", "reflect"):
        raise ValueError(f"mode must be 'zero' or 'reflect', got {mode!r}")
    a.reflect = mode == "reflect"
    cdef ptrdiff_t channels = a.planes * a.pixel
    a.crop_height, a.crop_width = window_size(size, a.n * channels)
    a.crop_size = a.crop_height * a.crop_width * channels
    cdef int rows = 1 if a.channels_last else 2
    cdef cnp.npy_intp shape[4]
    shape[0], shape[1 if rows == 2 else 3] = a.n, channels
    shape[rows], shape[rows + 1] = a.crop_height, a.crop_width
    cdef cnp.ndarray y = new_array(4, shape, cnp.NPY_FLOAT32)
    a.y = floats(y)
    run(&a, kernels().crop_images, a.crop_size)
    return y


cdef tuple window_size(object size, ptrdiff_t planes):
    try:
        height, width = (operator.index(side) for side in (size if isinstance(size, (tuple, list)) else (size, size)))
    except (TypeError, ValueError):
        raise TypeError(f"size must be a whole number or a pair of them (height, width), got {size!r}") from None
    if not (1 <= height < 1 << 40 and 1 <= width < 1 << 40 and height * width * max(1, planes) < 1 << 60):
        raise ValueError(f"size must be of whole numbers from 1 up that fit in memory, got {size!r}")
    return height, width


def flip_images(x, flips, *, channel_axis=1, out=None):
    """Each image unchanged (0), mirrored left to right (1), upside down (2) or both (3), as ``flips[i]`` says.

    ``y[i, :, r, c]`` is ``x[i, :, r, W - 1 - c]`` with bit 0 of ``flips[i]``, ``x[i, :, H - 1 - r, c]`` with bit 1.

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

    References
    ----------
    Shorten, C. and Khoshgoftaar, T. M. (2019). "A survey on Image Data Augmentation for Deep Learning". Journal of Big
    Data 6, 60.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> cregkit.flip_images(x, np.array([1]))[0, 0]
    array([[3., 2., 1.],
           [6., 5., 4.],
           [9., 8., 7.]], dtype=float32)
    """
    cdef cnp.ndarray x_ = image_array(x, "x")
    cdef creg_images a = images_of(x_, channel_axis)
    cdef cnp.ndarray flips_ = whole_numbers(flips, "flips", &a, 1)
    check_range(a.geometry, a.n, 1, <int64_t>0, <int64_t>3, "flips", "whole numbers from 0 to 3")
    cdef cnp.ndarray y = output_of(&a, out, x_, ((flips_, "flips"),))
    run(&a, kernels().flip_images, a.size)
    return y


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

    References
    ----------
    Shorten, C. and Khoshgoftaar, T. M. (2019). "A survey on Image Data Augmentation for Deep Learning". Journal of Big
    Data 6, 60.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> cregkit.rotate_images(x, np.array([90.0]))[0, 0]
    array([[3., 6., 9.],
           [2., 5., 8.],
           [1., 4., 7.]], dtype=float32)
    """
    cdef cnp.ndarray x_ = image_array(x, "x")
    cdef creg_images a = images_of(x_, channel_axis)
    cdef cnp.ndarray degrees_ = per_sample(degrees, "degrees", cnp.NPY_FLOAT64, a.n, 1)
    a.degrees = doubles(degrees_)
    check_range(a.degrees, a.n, 1, -1e9, 1e9, "degrees", "angles from -1e9 to 1e9")
    a.fill = float32_number(fill, "fill", -FLT_MAX, FLT_MAX)
    cdef cnp.ndarray y = output_of(&a, None, x_, ())
    run(&a, kernels().rotate_images, a.size)
    return y


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

    References
    ----------
    DeVries, T. and Taylor, G. W. (2017). "Improved Regularization of Convolutional Neural Networks with Cutout".
    arXiv:1708.04552.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> cregkit.cutout_images(x, np.array([[0, 0, 2, 2]]))[0, 0]
    array([[0., 0., 3.],
           [0., 0., 6.],
           [7., 8., 9.]], dtype=float32)
    """
    cdef cnp.ndarray x_ = image_array(x, "x")
    cdef creg_images a = images_of(x_, channel_axis)
    cdef cnp.ndarray boxes_ = whole_numbers(boxes, "boxes", &a, 4)
    a.fill = float32_number(fill, "fill", -FLT_MAX, FLT_MAX)
    cdef cnp.ndarray y = output_of(&a, out, x_, ((boxes_, "boxes"),))
    run(&a, kernels().box_images, a.size)
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

    References
    ----------
    Yun, S., Han, D., Oh, S. J., Chun, S., Choe, J. and Yoo, Y. (2019). "CutMix: Regularization Strategy to Train Strong
    Classifiers with Localizable Features". arXiv:1905.04899.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> cregkit.cutmix_images(x, -x, np.array([[0, 0, 2, 2]]))[0, 0]
    array([[-1., -2.,  3.],
           [-4., -5.,  6.],
           [ 7.,  8.,  9.]], dtype=float32)
    """
    cdef cnp.ndarray x_ = image_array(x, "x")
    cdef creg_images a = images_of(x_, channel_axis)
    cdef cnp.ndarray other_ = float32_like(other, "other", x_, "x")
    cdef cnp.ndarray boxes_ = whole_numbers(boxes, "boxes", &a, 4)
    cdef cnp.ndarray y = output_of(&a, out, x_, ((other_, "other"), (boxes_, "boxes")))
    a.other = floats(other_)
    run(&a, kernels().box_images, a.size)
    return y


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

    References
    ----------
    Zhang, H., Cisse, M., Dauphin, Y. N. and Lopez-Paz, D. (2018). "mixup: Beyond Empirical Risk Minimization".
    arXiv:1710.09412.

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> cregkit.mixup_images(x, -x, np.array([0.75], np.float32))[0, 0]
    array([[0.5, 1. , 1.5],
           [2. , 2.5, 3. ],
           [3.5, 4. , 4.5]], dtype=float32)
    """
    cdef cnp.ndarray x_ = image_array(x, "x")
    cdef creg_images a = images_of(x_, 1)
    cdef cnp.ndarray other_ = float32_like(other, "other", x_, "x")
    cdef cnp.ndarray weight_ = per_sample(weight, "weight", cnp.NPY_FLOAT32, a.n, 1)
    a.factors = floats(weight_)
    check_range(a.factors, a.n, 1, <float>0.0, <float>1.0, "weight", "numbers from 0 to 1")
    cdef cnp.ndarray y = output_of(&a, out, x_, ((other_, "other"), (weight_, "weight")))
    a.other = floats(other_)
    run(&a, kernels().mix_images, a.size)
    return y


cdef int check_channels(creg_images *a, object x, object channel_axis) except -1:
    cdef ptrdiff_t i, channels = a.planes * a.pixel
    for i in range(a.n if channels not in (1, 3) else 0):
        if a.factors[4 * i + 2] != 1.0 or a.factors[4 * i + 3] != floorf(a.factors[4 * i + 3]):
            raise ValueError(f"x must have 3 channels (red, green, blue) or 1 for saturation and hue, got {channels} "
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
        Values from 0 to 1; rounded values may exceed them by 1e-3, a quarter of a step of 8 bits. NaN affects only its
        own image. Saturation and hue need 3 channels (red, green, blue), or 1, where they change nothing.
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

    References
    ----------
    Smith, A. R. (1978). "Color Gamut Transform Pairs". SIGGRAPH. (The hue.)

    Examples
    --------
    >>> import cregkit
    >>> import numpy as np
    >>> x = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> cregkit.jitter_images(x / 16, np.array([[2, 1, 1, 0]], np.float32))[0, 0]
    array([[0.125, 0.25 , 0.375],
           [0.5  , 0.625, 0.75 ],
           [0.875, 1.   , 1.   ]], dtype=float32)
    """
    cdef cnp.ndarray x_ = image_array(x, "x")
    cdef creg_images a = images_of(x_, channel_axis)
    cdef cnp.ndarray factors_ = per_sample(factors, "factors", cnp.NPY_FLOAT32, a.n, 4)
    a.factors = floats(factors_)
    check_range(a.factors, a.n, 4, <float>0.0, FLT_MAX, "factors[:, 0]", "finite numbers of at least 0")
    check_range(a.factors + 1, a.n, 4, <float>0.0, FLT_MAX, "factors[:, 1]", "finite numbers of at least 0")
    check_range(a.factors + 2, a.n, 4, <float>0.0, FLT_MAX, "factors[:, 2]", "finite numbers of at least 0")
    check_range(a.factors + 3, a.n, 4, -FLT_MAX, FLT_MAX, "factors[:, 3]", "finite numbers")
    check_channels(&a, x_, channel_axis)
    cdef cnp.ndarray y = output_of(&a, out, x_, ((factors_, "factors"),))
    if out is not None:  # a refused x must not change it
        run(&a, kernels().check_colours, a.size)
    if not a.out_of_range:
        run(&a, kernels().jitter_images, a.size)
    if a.out_of_range:
        raise ValueError(f"x must hold values from 0 to 1, got {np.nanmin(x_)!s} to {np.nanmax(x_)!s}: divide 8-bit "
                         f"images by 255; standardise images and add noise after the jitter")
    return y
