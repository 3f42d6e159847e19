# RMS norm over the last axis: the Python functions. The loops are in row_norm.pyx, the maths in csrc/rms_norm.h.
cimport numpy as cnp

from cregkit.kernels._arrays cimport float32_rows
from cregkit.kernels._csrc cimport CREG_RMS_NORM
from cregkit.kernels.row_norm cimport norm_backward, norm_forward, row_statistic

cnp.import_array()


def rms_norm(x, gamma=None, eps=1e-6, *, out=None):
    """RMS norm over the last axis.

    ``y = x / sqrt(mean(x**2) + eps) * gamma``, with the mean square of each row.

    Parameters
    ----------
    x : float32 array, shape (..., features), C-contiguous
    gamma : float32 array, shape (features,), optional
        Gain; without it 1.
    eps : float
        Added to the mean square; finite, at least 0.
    out : float32 array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : float32 array like ``x``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout, shape, a read-only or overlapping ``out``, no columns, or a bad ``eps``.

    References
    ----------
    Zhang, B. and Sennrich, R. (2019). "Root Mean Square Layer Normalization". arXiv:1910.07467.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[1, 2, 3, 4]], np.float32)
    >>> ck.rms_norm(x).round(3)
    array([[0.365, 0.73 , 1.095, 1.461]], dtype=float32)
    """
    return norm_forward(CREG_RMS_NORM, float32_rows(x, "x"), gamma, None, eps, out, None, None)


def rms_norm_forward(x, gamma=None, eps=1e-6, *, out=None):
    """RMS norm, with what :func:`rms_norm_backward` needs.

    Arguments and errors are those of :func:`rms_norm`.

    Returns
    -------
    y : float32 array like ``x``
    rstd : float64 array, shape ``x.shape[:-1]``
        ``1 / sqrt(mean(x**2) + eps)`` of each row. float64, because float32 cannot hold it for every finite row.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> y, rstd = ck.rms_norm_forward(np.array([[1, 2, 3, 4]], np.float32))
    >>> rstd.round(3)
    array([0.365])
    """
    cdef cnp.ndarray x_ = float32_rows(x, "x"), rstd = row_statistic(x_)
    return norm_forward(CREG_RMS_NORM, x_, gamma, None, eps, out, None, rstd), rstd


def rms_norm_backward(dy, x, rstd, gamma=None, *, out=None):
    """Gradients of RMS norm.

    With ``x_hat = x * rstd`` and ``g = dy * gamma``: ``dx = rstd * (g - x_hat * mean(g * x_hat))``, the mean taken over
    each row; ``dgamma = sum(dy * x_hat)`` over all rows.

    Parameters
    ----------
    dy, x : float32 arrays, shape (..., features), C-contiguous
        Gradient of the output, and the input of the forward pass.
    rstd : float64 array, shape ``x.shape[:-1]``
        As :func:`rms_norm_forward` returned it.
    gamma : float32 array, shape (features,), optional
        The gain of the forward pass.
    out : float32 array like ``x``, optional
        Receives ``dx``; may be ``dy`` or ``x`` itself.

    Returns
    -------
    dx : float32 array like ``x``
    dgamma : float32 array, shape (features,); None without ``gamma``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, or a read-only or overlapping ``out``.

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
    return norm_backward(CREG_RMS_NORM, dy, x, None, rstd, gamma, out)
