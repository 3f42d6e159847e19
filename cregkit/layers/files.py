"""Named arrays in an ``.npz`` file, without pickle, written whole or not at all."""

from __future__ import annotations

import errno
import io
import math
import os
import secrets
import zipfile
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
    """Read all arrays of an ``.npz`` file, which need not be trusted: no pickle, nothing larger than the file itself.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: the file is damaged, compressed, or no ``.npz`` file of plain arrays.
    """
    with open(path, "rb") as file:
        try:
            size = os.fstat(file.fileno()).st_size
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if sum(member.file_size for member in members) > size:
                    raise ValueError("it is compressed (write it with numpy.savez), or declares more than it holds")
                return {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}
        except MemoryError:
            raise
        except Exception as error:  # zipfile and NumPy name a damaged file in a dozen ways
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: it points to before its own start
                raise
            raise ValueError(
                f"{os.fspath(path)} is damaged or is not an uncompressed .npz file of plain arrays: {error}"
            ) from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """Read one array; its checksum is compared, and its header believed only if so many bytes follow it."""
    with archive.open(member) as stream:
        content = io.BytesIO(stream.read())
    version = np.lib.format.read_magic(content)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(content)
    declared, there = math.prod(shape) * dtype.itemsize, len(content.getbuffer()) - content.tell()
    if dtype.hasobject or min(shape, default=0) < 0 or declared != there:
        raise ValueError(f"{member.filename} declares shape {shape} of {dtype}, but {there} bytes follow")
    content.seek(0)
    return np.lib.format.read_array(content, allow_pickle=False)
