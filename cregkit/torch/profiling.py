"""Measure what ``convert`` and ``enable`` gain for a model, and which share of its training step they can gain."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cregkit import _validate
from cregkit.torch import dispatch, private, recognition
from cregkit.torch.convert import convert, revert

__all__ = ["Profile", "profile"]

WARM_UP = 3
"""Untimed steps of each state."""

_DROPOUTS = {
    *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout),
    *(torch.dropout, torch.alpha_dropout, torch.feature_dropout, torch.feature_alpha_dropout),
}
_NORMS = {
    *(F.layer_norm, F.rms_norm, F.batch_norm, F.group_norm, F.instance_norm),
    *(torch.layer_norm, torch.rms_norm, torch.batch_norm, torch.group_norm, torch.instance_norm),
}
_NORM_MODULES = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, *private.NORMS)


@dataclass(frozen=True)
class Profile:
    """Times of a model's training steps; ``str(profile)`` is a table with advice.

    Examples
    --------
    >>> from cregkit.torch import Profile
    >>> print(Profile(2.5e-3, 1.92e-3, 2.0e-3, 1.8e-3, 1.5e-3, way="convert(model)", speedup=1.3, noise=0.02))
    training step                 ms  dropout and norms
    PyTorch                    2.500               40 %
    converted                  1.920               22 %
    enabled                    2.000               25 %
    without dropout            1.800               17 %
    without dropout and norms  1.500
    convert(model) makes a training step 1.30x faster (noise 2 %)
    """

    stock: float
    """Median time of a step with PyTorch's modules, in seconds."""
    converted: float
    """Median time of a step with cregkit's modules, in seconds."""
    enabled: float
    """Median time of a step in an ``enable`` block, in seconds; NaN without the native library."""
    without_dropout: float
    """Median time of a step with PyTorch's modules whose dropouts do nothing, in seconds."""
    without_both: float
    """Median time of a step with PyTorch's modules whose dropouts and norms do nothing, in seconds."""
    way: str
    """The faster one of the two ways to use the kernels: ``"convert(model)"`` or ``"enable()"``."""
    speedup: float
    """Median over the rounds of the time with PyTorch's modules, divided by that of the faster way."""
    noise: float
    """Interquartile range of this ratio, divided by its median; infinite for a single round."""

    @property
    def advice(self) -> str:
        """Whether to use the kernels, and how."""
        noise = f"{100 * self.noise:.0f} %"
        if self.speedup > 1.0 + self.noise:
            return f"{self.way} makes a training step {self.speedup:.2f}x faster (noise {noise})"
        return f"no gain beyond noise ({noise}): leave the model as it is"

    def __str__(self) -> str:
        """Return a table with a line per state: time, and the share of it that is dropout and norms; the advice."""
        times = {
            "PyTorch": self.stock,
            "converted": self.converted,
            "enabled": self.enabled,
            "without dropout": self.without_dropout,
        }
        lines = [f"{'training step':25}{'ms':>7}  dropout and norms"]
        for name, seconds in times.items():
            if not math.isnan(seconds):
                share = 1.0 - self.without_both / seconds
                lines.append(f"{name:25}{1e3 * seconds:7.3f}{100 * share:17.0f} %")
        lines.append(f"{'without dropout and norms':25}{1e3 * self.without_both:7.3f}")
        return "\n".join([*lines, self.advice])


def profile(model: nn.Module, *inputs: Any, steps: int = 20) -> Profile:
    """Measure what ``convert`` and ``enable`` gain for ``model``, which stays as it is.

    A copy of the model takes training steps in training mode with PyTorch's modules, with cregkit's, in an ``enable``
    block if the native library is there, without dropout, and without dropout and norms, in turn. A step is forward and
    backward of the sum of the means of all floating-point outputs. Without dropout and norms, the dropout functions
    and modules of PyTorch, its norms, and the norms that ``convert`` recognises return their input. A call of any
    function of PyTorch takes about 1 us longer then.

    Parameters
    ----------
    model
        Any module on the CPU; its parameters, gradients, buffers and mode do not change, nor does the state of
        PyTorch's default random number generator.
    *inputs
        Positional arguments of the model.
    steps
        Number of timed steps in each state.

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
    medians = {state: statistics.median(times[state] for times in rounds) for state in rounds[0]}
    ways = {"convert(model)": "converted", "enable()": "enabled"}
    way = min(ways, key=lambda way: medians.get(ways[way], math.inf))
    ratios = [times["stock"] / times[ways[way]] for times in rounds]
    quartiles = statistics.quantiles(ratios) if steps > 1 else [-math.inf, ratios[0], math.inf]
    noise = (quartiles[2] - quartiles[0]) / quartiles[1]
    return Profile(**{"enabled": math.nan, **medians}, way=way, speedup=quartiles[1], noise=noise)


def _times(twin: nn.Module, inputs: list[Any], steps: int) -> list[dict[str, float]]:
    """Return the seconds of a step in each state, by its name in ``Profile``, for each round.

    One model takes all steps: copies of it differ by a few per cent, because of the layout of their memory.
    """
    outputs = twin(*inputs)
    if not _means(outputs):
        raise ValueError(
            "model must return floating-point tensors that need a gradient, alone or in tuples, lists, dicts or "
            f"dataclasses, got {type(outputs).__name__} without one"
        )
    norms = list(_norms(convert(twin)))
    revert(twin)
    states: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "stock": nullcontext,
        "converted": lambda: _converted(twin),
        "enabled": dispatch.enable,
        "without_dropout": lambda: _without(twin, _DROPOUTS, ()),
        "without_both": lambda: _without(twin, _DROPOUTS | _NORMS, norms),
    }
    if dispatch.library is None:
        del states["enabled"]
    rounds = []
    for _ in range(WARM_UP + steps):
        times = {}
        for state, context in states.items():
            with context():
                times[state] = _time(twin, inputs)
        rounds.append(times)
    return rounds[WARM_UP:]


@contextmanager
def _converted(twin: nn.Module) -> Iterator[None]:
    convert(twin)
    try:
        yield
    finally:
        revert(twin)


@contextmanager
def _without(twin: nn.Module, functions: set[Any], modules: Iterable[nn.Module]) -> Iterator[None]:
    """Make dropout, and the given functions and modules, return their input."""
    rates = list(_dropout_rates(twin))
    with ExitStack() as after, _Without(functions):
        for module, name, rate in rates:
            setattr(module, name, 0.0)
            after.callback(setattr, module, name, rate)
        for module in modules:
            module.forward = _first
            after.callback(delattr, module, "forward")
        yield


def _first(x: Any, *_: Any) -> Any:
    return x


class _Without(TorchFunctionMode):
    """Makes some functions of a tensor return it, and attention compute without dropout."""

    def __init__(self, functions: set[Any]) -> None:
        super().__init__()
        self.functions = functions

    def __torch_function__(self, function: Any, _: Any, arguments: Any = (), named: Any = None) -> Any:
        named = named or {}
        if function in self.functions:
            return arguments[0] if arguments else named["input"]
        if function is F.scaled_dot_product_attention:
            arguments, named = (*arguments[:4], 0.0, *arguments[5:])[: len(arguments)], {**named}
            named.pop("dropout_p", None)
        return function(*arguments, **named)


def _norms(converted: nn.Module) -> Iterator[nn.Module]:
    """Yield the norms of a converted model."""
    for module in converted.modules():
        source = recognition.source(type(module))
        if isinstance(module, _NORM_MODULES) or (source and isinstance(source[1], recognition.Norm)):
            yield module


def _time(model: nn.Module, inputs: list[Any]) -> float:
    """Return the seconds of a forward and backward pass; without norms, a model may have no gradient."""
    model.zero_grad()
    start = time.perf_counter()
    means = _means(model(*inputs))
    if means:
        sum(means[1:], means[0]).backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - start


def _means(outputs: Any) -> list[Tensor]:
    """Return the means of the floating-point outputs that need a gradient."""
    return [x.mean() for x in _tensors(outputs) if x.is_floating_point() and x.requires_grad]


def _dropout_rates(model: nn.Module) -> Iterator[tuple[nn.Module, str, float]]:
    """Yield the modules whose dropout is no function of PyTorch: module, attribute of the rate, rate."""
    for module in model.modules():
        for kind, name in ((nn.MultiheadAttention, "dropout"), (nn.RNNBase, "dropout")):
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
