"""Philox against its published vectors and a scalar implementation."""

from __future__ import annotations

import numpy as np
import pytest
from random_words import words_of_one_counter

from cregkit.oracle.philox import philox4x32_10

# Counter, key and output words, from the kat_vectors file of Random123 (Salmon et al. 2011).
KNOWN_ANSWERS = {
    "zeros": (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    "ones": (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}


@pytest.mark.parametrize("case", KNOWN_ANSWERS)
def test_words_are_the_published_ones(case: str) -> None:
    counter, key, words = KNOWN_ANSWERS[case]
    answer = philox4x32_10(np.array(counter, dtype=np.uint32), np.array(key, dtype=np.uint32))
    assert answer.dtype == np.uint32
    assert answer.tolist() == list(words)
    assert words_of_one_counter(counter, key) == list(words)


def test_counters_and_keys_broadcast() -> None:
    counters = np.array([counter for counter, _, _ in KNOWN_ANSWERS.values()], dtype=np.uint32)
    keys = np.array([key for _, key, _ in KNOWN_ANSWERS.values()], dtype=np.uint32)
    words = philox4x32_10(counters[:, np.newaxis], keys)
    assert words.shape == (3, 3, 4)
    for i, counter in enumerate(counters.tolist()):
        for j, key in enumerate(keys.tolist()):
            assert words[i, j].tolist() == words_of_one_counter(counter, key)
