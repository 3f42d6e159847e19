"""Every op of ``cregkit/verify/cases.py`` on float32, at three sizes: cregkit, a copy, and all installed peers.

The shapes are those of ``cregkit/verify/shapes.py``. Contestants run one after another here; use ``cregkit bench`` for
ratios, because it interleaves them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import copy_seconds, peer

from cregkit import functional
from cregkit.benchmark import suite
from cregkit.benchmark.peers import PEERS, complaint
from cregkit.benchmark.roofline import copies
from cregkit.verify import cases
from cregkit.verify.inputs import Arguments
from cregkit.verify.shapes import Shape

SIZES = ("small", "cache", "memory")
CELLS = [(case, size) for case in cases.FLOAT32_CASES for size in SIZES]
KINDS = {kind.name: kind for kind in PEERS}


class Cell(NamedTuple):
    """A case on a shape, with its arguments and the oracle's results."""

    case: cases.Case
    shape: Shape
    arguments: Arguments
    reference: dict[str, np.ndarray[Any, Any]]

    @property
    def n_bytes(self) -> int:
        return self.case.bytes_per_element * math.prod(self.shape)


class Contestant(NamedTuple):
    name: str
    call: Callable[[], object]


@pytest.fixture(params=CELLS, ids=lambda cell: f"{cell[0].name} {cell[1]}", scope="module")
def cell(request):
    case, size = request.param
    shape = case.timed.quick[SIZES.index(size)]
    arguments = case.arguments(shape, np.random.default_rng(shape), 0.0)
    return Cell(case, shape, arguments, cases.reference(case, arguments))


@pytest.fixture(params=[suite.OURS, suite.OURS_OUT, "copy", *KINDS])
def contestant(request, cell, n_threads):
    """Return each contestant after checking its results; skip if it lacks the op."""
    name = request.param
    if name in KINDS:
        return Contestant(name, peer_call(KINDS[name], cell, n_threads))
    if name == "copy":
        candidates = copies(cell.n_bytes, n_threads)
        return Contestant(name, candidates.get("memcpy", candidates["numpy"]).call)
    got = cases.run(cell.case, functional, cell.arguments)
    assert max(cases.errors(cell.case, cell.arguments, got, cell.reference).values()) <= 1.0
    own = suite.ours(cell.case, cell.arguments, n_threads)
    if name not in own:
        pytest.skip(f"{cell.case.op} has no out=")
    return Contestant(name, own[name].call)


def peer_call(kind, cell, n_threads):
    if not kind.available():
        pytest.skip(f"{kind.name} is not installed")
    prepared = peer(kind.name, n_threads).prepare(cell.case, cell.arguments)
    if prepared is None:
        pytest.skip(f"{kind.name} has no {cell.case.op}, or is too slow at this size")
    assert not complaint(cell.case, cell.arguments, prepared, cell.reference)
    return prepared.call


@pytest.mark.filterwarnings("default")  # warnings of the peers are not errors
@pytest.mark.benchmark(max_time=0.1, min_rounds=5, warmup=True, warmup_iterations=2, disable_gc=True)
def test_speed(contestant, benchmark, cell, n_threads):
    benchmark(contestant.call)
    seconds = benchmark.stats.stats.q1
    benchmark.extra_info.update(
        op=cell.case.name,
        shape=cell.shape,
        contestant=contestant.name,
        n_threads=n_threads,
        gigabytes_per_second=cell.n_bytes / seconds / 1e9,
        share_of_copy=copy_seconds(cell.n_bytes, n_threads) / seconds,
    )
