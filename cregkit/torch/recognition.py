"""Swaps of modules whose class is not PyTorch's own: subclasses, and norms that other libraries write by hand.

``recognise`` finds the norm that a module computes from its numbers. A module of the same class, with the same
attributes and with parameters of its own, computes probe inputs. Outputs and gradients must be those of the formula to
the rounding of float32, whatever the class is named. The module itself is never called.

A swapped module gets a subclass of its own class, made here. If the module's own ``forward`` calls an op of PyTorch for
which the native library has a kernel, it runs with the kernels of all ops. Otherwise the subclass computes float32
tensors on the CPU with ``cregkit.torch.functional``, and everything else with the module's own ``forward``.
"""

from __future__ import annotations

import copyreg
import warnings
from abc import ABCMeta
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn import Parameter

from cregkit.torch import dispatch, functional
from cregkit.torch.bridge import is_float32
from cregkit.torch.private import is_alone, is_watched, parameters

Formula: TypeAlias = Callable[[Tensor, Tensor, Tensor | None, float], Tensor]

# The names that PyTorch sets on every module.
_NAMES_OF_ALL = frozenset(vars(nn.Module()))
# Values that cannot change in place.
_CONSTANTS = (float, int, str, type(None), torch.dtype, torch.device)
# Below, the gradient of the input almost vanishes, and its rounding errors hide differences.
_FEWEST_FEATURES = 4
# Relative error of a row: float32's rounding in a sum of squares, a root and products is up to 1e-6.
_TOLERANCE = 3e-6


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    return functional.layer_norm(x, weight.shape, weight, bias, eps)


def _rms_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    return functional.rms_norm(x, weight.shape, weight, eps)


def _rms_norm_from_one(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    return functional.rms_norm(x, weight.shape, 1.0 + weight, eps)


def _channel_norm_last(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    return _layer_norm(x.permute(0, 2, 3, 1).contiguous(), weight, bias, eps).permute(0, 3, 1, 2)


def _channel_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    y = _channel_norm_last(x, weight, bias, eps)
    return y.contiguous() if x.is_contiguous() else y


# The last two differ in the memory order of the output: channels last, or that of the input.
_FORMULAS: dict[str, Formula] = {
    "layer norm": _layer_norm,
    "RMS norm": _rms_norm,
    "RMS norm with gain 1 + weight": _rms_norm_from_one,
    "layer norm of channels, channels last in memory": _channel_norm_last,
    "layer norm of channels": _channel_norm,
}
_OF_CHANNELS = frozenset({_channel_norm_last, _channel_norm})


@dataclass(frozen=True)
class Norm:
    """The norm that a module computes.

    Examples
    --------
    >>> from cregkit.torch.recognition import Norm
    >>> str(Norm("RMS norm", 1e-6))
    'RMS norm, eps 1e-06'
    """

    kind: str
    """Name of its formula."""
    eps: float
    """What is added to the variance or mean square."""
    uses_op: bool = False
    """Whether the module computes it by PyTorch's op, for which the native library has a kernel."""

    def __str__(self) -> str:
        """Return the kind and eps."""
        return f"{self.kind}, eps {self.eps:g}"


Source: TypeAlias = tuple[type[nn.Module], Norm | type[nn.Module]]


@dataclass(frozen=True)
class Description:
    """What the results of a module depend on, apart from the values of its parameters."""

    kind: type[nn.Module]
    """Its class."""
    features: int
    """Length of ``weight``, and of ``bias`` if it is there."""
    parameters: tuple[tuple[str, bool], ...]
    """The names, and whether each is a parameter or None."""
    attributes: tuple[tuple[str, Any], ...]
    """What else was set on it."""

    def forward(self, module: nn.Module, x: Tensor) -> Tensor:
        """Compute a module of this description, without hooks."""
        y: Tensor = self.kind.forward(module, x)
        return y

    def module(self, weight: Tensor, bias: Tensor) -> nn.Module:
        """Return a module of this description."""
        module = self.kind.__new__(self.kind)
        nn.Module.__init__(module)
        vars(module).update(self.attributes)
        values = {"weight": weight, "bias": bias}
        for name, present in self.parameters:
            module.register_parameter(name, Parameter(values[name].clone()) if present else None)
        return module


def describe(module: nn.Module) -> Description | None:
    """Return the description of a module that may be a norm; None for all others.

    It has the vectors ``weight`` and optionally ``bias`` as parameters, neither submodules nor buffers, and constants
    as other attributes. The parameters may have any dtype and device.

    Parameters
    ----------
    module
        Any module.

    Returns
    -------
    Description or None
        Hashable: modules of the same description compute the same.
    """
    kind = type(module)
    own = parameters(module)
    attributes = tuple((name, value) for name, value in vars(module).items() if _is_own(name))
    weight = own.get("weight")
    if (
        weight is None
        or weight.dim() != 1
        or not own.keys() <= {"weight", "bias"}
        or any(type(p) is not Parameter or p.shape != weight.shape for p in module.parameters())
        or not is_alone(module)
        or not all(_is_constant(value) for _, value in attributes)
        or not is_extendable(kind)
    ):
        return None
    present = tuple((name, p is not None) for name, p in own.items())
    return Description(kind, weight.numel(), present, attributes)


def _is_own(name: str) -> bool:
    """Whether an attribute of this name is the class's own, neither PyTorch's nor Python's."""
    return name not in _NAMES_OF_ALL and not (name.startswith("__") and name.endswith("__"))


def _is_constant(value: Any) -> bool:
    return all(map(_is_constant, value)) if isinstance(value, tuple) else isinstance(value, _CONSTANTS)


def recognise(description: Description) -> Norm | None:
    """Return the norm that the described modules compute in float32, or None.

    Parameters
    ----------
    description
        What ``describe`` returned.

    Returns
    -------
    Norm or None
        The kind of norm and its eps.

    Examples
    --------
    >>> import torch
    >>> from cregkit.torch.recognition import describe, recognise
    >>> class Norm(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = torch.nn.Parameter(torch.ones(64))
    ...
    ...     def forward(self, x):
    ...         return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.weight
    >>> print(recognise(describe(Norm())))
    RMS norm, eps 1e-06
    """
    if description.features < _FEWEST_FEATURES:
        return None
    with (
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=()),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
    ):
        warnings.simplefilter("ignore")
        state = torch.get_rng_state()
        norm = next((norm for kind in _FORMULAS if (norm := _verified(description, kind))), None)
        return norm if torch.equal(state, torch.get_rng_state()) else None


def _verified(description: Description, kind: str) -> Norm | None:
    """Return the norm of this kind that the described modules compute, or None."""
    random = _Random()
    formula, features = _FORMULAS[kind], description.features
    weight, bias = random(features), random(features)
    try:
        eps = _measured_eps(description, formula, weight, random)
        if not 0.0 < eps < torch.inf:
            return None
        module = description.module(weight, bias)
        inputs = _inputs(formula, features, eps, random)
        agrees = all(
            _agrees(description, module.train(mode), formula, eps, x) for mode in (True, False) for x in inputs
        )
    except Exception:  # such as the forward raises for inputs that it does not support
        return None
    return Norm(kind, eps, _uses_op(description, module, inputs)) if agrees else None


def _uses_op(description: Description, module: nn.Module, inputs: list[Tensor]) -> bool:
    """Whether a kernel of the native library takes the module's own call, for each of the inputs."""
    if dispatch.library is None:
        return False

    def taken() -> int:
        return sum(dispatch.usage()[op]["taken"] for op in ("layer_norm", "rms_norm"))

    for x in inputs:
        before = taken()
        dispatch.converted(description.forward, module, x)
        if taken() == before:
            return False
    return True


class _Random:
    """Normal random numbers from a generator of its own."""

    def __init__(self) -> None:
        self._generator = torch.Generator("cpu").manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, device="cpu", dtype=torch.float32)


def _measured_eps(description: Description, formula: Formula, weight: Tensor, random: _Random) -> float:
    """Return the eps that explains the outputs for inputs whose squares are far below it.

    If the module has a constant that is equal to it up to rounding, that is the eps.
    """
    x = 1e-12 * random(2, description.features, 2, 2)
    x = x if formula in _OF_CHANNELS else x.movedim(1, -1).contiguous()
    with_one = formula(x.double(), weight.double(), None, 1.0)
    with torch.no_grad():
        y = description.forward(description.module(weight, torch.zeros_like(weight)), x)
    measured = float(with_one.norm() / y.double().norm()) ** 2
    known = [value for _, value in description.attributes if isinstance(value, float)]
    known += [float(f"{measured:.3g}"), torch.finfo(torch.float32).eps]
    nearest = min(known, key=lambda value: abs(value - measured))
    return nearest if abs(nearest - measured) < 1e-6 * measured else measured


def _inputs(formula: Formula, features: int, eps: float, random: _Random) -> list[Tensor]:
    """Return inputs of several shapes whose rows have different scales, offsets and outliers."""
    shapes = ((2, 3, 5),) if formula in _OF_CHANNELS else ((8,), (2, 3), (2, 1, 3), (1, 2, 1, 3))
    scales = _vector(0.5 * eps**0.5, 2.0 * eps**0.5, 1.0, 1.0, 1e5, 1.0, 0.0, 1e-2)
    offsets = _vector(0.0, 1.0, 0.0, 3.0, -1.0, 0.0, 0.0, 1.0)
    inputs = []
    for shape in shapes:
        rows = torch.Size(shape).numel()
        kind = torch.arange(rows, device="cpu") % len(scales)
        x = random(rows, features) + offsets[kind, None]
        x[kind == 5, 0] *= 100.0
        inputs.append((x * scales[kind, None]).reshape(*shape, features))
    if formula in _OF_CHANNELS:
        last = inputs[0].permute(0, 3, 1, 2)
        return [last.contiguous(), last]
    return inputs


def _vector(*values: float) -> Tensor:
    return torch.tensor(values, device="cpu", dtype=torch.float32)


def _agrees(description: Description, module: nn.Module, formula: Formula, eps: float, x: Tensor) -> bool:
    """Whether outputs and gradients of the module are those of the formula in float64, and it changes nothing."""
    axis = 1 if formula in _OF_CHANNELS else -1
    leaves = {"x": x.requires_grad_(), **dict(module.named_parameters())}
    exact_leaves = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}

    def exact(x: Tensor) -> Tensor:
        return formula(x, exact_leaves["weight"], exact_leaves.get("bias"), eps)

    y, exact_y = description.forward(module, x), exact(exact_leaves["x"])
    if not _is_close(y, exact_y, axis):  # most modules that are no norm end here
        return False
    dy = _Random()(*y.shape)
    gradients = torch.autograd.grad(y, [*leaves.values()], dy)
    exact_gradients = torch.autograd.grad(exact_y, [*exact_leaves.values()], dy.double())
    not_finite = x.detach().clone()
    not_finite[(0,) * x.dim()] = torch.nan
    not_finite[(-1,) * x.dim()] = torch.inf
    with torch.no_grad():
        exact_not_finite = exact(not_finite.double())
        y_without_gradients = description.forward(module, x)
        return (
            y.stride() == y_without_gradients.stride() == exact_y.stride()
            and _is_close(gradients[0], exact_gradients[0], axis)
            and all(_is_close(got, exact, 0) for got, exact in zip(gradients[1:], exact_gradients[1:], strict=True))
            and _is_close(y_without_gradients, exact_y, axis)
            and _is_close(description.forward(module, not_finite), exact_not_finite, axis)
            and all(torch.equal(leaf.double(), exact_leaves[name]) for name, leaf in leaves.items())
            and describe(module) == description
        )


def _is_close(got: Tensor, exact: Tensor, axis: int) -> bool:
    """Whether each row along ``axis`` is right to the rounding of float32, with NaN in the same places."""
    if not is_float32(got) or got.shape != exact.shape:
        return False
    error, size = (values.nan_to_num().norm(dim=axis) for values in (got - exact, exact))
    return torch.equal(got.isnan(), exact.isnan()) and bool((error <= _TOLERANCE * size).all())


class _Swapped(ABCMeta):
    """The class of the classes made here: pickle finds none of them by name, and makes them again."""


# What each class was made from; and the classes.
_SOURCES: dict[type[nn.Module], Source] = {}
_MADE: dict[Source, type[nn.Module]] = {}


def _pickled(kind: Any) -> str | tuple[Callable[..., Any], Source]:
    source = _SOURCES.get(kind)
    return kind.__qualname__ if source is None else (subclass, source)


copyreg.pickle(_Swapped, _pickled)


def source(kind: type[nn.Module]) -> Source | None:
    """Return the arguments with which ``subclass`` made a class; None for other classes."""
    return _SOURCES.get(kind)


def is_extendable(kind: type[nn.Module]) -> bool:
    """Whether a subclass can be made without running code of the class."""
    return issubclass(_Swapped, type(kind)) and not any("__init_subclass__" in vars(base) for base in kind.__mro__[:-1])


def subclass(original: type[nn.Module], basis: Norm | type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of a class that computes with cregkit.

    Parameters
    ----------
    original
        The class of a module.
    basis
        The norm that modules of the class compute, or the class of cregkit whose ``forward`` replaces that which the
        class inherits.

    Returns
    -------
    type
        The subclass, of the same name; always the same for the same arguments.
    """
    key = original, basis
    if key not in _MADE:
        bases = (original,) if isinstance(basis, Norm) else (basis, original)
        namespace = {name: getattr(original, name) for name in ("__module__", "__qualname__", "__doc__")}
        made: Any = _Swapped(original.__name__, bases, namespace)
        if isinstance(basis, Norm):
            _override(made, original, basis)
        _MADE[key], _SOURCES[made] = made, key
    return _MADE[key]


def _override(made: type[nn.Module], original: type[nn.Module], norm: Norm) -> None:
    """Let a subclass compute a norm; where the formula does not fit, it leaves the call to the original class.

    A module that gets another attribute, on which its numbers may depend, has its original class again; so has a module
    that TorchScript compiles.
    """
    formula, eps = _FORMULAS[norm.kind], norm.eps
    of_channels = formula in _OF_CHANNELS

    def forward(self: nn.Module, *inputs: Any, **options: Any) -> Any:
        if norm.uses_op and not options and functional.dispatches():
            return dispatch.converted(original.forward, self, *inputs)
        if not is_compiling() and type(self) is made and len(inputs) == 1 and not options:
            (x,) = inputs
            own = parameters(self)
            weight, bias = own["weight"], own.get("bias")
            if _fits(x, weight, bias, of_channels):
                return formula(x, weight, bias, eps)
        return original.forward(self, *inputs, **options)

    def set_attribute(self: nn.Module, name: str, value: Any) -> None:
        replaces = isinstance(value, Parameter) and parameters(self).get(name) is not None
        if type(self) is made and _is_own(name) and not replaces:
            self.__class__ = original
        original.__setattr__(self, name, value)

    def prepare_scriptable(self: nn.Module) -> nn.Module:
        self.__class__ = original
        return self

    for name, method in (
        ("forward", forward),
        ("__setattr__", set_attribute),
        ("__prepare_scriptable__", prepare_scriptable),
    ):
        setattr(made, name, method)


def _fits(x: Any, weight: Any, bias: Any, of_channels: bool) -> bool:
    """Whether the formula was verified for such tensors, and PyTorch neither casts nor records nor transforms ops."""
    return (
        is_float32(x)
        and is_float32(weight)
        and not is_watched()
        and not torch.is_autocast_enabled("cpu")
        and (bias is None or (is_float32(bias) and bias.shape == weight.shape))
        and (
            x.dim() == 4
            and x.shape[1:2] == weight.shape
            and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
            if of_channels
            else 2 <= x.dim() <= 5 and x.shape[-1:] == weight.shape and x.is_contiguous()
        )
    )
