"""Every Python block of README.md and of the pages of the rooms runs, page by page, from top to bottom."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("[!.]*/README.md")), *sorted(ROOT.glob("cregkit/*/README.md"))]
OPTIONAL = {"cregkit.mpi": "mpi4py", "from cregkit import mpi": "mpi4py", "torch": "torch", "sklearn": "sklearn"}
"""What a block imports, and the optional package that it needs."""


def missing(block: str) -> list[str]:
    """Return the optional packages that a block needs and that are not installed."""
    lines = [line for line in block.splitlines() if line.startswith(("import ", "from "))]
    needed = {package for text, package in OPTIONAL.items() if any(text in line for line in lines)}
    return sorted(package for package in needed if importlib.util.find_spec(package) is None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in Sybil(parsers=[PythonCodeBlockParser()]).parse(page).examples():
        if packages := missing(block.parsed):
            pytest.skip(f"line {block.line} of {page} needs {', '.join(packages)}")
        block.evaluate()
