"""The ``cregkit`` command. Each subcommand is a module here: its description, its arguments and ``run``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NoReturn

from cregkit._version import __version__
from cregkit.commands import completion
from cregkit.commands.arguments import CommandError

COMMANDS: Mapping[str, str] = {
    "info": "show the instruction set and threads in use, and why",
    "check": "compare every op with the float64 oracle on this CPU",
    "bench": "time every op against memory copies and other libraries",
    "demo": "train a network with and without regularisation and compare",
    "advise": "recommend regularisation for a training run",
    "lab": "run an experiment on regularisation over several seeds",
    "augment": "show augmented samples of an image",
}
"""A summary of each subcommand, by its name, which is also the name of its module."""

# What a shell reports for a process that SIGINT or SIGPIPE ended.
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Parameters
    ----------
    argv
        The arguments; None selects those of the process.

    Returns
    -------
    int
        Exit code. 0: success. 1: a check failed. 2: an error in the call or the environment, described in one line on
        stderr. 130: interrupted. 141: the reader of the output has closed the pipe.
    """
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("cregkit: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # as Python advises: a flush may still come
        return _BROKEN_PIPE
    except ImportError as error:  # CREGKIT_ISA names an unavailable instruction set, or a package is missing
        print(f"cregkit: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"cregkit: {reason}", file=sys.stderr)
        return 2
    return code


def _run(argv: Sequence[str]) -> int:
    if not argv:
        print("cregkit: to start, python -m cregkit demo; for all commands, python -m cregkit --help", file=sys.stderr)
        return 2
    called = next((word for word in argv if not word.startswith("-")), None)
    try:
        parser = _parser([called])
        options, unknown = parser.parse_known_args(argv)
        if unknown:
            parser.prog = f"cregkit {called}"  # not "cregkit", whose --help says nothing about the subcommand
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    except SystemExit as stop:  # how argparse ends --help, --version and mistakes
        return int(stop.code or 0)
    try:
        code: int = options.run(options)
    except CommandError as error:
        print(f"cregkit {called}: {error}", file=sys.stderr)
        return 2
    return code


def _parser(called: Collection[str | None]) -> argparse.ArgumentParser:
    """Return the parser of the whole command; only the subcommands of these names are imported and get arguments."""
    parser = _Parser(
        prog="cregkit",
        description="Fast, exact regularisation and normalisation layers for the CPU.",
        formatter_class=partial(argparse.HelpFormatter, max_help_position=16),
        epilog="Each command explains itself: cregkit demo --help.",
    )
    parser.add_argument("--version", action="version", version=f"cregkit {__version__}")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=completion.SHELLS,
        help="print a script that completes commands and options in this shell",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name in called:
            command = importlib.import_module(f"cregkit.commands.{name}")
            subparser.description = command.DESCRIPTION
            subparser.set_defaults(run=command.run)
            command.add_arguments(subparser)
    return parser


class _PrintCompletion(argparse.Action):
    """Prints the script for a shell, which knows the options of every subcommand, and ends the process."""

    def __call__(self, parser: argparse.ArgumentParser, options: object, shell: object, option: object = None) -> None:
        print(completion.script(_parser(COMMANDS), str(shell)))
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")
