"""The kernels in PyTorch's own dispatcher: ``enable`` switches them on for every model of the process.

The native library (``cregkit/torch/native``) registers kernels for ops of ATen. PyTorch's autograd, vmap, checkpointing,
FSDP and so on then work as ever, because the ops are PyTorch's own. The kernels are registered when ``cregkit.torch`` is
imported, and pass every call on to PyTorch's kernels until ``enable`` turns them on.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterable
from contextlib import ContextDecorator
from functools import wraps
from typing import Any, TypeAlias, TypeVar

import torch

from cregkit.kernels import _entries

F = TypeVar("F", bound=Callable[..., Any])
Choice: TypeAlias = str | Iterable[str] | None

SMALLEST = {
    "layer_norm": 2048,
    "rms_norm": 1,
    "batch_norm": 2048,
    "group_norm": 2048,
    "dropout": 1,
    "bernoulli": 2048,
}
"""The number of elements from which on a kernel takes a call; PyTorch's kernel is as fast below."""

_lock = threading.Lock()


def _load() -> Any:
    """Return the native library for this version of PyTorch, its kernels registered; None if it was not built."""
    major, minor, *_ = torch.__version__.split("+")[0].split(".")
    try:
        library = importlib.import_module(f"cregkit.torch._dispatcher_{major}_{minor}")
    except ImportError:
        return None
    library.install(_entries.table)
    for op, elements in SMALLEST.items():
        library.set_smallest(op, elements)
    return library


library = _load()
"""The native library, or None."""


def _required() -> Any:
    if library is None:
        raise RuntimeError(
            f"the kernels for PyTorch's dispatcher are not built for PyTorch {torch.__version__}: "
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


class enable(ContextDecorator):  # noqa: N801 - a function to its users
    """Compute PyTorch's norms and dropout by cregkit's kernels, in every model of the process, from now on.

    ``layer_norm``, ``rms_norm``, ``batch_norm`` (and instance norm, which PyTorch computes by it), ``group_norm``,
    ``dropout`` (modules, functions, recurrent layers, attention) and ``bernoulli`` (``bernoulli_(p)``: channel dropout,
    alpha dropout, DropPath) of float32, bfloat16 and float16 tensors on the CPU. The object is also a context manager
    and a decorator, at whose end the ops are on that were on before. It applies to all threads, and is safe while others
    compute. A backward pass may run later: each direction uses the kernels that are on when it runs.

    Parameters
    ----------
    only
        A name of an op, or several; by default all.
    skip
        Ops to leave to PyTorch, in the same form.

    Raises
    ------
    RuntimeError
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
        return self

    def __exit__(self, *exception: object) -> None:
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
    """Return how many calls of each op the kernel took, or why PyTorch's kernel did, since the process began.

    Calls of an op that is off are not counted. ``small``: too few elements; ``dtype``: another dtype than float32,
    bfloat16 and float16, or mixed; ``layout``: an unsupported shape or layout; ``transformed``: tracing, ``torch.func``,
    forward-mode differentiation or tensor subclasses.

    Examples
    --------
    >>> import cregkit.torch
    >>> sorted(cregkit.torch.usage())
    ['batch_norm', 'bernoulli', 'dropout', 'group_norm', 'layer_norm', 'rms_norm']
    """
    return {op: dict(_required().calls(op)) for op in SMALLEST}
