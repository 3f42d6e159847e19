"""PyTorch's samples of these ops and modules: results and gradients against float64, and its error cases."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")

import torch.nn.functional as F  # noqa: E402
from torch_support import assert_close, fresh, module_results_of, results_of, twins  # noqa: E402

from cregkit.torch import functional  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the module warns of a deprecated module that it imports
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

OPS = {op.name.rpartition(".")[2]: op for op in op_db if op.name.rpartition(".")[2] in functional.__all__}
NORMS = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]
MODULES = [info for info in module_db if hasattr(__import__("cregkit.torch").torch, info.module_cls.__name__)]

DTYPES = [torch.float32, torch.float64]


def test_every_module_with_a_kernel_has_samples():
    assert {*OPS} == {*NORMS, "dropout", "dropout2d"}  # PyTorch has none for dropout1d
    assert {info.module_cls.__name__ for info in MODULES} == {
        "BatchNorm1d", "BatchNorm2d", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "LayerNorm",
        "RMSNorm", "MultiheadAttention", "TransformerEncoderLayer",
    }  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NORMS)
def test_norms_have_the_results_of_pytorch_on_its_samples(name, dtype, kernel_calls):
    """Kernels in float32 against PyTorch in float64."""
    for sample in OPS[name].sample_inputs("cpu", dtype, requires_grad=True):
        arguments = (sample.input, *sample.args), sample.kwargs
        ours = results_of(getattr(functional, name), arguments, dtype)
        assert ours[0].dtype is dtype
        assert_close(ours, results_of(getattr(F, name), arguments, torch.float64))
    kernel = "group_norm" if name == "instance_norm" else name
    assert (f"{kernel}_backward" in kernel_calls) == (dtype is torch.float32)


@pytest.mark.parametrize("name", ["dropout", "dropout2d"])
def test_dropout_drops_or_scales_on_the_samples_of_pytorch(name, kernel_calls):
    """Each element and its gradient is 0 or scaled, and unchanged where PyTorch does not change it."""
    for sample in OPS[name].sample_inputs("cpu", torch.float32, requires_grad=True):
        (x,) = fresh([sample.input])
        p, training = sample.kwargs.get("p", 0.5), sample.kwargs.get("training", True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's, for 3-D and 5-D inputs of dropout2d
            y = getattr(functional, name)(x, *sample.args, **sample.kwargs)
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y)) if y.requires_grad else (torch.ones_like(y),)
        if not training:
            assert torch.equal(y, x)
            continue
        kept = dx != 0
        assert torch.equal(y, torch.where(kept, x * dx, 0.0))
        assert torch.allclose(dx[kept], torch.tensor(1 / (1 - p) if p < 1 else 0.0), rtol=1e-6)
        assert p > 0 or bool(kept.all())
    assert {"dropout", "spatial_dropout"} & {*kernel_calls}


@pytest.mark.parametrize("name", OPS)
def test_error_samples_raise_the_errors_of_pytorch(name, kernel_calls):
    """PyTorch's error samples raise the same errors."""
    for case in OPS[name].error_inputs("cpu") if OPS[name].error_inputs_func else ():
        sample = case.sample_input
        with pytest.raises(case.error_type, match=case.error_regex):
            getattr(functional, name)(sample.input, *sample.args, **sample.kwargs)


def test_wrong_arguments_raise_the_errors_of_pytorch(kernel_calls):
    """Wrong arguments for which PyTorch has no sample."""
    x = torch.randn(4, 6, 5)
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("dropout", (x, 1.5), {}),
        ("dropout", (x, -0.1), {}),
        ("dropout", (torch.ones(3, dtype=torch.int64),), {}),
        ("dropout", (x.clone().requires_grad_(),), {"inplace": True}),
        ("dropout1d", (x, 2.0), {}),
        ("dropout1d", (torch.randn(2, 3, 4, 5),), {}),
        ("dropout2d", (x[None], 2.0), {}),
        ("batch_norm", (x[:1, :, :1], None, None), {"training": True}),
        ("batch_norm", (x, None, None), {"training": False}),
        ("batch_norm", (x, None, None), {"training": True, "eps": 0.0}),
        ("batch_norm", (x, torch.zeros(5), torch.ones(5)), {"training": True}),
        ("batch_norm", (x, torch.zeros(6), None), {"training": True}),
        ("batch_norm", (x, None, None, torch.ones(5)), {"training": True}),
        ("batch_norm", (x, None, None, torch.ones(6, dtype=torch.float64)), {"training": True}),
        ("group_norm", (x, 4), {}),
        ("group_norm", (x, 0), {}),
        ("group_norm", (x, -2), {}),
        ("group_norm", (x, 2, torch.ones(5)), {}),
        ("group_norm", (x[0, 0], 1), {}),
        ("group_norm", (x[:1, :, 0], 6), {}),
        ("instance_norm", (x[:, :, :1],), {}),
        ("instance_norm", (x, None, None, torch.ones(5)), {}),
        ("instance_norm", (x, torch.zeros(6), None), {"use_input_stats": False}),
        ("layer_norm", (x, (6,)), {}),
        ("layer_norm", (x, ()), {}),
        ("layer_norm", (x, (5,), torch.ones(6)), {}),
        ("layer_norm", (x, (4, 6, 5, 1)), {}),
        ("rms_norm", (x, (6,)), {}),
        ("rms_norm", (x, (5,), torch.ones(6)), {}),
    ]
    outcomes = [(outcome(F, *call), outcome(functional, *call)) for call in calls]
    assert [ours for _, ours in outcomes] == [stock for stock, _ in outcomes]
    assert sum(stock is not None for stock, _ in outcomes) >= 26


def outcome(module: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[type, str] | None:
    """The error of a call, or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            getattr(module, name)(*args, **kwargs)
        except Exception as error:
            return type(error), str(error)
    return None


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("info", MODULES, ids=lambda info: info.module_cls.__name__)
def test_modules_have_the_results_of_pytorch_on_its_samples(info, training, kernel_calls):
    """Outputs, gradients and state of a converted module against PyTorch in float64."""
    for case in info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=True, training=training):
        stock = info.module_cls(*case.constructor_input.args, **case.constructor_input.kwargs).train(training)
        if case.forward_input is None:
            continue
        arguments = case.forward_input.args, case.forward_input.kwargs
        ours, exact = twins(stock)
        assert_close(
            module_results_of(ours, arguments, torch.float32), module_results_of(exact, arguments, torch.float64)
        )
    assert bool(kernel_calls) == (info.module_cls.__name__ != "MultiheadAttention")
