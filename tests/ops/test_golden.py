"""The bits of every op are those of tests/golden/, on every instruction set."""

from __future__ import annotations

import re
from collections.abc import Callable

import golden_bits
import numpy as np
import pytest

from cregkit import functional


def test_the_bits_of_every_op_are_the_golden_ones(isa: str, record_property: Callable[[str, object], None]) -> None:
    """To change them on purpose, run tests/golden/golden_bits.py and add a line marked **bits** to the CHANGELOG."""
    expected, found = golden_bits.expected(), golden_bits.found()
    record_property("inputs", len(found))
    assert {name: value for name, value in found.items() if expected.get(name) != value} == {}
    assert found.keys() == expected.keys()


def test_one_changed_bit_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_bit_flipped(*args: object, **kwargs: object) -> object:
        y = original(*args, **kwargs)
        if y.size:
            y.reshape(-1).view(np.uint8)[-1] ^= 1
        return y

    original = functional.rms_norm
    monkeypatch.setattr(functional, "rms_norm", last_bit_flipped)
    expected, found = golden_bits.expected(), golden_bits.found()
    wrong = {name for name in found if found[name] != expected[name]}
    of_op = {name for name in found if name.startswith(("rms_norm ", "rms_norm["))}
    assert wrong == {
        name for name in of_op if not re.search(r"[ x]0(x|$)", name)
    }  # an array without elements has no bit
