"""Docstrings: public names have examples, and all sections are numpydoc's."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import get_origin

import pytest

import cregkit

ROOMS = [
    "cregkit.advice",
    "cregkit.layers",
    "cregkit.oracle",
    "cregkit.torch",
    "cregkit.torch.functional",
    "cregkit.train",
]
OTHER_STYLE = re.compile(r"^ *(Args|Arguments|Attributes|Examples?|Notes?|Raises|References|Returns|Yields):$", re.M)


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_an_example(room: str) -> None:
    if "torch" in room:
        pytest.importorskip("torch")
    module = importlib.import_module(room)
    things = {name: getattr(module, name) for name in module.__all__}
    documented = {name: thing for name, thing in things.items() if callable(thing) and not get_origin(thing)}
    assert [name for name, thing in documented.items() if ">>> " not in (inspect.getdoc(thing) or "")] == []


def test_all_sections_are_numpydoc_sections() -> None:
    sources = [path for path in Path(cregkit.__file__).parent.rglob("*") if path.suffix in (".py", ".pyx", ".pyi")]
    assert sources
    assert [str(path) for path in sources if OTHER_STYLE.search(path.read_text(encoding="utf-8"))] == []
