"""The speed this project promises: each goal is judged by the measured rows."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cregkit import functional
from cregkit.benchmark.suite import OURS, OURS_FLOAT32, OURS_OUT, OURS_SERIAL, PARALLEL_ELEMENTS, Row
from cregkit.benchmark.timing import Contestant, measure

BEYOND_L2 = 16 << 20
"""Bytes moved from which the data exceed L2, so that copy bandwidth is the limit."""
BEYOND_LLC = 64 << 20
"""Bytes moved from which 16-bit tensors are judged: more than the LLC holds."""
FEW_DRAWS = 50_000
SUBLAYER = 1 << 19
"""Elements from which the fused ops of a transformer sublayer are judged."""
FUSED = ("dropout_add_layer_norm", "dropout_add_rms_norm")
ACROSS = ("[axis = 0]", "[axis = 1]")
"""Labels of the norms whose rows lie across memory, which have their own limit."""
IMPORTS = 7
MIB = 1 << 20


@dataclass(frozen=True)
class Goal:
    """A promise: what, against what, the limit, the measured value (None: not measured), and the op and shape of it."""

    what: str
    against: str
    limit: float
    value: float | None
    where: str = ""
    at_most: bool = False
    unit: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the value is within the limit; None if nothing was measured."""
        if self.value is None:
            return None
        return self.value <= self.limit if self.at_most else self.value >= self.limit


ROWS = "layer-norm-and-rms-norm-row_normh-rowsh"
SUBLAYERS = "dropout-addition-and-a-norm-dropout_add_normh"
BATCHES = "batch-norm-batch_normh"
GROUPS = "group-norm-and-instance-norm-group_normh"
AXES = "layer-norm-and-rms-norm-over-an-axis-that-is-not-the-last-channel_normh"
DRAWS = "dropout-dropouth-drawsh"
LOOPS = "parallel-loops-cregkitkernels_threadspyx"
CALLS = "calls"
HALVES = "16-bit-tensors-storedh"
FUNCTIONAL, INTO_OUT, LAYER = (f"a call on (1, 768), {how}" for how in ("functional", "with out=", "layer in eval"))
CALL_LIMITS = {FUNCTIONAL: 1.4, INTO_OUT: 1.0, LAYER: 2.4}
"""The time of a call, at most, relative to that of ``np.empty_like``."""
LIMITS = {
    "layer_norm, rms_norm, every cell": (ROWS, "memory: from 16 MiB on, no library gains more"),
    "layer_norm_backward": (ROWS, "memory: non-temporal stores from the size of the LLC on"),
    "batch_norm training forward, every cell": (BATCHES, "the bytes of two passes"),
    "batch_norm backward": (BATCHES, "the bytes of two passes"),
    "batch_norm inference": (BATCHES, "both are bound by memory"),
    "group_norm forward": (GROUPS, "the same loads and stores alone"),
    "group_norm backward": (GROUPS, "the same loads and stores alone"),
    "instance_norm backward": (GROUPS, "the same loads and stores alone"),
    "dropout forward + backward, from 50_000, every cell": (DRAWS, "backward draws the random bits again"),
    "dropout forward + backward, from 50_000, geometric mean": (DRAWS, "backward draws the random bits again"),
    "dropout + addition + norm, forward + backward, p = 0.5 or p = 0": (SUBLAYERS, "memory, with dropout the draws"),
    "addition + norm": (SUBLAYERS, "bound by memory"),
    "forward into out=": (ROWS, "the additions of layer norm, within the LLC"),
    "norms across memory into out=": (AXES, "two passes over L2"),
    "dropout into out=": (DRAWS, "7 operations for 2 elements, beside a copy within the caches"),
    "backward into out=": (ROWS, "the additions to dgamma and dbeta, in short rows"),
    "dropout + addition + norm into out=": (SUBLAYERS, "the additions of layer norm"),
    "batch_norm training into out=": (BATCHES, "the bytes of two passes"),
    "allocating calls, 16 MiB": (CALLS, "noise: the median row takes as long as with out="),
    "allocating calls, 128 MiB": (CALLS, "noise: the median row takes as long as with out="),
    f"all threads, from {PARALLEL_ELEMENTS >> 10} Ki elements": (LOOPS, "loops of few tasks"),
    "16-bit tensors beyond the LLC": (HALVES, "instructions: conversions in each pass"),
    "layer_norm of bfloat16": (ROWS, "rows wider than L1 are read twice from L2"),
    "batch_norm_forward of bfloat16": (HALVES, "instructions: short planes take as long in float32"),
    "batch_norm_backward of bfloat16": (HALVES, "memory"),
    FUNCTIONAL: (CALLS, "as many instructions around the kernel as np.empty_like takes"),
    INTO_OUT: (CALLS, "the instructions of the kernel and of the checks"),
    LAYER: (CALLS, "Python's call of the layer"),
}
"""What bounds an op where a goal is missed: the section of csrc/TUNING.md with the measurements, and the limit."""

Cell = tuple[float, str]
"""A value with its op and shape."""


def judge(rows: Sequence[Row]) -> list[Goal]:
    """Judge every goal that is measured by rows; those of 16-bit tensors have their own."""
    wide = [row for row in rows if not row.is_16_bit]
    narrow = [row for row in rows if row.is_16_bit]
    return [*_against_peers(wide), *_against_copy(wide), *_allocating(wide), *_threads(wide), *_of_16_bits(narrow)]


def _against_peers(rows: Sequence[Row]) -> Iterator[Goal]:
    forward = ("torch", "torch.compile", "onnxruntime")
    norms = _ratios(rows, ("layer_norm", "rms_norm"), forward)
    yield from _each_and_mean("layer_norm, rms_norm", "best of PyTorch, torch.compile, ONNX Runtime", norms, 1.2, 2.5)
    yield _worst("layer_norm_backward", "PyTorch", _ratios(rows, ("layer_norm_backward",), ("torch",)), 1.5)
    training = _ratios(rows, ("batch_norm_forward",), ("torch",))
    yield from _each_and_mean("batch_norm training forward", "PyTorch", training, 1.5, 2.5)
    yield _worst("batch_norm backward", "PyTorch", _ratios(rows, ("batch_norm_backward",), ("torch",)), 1.3)
    yield _worst("batch_norm inference", "PyTorch", _ratios(rows, ("batch_norm",), ("torch",)), 1.1)
    for norm in ("group_norm", "instance_norm"):
        yield _worst(f"{norm} forward", "PyTorch", _ratios(rows, (norm, f"{norm}_forward"), ("torch",)), 2.0)
        yield _worst(f"{norm} backward", "PyTorch", _ratios(rows, (f"{norm}_backward",), ("torch",)), 2.0)
    yield from _dropout(rows)
    yield from _fused(rows)
    large = [row for row in rows if row.n_elements >= 10_000_000]
    yield _worst("adamw_step, 10 M parameters", "PyTorch, fused", _ratios(large, ("adamw_step",), ("torch",)), 1.0)
    yield _worst("adamw_step, 10 M parameters", "the oracle", _ratios(large, ("adamw_step",), ("oracle",)), 8.0)


def _dropout(rows: Sequence[Row]) -> Iterator[Goal]:
    cells: dict[bool, list[Cell]] = {True: [], False: []}
    for n_elements, cell in _training(rows, "dropout", "dropout_backward", "torch"):
        cells[n_elements >= FEW_DRAWS].append(cell)
    yield _worst(f"dropout forward + backward, below {FEW_DRAWS:_} elements", "PyTorch", cells[False], 6.0)
    yield from _each_and_mean(f"dropout forward + backward, from {FEW_DRAWS:_}", "PyTorch", cells[True], 25.0, 30.0)


def _fused(rows: Sequence[Row]) -> Iterator[Goal]:
    for against, peer, labels, limit in (
        ("the ops one after another", "unfused", ("p = 0.5", "p = 0"), 1.5),
        ("PyTorch", "torch", ("p = 0.5",), 3.0),
    ):
        cells = [
            cell
            for norm in FUSED
            for label in labels
            for n_elements, cell in _training(rows, f"{norm}_forward[{label}]", f"{norm}_backward[{label}]", peer)
            if n_elements >= SUBLAYER
        ]
        what = f"dropout + addition + norm, forward + backward, {' or '.join(labels)}"
        yield _worst(what, against, cells, limit)
    inference = [row for row in rows if row.n_elements >= SUBLAYER]
    cells = _ratios(inference, [f"{norm}_forward" for norm in FUSED], ("onnxruntime",))
    yield _worst("addition + norm", "ONNX Runtime, fused too", cells, 1.3)


def _training(rows: Sequence[Row], forward: str, backward: str, peer: str) -> Iterator[tuple[int, Cell]]:
    """Compare forward plus backward: PyTorch draws random numbers in forward only, cregkit in both."""
    others = {row.shape: row for row in rows if row.case == backward}
    for row in rows:
        other = others.get(row.shape)
        if row.case == forward and other is not None and {peer, OURS} <= row.times.keys() & other.times.keys():
            theirs, own = (row.seconds(name) + other.seconds(name) for name in (peer, OURS))
            yield row.n_elements, (theirs / own, _where(row))


def _against_copy(rows: Sequence[Row]) -> Iterator[Goal]:
    groups = (
        ("forward into out=", ("layer_norm", "rms_norm", "batch_norm", "l2_gradient", "spatial_dropout"), 0.9),
        (
            "norms across memory into out=",
            [norm + label for norm in ("layer_norm", "rms_norm") for label in ACROSS],
            0.85,
        ),
        ("dropout into out=", ("dropout", "dropout_backward"), 0.9),
        ("backward into out=", ("layer_norm_backward", "rms_norm_backward", "batch_norm_inference_backward"), 0.9),
        ("dropout + addition + norm into out=", [f"{norm}_forward" for norm in FUSED], 0.85),
        ("batch_norm training into out=", ("batch_norm_forward", "batch_norm_backward"), 0.9),
    )
    for what, ops, limit in groups:
        cells = [
            (row.share(OURS_OUT), _where(row))
            for row in rows
            if (row.case if row.case.endswith(ACROSS) else _op(row)) in ops
            and row.n_bytes >= BEYOND_L2
            and OURS_OUT in row.times
            and row.copy
        ]
        yield _worst(what, "bandwidth of the fastest copy", cells, limit)


def _allocating(rows: Sequence[Row]) -> Iterator[Goal]:
    for n_bytes in (16 * MIB, 128 * MIB):
        cells = [
            (row.seconds(OURS) / row.seconds(OURS_OUT), _where(row))
            for row in rows
            if row.n_elements * 4 == n_bytes and {OURS, OURS_OUT} <= row.times.keys()
        ]
        yield _worst(f"allocating calls, {n_bytes // MIB} MiB", "the same with out=", cells, 1.1, at_most=True)


def _threads(rows: Sequence[Row]) -> Iterator[Goal]:
    cells = [
        (row.ratio(OURS_SERIAL), _where(row))
        for row in rows
        if row.n_elements >= PARALLEL_ELEMENTS and OURS_SERIAL in row.times
    ]
    yield _worst(f"all threads, from {PARALLEL_ELEMENTS >> 10} Ki elements", "one thread", cells, 1.7)


def _of_16_bits(rows: Sequence[Row]) -> Iterator[Goal]:
    large = [row for row in rows if row.n_bytes >= BEYOND_LLC and OURS in row.times]
    cells = [(row.ratio(OURS_FLOAT32), _where(row)) for row in large]
    yield _worst("16-bit tensors beyond the LLC", "the op on float32", cells, 1.7)
    bfloat16 = [row for row in rows if row.case.endswith("bfloat16]")]
    for norm, forward in (("layer_norm", ""), ("rms_norm", ""), ("batch_norm", "_forward")):
        for op in (norm + forward, f"{norm}_backward"):
            yield _worst(f"{op} of bfloat16", "PyTorch", _ratios(bfloat16, (op,), ("torch",)), 2.0)
    draws = [row for row in bfloat16 if row.n_elements >= FEW_DRAWS]
    yield _worst(f"dropout of bfloat16, from {FEW_DRAWS:_}", "PyTorch", _ratios(draws, ("dropout",), ("torch",)), 20.0)


def call_overhead(budget: float) -> list[Goal]:
    """Time calls on shape (1, 768), relative to ``np.empty_like``, because absolute times depend on the machine."""
    from cregkit.layers import LayerNorm, RMSNorm

    x, gamma, beta = (np.ones(shape, np.float32) for shape in ((1, 768), (768,), (768,)))
    out = np.empty_like(x)
    calls = {
        FUNCTIONAL: {
            "layer_norm": partial(functional.layer_norm, x, gamma, beta),
            "rms_norm": partial(functional.rms_norm, x, gamma),
        },
        INTO_OUT: {
            "layer_norm": partial(functional.layer_norm, x, gamma, beta, out=out),
            "rms_norm": partial(functional.rms_norm, x, gamma, out=out),
        },
        LAYER: {
            "LayerNorm": partial(LayerNorm(768).eval(), x),
            "RMSNorm": partial(RMSNorm(768).eval(), x),
        },
    }
    contestants = {f"{what} {op}": Contestant(call) for what, of_op in calls.items() for op, call in of_op.items()}
    times = measure(contestants | {"empty": Contestant(partial(np.empty_like, x))}, budget)
    empty = times["empty"].quartile
    return [
        _worst(
            what,
            f"np.empty_like ({empty * 1e6:.2f} us)",
            [(times[f"{what} {op}"].quartile / empty, op) for op in of_op],
            CALL_LIMITS[what],
            at_most=True,
        )
        for what, of_op in calls.items()
    ]


def import_time() -> Goal:
    """Time ``import cregkit`` and one op minus ``import numpy``, each in its own interpreter, interleaved."""
    pairs = [(_start("import numpy"), _start("import cregkit; cregkit.layer_norm")) for _ in range(IMPORTS)]
    numpy, own = (statistics.median(times) for times in zip(*pairs, strict=True))
    return Goal("import, with one op", "import numpy", 60.0, (own - numpy) * 1e3, at_most=True, unit=" ms")


def wheel_size(path: str) -> Goal:
    """Judge the size of a wheel."""
    size = Path(path).stat().st_size / MIB
    return Goal("wheel", "", 3.0, size, Path(path).name, at_most=True, unit=" MiB")


def _start(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def _ratios(rows: Iterable[Row], ops: Sequence[str], peers: Sequence[str]) -> list[Cell]:
    """Return cregkit's speed-up over the best of the peers, for each row of these ops."""
    return [
        (row.ratio(row.best(peers)), f"{_where(row)} {row.best(peers)}")
        for row in rows
        if _op(row) in ops and row.best(peers) and OURS in row.times
    ]


def _worst(
    what: str, against: str, cells: Sequence[Cell], limit: float, *, at_most: bool = False, unit: str = ""
) -> Goal:
    """Judge the worst cell."""
    pick: Callable[..., Cell] = max if at_most else min
    value, where = pick(cells) if cells else (None, "")
    return Goal(what, against, limit, value, where, at_most, unit)


def _each_and_mean(what: str, against: str, cells: Sequence[Cell], limit: float, mean_limit: float) -> Iterator[Goal]:
    yield _worst(f"{what}, every cell", against, cells, limit)
    mean = math.exp(statistics.fmean(math.log(value) for value, _ in cells)) if cells else None
    yield Goal(f"{what}, geometric mean", against, mean_limit, mean, f"{len(cells)} cells")


def _op(row: Row) -> str:
    return row.case.partition("[")[0]


def _where(row: Row) -> str:
    return f"{row.case} {'x'.join(map(str, row.shape))}"
