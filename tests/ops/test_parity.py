"""Every op against the float64 oracle: every case, shape, offset and instruction set, within the case's tolerances."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from support import arguments_of, bits, each_isa, results_of, some_shapes

from cregkit import functional, oracle
from cregkit.verify import cases
from cregkit.verify.dtypes import FLOAT32, same_bits
from cregkit.verify.inputs import Arguments
from cregkit.verify.shapes import GROUPS, Shape

CASES_AND_SHAPES = [
    pytest.param(case, shape, id=f"{case.name}-{'x'.join(map(str, shape))}")
    for case in cases.CASES
    for shape in some_shapes(case)
]


def assert_parity(case: cases.Case, arguments: Arguments) -> None:
    wanted = cases.reference(case, arguments)
    for isa in each_isa():
        got = results_of(case, arguments)
        assert got.keys() == wanted.keys(), isa
        if case.dtype != FLOAT32:
            rounded = cases.rounded_results(case, functional, arguments)
            assert all(same_bits(got[name], rounded[name]) for name in rounded), isa
        for name, share in cases.errors(case, arguments, got, wanted).items():
            assert share <= 1.0, f"{isa}: {name} is off by {share:.3g} tolerances"


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
@pytest.mark.parametrize(("case", "shape"), CASES_AND_SHAPES)
def test_every_op_agrees_with_the_oracle(case: cases.Case, shape: Shape, offset: float) -> None:
    assert_parity(case, arguments_of(case, shape, offset))


OPTIONAL = ("gamma", "beta", "running_mean", "running_var", "velocity", "average")
ABSENT = [
    pytest.param(case, absent, id=f"{case.name}-without-{'-'.join(absent)}")
    for case in cases.CASES
    for given in [[name for name in OPTIONAL if name in inspect.signature(getattr(oracle, case.op)).parameters]]
    for absent in ([[name] for name in given] if len(given) < 2 else [*([name] for name in given), given])
]


@pytest.mark.parametrize(("case", "absent"), ABSENT)
def test_every_op_agrees_with_the_oracle_without_optional_arguments(case: cases.Case, absent: list[str]) -> None:
    for shape in (case.shapes[1], case.shapes[-1]):
        arguments = arguments_of(case, shape) | dict.fromkeys(absent)
        if "velocity" in absent:
            arguments["momentum"] = 0.0
        if "gamma" in absent:
            arguments.pop("gain_offset", None)
        assert_parity(case, arguments)


def test_without_gamma_its_gradients_are_none() -> None:
    x = np.ones((3, 5), np.float32)
    rows, channels = np.ones(3), np.ones(5)
    assert functional.layer_norm_backward(x, x, rows, rows)[1:] == (None, None)
    assert functional.rms_norm_backward(x, x, rows)[1] is None
    assert functional.batch_norm_backward(x, x, channels, channels)[1:] == (None, None)
    assert functional.group_norm_backward(x, x, np.ones((3, 1)), np.ones((3, 1)))[1:] == (None, None)
    assert functional.instance_norm_backward(x, x, np.ones((3, 5)), np.ones((3, 5)))[1:] == (None, None)
    assert functional.ghost_batch_norm_backward(x, x, 2, np.ones((2, 5)), np.ones((2, 5)))[1:] == (None, None)
    given = channels.astype(np.float32)
    assert functional.batch_norm_inference_backward(x, x, given, given)[1:] == (None, None)


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize(
    "case", [case for case in cases.CASES if case.op.endswith("batch_norm_forward")], ids=lambda c: c.name
)
def test_running_statistics_agree_with_the_oracle(case: cases.Case, unbiased: bool, momentum: float) -> None:
    for shape in case.shapes:
        assert_parity(case, arguments_of(case, shape, 3.0) | {"unbiased": unbiased, "momentum": momentum})


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(
    "case", [case for case in cases.CASES if case.op == "instance_norm_forward"], ids=lambda c: c.name
)
def test_running_statistics_of_instances_agree_with_the_oracle(case: cases.Case, momentum: float) -> None:
    for shape in case.shapes:
        assert_parity(case, arguments_of(case, shape, 3.0) | {"momentum": momentum})


@pytest.mark.parametrize("num_groups", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize(
    "case", [case for case in cases.CASES if case.op == "group_norm_forward"], ids=lambda c: c.name
)
def test_any_number_of_groups_agrees_with_the_oracle(case: cases.Case, num_groups: int) -> None:
    for shape in ((3, 12), (2, 12, 49), (2, 12, 64), (2, 12, 65)):
        x = np.moveaxis(np.empty(shape), 1, 1 if case.shapes is GROUPS else -1)
        assert_parity(case, arguments_of(case, x.shape, 3.0) | {"num_groups": num_groups})


@pytest.mark.parametrize("channel_axis", [1, -1])
def test_instance_norm_has_the_bits_of_group_norm_with_a_group_per_channel(channel_axis: int) -> None:
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 3, 9, 9)).astype(np.float32)
    gamma, beta = rng.standard_normal((2, 9)).astype(np.float32)
    layout = {"channel_axis": channel_axis}
    group = functional.group_norm_forward(x, 9, gamma, beta, **layout)
    instance = functional.instance_norm_forward(x, gamma, beta, **layout)
    assert bits(dict(enumerate(instance))) == bits(dict(enumerate(group)))
    assert bits({0: functional.instance_norm(x, gamma, beta, **layout)}) == bits({0: group[0]})
    gradients = [
        getattr(functional, f"{op}_norm_backward")(dy, x, *group[1:], gamma, **layout) for op in ("group", "instance")
    ]
    assert bits(dict(enumerate(gradients[0]))) == bits(dict(enumerate(gradients[1])))


@pytest.mark.parametrize("unbiased", [None, 0.0, 0.5, 2, "", np.True_])
def test_unbiased_is_taken_by_its_truth_value(unbiased: object) -> None:
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    running = [np.ones(2, np.float32) for _ in range(2)]
    for variance, flag in zip(running, (unbiased, bool(unbiased)), strict=True):
        functional.batch_norm_forward(x, running_var=variance, unbiased=flag)  # type: ignore[arg-type]
    np.testing.assert_array_equal(*running)


@pytest.mark.parametrize(
    ("op", "changes"),
    [
        ("sgd_step", {"weight_decay": 0.0, "momentum": 0.0}),
        ("sgd_step", {"lr": 0.0}),
        ("adamw_step", {"step": 1, "m": None, "v": None}),
        ("adamw_step", {"step": 100_000, "betas": (0.5, 0.99), "eps": 1e-3, "weight_decay": 0.0}),
        ("adamw_step", {"betas": (0.0, 0.0), "lr": 0.0}),
    ],
)
def test_optimizer_steps_at_other_settings_agree_with_the_oracle(op: str, changes: dict[str, Any]) -> None:
    for case in (case for case in cases.CASES if case.op == op):
        arguments = arguments_of(case, (4097,))
        zeros = {name: np.zeros_like(arguments["w"]) for name, value in changes.items() if value is None}
        assert_parity(case, arguments | changes | zeros)


@pytest.mark.parametrize("op", ["sgd_step", "adamw_step"])
@pytest.mark.parametrize("offset", [0.0, -3.0, 1e3])
def test_optimizer_steps_whose_terms_cancel_agree_with_the_oracle(op: str, offset: float) -> None:
    """An array of one weight: the result can be far smaller than its terms."""
    for case in (case for case in cases.CASES if case.op == op):
        for seed in range(50):
            arguments = case.arguments((1,), np.random.default_rng(seed), offset)
            assert_parity(case, arguments | {"lr": 1.0, "weight_decay": 1.0})


@pytest.mark.parametrize("op", ["layer_norm_backward", "rms_norm_backward"])
def test_gradients_that_cancel_agree_with_the_oracle(op: str) -> None:
    """With one column, the scale of the error is that of the sum over the rows."""
    for case in (case for case in cases.FLOAT32_CASES if case.op == op):
        for seed in range(300):
            assert_parity(case, case.arguments((31, 1), np.random.default_rng(seed), -3.0))


def test_every_op_has_a_case() -> None:
    assert {case.op for case in cases.CASES} == set(functional.__all__)


def test_functional_and_oracle_have_the_same_names() -> None:
    assert functional.__all__ == oracle.__all__


@pytest.mark.parametrize("op", functional.__all__)
def test_functional_and_oracle_have_the_same_signature(op: str) -> None:
    wanted, got = (inspect.signature(getattr(namespace, op)).parameters.values() for namespace in (oracle, functional))
    assert [(p.name, p.kind, p.default) for p in got] == [(p.name, p.kind, p.default) for p in wanted]
    assert getattr(functional, op).__doc__
