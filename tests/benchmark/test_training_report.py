"""bench/training_report.py: the statistics, tables and picture of a planted section."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import bench_script, run_python

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
report = bench_script("training_report")
BENCH = Path(__file__).parents[2] / "bench"


def state(losses, accuracies, seconds=1.0):
    """Three seeds of four epochs: the training loss halves in each, the test loss and the accuracy end as given."""
    halving = [8.0, 4.0, 2.0, 1.0]
    return {
        "train_loss": [halving] * 3,
        "test_loss": [[1.0, 1.0, 1.0, loss] for loss in losses],
        "accuracy": [[50.0, 50.0, 50.0, accuracy] for accuracy in accuracies],
        "seconds": [[seconds] * 4] * 3,
    }


@pytest.fixture
def section():
    states = {
        report.STOCK: state([0.5, 0.6, 0.7], [90.0, 91.0, 92.0]),
        report.CONVERT: state([0.6, 0.5, 0.7], [93.0, 94.0, 95.0], 0.5),
        report.ENABLE: state([0.5, 0.6, 0.7], [90.0, 91.0, 92.0], 0.25),
    }
    curves = {name: [[0.5, 0.25]] * 3 for name in (report.STOCK, report.ENABLE, report.FLOAT64, report.CENTRED)}
    run = {"threads": 2, "first": None, "at_first": 0.0, "largest": 0.0, "weights": 0.0}
    other = run | {"first": 2, "at_first": 1e-7, "largest": 2e-6, "weights": 3e-5}
    threads = {
        "models": [
            {"name": "MLP", "state": report.STOCK, "runs": [other]},
            {"name": "MLP", "state": report.ENABLE, "runs": [run]},
        ],
        "ops": [{"op": "LayerNorm", "shape": [8, 4], report.STOCK: {"gradient of bias": 2e-6}, report.ENABLE: {}}],
        "fit": [run | {"of": "kernels"}, run | {"of": "kernels and BLAS", "weights": 1e-8}],
    }
    curves[report.STOCK] = [[0.5, 0.5]] * 3
    training = {"steps_per_epoch": 10, "states": states}
    offsets = {"1000": curves, "100000": curves}
    return {"circumstances": {}, "figures": {"trainings": {"CNN": training}, "offsets": offsets, "threads": threads}}


def cells(section):
    return [line.strip("| ").split(" | ") for line in report.table(section).splitlines() if line.startswith("|")]


def test_the_report_needs_no_pytorch():
    code = f"import sys; sys.path.insert(0, {str(BENCH)!r}); import training_report; print('torch' in sys.modules)"
    assert run_python("-c", code).stdout == "False\n"


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], "agree"),
        ([1.0, 2.0, 3.0], [1.1, 1.9, 3.0], "agree"),
        ([1.1, 2.1, 3.11], [1.0, 2.0, 3.0], "differ"),
        ([0.9, 1.9, 2.89], [1.0, 2.0, 3.0], "differ"),
    ],
)
def test_seeds_are_compared_in_pairs(ours, theirs, verdict):
    assert report.verdict(report.paired(ours, theirs)) == verdict


def test_the_interval_of_the_pairs_is_students():
    found = report.paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])  # 1, 2, 3: standard error 1 / sqrt(3)
    assert found.mean == 2.0
    assert found.high - found.mean == pytest.approx(4.302653 / 3**0.5)


@pytest.mark.parametrize(("loss", "seconds"), [(8.0, 1.0), (9.0, 1.0), (4.0, 3.0), (6.0, 2.0), (3.0, 4.5)])
def test_the_time_to_a_loss_is_linear_between_epochs(loss, seconds):
    assert report.seconds_to(loss, [8.0, 4.0, 2.0], [1.0, 2.0, 3.0]) == seconds


def test_the_time_to_the_loss_is_that_of_all_states(section):
    states = section["figures"]["trainings"]["CNN"]["states"]
    states[report.STOCK]["train_loss"] = [[8.0, 4.0, 4.0, 4.0]] * 3
    assert report.times_to_loss(states) == {
        report.STOCK: [2.0] * 3,
        report.CONVERT: [1.0] * 3,
        report.ENABLE: [0.5] * 3,
    }


def test_the_tables_have_what_was_measured(section):
    rows = cells(section)
    assert ["CNN", "PyTorch", "0.6000 ± 0.0577", "-", "91.00 ± 0.58", "-"] in rows
    converted, enabled = (next(row for row in rows if row[:2] == ["CNN", name]) for name in ("convert", "enable"))
    assert converted[3].endswith("agree")
    assert converted[5] == "+3.00 (+3.00 to +3.00): differ"
    assert enabled[3] == "+0.0000 (+0.0000 to +0.0000): agree"
    assert ["CNN", "enable", "25.00", "0.75", "4.00 (4.00 to 4.00)", "4.00 (4.00 to 4.00)"] in rows
    assert ["1,000 s", "PyTorch", "500000.0 ± 0.0", "+100.000 (+100.000 to +100.000): differ", "100"] in rows
    assert ["100,000 s", "enable", "250000.0 ± 0.0", "+0.000 (+0.000 to +0.000): agree", "0"] in rows
    assert ["MLP", "PyTorch", "step 3: 1e-07, at most 2e-06, weights 3e-05"] in rows
    assert ["MLP", "enable", "identical"] in rows
    assert ["LayerNorm (8, 4)", "gradient of bias (2e-06)", "identical"] in rows
    assert ["of the kernels", "identical"] in rows
    assert ["of the kernels and BLAS", "losses identical, weights up to 1e-08"] in rows


def test_the_tables_say_how_many_comparisons_differ_by_chance(section):
    compared = 2 * sum(len(training["states"]) - 1 for training in section["figures"]["trainings"].values())
    assert f"Of {compared} comparisons of equal means, {compared / 20:.1f} on average" in report.table(section)


@pytest.mark.parametrize("kind", ["trainings", "offsets", "threads"])
def test_a_part_alone_has_its_tables(section, kind):
    whole = report.table(section)
    assert report.table({"figures": {kind: section["figures"][kind]}}).strip() in whole


def test_the_picture_has_a_panel_for_each_training_and_three_for_the_offsets(section):
    figure = report.picture(section)
    titles = [ax.get_title("left") for ax in figure.axes]
    assert titles == [
        "CNN",
        "regression, times from 100,000 s",
        "the same from 1,000 s, beside float64",
        "the same from 100,000 s, beside float64",
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        report.STOCK, report.CONVERT, report.ENABLE, report.FLOAT64, report.CENTRED
    ]  # fmt: skip
    assert figure.get_size_inches()[0] * 100 >= 800
    mean = figure.axes[0].lines[3]
    assert list(mean.get_xdata()) == [1.0, 2.0, 3.0, 4.0]
    assert list(mean.get_ydata()) == [8.0, 4.0, 2.0, 1.0]
