"""Swapping the modules of a model for cregkit's and back, in place.

A swap changes a module's class and nothing else. So its parameters, buffers, hooks, name and place in the model stay
the same objects, and whatever refers to them (optimisers, other modules that share it) goes on working.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import nn

from cregkit.torch import distributed, modules, transformer

Model = TypeVar("Model", bound=nn.Module)
Choice: TypeAlias = str | type[nn.Module] | Iterable[str | type[nn.Module]]

SWAPS: dict[type[nn.Module], type[nn.Module]] = {
    getattr(nn, name): getattr(room, name) for room in (modules, distributed, transformer) for name in room.__all__
}
_STOCK: dict[type[nn.Module], type[nn.Module]] = {ours: stock for stock, ours in SWAPS.items()}
_NAMES = {stock.__name__ for stock in SWAPS}

# Modules of the same families that cregkit has no kernel for: a report names them too.
_RELATED = (
    nn.modules.dropout._DropoutNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LocalResponseNorm,
)


@dataclass(frozen=True)
class Entry:
    """One module of a report."""

    name: str
    """Its qualified name in the model, "" for the model itself."""
    kind: str
    """The name of its class."""
    swapped: bool
    note: str
    """Why it was not swapped; or, if it was, what makes it fall back to PyTorch's own implementation. May be empty."""


@dataclass(frozen=True)
class Report:
    """What of a model computes with cregkit. ``str(report)`` is a table."""

    entries: tuple[Entry, ...]

    @property
    def swapped(self) -> tuple[Entry, ...]:
        """The modules that are cregkit's."""
        return tuple(entry for entry in self.entries if entry.swapped)

    @property
    def left(self) -> tuple[Entry, ...]:
        """The modules of these families that are not."""
        return tuple(entry for entry in self.entries if not entry.swapped)

    def __str__(self) -> str:
        """Give a line per module: swapped or not, class, name, note."""
        summary = f"{len(self.swapped)} of {len(self.entries)} modules computed by cregkit"
        rows = [("swapped" if e.swapped else "left", e.kind, e.name or "(model)", e.note) for e in self.entries]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
        lines = ("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows)
        return "\n".join([summary, *(line.rstrip() for line in lines)])


def convert(model: Model, *, only: Choice | None = None, skip: Choice | None = None) -> Model:
    """Let cregkit compute the dropout, normalisation and attention dropout of ``model``, in place.

    Modules of exactly PyTorch's classes are swapped: ``Dropout``, ``Dropout1d``, ``Dropout2d``, ``BatchNorm1d``,
    ``BatchNorm2d``, ``SyncBatchNorm``, ``LayerNorm``, ``RMSNorm``, ``MultiheadAttention``,
    ``TransformerEncoderLayer``. Subclasses are left alone, because they may compute something else; ``report`` names
    them. Converting twice changes nothing more.

    Args:
        model: Any module; itself swapped if it is of these classes.
        only: Modules to swap, all others are left: a class of PyTorch, the qualified name of a module (which stands for
            all within it too), or an iterable of both.
        skip: Modules to leave, likewise. A ``TransformerEncoderLayer`` is left with the norms and dropouts in it that
            it would compute itself.

    Returns:
        ``model``.

    Raises:
        TypeError: For a ``model`` that is no module or a TorchScript one, or an ``only`` or ``skip`` of another type.
        ValueError: For a name that is not in the model, or a class that is never swapped. Nothing is changed then.
    """
    _check(model)
    chosen = None if only is None else _matching(model, only, "only")
    left = set() if skip is None else _matching(model, skip, "skip")
    left |= {id(layer) for layer in _encoder_layers(model) if any(id(part) in left for part in _fused_parts(layer))}
    for module in model.modules():
        if _obstacle(module) is None and id(module) not in left and (chosen is None or id(module) in chosen):
            module.__class__ = SWAPS[type(module)]
    return model


def revert(model: Model) -> Model:
    """Undo :func:`convert`, in place: every module of cregkit becomes PyTorch's again, however it was made.

    Args:
        model: Any module.

    Returns:
        ``model``.

    Raises:
        TypeError: For a ``model`` that is no module or a TorchScript one.
    """
    _check(model)
    for module in model.modules():
        if type(module) in _STOCK:
            module.__class__ = _STOCK[type(module)]
    return model


def report(model: nn.Module) -> Report:
    """List what of a model computes with cregkit, and what does not and why.

    Args:
        model: Any module.

    Returns:
        An entry for each dropout, normalisation and attention module; ``print`` shows a table.

    Raises:
        TypeError: For a ``model`` that is no module or a TorchScript one.
    """
    _check(model)
    return Report(tuple(_entries(model)))


def _entries(model: nn.Module) -> Iterator[Entry]:
    for name, module in model.named_modules():
        kind = type(module).__name__
        if type(module) in _STOCK:
            yield Entry(name, kind, True, _fallback(module))
        elif isinstance(module, (*SWAPS, *_RELATED)) or getattr(module, "original_name", "") in _NAMES:
            yield Entry(name, kind, False, _obstacle(module) or "PyTorch's: convert() would swap it")


def _obstacle(module: nn.Module) -> str | None:
    """Why ``convert`` leaves a module, None if it does not."""
    if isinstance(module, torch.jit.ScriptModule):
        return "TorchScript: its graph is fixed; convert before scripting"
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "not initialised yet: run a batch through the model, then convert again"
    if type(module) not in SWAPS:
        base = next((stock for stock in SWAPS if isinstance(module, stock)), None)
        return f"a subclass of {base.__name__}: may compute something else" if base else "no kernel for it"
    if "forward" in vars(module):
        return "has a forward of its own"
    return None


def _fallback(module: nn.Module) -> str:
    """What makes a swapped module compute with PyTorch's own implementation all the same, as far as it can be told."""
    tensors = [*module.parameters(), *module.buffers()]
    dtypes = {t.dtype for t in tensors if t.is_floating_point()} - {torch.float32}
    devices = {t.device for t in tensors if t.device.type != "cpu"}
    odd = sorted(map(str, dtypes | devices))
    if odd:
        return f"falls back to PyTorch's: parameters are {', '.join(odd)}, not float32 on the CPU"
    return _step_by_step(module) if isinstance(module, nn.TransformerEncoderLayer) else ""


def _step_by_step(layer: nn.TransformerEncoderLayer) -> str:
    """Which dropouts and norms of an encoder layer are not computed in one pass, and why."""
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
            "model is a TorchScript module, whose graph is fixed: convert the torch.nn.Module it was made from"
        )


def _matching(model: nn.Module, choice: Choice, argument: str) -> set[int]:
    """The ids of the modules that ``choice`` names."""
    items = [choice] if isinstance(choice, (str, type)) or not isinstance(choice, Iterable) else list(choice)
    matching: set[int] = set()
    for item in items:
        if isinstance(item, str):
            try:
                part = model.get_submodule(item)
            except AttributeError:
                raise ValueError(
                    f"{argument} must name modules of the model, and there is no {item!r}: see model.named_modules()"
                ) from None
            matching.update(map(id, part.modules()))
        elif isinstance(item, type):
            if item not in SWAPS:
                known = ", ".join(stock.__name__ for stock in SWAPS)
                raise ValueError(f"{argument} must be of the classes that are swapped ({known}), got {item.__name__}")
            matching.update(id(module) for module in model.modules() if type(module) is item)
        else:
            raise TypeError(
                f"{argument} must be a module's name, a class of torch.nn, or an iterable of these, got {item!r}"
            )
    return matching
