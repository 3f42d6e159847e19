"""A fixture that sends PyTorch tensors of every size to the kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
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
