"""Tests the package with the oldest or the newest releases of the packages that pyproject.toml admits.

``python tests/reliability/bounds.py oldest|newest``

``oldest`` builds and installs with the lower bound of every requirement, with the oldest Python found; ``newest`` with
pre-releases, with the newest Python. Prints one line, and the output of a command that failed. Needs Python 3.11.
PyTorch is not among the packages: its oldest releases come with gigabytes of CUDA.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import pythons
import tomllib

BOUND = re.compile(r"([\w-]+)>=([\d.]+)")
EXTRAS = ("test", "lab")
TESTS = (
    *pythons.TESTS,
    *("train/test_classifier.py", "train/test_regressor.py", "train/test_estimators.py", "train/test_fit.py"),
    *("augment/test_augment.py", "lab/test_lab.py", "layers/test_dtypes.py"),
)


def oldest() -> list[str]:
    """The lower bound of every requirement of the build, the package and the extras, as constraints."""
    project = tomllib.loads((pythons.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    required = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    required += [requirement for extra in EXTRAS for requirement in extras[extra]]
    return sorted({f"{name}=={version}" for name, version in BOUND.findall("\n".join(required))})


def main() -> int:
    """Test with the chosen releases."""
    if sys.argv[1:] not in (["oldest"], ["newest"]):
        print(__doc__, file=sys.stderr)
        return 2
    chosen = sys.argv[1]
    found = list(pythons.interpreters().items())
    version, python = found[0 if chosen == "oldest" else -1]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\n".join(oldest() if chosen == "oldest" else ()), encoding="utf-8")
        os.environ["PIP_CONSTRAINT"] = str(constraints)  # also for the environment of the build
        options = ["--pre"] if chosen == "newest" else []
        try:
            summary = re.sub(" in .*", "", pythons.try_one(python, Path(folder), TESTS, ",".join(EXTRAS), options))
        except RuntimeError as error:
            summary = f"failed\n{error}"
    print(f"{chosen}, Python {version}: {summary}")
    return int(summary.startswith("failed"))


if __name__ == "__main__":
    sys.exit(main())
