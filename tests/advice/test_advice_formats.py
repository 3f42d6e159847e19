"""What the reader makes of the logs of many loggers, and of tables that people write by hand.

The first part writes one curve in each format, and expects it back. The files of the loggers themselves are in logs/;
logs/README.md names the versions that wrote them.
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import cregkit as ck
from cregkit import commands
from cregkit.advice import logs, names, rules, tables

EPOCHS = 20
TRAIN_LOSS = [round(1.4 * 0.85**e + 0.01, 4) for e in range(EPOCHS)]
TEST_LOSS = [round(1.45 * 0.85**e + 0.05, 4) if e < 9 else round(0.4 + 0.035 * (e - 8), 4) for e in range(EPOCHS)]
TRAIN_ACC = [round(96 - 50 * 0.85**e, 2) for e in range(EPOCHS)]
TEST_ACC = [round(86 - 45 * 0.85**e, 2) for e in range(EPOCHS)]
CURVES = {"train_loss": TRAIN_LOSS, "train_acc": TRAIN_ACC, "test_loss": TEST_LOSS, "test_acc": TEST_ACC}
FRACTIONS = {name: [x / 100 for x in CURVES[name]] for name in ("train_acc", "test_acc")}
TA, VA = FRACTIONS["train_acc"], FRACTIONS["test_acc"]


def table(columns, separator=",", number=str, extra=()):
    """Return columns as text."""
    rows = zip(*columns.values(), strict=True)
    lines = [separator.join(columns), *(separator.join(map(number, row)) for row in rows), *extra]
    return "\n".join(lines) + "\n"


def csv_of(**columns):
    return table({name.replace("__", "/"): column for name, column in columns.items()})


def sparse(rows):
    """Return records as CSV with empty cells for what a record lacks."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def epochs(first=0):
    return list(range(first, EPOCHS + first))


def by_epoch(make):
    return [row for e in range(EPOCHS) for row in make(e)]


def comma(x):
    return str(x).replace(".", ",")


ULTRALYTICS = {
    "                  epoch": epochs(1),
    "             train/loss": TRAIN_LOSS,
    "  metrics/accuracy_top1": VA,
    "  metrics/accuracy_top5": [1.0] * EPOCHS,
    "               val/loss": TEST_LOSS,
    "                 lr/pg0": [0.01] * EPOCHS,
}
MMENGINE = by_epoch(
    lambda e: [
        *({"lr": 0.1, "data_time": 0.01, "loss": TRAIN_LOSS[e], "time": 0.1, "epoch": e + 1, "step": 10 * e + s}
          for s in (5, 10)),
        {"accuracy/top1": TEST_ACC[e], "accuracy/top5": 99.0, "data_time": 0.02, "step": e + 1},
    ]
)  # fmt: skip
MMCLS = [
    {"env_info": "Python 3.8", "seed": None},
    *by_epoch(
        lambda e: [
            {"mode": "train", "epoch": e + 1, "iter": 100, "lr": 0.1, "loss": TRAIN_LOSS[e]},
            {"mode": "val", "epoch": e + 1, "iter": 10, "lr": 0.1, "accuracy_top-1": TEST_ACC[e]},
        ]
    ),
]
HUGGING_FACE = [
    *by_epoch(
        lambda e: [
            {"loss": TRAIN_LOSS[e] + 0.01, "epoch": e + 0.5, "step": 100 * e + 50, "learning_rate": 1e-4},
            {"loss": TRAIN_LOSS[e] - 0.01, "epoch": e + 1.0, "step": 100 * e + 100, "learning_rate": 1e-4},
            {"eval_loss": TEST_LOSS[e], "eval_accuracy": VA[e], "epoch": e + 1.0, "step": 100 * e + 100},
        ]
    ),
    {"train_loss": 0.7, "train_runtime": 9.0, "epoch": 20.0, "step": 2000, "total_flos": 1e9},
]
WANDB = {
    "Step": epochs(),
    "warm-dawn-3 - val_loss": TEST_LOSS,
    "warm-dawn-3 - val_loss__MIN": [0.0] * EPOCHS,
    "warm-dawn-3 - val_loss__MAX": [9.0] * EPOCHS,
    "warm-dawn-3 - loss": TRAIN_LOSS,
}
LIGHTNING_BLOCKS = [
    *({"epoch": e, "step": 10 * e + 9, "train_loss": TRAIN_LOSS[e], "train_acc": TA[e]} for e in range(EPOCHS)),
    *({"epoch": e, "step": 10 * e + 9, "val_loss": TEST_LOSS[e], "val_acc": VA[e]} for e in range(EPOCHS)),
]
LONG = by_epoch(
    lambda e: [
        {"epoch": e + 1, "phase": "train", "loss": TRAIN_LOSS[e], "acc": TA[e]},
        {"epoch": e + 1, "phase": "val", "loss": TEST_LOSS[e], "acc": VA[e]},
    ]
)
TIDY = by_epoch(
    lambda e: [
        {"epoch": e + 1, "value": TRAIN_LOSS[e], "metric": "loss", "data": "training"},
        {"epoch": e + 1, "value": TA[e], "metric": "accuracy", "data": "training"},
        {"epoch": e + 1, "value": TEST_LOSS[e], "metric": "loss", "data": "validation"},
        {"epoch": e + 1, "value": VA[e], "metric": "accuracy", "data": "validation"},
    ]
)
ALL = ("train_loss", "train_acc", "test_loss", "test_acc")
LOSSES = ("train_loss", "test_loss")
FORMATS = {
    "fastai": (
        csv_of(epoch=epochs(), train_loss=TRAIN_LOSS, valid_loss=TEST_LOSS, accuracy=VA, time=["00:03"] * EPOCHS),
        ("train_loss", "test_loss", "test_acc"),
    ),
    "fastai error": (
        csv_of(epoch=epochs(), train_loss=TRAIN_LOSS, valid_loss=TEST_LOSS, error_rate=[1 - x for x in VA]),
        ("train_loss", "test_loss", "test_acc"),
    ),
    "ultralytics": (table(ULTRALYTICS), ("train_loss", "test_loss", "test_acc")),
    "timm": (
        csv_of(epoch=epochs(), train_loss=TRAIN_LOSS, eval_loss=TEST_LOSS, eval_top1=TEST_ACC, eval_top5=[99.0] * 20),
        ("train_loss", "test_loss", "test_acc"),
    ),
    "mmengine": (lines(MMENGINE), ("train_loss", "test_acc")),
    "mmcls": (lines(MMCLS), ("train_loss", "test_acc")),
    "hugging face": (json.dumps({"step": 2000, "log_history": HUGGING_FACE}), ("train_loss", "test_loss", "test_acc")),
    "log_history": (json.dumps(HUGGING_FACE), ("train_loss", "test_loss", "test_acc")),
    "log_history as csv": (sparse(HUGGING_FACE), ("train_loss", "test_loss", "test_acc")),
    "wandb": (table(WANDB), LOSSES),
    "lightning in blocks": (sparse(LIGHTNING_BLOCKS), ALL),
    "lightning backwards": (sparse(LIGHTNING_BLOCKS[EPOCHS:] + LIGHTNING_BLOCKS[:EPOCHS]), ALL),
    "phase": (sparse(LONG), ALL),
    "phase as json lines": (lines(LONG), ALL),
    "keras for R": (sparse(TIDY), ALL),
    "xgboost": (json.dumps({"train": {"logloss": TRAIN_LOSS}, "eval": {"logloss": TEST_LOSS}}), LOSSES),
    "xgboost for scikit-learn": (
        json.dumps({"validation_0": {"mlogloss": TRAIN_LOSS}, "validation_1": {"mlogloss": TEST_LOSS}}),
        LOSSES,
    ),
    "xgboost error": (
        json.dumps({"train": {"merror": [1 - x for x in TA]}, "test": {"merror": [1 - x for x in VA]}}),
        ("train_acc", "test_acc"),
    ),
    "lightgbm": (
        json.dumps({"valid_0": {"binary_logloss": TEST_LOSS}, "training": {"binary_logloss": TRAIN_LOSS}}),
        LOSSES,
    ),
    "set within figure": (
        json.dumps({"loss": {"train": TRAIN_LOSS, "val": TEST_LOSS}, "acc": {"train": TA, "val": VA}}),
        ALL,
    ),
    "figure within set": (json.dumps({"train": {"loss": TRAIN_LOSS}, "dev": {"loss": TEST_LOSS}}), LOSSES),
    "history in an object": (
        json.dumps({"params": {"lr": 0.1}, "history": {"loss": TRAIN_LOSS, "val_loss": TEST_LOSS}}),
        LOSSES,
    ),
    "records in an object": (
        json.dumps({"lr": 0.1, "epochs": [{"loss": TRAIN_LOSS[e], "val_loss": TEST_LOSS[e]} for e in range(20)]}),
        LOSSES,
    ),
    "nested records": (
        json.dumps([{"epoch": e, "train": {"loss": TRAIN_LOSS[e]}, "val": {"loss": TEST_LOSS[e]}} for e in range(20)]),
        LOSSES,
    ),
    "records by epoch": (
        json.dumps({str(e): {"train_loss": TRAIN_LOSS[e], "val_loss": TEST_LOSS[e]} for e in range(EPOCHS)}),
        LOSSES,
    ),
    "records by set": (
        json.dumps({"train": [{"loss": x} for x in TRAIN_LOSS], "val": [{"loss": x} for x in TEST_LOSS]}),
        LOSSES,
    ),
    "lists beside records": (
        json.dumps(
            {
                "train_loss": TRAIN_LOSS,
                "val_loss": TEST_LOSS,
                "train_metrics": [{"acc": x, "mae": 1.0} for x in TA],
                "val_metrics": [{"acc": x, "mae": 1.0} for x in VA],
            }
        ),
        ALL,
    ),
    "numbers in strings": (
        json.dumps([{"loss": str(TRAIN_LOSS[e]), "val_loss": str(TEST_LOSS[e])} for e in range(20)]),
        LOSSES,
    ),
    "json lines without epochs": (
        lines(by_epoch(lambda e: [{"train_loss": TRAIN_LOSS[e]}, {"val_loss": TEST_LOSS[e]}])),
        LOSSES,
    ),
    "semicolons and decimal commas": (
        table({"Epoche": epochs(1), "train_loss": TRAIN_LOSS, "val_loss": TEST_LOSS}, ";", comma),
        LOSSES,
    ),
    "tabs and decimal commas": (table({"train_loss": TRAIN_LOSS, "val_loss": TEST_LOSS}, "\t", comma), LOSSES),
    "sep= of Excel": ("sep=;\n" + table({"train_loss": TRAIN_LOSS, "val_loss": TEST_LOSS}, ";"), LOSSES),
    "bars": (table({"train_loss": TRAIN_LOSS, "val_loss": TEST_LOSS}, " | "), LOSSES),
    "spaces": (table({"epoch": epochs(), "train_loss": TRAIN_LOSS, "val_loss": TEST_LOSS}, "  "), LOSSES),
    "tensors": (
        table({"train_loss": TRAIN_LOSS, "val_loss": TEST_LOSS}, ";", lambda x: f"tensor({x}, device='cpu')"),
        LOSSES,
    ),
    "a comment": ("# run 7, lr 0.1\n" + csv_of(train_loss=TRAIN_LOSS, val_loss=TEST_LOSS), LOSSES),
    "a header of numpy.savetxt": ("# " + csv_of(train_loss=TRAIN_LOSS, val_loss=TEST_LOSS), LOSSES),
    "percent signs": (
        table({"train acc": TRAIN_ACC, "val acc": TEST_ACC}, ",", lambda x: f"{x:.2f}%"),
        ("train_acc", "test_acc"),
    ),
    "percent in names": (table({"train_acc (%)": TRAIN_ACC, "val_acc (%)": TEST_ACC}), ("train_acc", "test_acc")),
    "pandas": (table({"": epochs(), "train_loss": TRAIN_LOSS, "val_loss": TEST_LOSS}), LOSSES),
    "old Mac lines": (csv_of(train_loss=TRAIN_LOSS, val_loss=TEST_LOSS).replace("\n", "\r"), LOSSES),
    "Windows lines": (csv_of(train_loss=TRAIN_LOSS, val_loss=TEST_LOSS).replace("\n", "\r\n"), LOSSES),
    "epochs in words": (
        table({"epoch": [f"{e + 1}/20" for e in range(EPOCHS)], "train_loss": TRAIN_LOSS, "val_loss": TEST_LOSS}),
        LOSSES,
    ),
    "empty last cells": (table({"train_loss": TRAIN_LOSS, "val_loss": TEST_LOSS}).replace("\n", ",\n"), LOSSES),
    "F1": (csv_of(train_f1=TA, val_f1=VA), ("train_acc", "test_acc")),
    "MAE": (csv_of(mae=TRAIN_LOSS, val_mae=TEST_LOSS), LOSSES),
    "R2": (csv_of(train_r2=[1 - x for x in TRAIN_LOSS], val_r2=[1 - x for x in TEST_LOSS]), LOSSES),
    "the output of a network": (
        csv_of(total=epochs(), a_accuracy=TA, b_accuracy=VA, val_b_accuracy=TA, val_a_accuracy=VA),
        ("train_acc", "test_acc"),
    ),
    "validation loss alone": (csv_of(epoch=epochs(), val_loss=TEST_LOSS), ("test_loss",)),
    "validation accuracy alone": (csv_of(epoch=epochs(), val_acc=VA), ("test_acc",)),
}  # fmt: skip


def only(path, **options):
    (run,) = logs.read(path, **options)
    return run


def check(run, figures, curves=CURVES):
    assert set(run.columns) == set(figures)
    for figure in ALL:
        series = getattr(run, figure)
        if figure in figures:
            np.testing.assert_allclose(series, curves[figure], atol=1e-9)
        else:
            assert np.isnan(series).all()


@pytest.mark.parametrize(("content", "figures"), FORMATS.values(), ids=FORMATS)
def test_a_curve_comes_back_from_each_format(content, figures, tmp_path):
    path = tmp_path / "log"
    path.write_text(content, encoding="utf-8", newline="")
    run = only(path)
    check(run, figures)
    assert run.diverged is None
    advice = ck.advise(history=path)
    found = advice.history
    assert found.epochs == EPOCHS
    if "test_loss" in figures:
        assert found.best_test_loss == pytest.approx(min(TEST_LOSS))
        assert found.best_epoch - run.epochs[0] == int(np.argmin(TEST_LOSS))
        assert abs(found.turned_up_epoch - found.best_epoch) <= 1
    assert (advice.gap is not None) == ({"train_acc", "test_acc"} <= set(figures))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["fastai", "mmengine", "xgboost"])
def test_other_encodings_are_read(name, encoding, tmp_path):
    content, figures = FORMATS[name]
    data = content.encode(encoding)
    (tmp_path / "log").write_bytes(b"\xfe\xff" + data if encoding == "utf-16-be" else data)
    check(only(tmp_path / "log"), figures)


# Logs that the loggers wrote ------------------------------------------------------------------------------------------

LOGS = Path(__file__).parent / "logs"


def test_a_log_of_hugging_face_is_read():
    entries = json.loads((LOGS / "huggingface_epochs.json").read_text())["log_history"]
    run = only(LOGS / "huggingface_epochs.json")
    assert (run.source, run.unit, run.epochs.tolist()) == ("Hugging Face log", "epoch", list(range(1, 13)))
    np.testing.assert_array_equal(run.test_loss, [entry["eval_loss"] for entry in entries if "eval_loss" in entry])
    losses = np.array([entry["loss"] for entry in entries if "loss" in entry])
    np.testing.assert_allclose(run.train_loss, losses.reshape(12, 4).mean(axis=1))


def test_several_validations_in_an_epoch_are_points_of_their_own():
    run = only(LOGS / "huggingface_steps.json")
    assert (run.unit, run.epochs.tolist()) == ("step", [*range(5, 50, 5), 48])
    entries = json.loads((LOGS / "huggingface_steps.json").read_text())["log_history"]
    np.testing.assert_array_equal(run.test_loss, [entry["eval_loss"] for entry in entries if "eval_loss" in entry])
    quarters = only(LOGS / "lightning_quarters.csv")
    with open(LOGS / "lightning_quarters.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_array_equal(quarters.test_loss, [float(row["val_loss"]) for row in rows if row["val_loss"]])


@pytest.mark.parametrize(
    ("file", "figures", "epochs"),
    [
        ("keras_history.json", LOSSES, 8),
        ("lightning_loss.csv", LOSSES, 15),
        ("timm_summary.csv", ("train_loss", "test_loss", "test_acc"), 20),
        ("xgboost.json", ALL, 25),
        ("xgboost_sklearn.json", LOSSES, 25),
        ("xgboost_cv.json", LOSSES, 12),
        ("lightgbm.json", ALL, 20),
        ("lightgbm_regression.json", ("test_loss",), 20),
    ],
)
def test_a_log_of_a_logger_is_judged(file, figures, epochs):
    run = only(LOGS / file)
    assert (tuple(run.columns), len(run.epochs)) == (figures, epochs)
    assert not any(np.isnan(getattr(run, figure)).any() for figure in figures)
    advice = ck.advise(history=LOGS / file)
    assert advice.history.columns == run.columns
    if "test_loss" in figures:
        assert advice.history.best_epoch == run.epochs[run.test_loss.argmin()]


def test_the_sets_of_xgboost_are_told_apart():
    content = json.loads((LOGS / "xgboost_sklearn.json").read_text())
    run = only(LOGS / "xgboost_sklearn.json")
    np.testing.assert_array_equal(run.train_loss, content["validation_0"]["logloss"])
    np.testing.assert_array_equal(run.test_loss, content["validation_1"]["logloss"])
    assert any("validation_0 is read as the training set" in note for note in run.notes)


def test_the_fits_of_keras_that_one_file_collects_are_runs():
    runs = logs.read(LOGS / "keras_appended.csv")
    assert [run.epochs.tolist() for run in runs] == [list(range(8))] * 3
    with open(LOGS / "keras_appended.csv", newline="") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file)]
    assert np.concatenate([run.test_loss for run in runs]).tolist() == losses


@pytest.mark.parametrize("source", ["tensorboard", "tensorboard/events.out.tfevents.1"])
def test_event_files_of_tensorboard_are_read(source):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run = only(LOGS / source)
    assert (run.source, run.unit, run.epochs.tolist()) == ("TensorBoard log", "step", list(range(4, 100, 5)))
    assert run.columns == {"train_loss": "Loss/train", "test_loss": "Loss/val", "test_acc": "Accuracy/val"}
    assert not np.isnan(run.train_loss + run.test_loss + run.test_acc).any()


def test_the_folders_of_tensorboard_name_the_sets():
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run = only(LOGS / "tensorboard_sides")
    assert set(run.columns) == set(ALL)
    np.testing.assert_array_equal(run.test_loss, only(LOGS / "tensorboard").test_loss)


def test_event_files_without_tensorboard_say_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    assert commands.main(["advise", "--history", str(LOGS / "tensorboard")]) == 2
    assert "pip install 'cregkit[tensorboard]'" in capsys.readouterr().err


def test_event_files_do_not_keep_other_logs_from_being_read(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    (tmp_path / "events.out.tfevents.1").write_bytes(b"")
    (tmp_path / "metrics.csv").write_text(csv_of(train_loss=TRAIN_LOSS, val_loss=TEST_LOSS))
    check(only(tmp_path), LOSSES)


def test_exports_of_tensorboard_are_joined(tmp_path):
    pieces = {
        "run-train-tag-epoch_loss": TRAIN_LOSS,
        "run-validation-tag-epoch_loss": TEST_LOSS,
        "run-train-tag-epoch_accuracy": TA,
        "run-validation-tag-epoch_accuracy": VA,
    }
    for name, values in pieces.items():
        text = table({"Wall time": [1.7e9 + e for e in epochs()], "Step": epochs(), "Value": values})
        (tmp_path / f"{name}.csv").write_text(text)
    check(only(tmp_path), ALL)
    check(only([tmp_path / f"{name}.csv" for name in list(pieces)[:2]]), LOSSES)
    (tmp_path / "val_loss.csv").write_text(text)


def test_logs_of_both_sets_are_joined(tmp_path):
    for name, loss, accuracy in (("train", TRAIN_LOSS, TA), ("val", TEST_LOSS, VA)):
        (tmp_path / f"{name}_log.csv").write_text(csv_of(epoch=epochs(), loss=loss, acc=accuracy))
    check(only([tmp_path / "train_log.csv", tmp_path / "val_log.csv"]), ALL)
    check(only(tmp_path), ALL)
    check(only(tmp_path / "val_log.csv"), ("test_loss", "test_acc"))


# Runs -----------------------------------------------------------------------------------------------------------------


def folds(n=3):
    return [[round(loss + 0.01 * fold, 4) for loss in TEST_LOSS] for fold in range(n)]


def fold_sources(folder):
    """Yield the same three folds in many forms."""

    def one(fold, loss):
        return {"epoch": epochs(), "train_loss": TRAIN_LOSS, "val_loss": loss}

    rows = [
        {"fold": fold, "epoch": e, "train_loss": TRAIN_LOSS[e], "val_loss": loss[e]}
        for fold, loss in enumerate(folds())
        for e in range(EPOCHS)
    ]
    files = []
    for fold, loss in enumerate(folds()):
        files.append(folder / f"fold{fold}" / "log.csv")
        files[-1].parent.mkdir()
        files[-1].write_text(table(one(fold, loss)))
    texts = {
        "column": sparse(rows),
        "column, by epoch": sparse(sorted(rows, key=lambda row: row["epoch"])),
        "appended": sparse([{k: v for k, v in row.items() if k != "fold"} for row in rows]),
        "appended with headers": "".join(table(one(fold, loss)) for fold, loss in enumerate(folds())),
        "records": json.dumps(rows),
        "object": json.dumps({f"fold_{fold}": one(fold, loss) for fold, loss in enumerate(folds())}),
        "named": json.dumps(dict(zip(("a", "b", "c"), map(one, range(3), folds()), strict=True))),
        "list": json.dumps([one(fold, loss) for fold, loss in enumerate(folds())]),
        "lists": json.dumps({"train_loss": [TRAIN_LOSS] * 3, "val_loss": folds()}),
        "wandb": table(
            {
                "Step": epochs(),
                **{f"fold {fold} - train_loss": TRAIN_LOSS for fold in range(3)},
                **{f"fold {fold} - val_loss": loss for fold, loss in enumerate(folds())},
            }
        ),
    }
    for name, text in texts.items():
        path = folder / name
        path.write_text(text)
        yield path
    yield files
    (folder / "folder").mkdir()
    for file in files:
        file.parent.rename(folder / "folder" / file.parent.name)
    yield folder / "folder"
    yield [one(fold, loss) for fold, loss in enumerate(folds())]


def test_the_folds_of_each_form_are_judged_one_by_one_and_together(tmp_path):
    for source in fold_sources(tmp_path):
        advice = ck.advise(history=source)
        assert len(advice.runs) == 3, source
        for one, loss in zip(advice.runs, folds(), strict=True):
            assert one.history.best_test_loss == min(loss), source
            assert (one.regime, one.runs) == ("loss turned up", ())
        assert advice.regime == "loss turned up"
        assert advice.history.best_test_loss == pytest.approx(min(TEST_LOSS) + 0.01)
        assert advice.spread["best_test_loss"] == pytest.approx(0.01)
        assert advice.history.best_epoch == int(np.argmin(TEST_LOSS))
        assert len({one.name for one in advice.runs}) == 3


def test_the_mean_accuracies_of_several_runs_set_the_regime(capsys, tmp_path):
    for name, test in (("a", 92.0), ("b", 84.0)):
        (tmp_path / f"{name}.csv").write_text(csv_of(epoch=[0, 1], train_acc=[50, 95], val_acc=[40, test]))
    advice = ck.advise(history=[tmp_path / "a.csv", tmp_path / "b.csv"])
    assert [run.regime for run in advice.runs] == ["good", "gap over 10"]
    assert (advice.train_acc, advice.test_acc, advice.gap, advice.regime) == (95, 88, 7, "gap 5-10")
    assert advice.spread["test_acc"] == pytest.approx(math.sqrt(32))
    assert commands.main(["advise", "--history", str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]) == 0
    out = capsys.readouterr().out
    assert "gap 5-10: train 95.0 ± 0.0 %, test 88.0 ± 5.7 %, gap 7.0 ± 5.7 points" in out.replace("+-", "±")
    json.dumps(advice.to_dict())


def test_a_run_that_goes_on_after_a_crash_is_one(tmp_path):
    rows = [{"epoch": e, "loss": TRAIN_LOSS[e], "val_loss": TEST_LOSS[e]} for e in range(EPOCHS)]
    again = [{**row, "val_loss": 9.0} for row in rows[8:11]]
    (tmp_path / "log.csv").write_text(sparse(rows[:8] + again + rows[8:]))
    run = only(tmp_path / "log.csv")
    check(run, LOSSES)
    assert any("repeated after a restart" in note for note in run.notes)


def test_copies_of_a_log_in_checkpoints_are_left_out(tmp_path):
    for step, n in ((10, 30), (20, 60)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": HUGGING_FACE[:n]}))
        (folder / "config.json").write_text('{"hidden_size": 8}')
    check(only(tmp_path), ("train_loss", "test_loss", "test_acc"))


def test_a_run_that_diverged_is_left_out_of_the_mean(tmp_path):
    good = {"loss": TRAIN_LOSS, "val_loss": TEST_LOSS}
    bad = {"loss": TRAIN_LOSS[:3] + [math.nan] * 17, "val_loss": TEST_LOSS[:3] + [math.nan] * 17}
    advice = ck.advise(history=[good, bad, good])
    assert [run.regime for run in advice.runs] == ["loss turned up", "diverged", "loss turned up"]
    assert advice.regime == "loss turned up"
    assert advice.history.best_test_loss == min(TEST_LOSS)
    assert "1 of 3 runs diverged" in advice.warnings[0]


# What was not measured, and what diverged -----------------------------------------------------------------------------


def every(k, values, missing=math.nan):
    return [x if (e + 1) % k == 0 else missing for e, x in enumerate(values)]


@pytest.mark.parametrize("missing", ["nan", "NaN", "", "None", "NA", "-", "null", " ", "n/a"])
@pytest.mark.parametrize("k", [2, 5, 7])
def test_an_epoch_without_validation_is_no_divergence(missing, k, tmp_path):
    path = tmp_path / "log.csv"
    columns = {"val_loss": every(k, TEST_LOSS, missing), "val_accuracy": every(k, VA, missing)}
    path.write_text(csv_of(epoch=epochs(), loss=TRAIN_LOSS, accuracy=TA, **columns))
    run = only(path)
    assert run.diverged is None
    np.testing.assert_allclose(run.test_loss, every(k, TEST_LOSS))
    np.testing.assert_allclose(run.train_loss, TRAIN_LOSS)
    advice = ck.advise(history=path)
    last = EPOCHS // k * k - 1
    assert (advice.train_acc, advice.test_acc) == pytest.approx((TRAIN_ACC[last], TEST_ACC[last]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("figure", ["loss", "val_loss"])
def test_a_loss_that_stays_not_finite_diverged(bad, figure):
    curves = {"loss": TRAIN_LOSS, "val_loss": TEST_LOSS}
    curves[figure] = curves[figure][:12] + [bad] * 8
    advice = ck.advise(history=curves)
    assert (advice.regime, advice.history.diverged_epoch) == ("diverged", 12)
    assert advice.history.best_test_loss == min(TEST_LOSS[:12])
    json.dumps(advice.to_dict(), allow_nan=False)
    curves[figure] = [*curves[figure][:18], 0.5, 0.5]
    assert ck.advise(history=curves).history.diverged_epoch is None


def test_a_training_loss_that_is_never_finite_diverged():
    nothing = [math.nan] * 5
    assert ck.advise(history={"loss": nothing}).history.diverged_epoch == 0
    with pytest.raises(ValueError, match="no figure of the validation or test set"):
        ck.advise(history={"loss": [1.0] * 5, "val_loss": nothing})


# Scales ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("train_acc", "val_acc"), ("val_acc", "train_acc")])
def test_mixed_scales_are_refused_with_both_readings(first, second):
    with pytest.raises(ValueError, match="is either a fraction") as caught:
        ck.advise(history={"epoch": epochs(), first: TA, second: TEST_ACC})
    assert first in str(caught.value)
    assert f"({max(TRAIN_ACC):.4g} %) or in percent ({max(TA):.4g} %)" in str(caught.value)


def test_a_column_that_changes_its_scale_is_refused():
    with pytest.raises(ValueError, match=r"column val_acc: found 0.5836 in entry 4 and 62.51 in entry 5"):
        ck.advise(history={"train_acc": TRAIN_ACC, "val_acc": VA[:4] + TEST_ACC[4:]})


def test_a_percent_sign_settles_the_scale():
    advice = ck.advise(history={"train_acc": TA, "val_acc (%)": TEST_ACC})
    assert (advice.train_acc, advice.test_acc) == pytest.approx((TRAIN_ACC[-1], TEST_ACC[-1]))


def test_low_percentages_are_no_mixed_scale():
    advice = ck.advise(history={"train_acc": [0.1, 0.4, 6.0], "val_acc": [0.1, 0.3, 0.9]})
    assert (advice.train_acc, advice.test_acc) == (6, 0.9)


# Columns --------------------------------------------------------------------------------------------------------------


def test_columns_name_what_names_do_not_tell(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text(csv_of(t=epochs(), a=TRAIN_LOSS, b=TEST_LOSS, c=TA, d=VA))
    with pytest.raises(ValueError, match="found the columns t, a, b, c, d; expected"):
        ck.advise(history=path)
    columns = {"train_loss": "a", "test_loss": "b", "train_acc": "c", "test_acc": "d", "epoch": "t"}
    check(only(path, columns=columns), ALL)
    option = ",".join(f"{figure}={column}" for figure, column in columns.items())
    assert commands.main(["advise", "--history", str(path), "--columns", option, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["history"]["columns"]["test_acc"] == "d"


def test_columns_override_what_names_tell():
    history = {"loss": TRAIN_LOSS, "val_loss": TRAIN_LOSS, "val_loss_ema": TEST_LOSS}
    (run,) = logs.from_columns(history, {"test_loss": "val_loss_ema"})
    check(run, LOSSES)
    (run,) = logs.from_columns({"train_loss": TRAIN_LOSS, "val_loss": TEST_LOSS}, {"test_loss": "train_loss"})
    assert run.columns == {"test_loss": "train_loss"}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"test_loss": "foo"}, "found the columns loss, val_loss, and no column 'foo' for test_loss"),
        ({"foo": "loss"}, "columns must name columns for train_loss, train_acc, test_loss, test_acc, epoch, got 'foo'"),
    ],
)
def test_wrong_columns_are_refused(columns, words):
    with pytest.raises(ValueError, match=words):
        ck.advise(history={"loss": TRAIN_LOSS, "val_loss": TEST_LOSS}, columns=columns)


def test_the_command_tells_which_columns_it_read(tmp_path, capsys):
    (tmp_path / "log.csv").write_text(csv_of(epoch=epochs(), lossTrain=TRAIN_LOSS, lossVal=TEST_LOSS))
    assert commands.main(["advise", "--history", str(tmp_path / "log.csv")]) == 0
    assert "Read: train_loss from lossTrain, test_loss from lossVal" in capsys.readouterr().out


# Names ----------------------------------------------------------------------------------------------------------------

NAMES = {
    ("loss", "train"): """train_loss trainLoss TrainLoss train/loss loss/train loss_train lossTrain tr_loss trainloss
        Training-Loss training.loss train_loss_epoch train_ce train_cross_entropy train-logloss-mean loss(train)
        avg_train_loss losses/train.total_loss""",
    ("loss", "test"): """val_loss valLoss ValLoss val/loss loss/val loss_val validation_loss valid_loss eval_loss
        eval/loss dev_loss holdout_loss hold-out-loss test_loss lossTest valloss Validation.Loss loss_valid val_nll
        val_total_loss VAL_LOSS validationLoss""",
    ("acc", "train"): """train_acc acc_train trainAcc train_accuracy accuracy/train train_top1 train/acc@1 Train-Acc
        trn_acc""",
    ("acc", "test"): """val_acc acc_val valAcc val_accuracy accuracy/val eval_top1 eval/acc@1 test_acc te_acc
        valid_accuracy eval_accuracy val_sparse_categorical_accuracy val_top-1 Validation.Accuracy dev_acc
        val_binary_accuracy Val/Prec@1""",
}


@pytest.mark.parametrize(("figure", "side"), NAMES)
def test_names_are_understood_by_rules(figure, side):
    for name in NAMES[figure, side].split():
        found = names.meaning(name)
        assert found is not None, name
        assert (found.figure, found.side, found.extra) == (figure, side, ()), name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("val_mean_absolute_error", "absolute error"),
        ("test/RMSE", "squared error"),
        ("val_mse_loss", "squared error"),
        ("eval_r2", "R2"),
        ("valid R-squared", "R2"),
        ("val_f1_score", "F1"),
        ("eval_f1_macro", "F1"),
        ("val_error_rate", "error rate"),
        ("test merror", "error rate"),
        ("top1_err_val", "error rate"),
        ("val_auc", "AUC"),
        ("eval perplexity", "cross entropy"),
    ],
)
def test_kinds_of_figures_are_told_apart(name, kind):
    assert (names.meaning(name).kind, names.meaning(name).side) == (kind, "test")


def test_other_names_are_no_figures():
    others = """lr learning_rate epoch step time eval_runtime grad_norm train_samples_per_second best_val_acc
        val_loss__MIN val_loss_std loss_scale loss_weight eval_top5 train_lossless colour"""
    assert [name for name in others.split() if names.meaning(name) is not None] == []


# Hostile files --------------------------------------------------------------------------------------------------------

MUTATED = ("fastai", "ultralytics", "mmcls", "hugging face", "keras for R", "xgboost", "records by set", "wandb",
           "lightning in blocks", "semicolons and decimal commas")  # fmt: skip
PIECES = (b"nan", b"inf", b"-1e308", b"1e999", b"\x00", b"\xff\xfe", b"\n", b"\r", b",", b";", b"\t", b'"', b"[", b"{",
          b"}", b"]", b":", b"epoch", b"val_loss", b"train", b"%", b"9" * 400, b"0", b"-", b".", b"e",
          b" ", b"None")  # fmt: skip


def mutated(content, rng):
    """Return ``content`` with some bytes changed, lines cut, repeated or moved, and pieces put in."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at, length = int(rng.integers(0, len(data) + 1)), int(rng.integers(0, 60))
        action = rng.integers(0, 5)
        if action == 0:
            data[at : at + length] = b""
        elif action == 1:
            data[at:at] = PIECES[rng.integers(0, len(PIECES))]
        elif action == 2:
            data[at : at + 1] = bytes([rng.integers(32, 127)])
        elif action == 3:
            data[at:at] = data[max(0, at - 200) : at]
        else:
            data[at : at + length] = data[at : at + length][::-1]
    return bytes(data)


@pytest.mark.parametrize("name", MUTATED)
def test_a_damaged_log_gives_an_answer_or_one_line(name, tmp_path, capsys):
    path = tmp_path / "log"
    content = FORMATS[name][0].encode()
    rng = np.random.default_rng(list(name.encode()))
    for _ in range(60):
        path.write_bytes(mutated(content, rng))
        code = commands.main(["advise", "--history", str(path)])
        out, err = capsys.readouterr()
        if code == 0:
            assert out
        else:
            assert code == 2
            assert err.count("\n") == 1, err
            assert err.startswith(f"cregkit advise: {path}: ")
            assert len(err) < 800, err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"epoch,loss,val_loss\n" + b"".join(b"%d,1,1\n" % (i % 2) for i in range(3000)), "epoch numbers go back"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "no list of figures"),
        (b'[{"loss": ' + b"9" * 5000 + b"}]", "broken JSON"),
        (b"loss,val_loss\n" + b'"1\n' * 100, "line"),
        (b'{"loss": [1, 2, 3], "val_loss": [1, 2]}', "different lengths: loss 3, val_loss 2"),
        (b"[1, 2]", "found a JSON list of 2 that are no objects"),
        (b'{"epoch": 1}\n3\n', "line 2"),
        (b"0,1.5,1.4\n1,1.2,1.1\n", "found the columns 0, 1.5, 1.4; expected"),
        (b",".join(b"val_loss_%d" % i for i in range(20_000)) + b"\n", "expected"),
        (b",".join(b"val_loss_%d" % i for i in range(301)) + b"\n" + b"1," * 301, "found 301 columns of figures"),
        (b",".join(b"r%d - val_loss" % i for i in range(201)) + b"\n" + b"1," * 201, "found 201 runs"),
        (b"fold,val_loss\n" + b"".join(b"%d,1\n" % (i // 2) for i in range(402)), "found 201 runs"),
        (b"metric,value\nloss,1\n" + b"".join(b"a%d,1\n" % i for i in range(301)), "302 kinds of figures"),
    ],
    ids=range(13),
)
def test_hostile_files_are_refused_in_one_line(content, words, tmp_path, capsys):
    (tmp_path / "log").write_bytes(content)
    assert commands.main(["advise", "--history", str(tmp_path / "log")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert words in err


def test_a_file_over_the_limit_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LIMIT", 2**20)
    path = tmp_path / "log.csv"
    with open(path, "wb") as file:
        file.write(b"epoch,loss,val_loss\n")
        file.truncate(2**40)  # sparse: only the limit is read
    with pytest.raises(ValueError, match=r"log.csv: found more than 1 MiB; expected a log up to that size"):
        ck.advise(history=path)


def test_a_folder_without_logs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found no log in this folder"):
        ck.advise(history=tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    with pytest.raises(ValueError, match=r"config\.json: found hidden_size"):
        ck.advise(history=tmp_path)


# Advice on losses -----------------------------------------------------------------------------------------------------


def regime(**curves):
    return ck.advise(history=curves).regime


def test_losses_alone_set_the_regime():
    level, falling = [1.0] * 20, [2.0 - 0.05 * e for e in range(20)]
    assert regime(loss=TRAIN_LOSS, val_loss=TEST_LOSS) == "loss turned up"
    assert regime(loss=falling, val_loss=falling) == "loss still falling"
    assert regime(loss=[0.9] * 20, val_loss=level) == "loss level"
    assert regime(loss=[0.7] * 20, val_loss=level) == "loss gap"
    assert regime(val_loss=level) == "loss level"
    assert regime(val_acc=[60.0 + e for e in range(20)]) == "loss still falling"
    assert regime(val_acc=[80.0 - abs(e - 8) for e in range(20)]) == "loss turned up"


@pytest.mark.parametrize("model", [None, *rules.MODELS])
def test_losses_alone_get_remedies(model):
    advice = ck.advise(history={"loss": TRAIN_LOSS, "val_loss": TEST_LOSS}, model=model)
    assert (advice.train_acc, advice.test_acc, advice.gap) == (None, None, None)
    assert [remedy.name for remedy in advice.remedies][:3] == ["dropout", "weight decay", "early stopping"]
    assert advice.history.loss_gap == pytest.approx(TEST_LOSS[9] - TRAIN_LOSS[9])
    assert (advice.history.train_improving, advice.history.test_improving) == (True, False)


def test_validation_alone_gives_a_warning():
    advice = ck.advise(history={"val_loss": TEST_LOSS})
    assert any("no figures of the training set" in warning for warning in advice.warnings)
