# RMS norm over neighbouring axes: the Python functions. The loops are in row_norm.pyx, the maths in csrc/rms_norm.h and
# csrc/channel_norm.h.
from cregkit.kernels._csrc cimport CREG_RMS_NORM
from cregkit.kernels.row_norm cimport norm_backward, norm_forward


def rms_norm(x, gamma=None, eps=1e-6, *, axis=-1, gain_offset=0.0, out=None):
    """RMS norm over one axis, or over several neighbouring axes together.

    ``y = x / sqrt(mean(x**2) + eps) * (gain_offset + gamma)``, with the mean square of each row: the values along
    ``axis``. Without ``gamma`` the last factor is 1.

    Parameters
    ----------
    x : float32, float16 or bfloat16 array, shape (..., *features, ...), C-contiguous
        16-bit types: see :mod:`cregkit.functional`.
    gamma : array, shape (*features,), float32 or the dtype of ``x``, optional
        Gain, or its difference from ``gain_offset``.
    eps : float
        Added to the mean square; finite, at least 0.
    axis : int or tuple of ints
        The axes of ``features``: one axis, or several neighbouring ones in any order, such as (-2, -1). With 1, each
        position of images (N, C, H, W) is normalised over its channels.
    gain_offset : float
        Added to ``gamma``, in float32; 1 in Gemma, whose weights are small. Other values than 0 need ``gamma``.
    out : array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : array like ``x``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout, shape, a read-only or overlapping ``out``, no columns, or a bad ``eps``, ``axis`` or
        ``gain_offset``.

    References
    ----------
    Zhang, B. and Sennrich, R. (2019). "Root Mean Square Layer Normalization". arXiv:1910.07467.

    Gemma Team (2024). "Gemma: Open Models Based on Gemini Research and Technology". arXiv:2403.08295.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[1, 2, 3, 4]], np.float32)
    >>> ck.rms_norm(x).round(3)
    array([[0.365, 0.73 , 1.095, 1.461]], dtype=float32)
    >>> ck.rms_norm(x, np.zeros(4, np.float32), gain_offset=1.0).round(3)
    array([[0.365, 0.73 , 1.095, 1.461]], dtype=float32)
    """
    return norm_forward(CREG_RMS_NORM, x, gamma, None, eps, axis, gain_offset, out, False)


def rms_norm_forward(x, gamma=None, eps=1e-6, *, axis=-1, gain_offset=0.0, out=None):
    """RMS norm, with what :func:`rms_norm_backward` needs.

    Arguments and errors are those of :func:`rms_norm`.

    Returns
    -------
    y : array like ``x``
    rstd : float64 array, the shape of ``x`` without ``axis``
        ``1 / sqrt(mean(x**2) + eps)`` of each row. float64, because float32 cannot hold it for every finite row.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> y, rstd = ck.rms_norm_forward(np.array([[1, 2, 3, 4]], np.float32))
    >>> rstd.round(3)
    array([0.365])
    """
    return norm_forward(CREG_RMS_NORM, x, gamma, None, eps, axis, gain_offset, out, True)


def rms_norm_backward(dy, x, rstd, gamma=None, *, axis=-1, gain_offset=0.0, out=None):
    """Gradients of RMS norm.

    With ``x_hat = x * rstd`` and ``g = dy * (gain_offset + gamma)``: ``dx = rstd * (g - x_hat * mean(g * x_hat))``, the
    mean taken over each row; ``dgamma = sum(dy * x_hat)`` over all rows.

    Parameters
    ----------
    dy, x : float32, float16 or bfloat16 arrays, shape (..., *features, ...), C-contiguous
        Gradient of the output, and the input of the forward pass; both of one dtype.
        16-bit types: see :mod:`cregkit.functional`.
    rstd : float64 array, the shape of ``x`` without ``axis``
        As :func:`rms_norm_forward` returned it.
    gamma : array, shape (*features,), float32 or the dtype of ``x``, optional
        That of the forward pass.
    axis, gain_offset
        Those of the forward pass.
    out : array like ``x``, optional
        Receives ``dx``; may be ``dy`` or ``x`` itself.

    Returns
    -------
    dx : array like ``x``
    dgamma : float32 array, shape (*features,); None without ``gamma``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, a read-only or overlapping ``out``, or a bad ``axis`` or ``gain_offset``.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[1, 2, 3, 4]], np.float32)
    >>> dy = np.array([[1, 0, 0, 0]], np.float32)
    >>> y, rstd = ck.rms_norm_forward(x)
    >>> dx, dgamma = ck.rms_norm_backward(dy, x, rstd, np.ones(4, np.float32))
    >>> dx.round(3), dgamma.round(3)
    (array([[ 0.353, -0.024, -0.037, -0.049]], dtype=float32), array([0.365, 0.   , 0.   , 0.   ], dtype=float32))
    """
    return norm_backward(CREG_RMS_NORM, dy, x, None, rstd, gamma, axis, gain_offset, out)
