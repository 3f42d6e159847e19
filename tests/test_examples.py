"""The examples in docstrings run, in Python and in Cython modules; every public name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import cregkit

PACKAGE = Path(cregkit.__file__).parent
MODULES = sorted(
    ".".join(("cregkit", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for pattern in ("**/*.py", "**/*.pyx")
    for path in PACKAGE.glob(pattern)
    if path.stem != "__main__"  # importing it runs the command
)
PUBLIC = ("cregkit", "cregkit.advice", "cregkit.augment", "cregkit.layers", "cregkit.mpi", "cregkit.torch", "cregkit.train")
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def imported(name: str) -> ModuleType:
    """Import a module of cregkit; skip the test if its optional package is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        root = (error.name or "cregkit").partition(".")[0]
        if root == "cregkit" and "pip install" not in str(error):
            raise
        pytest.skip(f"{name} needs an optional package: {error}")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = imported(name)
    monkeypatch.chdir(tmp_path)
    runner = doctest.DebugRunner(optionflags=FLAGS)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, globs={}):
        if ".__test__." in test.name:  # Cython lists there what the finder has found already
            continue
        try:
            runner.run(test)
        except doctest.UnexpectedException as failure:
            error = failure.exc_info[1]
            if isinstance(error, ImportError) and "pip install" in str(error):
                pytest.skip(f"{test.name} needs an optional package: {error}")
            raise AssertionError(f"{test.name}: {failure.example.source.strip()} raised {error!r}") from error
        except doctest.DocTestFailure as failure:
            source, want = failure.example.source.strip(), failure.example.want
            pytest.fail(f"{test.name}: {source}\nexpected {want}got      {failure.got}", pytrace=False)


def lacking(module: ModuleType) -> set[str]:
    """Return the public functions and classes of a module whose docstring has no example."""
    public = {name: getattr(module, name) for name in module.__all__}
    documented = {name: value for name, value in public.items() if callable(value) and not inspect.ismodule(value)}
    return {f"{module.__name__}.{name}" for name, value in documented.items() if ">>>" not in (value.__doc__ or "")}
