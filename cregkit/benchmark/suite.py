"""One row of the benchmark: an op on a shape, checked against the oracle, then timed with copies and peers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from cregkit import functional
from cregkit.benchmark import peers as peers_module
from cregkit.benchmark.peers import Peer, Torch
from cregkit.benchmark.roofline import copies
from cregkit.benchmark.timing import Contestant, Measurement, measure
from cregkit.kernels import _threads
from cregkit.verify import cases
from cregkit.verify.cases import FLOAT32_CASES as CASES
from cregkit.verify.cases import Case
from cregkit.verify.dtypes import DTYPES, FLOAT32, widened
from cregkit.verify.inputs import Arguments
from cregkit.verify.shapes import Shape

OURS, OURS_OUT, OURS_SERIAL = "cregkit", "cregkit out=", "cregkit 1 thread"
OURS_FLOAT32 = "cregkit float32"
"""The op on float32 tensors, in the rows of 16-bit tensors."""
COPY = "copy: "
PARALLEL_ELEMENTS = 1 << 18
"""Elements from which an op is also timed on one thread."""

PROMISED = (
    "layer_norm",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_backward",
    "batch_norm_forward[N, C]",
    "batch_norm_forward[N, C, ...]",
    "batch_norm_forward[..., C]",
    "batch_norm_backward[N, C]",
    "batch_norm_backward[N, C, ...]",
    "batch_norm_backward[..., C]",
    "batch_norm[N, C]",
    "batch_norm[N, C, ...]",
    "batch_norm[..., C]",
    "group_norm_forward[N, C, ...]",
    "group_norm_forward[..., C]",
    "group_norm_backward[N, C, ...]",
    "group_norm_backward[..., C]",
    "instance_norm_forward[N, C, ...]",
    "instance_norm_forward[..., C]",
    "instance_norm_backward[N, C, ...]",
    "instance_norm_backward[..., C]",
    "dropout",
    "dropout_backward",
    "dropout_add_layer_norm_forward[p = 0.5]",
    "dropout_add_layer_norm_backward[p = 0.5]",
    "dropout_add_rms_norm_forward[p = 0]",
    "adamw_step[decoupled]",
)
"""The cases whose speed is promised, which ``--quick`` measures and the plot shows."""


@dataclass(frozen=True)
class Row:
    """The measurements of an op on a shape: seconds per call by contestant, and the contestants with wrong results."""

    case: str
    shape: Shape
    n_bytes: int
    """Bytes the op moves to and from memory."""
    times: Mapping[str, Measurement]
    void: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with the results, by contestant."""

    @property
    def n_elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def seconds(self, contestant: str) -> float:
        """Return the time of a contestant; infinite if it was not timed."""
        return self.times[contestant].quartile if contestant in self.times else math.inf

    @property
    def is_16_bit(self) -> bool:
        """Whether the tensors have 16 bits."""
        return self.case.endswith("float16]")

    @property
    def copy(self) -> str:
        """Name of the fastest copy."""
        return min((name for name in self.times if name.startswith(COPY)), key=self.seconds, default="")

    def share(self, contestant: str) -> float:
        """Return the contestant's bandwidth as a fraction of that of the fastest copy."""
        return self.seconds(self.copy) / self.seconds(contestant)

    def best(self, among: Sequence[str]) -> str:
        """Return the fastest of these peers, or an empty string if none was timed."""
        return min((name for name in among if name in self.times), key=self.seconds, default="")

    def ratio(self, peer: str, contestant: str = OURS) -> float:
        """Return the speed-up of a contestant (default: cregkit) over a peer."""
        return self.seconds(peer) / self.seconds(contestant)


def plan(*, quick: bool, held_out: bool, types: Sequence[str] = ("float32",)) -> list[tuple[Case, Shape]]:
    """Return the cases and shapes to measure; if ``quick``, three shapes of each promised case, small ones first."""
    promised = [case for case in CASES if case.name in PROMISED]
    chosen: list[Case] = []
    for dtype in (known for name in types for known in DTYPES if known.name == name):
        if dtype == FLOAT32:
            chosen += promised if quick else CASES
        else:  # the promised cases alone
            chosen += [case.stored_as(dtype) for case in promised if dtype in case.dtypes]
    if quick:
        few = [(case, case.timed.held_out if held_out else case.timed.quick) for case in chosen]
        return [(case, shapes[rung]) for rung in range(3) for case, shapes in few]
    return [(case, shape) for case in chosen for shape in (case.timed.held_out if held_out else case.timed.tuned)]


def measure_row(case: Case, shape: Shape, peers: Sequence[Peer], n_threads: int, budget: float) -> Row:
    """Check cregkit and the peers against the oracle, then time those that are correct, and the copies.

    A wrong result of cregkit voids the row; a wrong result of a peer voids its entry.

    Parameters
    ----------
    case, shape
        What to measure.
    peers
        Libraries to compare with.
    n_threads
        Number of threads.
    budget
        Seconds to measure.

    Returns
    -------
    Row
        The measurements.
    """
    arguments = case.arguments(shape, np.random.default_rng(shape), 0.0)
    n_bytes = case.bytes_per_element * math.prod(shape)
    reference = cases.reference(case, arguments)
    errors = cases.errors(case, arguments, cases.run(case, functional, arguments), reference)
    wrong = [f"{name} is off by {share:.3g} times its tolerance" for name, share in errors.items() if not share <= 1.0]
    if wrong:
        return Row(case.name, shape, n_bytes, {}, {OURS: "; ".join(wrong)})
    contestants = ours(case, arguments, n_threads)
    void = {}
    for peer in peers:
        prepared = peer.prepare(case, arguments) if case.dtype == FLOAT32 or peer.takes_16_bits else None
        if prepared is None:
            continue
        if complaint := peers_module.complaint(case, arguments, prepared, reference):
            void[peer.name] = complaint
        else:
            contestants[peer.name] = Contestant(prepared.call, peer.pool)
    del reference
    torch = next((peer.module for peer in peers if isinstance(peer, Torch)), None)
    contestants |= {COPY + name: contestant for name, contestant in copies(n_bytes, n_threads, torch).items()}
    before = _threads.get_num_threads()
    try:
        times = measure(dict(sorted(contestants.items(), key=lambda item: item[1].pool != "openmp")), budget)
    finally:
        _threads.set_num_threads(before)
    return Row(case.name, shape, n_bytes, times, void)


def ours(case: Case, arguments: Arguments, n_threads: int) -> dict[str, Contestant]:
    """Return cregkit's op: allocating, with ``out``, if large on one thread too, if of 16 bits on float32 too."""
    function = getattr(functional, case.op)
    call = _bound(function, peers_module.copy_changed(case, arguments))
    threads = partial(_threads.set_num_threads, n_threads)
    contestants = {OURS: Contestant(call, setup=threads)}
    like = arguments.get("x", arguments.get("dy", arguments.get("w")))
    if "out" in inspect.signature(function).parameters and like is not None:
        contestants[OURS_OUT] = Contestant(partial(call, out=np.zeros_like(like)), setup=threads)
    if n_threads > 1 and peers_module.elements(arguments) >= PARALLEL_ELEMENTS:
        contestants[OURS_SERIAL] = Contestant(call, setup=partial(_threads.set_num_threads, 1))
    if case.dtype != FLOAT32:
        wide = widened(peers_module.copy_changed(case, arguments))
        contestants[OURS_FLOAT32] = Contestant(_bound(function, wide), setup=threads)
    return contestants


def _bound(function: Any, arguments: Arguments) -> partial[Any]:
    """Bind the arguments by position where possible, as in a speed-critical call."""
    given = dict(arguments)
    positional = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in given or parameter.kind is parameter.KEYWORD_ONLY:
            break
        positional.append(given.pop(name))
    return partial(function, *positional, **given)
