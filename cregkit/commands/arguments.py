"""What the subcommands share: types of arguments, and the error that ends a command in one line."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError


class CommandError(Exception):
    """A mistake in the call, told in one line."""


def count(text: str) -> int:
    """Return ``text`` as an int of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return value


def seed(text: str) -> int:
    """Return ``text`` as an int in [0, 2**64)."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**64:
        raise ArgumentTypeError(f"must be a whole number from 0 to 2**64 - 1, got {text!r}")
    return value


def number(text: str) -> float:
    """Return ``text`` as a float."""
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"must be a number, got {text!r}") from None


def duration(text: str) -> float:
    """Return a number of seconds."""
    seconds = number(text)
    if not 0.0 < seconds < math.inf:
        raise ArgumentTypeError(f"must be a positive number of seconds, got {text!r}")
    return seconds
