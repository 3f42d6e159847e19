"""Measure what ``convert`` gains for a model: training steps as it is, converted, and without dropout."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cregkit import _validate
from cregkit.torch.convert import convert, revert

__all__ = ["Profile", "profile"]

WARM_UP = 3
"""Untimed steps of each state."""


@dataclass(frozen=True)
class Profile:
    """Times of a model's training steps; ``str(profile)`` is a table with advice.

    Examples
    --------
    >>> from cregkit.torch import Profile
    >>> print(Profile(stock=2.4e-3, converted=1.92e-3, without_dropout=1.8e-3, speedup=1.25, noise=0.02))
    training step          ms  dropout
    PyTorch             2.400     25 %
    converted           1.920      6 %
    without dropout     1.800
    convert() makes a training step 1.25x faster (noise 2 %)
    """

    stock: float
    """Median time of a step with PyTorch's modules, in seconds."""
    converted: float
    """Median time of a step with cregkit's modules, in seconds."""
    without_dropout: float
    """Median time of a step with PyTorch's modules whose dropouts do nothing, in seconds."""
    speedup: float
    """Median over the rounds of the time with PyTorch's modules, divided by that with cregkit's."""
    noise: float
    """Interquartile range of this ratio, divided by its median; infinite for a single round."""

    @property
    def advice(self) -> str:
        """Whether to convert the model."""
        noise = f"{100 * self.noise:.0f} %"
        if self.speedup > 1.0 + self.noise:
            return f"convert() makes a training step {self.speedup:.2f}x faster (noise {noise})"
        return f"no gain beyond noise ({noise}): leave the model as it is"

    def __str__(self) -> str:
        """Return a table with a line per state of the model, and the advice."""
        lines = [f"{'training step':16}{'ms':>9}{'dropout':>9}"]
        for name, seconds in (("PyTorch", self.stock), ("converted", self.converted)):
            share = 1.0 - self.without_dropout / seconds
            lines.append(f"{name:16}{1e3 * seconds:9.3f}{100 * share:7.0f} %")
        lines.append(f"{'without dropout':16}{1e3 * self.without_dropout:9.3f}")
        return "\n".join([*lines, self.advice])


def profile(model: nn.Module, *inputs: Any, steps: int = 20) -> Profile:
    """Measure what ``convert`` gains for ``model``, which stays as it is.

    A copy of the model takes training steps in training mode with PyTorch's modules, with cregkit's, and with
    PyTorch's without dropout, in turn. A step is forward and backward of the sum of the means of all floating-point
    outputs. Without dropout, modules of dropout and of attention have rate 0; calls of ``torch.nn.functional.dropout``
    in the code of the model remain. Where cregkit also computes the norms faster, the share of dropout in the converted
    step can be negative.

    Parameters
    ----------
    model
        Any module on the CPU; its parameters, gradients, buffers and mode do not change, nor does the state of
        PyTorch's default random number generator.
    *inputs
        Positional arguments of the model.
    steps
        Number of timed steps in each of the three states.

    Returns
    -------
    Profile
        Median times, speed-up and noise; ``print`` shows a table.

    Raises
    ------
    TypeError
        ``model`` is not a module, or is a TorchScript module; there are no inputs; or ``steps`` is not an int.
    ValueError
        ``steps`` is less than 1, the model is not on the CPU, or no output needs a gradient.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Dropout(0.1))
    >>> profile = cregkit.torch.profile(model, torch.ones(32, 64), steps=5)
    >>> profile.stock > 0
    True
    """
    steps = _validate.positive_int("steps", steps)
    if not inputs:
        raise TypeError("inputs must be the arguments of the model, got none: profile(model, x)")
    twin = revert(copy.deepcopy(model)).train()
    for name, x in (*twin.named_parameters(), *twin.named_buffers()):
        if x.device.type != "cpu":
            raise ValueError(f"model must be on the CPU, got {name} on {x.device}: model.cpu()")
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        rounds = _times(twin, [_own(x) for x in inputs], steps)
    ratios = [times[0] / times[1] for times in rounds]
    quartiles = statistics.quantiles(ratios) if steps > 1 else [-math.inf, ratios[0], math.inf]
    stock, converted, without_dropout = map(statistics.median, zip(*rounds, strict=True))
    noise = (quartiles[2] - quartiles[0]) / quartiles[1]
    return Profile(stock, converted, without_dropout, speedup=quartiles[1], noise=noise)


def _times(twin: nn.Module, inputs: list[Any], steps: int) -> list[list[float]]:
    """Return the seconds of steps with PyTorch's modules, converted and without dropout, for each round.

    One model takes all steps: copies of it differ by a few per cent, because of the layout of their memory.
    """
    rates = list(_dropout_rates(twin))
    rounds = []
    for _ in range(WARM_UP + steps):
        stock = _time(twin, inputs)
        converted = _time(convert(twin), inputs)
        revert(twin)
        for module, name, _rate in rates:
            setattr(module, name, 0.0)
        without = _time(twin, inputs)
        for module, name, rate in rates:
            setattr(module, name, rate)
        rounds.append([stock, converted, without])
    return rounds[WARM_UP:]


def _time(model: nn.Module, inputs: list[Any]) -> float:
    """Return the seconds of a forward and backward pass."""
    model.zero_grad()
    start = time.perf_counter()
    outputs = model(*inputs)
    means = [x.mean() for x in _tensors(outputs) if x.is_floating_point() and x.requires_grad]
    if not means:
        raise ValueError(
            "model must return floating-point tensors that need a gradient, alone or in tuples, lists, dicts or "
            f"dataclasses, got {type(outputs).__name__} without one"
        )
    sum(means[1:], means[0]).backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - start


def _dropout_rates(model: nn.Module) -> Iterator[tuple[nn.Module, str, float]]:
    """Yield the modules with a dropout rate, its attribute and its value."""
    for module in model.modules():
        for kind, name in ((nn.modules.dropout._DropoutNd, "p"), (nn.MultiheadAttention, "dropout")):
            if isinstance(module, kind):
                yield module, name, getattr(module, name)


def _own(value: Any) -> Any:
    """Return a copy of an input whose gradients and changes stay in the copy."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    return copy.deepcopy(value)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested collections and dataclasses."""
    parts: Iterable[Any] = ()
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, (tuple, list)):
        parts = value
    elif is_dataclass(value):
        parts = [getattr(value, field.name) for field in fields(value)]
    for part in parts:
        yield from _tensors(part)
