"""Batch normalisation."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.batch_sums import Merge
from cregkit.functional import (
    batch_norm,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_inference_backward,
    ghost_batch_norm_backward,
    ghost_batch_norm_forward,
)
from cregkit.layers.base import Array, Layer, Tensor


class _Masked(NamedTuple):
    """What a forward with a mask saves for backward."""

    mask: NDArray[np.bool_]
    dense: BatchNorm | _InTurn
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class BatchNorm(Layer):
    """Batch normalisation: ``y = gamma * (x - mean) / sqrt(var + eps) + beta`` in each channel.

    In training mode, mean and biased variance are those of the batch, and the running statistics are updated:
    ``running = (1 - momentum) * running + momentum * batch``. In evaluation mode, the running statistics are used, and
    backward treats them as constants. ``x`` is float32, float16 or bfloat16 of shape (N, C, ...), or (N, ..., C) with
    ``channel_axis=-1``. ``gamma``, ``beta``, ``running_mean`` and ``running_var`` are float32 of shape (C,). For padded
    sequences, pass the ``mask`` of ``forward``: without it, padding counts in the statistics.

    Parameters
    ----------
    num_features
        Number of channels C, at least 1.
    momentum
        Weight of the batch (virtual batch) in the running statistics, in [0, 1].
    eps
        Added to the variance; finite, at least 0.
    unbiased
        Whether ``running_var`` takes the unbiased variance of the batch, as in PyTorch.
    channel_axis
        Axis of the channels: 1 or -1.
    virtual_batch_size
        Ghost batch normalisation: in training mode, the batch is split into virtual batches of so many samples, the
        last one with the rest. Each has its own statistics and updates the running statistics in turn. None: the batch
        as a whole.

    Raises
    ------
    TypeError, ValueError
        An argument, ``x`` or ``dy`` has the wrong type, value or shape; or, in training mode, a channel has only one
        value in the batch (virtual batch).

    References
    ----------
    Ioffe and Szegedy (2015), "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", arXiv:1502.03167.
    Hoffer, Hubara and Soudry (2017), "Train longer, generalize better: closing the generalization gap in large batch
    training of neural networks", arXiv:1705.08741.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import BatchNorm
    >>> norm = BatchNorm(2)
    >>> norm(np.array([[1, 10], [3, 30]], dtype=np.float32)).round(3)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> norm.running_mean
    array([0.2, 2. ], dtype=float32)
    """

    _parameters = ("gamma", "beta")
    _buffers = ("running_mean", "running_var")

    dgamma: Array | None = None
    dbeta: Array | None = None

    _merge_moments: Merge | None = None
    _merge_gradient_sums: Merge | None = None
    """Merge this process's sums with those of other processes: see ``merge`` of ``batch_norm_forward``."""

    def __init__(
        self,
        num_features: int,
        momentum: float = 0.1,
        eps: float = 1e-5,
        *,
        unbiased: bool = False,
        channel_axis: int = 1,
        virtual_batch_size: int | None = None,
    ) -> None:
        """Start with gamma 1, beta 0, running mean 0 and running variance 1."""
        self.num_features = validate.positive_int("num_features", num_features)
        self.momentum = validate.real("momentum", momentum, 0, 1)
        self.eps = validate.real("eps", eps, 0)
        self.unbiased = bool(unbiased)
        self.channel_axis = validate.channel_axis(channel_axis)
        self.virtual_batch_size = virtual_batch_size
        if virtual_batch_size is not None:
            validate.positive_int("virtual_batch_size", virtual_batch_size)
        self.gamma: Tensor = np.ones(num_features, dtype=np.float32)
        self.beta: Tensor = np.zeros(num_features, dtype=np.float32)
        self.running_mean: Array = np.zeros(num_features, dtype=np.float32)
        self.running_var: Array = np.ones(num_features, dtype=np.float32)

    def forward(self, x: Tensor, *, mask: NDArray[np.bool_] | None = None) -> Tensor:
        """Normalise with the statistics of the batch (training mode) or the running statistics (evaluation mode).

        Parameters
        ----------
        x : shape (N, C, ...), or (N, ..., C) with channel_axis=-1
            Input.
        mask : shape (N, ...)
            True at padding, which is excluded from the statistics and where ``y`` and ``dx`` are 0. In training, each
            virtual batch needs two other positions.

        Returns
        -------
        y
            Output, of the shape of ``x``.
        """
        if mask is not None:
            return self._forward_unmasked(x, mask)
        try:
            return self._normalise_batch(x) if self.training else self._normalise(x)
        except ValueError:
            validate.num_features(self, self.num_features, x, self.channel_axis)
            raise

    def _forward_unmasked(self, x: Tensor, mask: NDArray[np.bool_]) -> Tensor:
        """Normalise the unmasked positions, gathered into an array of shape (positions, C)."""
        channels_last = np.moveaxis(validate.tensor("x", x), self.channel_axis, -1)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"mask must be a bool array, True at padding, got {validate.kind(mask)}")
        positions = channels_last.shape[:-1]
        if mask.shape != positions:
            raise ValueError(
                f"mask must have shape {positions}, the shape of x without its channel axis, got {mask.shape}"
            )
        dense = self._dense(mask)
        y = self._scattered(dense.forward(channels_last[~mask]), mask)
        self._saved = _Masked(mask, dense, x.dtype, x.shape)
        return y

    def _dense(self, mask: NDArray[np.bool_]) -> BatchNorm | _InTurn:
        """Return what normalises the unmasked positions: a layer with channels last that shares the arrays."""
        dense = copy.copy(self)
        dense.channel_axis = -1
        dense._after_backward = None
        if self.virtual_batch_size is None or not self.training:
            return dense
        self._refuse_merge()
        dense.virtual_batch_size = None
        return _InTurn(dense, self.virtual_batch_size, mask)

    def _refuse_merge(self) -> None:
        if self._merge_moments is not None:
            raise ValueError(
                f"virtual_batch_size must be None where statistics are merged over several processes, "
                f"got {self.virtual_batch_size}"
            )

    def _scattered(self, rows: Tensor, mask: NDArray[np.bool_]) -> Tensor:
        """Scatter the rows to the unmasked positions; zeros elsewhere."""
        full = np.zeros((*mask.shape, self.num_features), rows.dtype)
        full[~mask] = rows
        return np.ascontiguousarray(np.moveaxis(full, -1, self.channel_axis))

    def _normalise_batch(self, x: Tensor) -> Tensor:
        given = self.gamma, self.beta, self.running_mean, self.running_var, self.momentum, self.eps
        unbiased, axis = self.unbiased, self.channel_axis
        if self.virtual_batch_size is None:
            y, mean, rstd = batch_norm_forward(
                x, *given, unbiased=unbiased, channel_axis=axis, merge=self._merge_moments
            )
        else:
            self._refuse_merge()
            y, mean, rstd = ghost_batch_norm_forward(
                x, self.virtual_batch_size, *given, unbiased=unbiased, channel_axis=axis
            )
        self._saved = (x, mean, rstd)
        return y

    def _normalise(self, x: Tensor) -> Tensor:
        y = batch_norm(
            x, self.running_mean, self.running_var, self.gamma, self.beta, self.eps, channel_axis=self.channel_axis
        )
        self._saved = (x, None, None)
        return y

    def _gradient(self, dy: Tensor, saved: Any) -> Tensor:
        if isinstance(saved, _Masked):
            validate.gradient(dy, saved.dtype, saved.shape)
            dx = saved.dense.backward(np.moveaxis(dy, self.channel_axis, -1)[~saved.mask])
            self.dgamma, self.dbeta = saved.dense.dgamma, saved.dense.dbeta
            return self._scattered(dx, saved.mask)
        x, mean, rstd = saved
        if mean is None:
            dx, self.dgamma, self.dbeta = batch_norm_inference_backward(
                dy, x, self.running_mean, self.running_var, self.gamma, self.eps, channel_axis=self.channel_axis
            )
        elif self.virtual_batch_size is None:
            dx, self.dgamma, self.dbeta = batch_norm_backward(
                dy, x, mean, rstd, self.gamma, channel_axis=self.channel_axis, merge=self._merge_gradient_sums
            )
        else:
            dx, self.dgamma, self.dbeta = ghost_batch_norm_backward(
                dy, x, self.virtual_batch_size, mean, rstd, self.gamma, channel_axis=self.channel_axis
            )
        return dx


class _InTurn:
    """Normalises the unmasked positions of each virtual batch; ``norm`` shares the arrays of the layer."""

    dgamma: Array
    dbeta: Array

    def __init__(self, norm: BatchNorm, virtual_batch_size: int, mask: NDArray[np.bool_]) -> None:
        starts = range(0, max(1, len(mask)), virtual_batch_size)
        counts = [np.count_nonzero(~mask[i : i + virtual_batch_size]) for i in starts]
        if min(counts) < 2:
            raise ValueError(
                f"mask must leave at least two positions in each virtual batch of {virtual_batch_size} samples, "
                f"got {min(counts)}"
            )
        self.norm = norm
        self.ends = np.cumsum(counts)[:-1]
        self.parts: list[BatchNorm] = []

    def forward(self, rows: Tensor) -> Tensor:
        """Normalise, then update the running statistics of the layer."""
        twin = copy.copy(self.norm)
        twin.running_mean, twin.running_var = self.norm.running_mean.copy(), self.norm.running_var.copy()
        self.parts = [copy.copy(twin) for _ in range(len(self.ends) + 1)]
        y = [norm.forward(part) for norm, part in zip(self.parts, np.split(rows, self.ends), strict=True)]
        self.norm.running_mean[...], self.norm.running_var[...] = twin.running_mean, twin.running_var
        return np.concatenate(y)

    def backward(self, rows: Tensor) -> Tensor:
        """Return dx; set the gradients of gamma and beta, summed over the virtual batches."""
        dx = [norm.backward(part) for norm, part in zip(self.parts, np.split(rows, self.ends), strict=True)]
        self.dgamma, self.dbeta = self._total("dgamma"), self._total("dbeta")
        return np.concatenate(dx)

    def _total(self, gradient: str) -> Array:
        total = np.array([getattr(norm, gradient) for norm in self.parts], np.float64).sum(axis=0)
        return np.asarray(total, np.float32)
