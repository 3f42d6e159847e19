"""Shared by the programs of several processes."""

from __future__ import annotations

import numpy as np


def parts(n: int, kind: str, ranks: int) -> list[int]:
    """The bounds of the parts of n samples."""
    if kind == "empty":  # rank 0 has all
        return [0] + [n] * ranks
    if kind == "uneven":
        return [0, *sorted(np.random.default_rng(3).integers(0, n + 1, ranks - 1).tolist()), n]
    return np.linspace(0, n, ranks + 1).astype(int).tolist()
