"""A fixture that sends PyTorch tensors of every size to the kernels."""

from __future__ import annotations

from collections.abc import Callable
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
