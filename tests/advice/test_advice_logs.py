"""Training logs of cregkit, Keras and Lightning: what is read from them, and files that are no log."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

import cregkit as ck
from cregkit import commands
from cregkit.advice import figures, logs
from cregkit.train import History

LOGS = Path(__file__).parent / "logs"


def written(folder, *lines, name="log.csv"):
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path, **options):
    """Return the only run of a log."""
    (run,) = logs.read(path, **options)
    return run


def our_history():
    rng = np.random.default_rng(0)
    history = History()
    for epoch in range(30):
        test_loss = 0.5 + 0.02 * abs(epoch - 12) + 0.001 * rng.standard_normal()
        history.record((1 / (epoch + 1), 70.0 + epoch), (test_loss, 70 + epoch / 2))
    return history


# Logs of the loggers --------------------------------------------------------------------------------------------------


def test_a_log_of_keras_is_read(capsys):
    with open(LOGS / "keras.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    curves = read(LOGS / "keras.csv")
    assert (curves.source, curves.unit, curves.epochs.tolist()) == ("Keras log", "epoch", list(range(40)))
    for series, column, scale in (
        (curves.train_loss, "loss", 1),
        (curves.test_loss, "val_loss", 1),
        (curves.train_acc, "accuracy", 100),
        (curves.test_acc, "val_accuracy", 100),
    ):
        np.testing.assert_array_equal(series, [float(row[column]) * scale for row in rows])
    advice = ck.advise(history=LOGS / "keras.csv")
    assert (advice.train_acc, advice.test_acc) == (curves.train_acc[-1], curves.test_acc[-1])
    assert advice.history.best_epoch == int(np.argmin(curves.test_loss))
    assert abs(advice.history.turned_up_epoch - advice.history.best_epoch) <= 3
    assert any("fractions" in warning for warning in advice.warnings)
    assert any("averages the training accuracy" in warning for warning in advice.warnings)
    assert commands.main(["advise", "--history", str(LOGS / "keras.csv")]) == 0
    out = capsys.readouterr().out
    assert "Keras log, 40 epochs: best epoch" in out
    assert f"turned up after epoch {advice.history.turned_up_epoch}:" in out


def test_a_log_of_keras_with_semicolons_and_missing_validation_is_read():
    curves = read(LOGS / "keras_sparse.csv")
    assert curves.epochs.tolist() == [0, 1, 2]
    assert list(np.isnan(curves.test_acc)) == [True, False, True]
    advice = ck.advise(history=LOGS / "keras_sparse.csv")
    assert (advice.train_acc, advice.test_acc) == (curves.train_acc[1], curves.test_acc[1])
    assert advice.history.best_epoch == 1


def test_a_log_of_lightning_is_read():
    with open(LOGS / "lightning.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    curves = read(LOGS / "lightning.csv")
    assert curves.source == "Lightning log"
    assert curves.epochs.tolist() == list(range(12))  # not 12, the row of the test at the end
    for series, column, scale in (
        (curves.train_loss, "train_loss_epoch", 1),
        (curves.test_loss, "val_loss", 1),
        (curves.train_acc, "train_acc_epoch", 100),
        (curves.test_acc, "val_acc", 100),
    ):
        np.testing.assert_array_equal(series, [float(row[column]) * scale for row in rows if row[column]])
    assert ck.advise(history=LOGS / "lightning.csv").history.epochs == 12


def test_a_history_gives_the_same_advice_from_each_source(tmp_path):
    history = our_history()
    history.to_json(tmp_path / "history.json")
    history.to_csv(tmp_path / "history.csv")
    advice = ck.advise(history=history)
    for source in (tmp_path / "history.json", str(tmp_path / "history.csv"), vars(history)):
        assert ck.advise(history=source) == advice
    assert advice.history.source == "cregkit history"
    assert advice.gap == history.gap[-1] == 14.5
    assert advice.history.best_epoch == int(np.argmin(history.test_loss))
    assert abs(advice.history.turned_up_epoch - 12) <= 1
    assert not any("averages the training accuracy" in warning or "fractions" in warning for warning in advice.warnings)


def test_a_history_is_in_percent_even_below_1():
    history = History([1.0], [0.9], [1.0], [0.8], [0.1])
    assert (ck.advise(history=history).train_acc, ck.advise(history=history).test_acc) == (0.9, 0.8)


def test_a_keras_history_is_read_as_a_mapping():
    advice = ck.advise(history={"accuracy": [0.5, 0.99], "val_accuracy": [0.5, 0.6], "loss": [1.0, 0.1]})
    assert (advice.train_acc, advice.test_acc, advice.regime) == (99, 60, "gap over 10")
    assert any("no test loss" in warning for warning in advice.warnings)


# Variants of the formats ----------------------------------------------------------------------------------------------


def test_a_log_in_percent_is_not_scaled(tmp_path):
    path = written(tmp_path, "epoch,train_acc,val_acc", "0,50,1", "1,99,1.5")
    advice = ck.advise(history=path)
    assert (advice.train_acc, advice.test_acc) == (99, 1.5)
    assert not any("fractions" in warning for warning in advice.warnings)


@pytest.mark.parametrize(
    "header",
    ["Train/Acc,Val/Acc", "train_accuracy,val_accuracy", "acc,val_acc", "training-acc,validation.acc", "acc,test_acc"],
)
def test_other_spellings_of_columns_are_read(tmp_path, header):
    advice = ck.advise(history=written(tmp_path, header, "0.9,0.8", "0.95,0.85"))
    assert (advice.train_acc, advice.test_acc) == (95, 85)


def test_the_steps_of_an_epoch_are_averaged(tmp_path):
    lines = ["epoch,step,train_acc,val_acc", "0,1,0.2,", "0,2,0.4,", "0,3,,0.25", "1,4,0.6,", "1,5,0.8,", "1,5,,0.5"]
    curves = read(written(tmp_path, *lines))
    np.testing.assert_allclose(curves.train_acc, [30, 70])
    np.testing.assert_allclose(curves.test_acc, [25, 50])


def test_a_tab_separated_file_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_bytes("epoch\taccuracy\tval_accuracy\r\n3\t0.9\t0.8\r\n".encode("utf-8-sig"))
    assert read(path).epochs.tolist() == [3]


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "history.json"
    path.write_text('{"accuracy": [0.9], "val_accuracy": [0.8]}', encoding="utf-8-sig")
    assert len(read(path).epochs) == 1


def test_the_epochs_of_a_resumed_run_are_joined(tmp_path):
    lines = ["epoch,accuracy,val_accuracy", "0,0.5,0.5", "1,0.6,0.6", "0,0.7,0.7", "1,0.8,0.8"]
    advice = ck.advise(history=written(tmp_path, *lines))
    assert advice.history.epochs == 4
    assert advice.history.best_epoch == 3
    assert any("start again" in warning for warning in advice.warnings)


def test_train_and_test_figures_of_different_epochs_are_used(tmp_path):
    advice = ck.advise(history=written(tmp_path, "epoch,train_acc,test_acc", "0,0.8,", "1,0.9,", "2,,0.7"))
    assert (advice.train_acc, advice.test_acc) == (90, 70)


def test_a_truncated_last_line_is_read(tmp_path):
    curves = read(written(tmp_path, "epoch,accuracy,val_accuracy", "0,0.5,0.5", "1,0.6"))
    assert curves.epochs.tolist() == [0, 1]
    assert math.isnan(curves.test_acc[1])


# Files that are no log ------------------------------------------------------------------------------------------------

GOOD_HEADER = b"epoch,accuracy,val_accuracy\n"
NO_LOGS = {
    "empty": (b"", "found an empty file; expected a training log"),
    "blank": (b"\n \n", "found an empty file"),
    "binary": (b"\x7fELF\x00\x01", "found a binary file"),
    "not utf-8": (b"epoch,accuracy\n0,\xff\xfe\n", "found a binary file"),
    "prose": (b"It went well.\n", "found the columns It went well.; expected"),
    "no accuracy": (b"epoch,lr\n0,0.1\n", "found the columns epoch, lr; expected"),
    "no test accuracy": (
        b"epoch,accuracy,loss\n0,0.9,1\n",
        "found train_loss in loss, train_acc in accuracy, and no figure of the validation",
    ),
    "header only": (GOOD_HEADER, "found the columns epoch, accuracy, val_accuracy without a figure in them"),
    "nothing in a column": (GOOD_HEADER + b"0,0.5,\n", "found train_acc in accuracy, and no figure of the validation"),
    "only nan in a column": (GOOD_HEADER + b"0,0.5,nan\n", "and no figure of the validation"),
    "140": (GOOD_HEADER + b"0,50,50\n1,140,60\n", "line 3, column accuracy: found an accuracy of 140; expected"),
    "negative": (GOOD_HEADER + b"0,0.5,-0.5\n", "line 2, column val_accuracy: found an accuracy of -0.5"),
    "text": (GOOD_HEADER + b"0,0.5,good\n", "line 2, column val_accuracy: found 'good'; expected a number"),
    "too many cells": (GOOD_HEADER + b"0,0.5,0.5,0.5\n", "found 4 cells in line 2 and 3 in the header; expected"),
    "huge cell": (GOOD_HEADER + b"0,0.5," + b"9" * 200_000 + b"\n", "line 2 is not CSV"),
    "broken json": (b'{"accuracy": [0.5', "found broken JSON"),
    "deep json": (b"[" * 100_000, "found broken JSON"),
    "json list": (b"[0.5, 0.6]", "found a JSON list"),
    "other json": (b'{"machine": {}, "runs": 3}', "found machine, runs, and no list of figures among them; expected"),
    "json text": (b'{"accuracy": ["a"], "val_accuracy": [1]}', "entry 1, column accuracy: found 'a'"),
    "json bool": (b'{"accuracy": [true], "val_accuracy": [1]}', "entry 1, column accuracy: found True"),
    "json big": (b'{"accuracy": [1' + b"0" * 400 + b'], "val_accuracy": [1]}', "entry 1, column accuracy: found 1000"),
    "lengths": (b'{"accuracy": [1, 1], "val_accuracy": [1]}', "different lengths: accuracy 2, val_accuracy 1"),
    "epochs": (b'{"epoch": [1], "accuracy": [1, 1], "val_accuracy": [1, 1]}', "found 1 entries in epoch, but 2"),
}


@pytest.mark.parametrize(("content", "words"), NO_LOGS.values(), ids=NO_LOGS)
def test_a_file_that_is_no_log_prints_one_line(content, words, tmp_path, capsys):
    path = tmp_path / "log"
    path.write_bytes(content)
    assert commands.main(["advise", "--history", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert len(err) < 500 + len(str(path))
    assert err.startswith(f"cregkit advise: {path}: ")
    assert words in err


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("rest", [50.0, math.nan])
def test_a_loss_that_stays_not_finite_is_a_divergence(tmp_path, bad, rest):
    history = History([1.0, bad], [50.0, rest], [1.0, rest], [50.0, rest], [0.0, rest])
    history.to_json(tmp_path / "h.json")
    history.to_csv(tmp_path / "h.csv")
    for source in (history, tmp_path / "h.json", tmp_path / "h.csv"):
        advice = ck.advise(history=source)
        assert (advice.regime, advice.history.diverged_epoch) == ("diverged", 1)
        assert any("not finite from epoch 1 on" in warning for warning in advice.warnings)
        assert [remedy.name for remedy in advice.remedies] == ["lower learning rate"]


def test_a_history_without_a_test_set_is_refused():
    history = History()
    history.record((0.5, 90.0), (math.nan, math.nan))
    with pytest.raises(ValueError, match="and no figure of the validation or test set"):
        ck.advise(history=history)


def test_a_history_of_a_wrong_type_is_refused():
    with pytest.raises(TypeError, match="history must be a path, a History or a mapping of lists, got int"):
        ck.advise(history=3)


# Noise and turns of curves --------------------------------------------------------------------------------------------


def test_the_noise_of_a_curve_does_not_include_its_trend():
    epochs = np.arange(40.0)
    assert figures.noise(3 * epochs) == pytest.approx(0, abs=1e-12)
    zigzag = figures.noise(3 * epochs + (-1) ** np.arange(40))
    # 20 differences, alternately 3 + 2 and 3 - 2: their sample variance is 4 * 20 / 19
    assert zigzag == pytest.approx(math.sqrt(4 * 20 / 19 / 2))
    assert figures.noise(epochs[: figures.MIN_EPOCHS - 1]) is None


def turns(loss_of, *, epochs, noise, seeds=200):
    """Return the epoch at which the loss of each seed turned up, or None."""
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng([epochs, seed])
        loss = loss_of(np.arange(epochs) / epochs) + noise * rng.standard_normal(epochs)
        accuracies = [50.0] * epochs
        advice = ck.advise(history={"train_acc": accuracies, "val_acc": accuracies, "val_loss": loss.tolist()})
        found.append(advice.history.turned_up_epoch)
    return found


@pytest.mark.parametrize("epochs", [10, 30, 100])
def test_a_noisy_curve_has_no_turn(epochs):
    flat = turns(lambda t: 1 + 0 * t, epochs=epochs, noise=0.1)
    falling = turns(lambda t: 1 + np.exp(-5 * t), epochs=epochs, noise=0.1)
    assert sum(turn is not None for turn in flat + falling) <= 0.02 * len(flat + falling)


@pytest.mark.parametrize("epochs", [10, 30, 100])
def test_a_turn_is_found_at_its_epoch(epochs):
    found = turns(lambda t: 1 + 2 * np.exp(-12 * t) + 2 * np.maximum(0, t - 0.3), epochs=epochs, noise=0.1)
    seen = [turn / epochs for turn in found if turn is not None]
    assert len(seen) >= 0.95 * len(found)
    assert np.median(seen) == pytest.approx(0.3, abs=0.05)


def test_a_loss_that_turned_up_advises_early_stopping():
    epochs = np.arange(20)
    curve = {"train_acc": [95.0] * 20, "val_acc": [93.0] * 20, "val_loss": (1 + (epochs - 8) ** 2 / 100).tolist()}
    advice = ck.advise(history=curve)
    assert advice.regime == "good"
    assert advice.history.turned_up_epoch == advice.history.best_epoch == 8
    (stopping,) = [remedy for remedy in advice.remedies if remedy.name == "early stopping"]
    assert "since epoch 8" in stopping.evidence
    assert "11 of 20 came after it" in stopping.evidence
    flat = ck.advise(history={**curve, "val_loss": [1.0] * 20})
    assert flat.history.turned_up_epoch is None
    assert "early stopping" not in [remedy.name for remedy in flat.remedies]


def test_a_gap_close_to_a_limit_gives_a_warning():
    train = [90.0 + (-1) ** epoch for epoch in range(20)]
    advice = ck.advise(history={"train_acc": train, "val_acc": [81.0] * 20})
    assert any("either side of 10" in warning for warning in advice.warnings)
    assert not any("either side of 5" in warning for warning in advice.warnings)


def test_an_underfit_with_a_falling_loss_gives_a_warning():
    curve = {"train_acc": [50.0] * 9, "val_acc": [50.0] * 9, "val_loss": [2 - 0.1 * epoch for epoch in range(9)]}
    assert any("still be falling" in warning for warning in ck.advise(history=curve).warnings)
    assert not any("still be falling" in w for w in ck.advise(history={**curve, "val_loss": [1.0] * 9}).warnings)


def test_few_epochs_show_no_turn(tmp_path, capsys):
    path = written(tmp_path, "accuracy,val_accuracy,val_loss", *["0.9,0.8,0.1", "0.9,0.8,9"] * 2)
    assert commands.main(["advise", "--history", str(path)]) == 0
    assert "Too few epochs with a test loss" in capsys.readouterr().out


# Files of our history -------------------------------------------------------------------------------------------------


def test_a_history_survives_a_json_file(tmp_path):
    history = our_history()
    history.interrupted = True
    history.to_json(tmp_path / "h.json")
    assert History.from_json(tmp_path / "h.json") == history


def test_a_history_survives_a_csv_file(tmp_path):
    history = our_history()
    history.to_csv(tmp_path / "h.csv")
    assert History.from_csv(tmp_path / "h.csv") == history
    assert (tmp_path / "h.csv").read_text().startswith("epoch,train_loss,train_acc,test_loss,test_acc,gap,seconds\n0,")


def test_a_history_without_a_test_set_survives_its_files(tmp_path):
    history = History()
    history.record((0.5, 90.0), (math.nan, math.inf), 0.25)
    history.to_json(tmp_path / "h.json")
    history.to_csv(tmp_path / "h.csv")
    assert "NaN" not in (tmp_path / "h.json").read_text()
    for read in (History.from_json(tmp_path / "h.json"), History.from_csv(tmp_path / "h.csv")):
        assert (read.train_loss, read.train_acc, read.seconds) == ([0.5], [90.0], [0.25])
        assert all(map(math.isnan, read.test_loss + read.test_acc + read.gap))


@pytest.mark.parametrize(
    ("read", "content", "words"),
    [
        (History.from_json, "{", "is not JSON"),
        (History.from_json, "[]", "is not a cregkit history: missing train_loss, train_acc"),
        (History.from_json, json.dumps({name: ["x"] for name in vars(History())}), "could not convert string to float"),
        (History.from_json, json.dumps(dict.fromkeys(vars(History()), 3)), "is not a cregkit history"),
        (History.from_csv, "", "is not a cregkit history: missing train_loss, train_acc"),
        (History.from_csv, "epoch,gap\n0\n", "each row must have as many cells as the header, 2"),
    ],
)
def test_a_file_that_is_no_history_is_refused(read, content, words, tmp_path):
    path = tmp_path / "h"
    path.write_text(content)
    with pytest.raises(ValueError, match=words):
        read(path)
