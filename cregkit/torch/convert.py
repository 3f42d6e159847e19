"""Swap the modules of a model for cregkit's and back, in place.

A swap changes the class of a module and nothing else. Parameters, buffers and hooks stay the same objects, so
optimisers and other modules that refer to them keep working.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias, TypeVar, overload

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from cregkit.torch import dispatch, distributed, modules, private, recognition, transformer
from cregkit.torch.dispatch import OpReport, op_report

Model = TypeVar("Model", bound=nn.Module)
Recognise: TypeAlias = Callable[[recognition.Description], recognition.Norm | None]
Choice: TypeAlias = str | type[nn.Module] | Iterable[str | type[nn.Module]]

SWAPS: dict[type[nn.Module], type[nn.Module]] = {
    getattr(nn, name): getattr(room, name) for room in (modules, distributed, transformer) for name in room.__all__
}
_STOCK: dict[type[nn.Module], type[nn.Module]] = {ours: stock for stock, ours in SWAPS.items()}
_NAMES = {stock.__name__ for stock in SWAPS}

# Classes whose subclasses are not swapped: much of what they compute is in other methods and modules than forward.
_ALONE = (nn.MultiheadAttention, nn.TransformerEncoderLayer)

# Classes that compute by PyTorch's op, for which the native library has kernels of 16-bit types too.
_BY_OP = (modules.BatchNorm1d, modules.BatchNorm2d, modules.GroupNorm, modules.LayerNorm, modules.RMSNorm)

# Related modules without a kernel; a report lists them too.
_RELATED = (*private.DROPOUTS, *private.NORMS, nn.LocalResponseNorm)


@dataclass(frozen=True)
class Entry:
    """One module in a report.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> entry = cregkit.torch.report(torch.nn.Sequential(torch.nn.BatchNorm3d(8))).entries[0]
    >>> entry.kind, entry.swapped, entry.note
    ('BatchNorm3d', False, 'no kernel for it')
    """

    name: str
    """Qualified name in the model; "" for the model itself."""
    kind: str
    """Name of its class."""
    swapped: bool
    """Whether its class is cregkit's."""
    note: str
    """If not swapped, the reason. If swapped, how another class than PyTorch's was recognised, and the reason why the
    module falls back to PyTorch's implementation; or empty."""


@dataclass(frozen=True)
class Report:
    """The dropout, normalisation and attention modules of a model; ``str(report)`` is a table.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> report = cregkit.torch.report(cregkit.torch.convert(torch.nn.Sequential(torch.nn.Dropout(0.1))))
    >>> len(report.swapped), len(report.left)
    (1, 0)
    """

    entries: tuple[Entry, ...]
    """One entry per module, in the order of ``model.named_modules()``."""
    lacks: tuple[str, ...] = ()
    """A line for each name that this PyTorch lacks and cregkit uses where it is there: what happens without it."""

    @property
    def swapped(self) -> tuple[Entry, ...]:
        """The modules whose class is cregkit's."""
        return tuple(entry for entry in self.entries if entry.swapped)

    @property
    def left(self) -> tuple[Entry, ...]:
        """The other modules."""
        return tuple(entry for entry in self.entries if not entry.swapped)

    def __str__(self) -> str:
        """Return a table with a line per module: swapped or left, class, name, note; then the lines of ``lacks``."""
        summary = f"{len(self.swapped)} of {len(self.entries)} modules computed by cregkit"
        rows = [("swapped" if e.swapped else "left", e.kind, e.name or "(model)", e.note) for e in self.entries]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
        lines = ("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows)
        return "\n".join([summary, *(line.rstrip() for line in lines), *self.lacks])


def convert(model: Model, *, only: Choice | None = None, skip: Choice | None = None) -> Model:
    """Swap the dropout, normalisation and attention modules of ``model`` for cregkit's, in place.

    These classes of PyTorch are swapped: ``Dropout``, ``Dropout1d``, ``Dropout2d``, ``BatchNorm1d``, ``BatchNorm2d``,
    ``SyncBatchNorm``, ``GroupNorm``, ``InstanceNorm1d``, ``InstanceNorm2d``, ``InstanceNorm3d``, ``LayerNorm``,
    ``RMSNorm``, ``MultiheadAttention``, ``TransformerEncoderLayer``. Of the first twelve, subclasses that inherit
    ``forward`` are swapped too. A module of any other class is swapped if it has the vectors ``weight`` and optionally
    ``bias`` as parameters, constants as attributes, and nothing else, and if its outputs and gradients for probe inputs
    are, to the rounding of float32, those of a layer norm or RMS norm of the last axis, with gain ``weight``, of an RMS
    norm with gain ``1 + weight``, or of a layer norm of the channels of (N, C, H, W). The probes run on a module of the
    same class, not on ``module`` itself. ``report`` lists the subclasses that are not swapped. A second call changes
    nothing.

    Parameters
    ----------
    model
        Any module; it is itself swapped if it is one of these.
    only
        Modules to swap; by default all. A class (for its subclasses too), the qualified name of a module (for the
        module and everything in it), or an iterable of both.
    skip
        Modules not to swap, in the same form. A ``TransformerEncoderLayer`` is not swapped either if it would fuse a
        skipped norm or dropout.

    Returns
    -------
    model
        The same object.

    Raises
    ------
    TypeError
        ``model`` is not a module, or is a TorchScript module; or ``only`` or ``skip`` has another type.
    ValueError
        A name is not in the model, or a class is neither in the list nor that of a module that can be swapped. The
        model is unchanged.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.Dropout(0.1))
    >>> model = cregkit.torch.convert(model, skip=torch.nn.Dropout)
    >>> type(model[1]).__module__, type(model[2]).__module__
    ('cregkit.torch.modules', 'torch.nn.modules.dropout')
    """
    _check(model)
    targets = _targets(model)
    chosen = None if only is None else _matching(model, only, "only", targets)
    left = set() if skip is None else _matching(model, skip, "skip", targets)
    left |= {id(layer) for layer in _encoder_layers(model) if any(id(part) in left for part in _fused_parts(layer))}
    for module in model.modules():
        target = targets.get(id(module))
        if isinstance(target, type) and id(module) not in left and (chosen is None or id(module) in chosen):
            module.__class__ = target
    return model


def revert(model: Model) -> Model:
    """Swap every module of cregkit in ``model`` for PyTorch's, in place.

    Parameters
    ----------
    model
        Any module.

    Returns
    -------
    model
        The same object.

    Raises
    ------
    TypeError
        ``model`` is not a module, or is a TorchScript module.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> model = torch.nn.Sequential(cregkit.torch.Dropout(0.1))
    >>> type(cregkit.torch.revert(model)[0]) is torch.nn.Dropout
    True
    """
    _check(model)
    for module in model.modules():
        original = _original(module)
        if original is not None:
            module.__class__ = original
    return model


@overload
def report(model: None = None) -> OpReport: ...
@overload
def report(model: nn.Module) -> Report: ...


def report(model: nn.Module | None = None) -> OpReport | Report:
    """List the modules of ``model`` that compute with cregkit, and those that do not, with the reason.

    Functional calls (``F.dropout``, attention with ``dropout_p``) are not modules: :class:`enable` reaches them, and a
    report without a model counts them.

    Parameters
    ----------
    model
        Any module; without one, the report is on the ops that ``enable`` switches.

    Returns
    -------
    Report, or OpReport without a model
        One entry per dropout, normalisation, attention and recurrent module with dropout, or per op; ``print`` shows a
        table.

    Raises
    ------
    TypeError
        ``model`` is not a module, or is a TorchScript module.
    ImportError
        There is no model, and the native library is not built for this PyTorch.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(8), torch.nn.BatchNorm3d(8))
    >>> print(cregkit.torch.report(cregkit.torch.convert(model)))
    1 of 2 modules computed by cregkit
    swapped  BatchNorm1d  0
    left     BatchNorm3d  1  no kernel for it
    """
    if model is None:
        return op_report()
    _check(model)
    return Report(tuple(_entries(model)), tuple(f"without {name}: {what}" for name, what in private.MISSING.items()))


def _entries(model: nn.Module) -> Iterator[Entry]:
    targets = _targets(model)
    for name, module in model.named_modules():
        kind, target = type(module).__name__, targets.get(id(module))
        if _original(module) is not None:
            notes = _recognition(type(module)), _fallback(module)
            yield Entry(name, kind, True, "; ".join(filter(None, notes)))
        elif isinstance(target, str):
            yield Entry(name, kind, False, target)
        elif target is not None:
            how = _recognition(target) or "PyTorch's"
            yield Entry(name, kind, False, f"{how}: convert() would swap it")


def _original(module: nn.Module) -> type[nn.Module] | None:
    """Return the class that a swapped module has without cregkit; None if it is not swapped."""
    kind = type(module)
    source = recognition.source(kind)
    return source[0] if source else _STOCK.get(kind)


def _recognition(kind: type[nn.Module]) -> str:
    """Return how the original of a class of swapped modules was recognised; empty for PyTorch's own classes."""
    source = recognition.source(kind)
    if source is None:
        return ""
    _, basis = source
    if isinstance(basis, recognition.Norm):
        return f"{basis}, verified by its numbers"
    return f"inherits the forward of {basis.__name__}"


def _targets(model: nn.Module) -> dict[int, type[nn.Module] | str]:
    """Return, by id, the class that ``convert`` gives to a module, or the reason why it leaves a related one."""
    recognise = cache(recognition.recognise)
    targets = {id(module): _target(module, recognise) for module in model.modules() if _original(module) is None}
    return {key: target for key, target in targets.items() if target is not None}


def _target(module: nn.Module, recognise: Recognise) -> type[nn.Module] | str | None:
    kind = type(module)
    stock = next((stock for stock in SWAPS if isinstance(module, stock)), None)
    obstacle = _obstacle(module)
    if obstacle is None:
        if kind in SWAPS:
            return SWAPS[kind]
        if stock is not None and _inherits(module, stock):
            return recognition.subclass(kind, SWAPS[stock])
        description = recognition.describe(module)
        norm = None if description is None else recognise(description)
        if norm is not None:
            target = recognition.subclass(kind, norm)
            unsupported = _unsupported(module, target)
            return f"{norm}, but its {unsupported}" if unsupported else target
        if isinstance(module, nn.RNNBase):
            return "dropout between its layers is no module: enable() reaches it" if module.dropout else None
        obstacle = f"a subclass of {stock.__name__}: may compute something else" if stock else "no kernel for it"
    related = stock or isinstance(module, _RELATED) or getattr(module, "original_name", "") in _NAMES
    return obstacle if related else None


def _inherits(module: nn.Module, stock: type[nn.Module]) -> bool:
    """Whether a subclass of PyTorch's class ``stock`` overrides nothing that cregkit's class overrides."""
    kind = type(module)
    return (
        stock not in _ALONE
        and recognition.is_extendable(kind)
        and not is_parametrized(module)
        and all(getattr(kind, name, None) is getattr(stock, name, None) for name in ("forward", private.INSTANCE_NORM))
    )


def _obstacle(module: nn.Module) -> str | None:
    """Return the reason why ``convert`` does not swap a module of any class, as far as it is not its class."""
    if isinstance(module, torch.jit.ScriptModule):
        return "TorchScript: its graph is fixed; convert before scripting"
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "not initialised yet: run a batch through the model, then convert again"
    return "its forward is overridden on the instance" if "forward" in vars(module) else None


def _fallback(module: nn.Module) -> str:
    """Return the reason why a swapped module falls back to the forward that it replaces, as far as it shows it."""
    unsupported = _unsupported(module, type(module))
    if unsupported:
        whose = "PyTorch's" if type(module) in _STOCK else "that of its class"
        return f"falls back to {whose}: {unsupported}"
    return _step_by_step(module) if isinstance(module, nn.TransformerEncoderLayer) else ""


def _unsupported(module: nn.Module, target: type[nn.Module]) -> str:
    """Return what a swapped class does not support about the parameters and buffers of a module; empty if nothing."""
    supported = _dtypes(target)
    tensors = [*module.parameters(), *module.buffers()]
    dtypes = {t.dtype for t in tensors if t.is_floating_point()} - supported.keys()
    devices = {t.device for t in tensors if t.device.type != "cpu"}
    names = ", ".join(sorted(map(str, dtypes | devices)))
    return f"parameters are {names}, not {' or '.join(supported.values())} on the CPU" if names else ""


def _dtypes(target: type[nn.Module]) -> dict[torch.dtype, str]:
    """Return the dtypes of parameters for which a swapped class has kernels, and their names."""
    source = recognition.source(target)
    basis = source[1] if source else target
    by_op = basis.uses_op if isinstance(basis, recognition.Norm) else basis in _BY_OP
    narrow = {torch.bfloat16: "bfloat16", torch.float16: "float16"} if by_op and dispatch.library is not None else {}
    return {torch.float32: "float32", **narrow}


def _step_by_step(layer: nn.TransformerEncoderLayer) -> str:
    """Return the dropouts and norms of an encoder layer that are not fused, with the reasons."""
    reasons = (
        (names, transformer.obstacle(*(layer.get_submodule(name) for name in names)))
        for names in transformer.fused(layer)
    )
    return "; ".join(f"{' and '.join(names)} one after another: {why}" for names, why in reasons if why)


def _encoder_layers(model: nn.Module) -> Iterator[nn.TransformerEncoderLayer]:
    own = nn.TransformerEncoderLayer, transformer.TransformerEncoderLayer
    for module in model.modules():
        if type(module) in own:
            assert isinstance(module, nn.TransformerEncoderLayer)
            yield module


def _fused_parts(layer: nn.TransformerEncoderLayer) -> Iterator[nn.Module]:
    return (layer.get_submodule(name) for names in transformer.fused(layer) for name in names)


def _check(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "model must be a torch.nn.Module, got a TorchScript module, whose graph is fixed: "
            "convert the module before scripting"
        )


def _matching(model: nn.Module, choice: Choice, argument: str, targets: dict[int, type[nn.Module] | str]) -> set[int]:
    """Return the ids of the modules that ``choice`` names."""
    swappable = {id(m) for m in model.modules() if _original(m) or isinstance(targets.get(id(m)), type)}
    items = [choice] if isinstance(choice, (str, type)) or not isinstance(choice, Iterable) else list(choice)
    matching: set[int] = set()
    for item in items:
        if isinstance(item, str):
            try:
                part = model.get_submodule(item)
            except AttributeError:
                raise ValueError(
                    f"{argument} must name modules of the model, got {item!r}: see model.named_modules()"
                ) from None
            matching.update(map(id, part.modules()))
        elif isinstance(item, type):
            of_class = {id(module) for module in model.modules() if isinstance(module, item)}
            if item not in SWAPS and not of_class & swappable:
                known = ", ".join(stock.__name__ for stock in SWAPS)
                raise ValueError(
                    f"{argument} must be a class that convert swaps ({known}; for other classes, see report(model)), "
                    f"got {item.__name__}"
                )
            matching |= of_class
        else:
            raise TypeError(
                f"{argument} must be the name of a module, a class of modules, or an iterable of both, got {item!r}"
            )
    return matching
