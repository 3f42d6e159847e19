"""Functions of ``torch.nn.functional`` on cregkit's kernels, with the same signatures and errors.

With the native library, PyTorch's functions use the kernels of ``dispatch`` for the time of a call. Without it, and
for what it lacks (channel dropout, dropout in place, instance norm), the kernels are called from Python: for float32
tensors on the CPU whose memory has no gaps. PyTorch's function computes everything else: other dtypes and devices,
tensor subclasses, tensors too small to gain, wrong arguments, and calls that are compiled, traced, scripted or
transformed. ``torch.compile`` alone keeps the kernel of ``dropout``, as ``compiled`` says.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from cregkit.batch_sums import Gather
from cregkit.torch import autograd, compiled, dispatch
from cregkit.torch.bridge import Refused, inverse, is_ordinary, memory_order, takes
from cregkit.torch.private import is_of_leaf

__all__ = [
    "batch_norm",
    "dropout",
    "dropout1d",
    "dropout2d",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "rms_norm",
]


def dispatches() -> bool:
    """Whether the native library computes the calls of converted modules, by PyTorch's own ops."""
    return dispatch.library is not None and not is_compiling()


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout: zero each element with probability ``p`` and multiply the others by ``1 / (1 - p)``.

    The mask is not that of ``torch.nn.functional.dropout``. It depends on one seed from PyTorch's default CPU
    generator, and not on the number of threads. The kernel replaces a dropped NaN or infinity by 0, also in place. The
    function of PyTorch, which computes small tensors, multiplies it by 0: it stays or becomes NaN.

    Parameters
    ----------
    input : any shape
        Input.
    p
        Probability of dropping an element, in [0, 1].
    training
        Whether to drop; without it, the result is ``input``.
    inplace
        Whether to write the result into ``input``.

    Returns
    -------
    y
        Output, of the shape of ``input``.

    References
    ----------
    Srivastava et al. (2014), "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15.

    Examples
    --------
    >>> import torch
    >>> from cregkit.torch import functional
    >>> _ = torch.manual_seed(0)
    >>> functional.dropout(torch.ones(100, 100), p=0.5).unique()
    tensor([0., 2.])
    """
    if not training:
        return F.dropout(input, p, training, inplace)
    if is_compiling():
        return compiled.dropout(input, p, training, inplace)
    if dispatch.library is not None and not inplace:
        return dispatch.converted(F.dropout, input, p, training)
    if _drops(input, p, training):
        try:
            if input.is_contiguous():
                return _dropout(input, p, False, inplace)
            order = memory_order(input)
            if order is not None:
                y = _dropout(input.permute(order), p, False, inplace)
                return input if inplace else y.permute(inverse(order))
        except Refused:
            pass
    return F.dropout(input, p, training, inplace)


def _drops(input: Tensor, p: float, training: bool) -> bool:
    return training and 0.0 < p < 1.0 and takes(input, "dropout")


def _dropout(x: Tensor, p: float, spatial: bool, inplace: bool) -> Tensor:
    """Compute dropout of a contiguous tensor."""
    if inplace and torch.is_grad_enabled() and is_of_leaf(x):  # PyTorch raises an error
        raise Refused
    return (autograd.dropout_ if inplace else autograd.dropout)(x, float(p), spatial)


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of whole channels, as ``torch.nn.functional.dropout1d``.

    Parameters
    ----------
    input : shape (N, C, L) or (C, L)
        Input.
    p
        Probability of dropping a channel, in [0, 1].
    training
        Whether to drop; without it, the result is ``input``.
    inplace
        Whether to write the result into ``input``.

    Returns
    -------
    y
        Output, of the shape of ``input``.

    References
    ----------
    Tompson et al. (2015), "Efficient Object Localization Using Convolutional Networks", arXiv:1411.4280.

    Examples
    --------
    >>> import torch
    >>> from cregkit.torch import functional
    >>> _ = torch.manual_seed(0)
    >>> y = functional.dropout1d(torch.ones(8, 8, 64))
    >>> bool((y == y[..., :1]).all())
    True
    """
    if not is_compiling() and _drops(input, p, training) and input.dim() in (2, 3) and input.is_contiguous():
        try:
            if input.dim() == 3:
                return _dropout(input, p, True, inplace)
            y = _dropout(input.unsqueeze(0), p, True, inplace)
            return input if inplace else y.squeeze(0)
        except Refused:
            pass
    return F.dropout1d(input, p, training, inplace)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of whole channels, as ``torch.nn.functional.dropout2d``.

    Parameters
    ----------
    input : shape (N, C, H, W)
        Input.
    p
        Probability of dropping a channel, in [0, 1].
    training
        Whether to drop; without it, the result is ``input``.
    inplace
        Whether to write the result into ``input``.

    Returns
    -------
    y
        Output, of the shape of ``input``.

    References
    ----------
    Tompson et al. (2015), "Efficient Object Localization Using Convolutional Networks", arXiv:1411.4280.

    Examples
    --------
    >>> import torch
    >>> from cregkit.torch import functional
    >>> _ = torch.manual_seed(0)
    >>> y = functional.dropout2d(torch.ones(8, 8, 8, 8))
    >>> bool((y == y[..., :1, :1]).all())
    True
    """
    if not is_compiling() and _drops(input, p, training) and input.dim() == 4 and input.is_contiguous():
        try:
            return _dropout(input, p, True, inplace)
        except Refused:
            pass
    return F.dropout2d(input, p, training, inplace)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch normalisation of each channel, as ``torch.nn.functional.batch_norm``.

    ``y = (input - mean) / sqrt(var + eps) * weight + bias``, with the mean and biased variance of the batch in
    training, and the running statistics otherwise.

    Parameters
    ----------
    input : shape (N, C, ...)
        Input.
    running_mean, running_var : shape (C,)
        Running statistics; training updates them in place. None if not tracked.
    weight, bias : shape (C,)
        Gain and bias; by default 1 and 0.
    training
        Whether to use the statistics of the batch.
    momentum
        Weight of the batch in the running statistics.
    eps
        Added to the variance.

    Returns
    -------
    y
        Output, of the shape of ``input``.

    References
    ----------
    Ioffe and Szegedy (2015), "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", arXiv:1502.03167.

    Examples
    --------
    >>> import torch
    >>> from cregkit.torch import functional
    >>> functional.batch_norm(torch.tensor([[1.0, 10.0], [3.0, 30.0]]), None, None, training=True).round(decimals=3)
    tensor([[-1., -1.],
            [ 1.,  1.]])
    """
    if dispatches():
        return dispatch.converted(F.batch_norm, input, running_mean, running_var, weight, bias, training, momentum, eps)
    if (
        not is_compiling()
        and takes(input, "batch_norm")
        and _batch_norm_fits(input, running_mean, running_var, weight, bias, training, eps)
    ):
        rest = running_mean, running_var, weight, bias, training, momentum, eps
        try:
            if input.is_contiguous():
                return _batch_norm(input, *rest, 1)
            if input.dim() == 4:
                return _batch_norm(input.permute(0, 2, 3, 1), *rest, -1).permute(0, 3, 1, 2)
        except Refused:
            pass
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _batch_norm_fits(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
) -> bool:
    """Whether the kernel, if it supports these arguments, computes the same as PyTorch."""
    if running_mean is None or running_var is None:
        statistics = running_mean is running_var and training
    else:
        statistics = not (running_mean.requires_grad or running_var.requires_grad)
    return (
        statistics
        and (eps > 0.0 or not training)
        and x.dim() >= 2
        and (bias is None or weight is not None)
        and is_ordinary(weight)
        and is_ordinary(bias)
        and is_ordinary(running_mean)
        and is_ordinary(running_var)
    )


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    channel_axis: int,
    gather: Gather | None = None,
) -> Tensor:
    if training:
        statistics = running_mean, running_var, momentum
        return autograd.batch_norm(x, weight, bias, *statistics, eps, channel_axis, gather)
    assert running_mean is not None
    assert running_var is not None
    return autograd.batch_norm_inference(x, weight, bias, running_mean, running_var, eps, channel_axis)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Group normalisation, as ``torch.nn.functional.group_norm``.

    ``y = (input - mean) / sqrt(var + eps) * weight + bias``, with the mean and biased variance of each group of
    channels of a sample.

    Parameters
    ----------
    input : shape (N, C, ...)
        Input.
    num_groups
        Number of groups; C is a multiple of it.
    weight, bias : shape (C,)
        Gain and bias; by default 1 and 0.
    eps
        Added to the variance.

    Returns
    -------
    y
        Output, of the shape of ``input``.

    References
    ----------
    Wu and He (2018), "Group Normalization", arXiv:1803.08494.

    Examples
    --------
    >>> import torch
    >>> from cregkit.torch import functional
    >>> functional.group_norm(torch.tensor([[1.0, 3.0, 10.0, 30.0]]), 2).round(decimals=3)
    tensor([[-1.,  1., -1.,  1.]])
    """
    if dispatches():
        return dispatch.converted(F.group_norm, input, num_groups, weight, bias, eps)
    y = _group_norm(input, num_groups, weight, bias, eps)
    return F.group_norm(input, num_groups, weight, bias, eps) if y is None else y


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Instance normalisation, as ``torch.nn.functional.instance_norm``.

    ``y = (input - mean) / sqrt(var + eps) * weight + bias``, with the mean and biased variance of each channel of a
    sample, or the running statistics. PyTorch's function computes a call that updates running statistics.

    Parameters
    ----------
    input : shape (N, C, ...)
        Input.
    running_mean, running_var : shape (C,)
        Running statistics; None if not tracked.
    weight, bias : shape (C,)
        Gain and bias; by default 1 and 0.
    use_input_stats
        Whether to use the statistics of the input, and update the running statistics.
    momentum
        Weight of the batch in the running statistics.
    eps
        Added to the variance.

    Returns
    -------
    y
        Output, of the shape of ``input``.

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky (2016), "Instance Normalization: The Missing Ingredient for Fast Stylization",
    arXiv:1607.08022.

    Examples
    --------
    >>> import torch
    >>> from cregkit.torch import functional
    >>> functional.instance_norm(torch.tensor([[[1.0, 3.0], [10.0, 30.0]]])).round(decimals=3)
    tensor([[[-1.,  1.],
             [-1.,  1.]]])
    """
    tracked = running_mean is not None and running_var is not None
    if tracked and not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
    # With one position per channel, PyTorch raises an error.
    if use_input_stats and running_mean is running_var is None and input.shape[2:].numel() > 1:
        y = _group_norm(input, input.shape[1], weight, bias, eps)
        if y is not None:
            return y
    return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def _group_norm(x: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor | None:
    """Compute group norm by the kernel; return None if PyTorch's function must compute it."""
    if (
        is_compiling()
        or not takes(x, "group_norm")
        or x.dim() < 2
        or x.numel() == num_groups  # one value per group: PyTorch raises an error
        or (bias is not None and weight is None)
        or not (is_ordinary(weight) and is_ordinary(bias))
    ):
        return None
    try:
        if x.is_contiguous():
            return autograd.group_norm(x, num_groups, weight, bias, eps, 1)
        last = x.movedim(1, -1)
        if last.is_contiguous():
            return autograd.group_norm(last, num_groups, weight, bias, eps, -1).movedim(-1, 1)
    except Refused:
        pass
    return None


def _rows_fit(x: Tensor, shape: torch.Size, weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether a row norm kernel, if it supports these arguments, computes the same as PyTorch."""
    return (
        0 < len(shape) <= x.dim()
        and x.shape[-len(shape) :] == shape
        and x.is_contiguous()
        and (weight is None or (is_ordinary(weight) and weight.shape == shape))
        and (bias is None or (is_ordinary(bias) and bias.shape == shape and weight is not None))
    )


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Layer normalisation over the last axes, as ``torch.nn.functional.layer_norm``.

    ``y = (input - mean) / sqrt(var + eps) * weight + bias``, with the mean and biased variance of each row.

    Parameters
    ----------
    input : shape (..., *normalized_shape)
        Input.
    normalized_shape
        Sizes of the axes that form a row.
    weight, bias : shape normalized_shape
        Gain and bias; by default 1 and 0.
    eps
        Added to the variance.

    Returns
    -------
    y
        Output, of the shape of ``input``.

    References
    ----------
    Ba, Kiros and Hinton (2016), "Layer Normalization", arXiv:1607.06450.

    Examples
    --------
    >>> import torch
    >>> from cregkit.torch import functional
    >>> functional.layer_norm(torch.tensor([[1.0, 2.0, 3.0]]), (3,)).round(decimals=3)
    tensor([[-1.2250,  0.0000,  1.2250]])
    """
    if dispatches():
        return dispatch.converted(F.layer_norm, input, normalized_shape, weight, bias, eps)
    if not is_compiling() and takes(input, "layer_norm"):
        shape = torch.Size(normalized_shape)
        if _rows_fit(input, shape, weight, bias):
            try:
                return autograd.layer_norm(input, weight, bias, eps, len(shape))
            except Refused:
                pass
    return F.layer_norm(input, normalized_shape, weight, bias, eps)


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """Root mean square normalisation over the last axes, as ``torch.nn.functional.rms_norm``.

    ``y = input / sqrt(mean(input**2) + eps) * weight``, with the mean square of each row.

    Parameters
    ----------
    input : shape (..., *normalized_shape)
        Input.
    normalized_shape
        Sizes of the axes that form a row.
    weight : shape normalized_shape
        Gain; by default 1.
    eps
        Added to the mean square; by default the machine epsilon of the dtype.

    Returns
    -------
    y
        Output, of the shape of ``input``.

    References
    ----------
    Zhang and Sennrich (2019), "Root Mean Square Layer Normalization", arXiv:1910.07467.

    Examples
    --------
    >>> import torch
    >>> from cregkit.torch import functional
    >>> functional.rms_norm(torch.tensor([[3.0, 4.0]]), (2,)).round(decimals=3)
    tensor([[0.8490, 1.1310]])
    """
    if dispatches():
        return dispatch.converted(F.rms_norm, input, normalized_shape, weight, eps)
    if not is_compiling() and takes(input, "rms_norm"):
        shape = torch.Size(normalized_shape)
        number = torch.finfo(torch.float32).eps if eps is None else eps
        if _rows_fit(input, shape, weight, None):
            try:
                return autograd.rms_norm(input, weight, number, len(shape))
            except Refused:
                pass
    return F.rms_norm(input, normalized_shape, weight, eps)
