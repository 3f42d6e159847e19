"""Random calls of every op: the result is the oracle's, or an error leaves every array unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support import OPS_WITH_OUT, Array, arrays_in, bits, each_isa, first_of, lacks_variance

from cregkit import functional
from cregkit.kernels import _threads
from cregkit.verify import cases
from cregkit.verify.dtypes import FLOAT32, same_bits
from cregkit.verify.inputs import Arguments
from cregkit.verify.shapes import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    COLUMNS,
    GROUPS,
    GROUPS_LAST,
    IMAGES,
    IMAGES_LAST,
    MAPS,
    MATRICES,
    PLANES,
    Shape,
)

PLACEMENTS = ("dense", "strided", "reversed", "float64", "misaligned", "read-only")


def in_memory(array: Array, how: str, position: int) -> Array:
    """A copy that starts `position` elements into a larger memory, or one that ops must refuse."""
    memory = np.zeros(array.size + position + 1, array.dtype)
    dense = memory[position : position + array.size].reshape(array.shape)
    dense[...] = array
    if how == "strided" and array.ndim:
        return np.repeat(dense, 2, axis=-1)[..., ::2]
    if how == "reversed":
        return np.flip(dense.copy())
    if how == "float64":
        return dense.astype(np.float32 if array.dtype == np.float64 else np.float64)
    if how == "misaligned":
        moved = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
        moved[...] = array
        return moved
    if how == "read-only":
        dense.setflags(write=False)
    return dense


def shapes(case: cases.Case) -> st.SearchStrategy[Shape]:
    sizes = st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 257]))
    ranks = {
        PLANES: (3, 4),
        CHANNELS_LAST: (3, 4),
        CHANNELS_FIRST: (2, 4),
        COLUMNS: (2, 2),
        MAPS: (2, 4),
        GROUPS: (2, 4),
        GROUPS_LAST: (2, 4),
        MATRICES: (2, 4),
    }
    if case.shapes in (IMAGES, IMAGES_LAST):
        return image_shapes(case.shapes is IMAGES_LAST)
    low, high = ranks.get(case.shapes, (1, 4))
    drawn = st.lists(sizes, min_size=low, max_size=high).map(tuple)
    return drawn.filter(lambda shape: np.prod(shape) <= 40_000 and not lacks_variance(case, shape))


def image_shapes(channels_last: bool) -> st.SearchStrategy[Shape]:
    sizes, channels = st.integers(1, 40), st.sampled_from([1, 3])
    sides = (sizes, sizes, channels) if channels_last else (channels, sizes, sizes)
    return st.tuples(st.integers(1, 6), *sides)


# Smaller rates have products below the normal range of float32.
rate = st.one_of(st.just(0.0), st.floats(1e-9, 1))
NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    "eps": st.one_of(st.sampled_from([0.0, 1e-12, 1e-5, 0.1, 10.0]), st.floats(0, 1)),
    "p": st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0**-16, 1 - 2.0**-16]), st.floats(0, 1)),
    "seed": st.integers(0, 2**64 - 1),
    "offset": st.integers(0, 2**63),
    "weight_decay": rate,
    "lr": rate,
    "step": st.integers(1, 10**6),
}
# Fused ops: these p scale exactly, so that the oracle adds the same numbers to the residual.
EXACT_P = st.sampled_from([0.0, 0.5])


@given(st.data())
def test_any_call_is_right_or_refused(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(cases.CASES), "case")
    shape = data.draw(shapes(case), "shape")
    offset = data.draw(st.sampled_from([0.0, 1.0, -3.0, 1e3]), "offset of the data")
    arguments = case.arguments(shape, rng(data.draw(st.integers(0, 2**32), "data")), offset)
    numbers = NUMBERS | ({"p": EXACT_P} if "residual" in arguments else {})
    if "seed" not in arguments:
        numbers = {name: strategy for name, strategy in numbers.items() if name != "p"}
    for name in numbers.keys() & arguments.keys():
        if "backward" not in case.op or name in ("p", "seed", "offset"):
            arguments[name] = data.draw(numbers[name], name)
    wanted = cases.reference(case, arguments)

    how = {name: data.draw(st.sampled_from(("dense",) * 9 + PLACEMENTS), name) for name in arrays_in(arguments)}
    positions = {name: data.draw(st.integers(0, 17)) for name in how}
    threads = data.draw(st.integers(1, 5), "threads")
    out = data.draw(st.sampled_from(["new", "given", "in place"]), "out") if case.op in OPS_WITH_OUT else "new"
    results = []
    for _ in each_isa():
        given_arrays = {name: in_memory(arguments[name], how[name], positions[name]) for name in how}
        results.append(one_call(case, arguments | given_arrays, out, threads))
        if results[-1] is None:
            assert any(kind != "dense" for kind in how.values())
            assert bits(given_arrays) == bits({n: in_memory(arguments[n], how[n], 0) for n in how})
    if results[0] is None:
        assert results == [None] * len(results)
        return
    assert all(same_bits(result[name], results[0][name]) for result in results[1:] for name in results[0])
    shares = cases.errors(case, arguments, results[0], wanted)
    assert max(shares.values()) <= 1.0, shares
    if case.dtype != FLOAT32:
        rounded = cases.rounded_results(case, functional, arguments)
        assert all(same_bits(results[0][name], rounded[name]) for name in rounded)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def one_call(case: cases.Case, arguments: Arguments, out: str, threads: int) -> dict[str, Array] | None:
    """Results and changed arguments by name; None if the op refused the call."""
    leading = next(name for name in ("x", "dy", "w", "shape", "index") if name in arguments)
    extra = {}
    if out == "given":
        extra["out"] = np.full_like(arguments[leading], np.nan, order="C", subok=False)
    elif out == "in place":
        extra["out"] = arguments[leading]
    try:
        with _threads.exact_threads(threads):
            returned = getattr(functional, case.op)(**arguments, **extra)
    except (TypeError, ValueError):
        return None
    if extra:
        assert first_of(returned) is extra["out"]
    values = returned if isinstance(returned, tuple) else (returned,)
    results = {name: np.asarray(value) for name, value in zip(case.outputs, values, strict=False) if value is not None}
    return {**results, **{name: arguments[name] for name in case.changed}}
