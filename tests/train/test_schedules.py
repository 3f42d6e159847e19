"""Learning-rate schedules: the values of PyTorch's schedulers, resumed runs, other callbacks, Ctrl-C and divergence."""

from __future__ import annotations

import math
import re
import signal
from functools import partial

import numpy as np
import pytest

from cregkit.layers import Dropout, Linear, ReLU, Sequential
from cregkit.train import (
    SGD,
    AdamW,
    Callback,
    DivergenceWarning,
    EarlyStopping,
    FitState,
    History,
    ReduceOnPlateau,
    Schedule,
    batches,
    cosine_schedule,
    fit,
    softmax_cross_entropy,
    step_schedule,
    steps_per_epoch,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype(np.float32)
CLASSES = (X[:, 0] + RNG.normal(size=60) > 0).astype(np.int64)
TRAIN, TEST = (X[:40], CLASSES[:40]), (X[40:], CLASSES[40:])
PER_EPOCH = steps_per_epoch(40, 8)
RATES = (0.02, 0.005)


def _made(optimizer=SGD, rates=RATES, seed=1):
    network = Sequential(Linear(6, 8, seed=seed), ReLU(), Dropout(0.3, seed=seed), Linear(8, 2, seed=seed + 1))
    made = optimizer(network)
    for group, lr in zip(made.groups, rates, strict=True):
        group.lr = lr
    return made


def _fit(optimizer, callbacks, epochs=4, **options):
    options = {"batch_size": 8, "seed": 4, **options}
    return fit(optimizer.network, softmax_cross_entropy, optimizer, TRAIN, TEST, epochs, callbacks=callbacks, **options)


class _Rates(Callback):
    """Records the lr of every group in each step; may run a function at the end of one of them."""

    def __init__(self, at=None, then=None):
        self.used, self._at, self._then = [], at, then

    def on_batch_end(self, state):
        self.used.append([group.lr for group in state.optimizer.groups])
        if self._then is not None and len(self.used) == self._at:
            self._then()


def _used(schedule, epochs=4):
    log = _Rates()
    _fit(_made(), [schedule, log], epochs)
    return np.array(log.used)


def _inverse_time(step, rate):
    return 1 / (1 + rate * step)


def _warm_up_from_zero(step):
    return step / 6 if step < 6 else (1 + math.cos(math.pi * (step - 6) / 14)) / 2


# A schedule, and PyTorch's: a function of the module torch.optim.lr_scheduler and an optimiser.
SAME_AS_TORCH = {
    "own function": (
        lambda: Schedule(partial(_inverse_time, rate=0.3)),
        lambda lr, optimizer: lr.LambdaLR(optimizer, lambda step: _inverse_time(step, 0.3)),
    ),
    "steps": (lambda: step_schedule(7, gamma=0.5), lambda lr, optimizer: lr.StepLR(optimizer, 7, 0.5)),
    "cosine": (lambda: cosine_schedule(20), lambda lr, optimizer: lr.CosineAnnealingLR(optimizer, 20)),
    "cosine after a warm-up": (
        lambda: cosine_schedule(20, warmup_steps=6, start_factor=0.25),
        lambda lr, optimizer: lr.SequentialLR(
            optimizer, [lr.LinearLR(optimizer, 0.25, total_iters=6), lr.CosineAnnealingLR(optimizer, 14)], [6]
        ),
    ),
    "cosine after a warm-up from 0": (
        lambda: cosine_schedule(20, warmup_steps=6),
        lambda lr, optimizer: lr.LambdaLR(optimizer, _warm_up_from_zero),
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in")
@pytest.mark.parametrize("name", SAME_AS_TORCH)
def test_the_lr_of_every_group_and_step_is_that_of_pytorch(name):
    torch = pytest.importorskip("torch")
    made, scheduler = SAME_AS_TORCH[name]
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in RATES]
    optimizer = torch.optim.SGD(groups)
    stepped, used = scheduler(torch.optim.lr_scheduler, optimizer), []
    for _ in range(4 * PER_EPOCH):
        used.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        stepped.step()
    np.testing.assert_allclose(_used(made()), used, rtol=1e-12, atol=1e-18)


def test_cosine_ends_at_alpha_and_stays_there():
    torch = pytest.importorskip("torch")
    lr = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([torch.zeros(1)], lr=1.0), 14, eta_min=0.1)
    function = cosine_schedule(20, warmup_steps=6, alpha=0.1).function
    for step in range(6, 21):
        assert function(step) == pytest.approx(lr.get_last_lr()[0], rel=1e-12)
        lr.optimizer.step()
        lr.step()
    assert [function(step) for step in (0, 3, 6, 20, 21, 10**9)] == [0.0, 0.5, 1.0, 0.1, 0.1, 0.1]


def test_the_weights_are_those_of_each_step_with_its_lr():
    """A schedule changes nothing but lr: the same weights come from setting it by hand."""

    class ByHand(Callback):
        def on_batch_begin(self, state, rows, x, targets):
            for group, lr in zip(state.optimizer.groups, RATES, strict=True):
                group.lr = lr * _inverse_time(state.optimizer.steps, 0.3)
            return x, targets

    ours, by_hand = _made(AdamW), _made(AdamW)
    _fit(ours, [Schedule(partial(_inverse_time, rate=0.3))])
    _fit(by_hand, [ByHand()])
    for name, value in by_hand.network.state_dict().items():
        np.testing.assert_array_equal(ours.network.state_dict()[name], value)


def test_the_initial_rates_return_and_the_next_fit_continues_the_schedule():
    schedule, log, optimizer = cosine_schedule(4 * PER_EPOCH, warmup_steps=3), _Rates(), _made()
    for _ in range(2):
        _fit(optimizer, [schedule, log], 2)
        assert tuple(group.lr for group in optimizer.groups) == RATES
    np.testing.assert_array_equal(log.used, _used(cosine_schedule(4 * PER_EPOCH, warmup_steps=3)))


@pytest.mark.parametrize(("n", "join_single", "steps"), [(40, False, 5), (41, False, 6), (41, True, 5), (1, True, 1)])
def test_steps_per_epoch_counts_the_batches(n, join_single, steps):
    assert steps_per_epoch(n, 8, join_single=join_single) == steps == len(list(batches(n, 8, join_single=join_single)))


# ReduceOnPlateau


def _reduced(reduce, metrics, lr=0.1):
    """The lr after each epoch with this test loss."""
    optimizer, rates = _made(rates=(lr, lr / 4)), []
    state = FitState(optimizer.network, optimizer, TRAIN, TEST, len(metrics), History())
    reduce.on_train_begin(state)
    for value in metrics:
        state.history.record((value, -value), (value, -value))
        reduce.on_epoch_end(state)
        rates.append([group.lr for group in optimizer.groups])
    return rates


def _torch_reduced(metrics, lr=0.1, **settings):
    torch = pytest.importorskip("torch")
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (lr, lr / 4)]
    optimizer, rates = torch.optim.SGD(groups), []
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, threshold_mode="abs", eps=0, **settings)
    for value in metrics:
        scheduler.step(value)
        rates.append([group["lr"] for group in optimizer.param_groups])
    return rates


@pytest.mark.parametrize("monitor", ["test_loss", "test_acc"])
@pytest.mark.parametrize("cooldown", [0, 1, 3])
@pytest.mark.parametrize("patience", [1, 2, 4])
def test_reduced_rates_are_those_of_pytorch(patience, cooldown, monitor):
    metrics = np.random.default_rng(patience).integers(0, 40, 200) / 8 + np.linspace(3, 0, 200)
    metrics[[5, 50]] = math.nan
    reduce = ReduceOnPlateau(0.5, patience, min_delta=0.25, cooldown=cooldown, min_lr=0.001, monitor=monitor)
    reference = _torch_reduced(
        metrics, factor=0.5, patience=patience - 1, cooldown=max(cooldown - 1, 0), threshold=0.25, min_lr=0.001
    )
    assert _reduced(reduce, metrics) == reference
    assert reference[-1][1] == 0.001


# The lr after each epoch of constant loss, from keras.callbacks.ReduceLROnPlateau (Keras 3.15.1, lr 0.5).
SAME_AS_KERAS = [
    ({"patience": 2}, [0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625]),
    ({"patience": 2, "cooldown": 1}, [0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625]),
    ({"patience": 2, "cooldown": 2}, [0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125, 0.125]),
    ({"patience": 1, "cooldown": 3}, [0.5, 0.25, 0.25, 0.25, 0.125, 0.125, 0.125, 0.0625]),
    ({"patience": 1, "min_lr": 0.2}, [0.5, 0.25, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]),
]


@pytest.mark.parametrize(("settings", "rates"), SAME_AS_KERAS)
def test_reduced_rates_are_those_of_keras(settings, rates):
    assert [lr for lr, _ in _reduced(ReduceOnPlateau(0.5, **settings), [1.0] * 8, lr=0.5)] == rates


def test_a_group_below_min_lr_keeps_its_lr():
    assert _reduced(ReduceOnPlateau(0.5, 1, min_lr=0.05), [1.0] * 4) == [[0.1, 0.025]] + 3 * [[0.05, 0.025]]


def test_reduced_rates_remain_after_the_fit():
    optimizer = _made()
    _fit(optimizer, [ReduceOnPlateau(0.5, patience=1, min_delta=100)], 3)
    assert [group.lr for group in optimizer.groups] == [lr / 4 for lr in RATES]


# Resuming


class _PowerCutError(Exception):
    pass


def _whole(run):
    optimizer, history, callbacks = run
    figures = {name: value for name, value in vars(history).items() if name != "seconds"}
    states = [optimizer.network.state_dict(), optimizer.state_dict(), *(made.state_dict() for made in callbacks)]
    return figures, [{key: array.tobytes() for key, array in state.items()} for state in states]


CALLBACKS = {
    "cosine": lambda: cosine_schedule(40, warmup_steps=12, start_factor=0.1),
    "steps": lambda: step_schedule(7, 0.5),
    "own": lambda: Schedule(partial(_inverse_time, rate=0.3)),
    "plateau": lambda: ReduceOnPlateau(0.5, 2, min_delta=0.05, cooldown=2, monitor="train_loss"),
}


def _run(make, path=None, cut=None, optimizer=None, epochs=8, **options):
    def power_cut(state):
        if state.epoch == cut:
            raise _PowerCutError

    optimizer = optimizer or _made(AdamW)
    callbacks = [make(), EarlyStopping(100)]
    history = _fit(optimizer, [*callbacks, power_cut], epochs, checkpoint=path, **options)
    return optimizer, history, callbacks


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


@pytest.mark.parametrize("same_object", [False, True])
@pytest.mark.parametrize("cut", [1, 5])
@pytest.mark.parametrize("make", CALLBACKS.values(), ids=CALLBACKS)
def test_a_resumed_run_is_bit_identical(make, cut, same_object, path):
    whole = _run(make)
    before = _made(AdamW, seed=1 if same_object else 9)
    with pytest.raises(_PowerCutError):
        _run(make, path, cut, before if same_object else None)
    assert _whole(_run(make, path, optimizer=before, resume=True)) == _whole(whole)


def test_a_run_with_a_schedule_clipping_l1_and_an_average_resumes(path):
    made = partial(_made, partial(AdamW, l1=1e-3, global_clipnorm=0.5, ema_momentum=0.9))
    whole = _run(CALLBACKS["cosine"], optimizer=made())
    with pytest.raises(_PowerCutError):
        _run(CALLBACKS["cosine"], path, 3, made())
    assert _whole(_run(CALLBACKS["cosine"], path, optimizer=made(seed=9), resume=True)) == _whole(whole)


@pytest.mark.parametrize("make", CALLBACKS.values(), ids=CALLBACKS)
def test_more_epochs_and_a_finished_run_resume(make, path):
    _run(make, path, epochs=3)
    longer = _run(make, path, resume=True)
    assert _whole(longer) == _whole(_run(make))
    assert _whole(_run(make, path, resume=True)) == _whole(longer)


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (CALLBACKS["cosine"], lambda: cosine_schedule(41, warmup_steps=12, start_factor=0.1), "total_steps=40"),
        (CALLBACKS["steps"], lambda: step_schedule(7, 0.25), "gamma=0.5"),
        (CALLBACKS["own"], lambda: Schedule(partial(_inverse_time, rate=0.4)), "rate=0.3"),
        (CALLBACKS["own"], CALLBACKS["plateau"], "callbacks was"),
        *(
            (CALLBACKS["plateau"], partial(ReduceOnPlateau, **{**CALLBACKS["plateau"]().settings, **changed}), named)
            for changed, named in (
                ({"factor": 0.4}, "factor was 0.5, is 0.4"),
                ({"patience": 3}, "patience was 2, is 3"),
                ({"min_delta": 0.1}, "min_delta was 0.05, is 0.1"),
                ({"cooldown": 1}, "cooldown was 2, is 1"),
                ({"min_lr": 0.1}, "min_lr was 0.0, is 0.1"),
                ({"monitor": "gap"}, "monitor was train_loss, is gap"),
            )
        ),
    ],
)
def test_another_schedule_is_refused(first, second, named, path):
    _run(first, path, epochs=2)
    with pytest.raises(ValueError, match=re.escape(named)):
        _run(second, path, resume=True)


def test_another_initial_lr_is_refused(path):
    _run(CALLBACKS["cosine"], path, epochs=2)
    with pytest.raises(ValueError, match=r"another run: lr was 0\.02, is 0\.002"):
        _run(CALLBACKS["cosine"], path, optimizer=_made(AdamW, rates=(0.002, 0.005)), resume=True)


@pytest.mark.parametrize("make", CALLBACKS.values(), ids=CALLBACKS)
def test_a_state_that_does_not_fit_changes_nothing(make):
    callback = _run(make, epochs=3)[2][0]
    before = callback.state_dict()
    first, *_, last = before
    changes = {first: np.zeros(3)}, {"more": np.zeros(1)}, {last: before[last] - 9}
    for wrong in ({}, *({**before, **change} for change in changes)):
        with pytest.raises(ValueError, match=r"state does not fit|must be finite"):
            callback.load_state_dict(wrong)
        assert {key: value.tolist() for key, value in callback.state_dict().items()} == {
            key: value.tolist() for key, value in before.items()
        }


# Other callbacks, Ctrl-C, divergence, bad input


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("other", [CALLBACKS["steps"](), ReduceOnPlateau(0.5, 1, 100)])
def test_two_callbacks_that_set_lr_are_an_error(other, order):
    optimizer = _made()
    with pytest.raises(ValueError, match="lr must be changed by the Schedule alone"):
        _fit(optimizer, [CALLBACKS["own"](), other][::order])


def test_early_stopping_restores_the_best_epoch_of_a_scheduled_run():
    optimizer, stopping, states = _made(AdamW, rates=(0.3, 0.3)), EarlyStopping(3), []
    _fit(optimizer, [step_schedule(20, 0.1), stopping, lambda state: states.append(state.network.state_dict())], 40)
    assert stopping.stopped
    for name, value in optimizer.network.state_dict().items():
        np.testing.assert_array_equal(value, states[stopping.best_epoch][name])
    assert [group.lr for group in optimizer.groups] == [0.3, 0.3]


def test_after_ctrl_c_a_second_fit_continues_the_schedule():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        optimizer, schedule = _made(), cosine_schedule(20, warmup_steps=4)
        log = _Rates(at=7, then=lambda: signal.raise_signal(signal.SIGINT))
        assert _fit(optimizer, [schedule, log]).interrupted
    finally:
        signal.signal(signal.SIGINT, before)
    assert (optimizer.steps, tuple(group.lr for group in optimizer.groups)) == (7, RATES)
    _fit(optimizer, [schedule, log], 2)
    np.testing.assert_array_equal(log.used, _used(schedule)[:17])


def test_a_divergence_names_the_initial_lr():
    optimizer = _made(rates=(0.02, 0.02))
    with pytest.warns(DivergenceWarning, match=r"Try a smaller lr than 0\.02,"):
        history = _fit(optimizer, [Schedule(lambda step: 1e32 if step > 6 else 0.5)])
    assert history.diverged.epoch == 1
    assert optimizer.lr == 0.02


def test_an_epoch_that_diverged_is_no_plateau():
    optimizer = _made(rates=(1e30, 1e30))
    with pytest.warns(DivergenceWarning, match=r"Try a smaller lr than 1e\+30,"):
        _fit(optimizer, [ReduceOnPlateau(0.5, patience=1)])
    assert optimizer.lr == 1e30


@pytest.mark.parametrize("factor", [-1.0, math.nan, math.inf])
def test_a_factor_must_be_finite_and_not_negative(factor):
    with pytest.raises(ValueError, match=r"function\(2\) must be finite and at least 0"):
        _fit(_made(), [Schedule(lambda step: factor if step == 2 else 1.0)])


def test_a_factor_must_be_a_number():
    with pytest.raises(TypeError, match=r"function\(0\) must be a number, got NoneType None"):
        _fit(_made(), [Schedule(lambda step: None)])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Schedule(0.1), TypeError, "function must be a function of the step, got float 0.1"),
        (lambda: cosine_schedule(0), ValueError, "total_steps must be at least 1, got 0"),
        (lambda: cosine_schedule(9, warmup_steps=9), ValueError, r"warmup_steps must be in \[0, 8\], got 9"),
        (lambda: cosine_schedule(9, start_factor=1.5), ValueError, r"start_factor must be in \[0, 1\], got 1.5"),
        (lambda: cosine_schedule(9, alpha=-1), ValueError, r"alpha must be in \[0, 1\], got -1"),
        (lambda: step_schedule(2.5), TypeError, "step_size must be an int, got float 2.5"),
        (lambda: step_schedule(2, 1.1), ValueError, r"gamma must be in \[0, 1\], got 1.1"),
        (lambda: ReduceOnPlateau(1.0), ValueError, r"factor must be in \[0, 0.9999999999999999\], got 1.0"),
        (lambda: ReduceOnPlateau(patience=0), ValueError, "patience must be at least 1, got 0"),
        (lambda: ReduceOnPlateau(min_delta=-1), ValueError, "min_delta must be finite and at least 0, got -1"),
        (lambda: ReduceOnPlateau(cooldown=-1), ValueError, "cooldown must be at least 0, got -1"),
        (lambda: ReduceOnPlateau(min_lr=-1), ValueError, "min_lr must be finite and at least 0, got -1"),
        (lambda: ReduceOnPlateau(monitor="loss"), ValueError, "monitor must be one of 'train_loss', .*, got 'loss'"),
    ],
)
def test_bad_settings_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_plateau_of_the_test_set_needs_one():
    optimizer = _made()
    with pytest.raises(ValueError, match="monitor='test_loss' needs a test set, got test=None"):
        fit(optimizer.network, softmax_cross_entropy, optimizer, TRAIN, None, 2, callbacks=[ReduceOnPlateau()])
