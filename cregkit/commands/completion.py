"""The script with which a shell completes the command line, written by shtab."""

from __future__ import annotations

import argparse

SHELLS = ("bash", "zsh", "tcsh")


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for a shell; arguments whose metavar is FILE complete to files.

    Parameters
    ----------
    parser
        The parser of the whole command.
    shell
        One of ``SHELLS``.

    Returns
    -------
    str
        The script.

    Raises
    ------
    ImportError
        shtab is not installed.
    """
    try:
        import shtab
    except ModuleNotFoundError:
        raise ImportError("--print-completion needs shtab: pip install 'cregkit[completion]'") from None
    for action in _actions(parser):
        if action.metavar == "FILE":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the arguments of a parser and of its subcommands."""
    own = list(parser._actions)
    commands = (choice for action in own if isinstance(action.choices, dict) for choice in action.choices.values())
    return own + [action for command in commands for action in _actions(command)]
