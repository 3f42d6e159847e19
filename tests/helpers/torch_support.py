"""Shared by the tests of cregkit.torch; to be imported after ``pytest.importorskip("torch")``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cregkit.torch import bridge, convert, usage

# What PyTorch lacks in older releases.
resizable = pytest.mark.skipif(
    bridge.memory is Tensor.numpy, reason="this PyTorch cannot resize a tensor whose memory NumPy has read"
)
kernels_in_graphs = pytest.mark.skipif(
    not hasattr(torch.compiler, "is_exporting"), reason="graphs of this PyTorch have its own ops"
)
pickles = pytest.mark.filterwarnings("ignore:You are using `torch.load`:FutureWarning")  # PyTorch 2.4 warns of itself


def tensors_in(values: Any) -> list[Tensor]:
    """Every tensor in nested tuples, lists and dicts, in order."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    return [x for value in values for x in tensors_in(value)] if hasattr(values, "__iter__") and values != "" else []


def mapped(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same tuples, lists and dicts with ``change`` applied to every tensor."""
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, dict):
        return {key: mapped(value, change) for key, value in values.items()}
    if type(values) in (tuple, list):
        return type(values)(mapped(value, change) for value in values)
    return values


def fresh(values: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Leaf copies of these tensors with the same requires_grad; floating ones in ``dtype``."""

    def leaf(x: Tensor) -> Tensor:
        y = x.detach().clone(memory_format=torch.preserve_format)
        return (y.to(dtype) if y.is_floating_point() else y).requires_grad_(x.requires_grad)

    return mapped(values, leaf)


def gradients_of(outputs: Any, inputs: list[Tensor]) -> list[Tensor | None]:
    """Gradients of fixed random combinations of the outputs; the factors are exact in every dtype."""
    ys = [y for y in tensors_in(outputs) if y.requires_grad]
    generator = torch.Generator().manual_seed(7)
    dys = [torch.randn(y.shape, generator=generator, dtype=torch.float64).bfloat16().to(y.dtype) for y in ys]
    wanted = [x for x in inputs if x.requires_grad]
    return list(torch.autograd.grad(ys, wanted, dys, allow_unused=True)) if ys and wanted else []


def results_of(op: Callable[..., Any], arguments: Any, dtype: torch.dtype) -> list[Tensor | None]:
    """Outputs, gradients and running statistics of a call with copies of ``(args, kwargs)`` in a dtype."""
    args, kwargs = fresh(arguments, dtype)
    y = op(*args, **kwargs)
    inputs = tensors_in((args, kwargs))
    return [*tensors_in(y), *gradients_of(y, inputs), *(x for x in inputs if not x.requires_grad)]


def module_results_of(module: nn.Module, arguments: Any, dtype: torch.dtype) -> list[Tensor | None]:
    """Outputs, gradients and buffers of a module called with copies of ``(args, kwargs)`` in a dtype."""
    args, kwargs = fresh(arguments, dtype)
    y = module(*args, **kwargs)
    return [*tensors_in(y), *gradients_of(y, [*tensors_in((args, kwargs)), *module.parameters()]), *module.buffers()]


def assert_close(found: Any, expected: Any, tolerance: float = 2e-5) -> None:
    """Compare float32 with float64 results: errors are relative to the largest magnitude of a tensor, or to 1."""
    assert len(found) == len(expected)
    for f, e in zip(found, expected, strict=True):
        assert (f is None) == (e is None)
        if f is None:
            continue
        assert f.shape == e.shape
        if f.numel():
            scale = max(1.0, float(e.detach().abs().nan_to_num(0.0, 0.0, 0.0).max()))
            torch.testing.assert_close(
                f.detach().double(), e.detach().double(), rtol=0, atol=tolerance * scale, equal_nan=True
            )


def twins(module: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A converted copy in float32, and an unconverted one in float64."""
    return convert(copy.deepcopy(module)), copy.deepcopy(module).double()


class Taken:
    """Counts the calls that kernels take within the block."""

    def __init__(self, *ops: str) -> None:
        self.ops = ops

    def __enter__(self) -> Taken:
        self.before = usage()
        return self

    def __exit__(self, *exception: object) -> None:
        after = usage()
        self.calls = {op: after[op]["taken"] - self.before[op]["taken"] for op in after}
        self.fates = {
            fate: sum(after[op][fate] - self.before[op][fate] for op in self.ops or after) for fate in after["dropout"]
        }
        if exception[0] is None and self.ops:
            assert {op for op, calls in self.calls.items() if calls} == set(self.ops)
