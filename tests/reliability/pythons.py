"""Builds, installs and tests the package with every Python it supports that is found.

``python tests/reliability/pythons.py [all]``

Searches the PATH and pyenv's versions. Without ``all`` it tries the oldest and the newest. The oldest gets the oldest
release of every package that pyproject.toml admits, to build, to run, and for the extras ``test`` and ``lab``; PyTorch
is none of them. Prints one line for each. Needs Python 3.11.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[2]
SUPPORTED = ("3.10", "3.11", "3.12", "3.13")
TESTS = (
    *("ops/test_parity.py", "ops/test_golden.py", "ops/test_buffers.py", "ops/test_runtime.py"),
    *("layers/test_layers.py", "layers/test_state.py", "train/test_checkpoint.py", "commands/test_cli.py"),
    *("reliability/test_untrusted_files.py", "layers/test_dtypes.py", "train/test_fit.py", "lab/test_lab.py"),
    *("train/test_classifier.py", "train/test_regressor.py", "train/test_estimators.py", "augment/test_augment.py"),
)
EXTRAS = ("test", "lab")
BOUND = re.compile(r"([\w-]+)>=([\d.]+)")


class Failure(Exception):
    """A command failed, or what it made is not what it must be."""


def run(*command: object, cwd: Path, **variables: str) -> str:
    """Run a command away from the sources; return what it printed.

    Raises:
        Failure: it failed; with its output.
    """
    hidden = ("PYTHONPATH", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | variables
    words = [str(word) for word in command]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(words, **output, check=False, cwd=cwd, env=environment)
    if done.returncode:
        raise Failure(f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}")
    return done.stdout


def interpreters() -> dict[str, str]:
    """The interpreters found, by version."""
    found = {}
    for version in SUPPORTED:
        pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
        candidates = [shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]
        for path in filter(None, candidates):
            probe = subprocess.run([path, "-c", "import venv, ensurepip"], capture_output=True, check=False)
            if probe.returncode == 0:
                found[version] = path
                break
    return found


def copy_tree(target: Path) -> Path:
    """Copy the sources without anything that was built, which another Cython would take as it is; return the copy."""
    built = shutil.ignore_patterns(".*", "build", "*.so", "__pycache__", "*.egg-info")
    generated = shutil.ignore_patterns("*.c", "_csrc.pxd")

    def left_out(folder: str, names: list[str]) -> set[str]:
        return built(folder, names) | (generated(folder, names) if Path(folder).name == "kernels" else set())

    return Path(shutil.copytree(ROOT, target, ignore=left_out))


def lower_bounds() -> list[str]:
    """The lower bound of every requirement of the build, the package and the extras, as constraints."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    required = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    required += [requirement for extra in EXTRAS for requirement in extras[extra]]
    return sorted({f"{name}=={version}" for name, version in BOUND.findall("\n".join(required))})


def try_one(python: str, folder: Path, constraints: Sequence[str] = ()) -> str:
    """Install the package under these constraints of versions, and run some tests; return the last line of pytest.

    Raises:
        Failure: a command failed; with its output.
    """
    copy_tree(folder / "tree")
    shutil.move(folder / "tree" / "tests", folder / "tests")  # away from the sources, to test the installed package
    shutil.copy(folder / "tree" / "pyproject.toml", folder)  # pytest's configuration
    (folder / "constraints.txt").write_text("\n".join(constraints), encoding="utf-8")
    variables = {"PIP_CONSTRAINT": str(folder / "constraints.txt")}  # also for the environment of the build
    inside = folder / "venv" / "bin" / "python"
    pip = (inside, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    run(python, "-m", "venv", folder / "venv", cwd=folder)
    run(*pip, f"{folder / 'tree'}[{','.join(EXTRAS)}]", cwd=folder, **variables)
    tests = [folder / "tests" / name for name in TESTS]
    return run(inside, "-m", "pytest", "-q", *tests, cwd=folder, **variables).splitlines()[-1]


def main() -> int:
    """Test with the chosen Pythons."""
    found = list(interpreters().items())
    chosen = found if sys.argv[1:] == ["all"] else list(dict(found[:1] + found[-1:]).items())
    wrong = 0
    for version, python in chosen:
        constraints = lower_bounds() if (version, python) == found[0] else ()
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(
                    f"Python {version}: {re.sub(' in .*', '', try_one(python, Path(folder), constraints))}", flush=True
                )
            except Failure as error:
                print(f"Python {version}: failed\n{error}", flush=True)
                wrong += 1
    return int(wrong > 0 or not chosen)


if __name__ == "__main__":
    sys.exit(main())
