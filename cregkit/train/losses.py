"""Losses: each returns its mean over the batch and the gradient of that mean."""

from __future__ import annotations

import numpy as np

from cregkit.layers import validate
from cregkit.layers.base import Array


def binary_cross_entropy(logits: Array, targets: Array) -> tuple[float, Array]:
    """Return the binary cross-entropy of ``sigmoid(logits)``, averaged, and its gradient ``dlogits``.

    loss = mean(max(z, 0) - z * t + log(1 + exp(-|z|))), which equals
    mean(-t * log(sigmoid(z)) - (1 - t) * log(1 - sigmoid(z))) without its overflow and without clipping;
    dlogits = (sigmoid(z) - t) / z.size (Bishop, "Pattern Recognition and Machine Learning", 4.3.2).

    Args:
        logits: z, float32 of any shape with at least one element.
        targets: t in [0, 1], float32 of the same shape.

    Returns:
        The loss in nats (computed in float64) and ``dlogits``, float32 of the shape of ``logits``.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype or shape, or is empty.
    """
    validate.float32("logits", logits)
    validate.float32("targets", targets)
    if targets.shape != logits.shape or not logits.size:
        raise ValueError(f"targets and logits must have one shape, not empty, got {targets.shape} and {logits.shape}")
    z = logits.astype(np.float64)
    e = np.exp(-np.abs(z))
    loss = float((np.maximum(z, 0) - z * targets + np.log1p(e)).mean())
    dlogits: Array = ((np.where(z < 0, e, 1) / (1 + e) - targets) / z.size).astype(np.float32)
    return loss, dlogits
