"""The random generators on Python integers, one word at a time."""

from __future__ import annotations

from functools import cache


def words_of_one_counter(counter: tuple[int, ...], key: tuple[int, ...]) -> list[int]:
    """Philox4x32-10 on Python integers, with the key schedule written out as multiples."""
    left, right = list(counter[0::2]), list(counter[1::2])
    for step in range(10):
        products = [0xD2511F53 * left[0], 0xCD9E8D57 * left[1]]
        round_key = [(key[0] + step * 0x9E3779B9) % 2**32, (key[1] + step * 0xBB67AE85) % 2**32]
        left = [
            products[1] // 2**32 ^ right[0] ^ round_key[0],
            products[0] // 2**32 ^ right[1] ^ round_key[1],
        ]
        right = [products[1] % 2**32, products[0] % 2**32]
    return [left[0], right[0], left[1], right[1]]


def _rotated(a: int, left: int) -> int:
    return (a << left | a >> (32 - left)) % 2**32


def jsf32_words(state: tuple[int, ...], steps: int) -> list[int]:
    """The words of JSF32, as its author writes it, from the state (a, b, c, d)."""
    a, b, c, d = state
    words = []
    for _ in range(steps):
        e = (a - _rotated(b, 27)) % 2**32
        a = b ^ _rotated(c, 17)
        b = (c + d) % 2**32
        c = (d + e) % 2**32
        d = (e + a) % 2**32
        words.append(d)
    return words


@cache
def words_of_lane(number: int, seed: int) -> list[int]:
    """The 128 words of lane number % 16 of block number // 16."""
    state = words_of_one_counter((number % 2**32, number // 2**32, 0, 0), (seed % 2**32, seed // 2**32))
    return jsf32_words(tuple(state), 128)
