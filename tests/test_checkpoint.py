"""Checkpoints: a run that was cut off and goes on has the bits of one that was not."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import pytest

from cregkit.layers import BatchNorm, Dropout, Linear, ReLU, Sequential, SpatialDropout
from cregkit.train import SGD, Adam, AdamW, EarlyStopping, fit, softmax_cross_entropy

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype(np.float32)
CLASSES = (X[:, 0] + RNG.normal(size=60) > 0).astype(np.int64)
TRAIN, TEST = (X[:33], CLASSES[:33]), (X[33:], CLASSES[33:])
EPOCHS = 12


class _PowerCutError(Exception):
    pass


class Run:
    """All that one run is made of, the same for every seed."""

    def __init__(self, optimizer=AdamW, patience=4, seed=1, **settings):
        self.network = Sequential(
            Linear(6, 8, seed=seed), BatchNorm(8), SpatialDropout(0.1, seed=seed), ReLU(), Dropout(0.3, seed=seed),
            Linear(8, 2, seed=seed + 1),
        )  # fmt: skip
        options = {"momentum": 0.9} if optimizer is SGD else {}
        self.optimizer = optimizer(self.network, **{"lr": 0.02, **options, **settings})
        self.stopping = EarlyStopping(patience)

    def fit(self, epochs=EPOCHS, *, cut=None, **options):
        def decay(state):
            state.optimizer.lr *= 0.9

        def power_cut(state):
            if state.epoch == cut:
                raise _PowerCutError

        options = {"batch_size": 8, "seed": 4, "train": TRAIN, "test": TEST, "loss": softmax_cross_entropy, **options}
        train, test, loss = options.pop("train"), options.pop("test"), options.pop("loss")
        callbacks = [decay, self.stopping, power_cut]
        self.history = fit(self.network, loss, self.optimizer, train, test, epochs, callbacks=callbacks, **options)
        return self

    def result(self):
        figures = {name: value for name, value in vars(self.history).items() if name != "seconds"}
        states = [self.network.state_dict(), self.optimizer.state_dict(), self.stopping.state_dict()]
        return figures, [{key: array.tobytes() for key, array in state.items()} for state in states], str(self.stopping)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


@pytest.mark.parametrize("cut", [1, 7])
@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW])
def test_a_resumed_run_has_the_same_bits(optimizer, cut, path):
    whole = Run(optimizer, patience=100).fit()
    with pytest.raises(_PowerCutError):
        Run(optimizer, patience=100).fit(cut=cut, checkpoint=path)
    with np.load(path, allow_pickle=False) as archive:
        assert len(archive["history/gap"]) == cut
    resumed = Run(optimizer, patience=100, seed=9)  # whatever it starts with, the file replaces it
    resumed.fit(checkpoint=path, resume=True, seed=77)
    assert resumed.result() == whole.result()
    assert len(resumed.history) == len(resumed.history.seconds) == EPOCHS
    assert os.listdir(path.parent) == ["run.npz"]


@pytest.mark.parametrize("cut", [2, 5])
def test_early_stopping_goes_on_too(cut, path):
    whole = Run(patience=3).fit(100)
    assert cut < len(whole.history) < 100
    with pytest.raises(_PowerCutError):
        Run(patience=3).fit(100, cut=cut, checkpoint=path)
    assert Run(patience=3, seed=9).fit(100, checkpoint=path, resume=True).result() == whole.result()


def test_a_run_that_is_over_comes_back_as_it_ended(path):
    whole = Run(patience=3).fit(100, checkpoint=path)
    assert whole.stopping.stopped
    again = Run(patience=3, seed=9).fit(100, checkpoint=path, resume=True)
    assert again.result() == whole.result()


def test_more_epochs_are_those_of_the_longer_run(path):
    Run(patience=100).fit(5, checkpoint=path)
    longer = Run(patience=100, seed=9).fit(checkpoint=path, resume=True)
    assert longer.result() == Run(patience=100).fit().result()


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_any_generator_goes_on(kind, path):
    def order():
        return np.random.Generator(kind(3))

    whole = Run(patience=100).fit(seed=order())
    Run(patience=100).fit(5, checkpoint=path, seed=order())
    assert Run(patience=100).fit(checkpoint=path, resume=True, seed=order()).result() == whole.result()


def test_resume_without_a_file_starts(path):
    assert Run().fit(checkpoint=path, resume=True).result() == Run().fit().result()


def test_a_file_that_is_there_is_not_overwritten(path):
    Run().fit(2, checkpoint=path)
    content = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"resume=True.*run\.npz"):
        Run().fit(checkpoint=path)
    assert path.read_bytes() == content


def test_a_folder_that_is_not_there_is_seen_before_training(tmp_path):
    run = Run()
    before = run.network.state_dict()
    with pytest.raises(FileNotFoundError, match="none"):
        run.fit(checkpoint=tmp_path / "none" / "run.npz")
    for name, value in run.network.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def _truncated(path):
    path.write_bytes(path.read_bytes()[:2000])


def _not_a_checkpoint(path):
    np.savez(path, x=X)


def _without_a_weight(path):
    _rewrite(path, lambda arrays: arrays.pop("network/5.weight"))


def _without_history(path):
    _rewrite(path, lambda arrays: arrays.pop("history/gap"))


def _with_broken_meta(path):
    _rewrite(path, lambda arrays: arrays.update(meta=np.array("{")))


def _with_meta_of_another_format(path):
    _rewrite(path, lambda arrays: arrays.update(meta=np.array("[]")))


def _with_odd_stopping(path):
    _rewrite(path, lambda arrays: arrays.pop("callback1/seen"))


def _rewrite(path, change):
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(path, **arrays)


DAMAGES = [
    _truncated, _not_a_checkpoint, _without_a_weight, _without_history, _with_broken_meta,
    _with_meta_of_another_format, _with_odd_stopping,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_file_changes_nothing(damage, path):
    Run().fit(2, checkpoint=path)
    damage(path)
    _refused(Run(seed=9), path, r"run\.npz")


def _refused(run, path, message, **options):
    states = [run.network.state_dict(), run.optimizer.state_dict()]
    with pytest.raises(ValueError, match=message):
        run.fit(checkpoint=path, resume=True, **options)
    for before, owner in zip(states, (run.network, run.optimizer), strict=True):
        for name, value in owner.state_dict().items():
            np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch_size": 16}, "batch_size was 8, is 16"),
        ({"train": (X[:33] + 1, CLASSES[:33])}, "train was"),
        ({"test": TRAIN}, "test was"),
        ({"seed": np.random.Generator(np.random.MT19937(1))}, "order"),
        (
            {"loss": partial(softmax_cross_entropy, label_smoothing=0.1)},
            r"loss was softmax_cross_entropy, is softmax_cross_entropy\(label_smoothing=0\.1\)",
        ),
        ({"loss": lambda z, t: softmax_cross_entropy(z, t)}, "loss was softmax_cross_entropy, is <lambda>"),
    ],
)
def test_another_run_is_refused(options, named, path):
    Run().fit(2, checkpoint=path)
    _refused(Run(), path, f"another run: {named}", **options)
    _refused(Run(SGD), path, "another run: optimizer was AdamW, is SGD")


@pytest.mark.parametrize(
    ("optimizer", "settings", "named"),
    [
        (SGD, {"momentum": 0.5}, "momentum was 0.9, is 0.5"),
        (SGD, {"lr": 0.1}, "lr was 0.02, is 0.1"),
        (SGD, {"weight_decay": 0.5}, "weight_decay was 0.0, is 0.5"),
        (Adam, {"betas": (0.8, 0.999)}, r"betas was \[0\.9, 0\.999\], is \[0\.8, 0\.999\]"),
        (AdamW, {"eps": 1e-6}, "eps was 1e-08, is 1e-06"),
    ],
)
def test_another_setting_of_the_optimizer_is_refused(optimizer, settings, named, path):
    Run(optimizer).fit(2, checkpoint=path)
    _refused(Run(optimizer, **settings), path, f"another run: {named}")


def test_an_optimizer_that_changed_its_step_goes_on_with_that_of_the_file(path):
    """The settings are those it was made with: the same object may go on from its own file."""
    whole = Run(patience=100).fit()
    run = Run(patience=100)
    with pytest.raises(_PowerCutError):
        run.fit(cut=3, checkpoint=path)
    assert run.optimizer.lr < 0.02
    assert run.fit(checkpoint=path, resume=True).result() == whole.result()
