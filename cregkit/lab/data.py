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
    """Draw points uniformly from [-2, 2]^2 and label them 1 where x^2 + y^2 < 1.5, else 0.

    Parameters
    ----------
    n
        Number of points, at least 1.
    seed
        Seed of the points, as for ``numpy.random.default_rng``.
    noise
        Probability of a wrong label, in [0, 1]. It does not change the points.

    Returns
    -------
    points : shape (n, 2), float32
        The points.
    labels : shape (n,), float32
        The labels.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has the wrong value.

    Examples
    --------
    >>> from cregkit.lab.data import circle_data
    >>> points, labels = circle_data(4, seed=0)
    >>> points.round(1)
    array([[ 0.5, -0.9],
           [-1.8, -1.9],
           [ 1.3,  1.7],
           [ 0.4,  0.9]], dtype=float32)
    >>> labels
    array([1., 0., 0., 1.], dtype=float32)
    """
    validate.positive_int("n", n)
    validate.real("noise", noise, 0, 1)
    rng = np.random.default_rng(seed)
    points = rng.uniform(-2, 2, (n, 2)).astype(np.float32)
    flipped = rng.random(n) < noise
    return points, (inside_circle(points) ^ flipped).astype(np.float32)


def inside_circle(points: Array) -> NDArray[np.bool]:
    """Return whether each point lies inside the circle: the labels without noise."""
    inside: NDArray[np.bool] = np.square(points).sum(axis=1) < RADIUS_SQUARED
    return inside
