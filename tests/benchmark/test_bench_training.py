"""bench/bench_training.py: trainings in several states, times at an offset, threads, and the stored figures."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from support import bench_script

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
record, report = bench_script("record"), bench_script("training_report")
bench = bench_script("bench_training")

SMALL = bench.Task("small", bench.breast_cancer, lambda: bench.mlp(30, 8, 2), 199, 2, 1e-3)


def test_states_do_not_influence_each_other():
    together = bench.compare(SMALL, bench.STATES, seed=1)
    for state in bench.STATES:
        alone = bench.compare(SMALL, (state,), seed=1)[state]
        for name in ("train_loss", "test_loss", "accuracy"):
            assert alone[name] == together[state][name]


def test_states_start_from_the_same_weights():
    expected, *others = (bench.Training(SMALL, state, seed=3).weights() for state in bench.STATES)
    for weights in others:
        assert bench.difference(weights, expected) == 0.0


@pytest.mark.skipif(bench.library is None, reason="the native library is not built")
def test_enabled_steps_are_bit_identical_on_several_threads():
    before = torch.get_num_threads()
    try:
        runs = list(bench.on_threads(replace(bench.WIDE, epochs=1), bench.ENABLE))
    finally:
        torch.set_num_threads(before)
    assert [run["threads"] for run in runs] == [1, 2, 3]
    for run in runs:
        assert run["first"] is None
        assert run["largest"] == run["weights"] == 0.0


def test_fit_is_bit_identical_on_several_threads():
    losses, weights = bench.fit_losses(1, 1, epochs=1)
    for threads in (2, 3):
        found, final = bench.fit_losses(threads, 1, epochs=1)
        assert found == losses
        assert bench.difference(final, weights) == 0.0


def test_a_deviation_names_the_first_step_and_the_largest_difference():
    assert bench.deviation([1.0, 2.0], [1.0, 2.0]) == {"first": None, "at_first": 0.0, "largest": 0.0}
    assert bench.deviation([1.0, 2.5, 7.0], [1.0, 2.0, 3.0]) == {"first": 1, "at_first": 0.5, "largest": 4.0}


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_float32_holds_the_times_at_an_offset_exactly(offset):
    for (x, y), (centred, target) in zip(bench.arrivals(offset, False), bench.arrivals(0.0, True), strict=True):
        assert offset <= float(x.min())
        assert torch.equal(x / bench.TICK, (x / bench.TICK).round())
        assert torch.equal(x - x[:, :1], centred)
        assert torch.equal(y, target)


def test_the_text_has_no_character_in_both_sets():
    (x, y), (x_test, y_test) = bench.text(length=16)
    codes = bench.alphabet_and_codes()[1].numpy()
    np.testing.assert_array_equal(y[:, :-1], x[:, 1:])
    np.testing.assert_array_equal(x.flatten(), codes[: x.numel()])
    np.testing.assert_array_equal(x_test.flatten(), codes[x.numel() : x.numel() + x_test.numel()])
    np.testing.assert_array_equal(y_test[:, -1], codes[x.numel() + 16 :: 16][: len(y_test)])


def test_a_run_stores_its_figures_and_prints_their_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "TRAININGS", (SMALL, replace(SMALL, name="other")))
    file = tmp_path / "run.json"
    bench.main(["--quick", "--only", "small", "--record", str(file)])
    section = json.loads(file.read_text())["training"]
    assert {"cpu", "commit", "versions", "load"} <= set(section["circumstances"])
    assert list(section["figures"]["trainings"]) == ["small"]
    assert list(section["figures"]["trainings"]["small"]["states"]) == list(bench.STATES)
    assert report.table(section) in capsys.readouterr().out


def test_an_unknown_part_names_the_parts(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--only", "nothing"])
    assert "must be part of one of digits, CNN; text, transformer; breast cancer, MLP; offsets; threads" in (
        capsys.readouterr().err
    )
