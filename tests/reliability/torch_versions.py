"""Builds and tests cregkit with other versions of PyTorch: ``python tests/reliability/torch_versions.py 2.14.1``.

For each version, an environment gets this PyTorch and the last commit's cregkit, with the native library where setup.py
builds it. The tests in ``tests/torch`` then run away from the sources. Prints one line for each version, and before it
the output of a command that failed. Downloads gigabytes, builds cregkit, and ends with 1 if anything failed. Needs
Python 3.11 and git.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

import tomllib
from pythons import Failure, run

ROOT = Path(__file__).parents[2]
LIBRARY = "from cregkit.torch import dispatch; print('with' if dispatch.library else 'without', 'the native library')"


def requirements() -> list[str]:
    """The packages that the build and the tests need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    return [*project["build-system"]["requires"], *extras["test"], *extras["lab"], "expecttest"]


def try_one(version: str, environment: Path, tree: Path) -> str:
    """Install PyTorch and cregkit in the environment, clone the sources to the tree, test; return pytest's summary.

    Raises:
        Failure: a command failed.
    """
    run(sys.executable, "-m", "venv", environment, cwd=ROOT)
    pip = environment / "bin" / "pip", "install", "-qq", "--disable-pip-version-check"
    run(*pip, f"torch=={version}", *requirements(), cwd=ROOT)
    run("git", "clone", "-q", ROOT, tree, cwd=ROOT)
    run(*pip, "--no-build-isolation", "--no-deps", "--force-reinstall", tree, cwd=ROOT)
    shutil.rmtree(tree / "cregkit")
    library = run(environment / "bin" / "python", "-c", LIBRARY, cwd=tree).strip()
    summary = run(environment / "bin" / "pytest", "-q", "tests/torch", cwd=tree).splitlines()[-1]
    return re.sub(r" in (\d+).*", rf" in \1 s, {library}", summary)


def main() -> int:
    """Test with each version of the command line."""
    parser = argparse.ArgumentParser(description="Build and test cregkit with other versions of PyTorch.")
    parser.add_argument("versions", nargs="+", metavar="VERSION", help="a release of PyTorch, such as 2.14.1")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where environments are kept, and used again")
    chosen = parser.parse_args()
    failed = False
    for version in chosen.versions:
        with tempfile.TemporaryDirectory() as folder:
            environments = (chosen.keep or Path(folder)).absolute()
            try:
                summary = try_one(version, environments / f"torch-{version}", Path(folder, "tree"))
            except Failure as error:
                print(error, file=sys.stderr)
                summary = "failed"
                failed = True
        print(f"PyTorch {version}: {summary}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
