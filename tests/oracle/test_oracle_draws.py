"""Dropout's draws and decisions against a scalar implementation."""

from __future__ import annotations

import numpy as np
import pytest
from random_words import jsf32_words, words_of_lane, words_of_one_counter

from cregkit.oracle.draws import dropped, jsf32

SEED = 0x0123456789ABCDEF
# Edges of steps and blocks, and where the index and the counter outgrow 32 bits; the last ends at 2**64.
OFFSETS = [0, 1, 15, 16, 32, 4000, 4096, 1_000_003, 2**32 - 150, 2**40 - 150, 2**63 - 150, 2**64 - 300]


def bits_of_one_element(index: int, seed: int) -> tuple[int, int]:
    """The 16 deciding bits of an element and the 32 bits that settle a tie."""
    block, position = divmod(index, 4096)
    step, element = divmod(position, 32)
    word = words_of_lane(16 * block + element % 16, seed)[step]
    draw = word % 2**16 if element < 16 else word // 2**16
    tie = words_of_one_counter((index % 2**32, index // 2**32, 1, 0), (seed % 2**32, seed // 2**32))[0]
    return (draw + 2**15) % 2**16, tie


def decisions_one_by_one(size: int, p: float, seed: int, offset: int) -> list[bool]:
    """Drop where the 48 bits of an element lie below p in 48-bit fixed point."""
    threshold = round(p * 2**48)
    bits = (bits_of_one_element(offset + i, seed) for i in range(size))
    return [sixteen * 2**32 + tie < threshold for sixteen, tie in bits]


# First words after Jenkins' start from a seed, as the tests of other implementations have them: Apache Commons RNG
# (JenkinsSmallFast32Test) and randnimgulins (tjsf).
KNOWN_WORDS = {
    0xB5AD4ECE: [
        *(0x3B05DF0D, 0xC1B222B1, 0xDC38504A, 0x5A929FEE),
        *(0x695F52EE, 0x49246926, 0xEACA3AAA, 0xB7EA1598),
    ],
    0: [446393351, 2589264021, 4046186614, 151173657, 552706628],
}


@pytest.mark.parametrize("seed", KNOWN_WORDS)
def test_words_are_the_published_ones(seed: int) -> None:
    """Jenkins starts from (0xF1EA5EED, seed, seed, seed) and discards 20 words."""
    state, known = (0xF1EA5EED, seed, seed, seed), KNOWN_WORDS[seed]
    assert jsf32(np.array([state], np.uint32), 20 + len(known))[20:, 0].tolist() == known
    assert jsf32_words(state, 20 + len(known))[20:] == known


def test_words_are_those_of_a_scalar_implementation() -> None:
    states = np.random.default_rng(0).integers(0, 2**32, (5, 3, 4)).astype(np.uint32)
    words = jsf32(states, 100)
    assert words.shape == (100, 5, 3)
    for i in np.ndindex(5, 3):
        assert words[(slice(None), *i)].tolist() == jsf32_words(tuple(states[i].tolist()), 100)


@pytest.mark.parametrize("offset", OFFSETS)
def test_decisions_follow_the_layout_of_blocks(offset: int) -> None:
    assert dropped(300, 0.3, SEED, offset).tolist() == decisions_one_by_one(300, 0.3, SEED, offset)


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**64 - 1])
def test_decisions_depend_on_both_halves_of_the_seed(seed: int) -> None:
    assert dropped(1000, 0.5, seed, 0).tolist() == decisions_one_by_one(1000, 0.5, seed, 0)
    assert dropped(1000, 0.5, seed, 0).tolist() != dropped(1000, 0.5, SEED, 0).tolist()


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_tie_is_settled_by_the_next_32_bits(offset: int) -> None:
    """An element is kept where p equals its own 48 bits, and dropped where p is 2**-48 larger."""
    for i in range(0, 300, 23):
        sixteen, tie = bits_of_one_element(offset + i, SEED)
        own = sixteen * 2**32 + tie
        assert not dropped(300, own / 2**48, SEED, offset)[i]
        assert dropped(300, (own + 1) / 2**48, SEED, offset)[i]


def test_ties_among_thousands_of_elements_are_decided_one_by_one() -> None:
    """Several of 4000 elements share their first 16 bits with p; their tie words are below and above its other bits."""
    size = 4000
    bits = [bits_of_one_element(i, SEED) for i in range(size)]
    sixteens = [sixteen for sixteen, _ in bits]
    shared = max(set(sixteens), key=sixteens.count)
    ties = sorted(tie for sixteen, tie in bits if sixteen == shared)
    assert len(ties) >= 2
    between = (ties[0] + ties[-1]) // 2
    p = shared / 2**16 + between / 2**48
    decisions = dropped(size, p, SEED, 0)
    assert decisions.tolist() == decisions_one_by_one(size, p, SEED, 0)
    assert {bool(d) for d, s in zip(decisions, sixteens, strict=True) if s == shared} == {False, True}


def test_p_below_2_to_minus_16_is_decided_by_the_tie_bits() -> None:
    """A drop needs 16 zero bits, then a tie word below the other bits of p."""
    size = 300_000
    zeros = np.flatnonzero(dropped(size, 2.0**-16, SEED, 0)).tolist()
    bits = [bits_of_one_element(i, SEED) for i in zeros]
    assert len(zeros) >= 2
    assert all(sixteen == 0 for sixteen, _ in bits)
    ties = sorted(tie for _, tie in bits)
    between = (ties[0] + ties[-1]) // 2
    expected = [i for i, (_, tie) in zip(zeros, bits, strict=True) if tie < between]
    assert np.flatnonzero(dropped(size, between / 2**48, SEED, 0)).tolist() == expected


def test_p_is_rounded_to_48_bits_half_to_even() -> None:
    """p is half a step above the bits of an element: it rounds up, and drops it, only if they are odd."""
    parities = set()
    for i in range(32):
        sixteen, tie = bits_of_one_element(i, SEED)
        own = sixteen * 2**32 + tie
        assert dropped(32, (own + 0.5) / 2**48, SEED, 0)[i] == (own % 2 == 1)
        parities.add(own % 2)
    assert parities == {0, 1}


def test_zero_drops_nothing_and_one_everything() -> None:
    assert not dropped(100_000, 0.0, SEED, 0).any()
    assert not dropped(100_000, 2.0**-50, SEED, 0).any()
    assert dropped(100_000, 1.0, SEED, 0).all()
    assert dropped(100_000, 1.0 - 2.0**-53, SEED, 0).all()


def test_zero_elements_give_an_empty_mask() -> None:
    assert dropped(0, 0.5, SEED, 0).shape == (0,)
    assert dropped(0, 0.5, SEED, 77).shape == (0,)


@pytest.mark.parametrize("p", [2.0**-10, 0.1, 0.5, 0.9])
def test_the_share_of_dropped_elements_is_p(p: float) -> None:
    """The count of drops among n is binomial: within five standard deviations of n * p."""
    n = 1_000_000
    count = int(dropped(n, p, SEED, 0).sum())
    assert abs(count - n * p) <= 5 * (n * p * (1 - p)) ** 0.5
