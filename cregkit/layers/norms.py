"""The normalisations by name."""

from __future__ import annotations

from collections.abc import Callable

from cregkit.layers.base import Layer
from cregkit.layers.batch_norm import BatchNorm
from cregkit.layers.layer_norm import LayerNorm
from cregkit.layers.rms_norm import RMSNorm

NORMS: dict[str, Callable[[int], Layer]] = {"batch": BatchNorm, "layer": LayerNorm, "rms": RMSNorm}


def norm_layers(norm: str | None, num_features: int) -> list[Layer]:
    """Return the normalisation of that name, "batch", "layer" or "rms", in a list; None gives an empty one.

    Raises:
        ValueError: ``norm`` is none of these.
    """
    if norm is None:
        return []
    if norm not in NORMS:
        raise ValueError(f"norm must be None or one of {', '.join(map(repr, NORMS))}, got {norm!r}")
    return [NORMS[norm](num_features)]
