"""Checks that the wheels and sdists of a folder hold exactly the right files: ``distributions.py FOLDER``."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePath

ROOT = Path(__file__).parents[2]

# A wheel may hold these beside the Python files, stubs and advice that git tracks in cregkit/.
WHEEL_EXTRAS = ["cregkit/kernels/*.so", "cregkit/torch/_dispatcher_*.so", "cregkit-*.dist-info/*"]
SDIST_EXTRAS = ["PKG-INFO", "setup.cfg", "cregkit.egg-info/*"]
NOT_IN_WHEEL = ["*.pyx", "*.pxd", "*.cpp", "*.h", "*/[A-Z]*.md"]
NOT_IN_SDIST = [".*", ".*/*"]  # files for development


def matches(name: str, patterns: list[str]) -> bool:
    """Whether one of the patterns fits."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def tracked() -> set[str]:
    """The files that git tracks."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")) - {""}


def problems(found: set[str], wanted: set[str], extras: list[str]) -> list[str]:
    """Missing files, and files that do not belong."""
    missing = [f"missing {name}" for name in sorted(wanted - found)]
    stray = [f"stray {name}" for name in sorted(found - wanted) if not matches(name, extras)]
    return missing + stray


def wheel_problems(path: Path) -> list[str]:
    """A wheel holds the package and its extensions: no C or Cython sources, no page of a room."""
    found = set(zipfile.ZipFile(path).namelist())
    wanted = {name for name in tracked() if name.startswith("cregkit/") and not matches(name, NOT_IN_WHEEL)}
    modules = {PurePath(name).name.split(".")[0] for name in found if name.endswith(".so")}
    kernels = {PurePath(name).stem for name in tracked() if name.endswith(".pyx")}
    lost = [f"missing extension {name}" for name in sorted(kernels - modules)]
    return problems(found, wanted, WHEEL_EXTRAS) + lost


def sdist_problems(path: Path) -> list[str]:
    """An sdist holds all files that git tracks, except dot-files, and no generated file."""
    with tarfile.open(path) as archive:
        files = [member.name for member in archive if member.isfile()]
    found = {name.split("/", 1)[1] for name in files}
    wanted = {name for name in tracked() if not matches(name, NOT_IN_SDIST)}
    return problems(found, wanted, SDIST_EXTRAS)


def main() -> int:
    """Check the folder on the command line."""
    folder = Path(sys.argv[1])
    checks = {
        **dict.fromkeys(folder.glob("*.whl"), wheel_problems),
        **dict.fromkeys(folder.glob("*.tar.gz"), sdist_problems),
    }
    wrong = [f"{path.name}: {problem}" for path, check in checks.items() for problem in check(path)]
    print("\n".join(wrong) or f"{len(checks)} distributions hold what they must and nothing else")
    return int(bool(wrong) or not checks)


if __name__ == "__main__":
    sys.exit(main())
