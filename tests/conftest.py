"""Fixtures of instruction sets and thread counts; profiles of hypothesis, without deadlines."""

from __future__ import annotations

import os
from collections.abc import Iterator

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
