"""README.md and the pages of the rooms: every Python block runs, every link leads somewhere, no page is too long."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import ops_table
import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from cregkit.benchmark import goals

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
FIRST = ROOT / "README.md"
ROOMS = [*sorted(ROOT.glob("[!.]*/README.md")), *sorted(ROOT.glob("cregkit/**/[A-Z]*.md"))]
OTHERS = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *(ROOT / "bench" / page for page in ("RESULTS.md", "SCALING.md")),
]
FIRST_LINES, ROOM_LINES = 160, 80
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
"""A link to a file of this tree, without its anchor."""
ANCHOR = re.compile(r"\]\(([^)#:]*)#([^)]+)\)")
"""A link to a heading: the file, empty for the page itself, and the anchor."""
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
OPTIONAL = {"cregkit.mpi": "mpi4py", "from cregkit import mpi": "mpi4py", "torch": "torch", "sklearn": "sklearn"}
"""What a block imports, and the optional package that it needs."""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def missing(block: str) -> list[str]:
    """Return the optional packages that a block needs and that are not installed."""
    lines = [line for line in block.splitlines() if line.startswith(("import ", "from "))]
    needed = {package for text, package in OPTIONAL.items() if any(text in line for line in lines)}
    return sorted(package for package in needed if importlib.util.find_spec(package) is None)


@pytest.mark.parametrize("page", [FIRST, *ROOMS], ids=name)
def test_the_python_blocks_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in Sybil(parsers=[PythonCodeBlockParser()]).parse(page).examples():
        if packages := missing(block.parsed):
            pytest.skip(f"line {block.line} of {name(page)} needs {', '.join(packages)}")
        try:
            block.evaluate()
        except ImportError as error:  # of a part that was not built: the error says how to install it
            if "pip install" not in str(error):
                raise
            pytest.skip(f"line {block.line} of {name(page)}: {error}")


@pytest.mark.parametrize("page", [FIRST, *ROOMS, *OTHERS], ids=name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [FIRST, *ROOMS, *OTHERS], ids=name)
def test_every_link_to_a_heading_leads_to_one(page: Path) -> None:
    links = ANCHOR.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if link[1] not in anchors(page.parent / link[0] if link[0] else page)] == []


def test_what_bounds_a_missed_goal_stands_in_the_page_on_tuning() -> None:
    assert {goal.what for goal in goals.judge([])} | goals.CALL_LIMITS.keys() >= goals.LIMITS.keys()
    assert anchors(ROOT / "csrc" / "TUNING.md") >= {anchor for anchor, _ in goals.LIMITS.values()}


@pytest.mark.parametrize("page", [FIRST, *ROOMS], ids=name)
def test_no_page_is_too_long(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= (FIRST_LINES if page == FIRST else ROOM_LINES)


@pytest.mark.parametrize("room", [path.parent for path in ROOT.glob("cregkit/*/__init__.py")], ids=name)
def test_every_room_has_a_page(room: Path) -> None:
    assert (room / "README.md").exists()


def test_the_table_of_ops_is_that_of_the_cases() -> None:
    """To write it, run tests/helpers/ops_table.py."""
    assert ops_table.PLACE.findall(ops_table.PAGE.read_text(encoding="utf-8")) == [ops_table.table()]
