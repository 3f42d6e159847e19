"""Builds the wheels of a release, and tries each beside every OpenMP runtime that a process may have.

``python tests/reliability/wheels.py [VERSION...]``, by default for every supported Python found, builds and repairs
with the settings of ``[tool.cibuildwheel]``. PyTorch is part of it with Python 3.11 alone (``TORCH``). A wheel must be
smaller than 6 MiB and hold one OpenMP runtime, its own, with its licence and a bill of materials. Installed in an empty
environment, it must pass ``cregkit check`` and use exactly one runtime: where the system has none, before and after
PyTorch and scikit-learn are imported, and in a forked child. The time of a training step is printed, and what a second
runtime would make of it. Needs a compiler, ``auditwheel``, ``patchelf``, Linux and Python 3.11.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
import zipfile
from pathlib import Path

import tomllib
from pythons import Failure, copy_tree, interpreters, run

ROOT = Path(__file__).parents[2]
TORCH = "3.11"
MOST_BYTES = 6 * 2**20

# Import what the argument says, run a loop on two threads, and print the runtimes of the process.
PROGRAM = """
import sys
import numpy as np

def loop():
    import cregkit
    cregkit.set_num_threads(2)
    assert (cregkit.layer_norm(np.ones((4096, 64), np.float32)) == 0).all()
    return cregkit.show_config()["openmp"]

exec(sys.argv[1])
import threadpoolctl
for runtime in {info["filepath"] for info in threadpoolctl.threadpool_info() if info["user_api"] == "openmp"}:
    print(runtime)
"""
FORK = """
import os
loop()
if child := os.fork():
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
loop()
"""
ALONE = {
    "system's runtime hidden": ("loop()", "kernels"),
    "system's runtime": ("loop()", ""),
    "forked child": (FORK, ""),
}
SCIKIT = {
    "after scikit-learn": ("import sklearn.svm; loop()", "scikit_learn.libs"),
    "before scikit-learn": ("loop(); import sklearn.svm; loop()", "scikit_learn.libs"),
}
PYTORCH = {
    "after PyTorch": ("import torch; torch.ones(999, 999).exp(); loop()", "torch/lib"),
    "before PyTorch": ("loop(); import torch; torch.ones(999, 999).exp(); loop()", "torch/lib"),
    "converted model": (
        "import torch, cregkit.torch; from cregkit.torch import dispatch; assert dispatch.library;"
        "cregkit.torch.enable(); torch.nn.functional.dropout(torch.ones(999, 999)); loop()",
        "torch/lib",
    ),
}

# Print the time of a training step with cregkit's kernels, as a ratio to PyTorch's own, measured in turn.
STEP = """
import statistics, sys, time
import torch
exec(sys.argv[1])
import cregkit.torch

torch.set_num_threads(2)
nn = torch.nn
layers = [layer for _ in range(4) for layer in (nn.Linear(512, 512), nn.LayerNorm(512), nn.Dropout(0.1))]
model, x = nn.Sequential(*layers), torch.randn(256, 512)

def step():
    start = time.perf_counter()
    model(x).square().mean().backward()
    return time.perf_counter() - start

times = {cregkit.torch.enable: [], cregkit.torch.disable: []}
for _ in range(41):
    for switch in times:
        switch()
        step()
        times[switch].append(step())
ours, stock = map(statistics.median, times.values())
print(f"{ours / stock:.2f}")
"""
TWO_RUNTIMES = """
from cregkit.kernels import _openmp
_openmp._candidates = lambda: _openmp._runtimes(_openmp.FOLDER)
"""

VALIDATE = """
import sys, zipfile
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

archive = zipfile.ZipFile(sys.argv[1])
(bill,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith(".cdx.json"))
sys.exit(JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill))
"""


def built(python: Path, folder: Path, has_torch: bool) -> Path:
    """Build and repair a wheel as the release does; return its file."""
    tree = copy_tree(folder / "tree")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    before = settings["before-build"] if has_torch else settings["overrides"][0]["before-build"]
    run("bash", "-c", f"'{python}' -m {before}", cwd=folder)
    wheel = (python, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder / "raw", tree)
    run(*wheel, cwd=folder, **settings["environment"])
    repair = settings["linux"]["repair-wheel-command"].format(
        dest_dir=folder / "wheel", wheel=next((folder / "raw").glob("*.whl"))
    )
    run("bash", "-c", repair, cwd=folder)
    return next((folder / "wheel").glob("*.whl"))


def documented(wheel: Path, runtime: str) -> None:
    """Raise Failure unless the wheel holds the runtime's licence, and a bill of materials that describes its bytes."""
    archive = zipfile.ZipFile(wheel)
    folder = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    project = re.split("[.-]", Path(runtime).name)[0]
    bill = json.loads(archive.read(f"{folder}/sboms/cregkit.cdx.json"))
    (component,) = bill["components"]
    digest = hashlib.sha256(archive.read(runtime)).hexdigest()
    if (component["name"], component["hashes"][0]["content"]) != (project, digest):
        raise Failure(f"the bill of materials must describe {runtime} ({digest}), got {component}")
    if project not in archive.read(f"{folder}/licenses/{project}.txt").decode():
        raise Failure(f"the wheel lacks the licence of {project}")


def inspect(wheel: Path) -> str:
    """Return a wheel's size; raise Failure if it is too large or lacks its own OpenMP runtime or holds another."""
    names = zipfile.ZipFile(wheel).namelist()
    runtimes = [name for name in names if re.search(r"/lib(g|i)?omp.*\.(so|dylib)", name)]
    if len(runtimes) != 1 or not runtimes[0].startswith("cregkit/kernels/"):
        raise Failure(f"{wheel.name} must hold one OpenMP runtime in cregkit/kernels/, got {runtimes}")
    documented(wheel, runtimes[0])
    if wheel.stat().st_size >= MOST_BYTES:
        raise Failure(f"{wheel.name} must be smaller than {MOST_BYTES} bytes, got {wheel.stat().st_size}")
    return f"{wheel.stat().st_size / 2**20:.1f} MiB"


def attempt(python: Path, folder: Path, name: str, program: str, runtime: str) -> None:
    """Run one scenario; raise Failure unless it uses exactly one runtime, in a folder of this name."""
    hidden = folder / "hidden"
    hidden.mkdir(exist_ok=True)
    (hidden / "libgomp.so.1").touch()  # an empty file, which the loader finds first and cannot load
    (hidden / "libomp.so.5").touch()
    variables = {"LD_LIBRARY_PATH": str(hidden)} if name == "system's runtime hidden" else {}
    quiet = ("-W", "ignore:This process:DeprecationWarning")  # of Python 3.12 and later: a fork beside threads
    runtimes = run(python, *quiet, "-c", PROGRAM, program, cwd=folder, **variables).split()
    if len(runtimes) != 1 or runtime not in runtimes[0]:
        raise Failure(f"{name}: must use one runtime, of {runtime or 'the system'}; got {runtimes}")


def try_one(version: str, base: str, folder: Path) -> str:
    """Build a wheel and try it; return one line."""
    build, user = folder / "build", folder / "user"
    for place in (build, user):
        run(base, "-m", "venv", place, cwd=folder)
    has_torch = version == TORCH
    wheel = built(build / "bin" / "python", folder, has_torch)
    size = inspect(wheel)
    python = user / "bin" / "python"
    pip = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    run(*pip, wheel, "threadpoolctl", "cyclonedx-python-lib[json-validation]", cwd=folder)
    run(python, "-c", VALIDATE, wheel, cwd=folder)
    run(python, "-m", "cregkit", "check", cwd=folder)
    stages = [(ALONE, ()), (SCIKIT, ("scikit-learn",)), (PYTORCH, ("torch==2.13.0",) if has_torch else None)]
    tried = 0
    for scenarios, packages in stages:
        if packages is None:
            continue
        if packages:
            run(*pip, *packages, cwd=folder)
        for name, (program, runtime) in scenarios.items():
            attempt(python, folder, name, program, runtime)
            tried += 1
    line = f"{wheel.name}, {size}, one runtime in {tried} processes"
    if has_torch:
        one, two = (run(python, "-c", STEP, runtime, cwd=folder).strip() for runtime in ("", TWO_RUNTIMES))
        line += f"; a training step takes {one} of PyTorch's time, {two} with two runtimes"
    return line


def main() -> int:
    """Build and try the wheels of the chosen Pythons."""
    found = interpreters()
    chosen = sys.argv[1:] or list(found)
    missing = [version for version in chosen if version not in found]
    wrong = [f"Python {version} was not found" for version in missing]
    for version in chosen:
        if version in missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(f"Python {version}: {try_one(version, found[version], Path(folder))}", flush=True)
            except Failure as error:
                wrong.append(f"Python {version}: {error}")
    print("\n".join(wrong))
    return int(bool(wrong) or not chosen)


if __name__ == "__main__":
    sys.exit(main())
