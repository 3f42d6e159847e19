"""The public surface: every public name with its signature, and every option of the command.

``python tests/helpers/public_names.py`` writes the stored listing; it needs all extras.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cregkit import commands

LISTING = Path(__file__).parents[1] / "documentation" / "public_names.txt"
ROOMS = (
    "cregkit",
    *(
        f"cregkit.{room}"
        for room in ("advice", "augment", "layers", "mpi", "oracle", "torch", "torch.functional", "train")
    ),
)
PLAIN = (bool, int, float, str, type(None), tuple)


def names(room: str) -> list[str]:
    """A line for each name in ``__all__`` of a room, and for what its classes define."""
    module = importlib.import_module(room)
    return [line for name in sorted(module.__all__) for line in _described(f"{room}.{name}", getattr(module, name))]


def options() -> list[str]:
    """A line for each subcommand with its options."""
    lines = []
    for name in commands.COMMANDS:
        parser = argparse.ArgumentParser(add_help=False)
        importlib.import_module(f"cregkit.commands.{name}").add_arguments(parser)
        words = sorted(word for action in parser._actions for word in action.option_strings or [action.dest.upper()])
        lines.append(" ".join(["cregkit", name, *words]))
    return lines


def stored() -> list[str]:
    """The lines of the listing."""
    return LISTING.read_text(encoding="utf-8").splitlines()


def _described(name: str, thing: Any) -> Iterator[str]:
    """Yield the line of a name, then those of the members that classes of this package give a class."""
    if not isinstance(thing, type):
        yield name + _signature(thing) if callable(thing) else f"{name}: {type(thing).__name__}"
        return
    members: dict[str, Any] = {}
    for base in reversed(thing.__mro__):
        if base.__module__.startswith("cregkit"):
            members.update(vars(base))
    yield name + (_signature(members["__init__"]) if "__init__" in members else "")
    for member, value in sorted(members.items()):
        if not member.startswith("_"):
            value = getattr(value, "__func__", value)
            yield f"{name}.{member}" + (_signature(value) if callable(value) else "")


def _signature(function: Any) -> str:
    """Return the parameters without types, which may differ between versions of Python and of the packages."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C
        return "(...)"
    return str(inspect.Signature([_bare(parameter) for parameter in parameters]))


def _bare(parameter: inspect.Parameter) -> inspect.Parameter:
    plain = parameter.default is parameter.empty or isinstance(parameter.default, PLAIN)
    return parameter.replace(annotation=parameter.empty, default=parameter.default if plain else Ellipsis)


if __name__ == "__main__":
    lines = [line for room in ROOMS for line in names(room)] + options()
    LISTING.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
