"""The demonstration, with few epochs: what it prints and writes, and that its conclusion follows from its numbers."""

from __future__ import annotations

import json
import os
import re
import statistics
import sys

import numpy as np
import pytest

from cregkit import commands
from cregkit.commands import demo as command
from cregkit.lab import demo
from cregkit.lab.demo import Run
from cregkit.train import History


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def without_matplotlib(monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)  # its import fails


def test_the_demo_prints_and_writes_the_same_numbers(in_tmp, without_matplotlib, capsys):
    assert commands.main(["demo", "--seeds", "2", "--epochs", "8", "--json", "result.json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert os.listdir(in_tmp) == ["result.json"]
    assert "pip install 'cregkit[lab]'" in out
    result = json.loads((in_tmp / "result.json").read_text())
    assert list(result["configurations"]) == list(demo.CONFIGURATIONS)
    assert out.startswith(f"cregkit {result['machine']['version']} on {result['machine']['cpu']}")
    for name, configuration in result["configurations"].items():
        histories = configuration["histories"]
        assert [len(history["gap"]) for history in histories] == [8, 8]
        for figure, spread in configuration["final"].items():
            values = [history[figure][-1] for history in histories]
            assert spread == {"mean": statistics.mean(values), "deviation": pytest.approx(statistics.stdev(values))}
        cells = [f"{s['mean']:.1f} ± {s['deviation']:.1f}" for s in configuration["final"].values()]
        assert re.search(rf"^{name} +{' +'.join(map(re.escape, cells))}$", out, re.MULTILINE)
        first = histories[0]
        block = out.split(f"{name} (seed 0)\n")[1].splitlines()[:5]
        for line, epoch in zip(block, (0, 2, 4, 6, 7), strict=True):
            expected = [epoch, *(f"{first[figure][epoch]:.1f}" for figure in demo.FIGURES)]
            assert re.findall(r"-?\d+(?:\.\d)?", line) == list(map(str, expected))
    assert result["layer_norm"]["max_error"] <= 1e-6


def test_five_epochs_of_a_run_are_printed():
    history = History()
    for epoch in range(300):
        history.record((0.0, 90.0 + epoch / 100), (0.0, 80.0))
    assert [int(line.split()[1]) for line in command._epoch_lines(history)] == [0, 75, 150, 225, 299]
    assert command._epoch_lines(history)[1] == "  epoch  75   train  90.8 %   test  80.0 %   gap  10.8"


def test_quiet_prints_the_table_and_the_conclusion_alone(in_tmp, without_matplotlib, capsys):
    assert commands.main(["demo", "--seeds", "1", "--epochs", "2", "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Accuracy after 2 epochs, one seed"
    assert len(lines) == 3 + len(demo.CONFIGURATIONS) + 1
    assert "±" not in "".join(lines)
    assert os.listdir(in_tmp) == []


def _has_colour(image, colour):
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return (np.abs(image - wanted).max(axis=-1) < 0.01).any()


def test_the_picture_shows_boundaries_and_curves(in_tmp, capsys):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    from cregkit.lab import figures

    assert commands.main(["demo", "--seeds", "1", "--epochs", "4", "--png", "picture.png"]) == 0
    assert str(in_tmp / "picture.png") in capsys.readouterr().out
    image = imread(in_tmp / "picture.png")
    assert min(image.shape[:2]) >= 900
    boundaries, curves = np.array_split(image[:-120, :, :3], 2, axis=0)
    for column in np.array_split(boundaries, 5, axis=1):
        assert _has_colour(column, "#a50f15")
        assert _has_colour(column, "#08519c")
    for column in np.array_split(curves, 5, axis=1):
        assert _has_colour(column, figures.TRAIN)
        assert _has_colour(column, figures.TEST)


def _runs(**finals):
    """Return runs whose histories end with the given (train, test) accuracies, one per seed."""
    runs = {}
    for name, accuracies in finals.items():
        runs[name] = []
        for train, test in accuracies:
            history = History()
            history.record((0.0, train), (0.0, test))
            runs[name].append(Run(None, history, None))
    return runs


def test_the_conclusion_names_the_best_regularisation():
    sentence = demo.conclusion(
        _runs(plain=[(100, 80), (98, 90), (99, 82)], dropout=[(90, 88), (92, 89), (91, 87)], both=[(80, 70)] * 3)
    )
    assert sentence == (
        "Best on the test set: dropout, 4.0 points above plain (ahead on 2 of 3 seeds), with a gap of 3.0 against 15.0."
    )


def test_the_conclusion_says_when_no_remedy_helped():
    assert "No remedy" in demo.conclusion(_runs(plain=[(100, 90)], dropout=[(90, 90)]))


def test_configurations_share_noisy_training_sets(monkeypatch):
    from cregkit.lab.data import circle_data, inside_circle

    test = circle_data(50, seed=demo.TEST_SEED)
    runs = demo.train_all(test, 2, 1, lambda name: None)
    for plain, other in zip(runs["plain"], runs["both"], strict=True):
        np.testing.assert_array_equal(plain.train[0], other.train[0])
        np.testing.assert_array_equal(plain.train[1], other.train[1])
        assert 0 < (inside_circle(plain.train[0]) != plain.train[1]).mean() < 0.3
    assert (runs["plain"][0].train[0] != runs["plain"][1].train[0]).any()
