"""The fit loop: steps, history, callbacks, Ctrl-C, early stopping, divergence, integer inputs, errors."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import signal
import sys
import threading

import numpy as np
import pytest
from support import ctrl_c_at_line

from cregkit.layers import BatchNorm, BertEncoder, Dropout, Embedding, Layer, Linear, ReLU, Sequential, Transformer
from cregkit.train import (
    SGD,
    AdamW,
    Callback,
    Divergence,
    DivergenceError,
    DivergenceWarning,
    EarlyStopping,
    History,
    ReduceOnPlateau,
    binary_accuracy,
    binary_cross_entropy,
    class_accuracy,
    evaluate,
    fit,
    mean_squared_error,
    predict,
    softmax_cross_entropy,
    train_step,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 6)).astype(np.float32)
CLASSES = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)
TRAIN, TEST = (X[:33], CLASSES[:33]), (X[33:], CLASSES[33:])


def _network(seed=1, outputs=3):
    return Sequential(
        Linear(6, 8, seed=seed), BatchNorm(8), ReLU(), Dropout(0.3, seed=seed), Linear(8, outputs, seed=seed + 1)
    )


def _fit(network, epochs=3, train=TRAIN, test=TEST, loss=softmax_cross_entropy, **options):
    options = {"batch_size": 8, "seed": 4, **options}
    return fit(network, loss, options.pop("optimizer", None) or AdamW(network, 0.02), train, test, epochs, **options)


def _same(first, second):
    return all((value == second[name]).all() for name, value in first.items())


def test_fit_does_what_the_loop_by_hand_does():
    """Each epoch: a new permutation; forward, loss, backward and step for each batch; then both sets evaluated."""
    network, by_hand = _network(), _network()
    history = _fit(network)
    optimizer, order, expected = AdamW(by_hand, 0.02), np.random.default_rng(4), History()
    for _ in range(3):
        by_hand.train()
        shuffled = order.permutation(33)
        for rows in (
            shuffled[:8],
            shuffled[8:16],
            shuffled[16:24],
            shuffled[24:],
        ):  # no batch of one
            _, gradient = softmax_cross_entropy(by_hand(X[rows]), CLASSES[rows])
            by_hand.backward(gradient)
            optimizer.step()
        by_hand.eval()
        figures = []
        for x, classes in (TRAIN, TEST):
            logits = by_hand(x)
            figures.append(
                (softmax_cross_entropy(logits, classes)[0], 100 * float((logits.argmax(1) == classes).mean()))
            )
        expected.record(*figures)
    assert history == expected
    assert _same(network.state_dict(), by_hand.state_dict())
    assert len(history.seconds) == 3
    assert min(history.seconds) > 0


def test_the_network_learns():
    network = _network()
    history = _fit(network, 60)
    assert history.train_loss[-1] < 0.3 * history.train_loss[0]
    assert history.train_acc[-1] > 90
    assert not history.interrupted
    assert not network.training


def test_a_seed_gives_the_same_bits():
    assert _fit(_network()) == _fit(_network())
    assert _fit(_network()) != _fit(_network(), seed=5)


def test_a_generator_continues_its_stream_in_the_next_fit():
    two, one, order = _network(), _network(), np.random.default_rng(4)
    optimizer = AdamW(two, 0.02)
    _fit(two, 2, seed=order, optimizer=optimizer)
    _fit(two, 1, seed=order, optimizer=optimizer)
    _fit(one, 3)
    assert _same(one.state_dict(), two.state_dict())


def test_evaluate_and_predict_change_no_state():
    network = _network()
    network(X)
    before = network.state_dict()
    evaluate(network, softmax_cross_entropy, TEST)
    predict(network, X)
    assert _same(before, network.state_dict())


def test_large_sets_are_evaluated_in_parts():
    x = RNG.normal(size=(9001, 6)).astype(np.float32)
    classes = RNG.integers(3, size=9001)
    network = _network().eval()
    loss, accuracy = evaluate(network, softmax_cross_entropy, (x, classes))
    whole = network(x)
    assert loss == pytest.approx(softmax_cross_entropy(whole, classes)[0], rel=1e-6)
    assert accuracy == pytest.approx(class_accuracy(whole, classes), abs=1e-9)
    np.testing.assert_allclose(predict(network, x), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(33,), (33, 1)])
def test_binary_targets_of_both_shapes_are_learned(shape):
    labels = (CLASSES[:33] > 0).astype(np.float32).reshape(shape)
    loss = functools.partial(binary_cross_entropy, label_smoothing=0.1)
    network = _network(outputs=1)
    history = _fit(network, 30, (X[:33], labels), None, loss)
    logits = predict(network, X[:33])
    assert history.train_acc[-1] == pytest.approx(binary_accuracy(logits, labels.reshape(-1, 1)))
    assert history.train_acc[-1] > 90
    assert history.train_loss[-1] == pytest.approx(loss(logits, labels.reshape(-1, 1))[0])


def test_without_a_test_set_its_figures_are_nan():
    history = _fit(_network(), 2, test=None)
    assert all(map(math.isnan, history.test_loss + history.test_acc + history.gap))


REGRESSION = (X[:33, :3].copy(),) * 2


def test_a_regression_has_no_accuracy():
    history = _fit(Sequential(Linear(3, 3, seed=1)), 2, REGRESSION, REGRESSION, mean_squared_error)
    assert history.test_loss[1] < history.test_loss[0]
    assert all(map(math.isnan, history.train_acc))


def test_accuracy_may_be_any_function():
    network = Sequential(Linear(3, 3, seed=1))
    history = _fit(network, 1, REGRESSION, REGRESSION, mean_squared_error, accuracy=lambda outputs, targets: 42.0)
    assert history.train_acc == [42.0]


def test_inputs_may_have_any_shape():
    class Flatten(Linear):
        def forward(self, x):
            return super().forward(x.reshape(len(x), -1))

    images = X[:33, :6].reshape(33, 2, 3)
    history = _fit(Flatten(6, 3, seed=1), 40, (images, TRAIN[1]), None)
    assert history.train_acc[-1] > 60


def test_a_part_of_the_network_can_be_trained_alone():
    network = _network()
    before = network.state_dict()
    _fit(network, optimizer=SGD(network.layers[-1], 0.1))
    after = network.state_dict()
    np.testing.assert_array_equal(after["0.weight"], before["0.weight"])
    assert (after["4.weight"] != before["4.weight"]).any()


class _Log(Callback):
    def __init__(self):
        self.calls = []

    def on_train_begin(self, state):
        self.calls.append(("begin", state.epoch, state.network.training))

    def on_batch_end(self, state):
        gradients = [parameter.grad is not None for parameter in state.network.parameters()]
        self.calls.append(("batch", state.epoch, all(gradients) and math.isfinite(state.batch_loss)))

    def on_epoch_end(self, state):
        self.calls.append(("epoch", state.epoch, state.network.training))

    def on_train_end(self, state):
        self.calls.append(("end", state.epoch, state.network.training))


def test_callbacks_are_called_in_order():
    log, seen = _Log(), []
    _fit(_network(), 2, callbacks=[log, lambda state: seen.append((state.epoch, state.epochs, len(state.history)))])
    epoch = [("batch", -1, True)] * 4 + [("epoch", 0, False)] + [("batch", 0, True)] * 4 + [("epoch", 1, False)]
    assert log.calls[1:] == [*epoch, ("end", 1, False)]
    assert log.calls[0][:2] == ("begin", -1)
    assert seen == [(0, 2, 1), (1, 2, 2)]


def test_a_callback_can_stop_the_fit_and_set_the_step_size():
    def halve_then_stop(state):
        state.optimizer.lr /= 2
        state.stop = state.epoch == 2

    network = _network()
    optimizer = SGD(network, 0.8)
    history = _fit(network, 10, optimizer=optimizer, callbacks=[halve_then_stop])
    assert (len(history), optimizer.lr, history.interrupted) == (3, 0.1, False)


class _PressCtrlC(Callback):
    """Presses Ctrl-C `times` times after a number of batches."""

    def __init__(self, batches, times=1):
        self.left, self.times = batches, times

    def on_batch_end(self, state):
        self.left -= 1
        if self.left == 0:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


@pytest.fixture
def _sigint():
    """Sets Python's own handler, which tests in the background of a shell do not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_sigint")
def test_ctrl_c_ends_after_the_batch_with_the_history_so_far():
    log, network = _Log(), _network()
    history = _fit(network, 10, callbacks=[log, _PressCtrlC(10)])
    assert history.interrupted
    assert len(history) == 2
    assert [name for name, *_ in log.calls].count("batch") == 10
    assert log.calls[-1] == ("end", 1, False)
    whole = _fit(_network(), 2)
    assert history.train_loss == whole.train_loss
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("_sigint")
def test_no_ctrl_c_is_lost():
    """Pressed before any line of the module that a fit executes, it is in the history or raises KeyboardInterrupt."""
    for line in itertools.count():
        noticed = False
        with ctrl_c_at_line(line, inspect.getfile(fit)) as pressed:
            try:
                noticed = _fit(_network(), 1, batch_size=20).interrupted
            except KeyboardInterrupt:
                noticed = True
        if not pressed():
            break
        assert noticed, f"lost before line {line}"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert line > 100


@pytest.mark.usefixtures("_sigint")
def test_a_second_ctrl_c_raises():
    with pytest.raises(KeyboardInterrupt):
        _fit(_network(), callbacks=[_PressCtrlC(2, times=2)])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_handler_of_the_program_is_kept():
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        history = _fit(_network(), callbacks=[_PressCtrlC(2)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert (pressed, len(history), history.interrupted) == ([1], 3, False)


def test_a_fit_in_another_thread_has_the_same_bits():
    results = []
    thread = threading.Thread(target=lambda: results.append(_fit(_network())))
    thread.start()
    thread.join()
    assert results == [_fit(_network())]


class _Terminal:
    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def test_the_progress_bar_shows_the_figures(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(sys.modules, "rich.console", None)  # its import fails, so the plain bar is used
    history = _fit(_network(), 2)
    assert terminal.text == "", "no bar unless it is wanted"
    _fit(_network(), 2, progress=True)
    assert "2/2" in terminal.text
    assert (
        f"loss {history.train_loss[-1]:.4f}/{history.test_loss[-1]:.4f}  "
        f"accuracy {history.train_acc[-1]:.1f}/{history.test_acc[-1]:.1f}  gap {history.gap[-1]:.1f}"
    ) in terminal.text
    assert "0:00 left" in terminal.text
    _fit(_network(), 1, test=None, progress=True)
    assert "nan" not in terminal.text


# Early stopping


def _stopping_on(values, **options):
    """Run EarlyStopping on these figures; the weight of the network counts the epochs."""
    network = Linear(1, 1, bias=False, seed=0)
    stopping = EarlyStopping(**options)

    def set_figures(state):
        epoch = state.epoch
        getattr(state.history, stopping.monitor)[-1] = values[epoch]
        network.weight[...] = epoch

    data = (np.ones((2, 1), np.float32), np.ones((2, 1), np.float32))
    history = fit(
        network, mean_squared_error, SGD(network, 0.0), data, data, len(values), callbacks=[set_figures, stopping]
    )
    return stopping, len(history), float(network.weight[0, 0])


NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "options", "best", "run"),
    [
        ([5, 4, 3, 4, 4, 4, 4], {"patience": 3}, 2, 6),
        ([5, 4, 3, 4, 4, 2, 4], {"patience": 3}, 5, 7),
        ([5, 4, 3, 3, 3, 3, 3], {"patience": 2}, 2, 5),
        ([5, 4.5, 4.2, 3.9, 3.6], {"patience": 3, "min_delta": 1.0}, 3, 5),
        ([5, 4, 3, 2], {"patience": 2, "min_delta": 1.0}, 2, 4),
        ([50, 60, 70, 65, 70], {"patience": 2, "monitor": "test_acc"}, 2, 5),
        ([9, 3, 1, 2, 2, 2], {"patience": 1, "monitor": "gap"}, 2, 4),
        ([NAN, 4, NAN, NAN, 5], {"patience": 2}, 1, 4),
        ([math.inf, 4, 5, 6], {"patience": 2}, 1, 4),
    ],
)
def test_early_stopping_keeps_the_best_epoch(values, options, best, run):
    stopping, epochs, weight = _stopping_on(values, **options)
    assert (stopping.best_epoch, stopping.best_value, epochs, weight) == (best, values[best], run, best)
    assert stopping.epochs_saved == len(values) - run
    assert str(stopping) == (
        f"best epoch {best} ({stopping.monitor} {values[best]:.4g}); "
        f"{run} of {len(values)} epochs run, {len(values) - run} saved"
    )


@pytest.mark.parametrize(("mode", "best"), [("max", 1), ("min", 2)])
def test_a_metric_of_the_fit_can_be_monitored(mode, best):
    """Its mode tells which epoch is the best; the lr is reduced after the epochs without an improvement."""
    values = iter([0.5, 0.5, 0.9, 0.9, 0.1, 0.1, 0.6, 0.6])  # of train and test in turn
    stopping = EarlyStopping(patience=3, monitor="test_figure", mode=mode)
    reduce = ReduceOnPlateau(0.5, patience=2 if mode == "max" else 1, monitor="test_figure", mode=mode)
    network = _network()
    optimizer = SGD(network, lr=0.25)
    metrics = {"figure": lambda outputs, targets: next(values)}
    callbacks = [stopping, reduce]
    fit(network, softmax_cross_entropy, optimizer, TRAIN, TEST, 4, seed=0, metrics=metrics, callbacks=callbacks)
    assert (stopping.best_epoch, stopping.best_value) == (best, 0.9 if mode == "max" else 0.1)
    assert optimizer.lr == (0.125 if mode == "max" else 0.0625)


def test_early_stopping_on_nan_alone_keeps_the_network():
    stopping, epochs, weight = _stopping_on([NAN] * 9, patience=3)
    assert (stopping.best_epoch, epochs, stopping.epochs_saved, weight) == (None, 3, 6, 2)
    assert math.isnan(stopping.best_value)
    assert "was NaN in every epoch" in str(stopping)


def test_early_stopping_restores_running_statistics_and_dropout_offset():
    states = []
    network, stopping = _network(), EarlyStopping(patience=2)
    history = _fit(network, 200, callbacks=[lambda state: states.append(state.network.state_dict()), stopping])
    assert len(history) < 200
    assert stopping.best_epoch == int(np.argmin(history.test_loss))
    best = states[stopping.best_epoch]
    assert _same(network.state_dict(), best)
    assert (best["1.running_mean"] != states[-1]["1.running_mean"]).any()
    assert best["3.offset"] < states[-1]["3.offset"]
    assert evaluate(network, softmax_cross_entropy, TEST)[0] == min(history.test_loss)


@pytest.mark.usefixtures("_sigint")
def test_the_best_state_is_restored_after_ctrl_c():
    network, stopping = _network(), EarlyStopping(patience=50, monitor="train_acc")
    history = _fit(network, 10, callbacks=[stopping, _PressCtrlC(18)])
    assert stopping.best_epoch == int(np.argmax(history.train_acc))
    assert evaluate(network, softmax_cross_entropy, TRAIN)[1] == max(history.train_acc)


def test_early_stopping_starts_again_in_a_second_fit():
    network, stopping = _network(), EarlyStopping(patience=50, monitor="train_acc")
    _fit(network, 10, callbacks=[stopping])
    _fit(network, 1, callbacks=[stopping])
    assert stopping.best_epoch == 0


# Divergence


def _plain():
    return Sequential(Linear(6, 8, seed=1), ReLU(), Linear(8, 3, seed=2))


def _diverging(network, epochs=5, match="training diverged in epoch", **options):
    with pytest.warns(DivergenceWarning, match=match) as caught:
        history = _fit(network, epochs, **options)
    assert len(caught) == 1
    assert history.diverged is not None
    assert len(history) == history.diverged.epoch + 1
    assert math.isnan(history.train_loss[-1])
    assert all(map(math.isfinite, history.train_loss[:-1]))
    return history


def _all_finite(state):
    return all(np.isfinite(array).all() for array in state.values())


@pytest.mark.parametrize("loss", [softmax_cross_entropy, binary_cross_entropy, mean_squared_error])
@pytest.mark.parametrize("optimizer", [SGD, AdamW])
@pytest.mark.parametrize("network", [_plain, _network])
def test_a_fit_that_diverges_ends_with_finite_weights_and_outputs(network, optimizer, loss):
    network = network()
    targets = np.eye(3, dtype=np.float32)[CLASSES[:33]]
    optimizer = optimizer(network, 1e30)
    history = _diverging(network, train=(X[:33], targets), test=None, loss=loss, optimizer=optimizer)
    assert history.diverged.epoch == 0
    assert _all_finite(network.state_dict())
    assert _all_finite(optimizer.state_dict())
    assert np.isfinite(predict(network, X)).all()


class _Odd(Callback):
    """Calls `do` once, before batch ``batch`` of epoch ``epoch``."""

    def __init__(self, epoch, batch, do):
        self.left, self.epoch, self.do = batch, epoch, do

    def on_batch_begin(self, state, rows, x, targets):
        if state.epoch + 1 == self.epoch:
            self.left -= 1
            if self.left == -1:
                return self.do(state, x), targets
        return x, targets


def _with_nan(state, x):
    x = x.copy()
    x[0, 0] = np.nan
    return x


def test_a_divergence_leaves_weights_and_optimizer_before_its_step():
    network, by_hand = _plain(), _plain()
    optimizer, other, order = AdamW(network, 0.02), AdamW(by_hand, 0.02), np.random.default_rng(4)
    history = _diverging(
        network,
        match=r"epoch 1, step 3 \(both from 0\): the loss is nan; .* lr than 0\.02",
        optimizer=optimizer,
        callbacks=[_Odd(1, 3, _with_nan)],
    )
    assert history.diverged == Divergence(1, 3, "the loss is nan")
    for steps in (5, 3):
        shuffled = order.permutation(33)
        for start in range(0, 8 * steps, 8):
            rows = shuffled[start : start + 8]
            train_step(by_hand, softmax_cross_entropy, other, X[rows], CLASSES[rows])
    assert _same(network.state_dict(), by_hand.state_dict())
    assert _same(optimizer.state_dict(), other.state_dict())
    assert optimizer.steps == 8
    assert not network.training


def test_a_divergence_is_saved_with_the_history(tmp_path):
    history = _diverging(_plain(), callbacks=[_Odd(1, 3, _with_nan)])
    history.to_json(tmp_path / "run.json")
    assert History.from_json(tmp_path / "run.json").diverged == history.diverged


def test_a_divergence_with_another_key_is_refused(tmp_path):
    _diverging(_plain(), callbacks=[_Odd(1, 3, _with_nan)]).to_json(tmp_path / "run.json")
    (tmp_path / "run.json").write_text((tmp_path / "run.json").read_text().replace('"epoch"', '"when"'))
    with pytest.raises(ValueError, match="is not a cregkit history"):
        History.from_json(tmp_path / "run.json")


def test_a_gradient_that_is_not_finite_ends_the_fit_before_its_step():
    def steep(outputs, targets):
        value, gradient = softmax_cross_entropy(outputs, targets)
        steep.calls += 1
        if steep.calls == 4:  # two calls before training check the targets
            gradient = np.full_like(gradient, np.inf)
        return value, gradient

    steep.calls = 0
    network = _plain()
    history = _diverging(network, loss=steep)
    assert history.diverged == Divergence(0, 1, "the gradient of 0.weight is not finite")
    assert _all_finite(network.state_dict())


def test_running_statistics_that_are_not_finite_restore_the_last_epoch():
    network, states = _network(), []
    optimizer = AdamW(network, 0.02)
    callbacks = [
        lambda state: states.append((state.network.state_dict(), state.optimizer.state_dict())),
        _Odd(2, 1, _with_nan),
    ]
    history = _diverging(network, optimizer=optimizer, callbacks=callbacks)
    assert history.diverged[:2] == (2, 1)
    assert _same(network.state_dict(), states[1][0])
    assert _same(optimizer.state_dict(), states[1][1])


def test_an_overflow_that_the_loss_does_not_show_is_found_after_the_epoch():
    network = Sequential(Embedding(7, 3, seed=0))

    def huge(state, x):
        state.network.layers[0].weight[6] = np.inf  # a token in no sample
        return x

    ids = np.arange(32) % 6
    data = (ids, np.ones((32, 3), np.float32))
    optimizer = SGD(network, 0.1)
    history = _diverging(
        network, train=data, test=None, loss=mean_squared_error, optimizer=optimizer, callbacks=[_Odd(1, 2, huge)]
    )
    assert history.diverged == Divergence(1, 3, "after this step 0.weight is not finite")
    assert _all_finite(network.state_dict())


def test_a_nan_that_a_callback_writes_is_found(tmp_path):
    def spoil(state):
        if state.epoch == 1:
            state.network.layers[0].weight[0, 0] = np.nan

    network, path = _plain(), tmp_path / "run.npz"
    with pytest.warns(DivergenceWarning, match="0.weight is not finite"):
        history = _fit(network, callbacks=[spoil], checkpoint=path)
    assert (len(history), history.diverged.epoch) == (2, 1)
    assert _all_finite(network.state_dict())
    with np.load(path) as file:
        assert len(file["history/gap"]) == 1
        assert _all_finite({name: file[name] for name in file if name.startswith(("network/", "optimizer/"))})


def test_moments_that_overflow_are_found():
    network = _plain()
    optimizer = AdamW(network, 1e-3)

    def steep(outputs, targets):
        value, gradient = softmax_cross_entropy(outputs, targets)
        return value, gradient * np.float32(1e25)

    history = _diverging(network, loss=steep, optimizer=optimizer)  # squares of the gradient overflow, weights do not
    assert history.diverged.what.startswith("after this step v.0.weight")
    assert _all_finite(optimizer.state_dict())


def test_a_nan_in_the_data_ends_the_fit_before_its_first_step():
    x = X.copy()
    x[:33, 2] = np.nan
    assert _diverging(_plain(), train=(x[:33], CLASSES[:33])).diverged == Divergence(0, 0, "the loss is nan")


def test_a_nan_in_the_initial_weights_ends_the_fit_before_its_first_step():
    network = _plain()
    network.layers[0].weight[0, 0] = np.nan
    assert _diverging(network).diverged == Divergence(0, 0, "the loss is nan")


def test_a_nan_in_the_test_set_is_no_divergence():
    history = _fit(_plain(), 2, test=(np.full_like(X, np.nan), CLASSES))
    assert history.diverged is None
    assert math.isnan(history.test_loss[-1])


def test_early_stopping_restores_its_best_epoch_after_a_divergence():
    network, states, stopping = _network(), [], EarlyStopping(9, monitor="train_loss")
    watch = [lambda state: states.append(state.network.state_dict()), stopping, _Odd(2, 0, _with_nan)]
    _diverging(network, callbacks=watch)
    assert stopping.best_epoch in (0, 1)
    assert _same(network.state_dict(), states[stopping.best_epoch])


def test_a_callback_cannot_continue_after_a_divergence():
    def go_on(state):
        state.stop = False

    assert len(_diverging(_plain(), 9, callbacks=[go_on, _Odd(1, 0, _with_nan)])) == 2


def test_train_step_refuses_a_loss_or_gradient_that_is_not_finite():
    network = _plain()
    optimizer, before = AdamW(network), network.state_dict()

    def steep(outputs, targets):
        value, gradient = softmax_cross_entropy(outputs, targets)
        return value, gradient * np.float32(np.inf)

    for x, loss, message in (
        (np.full_like(X, np.nan), softmax_cross_entropy, "the loss is nan"),
        (X, steep, "the gradient of .* is not finite"),
    ):
        with pytest.raises(DivergenceError, match=message), np.errstate(invalid="ignore"):
            train_step(network, loss, optimizer, x, CLASSES)
        assert _same(network.state_dict(), before)
        assert optimizer.steps == 0


def test_class_accuracy_counts_nan_as_wrong():
    logits = np.array([[np.nan, 0, 0], [1, 0, 0]], np.float32)
    assert class_accuracy(logits, np.array([0, 0])) == 50


def test_binary_accuracy_counts_nan_as_wrong():
    logits, targets = np.array([np.nan, np.nan, 1], np.float32), np.array([0, 1, 1], np.float32)
    assert binary_accuracy(logits, targets) == pytest.approx(100 / 3)


# Ids


def test_a_transformer_is_fitted_on_ids():
    ids = RNG.integers(0, 11, (70, 6))
    network = Transformer(11, 6, 1, 16, 2, dropout=0.1, seed=1)
    data = (ids.astype(np.uint8), ids[:, ::-1].astype(np.int32))
    history = _fit(network, 20, data, data, optimizer=AdamW(network, 0.01))
    assert history.train_loss[-1] < 0.3 * history.train_loss[0]
    assert history.test_acc[-1] > 90
    logits = predict(network, data[0])
    assert logits.shape == (70, 6, 11)
    assert evaluate(network, softmax_cross_entropy, data) == pytest.approx(
        (softmax_cross_entropy(logits, data[1])[0], class_accuracy(logits, data[1])), rel=1e-6
    )


class _FirstState(Layer):
    """A linear head on BERT's first hidden state."""

    def __init__(self):
        self.encoder, self.head = BertEncoder(11, 6, 1, 16, 2, seed=1), Linear(16, 2, seed=2)

    def _children(self):
        return iter((("encoder", self.encoder), ("head", self.head)))

    def forward(self, x):
        hidden = self.encoder(x)
        self._saved = hidden.shape
        return self.head(np.ascontiguousarray(hidden[:, 0]))

    def _gradient(self, dy, shape):
        dhidden = np.zeros(shape, np.float32)
        dhidden[:, 0] = self.head.backward(dy)
        return self.encoder.backward(dhidden)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "uint64", ">i4"])
def test_ids_of_any_integer_dtype_train_bert_to_the_same_bits(dtype):
    ids = np.random.default_rng(3).integers(0, 11, (40, 6))
    labels = (ids[:, 0] > 5).astype(np.int64)
    networks = _FirstState(), _FirstState()
    first, second = (
        _fit(network, 3, (x, labels), (x, labels))
        for network, x in zip(networks, (ids, ids.astype(dtype)), strict=True)
    )
    assert first == second
    assert _same(networks[0].state_dict(), networks[1].state_dict())


def test_an_embedding_alone_is_fitted():
    network = Embedding(5, 2, seed=0)
    data = (np.arange(40) % 5, np.ones((40, 2), np.float32))
    history = _fit(network, 20, data, None, mean_squared_error, optimizer=SGD(network, 2.0))
    assert history.train_loss[-1] < 1e-3


def test_predict_sends_at_most_4096_ids_at_once():
    sizes = []

    class Watched(Embedding):
        def forward(self, x):
            sizes.append(x.size)
            return super().forward(x)

    predict(Watched(5, 2, seed=0), np.zeros((100, 300), np.int64))
    assert max(sizes) <= 4096
    assert sum(sizes) == 100 * 300


def test_invalid_ids_are_refused_before_training():
    ids, labels = np.zeros((20, 6), np.int64), np.zeros((20, 6), np.int64)
    late = ids.copy()
    late[17, 4] = 11
    network = Transformer(11, 6, 1, 16, 2, seed=1)
    before = network.state_dict()
    for x, error, message in (
        (late, ValueError, "train is incompatible with network .* ids from 0 to 10, the vocabulary, got 11"),
        (ids - 1, ValueError, "got -1"),
        (ids.astype(np.float32), TypeError, "x must be an integer array of ids, got a float32 array"),
        (ids.astype(np.float64), TypeError, r"train\[0\] must be .* got a float64 array"),
        (ids == 0, TypeError, r"train\[0\] must be .* got a bool array"),
    ):
        with pytest.raises(error, match=message):
            _fit(network, train=(x, labels), test=None)
        assert _same(network.state_dict(), before)


def test_ids_for_a_network_of_floats_are_refused_before_training():
    with pytest.raises(TypeError, match="x must be a float32, float16 or bfloat16 array, got a int64 array"):
        _fit(_plain(), train=(np.zeros((20, 6), np.int64), CLASSES[:20]), test=None)


# Mistakes


def _mistake(**options):
    network = _network()
    before = network.state_dict()
    try:
        _fit(network, **options)
    finally:
        assert _same(before, network.state_dict())


MISTAKES = [
    ({"epochs": 0}, ValueError, "epochs"),
    ({"batch_size": 2.5}, TypeError, "batch_size"),
    ({"batch_size": 1}, ValueError, "batch_size must be at least 2.*BatchNorm"),
    ({"seed": "x"}, TypeError, "seed"),
    ({"train": X}, TypeError, r"train must be a tuple \(x, y\)"),
    ({"train": (X, CLASSES[:3])}, ValueError, "train must hold one target for each sample"),
    ({"train": (X[:0], CLASSES[:0])}, ValueError, "train must hold .* at least one"),
    ({"test": (X.astype(float), CLASSES)}, TypeError, r"test\[0\] must be a float32, float16 or bfloat16 array"),
    ({"test": (X, list(CLASSES))}, TypeError, r"test\[1\] must be an array, got list"),
    ({"train": (np.asfortranarray(X), CLASSES)}, ValueError, r"use np.ascontiguousarray\(train\[0\]\)"),
    ({"train": (X[:, :2].copy(), CLASSES)}, ValueError, r"x must have shape \(..., in_features\) with in_features=6"),
    ({"train": (X, np.where(np.arange(50) == 49, 3, CLASSES))}, ValueError, "train is incompatible .* from 0 to 2"),
    ({"test": (X, CLASSES.astype(np.float32))}, ValueError, "test is incompatible with network and loss"),
    ({"loss": binary_cross_entropy}, TypeError, "train is incompatible .* targets must be a float32 array"),
    ({"optimizer": SGD(_network())}, ValueError, "optimizer must be made for network .* another network"),
    ({"optimizer": 0.1}, TypeError, "optimizer must be an Optimizer"),
    ({"callbacks": [3]}, TypeError, "callbacks must hold Callback objects or functions, got int"),
    ({"callbacks": print}, TypeError, "callbacks must be a list of Callback objects and functions, got builtin"),
    ({"loss": "mse"}, TypeError, "loss must be a function of outputs and targets, got str 'mse'"),
    ({"accuracy": 7}, TypeError, "accuracy must be a function of outputs and targets, got int 7"),
    ({"callbacks": [EarlyStopping()], "test": None}, ValueError, "monitor='test_loss' needs a test set"),
    ({"callbacks": [EarlyStopping(monitor="test_f1", mode="max")]}, ValueError, "monitor must be .* in this fit"),
]


@pytest.mark.parametrize(("options", "error", "named"), MISTAKES)
def test_wrong_arguments_are_refused_by_name_before_training(options, error, named):
    with pytest.raises(error, match=named):
        _mistake(**options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"patience": 0}, "patience"),
        ({"min_delta": -1}, "min_delta"),
        ({"monitor": "loss"}, "monitor must be one of 'train_loss'"),
        ({"monitor": "test_f1"}, "mode must be 'min' or 'max' for monitor='test_f1', a metric of fit, got 'auto'"),
        ({"mode": "up"}, "mode must be 'auto', 'min' or 'max', got 'up'"),
    ],
)
def test_wrong_options_of_early_stopping_are_refused_by_name(options, named):
    with pytest.raises(ValueError, match=named):
        EarlyStopping(**options)


def test_the_network_must_be_a_layer():
    with pytest.raises(TypeError, match="network must be a Layer"):
        fit(None, softmax_cross_entropy, SGD(_network()), TRAIN, TEST, 1)
