"""Files: write JSON, write (atomically) and read ``.npz`` without pickle, read ``.safetensors``."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import secrets
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Path: TypeAlias = str | os.PathLike[str]

_BFLOAT16 = "bfloat16/"


def check_writable(path: Path) -> None:
    """Raise OSError if ``path`` cannot be written; leave no new file."""
    existed = os.path.exists(path)
    with open(path, "ab"):
        pass
    if not existed:
        os.unlink(path)


def write_json(path: Path, content: object) -> None:
    """Write ``content`` as JSON, with null for NaN and Inf, which JSON does not have."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(_finite(content), file, indent=1, allow_nan=False)
        file.write("\n")


def _finite(value: Any) -> Any:
    """Return ``value`` with None for NaN and Inf."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an ``.npz`` file atomically: write a temporary file, sync it to disk, rename it.

    The format has no bfloat16: the bits of such an array are stored as uint16, and ``bfloat16/`` precedes its name.

    Parameters
    ----------
    path
        File to write.
    arrays
        Arrays by name.

    Raises
    ------
    OSError
        The file cannot be written. An existing file keeps its content.
    """
    target = os.path.realpath(path)
    temporary = f"{target}.{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            np.savez(file, **dict(map(_stored, arrays, arrays.values())))  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _stored(name: str, array: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    return (_BFLOAT16 + name, array.view(np.uint16)) if array.dtype.name == "bfloat16" else (name, array)


def _loaded(filename: str, array: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    """Undo ``_stored``."""
    name = filename.removesuffix(".npy")
    if not name.startswith(_BFLOAT16):
        return name, array
    if array.dtype != np.uint16:
        raise ValueError(f"{name} must be uint16, got {array.dtype}")
    try:
        from ml_dtypes import bfloat16
    except ImportError as error:
        raise ImportError(f"{name} needs the dtype bfloat16 of ml_dtypes: pip install ml_dtypes") from error
    return name.removeprefix(_BFLOAT16), array.view(bfloat16)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of an ``.npz`` file.

    The file need not be trusted: pickle is off, and no array may be larger than the file.

    Parameters
    ----------
    path
        File to read.

    Returns
    -------
    arrays
        Arrays by name.

    Raises
    ------
    ImportError
        An array is bfloat16, and ``ml_dtypes``, which defines this dtype, is not installed.
    OSError
        The file is missing or cannot be read.
    ValueError
        The file is damaged, compressed, or not an ``.npz`` file of plain arrays.
    """
    with open(path, "rb") as file:
        try:
            size = os.fstat(file.fileno()).st_size
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if sum(member.file_size for member in members) > size:
                    raise ValueError(
                        "it is compressed (write it with numpy.savez), or declares more bytes than it holds"
                    )
                arrays = dict(_loaded(member.filename, _array(archive, member)) for member in members)
                if len(arrays) < len(members):
                    raise ValueError("it holds two arrays with the same name")
                return arrays
        except (MemoryError, ImportError):
            raise
        except Exception as error:  # zipfile and NumPy raise many types of errors for a damaged file
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: offset before the start
                raise
            raise ValueError(
                f"{os.fspath(path)} is damaged or is not an uncompressed .npz file of plain arrays: {error}"
            ) from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """Read one array; check its checksum, and that its header declares the number of bytes that follow."""
    with archive.open(member) as stream:
        content = io.BytesIO(stream.read())
    version = np.lib.format.read_magic(content)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(content)
    declared, following = math.prod(shape) * dtype.itemsize, len(content.getbuffer()) - content.tell()
    if dtype.hasobject or min(shape, default=0) < 0 or declared != following:
        raise ValueError(f"{member.filename} declares shape {shape} of {dtype}, but {following} bytes follow")
    content.seek(0)
    return np.lib.format.read_array(content, allow_pickle=False)


class StoredArray(NamedTuple):
    """Location of an array in a ``.safetensors`` file."""

    dtype: str
    """Name of its dtype in the format, a key of ``STORED_DTYPES``."""
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""


LONGEST_HEADER = 100_000_000
"""Limit of the format, in bytes."""

STORED_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip


def safetensors_index(file: BinaryIO) -> dict[str, StoredArray]:
    """Return the location of every array in a ``.safetensors`` file.

    The file need not be trusted. As the format requires, the arrays must fill the file without gaps or overlaps, so no
    array is larger than the file.

    Parameters
    ----------
    file
        Open file.

    Returns
    -------
    index
        Locations by name.

    Raises
    ------
    ValueError
        The file is damaged, truncated or not a ``.safetensors`` file, or an array has an unknown dtype.
    """
    try:
        return _index(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is not a complete safetensors file of supported dtypes: {error}") from None


def _index(file: BinaryIO) -> dict[str, StoredArray]:
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if size < 8 or length > LONGEST_HEADER or start > size:
        raise ValueError(f"it has {size} bytes, but declares a header of {length} bytes")
    header = json.loads(file.read(length).decode())
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    header.pop("__metadata__", None)
    index = {}
    for name, stored in sorted(header.items(), key=lambda item: _offsets(*item)):
        begin, end = _offsets(name, stored)
        dtype, shape = stored.get("dtype"), stored.get("shape")
        if not isinstance(dtype, str) or dtype not in STORED_DTYPES:
            raise ValueError(f"{name} must have one of the dtypes {', '.join(STORED_DTYPES)}, got {dtype!r:.60}")
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"{name} must have a shape of ints of at least 0, got {shape!r:.60}")
        if 8 + length + begin != start or end - begin != math.prod(shape) * np.dtype(STORED_DTYPES[dtype]).itemsize:
            raise ValueError(f"{name} declares {dtype} of shape {shape}, at bytes {begin} to {end} of the data")
        index[name] = StoredArray(dtype, tuple(shape), start)
        start += end - begin
    if start != size:
        raise ValueError(f"its arrays end at byte {start}, the file at {size}")
    return index


def _offsets(name: str, stored: object) -> tuple[int, int]:
    offsets = stored.get("data_offsets") if isinstance(stored, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        raise ValueError(f"{name} must have two data_offsets, got {offsets!r:.60}")
    return offsets[0], offsets[1]


def read_float32(file: BinaryIO, name: str, stored: StoredArray) -> NDArray[np.float32]:
    """Read an array of dtype F32, F16, BF16 or F64 as float32, without rounding.

    Parameters
    ----------
    file
        Open ``.safetensors`` file.
    name
        Name of the array, for errors.
    stored
        Its location.

    Returns
    -------
    array
        The values, of the stored shape.

    Raises
    ------
    ValueError
        The array has another dtype, float32 does not represent its values exactly, or the file is truncated.
    """
    if stored.dtype not in ("F32", "F16", "BF16", "F64"):
        raise ValueError(f"{file.name}: {name} must be F32, F16, BF16 or F64, got {stored.dtype}")
    file.seek(stored.start)
    count = math.prod(stored.shape)
    read = np.fromfile(file, STORED_DTYPES[stored.dtype], count)
    if read.size < count:
        raise ValueError(f"{file.name}: {name} must have {count} values, got {read.size}: the file is truncated")
    if stored.dtype == "BF16":  # bfloat16 is the upper half of a float32
        return (read.astype(np.uint32) << 16).view(np.float32).reshape(stored.shape)
    with np.errstate(all="ignore"):
        values = read.astype(np.float32, copy=False)
    if stored.dtype == "F64" and not np.array_equal(values, read, equal_nan=True):
        raise ValueError(
            f"{file.name}: {name} is F64 with values that float32 does not represent exactly: save it as F32"
        )
    return values.reshape(stored.shape)
