"""Data sets of the experiments."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers.base import Array

RADIUS_SQUARED = 1.5


def circle_data(
    n: int = 200, seed: int | np.random.Generator | np.random.SeedSequence | None = 42, noise: float = 0.0
) -> tuple[Array, Array]:
    """Return ``n`` points uniform in [-2, 2]^2 and their labels: 1 where x^2 + y^2 < 1.5, else 0.

    Args:
        n: number of points.
        seed: what the points are drawn from, as for ``numpy.random.default_rng``.
        noise: probability of a label being the wrong one, in [0, 1].

    Returns:
        Points, float32 of shape (n, 2), and labels, float32 of shape (n,). Noise changes labels and never points.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value.
    """
    validate.positive_int("n", n)
    validate.real("noise", noise, 0, 1)
    rng = np.random.default_rng(seed)
    points = rng.uniform(-2, 2, (n, 2)).astype(np.float32)
    flipped = rng.random(n) < noise
    return points, (inside_circle(points) ^ flipped).astype(np.float32)


def inside_circle(points: Array) -> NDArray[np.bool]:
    """Return whether each point lies in the circle: the labels without noise."""
    inside: NDArray[np.bool] = np.square(points).sum(axis=1) < RADIUS_SQUARED
    return inside
