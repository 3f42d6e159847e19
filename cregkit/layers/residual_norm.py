"""The end of a transformer's sublayer: dropout, addition to the residual stream and a norm, in one pass over memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit import functional
from cregkit.layers.base import Array
from cregkit.layers.dropout import Dropout
from cregkit.layers.layer_norm import LayerNorm
from cregkit.layers.rms_norm import RMSNorm
from cregkit.layers.seeding import Seed

NORMS = ("layer", "rms")


def make_norm(norm: str, num_features: int, eps: float | None = None) -> LayerNorm | RMSNorm:
    """Return a LayerNorm or RMSNorm, with its own ``eps`` unless one is given."""
    kind = LayerNorm if check_norm(norm) == "layer" else RMSNorm
    return kind(num_features) if eps is None else kind(num_features, eps)


def check_norm(norm: str) -> str:
    """Return ``norm`` if it is "layer" or "rms"."""
    if norm not in NORMS:
        raise ValueError(f"norm must be 'layer' or 'rms', got {norm!r}")
    return norm


class ResidualNorm(Dropout):
    """``h = residual + dropout(x)``, ``y = norm(h)``: what stands between the sublayers of a transformer.

    It has two inputs and two outputs, so it is called through ``add`` and ``split`` instead of forward and backward.
    Dropout works in training alone; its seed and offset are part of the state, as in ``Dropout``. All arrays are
    float32 of shape (..., num_features); ``gamma`` and, with layer norm, ``beta`` have shape (num_features,).

    Args:
        num_features: size of the last axis.
        p: probability of dropping an element of ``x``, in [0, 1].
        norm: "layer" or "rms".
        eps: as for ``LayerNorm`` and ``RMSNorm``, whose defaults it has.
        seed: as for ``Dropout``.

    Raises:
        TypeError, ValueError: an argument or an array has the wrong type, value or shape.
    """

    _parameters = ("gamma", "beta")

    dgamma: Array | None = None
    dbeta: Array | None = None

    def __init__(
        self, num_features: int, p: float = 0.1, norm: str = "layer", eps: float | None = None, *, seed: Seed = None
    ) -> None:
        """Start with gamma 1 and beta 0, at offset 0 of the random stream."""
        super().__init__(p, seed=seed)
        like = make_norm(norm, num_features, eps)
        self.num_features, self.eps, self.norm = like.num_features, like.eps, norm
        self.gamma: Array = like.gamma
        self.beta: Array | None = like.beta if isinstance(like, LayerNorm) else None

    def forward(self, x: Array) -> Array:
        """Refuse: there is a second input."""
        raise TypeError("ResidualNorm has two inputs: call add(x, residual), then split(dy)")

    def add(self, x: Array, residual: Array) -> tuple[Array, Array]:
        """Return ``(y, h)``."""
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
                    x, residual, self.gamma, p, self.eps, seed=seed, offset=offset
                )
                statistics = (rstd,)
        except ValueError:
            validate.num_features(self, self.num_features, x, -1)
            raise
        if p:
            self._advance(h.shape)
        self._saved = (h, statistics, p, seed, offset)
        return y, h

    def split(self, dy: Array, dh: Array | None = None) -> tuple[Array, Array]:
        """Return ``(dx, dresidual)`` for the last ``add`` and set dgamma and dbeta; ``dh`` is the gradient of ``h``.

        Where nothing was dropped, both are one and the same array.
        """
        if self._saved is None:
            raise RuntimeError("ResidualNorm.split needs an add of its own first: call them in turn")
        h, statistics, p, seed, offset = self._saved
        if self.norm == "layer":
            mean, rstd = statistics
            dx, dresidual, self.dgamma, self.dbeta = functional.dropout_add_layer_norm_backward(
                dy, h, mean, rstd, self.gamma, p, dh=dh, seed=seed, offset=offset
            )
        else:
            dx, dresidual, self.dgamma = functional.dropout_add_rms_norm_backward(
                dy, h, statistics[0], self.gamma, p, dh=dh, seed=seed, offset=offset
            )
        self._finish_backward()
        return dx, dresidual
