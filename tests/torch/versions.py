"""Builds and tests cregkit with other versions of PyTorch: ``python tests/torch/versions.py 2.14.1``.

For each version, an environment gets this PyTorch and the last commit's cregkit, with the native library. The tests in
``tests/torch`` then run away from the sources. Prints one line for each version, and before it the output of a command
that failed. Downloads gigabytes, builds cregkit, and ends with 1 if anything failed. Needs Python 3.11 and git.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[2]
NATIVE = "from cregkit.torch import dispatch; assert dispatch.library, 'the native library was not built'"


def run(*command: object, cwd: Path) -> str:
    """Run a command away from this tree; return its last line.

    Raises:
        CalledProcessError: the command failed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        env=environment,
        cwd=cwd,
    )
    return done.stdout.rstrip().rpartition("\n")[2]


def requirements() -> list[str]:
    """The packages that the build and the tests need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    return [*project["build-system"]["requires"], *extras["test"], *extras["lab"], "expecttest"]


def try_one(version: str, environment: Path, tree: Path) -> str:
    """Install PyTorch and cregkit in the environment, clone the sources to the tree, test; return pytest's summary.

    Raises:
        CalledProcessError: a command failed.
    """
    run(sys.executable, "-m", "venv", environment, cwd=ROOT)
    pip = environment / "bin" / "pip", "install", "-qq", "--disable-pip-version-check"
    run(*pip, f"torch=={version}", *requirements(), cwd=ROOT)
    run("git", "clone", "-q", ROOT, tree, cwd=ROOT)
    run(*pip, "--no-build-isolation", "--no-deps", "--force-reinstall", tree, cwd=ROOT)
    shutil.rmtree(tree / "cregkit")
    run(environment / "bin" / "python", "-c", NATIVE, cwd=tree)
    summary = run(environment / "bin" / "pytest", "-q", "tests/torch", cwd=tree)
    return re.sub(r" in (\d+).*", r" in \1 s", summary)


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
            except subprocess.CalledProcessError as error:
                print(error.stdout, file=sys.stderr)
                summary = f"exit code {error.returncode} of {shlex.join(error.cmd)}"
                failed = True
        print(f"PyTorch {version}: {summary}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
