"""A change of the public names, their signatures or the command's options is a decision: it changes a listing.

To write the listing, run tests/helpers/public_names.py, and name the change in CHANGELOG.md.
"""

from __future__ import annotations

import importlib

import public_names
import pytest


@pytest.mark.parametrize("room", public_names.ROOMS)
def test_the_public_names_and_signatures_are_those_of_the_listing(room: str) -> None:
    try:
        importlib.import_module(room)
    except ImportError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(f"{room} needs an optional package: {error}")
    deeper = tuple(f"{other}." for other in public_names.ROOMS if other.startswith(f"{room}."))
    stored = [line for line in public_names.stored() if line.startswith(f"{room}.") and not line.startswith(deeper)]
    found = [line for line in public_names.names(room) if not line.startswith(deeper)]
    assert found == stored


def test_the_options_of_the_command_are_those_of_the_listing() -> None:
    assert public_names.options() == [line for line in public_names.stored() if line.startswith("cregkit ")]
