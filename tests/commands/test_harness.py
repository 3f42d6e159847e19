"""The checks themselves: every kind of wrong result fails."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support import ISAS, OPS, Array, arguments_of, each_case, needs_openmp, results_of

from cregkit import functional
from cregkit.commands import check
from cregkit.kernels import _runtime, _threads
from cregkit.verify import cases, parity
from cregkit.verify.dtypes import DTYPES, bfloat16, same_bits
from cregkit.verify.shapes import Shape
from cregkit.verify.tolerances import NORMALISED, Tolerance, share_of_tolerance


def set_one(value: float) -> Callable[[Array, float], Array]:
    def corrupt(result: Array, step: float) -> Array:
        result.flat[result.size // 2] = value
        return result

    return corrupt


def off_by_three_tolerances(result: Array, step: float) -> Array:
    wide = result.astype(np.float64)
    wide.flat[result.size // 2] += 3 * step
    return wide


CORRUPTIONS: dict[str, Callable[[Array, float], Any]] = {
    "one element is off": off_by_three_tolerances,
    "one NaN": set_one(np.nan),
    "one Inf": set_one(np.inf),
    "rows swapped": lambda result, step: result[::-1].copy(),
    "transposed": lambda result, step: result.T,
    "one element more": lambda result, step: np.append(result, result[-1:], axis=0),
    "flat": lambda result, step: result[np.newaxis],
    "all zeros": lambda result, step: np.zeros_like(result),
    "the wrong sign": lambda result, step: -result,
}


def shape_of(case: cases.Case) -> Shape:
    return next(shape for shape in case.shapes if len(shape) > 1 and min(shape) > 1)


def tolerance_of(case: cases.Case, name: str) -> Tolerance:
    return {**case.outputs, **case.changed}[name]


@pytest.mark.parametrize("how", CORRUPTIONS)
@each_case
def test_corrupted_results_fail(case: cases.Case, how: str) -> None:
    arguments = arguments_of(case, shape_of(case))
    wanted, clean = cases.reference(case, arguments), results_of(case, arguments)
    assert max(cases.errors(case, arguments, clean, wanted).values()) <= 1.0
    for name, value in clean.items():
        if value.dtype == np.bool_ or value.ndim == 0:
            continue
        tolerance = tolerance_of(case, name)
        step = tolerance.bound * tolerance.scale(arguments, wanted[name])
        corrupted = CORRUPTIONS[how](value.copy(), step)
        if corrupted.shape == value.shape and np.array_equal(corrupted, value):
            continue  # the result is symmetric
        assert not cases.errors(case, arguments, clean | {name: corrupted}, wanted)[name] <= 1.0, name


@each_case
def test_missing_results_fail(case: cases.Case) -> None:
    arguments = arguments_of(case, shape_of(case))
    wanted, clean = cases.reference(case, arguments), results_of(case, arguments)
    for name in wanted:
        without = {key: value for key, value in clean.items() if key != name}
        assert cases.errors(case, arguments, without, wanted)[name] == np.inf


def test_one_wrong_dropout_decision_fails() -> None:
    case = OPS["dropout_keep"]
    arguments = arguments_of(case, (1000,))
    wanted, clean = cases.reference(case, arguments), results_of(case, arguments)
    clean["keep"][500] ^= True
    assert cases.errors(case, arguments, clean, wanted)["keep"] == np.inf


@pytest.mark.parametrize("factor", [1 + 1e-6, -1.0, 0.0, np.nan, np.inf])
def test_a_wrong_penalty_fails(factor: float) -> None:
    case = OPS["l2_penalty"]
    arguments = arguments_of(case, (1000,))
    wanted, clean = cases.reference(case, arguments), results_of(case, arguments)
    assert not cases.errors(case, arguments, {"penalty": clean["penalty"] * factor}, wanted)["penalty"] <= 1.0


WITH_NAN_AND_INF = np.array([np.nan, np.inf, 1.0])


def test_nan_and_inf_where_they_are_wanted_pass() -> None:
    assert share_of_tolerance(WITH_NAN_AND_INF.copy(), WITH_NAN_AND_INF, NORMALISED, {}) == 0.0


@pytest.mark.parametrize(
    "got", [[0.0, np.inf, 1.0], [np.nan, -np.inf, 1.0], [np.nan, np.inf, np.nan], [np.inf, np.nan, 1.0]]
)
def test_nan_or_inf_elsewhere_fails(got: list[float]) -> None:
    assert share_of_tolerance(np.array(got), WITH_NAN_AND_INF, NORMALISED, {}) == np.inf


each_16_bit_dtype = pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)


@each_16_bit_dtype
def test_the_rounding_of_a_16_bit_result_is_no_error_but_one_unit_more_is(dtype: np.dtype[Any]) -> None:
    wanted = np.random.default_rng(0).standard_normal(1000)
    rounded = wanted.astype(dtype)
    assert share_of_tolerance(rounded, wanted, NORMALISED, {}) == 0.0
    neighbour = (rounded.view(np.uint16) + 1).view(dtype)
    assert share_of_tolerance(neighbour, wanted, NORMALISED, {}) > 1.0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_bits_are_those_of_every_number_but_nan(dtype: np.dtype[Any]) -> None:
    a = np.array([np.nan, 0.0, 1.0], dtype)
    bits = a.view(f"u{dtype.itemsize}")
    assert same_bits(a, a.copy())
    for position, bit, same in ((0, 0, True), (1, 8 * dtype.itemsize - 1, False), (2, 0, False)):
        other = bits.copy()
        other[position] ^= 1 << bit
        assert same_bits(other.view(dtype), a) == same
    assert not same_bits(a, np.array([0.0, np.nan, 1.0], dtype))
    assert not same_bits(a, a[:2])
    assert not same_bits(a, a.astype(np.float64))


# ---- parity.check ----


@pytest.fixture
def one_small_case(monkeypatch: pytest.MonkeyPatch) -> cases.Case:
    case = OPS["layer_norm"]
    small = replace(case, shapes=((3, 17), (5, 64)))
    monkeypatch.setattr(cases, "CASES", (small,))
    return small


def test_check_passes_a_right_op(one_small_case: cases.Case) -> None:
    results = list(parity.check(threads=(1, 2)))
    assert [(r.case, r.isa, r.threads) for r in results] == [("layer_norm", isa, n) for isa in ISAS for n in (1, 2)]
    assert all(r.passed and 0.0 < r.worst <= 1.0 and r.same_bits for r in results)


def broken(change: Callable[[Array], None], when: Callable[[], bool]) -> Callable[..., Array]:
    """layer_norm with its result changed whenever `when()` is true."""
    right = functional.layer_norm

    def layer_norm(**arguments: Any) -> Array:
        y = right(**arguments)
        if when():
            change(y)
        return y

    return layer_norm


def add_to_one(y: Array) -> None:
    y[-1, -1] += 1e-4


def spoil_one(y: Array) -> None:
    y[0, 0] = np.nan


@pytest.mark.parametrize("change", [add_to_one, spoil_one])
def test_check_fails_a_wrong_op(
    one_small_case: cases.Case, monkeypatch: pytest.MonkeyPatch, change: Callable[[Array], None]
) -> None:
    monkeypatch.setattr(functional, "layer_norm", broken(change, lambda: True))
    results = list(parity.check(threads=(1, 2)))
    assert results
    for result in results:
        assert not result.passed
        assert not result.worst <= 1.0
        assert result.where.startswith("y (")


def flip_lowest_bit(y: Array) -> None:
    y.view(np.uint32)[-1, -1] ^= 1


@pytest.mark.parametrize("isa", ISAS[1:])
def test_check_fails_one_changed_bit_of_one_isa(
    one_small_case: cases.Case, monkeypatch: pytest.MonkeyPatch, isa: str
) -> None:
    monkeypatch.setattr(functional, "layer_norm", broken(flip_lowest_bit, lambda: _runtime.current_isa() == isa))
    for result in parity.check(threads=(1,)):
        assert result.worst <= 1.0
        assert result.same_bits == result.passed == (result.isa != isa)


def test_check_fails_a_16_bit_result_that_is_not_the_rounded_one_of_float32(
    one_small_case: cases.Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "CASES", (one_small_case.stored_as(np.dtype(np.float16)),))
    assert all(result.passed for result in parity.check(threads=(1,)))
    right = functional.layer_norm

    def layer_norm(**arguments: Any) -> Array:
        y = right(**arguments)
        if y.dtype == np.float16:
            y.view(np.uint16)[-1, -1] ^= 1
        return y

    monkeypatch.setattr(functional, "layer_norm", layer_norm)
    assert not any(result.same_bits for result in parity.check(threads=(1,)))


def test_check_says_that_bfloat16_was_left_out(
    one_small_case: cases.Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.run(argparse.Namespace()) == 0
    assert ("bfloat16 was not checked" in capsys.readouterr().out) == (bfloat16() is None)
    monkeypatch.setattr(check, "bfloat16", lambda: None)
    assert check.run(argparse.Namespace()) == 0
    assert "bfloat16 was not checked: ml_dtypes is not installed\n" in capsys.readouterr().out


@needs_openmp
def test_check_fails_one_changed_bit_of_one_thread_count(
    one_small_case: cases.Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functional, "layer_norm", broken(flip_lowest_bit, lambda: _threads.get_num_threads() == 3))
    assert [result.passed for result in parity.check(isas=["scalar"], threads=(1, 2, 3))] == [True, True, False]


def test_check_restores_the_isa(one_small_case: cases.Case) -> None:
    before = _runtime.current_isa()
    results = parity.check(threads=(1,))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert _runtime.current_isa() == before
    list(parity.check(threads=(1,)))
    assert _runtime.current_isa() == before
