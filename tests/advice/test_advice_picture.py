"""The picture of the advice and its page: what is drawn, in which styles, and what an error says."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

import cregkit as ck
from cregkit import commands
from cregkit.commands import advise as command

figure = pytest.importorskip("matplotlib.figure", reason="matplotlib is not installed")
from matplotlib.image import imread  # noqa: E402

from cregkit.advice import picture  # noqa: E402

LOGS = Path(__file__).with_name("logs")
RISING = (1 + (np.arange(20) - 8) ** 2 / 100).tolist()


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    saved = []
    original = figure.Figure.savefig

    def savefig(self, *args, **kwargs):
        saved.append(self)
        original(self, *args, **kwargs)

    monkeypatch.setattr(figure.Figure, "savefig", savefig)
    return saved


def lines(ax, label):
    return [line for line in ax.lines if line.get_label() == label]


def test_the_picture_shows_curves_best_epoch_turn_and_region(drawn):
    advice = ck.advise(history={"loss": [0.5] * 20, "val_loss": RISING})
    content = picture.png(advice)
    assert imread(io.BytesIO(content)).shape[1] == 1200
    ax, beside = drawn[0].axes
    (train,), (test,) = lines(ax, "training"), lines(ax, "test")
    assert train.get_linestyle() != test.get_linestyle()  # told apart without colours
    smooth = [value for value in advice.curves.smooth["test_loss"] if value is not None]
    assert list(test.get_ydata()) == smooth
    assert any(list(line.get_ydata()) == RISING for line in ax.lines if len(line.get_ydata()) == 20)
    (best,) = lines(ax, "best epoch")
    assert (best.get_xdata()[0], best.get_ydata()[0]) == (8, 1)
    assert lines(ax, "turning point")[0].get_xdata()[0] == advice.history.turned_up_epoch
    (region,) = [patch for patch in ax.patches if patch.get_label() == "overfitting"]
    assert region.get_hatch()
    assert (region.get_x(), region.get_x() + region.get_width()) == (8, 19)
    words = " ".join(" ".join(text.get_text() for text in beside.texts).split())
    assert words.startswith(f"{advice.regime} {advice.summary} {advice.evidence}.")
    assert "dropout" in words


def test_several_runs_are_thin_lines_and_their_mean(drawn):
    runs = [{"val_loss": [x + shift for x in RISING]} for shift in (0, 1, 2)]
    picture.png(ck.advise(history=runs))
    ax = drawn[0].axes[0]
    thin = [line for line in ax.lines if len(line.get_ydata()) == 20]
    assert [line.get_ydata()[8] for line in thin] == [1, 2, 3]
    (mean,) = lines(ax, "test")
    assert mean.get_linewidth() > 2 * thin[0].get_linewidth()
    assert mean.get_ydata()[7] == pytest.approx(2 + 0.02 / 3)  # the moving average around epoch 8


def test_points_that_were_not_measured_do_not_break_a_line(drawn):
    picture.png(ck.advise(history={"loss": [1.0] * 9, "val_loss": [None, 2.0, None] * 3, "val_acc": [50, 60, 70] * 3}))
    losses, accuracies, _ = drawn[0].axes
    assert [2.0] * 3 in [list(line.get_ydata()) for line in losses.lines]
    assert accuracies.get_ylabel() == "accuracy (%)"
    assert not lines(losses, "turning point")


@pytest.mark.parametrize("log", [path.name for path in LOGS.glob("*.[cj]*") if not path.name.startswith("README")])
def test_every_log_can_be_drawn(log, tmp_path, capsys):
    assert commands.main(["advise", "--history", str(LOGS / log), "--png", str(tmp_path / "a.png")]) == 0
    assert imread(tmp_path / "a.png").shape[1] == 1200
    assert capsys.readouterr().err == ""


def test_a_run_that_diverged_can_be_drawn():
    assert picture.png(ck.advise(history={"loss": [1, float("inf")], "val_loss": [1e9, None]}))
    assert picture.png(ck.advise(history={"loss": [float("inf")] * 2, "val_loss": [None, None]}))


def test_the_page_has_the_picture_and_the_advice(tmp_path, capsys):
    path = tmp_path / "advice.html"
    argv = ["advise", "--history", str(LOGS / "keras.csv"), "--html", str(path), "--json"]
    assert commands.main(argv) == 0
    assert json.loads(capsys.readouterr().out)["curves"]["raw"]["test_loss"]
    page = path.read_text(encoding="utf-8")
    advice = ck.advise(history=LOGS / "keras.csv")
    assert advice.summary in page
    assert "data:image/png;base64," in page
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # self-contained
    assert page.count("<li><strong>") == len(advice.remedies)


def test_without_matplotlib_the_page_has_no_picture_and_png_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "can_draw", lambda: False)
    path = tmp_path / "advice.html"
    argv = ["advise", "--history", str(LOGS / "keras.csv")]
    assert commands.main([*argv, "--html", str(path)]) == 0
    assert "the page has no picture: matplotlib is not installed" in capsys.readouterr().out
    assert "<img" not in path.read_text(encoding="utf-8")
    assert commands.main([*argv, "--png", str(tmp_path / "a.png")]) == 2
    assert "--png needs matplotlib: pip install 'cregkit[lab]'" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


def test_accuracies_alone_have_no_picture(tmp_path, capsys):
    with pytest.raises(ValueError, match="accuracies alone have no curves"):
        picture.png(ck.advise(99, 60))
    argv = ["advise", "--train-acc", "99", "--test-acc", "60", "--png", str(tmp_path / "a.png")]
    assert commands.main(argv) == 2
    assert "give --history FILE" in capsys.readouterr().err
