"""Named arrays in an ``.npz`` file, without pickle, written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray


def save_arrays(path: str | PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write ``arrays`` beside ``path``, bring them to the disk, then put the file in its place in one step.

    Raises:
        OSError: the file cannot be written; what was at ``path`` stays.
    """
    target = os.path.realpath(path)
    beside = f"{target}.{secrets.token_hex(8)}.tmp"
    try:
        with open(beside, "xb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        if os.path.exists(beside):
            os.unlink(beside)


def load_arrays(path: str | PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read all arrays of an ``.npz`` file.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: the file is damaged or is no ``.npz`` file of plain arrays.
    """
    with open(path, "rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds a single array")
            return dict(archive)
        except OSError:
            raise
        except Exception as error:  # zipfile, zlib and NumPy name a damaged file in a dozen ways
            raise ValueError(f"{os.fspath(path)} is damaged or is not an .npz file of plain arrays") from error
