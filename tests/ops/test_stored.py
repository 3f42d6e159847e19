"""The contract of 16-bit tensors: the bits of the float32 op's result for the widened inputs, rounded once.

``test_parity.py``, ``test_bits.py`` and ``test_fuzz.py`` test it too, on data of the order of 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import OPS_WITH_OUT, Array, arguments_of, arrays_in, first_of, results_of

from cregkit import functional
from cregkit.kernels import _runtime, _threads
from cregkit.verify import cases
from cregkit.verify.dtypes import DTYPES, FLOAT32, same_bits
from cregkit.verify.inputs import Arguments
from cregkit.verify.shapes import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    COLUMNS,
    ELEMENTS,
    GROUPS,
    GROUPS_LAST,
    IMAGES,
    IMAGES_LAST,
    MAPS,
    MATRICES,
    PLANES,
    ROWS,
    Shape,
)

STORED = [case for case in cases.CASES if case.dtype != FLOAT32]
each_stored_case = pytest.mark.parametrize("case", STORED, ids=lambda case: case.name)
each_16_bit_dtype = pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)


def assert_rounded_once(case: cases.Case, arguments: Arguments) -> None:
    """The results are those of float32, rounded."""
    got, wanted = results_of(case, arguments), cases.rounded_results(case, functional, arguments)
    assert got.keys() == wanted.keys()
    wrong = [name for name in got if not same_bits(got[name], wanted[name])]
    assert not wrong, {name: (got[name], wanted[name]) for name in wrong}


def tensors_in(arguments: Arguments) -> dict[str, Array]:
    """The tensors among the arguments: the arrays with the shape of the first one."""
    arrays = arrays_in(arguments)
    return {name: a for name, a in arrays.items() if a.shape == first_of(tuple(arrays.values())).shape}


@np.errstate(over="ignore")
def scaled(array: Array, factor: float) -> Array:
    return (array.astype(np.float32) * np.float32(factor)).astype(array.dtype)


def tiny(array: Array, rng: np.random.Generator) -> Array:
    """Values from subnormal to normal ones."""
    return scaled(array, 1e-6 if array.dtype == np.float16 else 1e-38)


def huge(array: Array, rng: np.random.Generator) -> Array:
    """Values up to the largest; some become infinite."""
    return scaled(array, 2e4 if array.dtype == np.float16 else 1e38)


def offset(array: Array, rng: np.random.Generator) -> Array:
    return (array.astype(np.float32) + np.float32(100.0)).astype(array.dtype)


def special(array: Array, rng: np.random.Generator) -> Array:
    """NaN, infinities, zeros, the largest and the smallest numbers among others."""
    values, spoilt = np.array([0x0000, 0x8000, 0x0001, 0x8001], np.uint16).view(array.dtype), array.copy()
    values = np.append(values, np.array([np.nan, np.inf, -np.inf, 65504.0], array.dtype))
    places = rng.integers(max(1, array.size), size=array.size // 50 + 1)
    if array.size:
        spoilt.reshape(-1)[places] = rng.choice(values, len(places))
    return spoilt


@pytest.mark.parametrize("change", [tiny, huge, offset, special])
@each_stored_case
def test_any_values_give_the_rounded_results(case: cases.Case, change: Any, isa: str) -> None:
    for shape in case.shapes[2::3] if case.shapes is ROWS else case.shapes[-4:]:
        arguments, rng = arguments_of(case, shape), np.random.default_rng(0)
        assert_rounded_once(case, arguments | {name: change(a, rng) for name, a in tensors_in(arguments).items()})


LONG: dict[tuple[Shape, ...], tuple[Shape, ...]] = {
    ROWS: ((2, 9000), (17, 8200), (1, 70001), (64, 1024)),
    MATRICES: ((2, 3, 3001),),
    CHANNELS_FIRST: ((2, 2050, 3), (1, 5, 4099)),
    COLUMNS: ((130, 40), (20, 9001)),
    PLANES: ((2, 3, 8200), (70, 6, 2)),
    GROUPS: ((2, 6, 8200), (3, 1200, 2)),
    GROUPS_LAST: ((2, 4100, 6), (3, 2, 1200)),
    CHANNELS_LAST: ((2, 4100, 3), (300, 4, 8)),
}


@pytest.mark.parametrize("case", [case for case in STORED if case.shapes in LONG], ids=lambda case: case.name)
def test_long_rows_and_few_wide_ones_give_the_rounded_results(case: cases.Case, isa: str) -> None:
    for shape in LONG[case.shapes]:
        with _threads.exact_threads(5):
            assert_rounded_once(case, arguments_of(case, shape))


@pytest.mark.parametrize(
    "case",
    [case for case in STORED if "beta" in case.arguments((2, 3, 4, 4), np.random.default_rng(0), 0.0)],
    ids=lambda case: case.name,
)
def test_a_huge_bias_gives_the_rounded_results(case: cases.Case, isa: str) -> None:
    """Above 2^100, in float32: the gain alone may overflow, so gain and bias are applied in float64."""
    for shape in case.shapes[-3:]:
        arguments = arguments_of(case, shape)
        beta = np.where(np.arange(arguments["beta"].size) % 2, -2e30, 3e38).astype(np.float32)
        gamma = np.full_like(arguments["gamma"], 1e38, np.float32)
        for given in ({}, {"gamma": gamma}):
            assert_rounded_once(case, arguments | given | {"beta": beta.reshape(arguments["beta"].shape)})


@each_stored_case
def test_parameters_of_16_bits_and_of_float32_give_the_same_results(case: cases.Case) -> None:
    """Running statistics of 16 bits are those of float32, rounded once."""
    for shape in case.shapes[-2:]:
        arguments = arguments_of(case, shape)
        tensors = tensors_in(arguments)
        wide = {name: a.astype(FLOAT32) for name, a in arrays_in(arguments).items() if a.dtype == case.dtype}
        parameters = {name: a for name, a in wide.items() if name not in tensors}
        got, wanted = results_of(case, arguments), results_of(case, arguments | parameters)
        for name, value in wanted.items():
            assert value.dtype == (FLOAT32 if name in case.changed else got[name].dtype)
            assert same_bits(got[name], value.astype(got[name].dtype)), name


@pytest.mark.parametrize("case", [c for c in STORED if c.op in OPS_WITH_OUT], ids=lambda case: case.name)
def test_results_in_place_are_the_same(case: cases.Case, isa: str) -> None:
    op = getattr(functional, case.op)
    for shape in case.shapes[-2:]:
        wanted = first_of(tuple(results_of(case, arguments_of(case, shape)).values()))
        for name in ("x", "residual", "dy"):
            arguments = arguments_of(case, shape)
            if name in arguments:
                assert same_bits(first_of(op(**arguments, out=arguments[name])), wanted), (name, shape)


# Shapes of the first samples; they are repeated until the tensors exceed the size from which stores are streaming.
SAMPLES: dict[tuple[Shape, ...], Shape] = {
    ROWS: (64, 4099),
    CHANNELS_FIRST: (8, 64, 577),
    COLUMNS: (64, 4099),
    PLANES: (8, 16, 2049),
    CHANNELS_LAST: (8, 211, 151),
    GROUPS: (8, 16, 2049),
    GROUPS_LAST: (8, 211, 160),
    ELEMENTS: (64, 4099),
    MAPS: (8, 16, 2049),
    IMAGES: (8, 3, 101, 103),
    IMAGES_LAST: (8, 101, 103, 3),
}
STREAMED = [case for case in STORED if case.shapes in SAMPLES and f"{case.op}_forward" not in functional.__all__]


@pytest.mark.parametrize("case", STREAMED, ids=lambda case: case.name)
def test_streaming_stores_give_the_rounded_results(case: cases.Case) -> None:
    shape = SAMPLES[case.shapes]
    few = arguments_of(case, shape)
    times = _runtime.STREAM_BYTES // (3 * np.prod(shape)) + 1  # an input and an output have four bytes per element
    tensors, samples = tensors_in(few), shape[0]
    repeated = {
        name: np.concatenate([a] * times)
        for name, a in arrays_in(few).items()
        if name in tensors or (a.dtype == np.float64 and (a.ndim > 1 or len(a) == samples))
    }
    assert_rounded_once(case, few | repeated)


# ---- every number ----

EVERY: dict[tuple[Shape, ...], Shape] = {
    COLUMNS: (256, 256),
    PLANES: (4, 64, 256),
    CHANNELS_LAST: (4, 256, 64),
    ELEMENTS: (65536,),
    MAPS: (64, 32, 32),
    IMAGES: (4, 1, 128, 128),
    IMAGES_LAST: (4, 128, 128, 1),
}
BY_ELEMENT = [
    case
    for case in STORED
    if case.shapes in EVERY and (case.op in ("batch_norm", "batch_norm_inference_backward") or "drop" in case.op)
]


@pytest.mark.parametrize("case", BY_ELEMENT, ids=lambda case: case.name)
def test_every_number_gives_the_rounded_result(case: cases.Case, isa: str) -> None:
    arguments = arguments_of(case, EVERY[case.shapes])
    for name, tensor in tensors_in(arguments).items():
        every = np.arange(65536, dtype=np.uint16).view(case.dtype).reshape(tensor.shape)
        assert_rounded_once(case, arguments | {name: every})


@each_16_bit_dtype
def test_every_number_survives_widening_and_rounding(dtype: np.dtype[Any], isa: str) -> None:
    every = np.arange(65536, dtype=np.uint16).view(dtype)
    assert same_bits(functional.dropout(every, 0.0, seed=1), every)


@each_16_bit_dtype
def test_ties_are_rounded_to_even(dtype: np.dtype[Any], isa: str) -> None:
    """1 + k/2 units in the last place, as the mean of two neighbours: batch norm with this bias."""
    unit = float(np.spacing(dtype.type(1)))
    halves = (1.0 + unit / 2.0 * np.arange(64)).astype(np.float32)
    one = np.ones(64, np.float32)
    y = functional.batch_norm(np.zeros((2, 64), dtype), 0.0 * one, one, one, halves)
    units = np.round(np.arange(64) / 2.0)  # to even
    assert np.array_equal(y[0].astype(np.float64), 1.0 + unit * units)
