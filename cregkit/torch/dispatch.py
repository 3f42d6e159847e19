"""The kernels in PyTorch's own dispatcher: ``enable`` switches them on for every model of the process.

The native library (``cregkit/torch/native``) registers kernels for ops of ATen. PyTorch's autograd, vmap, FSDP and so
on work as ever, because the ops are PyTorch's own. The kernels are registered when ``cregkit.torch`` is imported, and
pass every call on to PyTorch's kernels until ``enable`` turns them on.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterable
from contextlib import ContextDecorator
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from cregkit.kernels import _entries

F = TypeVar("F", bound=Callable[..., Any])
Choice: TypeAlias = str | Iterable[str] | None

SMALLEST = {
    "layer_norm": 1,
    "rms_norm": 1,
    "batch_norm": 1,
    "group_norm": 64 * 1024,
    "dropout": 1,
    "bernoulli": 1,
}
"""The number of elements from which on a kernel takes a call; below, PyTorch's kernel is as fast in models."""

FEWEST_POSITIONS = {"group_norm": 64, "batch_norm": 128}
"""The number of positions of an image from which on a kernel takes a call; of batch norm, if there is one sample, as
PyTorch calls it for instance norm."""

_lock = threading.Lock()


def _load() -> tuple[Any, str]:
    """Return the native library for this version of PyTorch, its kernels registered; or None, and the reason."""
    major, minor, *_ = torch.__version__.split("+")[0].split(".")
    try:
        library = importlib.import_module(f"cregkit.torch._dispatcher_{major}_{minor}")
    except ModuleNotFoundError:
        return None, "were not built"
    except ImportError as error:
        return None, f"could not be loaded ({error})"
    library.install(_entries.table)
    for op, elements in SMALLEST.items():
        library.set_smallest(op, elements, FEWEST_POSITIONS.get(op, 0))
    return library, ""


library, _why_not = _load()
"""The native library, or None."""


def _required() -> Any:
    if library is None:
        raise ImportError(
            f"the kernels for the dispatcher of PyTorch {torch.__version__} {_why_not}: "
            "install cregkit with pip install --no-build-isolation where this PyTorch is installed, or use "
            "cregkit.torch.convert(model)"
        )
    return library


def _chosen(choice: Choice, argument: str) -> set[str]:
    names = {choice} if isinstance(choice, str) else set(choice or ())
    for name in names:
        if name not in SMALLEST:
            raise ValueError(f"{argument} must name ops ({', '.join(SMALLEST)}), got {name!r}")
    return names


def enabled() -> frozenset[str]:
    """Return the names of the ops that are on.

    Returns
    -------
    frozenset of str
        Empty without the native library.

    Examples
    --------
    >>> import cregkit.torch
    >>> sorted(cregkit.torch.enabled())
    []
    """
    return frozenset(op for op in SMALLEST if library is not None and library.is_on(op))


def _switch(on: Iterable[str]) -> None:
    with _lock:
        for op in SMALLEST:
            library.turn(op, op in on)


class enable(ContextDecorator):
    """Compute PyTorch's norms and dropout by cregkit's kernels, in every model of the process, from now on.

    These ops of float32, bfloat16 and float16 tensors on the CPU have kernels: ``layer_norm``, ``rms_norm``,
    ``batch_norm`` (and instance norm, which PyTorch computes by it), ``group_norm``, ``dropout`` (modules, functions,
    recurrent layers, attention) and ``bernoulli`` (``bernoulli_(p)``: channel dropout, alpha dropout, DropPath).

    The object is also a context manager and a decorator, at whose end the ops are on that were on before. It applies
    to all threads, and is safe while others compute. A backward pass uses the kernel if its forward pass did.

    Parameters
    ----------
    only
        A name of an op, or several; by default all.
    skip
        Ops to leave to PyTorch, in the same form.

    Raises
    ------
    ImportError
        The native library is not built for this PyTorch.
    ValueError
        No op has this name.

    Examples
    --------
    >>> import torch
    >>> import cregkit.torch
    >>> with cregkit.torch.enable(only="dropout"):
    ...     y = torch.nn.functional.dropout(torch.ones(100, 100))
    >>> cregkit.torch.usage()["dropout"]["taken"] > 0
    True
    """

    def __init__(self, *, only: Choice = None, skip: Choice = None) -> None:
        _required()
        ops = (set(SMALLEST) if only is None else _chosen(only, "only")) - _chosen(skip, "skip")
        self._before = enabled()
        self._ops = frozenset(ops)
        _switch(self._ops)

    def __enter__(self) -> enable:
        """Return the object; the ops are on already."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Turn on what was on before, and everything else off."""
        _switch(self._before)

    def __call__(self, function: F) -> F:
        """Decorate a function: its calls compute by the kernels."""
        ops = self._ops
        _switch(self._before)

        @wraps(function)
        def within(*arguments: Any, **named: Any) -> Any:
            with enable(only=ops):
                return function(*arguments, **named)

        return within  # type: ignore[return-value]


converted: Callable[..., Tensor] = library and library.converted
"""Call a function, given first, with the kernels of all ops, whatever is on: for converted modules. None without the
native library."""


def disable() -> None:
    """Leave all ops to PyTorch again.

    Examples
    --------
    >>> import cregkit.torch
    >>> cregkit.torch.disable()
    """
    if library is not None:
        _switch(())


def usage() -> dict[str, dict[str, int]]:
    """Count the calls of each op that the kernel took, or why PyTorch's kernel did, since the process began.

    Calls of an op that is off are not counted. ``small``: too few elements; ``dtype``: mixed, or not float32, bfloat16
    or float16; ``layout``: an unsupported shape or memory layout; ``transformed``: tracing, ``torch.func``,
    forward-mode differentiation or tensor subclasses.

    Returns
    -------
    dict of dicts
        The counts, by op and by ``taken`` or the reason.

    Raises
    ------
    ImportError
        The native library is not built for this PyTorch.

    Examples
    --------
    >>> import cregkit.torch
    >>> sorted(cregkit.torch.usage())
    ['batch_norm', 'bernoulli', 'dropout', 'group_norm', 'layer_norm', 'rms_norm']
    """
    return {op: dict(_required().calls(op)) for op in SMALLEST}


@dataclass(frozen=True)
class OpEntry:
    """An op in an :class:`OpReport`.

    Examples
    --------
    >>> import cregkit.torch
    >>> cregkit.torch.report().entries[0].op
    'layer_norm'
    """

    op: str
    """Its name."""
    on: bool
    """Whether the kernel is on."""
    smallest: int
    """The number of elements from which on the kernel takes a call."""
    calls: dict[str, int]
    """How many calls the kernel took, or why PyTorch's did: see :func:`usage`."""


@dataclass(frozen=True)
class OpReport:
    """The ops with kernels in PyTorch's dispatcher; ``str(report)`` is a table.

    Examples
    --------
    >>> import cregkit.torch
    >>> [entry.op for entry in cregkit.torch.report().entries if entry.on]
    []
    """

    entries: tuple[OpEntry, ...]
    """One entry per op."""

    def __str__(self) -> str:
        """Return a table with a line per op: on or off, smallest number of elements, calls by kernel, other calls."""
        rows = [("op", "kernel", "from", "calls", "of these by PyTorch")]
        for entry in self.entries:
            others = {fate: n for fate, n in entry.calls.items() if n and fate != "taken"}
            why = ", ".join(f"{n} {fate}" for fate, n in others.items())
            total = str(sum(entry.calls.values()))
            rows.append((entry.op, "on" if entry.on else "off", str(entry.smallest), total, why))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]) for row in rows)
        return "\n".join(line.rstrip() for line in lines)


def op_report() -> OpReport:
    """Return which ops are on, from which sizes on, and how often their kernels took a call."""
    on, calls = enabled(), usage()
    return OpReport(tuple(OpEntry(op, op in on, _required().smallest(op), calls[op]) for op in SMALLEST))
