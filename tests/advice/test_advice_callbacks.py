"""The callbacks for Keras and Lightning: with imitations of the libraries, and with the libraries if installed."""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from support import run_python

from cregkit.advice.keras import advice_callback as keras_callback
from cregkit.advice.lightning import advice_callback as lightning_callback
from cregkit.advice.recorder import Recorder

OVERFITTED = {"accuracy": 0.99, "val_accuracy": 0.6, "loss": 0.1, "val_loss": 1.0}
FIRST_LINE = "gap over 10: train 99.0 %, test 60.0 %, gap 39.0 points"


class Base:
    """Stands for the class ``Callback`` of a library."""


def imitate(monkeypatch, name):
    """Put modules in the place of ``name`` and its packages, the last of which has ``Callback``."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        module = ModuleType(".".join(parts[:end]))
        module.Callback = Base
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_the_libraries_are_not_imported_before_they_are_used():
    code = (
        "import sys, cregkit.advice.keras, cregkit.advice.lightning; print({'keras', 'lightning'} & set(sys.modules))"
    )
    assert run_python("-c", code).stdout == "set()\n"


def test_the_callback_of_keras_prints_the_advice(monkeypatch, capsys):
    imitate(monkeypatch, "keras.callbacks")
    callback = keras_callback(model="mlp", test_samples=100)
    assert isinstance(callback, Base)
    for _ in range(2):  # a second fit begins anew
        callback.on_train_begin()
        for epoch in range(3):
            callback.on_epoch_end(epoch, OVERFITTED)
        callback.on_train_end()
        out = capsys.readouterr().out
        assert out.startswith(FIRST_LINE)
        assert "Keras log, 3 epochs" in out
        assert "BatchNorm" in out
        assert "95 % interval" in out


@pytest.mark.parametrize("library", ["pytorch_lightning", "lightning.pytorch"])
def test_the_callback_of_lightning_prints_the_advice(library, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "pytorch_lightning", raising=False)
    imitate(monkeypatch, library)
    callback = lightning_callback()
    assert isinstance(callback, Base)
    trainer = SimpleNamespace(callback_metrics={}, is_global_zero=True)
    callback.on_fit_start(trainer, None)
    callback.on_validation_end(trainer, None)  # the check before the training
    for epoch in range(4):
        callback.on_train_epoch_start(trainer, None)
        trainer.callback_metrics |= {"train_loss": np.float32(0.5), "train_acc": np.float32(0.99)}
        if epoch % 2:
            trainer.callback_metrics |= {"val_loss": np.float32(1 + epoch), "val_acc": np.float32(0.6)}
            callback.on_validation_end(trainer, None)
        callback.on_train_epoch_end(trainer, None)
    assert [row.get("val_loss") for row in callback.recorder._rows] == [None, 2.0, None, 4.0]
    callback.on_fit_end(trainer, None)
    assert capsys.readouterr().out.startswith(FIRST_LINE)
    callback.on_fit_end(SimpleNamespace(is_global_zero=False), None)
    assert capsys.readouterr().out == ""


def test_without_a_figure_of_validation_training_ends_without_an_error():
    recorder = Recorder()
    assert next(recorder.lines()).startswith("no advice: ")
    recorder.add({"loss": 0.5})
    (line,) = recorder.lines()
    assert line.startswith("no advice: ")
    assert "val_loss" in line


def test_a_wrong_setting_is_refused_before_the_training(monkeypatch):
    imitate(monkeypatch, "keras.callbacks")
    with pytest.raises(ValueError, match="model must be None or one of"):
        keras_callback(model="rnn")
    with pytest.raises(TypeError, match="epochs"):
        keras_callback(epochs=3)


# The libraries themselves ---------------------------------------------------------------------------------------------


def test_keras_calls_it(capsys, monkeypatch):
    if "keras" not in sys.modules:
        monkeypatch.setitem(os.environ, "KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="keras is not installed")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 4), dtype=np.float32), rng.integers(0, 2, 40)
    model = keras.Sequential([keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, validation_split=0.5, epochs=9, verbose=0, callbacks=[keras_callback(optimizer="adam")])
    out = capsys.readouterr().out
    assert "Keras log, 9 epochs: best epoch" in out
    assert "Read: train_loss from loss, train_acc from accuracy, test_loss from val_loss" in out


@pytest.mark.parametrize("library", ["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.filterwarnings("ignore")  # of Lightning: few workers, no logger
def test_lightning_calls_it(library, capsys, tmp_path, monkeypatch):
    package = library.partition(".")[0]
    lightning = pytest.importorskip(library, reason=f"{package} is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if package == "lightning":
        monkeypatch.delitem(sys.modules, "pytorch_lightning", raising=False)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def training_step(self, batch, _):
            loss = torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return loss

        def validation_step(self, batch, _):
            self.log("val_loss", torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = torch.utils.data.TensorDataset(torch.randn(32, 4), torch.randint(0, 2, (32,)))
    batches = torch.utils.data.DataLoader(data, batch_size=8)
    callback = lightning_callback()
    trainer = lightning.Trainer(
        max_epochs=6,
        check_val_every_n_epoch=2,
        callbacks=[callback],
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), batches, batches)
    assert ["val_loss" in row for row in callback.recorder._rows] == [False, True] * 3
    assert "6 epochs: best epoch" in capsys.readouterr().out
