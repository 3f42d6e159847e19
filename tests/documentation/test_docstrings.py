"""Docstrings: their examples run, every public name has one, and all sections are numpydoc's."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import get_origin

import pytest

import cregkit

PACKAGE = Path(cregkit.__file__).parent
SOURCES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".pyx", ".pyi"))
MODULES = sorted(
    {
        ".".join(("cregkit", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in SOURCES
        if path.stem != "__main__"  # importing it runs the command
    }
)
PUBLIC = ["", "advice", "augment", "layers", "mpi", "oracle", "torch", "torch.functional", "train"]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
OTHER_STYLE = re.compile(r"^ *(Args|Arguments|Attributes|Examples?|Notes?|Raises|References|Returns|Yields):$", re.M)


def imported(name: str) -> ModuleType:
    """Import a module of cregkit; skip the test if its optional package is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if is_missing_package(error):
            pytest.skip(f"{name} needs an optional package: {error}")
        raise


def is_missing_package(error: BaseException) -> bool:
    """Whether an import failed for want of an optional package: cregkit says what to install, Python names it."""
    ours = "pip install" in str(error)
    others = isinstance(error, ModuleNotFoundError) and not (error.name or "cregkit").startswith("cregkit")
    return isinstance(error, ImportError) and (ours or others)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = imported(name)
    monkeypatch.chdir(tmp_path)
    missing = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, globs={}):
        if ".__test__." in test.name:  # Cython lists there what the finder has found already
            continue
        try:
            doctest.DebugRunner(optionflags=FLAGS).run(test)
        except doctest.UnexpectedException as failure:
            error = failure.exc_info[1]
            if not is_missing_package(error):
                raise AssertionError(f"{test.name}: {failure.example.source.strip()} raised {error!r}") from error
            missing.append(f"{test.name}: {error}")
        except doctest.DocTestFailure as failure:
            source, want = failure.example.source.strip(), failure.example.want
            pytest.fail(f"{test.name}: {source}\nexpected {want}got      {failure.got}", pytrace=False)
    if missing:
        pytest.skip(f"an optional package is missing: {'; '.join(missing)}")


@pytest.mark.parametrize("room", PUBLIC)
def test_every_public_name_has_an_example(room: str) -> None:
    module = imported(f"cregkit.{room}".removesuffix("."))
    things = {name: getattr(module, name) for name in module.__all__}
    documented = {name: thing for name, thing in things.items() if callable(thing) and not get_origin(thing)}
    assert [name for name, thing in documented.items() if ">>> " not in (inspect.getdoc(thing) or "")] == []


def test_all_sections_are_numpydoc_sections() -> None:
    assert SOURCES
    assert [str(path) for path in SOURCES if OTHER_STYLE.search(path.read_text(encoding="utf-8"))] == []
