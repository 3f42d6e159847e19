"""``cregkit info``: the configuration, one line for each entry."""

from __future__ import annotations

import argparse

from cregkit.commands.console import Console
from cregkit.config import show_config

DESCRIPTION = """\
Print the version, the instruction set chosen and those available, the OpenMP runtime, and the number of threads with
where that number came from.

environment:
  CREGKIT_ISA      use this instruction set instead of the best one
  OMP_NUM_THREADS  use this many threads

example:
  cregkit info
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add none."""


def run(options: argparse.Namespace) -> int:
    """Print ``show_config()``."""
    config = show_config()
    width = max(map(len, config))
    console = Console()
    for key, value in config.items():
        console.line(f"{key.replace('_', ' '):<{width}}  {_shown(value)}")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name.replace('_', ' ')}: {_shown(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
