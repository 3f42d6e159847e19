"""Find the OpenMP runtime that runs the parallel loops. It is not linked, so that a process has only one.

A second runtime would start its own threads, and those of the two would compete for the CPUs. In order of preference:

1. a runtime that the process has loaded, PyTorch's first;
2. the runtime in an installed PyTorch or scikit-learn, which a later import of that package would load;
3. the system's, or that of a conda environment or of Homebrew;
4. the one in cregkit's wheel.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
RUNTIME = re.compile(r"lib(gomp|omp|iomp5)(-[-.\w]*)?\.(so|dylib)[.\d]*")
SYSTEM = ("libomp.dylib",) if sys.platform == "darwin" else ("libgomp.so.1", "libomp.so.5")
# Where an environment, conda's for example, and Homebrew on macOS keep one.
PREFIXES = (sys.prefix, "/opt/homebrew/opt/libomp", "/usr/local/opt/libomp")
# Where the wheels of packages keep their runtime, relative to the folder of the package.
SHIPPED = {"torch": ("lib",), "sklearn": ("../scikit_learn.libs", ".dylibs")}


class Runtime(NamedTuple):
    """An OpenMP runtime: its file, and the addresses of the two functions that a parallel loop calls."""

    path: str
    parallel: int  # void GOMP_parallel(void (*)(void *), void *, unsigned threads, unsigned flags)
    thread_num: int  # int omp_get_thread_num(void)


def find_runtime() -> Runtime | None:
    """Return the runtime to use; None where there is none."""
    return next(filter(None, map(_opened, _candidates())), None)


def _candidates() -> Iterator[str]:
    """Yield paths or names for the system's loader, the preferred one first."""
    yield from sorted(_loaded(), key=lambda path: Path(path).parent.parts[-2:] != ("torch", "lib"))
    for package, folders in SHIPPED.items():
        for folder in folders:
            yield from _runtimes(_folder_of(package) / folder)
    yield from SYSTEM
    for prefix in PREFIXES:
        yield from _runtimes(Path(prefix, "lib"))
    yield from _runtimes(FOLDER)


def _loaded() -> list[str]:
    """Return the files of the runtimes in this process, in the order of their addresses or of loading."""
    if sys.platform == "darwin":
        images = ctypes.CDLL(None)
        images._dyld_get_image_name.restype = ctypes.c_char_p
        paths = [images._dyld_get_image_name(i).decode() for i in range(images._dyld_image_count())]
    else:
        try:
            lines = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
        except OSError:
            return []
        paths = [fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6]
    return [path for path in dict.fromkeys(paths) if RUNTIME.fullmatch(Path(path).name)]


def _runtimes(folder: Path) -> list[str]:
    """Return the files in a folder that are runtimes by their names."""
    return [str(path) for path in sorted(folder.glob("lib*omp*")) if RUNTIME.fullmatch(path.name)]


def _folder_of(package: str) -> Path:
    """Return the folder of an installed package, which is not imported; one that does not exist without the package."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # a broken finder, or a stand-in module without a spec
        spec = None
    return Path(spec.origin).parent if spec and spec.origin else FOLDER / "no such folder"


def _opened(name: str) -> Runtime | None:
    """Load a runtime, which stays loaded; return None if it cannot be loaded or lacks a function."""
    try:
        library = ctypes.CDLL(name)
        parallel, thread_num = (
            ctypes.cast(library[function], ctypes.c_void_p).value or 0
            for function in ("GOMP_parallel", "omp_get_thread_num")
        )
    except (OSError, AttributeError):
        return None
    if not Path(name).is_absolute():
        name = next((path for path in _loaded() if Path(path).name.startswith(name)), name)
    return Runtime(str(Path(name).resolve()), parallel, thread_num)
