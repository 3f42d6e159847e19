"""Norm layers by name."""

from __future__ import annotations

from collections.abc import Callable

from cregkit.layers.base import Layer
from cregkit.layers.batch_norm import BatchNorm
from cregkit.layers.layer_norm import LayerNorm
from cregkit.layers.rms_norm import RMSNorm

NORMS: dict[str, Callable[[int], Layer]] = {"batch": BatchNorm, "layer": LayerNorm, "rms": RMSNorm}


def norm_layers(norm: str | Callable[[int], Layer] | None, num_features: int) -> list[Layer]:
    """Return a list with the norm layer of that name, or an empty list for None.

    Parameters
    ----------
    norm
        One of "batch", "layer" or "rms", or a function from ``num_features`` to a layer, or None.
    num_features
        Number of features of the layer, at least 1.

    Returns
    -------
    layers
        At most one layer.

    Raises
    ------
    ValueError
        ``norm`` is another name.
    """
    if norm is None:
        return []
    if callable(norm):
        return [norm(num_features)]
    if norm not in NORMS:
        raise ValueError(f"norm must be None or one of {', '.join(map(repr, NORMS))}, got {norm!r}")
    return [NORMS[norm](num_features)]
