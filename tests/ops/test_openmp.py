"""The OpenMP runtime is found, not linked: a process has one, whatever it imports and in whatever order."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import needs_openmp, run_python

from cregkit.kernels import _openmp, _threads

linux = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="lists the libraries from /proc")

# Import the modules of each argument, and run a loop on two threads after each.
LOOPS = """
import sys
import numpy as np
for modules in sys.argv[1:]:
    exec(f"import {modules}")
    import cregkit
    cregkit.set_num_threads(2)
    cregkit.layer_norm(np.ones((4096, 64), np.float32))
    print(cregkit.show_config()["openmp"])
print(*cregkit.kernels._openmp._loaded())
"""


@linux
@needs_openmp
@pytest.mark.parametrize(
    "order",
    [("os",), ("torch",), ("os", "torch"), ("cregkit.torch",), ("sklearn.svm",), ("sklearn.svm, cregkit",)],
    ids="; loop; ".join,
)
def test_a_process_has_one_runtime(order: tuple[str, ...]) -> None:
    """That of the library that is loaded first, or is installed and may be loaded later."""
    for package in ("torch", "sklearn"):
        if any(package in modules for modules in order):
            pytest.importorskip(package)
    done = run_python("-c", LOOPS, *order)
    *used, loaded = done.stdout.splitlines()
    assert used == [loaded] * len(order), done.stdout + done.stderr


@linux
@needs_openmp
def test_a_loop_before_scikit_learn_takes_the_runtime_in_its_wheel() -> None:
    """Where no PyTorch is installed, which would come first."""
    pytest.importorskip("sklearn")
    without_torch = 'from cregkit.kernels import _openmp; del _openmp.SHIPPED["torch"]'
    *used, loaded = run_python("-c", f"{without_torch}\n{LOOPS}", "os", "sklearn.svm").stdout.splitlines()
    assert used == [loaded] * 2


@linux
@needs_openmp
def test_cregkit_torch_takes_pytorchs_runtime_though_another_was_first() -> None:
    """scikit-learn and PyTorch each bring one: the kernels beside PyTorch's operations use PyTorch's threads."""
    pytest.importorskip("torch")
    if not _openmp._runtimes(_openmp._folder_of("torch") / "lib"):
        pytest.skip("PyTorch uses the system's runtime")
    pytest.importorskip("sklearn")
    first, second, loaded = run_python("-c", LOOPS, "sklearn.svm", "cregkit.torch").stdout.splitlines()
    assert (Path(first).parent.name, Path(second).parent.name) == ("scikit_learn.libs", "lib")
    assert set(loaded.split()) == {first, second}


NONE = """
from cregkit.kernels import _openmp
_openmp._candidates = lambda: iter(["/no/such/libgomp.so.1"])
import cregkit, numpy as np
x = np.ones((4096, 64), np.float32)
y = cregkit.layer_norm(x)
config = cregkit.show_config()
print(config["openmp"], config["threads"], config["threads_from"])
cregkit.set_num_threads(2)
print(cregkit.get_num_threads())
"""


def test_without_a_runtime_calls_use_one_thread_and_the_configuration_says_so() -> None:
    done = run_python("-c", NONE)
    assert done.stdout == "None 1 no OpenMP runtime was found\n1\n", done.stderr


def test_the_order_of_preference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded, PyTorch's first; in installed packages; the system's; the environment's; the wheel's own."""
    beside = tmp_path / "site"
    for name in ("torch/lib/libgomp.so.1", "scikit_learn.libs/libgomp-e985bcbb.so.1.0.0", "sklearn/__init__.py"):
        (beside / name).parent.mkdir(parents=True, exist_ok=True)
        (beside / name).touch()
    for name in (
        "environment/lib/libomp.so",
        "homebrew/lib/libomp.dylib",
        "wheel/libgomp.so.1",
        "environment/lib/libcomputer.so",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(_openmp, "_loaded", lambda: ["/a/libiomp5.so", "/b/torch/lib/libgomp.so.1"])
    monkeypatch.setattr(_openmp, "_folder_of", lambda package: beside / package)
    monkeypatch.setattr(_openmp, "FOLDER", tmp_path / "wheel")
    monkeypatch.setattr(_openmp, "PREFIXES", (str(tmp_path / "environment"), str(tmp_path / "homebrew")))
    names = [name.removeprefix(str(tmp_path)) for name in _openmp._candidates()]
    system = list(_openmp.SYSTEM)
    assert names[:2] == ["/b/torch/lib/libgomp.so.1", "/a/libiomp5.so"]
    assert [Path(name).name for name in names[2:4]] == ["libgomp.so.1", "libgomp-e985bcbb.so.1.0.0"]
    assert names[4:] == [*system, "/environment/lib/libomp.so", "/homebrew/lib/libomp.dylib", "/wheel/libgomp.so.1"]


@linux
@needs_openmp
def test_a_file_that_is_no_runtime_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged file, and a library without the functions."""
    damaged = tmp_path / "libgomp.so.1"
    damaged.write_text("not a library")
    without = shutil.copy(_threads.__file__, tmp_path / "libomp.so")
    right = _openmp.find_runtime()
    assert right is not None
    monkeypatch.setattr(_openmp, "_candidates", lambda: iter([str(damaged), str(without), right.path]))
    assert _openmp.find_runtime() == right


@pytest.mark.parametrize(
    ("name", "is_runtime"),
    [
        ("libgomp.so.1", True),
        ("libgomp-e985bcbb.so.1.0.0", True),
        ("libgomp-d22c30c5.so.1.0.0", True),
        ("libiomp5.so", True),
        ("libomp.dylib", True),
        ("libomp-14.so.5", True),
        ("libcomputer.so", False),
        ("libgomp.py", False),
        ("libompt.so", False),
    ],
)
def test_runtimes_are_known_by_their_names(name: str, is_runtime: bool) -> None:
    assert bool(_openmp.RUNTIME.fullmatch(name)) == is_runtime
