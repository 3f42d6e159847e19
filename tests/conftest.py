"""Fixtures for every instruction set and several thread counts, and hypothesis without deadlines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from support import ISAS, THREADS

from cregkit.kernels import _runtime, _threads

settings.register_profile("local", deadline=None, max_examples=25)
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True)
settings.register_profile("thorough", parent=settings.get_profile("local"), max_examples=200)
settings.register_profile("nightly", parent=settings.get_profile("local"), max_examples=10_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "local"))


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test with each instruction set of this CPU."""
    before = _runtime.current_isa()
    _runtime.use_isa(request.param)
    yield request.param
    _runtime.use_isa(before)


@pytest.fixture(params=THREADS)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Runs the test with each number of threads."""
    with _threads.exact_threads(request.param):
        yield request.param


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """PyTorch tensors of every size go to the kernels, whose calls are noted by name."""
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
