"""Files: JSON, ``.npz`` without pickle, written whole or not at all, and ``.safetensors``, read."""

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


def check_writable(path: Path) -> None:
    """Raise the OSError that writing ``path`` would end in, without leaving a file behind."""
    existed = os.path.exists(path)
    with open(path, "ab"):
        pass
    if not existed:
        os.unlink(path)


def write_json(path: Path, content: object) -> None:
    """Write ``content`` as JSON; what is not finite becomes null, as JSON has no sign for it."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(_finite(content), file, indent=1, allow_nan=False)
        file.write("\n")


def _finite(value: Any) -> Any:
    """Return ``value`` as plain JSON, None for every number that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
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


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
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
                names = [member.filename.removesuffix(".npy") for member in members]
                if len(set(names)) < len(names):
                    raise ValueError("it holds two arrays of one name")
                return {name: _array(archive, member) for name, member in zip(names, members, strict=True)}
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


class StoredArray(NamedTuple):
    """Where an array lies in a ``.safetensors`` file; ``start`` counts bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int


LONGEST_HEADER = 100_000_000
"""The format's own limit, in bytes."""

STORED_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip


def safetensors_index(file: BinaryIO) -> dict[str, StoredArray]:
    """Return the place of every array of an open ``.safetensors`` file, which need not be trusted.

    The arrays must fill the file without gaps or overlaps, as the format wants it: none is larger than the file.

    Raises:
        ValueError: the file is damaged or cut off, is no ``.safetensors`` file, or has an array of an unknown dtype.
    """
    try:
        return _index(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is not a whole safetensors file of supported dtypes: {error}") from None


def _index(file: BinaryIO) -> dict[str, StoredArray]:
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if size < 8 or length > LONGEST_HEADER or start > size:
        raise ValueError(f"it has {size} bytes, and a header of {length} bytes is declared")
    header = json.loads(file.read(length).decode())
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop("__metadata__", None)
    index = {}
    for name, stored in sorted(header.items(), key=lambda item: _offsets(*item)):
        begin, end = _offsets(name, stored)
        dtype, shape = stored.get("dtype"), stored.get("shape")
        if not isinstance(dtype, str) or dtype not in STORED_DTYPES:
            raise ValueError(f"{name} has dtype {dtype!r}, supported are {', '.join(STORED_DTYPES)}")
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"{name} has shape {shape!r}")
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
        raise ValueError(f"{name} has no two data_offsets")
    return offsets[0], offsets[1]


def read_float32(file: BinaryIO, name: str, stored: StoredArray) -> NDArray[np.float32]:
    """Read an array of F32, F16, BF16 or F64, which float32 holds exactly.

    Raises:
        ValueError: it is of another dtype, has values that float32 cannot hold, or the file has been cut off meanwhile.
    """
    if stored.dtype not in ("F32", "F16", "BF16", "F64"):
        raise ValueError(f"{file.name}: {name} must be F32, F16, BF16 or F64, got {stored.dtype}")
    file.seek(stored.start)
    count = math.prod(stored.shape)
    read = np.fromfile(file, STORED_DTYPES[stored.dtype], count)
    if read.size < count:
        raise ValueError(f"{file.name}: {name} is cut off")
    if stored.dtype == "BF16":  # the upper half of a float32
        return (read.astype(np.uint32) << 16).view(np.float32).reshape(stored.shape)
    with np.errstate(all="ignore"):
        values = read.astype(np.float32, copy=False)
    if stored.dtype == "F64" and not np.array_equal(values, read, equal_nan=True):
        raise ValueError(f"{file.name}: {name} is F64 with values that float32 does not hold: save it as F32")
    return values.reshape(stored.shape)
