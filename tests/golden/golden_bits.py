"""Hashes of the results of every op for fixed inputs: a release that changes these bits must say so.

``python tests/golden/golden_bits.py`` writes them to ops.txt. A change of bits is a decision, noted in the CHANGELOG
and marked **bits**. Inputs are whole numbers from NumPy's frozen generator, scaled by powers of two: they are the same
with any NumPy on any machine. Of 16-bit types, the last two shapes of each case have a hash.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from cregkit import functional
from cregkit.verify import cases
from cregkit.verify.dtypes import FLOAT32, bfloat16, is_16_bit
from cregkit.verify.shapes import Shape

FILE = Path(__file__).with_name("ops.txt")
POSITIVE = ("gamma", "var", "running_var", "rstd", "v", "sigma", "factors")
SHARES = ("weight", "jitter_images x")


def _numbers(random: np.random.RandomState, name: str, like: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Numbers in [-4, 4); positive arguments in [1/2, 3/2), shares in [0, 1)."""
    whole = random.randint(-(2**20), 2**20, size=like.shape).astype(np.float64)
    values = whole / 2**21 + (1.0 if name in POSITIVE else 0.5) if name in POSITIVE + SHARES else whole / 2**18
    return values.astype(like.dtype)


def _hash(case: cases.Case, shape: Shape) -> str:
    arguments = case.arguments(shape, np.random.default_rng(0), 0.0)  # for names, shapes and scalars
    random = np.random.RandomState(20140615)
    for name in sorted(arguments):
        if isinstance(arguments[name], np.ndarray) and arguments[name].dtype != np.int64:  # integer arrays stay
            kind = f"{case.op} {name}" if f"{case.op} {name}" in SHARES else name
            arguments[name] = _numbers(random, kind, arguments[name])
    digest = hashlib.sha256()
    for name, value in cases.run(case, functional, arguments).items():
        dtype = value.dtype.name if is_16_bit(value) else value.dtype.str
        digest.update(f"{name} {dtype} {value.shape}".encode() + value.tobytes())
    return digest.hexdigest()[:16]


def found() -> dict[str, str]:
    """The hash of all outputs and changed arguments of each case and shape."""
    return {
        f"{case.name} {'x'.join(map(str, shape))}": _hash(case, shape)
        for case in cases.CASES
        for shape in (case.shapes if case.dtype == FLOAT32 else case.shapes[-2:])
    }


def expected() -> dict[str, str]:
    """The hashes in ops.txt; those of bfloat16 only if ml_dtypes is installed."""
    hashes = dict(line.rsplit(" ", 1) for line in FILE.read_text().splitlines())
    return {name: value for name, value in hashes.items() if bfloat16() or "bfloat16" not in name}


if __name__ == "__main__":
    FILE.write_text("".join(f"{name} {value}\n" for name, value in found().items()))
