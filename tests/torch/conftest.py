"""Fixtures that send PyTorch tensors of every size to the kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call kernels from Python, as without the native library."""
    from cregkit.torch import dispatch

    monkeypatch.setattr(dispatch, "library", None)


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch, without_library: None) -> list[str]:
    """Send PyTorch tensors of every size to the kernels, and record the names of calls."""
    from cregkit.torch import attention, autograd, bridge

    names: list[str] = []

    def noting(kernel: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        names.append(kernel.__name__)
        return bridge.run(kernel, *arguments, **options)

    monkeypatch.setattr(autograd, "run", noting)
    monkeypatch.setattr(attention, "run", noting)
    for op in bridge.SMALLEST:
        monkeypatch.setitem(bridge.SMALLEST, op, 1)
    return names


@pytest.fixture
def kernels() -> Iterator[None]:
    """Send tensors of every size to the kernels; ends with the ops off and PyTorch's sizes."""
    import cregkit.torch
    from cregkit.torch import dispatch

    for op in dispatch.SMALLEST:
        dispatch.library.set_smallest(op, 1, 1)
    with cregkit.torch.enable():
        yield
    cregkit.torch.disable()
    for op, elements in dispatch.SMALLEST.items():
        dispatch.library.set_smallest(op, elements, dispatch.FEWEST_POSITIONS.get(op, 0))
