"""Dropout, addition to the residual stream and a norm, fused into one pass over memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit import functional
from cregkit.layers.base import Array, Tensor
from cregkit.layers.dropout import Dropout
from cregkit.layers.layer_norm import LayerNorm
from cregkit.layers.rms_norm import RMSNorm
from cregkit.layers.seeding import Seed

NORMS = ("layer", "rms")


def make_norm(norm: str, num_features: int, eps: float | None = None, gain_offset: float = 0.0) -> LayerNorm | RMSNorm:
    """Return a LayerNorm or RMSNorm; without ``eps`` it has its default."""
    given = () if eps is None else (eps,)
    if check_norm(norm) == "rms":
        return RMSNorm(num_features, *given, gain_offset=gain_offset)
    if gain_offset != 0:
        raise ValueError(f"gain_offset must be 0 with norm='layer', got {gain_offset!r}: use norm='rms'")
    return LayerNorm(num_features, *given)


def check_norm(norm: str) -> str:
    """Return ``norm``, which must be "layer" or "rms"."""
    if norm not in NORMS:
        raise ValueError(f"norm must be 'layer' or 'rms', got {norm!r}")
    return norm


class ResidualNorm(Dropout):
    """Fused ``h = residual + dropout(x)``, ``y = norm(h)``, as at the end of a transformer's sublayer.

    It has two inputs and two outputs: call ``add`` and ``split`` instead of forward and backward. Dropout is active in
    training mode only; its seed and offset are part of the state, as in ``Dropout``. All arrays have shape
    (..., num_features) and the dtype of ``x``: float32, float16 or bfloat16. ``y`` is computed from ``h`` before its
    rounding, the gradients from the rounded ``h``. ``gamma``, and ``beta`` of layer norm, are float32 of shape
    (num_features,).

    Parameters
    ----------
    num_features
        Size of the last axis, at least 1.
    p
        Probability of dropping an element of ``x``, in [0, 1].
    norm
        Either "layer" or "rms".
    eps
        Added to the variance or to the mean square; finite, at least 0. By default that of ``LayerNorm`` or
        ``RMSNorm``.
    gain_offset
        Added to ``gamma``, as in ``RMSNorm``; 0 with layer norm.
    seed
        Seed of dropout; see ``draw_seed``.

    Raises
    ------
    TypeError, ValueError
        An argument or an array has the wrong type, value or shape.

    References
    ----------
    Vaswani et al. (2017), "Attention Is All You Need", arXiv:1706.03762, section 5.4.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import ResidualNorm
    >>> layer = ResidualNorm(2, p=0.0)
    >>> x = np.array([[1, 2]], dtype=np.float32)
    >>> y, h = layer.add(x, residual=x)
    >>> h
    array([[2., 4.]], dtype=float32)
    >>> y.round(3)
    array([[-1.,  1.]], dtype=float32)
    >>> dx, dresidual = layer.split(np.ones_like(y))
    >>> layer.dbeta
    array([1., 1.], dtype=float32)
    """

    _parameters = ("gamma", "beta")

    dgamma: Array | None = None
    dbeta: Array | None = None

    def __init__(
        self,
        num_features: int,
        p: float = 0.1,
        norm: str = "layer",
        eps: float | None = None,
        *,
        gain_offset: float = 0.0,
        seed: Seed = None,
    ) -> None:
        """Start with a gain of 1 and beta 0, and dropout at offset 0."""
        super().__init__(p, seed=seed)
        separate = make_norm(norm, validate.positive_int("num_features", num_features), eps, gain_offset)
        self.num_features, self.eps, self.norm = separate.num_features, separate.eps, norm
        self.gain_offset = float(gain_offset)
        self.gamma: Tensor = separate.gamma
        self.beta: Tensor | None = separate.beta if isinstance(separate, LayerNorm) else None

    def forward(self, x: Tensor) -> Tensor:
        """Raise TypeError: use ``add``, which has two inputs."""
        raise TypeError("ResidualNorm has two inputs: call add(x, residual), then split(dy)")

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(y, h)``.

        Parameters
        ----------
        x : shape (..., num_features)
            Output of the sublayer.
        residual : shape (..., num_features)
            Residual stream.

        Returns
        -------
        y : shape (..., num_features)
            The normalised sum.
        h : shape (..., num_features)
            The sum, ``residual + dropout(x)``.
        """
        p = self.p if self.training else 0.0
        seed, offset = self._seed.item(), self._first_draw(x)
        statistics: tuple[NDArray[np.float64], ...]
        try:
            if self.norm == "layer":
                y, h, mean, rstd = functional.dropout_add_layer_norm_forward(
                    x, residual, self.gamma, self.beta, p, self.eps, seed=seed, offset=offset
                )
                statistics = (mean, rstd)
            else:
                y, h, rstd = functional.dropout_add_rms_norm_forward(
                    x, residual, self.gamma, p, self.eps, gain_offset=self.gain_offset, seed=seed, offset=offset
                )
                statistics = (rstd,)
        except ValueError:
            validate.num_features(self, self.num_features, x, -1)
            raise
        if p:
            self._advance(h.shape)
        self._saved = (h, statistics, p, seed, offset)
        return y, h

    def split(self, dy: Tensor, dh: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return ``(dx, dresidual)`` for the last ``add``; set ``dgamma`` and ``dbeta``.

        Parameters
        ----------
        dy : shape (..., num_features)
            Gradient of ``y``.
        dh : shape (..., num_features)
            Gradient of ``h`` from elsewhere, 0 if None.

        Returns
        -------
        dx : shape (..., num_features)
            Gradient of ``x``.
        dresidual : shape (..., num_features)
            Gradient of ``residual``; the same array as ``dx`` if dropout was off.

        Raises
        ------
        RuntimeError
            No ``add`` precedes this ``split``.
        """
        if self._saved is None:
            raise RuntimeError("ResidualNorm.split needs an add before each split: call add(x, residual) first")
        h, statistics, p, seed, offset = self._saved
        if self.norm == "layer":
            mean, rstd = statistics
            dx, dresidual, self.dgamma, self.dbeta = functional.dropout_add_layer_norm_backward(
                dy, h, mean, rstd, self.gamma, p, dh=dh, seed=seed, offset=offset
            )
        else:
            dx, dresidual, self.dgamma = functional.dropout_add_rms_norm_backward(
                dy, h, statistics[0], self.gamma, p, gain_offset=self.gain_offset, dh=dh, seed=seed, offset=offset
            )
        self._finish_backward()
        return dx, dresidual
