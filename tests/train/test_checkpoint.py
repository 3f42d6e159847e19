"""Checkpoints: an interrupted run resumes bit-identically; damaged files and other runs are refused."""

from __future__ import annotations

import math
import os
from functools import partial

import numpy as np
import pytest

from cregkit.augment import Augmentation, AugmentBatches, Compose, HorizontalFlip, Mixup, RandomCrop
from cregkit.layers import GELU, BatchNorm, Dropout, LayerNorm, Linear, ReLU, RMSNorm, Sequential, SpatialDropout
from cregkit.train import (
    SGD,
    Adam,
    AdamW,
    Callback,
    DivergenceWarning,
    EarlyStopping,
    binary_accuracy,
    fit,
    softmax_cross_entropy,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype(np.float32)
CLASSES = (X[:, 0] + RNG.normal(size=60) > 0).astype(np.int64)
TRAIN, TEST = (X[:33], CLASSES[:33]), (X[33:], CLASSES[33:])
EPOCHS = 12


class _PowerCutError(Exception):
    pass


class Run:
    """Network, optimiser and callbacks of one run."""

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
def test_a_resumed_run_is_bit_identical(optimizer, cut, path):
    whole = Run(optimizer, patience=100).fit()
    with pytest.raises(_PowerCutError):
        Run(optimizer, patience=100).fit(cut=cut, checkpoint=path)
    with np.load(path, allow_pickle=False) as archive:
        assert len(archive["history/gap"]) == cut
    resumed = Run(optimizer, patience=100, seed=9)  # the file replaces these initial values
    resumed.fit(checkpoint=path, resume=True)
    assert resumed.result() == whole.result()
    assert len(resumed.history) == len(resumed.history.seconds) == EPOCHS
    assert os.listdir(path.parent) == ["run.npz"]


@pytest.mark.parametrize("cut", [2, 5])
def test_a_run_with_early_stopping_resumes_bit_identically(cut, path):
    whole = Run(patience=3).fit(100)
    assert cut < len(whole.history) < 100
    with pytest.raises(_PowerCutError):
        Run(patience=3).fit(100, cut=cut, checkpoint=path)
    assert Run(patience=3, seed=9).fit(100, checkpoint=path, resume=True).result() == whole.result()


def test_a_finished_run_is_loaded_as_it_ended(path):
    whole = Run(patience=3).fit(100, checkpoint=path)
    assert whole.stopping.stopped
    again = Run(patience=3, seed=9).fit(100, checkpoint=path, resume=True)
    assert again.result() == whole.result()


def test_resuming_with_more_epochs_gives_the_longer_run(path):
    Run(patience=100).fit(5, checkpoint=path)
    longer = Run(patience=100, seed=9).fit(checkpoint=path, resume=True)
    assert longer.result() == Run(patience=100).fit().result()


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_any_generator_resumes_its_stream(kind, path):
    def order():
        return np.random.Generator(kind(3))

    whole = Run(patience=100).fit(seed=order())
    Run(patience=100).fit(5, checkpoint=path, seed=order())
    assert Run(patience=100).fit(checkpoint=path, resume=True, seed=order()).result() == whole.result()


def test_resume_without_a_file_starts_a_run(path):
    assert Run().fit(checkpoint=path, resume=True).result() == Run().fit().result()


def test_an_existing_file_is_not_overwritten(path):
    Run().fit(2, checkpoint=path)
    content = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"resume=True.*run\.npz"):
        Run().fit(checkpoint=path)
    assert path.read_bytes() == content


def test_a_missing_folder_is_an_error_before_training(tmp_path):
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


def test_another_optimizer_is_refused(path):
    Run().fit(2, checkpoint=path)
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
def test_other_settings_of_the_optimizer_are_refused(optimizer, settings, named, path):
    Run(optimizer).fit(2, checkpoint=path)
    _refused(Run(optimizer, **settings), path, f"another run: {named}")


def test_an_optimizer_resumes_with_the_lr_of_the_file(path):
    """The file compares the settings that the optimiser was made with, so the same object may resume."""
    whole = Run(patience=100).fit()
    run = Run(patience=100)
    with pytest.raises(_PowerCutError):
        run.fit(cut=3, checkpoint=path)
    assert run.optimizer.lr < 0.02
    assert run.fit(checkpoint=path, resume=True).result() == whole.result()


# What a resumed run may change and what it may not: the table in the docstring of fit


def _layers(**changed):
    norm, p, activation = changed.get("norm", BatchNorm(8)), changed.get("p", 0.3), changed.get("activation", ReLU())
    more = changed.get("more", ())
    return Sequential(Linear(6, 8, seed=1), norm, activation, Dropout(p, seed=1), Linear(8, 2, seed=2), *more)


def _augmentation(*transforms, seed=3, mix=None):
    return AugmentBatches(Augmentation(Compose(*transforms), mix=mix, classes=2, seed=seed), (1, 2, 3))


def _make_loss(smoothing):
    def loss(outputs, targets):
        return softmax_cross_entropy(outputs, targets, label_smoothing=smoothing)

    return loss


def _one(state):
    pass


def _two(state):
    pass


def _decay(state, factor):
    state.optimizer.lr *= factor


def _make_decay(factor):
    def decay(state):
        _decay(state, factor)

    return decay


class _Decay(Callback):
    def __init__(self, factor):
        self.factor, self.calls, self.nothing_yet = factor, 0, math.nan

    def on_epoch_end(self, state):
        self.calls += 1
        _decay(state, self.factor)


def _go(path, epochs=3, network=None, callbacks=(), loss=softmax_cross_entropy, train=TRAIN, prepare=None, **options):
    network = network or _layers()
    optimizer = options.pop("optimizer", AdamW)(network)
    if prepare is not None:
        prepare(optimizer)
    options = {"batch_size": 8, "seed": 4, "checkpoint": path, **options}
    return fit(network, loss, optimizer, train, TEST, epochs, callbacks=callbacks, **options)


class _Scaled:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, outputs, targets):
        return softmax_cross_entropy(outputs, targets)


OTHER = {
    "seed was 4, is 5": ({}, {"seed": 5}),
    "batch_size was 8, is 9": ({}, {"batch_size": 9}),
    r"loss was loss\(smoothing=0.1\), is loss\(smoothing=0.2\)": ({"loss": _make_loss(0.1)}, {"loss": _make_loss(0.2)}),
    r"loss was _Scaled\(scale=0.5\), is _Scaled\(scale=2.0\)": ({"loss": _Scaled(0.5)}, {"loss": _Scaled(2.0)}),
    "accuracy was class_accuracy, is binary_accuracy": ({}, {"accuracy": binary_accuracy}),
    "network.3.p was 0.3, is 0.5": ({}, {"network": _layers(p=0.5)}),
    "network.1.momentum was 0.1, is 0.2": ({}, {"network": _layers(norm=BatchNorm(8, momentum=0.2))}),
    "network.1.gain_offset was 0.0, is 1.0": (
        {"network": _layers(norm=RMSNorm(8))},
        {"network": _layers(norm=RMSNorm(8, gain_offset=1.0))},
    ),
    "network.1.channel_axis was -1, is 1": (
        {"network": _layers(norm=LayerNorm(8))},
        {"network": _layers(norm=LayerNorm(8, channel_axis=1))},
    ),
    "network.2.class was ReLU, is GELU": ({}, {"network": _layers(activation=GELU())}),
    "network.5 is new": ({}, {"network": _layers(more=(ReLU(),))}),
    r"callbacks was \[\], is \['EpochEnd'\]": ({}, {"callbacks": [_one]}),
    r"callbacks\[0\].function was _one, is _two": ({"callbacks": [_one]}, {"callbacks": [_two]}),
    r"callbacks\[0\].function was decay\(factor=0.5\), is decay\(factor=0.9\)": (
        {"callbacks": [_make_decay(0.5)]},
        {"callbacks": [_make_decay(0.9)]},
    ),
    r"callbacks\[0\].function was _decay\(factor=0.5\), is _decay\(factor=0.9\)": (
        {"callbacks": [partial(_decay, factor=0.5)]},
        {"callbacks": [partial(_decay, factor=0.9)]},
    ),
    r"callbacks\[0\].factor was 0.5, is 0.9": ({"callbacks": [_Decay(0.5)]}, {"callbacks": [_Decay(0.9)]}),
    r"callbacks\[0\].min_delta was 0.0, is 0.1": (
        {"callbacks": [EarlyStopping()]},
        {"callbacks": [EarlyStopping(min_delta=0.1)]},
    ),
    r"callbacks\[0\].monitor was test_loss, is train_loss": (
        {"callbacks": [EarlyStopping()]},
        {"callbacks": [EarlyStopping(monitor="train_loss")]},
    ),
    r"callbacks\[0\].augmentation.seed was 3, is 4": (
        {"callbacks": [_augmentation(HorizontalFlip())]},
        {"callbacks": [_augmentation(HorizontalFlip(), seed=4)]},
    ),
    r"callbacks\[0\].augmentation.transform.transforms\[1\].class was HorizontalFlip, is RandomCrop": (
        {"callbacks": [_augmentation(HorizontalFlip(), HorizontalFlip())]},
        {"callbacks": [_augmentation(HorizontalFlip(), RandomCrop((2, 3), padding=1))]},
    ),
    r"callbacks\[0\].augmentation.transform.transforms was .*HorizontalFlip.*, is \[\]": (
        {"callbacks": [_augmentation(HorizontalFlip())]},
        {"callbacks": [_augmentation()]},
    ),
    r"callbacks\[0\].augmentation.mix.alpha was 1.0, is 0.5": (
        {"callbacks": [_augmentation(mix=Mixup(1.0))]},
        {"callbacks": [_augmentation(mix=Mixup(0.5))]},
    ),
    "optimizer was AdamW, is Adam": ({}, {"optimizer": Adam}),
    "lr was 0.001, is 0.5": ({}, {"prepare": lambda optimizer: setattr(optimizer, "lr", 0.5)}),
    r"groups\[1\].lr was 0.001, is 0.0": ({}, {"prepare": lambda optimizer: setattr(optimizer.groups[1], "lr", 0.0)}),
    "weight_decay was 0.01, is 0.0": (
        {},
        {"prepare": lambda optimizer: setattr(optimizer.groups[0], "weight_decay", 0.0)},
    ),
    "trained.0.weight is missing": (
        {"optimizer": SGD},
        {"optimizer": lambda network: SGD(network.layers[4], weight_decay=0.0)},
    ),
    "train was": ({}, {"train": (X[:32], CLASSES[:32])}),
    "epochs must be at least 3, the number already trained, got 2": ({}, {"epochs": 2}),
}


def test_a_callback_with_a_counter_resumes(path):
    decay = _Decay(0.5)
    _go(path, callbacks=[decay])
    assert len(_go(path, epochs=5, callbacks=[decay], resume=True)) == 5
    assert decay.calls == 5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("named", OTHER)
def test_a_resumed_run_with_other_settings_is_refused_by_name(named, path):
    first, second = OTHER[named]
    _go(path, **first)
    network = second.get("network") or _layers()
    before = network.state_dict()
    with pytest.raises(ValueError, match=named):
        _go(path, **{**first, **second, "network": network}, resume=True)
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("seed", [None, 4, np.random.default_rng(8)])
def test_a_resumed_run_takes_the_order_of_the_file(seed, path):
    whole = _go(None, 6)
    _go(path)
    assert _go(path, 6, seed=seed, resume=True) == whole


@pytest.mark.parametrize("patience", [2, 4, 40])
def test_a_stopped_run_resumed_with_more_patience_gives_the_patient_run(patience, path):
    def made(patience):
        return Run(patience=patience, optimizer=Adam)

    whole = made(patience).fit(60)
    short = made(1).fit(60, checkpoint=path)
    assert len(short.history) < len(whole.history)
    assert made(patience).fit(60, checkpoint=path, resume=True).result() == whole.result()


def test_less_patience_than_the_file_used_is_refused(path):
    run = Run(patience=5).fit(60, checkpoint=path)
    assert run.stopping.stopped
    _refused(Run(patience=3), path, "patience must be at least 5, got 3, which would have ended the fit", epochs=60)


def test_less_patience_that_the_file_did_not_use_is_accepted(path):
    whole = Run(patience=4).fit(60)
    with pytest.raises(_PowerCutError):
        Run(patience=50).fit(60, cut=len(whole.history) - 1, checkpoint=path)
    assert Run(patience=4).fit(60, checkpoint=path, resume=True).result() == whole.result()


class _Stop(Callback):
    def on_epoch_end(self, state):
        state.stop = state.epoch == 1


def test_a_run_that_another_callback_stopped_is_finished(path):
    whole = _go(path, 9, callbacks=[_Stop()])
    assert len(whole) == 2
    assert _go(path, 9, callbacks=[_Stop()], resume=True) == whole


def test_a_run_of_another_part_of_the_network_is_refused(path):
    _go(path, optimizer=lambda network: SGD(network.layers[0]))
    with pytest.raises(ValueError, match=r"trained\.4\.weight is new"):
        _go(path, optimizer=lambda network: SGD(network.layers[4]), resume=True)


def test_a_file_with_weights_that_are_not_finite_is_refused(path):
    Run().fit(2, checkpoint=path)
    for name in ("network/0.weight", "network/1.running_var", "optimizer/v.5.bias"):
        _rewrite(path, lambda arrays, name=name: arrays[name].fill(np.nan))
        _refused(Run(), path, f"cannot resume from checkpoint .*: {name} is not finite")
        _rewrite(path, lambda arrays, name=name: arrays[name].fill(1))


def test_an_epoch_that_diverged_is_not_written(path):
    def diverge(state):
        if state.epoch == 2:
            state.optimizer.lr = 1e30

    for _ in range(2):  # the resumed run diverges again in the same step
        with pytest.warns(DivergenceWarning, match="epoch 3, step 1"):
            history = _go(path, 9, callbacks=[diverge], resume=True)
        assert (len(history), history.diverged.epoch) == (4, 3)
        with np.load(path) as file:
            assert len(file["history/gap"]) == 3


def test_histories_of_different_lengths_are_refused(path):
    Run().fit(2, checkpoint=path)
    _rewrite(path, lambda arrays: arrays.update({"history/gap": np.zeros(1)}))
    _refused(Run(seed=9), path, "the lists of its history must have one length")


def test_a_state_of_early_stopping_that_does_not_fit_changes_nothing():
    stopping = Run(patience=4).fit(6).stopping
    before, text = stopping.state_dict(), str(stopping)
    best = next(name for name in before if name.startswith("best."))
    without = {name: array for name, array in before.items() if not name.startswith("best.")}
    for wrong in (
        {**before, best: [1.0]},
        {**before, "seen": np.array(2.0)},
        {**before, "seen": np.array(-1)},
        {**before, "best_epoch": np.array(77)},
        without,
        {name: array for name, array in before.items() if name != "seen"},
    ):
        with pytest.raises(ValueError, match="state does not fit, nothing was loaded"):
            stopping.load_state_dict(wrong)
        assert str(stopping) == text
        after = stopping.state_dict()
        assert after.keys() == before.keys()
        assert all((after[name] == before[name]).all() for name in before)


def test_the_state_of_early_stopping_must_be_a_mapping():
    with pytest.raises(TypeError, match="state must be a mapping"):
        Run(patience=4).stopping.load_state_dict(3)
