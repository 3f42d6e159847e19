# Layer norm over neighbouring axes: the Python functions. The loops are in row_norm.pyx, the maths in csrc/layer_norm.h
# and csrc/channel_norm.h.
from cregkit.kernels._csrc cimport CREG_LAYER_NORM
from cregkit.kernels.row_norm cimport norm_backward, norm_forward


def layer_norm(x, gamma=None, beta=None, eps=1e-5, *, axis=-1, out=None):
    """Layer norm over one axis, or over several neighbouring axes together.

    ``y = (x - mean(x)) / sqrt(var(x) + eps) * gamma + beta``, with the mean and biased variance of each row: the values
    along ``axis``.

    Parameters
    ----------
    x : float32, float16 or bfloat16 array, shape (..., *features, ...), C-contiguous
        16-bit types: see :mod:`cregkit.functional`.
    gamma, beta : arrays, shape (*features,), float32 or the dtype of ``x``, optional
        Gain and bias; without them 1 and 0.
    eps : float
        Added to the variance; finite, at least 0.
    axis : int or tuple of ints
        The axes of ``features``: one axis, or several neighbouring ones in any order, such as (-2, -1). With 1, each
        position of images (N, C, H, W) is normalised over its channels.
    out : array like ``x``, optional
        Receives ``y``; may be ``x`` itself.

    Returns
    -------
    y : array like ``x``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout, shape, a read-only or overlapping ``out``, no columns, or a bad ``eps`` or ``axis``.

    References
    ----------
    Ba, J. L., Kiros, J. R. and Hinton, G. E. (2016). "Layer Normalization". arXiv:1607.06450.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[1, 2, 3, 4]], np.float32)
    >>> ck.layer_norm(x).round(3)
    array([[-1.342, -0.447,  0.447,  1.342]], dtype=float32)
    >>> ck.layer_norm(x.reshape(1, 2, 2), axis=(-2, -1)).round(3)
    array([[[-1.342, -0.447],
            [ 0.447,  1.342]]], dtype=float32)
    >>> ck.layer_norm(x.reshape(4, 1), axis=0).ravel().round(3)
    array([-1.342, -0.447,  0.447,  1.342], dtype=float32)
    >>> ck.layer_norm(x.astype(np.float16))
    array([[-1.342 , -0.4473,  0.4473,  1.342 ]], dtype=float16)
    """
    return norm_forward(CREG_LAYER_NORM, x, gamma, beta, eps, axis, 0.0, out, False)


def layer_norm_forward(x, gamma=None, beta=None, eps=1e-5, *, axis=-1, out=None):
    """Layer norm, with what :func:`layer_norm_backward` needs.

    Arguments and errors are those of :func:`layer_norm`.

    Returns
    -------
    y : array like ``x``
    mean, rstd : float64 arrays, the shape of ``x`` without ``axis``
        Mean and ``1 / sqrt(var + eps)`` of each row. float64, because a float32 mean of numbers around 1e6 would cost
        the gradients their accuracy.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> y, mean, rstd = ck.layer_norm_forward(np.array([[1, 2, 3, 4]], np.float32))
    >>> mean, rstd.round(3)
    (array([2.5]), array([0.894]))
    """
    return norm_forward(CREG_LAYER_NORM, x, gamma, beta, eps, axis, 0.0, out, True)


def layer_norm_backward(dy, x, mean, rstd, gamma=None, *, axis=-1, out=None):
    """Gradients of layer norm.

    With ``x_hat = (x - mean) * rstd`` and ``g = dy * gamma``, means taken over each row:
    ``dx = rstd * (g - mean(g) - x_hat * mean(g * x_hat))``; over all rows ``dgamma = sum(dy * x_hat)``, ``dbeta =
    sum(dy)``.

    Parameters
    ----------
    dy, x : float32, float16 or bfloat16 arrays, shape (..., *features, ...), C-contiguous
        Gradient of the output, and the input of the forward pass; both of one dtype.
        16-bit types: see :mod:`cregkit.functional`.
    mean, rstd : float64 arrays, the shape of ``x`` without ``axis``
        As :func:`layer_norm_forward` returned them.
    gamma : array, shape (*features,), float32 or the dtype of ``x``, optional
        The gain of the forward pass.
    axis : int or tuple of ints
        That of the forward pass.
    out : array like ``x``, optional
        Receives ``dx``; may be ``dy`` or ``x`` itself.

    Returns
    -------
    dx : array like ``x``
    dgamma, dbeta : float32 arrays, shape (*features,); None without ``gamma``

    Raises
    ------
    TypeError, ValueError
        For a wrong dtype, layout or shape, a read-only or overlapping ``out``, or a bad ``axis``.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> x = np.array([[1, 2, 3, 4]], np.float32)
    >>> dy = np.array([[1, 0, 0, 0]], np.float32)
    >>> y, mean, rstd = ck.layer_norm_forward(x)
    >>> dx, dgamma, dbeta = ck.layer_norm_backward(dy, x, mean, rstd)
    >>> dx.round(3), dgamma
    (array([[ 0.268, -0.358, -0.089,  0.179]], dtype=float32), None)
    """
    return norm_backward(CREG_LAYER_NORM, dy, x, mean, rstd, gamma, axis, 0.0, out)
