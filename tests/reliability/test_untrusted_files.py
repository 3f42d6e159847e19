"""Truncated, changed and malicious files: an error or the same arrays, within little memory."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bert_files import bf16, safetensors, with_header
from bert_files import write as write_bert
from support import PYTHONPATH, run_python

import cregkit as ck
from cregkit import _files

X = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)


def small_network(offset: float) -> ck.Sequential:
    network = ck.Sequential(ck.BatchNorm(3), ck.Dropout(0.5, seed=7))
    network(X + np.float32(offset))
    return network


def frozen(layer: ck.Layer) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in layer.state_dict().items()}


def saved(tmp_path: Path) -> tuple[Path, bytes, dict[str, bytes]]:
    network, path = small_network(1.0), tmp_path / "state.npz"
    network.save(path)
    return path, path.read_bytes(), frozen(network)


def load_outcome(path: Path, content: bytes, whole: dict[str, bytes]) -> str:
    """Load changed content: "refused", with the layer unchanged, or "same"."""
    path.write_bytes(content)
    network = small_network(2.0)
    before = frozen(network)
    try:
        network.load(path)
    except ValueError:
        assert frozen(network) == before
        return "refused"
    assert frozen(network) == whole
    return "same"


def test_a_file_truncated_anywhere_is_refused(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    path, content, whole = saved(tmp_path)
    record_property("faults", len(content))
    for length in range(len(content)):
        assert load_outcome(path, content[:length], whole) == "refused", length
    assert load_outcome(path, content, whole) == "same"


@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")
def test_a_bit_changed_anywhere_is_refused_or_changes_nothing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    path, content, whole = saved(tmp_path)
    record_property("faults", len(content))
    outcomes = {"refused": 0, "same": 0}
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << (at * 5 + 3) % 8
        outcomes[load_outcome(path, bytes(changed), whole)] += 1
    assert outcomes["refused"] > len(content) // 2  # the other bits are dates and attributes


def header_with(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def archive_of(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def declaring_more() -> bytes:
    """An archive whose directory claims a member of 4 GB."""
    content = bytearray(archive_of(gamma=header_with("(3,)") + bytes(12)))
    directory = content.index(b"PK\x01\x02")
    content[directory + 20 : directory + 28] = (0xFFFFFF00).to_bytes(4, "little") * 2
    return bytes(content)


BOMBS: dict[str, Callable[[], bytes]] = {
    "a shape of 4 TB": lambda: archive_of(gamma=header_with("(1000000000000,)") + bytes(12)),
    "a shape beyond 64 bits": lambda: archive_of(gamma=header_with(f"({2**40}, {2**40})") + bytes(12)),
    "a negative shape": lambda: archive_of(gamma=header_with("(-3,)") + bytes(12)),
    "a shape of 0 and 2**60": lambda: archive_of(gamma=header_with(f"(0, {2**60})")),
    "a zip bomb": lambda: archive_of(zipfile.ZIP_DEFLATED, gamma=header_with("(25000000,)") + bytes(10**8)),
    "a directory that says 4 GB": declaring_more,
    "objects": lambda: archive_of(gamma=header_with("(3,)", "'|O'") + bytes(24)),
    "a dtype of a gigabyte": lambda: archive_of(gamma=header_with("(3,)", "'|V1000000000'") + bytes(12)),
    "a header that is code": lambda: archive_of(gamma=header_with("__import__('os').abort()")),
    "no version of the format": lambda: archive_of(gamma=b"\x93NUMPY\x07\x00" + header_with("(3,)")[8:] + bytes(12)),
}

LOAD_WITH_LITTLE_MEMORY = """
import resource, sys
import numpy as np
import cregkit as ck
layer = ck.RMSNorm(3)
before = layer.gamma.tobytes()
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))
for path in sys.argv[1:]:
    try:
        layer.load(path)
        print("loaded", path)
    except ValueError as error:
        assert path in str(error), error
    assert layer.gamma.tobytes() == before
print("refused all")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits memory")
def test_malicious_files_are_refused_within_64_mib(tmp_path: Path) -> None:
    for name, make in BOMBS.items():
        (tmp_path / name).write_bytes(make())
    done = run_python("-c", LOAD_WITH_LITTLE_MEMORY, *(str(tmp_path / name) for name in BOMBS))
    assert (done.stdout, done.returncode) == ("refused all\n", 0), done.stdout + done.stderr


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_malicious_file_is_refused_by_name(
    bomb: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("faults", 1)
    path = tmp_path / "bomb.npz"
    path.write_bytes(BOMBS[bomb]())
    with pytest.raises(ValueError, match=r"bomb\.npz"):
        ck.RMSNorm(3).load(path)


def test_a_compressed_file_is_refused_with_how_to_write_it(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "state.npz", gamma=np.ones(3000, np.float32))
    with pytest.raises(ValueError, match=r"compressed .*numpy\.savez"):
        ck.RMSNorm(3000).load(tmp_path / "state.npz")


def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    ones = io.BytesIO()
    np.save(ones, np.ones(3, np.float32))
    for second in ("gamma.npy", "gamma"):
        with zipfile.ZipFile(tmp_path / "state.npz", "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile warns about the second name
            archive.writestr("gamma.npy", ones.getvalue())
            archive.writestr(second, ones.getvalue())
        with pytest.raises(ValueError, match=r"state\.npz .*two arrays with the same name"):
            ck.RMSNorm(3).load(tmp_path / "state.npz")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint64, "U5"])
def test_plain_arrays_are_read_as_numpy_reads_them(order: Any, dtype: Any, tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    arrays = {
        "a": np.arange(12).reshape(3, 4).astype(dtype, order=order),
        "b": np.array(3, dtype),
        "c/d": np.empty((0, 2)),
    }
    np.savez(path, **arrays)
    loaded = _files.load_arrays(path)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        assert np.array_equal(loaded[name], array)


SAVE_FOR_EVER = """
import sys
import numpy as np
import cregkit as ck
layer = ck.RMSNorm(300_000)
print("saving", flush=True)
while True:
    layer.gamma += 1
    layer.save(sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_kill_while_saving_leaves_a_whole_file(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("faults", 5)
    path = tmp_path / "state.npz"
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    layer = ck.RMSNorm(300_000)
    left_over = 0
    for attempt in range(5):
        layer.save(path)
        command = [sys.executable, "-c", SAVE_FOR_EVER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.01 + 0.0073 * attempt)
            process.kill()
        layer.load(path)
        assert np.ptp(layer.gamma) == 0.0
        left_over += len(list(tmp_path.iterdir())) - 1
        for file in tmp_path.glob("*.tmp"):
            file.unlink()
    assert left_over > 0, "no kill came in the middle of a save"


# ---- .safetensors ----

A = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "half a length": bytes(4),
    "no header": bytes(8),
    "a length of 2**64 - 1": b"\xff" * 8,
    "a length beyond the file": (100).to_bytes(8, "little") + b"{}",
    "no JSON": with_header(b"{'a'}"),
    "no UTF-8": with_header(b'{"\xff": 1}'),
    "a list": with_header(b"[]"),
    "a deep list": with_header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "an array that is none": with_header({"a": 3}, bytes(16)),
    "no offsets": with_header({"a": {"dtype": "F32", "shape": [4]}}, bytes(16)),
    "one offset": with_header({"a": A | {"data_offsets": [16]}}, bytes(16)),
    "offsets of text": with_header({"a": A | {"data_offsets": ["0", "16"]}}, bytes(16)),
    "an offset of truth": with_header({"a": A | {"data_offsets": [False, 16]}}, bytes(16)),
    "an offset with a fraction": with_header({"a": A | {"data_offsets": [0.0, 16.0]}}, bytes(16)),
    "a negative offset": with_header({"a": A | {"data_offsets": [-16, 0]}}, bytes(16)),
    "offsets the wrong way round": with_header({"a": A | {"data_offsets": [16, 0]}}, bytes(16)),
    "offsets beyond the file": with_header({"a": A | {"data_offsets": [2**60, 2**60 + 16]}}, bytes(16)),
    "no dtype": with_header({"a": {"shape": [4], "data_offsets": [0, 16]}}, bytes(16)),
    "a dtype of no format": with_header({"a": A | {"dtype": "F31"}}, bytes(16)),
    "a dtype that is a list": with_header({"a": A | {"dtype": ["F32"]}}, bytes(16)),
    "no shape": with_header({"a": {"dtype": "F32", "data_offsets": [0, 16]}}, bytes(16)),
    "a shape that is a number": with_header({"a": A | {"shape": 4}}, bytes(16)),
    "a negative shape": with_header({"a": A | {"shape": [-2, -2]}}, bytes(16)),
    "a shape with a fraction": with_header({"a": A | {"shape": [4.0]}}, bytes(16)),
    "a shape of 2**80": with_header({"a": A | {"shape": [2**40, 2**40]}}, bytes(16)),
    "a shape of fewer": with_header({"a": A | {"shape": [3]}}, bytes(16)),
    "a gap": with_header({"a": A, "b": A | {"data_offsets": [20, 36]}}, bytes(36)),
    "an overlap": with_header({"a": A, "b": A | {"data_offsets": [12, 28]}}, bytes(28)),
    "a place twice": with_header({"a": A, "b": A}, bytes(16)),
    "bytes behind": with_header({"a": A}, bytes(17)),
    "too few bytes": with_header({"a": A}, bytes(15)),
    "a name twice": with_header(b'{"a":%s,"a":%s}' % ((json.dumps(A).encode(),) * 2), bytes(32)),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_safetensors_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(MALFORMED[name])
    with pytest.raises(
        ValueError, match=r"model\.safetensors is not a complete safetensors file of supported dtypes: "
    ):
        ck.BertEncoder.from_safetensors(path, 2)


@pytest.mark.parametrize("name", MALFORMED)
def test_the_safetensors_package_refuses_it_too(name: str, tmp_path: Path) -> None:
    package = pytest.importorskip("safetensors")
    with pytest.raises((package.SafetensorError, RecursionError)):
        package.deserialize(MALFORMED[name])


def test_a_bert_file_truncated_anywhere_is_refused(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    path = write_bert(tmp_path)
    content = path.read_bytes()
    lengths = [*range(0, len(content), 97), len(content) - 1]
    record_property("faults", len(lengths))
    for length in lengths:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"model\.safetensors is not a complete safetensors file"):
            ck.BertEncoder.from_safetensors(path)


def test_a_bit_changed_in_a_header_is_refused_or_changes_nothing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    path = write_bert(tmp_path)
    content = path.read_bytes()
    whole = frozen(ck.BertEncoder.from_safetensors(path))
    places = range(0, 8 + int.from_bytes(content[:8], "little"), 3)
    record_property("faults", len(places))
    for at in places:
        changed = bytearray(content)
        changed[at] ^= 1 << (at * 5 + 3) % 8
        path.write_bytes(changed)
        with contextlib.suppress(ValueError):
            read = frozen(ck.BertEncoder.from_safetensors(path))
            assert {name for name in whole if read[name] != whole[name] and not name.endswith("seed")} == set(), at


READ_WITH_LITTLE_MEMORY = """
import resource, sys
import numpy as np
import cregkit as ck
ck.BertEncoder(4, 4, 1, 4, 2)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))
for path in sys.argv[1:]:
    try:
        ck.BertEncoder.from_safetensors(path, 2)
        print("read", path)
    except ValueError as error:
        assert path in str(error), error
print("refused all")
"""


def wide_bert(d_model: int, d_ff: int, n_layers: int = 1) -> bytes:
    """A file with vectors of these sizes and no matrices, which would be as large as their products."""
    arrays = {f"embeddings.{kind}_embeddings.weight": (1, d_model) for kind in ("word", "position")}
    arrays["embeddings.token_type_embeddings.weight"] = (2, d_model)
    for index in range(n_layers):
        arrays[f"encoder.layer.{index}.attention.output.dense.bias"] = (d_model,)
        arrays[f"encoder.layer.{index}.intermediate.dense.bias"] = (d_ff,)
    return safetensors({name: np.zeros(shape, np.float32) for name, shape in arrays.items()})


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits memory")
def test_a_small_bert_file_allocates_no_large_encoder(tmp_path: Path) -> None:
    bombs = {"wide": wide_bert(100_000, 4), "wide inside": wide_bert(4, 1_000_000), "deep": wide_bert(500, 500, 300)}
    for name, content in bombs.items():
        (tmp_path / name).write_bytes(content)
    done = run_python("-c", READ_WITH_LITTLE_MEMORY, *(str(tmp_path / name) for name in bombs))
    assert (done.stdout, done.returncode) == ("refused all\n", 0), done.stdout + done.stderr


def test_bfloat16_numbers_are_the_upper_halves_of_float32(tmp_path: Path) -> None:
    values = np.array([[1.0, -2.5, np.inf, 2.0**-133]], np.float32)
    (tmp_path / "a").write_bytes(safetensors({"a": bf16(values), "b": np.array(3.0, np.float32)}))
    with open(tmp_path / "a", "rb") as file:
        index = _files.safetensors_index(file)
        assert np.array_equal(_files.read_float32(file, "a", index["a"]), values)
        assert _files.read_float32(file, "b", index["b"]).shape == ()
