"""bench/scaling.py: the run, its files, and the model of two sockets."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from support import bench_script, run_python

from cregkit import functional
from cregkit.verify import cases

SCRIPT = Path(__file__).parents[2] / "bench" / "scaling.py"
LAYER_NORM = next(case for case in cases.CASES if case.name == "layer_norm")
THREADS = (1, 2, 4, 8, 16, 32, 64)


scaling, scaling_report = map(bench_script, ("scaling", "scaling_report"))
SERVER = scaling.SERVER
PLACES = [(1, scaling.ONE), (2, scaling.ONE), (2, scaling.INTERLEAVED), (2, scaling.OWN)]


def speedup(work, threads, sockets=2, memory=scaling.OWN):
    return scaling.predicted(work, 1) / scaling.predicted(work, threads, sockets, memory)


@pytest.fixture
def small(monkeypatch):
    """A run of three shapes that one thread computes, without PyTorch."""
    shapes = [(1, 16), (4, 16), (8, 16)]
    monkeypatch.setattr(
        scaling, "plan", lambda *_: [(LAYER_NORM, *of) for of in zip(scaling.SIZES, shapes, strict=True)]
    )
    monkeypatch.setattr(scaling.Torch, "available", lambda: False)
    monkeypatch.setattr(scaling, "loop_costs", lambda *_: {"1": 1e-6, "2": 2e-6, "1 + 2": 3e-6})


def test_a_run_keeps_its_times(small, tmp_path, capsys):
    path = tmp_path / "run.json"
    scaling.main(["--quick", "--threads", "2", "--seconds", "0.001", "--record", str(path)])
    section = json.loads(path.read_text())["scaling"]
    assert {"cpu", "date", "load"} <= set(section["circumstances"])
    assert {"cores", "caches", "numa_nodes", "loops"} <= set(section["figures"])
    cells = scaling_report.cells_of(section)
    assert [(cell.scaling, cell.size) for cell in cells] == [
        (kind, size) for size in scaling.SIZES for kind in (scaling.STRONG, scaling.WEAK)
    ]
    out = capsys.readouterr().out
    for cell in cells:
        assert set(cell.seconds) == {scaling.OURS, scaling.COPY}
        assert cell.row() in out


def test_a_speedup_is_the_work_per_second_relative_to_one_thread():
    seconds = {scaling.OURS: [8.0, 4.0, 3.0], scaling.COPY: [2.0, 1.0, 0.5]}
    cell = scaling.Cell("layer_norm", "small", (64, 16), scaling.STRONG, (1, 2, 4), seconds)
    assert cell.speedups() == [1.0, 2.0, 8.0 / 3.0]
    assert cell.row().split()[3:] == ["8000000.0", "2.00", "2.67", "67%", "67%", "4.00", "-", "4", "x", "256"]
    weak = scaling.Cell("layer_norm", "small", (64, 16), scaling.WEAK, (1, 2, 4), seconds)
    assert weak.speedups() == [1.0, 4.0, 32.0 / 3.0]


@pytest.mark.parametrize(("seconds", "best"), [([8.0, 4.0, 3.9], "2 x 512"), ([8.0, 4.0, 3.7], "4 x 256")])
def test_the_best_threads_are_the_fewest_within_5_percent(seconds, best):
    cell = scaling.Cell(
        "a", "small", (64, 16), scaling.STRONG, (1, 2, 4), dict.fromkeys(("cregkit", "memcpy"), seconds)
    )
    assert cell.row().endswith(best)


def test_an_empty_loop_is_timed_alone_and_after_one_of_half_as_many_threads():
    costs = scaling.loop_costs([1], 0.001)
    assert not costs or (list(costs) == ["1"] and 0.0 < costs["1"] < 1.0)


def test_the_largest_sizes_without_memory_have_no_weak_scaling(small, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "memory_bytes", lambda: 0)
    scaling.main(["--threads", "2", "--seconds", "0.001"])
    assert scaling.WEAK not in capsys.readouterr().out


def test_an_interrupt_keeps_the_measured_cells(small, monkeypatch, tmp_path):
    path, right = tmp_path / "run.json", scaling.measure_shape

    def interrupted(case, size, *others):
        if size == scaling.SIZES[1]:
            raise KeyboardInterrupt
        return right(case, size, *others)

    monkeypatch.setattr(scaling, "measure_shape", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scaling.main(["--threads", "2", "--seconds", "0.001", "--record", str(path)])
    assert [cell["size"] for cell in json.loads(path.read_text())["scaling"]["figures"]["cells"]] == [
        scaling.SIZES[0]
    ] * 2


def test_nothing_is_timed_if_a_result_is_wrong(small, monkeypatch):
    monkeypatch.setattr(functional, "layer_norm", lambda x, *_, **__: x)
    with pytest.raises(RuntimeError, match=r"layer_norm \(1, 16\) is wrong"):
        scaling.main(["--quick", "--seconds", "0.001"])


def test_a_full_run_has_every_op_and_the_calls_of_the_model():
    planned = list(scaling.plan(scaling.OPS, quick=False))
    assert {case.name for case, _, _ in planned} == {case.name for case in cases.FLOAT32_CASES}
    assert {(case.name, shape) for case, size, shape in planned if size == "model"} == {
        (work.op, work.shape) for work in scaling.WORKS
    }


def test_a_quick_run_of_an_op_has_its_promised_cases_at_three_sizes():
    planned = list(scaling.plan(["dropout", "batch_norm"], quick=True))
    names = ["batch_norm[N, C]", "batch_norm[N, C, ...]", "batch_norm[..., C]", "dropout"]
    assert [(case.name, size) for case, size, _ in planned] == list(itertools.product(names, scaling.SIZES))


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--ops", "layer_norm,softmax"], "argument --ops: must be some of adamw_step, "),
        (["--ops", "layer_norm,softmax"], ", got softmax"),
        (["--threads", "2,none"], "argument --threads: must be whole numbers of at least 1, got '2,none'"),
    ],
)
def test_a_wrong_argument_is_named(argv, named, capsys):
    with pytest.raises(SystemExit):
        scaling.main(argv)
    assert named in capsys.readouterr().err


each_work = pytest.mark.parametrize("work", scaling.WORKS, ids=lambda work: f"{work.op} {work.shape}")


@each_work
@pytest.mark.parametrize(("sockets", "memory"), PLACES)
def test_no_speedup_is_predicted_above_the_number_of_threads(work, sockets, memory):
    for threads in THREADS:
        assert 0.0 < speedup(work, threads, sockets, memory) <= threads


@each_work
def test_a_memory_nearer_to_the_threads_is_never_slower(work):
    for threads in THREADS:
        times = [scaling.predicted(work, threads, sockets, memory) for sockets, memory in PLACES]
        assert times == sorted(times, reverse=True)


@pytest.mark.parametrize(
    ("sockets", "memory", "limit"),
    [
        (1, scaling.ONE, SERVER.socket),
        (2, scaling.ONE, SERVER.socket),
        (2, scaling.INTERLEAVED, 4 * SERVER.link),
        (2, scaling.OWN, 2 * SERVER.socket),
    ],
)
def test_a_call_bound_by_memory_reaches_the_bandwidth_and_no_more(sockets, memory, limit):
    """Half of the bytes cross the link of interleaved memory, in two directions."""
    core = 36e9
    work = scaling.Work("a copy", (1 << 34,), 8, seconds=8 * 2**34 / core, tasks=1 << 20)
    assert speedup(work, 4, sockets, memory) == pytest.approx(4.0, rel=1e-4)
    for threads in (32, 64):
        assert speedup(work, threads, sockets, memory) == pytest.approx(limit / core, rel=1e-3)


def test_a_call_bound_by_arithmetic_is_as_fast_as_its_busiest_thread():
    work = scaling.Work("", (1 << 34,), 0, 20.0, tasks=96)
    assert [round(speedup(work, threads), 2) for threads in THREADS] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 48.0]


def test_a_serial_part_bounds_the_speedup():
    work = scaling.Work("", (1 << 30,), 0, 2.0, tasks=1 << 20, serial=1.0)
    assert speedup(work, 64) == pytest.approx(2.0 / (1.0 + 1.0 / 64), rel=1e-3)


def test_each_loop_costs_its_threads():
    """One thread has no parallel loop."""
    once, twice = (scaling.Work("", (1 << 34,), 0, 20.0, tasks=1 << 20, loops=loops) for loops in (1, 2))
    costs = [scaling.predicted(twice, n) - scaling.predicted(once, n) for n in (1, 2, 3)]
    assert costs == pytest.approx([0.0, SERVER.loop, SERVER.loop + SERVER.per_thread + SERVER.share], abs=1e-12)


def test_a_small_call_uses_no_more_threads_than_its_elements_and_tasks_are_worth():
    work = scaling.Work("", (4 * scaling.ELEMENTS_PER_THREAD,), 8, 1e-3, tasks=1000)
    assert speedup(work, 64) == speedup(work, 4) > speedup(work, 2)
    assert speedup(work._replace(tasks=3), 64) == speedup(work._replace(tasks=3), 3)
    kernels = SCRIPT.parents[1] / "cregkit" / "kernels" / "_threads.pyx"
    assert f"ELEMENTS_PER_THREAD = {scaling.ELEMENTS_PER_THREAD // 1024} * 1024" in kernels.read_text()


def test_the_page_shows_the_table_of_the_model():
    done = run_python(str(SCRIPT), "--predict")
    assert done.returncode == 0, done.stderr
    assert done.stdout in SCRIPT.with_name("SCALING.md").read_text()
