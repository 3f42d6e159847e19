"""Files from anywhere: cut off, changed or made to harm, they are an error or hold the same, and cost no memory."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import run_python

import cregkit as ck

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
    """Load changed content: "refused", with the layer as it was, or "same"."""
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


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
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
    assert outcomes["refused"] > len(content) // 2  # the rest are dates, attributes and the like


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
    """An archive whose directory says that a member is of 4 GB."""
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
def test_files_made_to_harm_are_refused_within_64_mib(tmp_path: Path) -> None:
    for name, make in BOMBS.items():
        (tmp_path / name).write_bytes(make())
    done = run_python("-c", LOAD_WITH_LITTLE_MEMORY, *(str(tmp_path / name) for name in BOMBS))
    assert (done.stdout, done.returncode) == ("refused all\n", 0), done.stdout + done.stderr


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_file_made_to_harm_is_refused(
    bomb: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("faults", 1)
    path = tmp_path / "bomb.npz"
    path.write_bytes(BOMBS[bomb]())
    with pytest.raises(ValueError, match=r"bomb\.npz"):
        ck.RMSNorm(3).load(path)


def test_a_compressed_file_says_how_to_write_it(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "state.npz", gamma=np.ones(3000, np.float32))
    with pytest.raises(ValueError, match=r"compressed .*numpy\.savez"):
        ck.RMSNorm(3000).load(tmp_path / "state.npz")


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
    loaded = ck.layers.files.load_arrays(path)
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
    environment = {**os.environ, "PYTHONPATH": str(Path(ck.__file__).parents[1])}
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
