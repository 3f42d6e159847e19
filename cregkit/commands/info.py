"""``cregkit info``: the configuration, one line for each entry."""

from __future__ import annotations

import argparse

from cregkit.commands.console import Console
from cregkit.config import show_config

DESCRIPTION = """\
Print the version, the CPU, the instruction set in use and those available, and:

  openmp         file of the OpenMP runtime; none: one thread
  threads from   the setting or limit that gave the number of threads
  thread choice  how many parallel loops ran, how many of them took fewer threads, and why
  pool           recycled memory of large outputs
  last cache     size of the last-level cache
  streams from   total traffic of a call from which its outputs use non-temporal stores

environment:
  CREGKIT_ISA      use this instruction set instead of the best one
  OMP_NUM_THREADS  use this many threads

example:
  cregkit info
"""

_UNITS = {"last_cache": " bytes", "streams_from": " bytes"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add none."""


def run(options: argparse.Namespace) -> int:
    """Print ``show_config()``."""
    config = show_config()
    width = max(map(len, config))
    console = Console()
    for key, value in config.items():
        console.line(f"{key.replace('_', ' '):<{width}}  {_shown(value)}{_UNITS.get(key, '')}")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, dict) and value:
        return "; ".join(f"{name.replace('_', ' ')}: {_shown(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value) if value not in (None, {}) else "none"
