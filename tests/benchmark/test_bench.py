"""The benchmark: statistics, wrong results, goals, comparisons, and the command line.

The peers are made up, so that the tests need no other library.
"""

from __future__ import annotations

import itertools
import json
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from support import run_python

import cregkit
from cregkit import commands, functional
from cregkit.benchmark import goals, peers, report, roofline, suite, timing
from cregkit.benchmark.peers import Peer, Prepared
from cregkit.benchmark.report import Report
from cregkit.benchmark.suite import COPY, OURS, OURS_FLOAT32, OURS_OUT, OURS_SERIAL, PROMISED, Row
from cregkit.benchmark.timing import Contestant, Measurement, measure
from cregkit.commands import bench as command
from cregkit.verify import cases

LAYER_NORM = next(case for case in cases.CASES if case.name == "layer_norm")
DROPOUT = next(case for case in cases.CASES if case.name == "dropout")


class Right(Peer):
    """Returns the results of the oracle."""

    name, package, pool = "right", "numpy", "openmp"

    def prepare(self, case, arguments):
        return peers.Oracle(1).prepare(case, arguments)


class Garbage(Right):
    """Returns results with one wrong element."""

    name = "garbage"

    def prepare(self, case, arguments):
        def call():
            y = getattr(cregkit.oracle, case.op)(**arguments)
            y.flat[-1] += 0.01
            return y

        return Prepared(call, lambda y: {"y": y})


class Missing(Right):
    name, package = "missing", "a_package_that_nobody_has"


def times(**seconds):
    """Measurements by contestant, with a spread of 1% of the time."""
    names = {"ours": OURS, "out": OURS_OUT, "serial": OURS_SERIAL, "float32": OURS_FLOAT32, "copy": COPY + "numpy"}
    return {names.get(name, name): Measurement(s, s, 0.01 * s, s, 9) for name, s in seconds.items()}


def row(case="layer_norm", shape=(512, 768), **seconds):
    return Row(case, shape, 8 * math.prod(shape), times(**seconds))


def test_a_measurement_has_median_quartile_deviation_and_best():
    samples = [5.0, 1.0, 3.0, 2.0, 4.0, 1000.0, 2.5]
    measured = Measurement.of(samples)
    assert measured == Measurement(median=3.0, quartile=2.0, mad=1.0, best=1.0, n=7)
    assert measured.noise == pytest.approx(1.4826 / 3.0)
    with pytest.raises(ValueError, match="samples"):
        Measurement.of([])


def test_the_quartile_ignores_interference_in_most_samples():
    assert Measurement.of([1.0] * 4 + [50.0] * 6).quartile == 1.0


def test_contestants_take_turns(monkeypatch):
    monkeypatch.setattr(timing, "LONG_SECONDS", 0.0)  # one call is a sample
    calls, pauses = [], []
    monkeypatch.setattr(timing.time, "sleep", pauses.append)
    contestants = {
        "a": Contestant(lambda: calls.append("a"), setup=lambda: calls.append("(")),
        "b": Contestant(lambda: calls.append("b"), pool="another", setup=lambda: calls.append("[")),
    }
    measured = measure(contestants, budget=0.0)
    assert [m.n for m in measured.values()] == [timing.MIN_ROUNDS] * 2
    assert "".join(calls).endswith("(a(a[b[b" * timing.MIN_ROUNDS)  # an untimed call where the pool changes
    assert pauses == [timing.PAUSE_SECONDS] * 2 * timing.MIN_ROUNDS


def test_short_calls_are_repeated_within_a_sample():
    calls = []
    timing.measure({"a": Contestant(lambda: calls.append(0))}, budget=0.0)
    assert len(calls) > 100 * timing.MIN_ROUNDS


def test_calls_in_between_are_made_three_times_untimed(monkeypatch):
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 1e-9)
    calls = []
    timing.measure({who: Contestant(partial(calls.append, who)) for who in "ab"}, budget=0.0)
    assert "".join(calls).endswith("aaaabbbb" * timing.MIN_ROUNDS)


@pytest.fixture
def measured_with(monkeypatch):
    """Measure with a budget; a sample takes the next of these numbers of seconds.

    The clock ticks once each time it is read: at the start, and before every round after the first few.
    """

    def measured(seconds, budget):
        monkeypatch.setattr(timing, "Timer", lambda call, setup: SimpleNamespace(timeit=lambda number: next(seconds)))
        monkeypatch.setattr(timing, "_plan", lambda timer: (1, 0))
        monkeypatch.setattr(timing.time, "perf_counter", itertools.count().__next__)
        return measure({"a": Contestant(lambda: None)}, budget)["a"]

    return measured


@pytest.mark.parametrize(
    ("budget", "rounds"), [(0, timing.MIN_ROUNDS), (20, timing.MIN_ROUNDS + 20), (1000, timing.MAX_ROUNDS)]
)
def test_a_larger_budget_takes_more_rounds_up_to_the_limit(budget, rounds, measured_with):
    assert measured_with(itertools.repeat(1.0), budget).n == rounds


def test_rounds_continue_while_most_samples_are_disturbed(measured_with):
    untimed, disturbed = [9.0], [4.0, 4.0, 1.0, 4.0, 4.0, 4.0]
    measured = measured_with(itertools.chain(untimed, disturbed, itertools.repeat(1.1)), budget=1)
    assert (measured.quartile, measured.n) == (1.1, len(disturbed) + 1)


def test_rounds_end_when_samples_stay_disturbed(measured_with):
    samples = itertools.chain([9.0, 1.0], itertools.repeat(4.0))
    measured = measured_with(samples, budget=10)
    assert (measured.quartile, measured.n) == (4.0, timing.MIN_ROUNDS + timing.MAX_BUDGETS * 10)


def test_the_fewest_rounds_can_be_chosen():
    assert measure({"a": Contestant(lambda: None)}, 0.0, min_rounds=9)["a"].n == 9


@pytest.mark.parametrize("n", [1, 1000, 1 << 18])
def test_every_copy_copies(n):
    x = np.random.default_rng(0).standard_normal(n, np.float32)
    y = np.zeros_like(x)
    before = cregkit.get_num_threads()
    try:
        contestants = roofline.copies_between(x, y, 2)
        for contestant in contestants.values():
            y.fill(0.0)
            contestant.setup()
            contestant.call()
            assert np.array_equal(x, y)
    finally:
        cregkit.set_num_threads(before)
    assert len(contestants) == (4 if 2 * x.nbytes >= roofline.THREADED_BYTES else 1)


def test_a_peer_with_a_wrong_result_is_void():
    measured = suite.measure_row(LAYER_NORM, (3, 16), [Right(1), Garbage(1)], 1, 0.0)
    assert set(measured.times) == {OURS, OURS_OUT, "right", COPY + "numpy"}
    assert set(measured.void) == {"garbage"}
    assert "y is off by 0.01" in measured.void["garbage"]


def test_a_wrong_result_of_ours_voids_the_row(monkeypatch):
    monkeypatch.setattr(functional, "layer_norm", lambda x, gamma, beta, eps: x)
    measured = suite.measure_row(LAYER_NORM, (3, 16), [Right(1)], 1, 0.0)
    assert measured.times == {}
    assert set(measured.void) == {OURS}
    assert "WRONG" in report.cells(measured)


@pytest.mark.parametrize(("p", "scale", "wrong"), [(0.1, 1.0, ""), (0.2, 8 / 9, "not 0.1"), (0.1, 1.01, "x * 1.111")])
def test_dropout_of_a_peer_is_judged_by_scale_and_share(p, scale, wrong):
    arguments = DROPOUT.arguments((200, 200), np.random.default_rng(0), 0.0)
    other = cregkit.dropout(arguments["x"], p, seed=1) * np.float32(scale)
    prepared = Prepared(lambda: other, lambda y: {"y": y}, random=True)
    complaint = peers.complaint(DROPOUT, arguments, prepared, cases.reference(DROPOUT, arguments))
    assert wrong in complaint
    assert bool(wrong) == bool(complaint)


def test_a_row_restores_the_number_of_threads():
    before = cregkit.get_num_threads()
    suite.measure_row(LAYER_NORM, (512, 512), [], before + 1, 0.0)
    assert cregkit.get_num_threads() == before


def test_a_large_op_is_also_timed_on_one_thread():
    assert OURS_SERIAL in suite.ours(LAYER_NORM, LAYER_NORM.arguments((512, 512), np.random.default_rng(0), 0.0), 2)


def test_a_row_gives_the_ratio_to_peers_and_the_share_of_the_copy():
    measured = row(ours=2.0, out=1.0, copy=0.5, slow=8.0, fast=6.0)
    assert measured.best(["slow", "fast", "absent"]) == "fast"
    assert measured.ratio("fast") == 3.0
    assert measured.share(OURS_OUT) == 0.5
    assert report.cells(measured)[4:] == ["fast", "6000000", "3.00", "50%"]


def test_goals_are_judged_by_the_worst_cell():
    rows = [
        row(shape=(512, 512), ours=1.0, torch=4.0, onnxruntime=2.0, copy=1.0, serial=1.5),
        row(shape=(4096, 1024), ours=1.0, out=1.0, torch=8.0, copy=0.95, serial=1.9),
    ]
    judged = {goal.what: goal for goal in goals.judge(rows)}
    every, mean = (judged[f"layer_norm, rms_norm, {what}"] for what in ("every cell", "geometric mean"))
    assert (every.value, every.reached) == (2.0, True)
    assert "512x512 onnxruntime" in every.where
    assert mean.value == pytest.approx(4.0)
    assert (judged["forward into out="].value, judged["forward into out="].reached) == (0.95, True)
    threads = judged["all threads, from 256 Ki elements"]
    assert (threads.value, threads.reached) == (1.5, False)
    allocating = judged["allocating calls, 16 MiB"]
    assert (allocating.value, allocating.reached) == (1.0, True)
    assert judged["layer_norm_backward"].reached is None


def test_norms_across_memory_are_judged_by_their_own_limit():
    rows = [
        row("layer_norm", (4096, 1024), out=1.0, copy=0.95),
        row("layer_norm[axis = 1]", (16, 96, 56, 56), out=1.0, copy=0.86),
        row("rms_norm[axis = 0]", (768, 4096), out=1.0, copy=0.87),
        row("layer_norm_backward[axis = 1]", (16, 96, 56, 56), out=1.0, copy=0.5),
    ]
    judged = {goal.what: goal for goal in goals.judge(rows)}
    assert (judged["norms across memory into out="].value, judged["norms across memory into out="].reached) == (
        0.86,
        True,
    )
    assert judged["forward into out="].value == 0.95
    assert judged["backward into out="].value is None


def test_dropout_is_judged_by_forward_and_backward_together():
    rows = [row(case, ours=1.0, torch=seconds) for case, seconds in (("dropout", 50.0), ("dropout_backward", 2.0))]
    judged = {goal.what: goal.value for goal in goals.judge(rows)}
    assert judged["dropout forward + backward, from 50_000, every cell"] == 26.0


FUSED = [case for case in cases.FLOAT32_CASES if case.op.startswith("dropout_add_")]


def test_sublayers_are_judged_at_their_sizes():
    """Forward and backward together, against each peer; small shapes and other p are not judged."""
    pair = [f"dropout_add_rms_norm_{direction}[p = 0.5]" for direction in ("forward", "backward")]
    rows = [row(case, (1024, 512), ours=1.0, unfused=t, torch=4.0) for case, t in zip(pair, (1.0, 2.5), strict=True)]
    rows += [row(case, (32, 256), ours=1.0, unfused=0.1, torch=0.1) for case in pair]
    rows.append(row("dropout_add_layer_norm_forward[p = 0]", (1024, 512), ours=2.0, onnxruntime=3.0))
    judged = {(goal.what, goal.against): goal.value for goal in goals.judge(rows)}
    both = "dropout + addition + norm, forward + backward"
    assert judged[f"{both}, p = 0.5 or p = 0", "the ops one after another"] == 1.75
    assert judged[f"{both}, p = 0.5", "PyTorch"] == 4.0
    assert judged["addition + norm", "ONNX Runtime, fused too"] == 1.5


@pytest.mark.parametrize("case", FUSED, ids=lambda case: case.name)
@pytest.mark.parametrize("peer", [peers.Unfused, peers.Torch, peers.OnnxRuntime], ids=lambda peer: peer.name)
def test_peers_of_the_sublayer_have_right_results(peer, case):
    """Each peer computes the case with its own random numbers. ONNX Runtime has no dropout, PyTorch no gain_offset."""
    if not peer.available():
        pytest.skip(f"{peer.name} is not installed")
    arguments = case.arguments((300, 40), np.random.default_rng(0), 0.0)
    prepared = peer(cregkit.get_num_threads()).prepare(case, arguments)
    if prepared is None:
        assert peer is peers.OnnxRuntime or "gain_offset" in arguments
        assert peer is not peers.OnnxRuntime or arguments["p"] or "backward" in case.op
    else:
        assert not peers.complaint(case, arguments, prepared, cases.reference(case, arguments))


DROPOUTS = [
    case for case in cases.FLOAT32_CASES if case.op.removesuffix("_backward").endswith(("dropout", "drop_path"))
]


@pytest.mark.parametrize("case", DROPOUTS, ids=lambda case: case.name)
def test_dropouts_of_pytorch_have_right_results(case):
    if not peers.Torch.available():
        pytest.skip("torch is not installed")
    arguments = case.arguments((60, 40, 5), np.random.default_rng(0), 0.0)
    prepared = peers.Torch(1).prepare(case, arguments)
    assert not peers.complaint(case, arguments, prepared, cases.reference(case, arguments))


@pytest.mark.parametrize(
    ("op", "fault"),
    [
        ("alpha_dropout", lambda y: np.where(y < 0, 0, y)),
        ("feature_alpha_dropout", lambda y: y * np.float32(1.01)),
        ("spatial_dropout", lambda y: y * (np.arange(5) > 2)),
        ("drop_path", np.zeros_like),
    ],
)
def test_a_wrong_dropout_of_a_peer_is_found(op, fault):
    case = next(case for case in DROPOUTS if case.op == op)
    arguments = case.arguments((60, 40, 5), np.random.default_rng(0), 0.0)
    results = getattr(functional, op)(**arguments | {"seed": 1})
    for found, right in ((results, True), (fault(results), False)):
        prepared = Prepared(lambda: None, lambda _, found=found: {"y": found}, random=True)
        assert bool(peers.complaint(case, arguments, prepared, cases.reference(case, arguments))) != right


OPTIONS = [case for case in cases.FLOAT32_CASES if case.label.startswith(("axis =", "gain_offset ="))]


@pytest.mark.parametrize("case", OPTIONS, ids=lambda case: case.name)
@pytest.mark.parametrize("peer", [peers.Torch, peers.OnnxRuntime, peers.Jax], ids=lambda peer: peer.name)
def test_peers_compute_options_of_the_norms_or_are_left_out(peer, case):
    if not peer.available():
        pytest.skip(f"{peer.name} is not installed")
    arguments = case.arguments((30, 3, 40), np.random.default_rng(0), 0.0)
    prepared = peer(cregkit.get_num_threads()).prepare(case, arguments)
    computed = peer is peers.Torch and "axis" in arguments and case.op != "rms_norm_forward"
    assert (prepared is not None) == computed
    assert prepared is None or not peers.complaint(case, arguments, prepared, cases.reference(case, arguments))


def test_no_other_op_has_an_unfused_form():
    others = [case for case in cases.FLOAT32_CASES if case not in FUSED]
    assert all(peers.Unfused(1).prepare(case, {"p": 0.5}) is None for case in others)


@pytest.mark.parametrize(("name", "scale", "wrong"), [("h", 1.01, "h - residual is not x"), ("y", 1.01, "y is off by")])
def test_a_random_peer_is_judged_by_its_own_dropout(name, scale, wrong):
    case = next(case for case in FUSED if case.name == "dropout_add_layer_norm_forward[p = 0.5]")
    arguments = case.arguments((300, 40), np.random.default_rng(0), 0.0)
    y, h, *_ = functional.dropout_add_layer_norm_forward(**arguments | {"seed": 1})
    for results, complaint in (({"y": y, "h": h}, ""), ({"y": y, "h": h, name: scale * {"y": y, "h": h}[name]}, wrong)):
        prepared = Prepared(lambda: None, lambda _, results=results: results, random=True)
        found = peers.complaint(case, arguments, prepared, cases.reference(case, arguments))
        assert found.startswith(complaint)
        assert bool(found) == bool(complaint)


OF_FLOAT16 = suite.plan(quick=True, held_out=False, types=["float16"])
FLOAT16 = [case for case, _ in OF_FLOAT16[: len(OF_FLOAT16) // 3]]


def test_a_default_run_has_float32_alone():
    planned = suite.plan(quick=False, held_out=False)
    assert {case.name for case, _ in planned} == {case.name for case in cases.FLOAT32_CASES}
    both = suite.plan(quick=False, held_out=False, types=["float32", "float16"])
    assert both[: len(planned)] == planned
    added = {case.name for case, _ in both[len(planned) :]}
    assert {"layer_norm[float16]", "dropout[float16]", "batch_norm_forward[N, C, ..., float16]"} < added
    assert all(name.endswith("float16]") and "adamw" not in name for name in added)


def test_a_row_of_16_bits_is_timed_beside_float32_and_peers_that_take_16_bits():
    measured = suite.measure_row(LAYER_NORM.stored_as(np.dtype(np.float16)), (3, 16), [Right(1)], 1, 0.0)
    assert set(measured.times) == {OURS, OURS_OUT, OURS_FLOAT32, COPY + "numpy"}
    assert (measured.case, measured.n_bytes, measured.is_16_bit) == ("layer_norm[float16]", 4 * 48, True)
    assert not suite.measure_row(LAYER_NORM, (3, 16), [], 1, 0.0).is_16_bit


def test_a_row_of_16_bits_times_the_op_on_float32_tensors_too():
    case = LAYER_NORM.stored_as(np.dtype(np.float16))
    calls = suite.ours(case, case.arguments((3, 16), np.random.default_rng(0), 0.0), 1)
    types = {name: contestant.call().dtype.name for name, contestant in calls.items()}
    assert types == {OURS: "float16", OURS_OUT: "float16", OURS_FLOAT32: "float32"}


def test_a_wrong_result_of_16_bits_voids_the_row(monkeypatch):
    right = functional.layer_norm
    monkeypatch.setattr(functional, "layer_norm", lambda *given, **named: right(*given, **named) * np.float16(1.01))
    measured = suite.measure_row(LAYER_NORM.stored_as(np.dtype(np.float16)), (30, 16), [], 1, 0.0)
    assert set(measured.void) == {OURS}
    assert "WRONG" in report.cells_16_bit(measured)
    assert len(report.cells_16_bit(measured)) == len(report.HEADERS_16_BIT)
    assert all(goal.value is None for goal in goals.judge([measured]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("index", range(len(FLOAT16)), ids=[case.name for case in FLOAT16])
def test_pytorch_has_right_results_on_16_bits(dtype, index):
    if not peers.Torch.available():
        pytest.skip("torch is not installed")
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    case, _ = suite.plan(quick=True, held_out=False, types=[dtype])[index]
    arguments = case.arguments((20, 6, 5, 8), np.random.default_rng(0), 0.0)
    prepared = peers.Torch(1).prepare(case, arguments)
    assert not peers.complaint(case, arguments, prepared, cases.reference(case, arguments))


@pytest.mark.parametrize("name", ["layer_norm", "dropout", "dropout_add_layer_norm_forward[p = 0.5]"])
def test_a_wrong_result_of_a_peer_on_16_bits_is_found(name):
    case = next(case for case in cases.CASES if case.name == name).stored_as(np.dtype(np.float16))
    arguments = case.arguments((60, 400), np.random.default_rng(0), 0.0)
    right = cases.run(case, functional, arguments | ({"seed": 1} if "seed" in arguments else {}))
    reference = cases.reference(case, arguments)
    for scale, found in ((1, False), (1.02, True)):
        results = {name: right[name] * np.float16(scale) for name in ("y", "h") if name in right}
        prepared = Prepared(lambda: None, lambda _, results=results: results, random="dropout" in name)
        assert bool(peers.complaint(case, arguments, prepared, reference)) == found


def test_16_bit_tensors_are_judged_by_their_own_goals():
    large, small = (8192, 4096), (512, 768)
    rows = [
        row("layer_norm", large, ours=1.0, torch=1.0, copy=1.0),
        row("layer_norm[bfloat16]", large, ours=1.0, float32=1.8, torch=2.5, copy=1.0),
        row("layer_norm_backward[bfloat16]", small, ours=1.0, float32=1.1, torch=3.0),
        row("rms_norm[float16]", large, ours=1.0, float32=1.9, torch=0.5),
        row("dropout[bfloat16]", small, ours=1.0, float32=1.0, torch=30.0),
    ]
    judged = {goal.what: goal for goal in goals.judge(rows)}
    beyond = judged["16-bit tensors beyond the LLC"]
    assert (beyond.value, beyond.where, beyond.reached) == (1.8, "layer_norm[bfloat16] 8192x4096", True)
    assert (judged["layer_norm of bfloat16"].value, judged["layer_norm_backward of bfloat16"].value) == (2.5, 3.0)
    assert judged["rms_norm of bfloat16"].value is None
    assert judged["dropout of bfloat16, from 50_000"].value == 30.0
    assert judged["layer_norm, rms_norm, every cell"].value == 1.0


def test_an_at_most_goal_is_reached_below_its_limit():
    assert goals.Goal("", "", 1.0, 0.9, at_most=True).reached
    assert not goals.Goal("", "", 1.0, 1.1, at_most=True).reached


def test_a_slowdown_is_found():
    old, new = [row(ours=1.0, out=1.0, copy=0.5)], [row(ours=1.0, out=1.5, copy=0.5)]
    slower = [change for change in report.compare(old, new) if change.slower]
    assert [(change.contestant, change.factor) for change in slower] == [(OURS_OUT, 1.5)]
    assert not [change for change in report.compare(new, old) if change.slower]


def test_noise_is_no_slowdown():
    noisy = {OURS: Measurement(1.5, 1.5, 0.5, 1.2, 9), COPY + "numpy": Measurement(0.5, 0.5, 0.0, 0.5, 9)}
    changes = report.compare([row(ours=1.0, copy=0.5)], [Row("layer_norm", (512, 768), 0, noisy)])
    assert len(changes) == 1
    assert changes[0].factor == 1.5
    assert not changes[0].slower


def test_interrupted_calls_are_no_slowdown():
    held_up = {OURS: Measurement(16.0, 16.0, 0.1, 0.99, 9), COPY + "numpy": Measurement(0.5, 0.5, 0.0, 0.5, 9)}
    changes = report.compare([row(ours=1.0, copy=0.5)], [Row("layer_norm", (512, 768), 0, held_up)])
    assert [(change.factor, change.slower) for change in changes] == [(16.0, False)]


def test_a_slower_machine_is_no_slowdown():
    changes = report.compare([row(ours=1.0, copy=0.5)], [row(ours=3.0, copy=1.5)])
    assert [change.slower for change in changes] == [False]


def test_a_report_survives_its_file(tmp_path):
    written = Report({"cpu": "x"}, [row(ours=1.0, copy=0.5)], [goals.Goal("a", "b", 1.0, None)], complete=False)
    report.write(str(tmp_path / "run.json"), written)
    assert report.read(str(tmp_path / "run.json")) == written


def test_every_case_has_shapes_and_other_held_out_shapes():
    assert set(PROMISED) <= {case.name for case in cases.CASES}
    for case in cases.CASES:
        assert not set(case.timed.tuned) & set(case.timed.held_out)
        assert len(case.timed.quick) == 3


def test_call_overhead_is_judged_by_numpys_allocation():
    judged = goals.call_overhead(0.0)
    assert [goal.limit for goal in judged] == [1.4, 1.0, 2.4]
    assert all(0.05 < goal.value < 1e4 and goal.against.startswith("np.empty_like") for goal in judged)


def test_the_import_is_timed_beyond_numpy(monkeypatch):
    monkeypatch.setattr(goals, "_start", lambda code: 0.5 if "cregkit" in code else 0.1)
    goal = goals.import_time()
    assert (goal.value, goal.reached) == (pytest.approx(400.0), False)


def test_the_start_of_another_python_is_timed():
    assert goals._start("import time; time.sleep(0.05)") > 0.05


def test_a_wheel_is_judged_by_its_size(tmp_path):
    (tmp_path / "a.whl").write_bytes(bytes(4 << 20))
    goal = goals.wheel_size(str(tmp_path / "a.whl"))
    assert (goal.value, goal.reached) == (4.0, False)


@pytest.fixture
def small(monkeypatch):
    """A benchmark of two rows, with a right peer and one that is not installed."""
    monkeypatch.setattr(suite, "plan", lambda **_: [(LAYER_NORM, (1, 16)), (LAYER_NORM, (4, 16))])
    monkeypatch.setattr(command, "PEERS", (Right, Missing))
    monkeypatch.setattr(command, "ROW_SECONDS", 0.0)
    monkeypatch.setattr(command, "call_overhead", lambda budget: [])
    monkeypatch.setattr(command, "import_time", lambda: goals.Goal("import", "", 60.0, 1.0))


def test_the_command_prints_the_rows_and_writes_them(small, capsys, tmp_path):
    assert commands.main(["bench", "--json", str(tmp_path / "run.json")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "layer_norm  4x16" in " ".join(out.split()).replace("layer_norm ", "layer_norm  ")
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["complete"]
    assert content["machine"]["peers"] == {"right": np.__version__}
    assert [entry["shape"] for entry in content["rows"]] == [[1, 16], [4, 16]]
    assert content["goals"][-1]["reached"] is False


def test_a_system_without_load_averages_has_a_report(small, capsys, monkeypatch):
    monkeypatch.delattr("os.getloadavg")
    assert commands.main(["bench"]) == 0
    assert " thread; peers: " in capsys.readouterr().out.replace("threads", "thread")


def test_the_command_prints_16_bit_rows_beside_float32(small, capsys, monkeypatch):
    float16 = LAYER_NORM.stored_as(np.dtype(np.float16))
    monkeypatch.setattr(suite, "plan", lambda **given: [(LAYER_NORM, (1, 16)), (float16, (1, 16))])
    assert commands.main(["bench", "--dtypes", "float32,float16"]) == 0
    out = capsys.readouterr().out
    assert "float32 us" in out
    assert out.index("layer_norm ") < out.index("layer_norm[float16]")


def test_the_types_of_a_run_are_those_asked_for(small, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(suite, "plan", lambda *, types, **_: asked.append(types) or [])
    assert commands.main(["bench"]) == 0
    assert commands.main(["bench", "--dtypes", "float16,float32"]) == 0
    assert asked == [["float32"]] * 2 + [["float16", "float32"]] * 2


def test_bfloat16_without_ml_dtypes_is_an_error(small, capsys, monkeypatch):
    monkeypatch.setattr(command, "DTYPES", command.DTYPES[:2])
    with pytest.raises(command.CommandError, match="bfloat16 needs ml_dtypes; install it"):
        command.check_types(["bfloat16"])


def test_the_command_fails_if_an_op_became_slower(small, capsys, tmp_path, monkeypatch):
    path = str(tmp_path / "old.json")
    monkeypatch.setattr(suite, "measure_row", lambda case, shape, *_: row(shape=shape, ours=1.0, copy=0.5))
    assert commands.main(["bench", "--json", path]) == 0
    assert commands.main(["bench", "--compare", path]) == 0
    assert "0 of 2 times became slower" in capsys.readouterr().out
    monkeypatch.setattr(suite, "measure_row", lambda case, shape, *_: row(shape=shape, ours=2.0, copy=0.5))
    assert commands.main(["bench", "--compare", path]) == 1
    out = capsys.readouterr().out
    assert "SLOWER cregkit layer_norm 4x16: 2.00 times the older run's time" in out
    assert "2 of 2 times became slower" in out


def test_the_command_fails_if_an_op_is_wrong(small, capsys, monkeypatch):
    monkeypatch.setattr(functional, "layer_norm", lambda x, gamma, beta, eps: x)
    assert commands.main(["bench"]) == 1
    assert "VOID cregkit in layer_norm 1x16: y is off" in capsys.readouterr().out


def test_an_interrupt_keeps_the_measured_rows(small, capsys, tmp_path, monkeypatch):
    measured = iter([row(shape=(1, 16), ours=1.0, copy=0.5)])

    def interrupted(*_):
        try:
            return next(measured)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(suite, "measure_row", interrupted)
    assert commands.main(["bench", "--json", str(tmp_path / "run.json")]) == 130
    out, err = capsys.readouterr()
    assert "cut short" in out
    assert err == "cregkit: interrupted\n"
    written = report.read(str(tmp_path / "run.json"))
    assert not written.complete
    assert [entry.shape for entry in written.rows] == [(1, 16)]


@pytest.mark.parametrize(("options", "seconds"), [([], 0.0), (["--quick"], 0.1), (["--seconds", "0.25"], 0.25)])
def test_a_row_is_measured_for_as_long_as_asked(small, options, seconds, monkeypatch):
    budgets = []
    monkeypatch.setattr(suite, "measure_row", lambda *of: budgets.append(of[-1]) or row(ours=1.0, copy=0.5))
    assert commands.main(["bench", *options]) == 0
    assert set(budgets) == {seconds}


def test_a_quick_run_that_takes_too_long_is_cut_short(small, capsys, monkeypatch):
    monkeypatch.setattr(command, "QUICK_SECONDS", 0.0)
    assert commands.main(["bench", "--quick"]) == 0
    assert "cut short" in capsys.readouterr().out


def test_the_command_draws_a_picture(small, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    assert commands.main(["bench", "--png", str(tmp_path / "speed.png")]) == 0
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--peers", "tensorflow"], "unknown peer 'tensorflow'; there are right, missing"),
        (["--peers", "right,missing"], "missing is not installed"),
        (["--dtypes", "int8"], "unknown type 'int8'; there are float32, bfloat16, float16"),
        (["--compare", "absent.json"], "absent.json: No such file or directory"),
        (["--compare", "text.json"], "text.json: must be a run written by cregkit bench --json"),
        (["--compare", "list.json"], "list.json: must be a run written by cregkit bench --json"),
        (["--compare", "future.json"], "future.json: must have format 1, got 99"),
        (["--compare", "elsewhere.json"], "elsewhere.json: must be from the same machine and settings: cpu was 'Z80'"),
        (["--json", "absent/run.json"], "absent/run.json: No such file or directory"),
        (["--seconds", "0"], "argument --seconds: must be a positive number of seconds, got '0'"),
        (["--wheel", "absent.whl"], "absent.whl: No such file or directory"),
    ],
)
def test_a_wrong_argument_prints_one_line(small, argv, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elsewhere = {"format": 1, "machine": {"cpu": "Z80"}, "rows": [], "goals": [], "complete": True}
    (tmp_path / "text.json").write_text("no JSON")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "future.json").write_text('{"format": 99}')
    (tmp_path / "elsewhere.json").write_text(json.dumps(elsewhere))
    assert commands.main(["bench", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert named in err


def test_no_peer_is_imported_unless_it_is_used():
    code = "import sys; from cregkit.commands import bench; print({'torch', 'onnxruntime', 'jax'} & set(sys.modules))"
    done = run_python("-c", code)
    assert done.stdout == "set()\n", done.stderr
