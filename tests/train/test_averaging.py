"""Averages of weights in use: WeightAveraging (SWA and the EMA), the running statistics of batch norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cregkit.layers import BatchNorm, Dropout, Linear, ReLU, Sequential
from cregkit.train import (
    SGD,
    AdamW,
    Callback,
    DivergenceWarning,
    FitState,
    WeightAveraging,
    fit,
    mean_squared_error,
    update_batch_norm,
)

EPOCHS = 6
RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 4), dtype=np.float32)
TRAIN = X, (X @ RNG.standard_normal((4, 2), dtype=np.float32)).astype(np.float32)


def _network(seed: int = 1) -> Sequential:
    return Sequential(
        Linear(4, 8, seed=seed), BatchNorm(8), ReLU(), Dropout(0.2, seed=seed), Linear(8, 2, seed=seed + 1)
    )


def _bits(state: Any) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in state.items()}


class _Recorder(Callback):
    """The parameters at the end of each epoch."""

    def __init__(self) -> None:
        self.seen: list[dict[str, np.ndarray[Any, Any]]] = []

    def on_epoch_end(self, state: FitState) -> None:
        self.seen.append({p.name: p.value.copy() for p in state.network.parameters()})


class _PowerCutError(Exception):
    pass


def _cut(epoch: int) -> Any:
    def cut(state: FitState) -> None:
        if state.epoch == epoch:
            raise _PowerCutError

    return cut


def _fit(*callbacks: Any, seed: int = 1, epochs: int = EPOCHS, ema: float | None = None, **options: Any) -> Any:
    network = _network(seed)
    optimizer = AdamW(network, lr=0.02, ema_momentum=ema)
    history = fit(network, mean_squared_error, optimizer, TRAIN, None, epochs, seed=3, callbacks=callbacks, **options)
    return network, optimizer, history


# ---- update_batch_norm ----


@pytest.mark.parametrize(("rows", "batch_size"), [(50, 10), (50, 50), (50, 64), (51, 10), (47, 10)])
@pytest.mark.parametrize("unbiased", [False, True])
def test_running_statistics_are_the_means_over_the_batches(rows: int, batch_size: int, unbiased: bool) -> None:
    x = np.random.default_rng(1).normal(3, 2, (rows, 3)).astype(np.float32)
    norm = BatchNorm(3, momentum=0.3, unbiased=unbiased)
    update_batch_norm(norm, x, batch_size=batch_size)
    starts = list(range(0, rows, batch_size))
    if rows - starts[-1] == 1:
        starts.pop()
    parts = np.split(x.astype(np.float64), starts[1:])
    weights = [len(part) / rows for part in parts]
    mean = sum(w * part.mean(axis=0) for w, part in zip(weights, parts, strict=True))
    var = sum(w * part.var(axis=0, ddof=unbiased) for w, part in zip(weights, parts, strict=True))
    np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(norm.running_var, var, rtol=1e-6)
    assert (norm.momentum, norm.training) == (0.3, False)


def test_running_statistics_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    network = Sequential(Linear(4, 8, seed=1), BatchNorm(8, unbiased=True), ReLU(), BatchNorm(8, unbiased=True))
    theirs = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.BatchNorm1d(8)
    )
    with torch.no_grad():
        theirs[0].weight.copy_(torch.from_numpy(network.layers[0].weight))
        theirs[0].bias.copy_(torch.from_numpy(network.layers[0].bias))
    torch.optim.swa_utils.update_bn(torch.from_numpy(X).split(10), theirs)
    update_batch_norm(network, X, batch_size=10)
    for ours, their in ((network.layers[1], theirs[1]), (network.layers[3], theirs[3])):
        np.testing.assert_allclose(ours.running_mean, their.running_mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ours.running_var, their.running_var, rtol=1e-5, atol=1e-6)


def test_nothing_is_dropped_and_no_random_number_is_drawn() -> None:
    network, without = _network(), _network()
    without.layers[3].p = 0.0
    before = network.state_dict()
    for one in (network, without):
        update_batch_norm(one, X)
    after = network.state_dict()
    changed = {name for name in after if after[name].tobytes() != before[name].tobytes()}
    assert changed == {"1.running_mean", "1.running_var"}
    assert not any(layer.training for _, layer in network._walk())


def test_virtual_batches_are_not_formed_and_remain_the_setting() -> None:
    whole, ghost = BatchNorm(4), BatchNorm(4, virtual_batch_size=5)
    for norm in (whole, ghost):
        update_batch_norm(norm, X)
    assert _bits(whole.state_dict()) == _bits(ghost.state_dict())
    assert ghost.virtual_batch_size == 5


def test_batches_of_an_iterable_count_as_those_of_an_array():
    """Also those that fit was given: the callback recomputes the statistics over them."""
    norm, other = BatchNorm(4), BatchNorm(4)
    update_batch_norm(norm, X, batch_size=8)
    update_batch_norm(other, [(X[start : start + 8], X[start : start + 8, 0]) for start in range(0, len(X), 8)])
    assert _bits(norm.state_dict()) == _bits(other.state_dict())
    found = []
    whole = X[: len(X) // 8 * 8]
    targets = np.zeros((len(whole), 4), np.float32)
    for train in ([(whole[i : i + 8], targets[i : i + 8]) for i in range(0, len(whole), 8)], (whole, targets)):
        network = Sequential(BatchNorm(4), Linear(4, 4, seed=0))
        averaging = [WeightAveraging(start_epoch=0)]
        fit(network, mean_squared_error, SGD(network, lr=0.0), train, None, 2, seed=0, callbacks=averaging)
        found.append(network.state_dict()["0.running_mean"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda n: update_batch_norm([], X), TypeError, "network must be a Layer"),
        (lambda n: update_batch_norm(n, X, batch_size=0), ValueError, "batch_size must be at least 1"),
        (lambda n: update_batch_norm(n, X.tolist()), TypeError, r"x \(batch 0\) must be a tuple"),
        (lambda n: update_batch_norm(n, X.astype(np.float64)), TypeError, "x must be a float32"),
        (lambda n: update_batch_norm(n, 3), TypeError, "x must be a float32"),
        (lambda n: update_batch_norm(n, X[:0]), ValueError, r"x must hold at least one sample, got shape \(0, 4\)"),
        (lambda n: update_batch_norm(n, X[:, :3].copy()), ValueError, "x must have shape"),
        (lambda n: update_batch_norm(n, X[:1]), ValueError, "x"),
        (lambda n: update_batch_norm(n, X, batch_size=1), ValueError, "x"),
    ],
)
def test_a_wrong_argument_changes_no_statistic(call: Any, error: type[Exception], message: str) -> None:
    network = _network()
    update_batch_norm(network, X)
    before, momentum = network.state_dict(), network.layers[1].momentum
    with pytest.raises(error, match=message):
        call(network)
    assert _bits(network.state_dict()) == _bits(before)
    assert (network.layers[1].momentum, network.layers[1].training) == (momentum, False)


def test_a_layer_that_fails_after_a_batch_norm_changes_no_statistic() -> None:
    network = Sequential(BatchNorm(4), Linear(5, 2, seed=0))
    before = network.state_dict()
    with pytest.raises(ValueError, match="x must have shape"):
        update_batch_norm(network, X)
    assert _bits(network.state_dict()) == _bits(before)


def test_a_network_without_batch_norm_is_left_alone() -> None:
    network = Sequential(Linear(4, 2, seed=0))
    before = network.state_dict()
    update_batch_norm(network, X)
    assert _bits(network.state_dict()) == _bits(before)


# ---- WeightAveraging ----


@pytest.mark.parametrize("start", [0, 2, EPOCHS - 1])
def test_the_network_gets_the_equal_average_of_the_epochs_from_the_start_on(start: int) -> None:
    averaging, recorder = WeightAveraging(start_epoch=start), _Recorder()
    network, _, _ = _fit(averaging, recorder)
    counted = recorder.seen[start:]
    assert averaging.averaged_epochs == len(counted) == EPOCHS - start
    for p in network.parameters():
        mean = np.mean([seen[p.name].astype(np.float64) for seen in counted], axis=0)
        np.testing.assert_allclose(p.value, mean, rtol=1e-7, atol=1e-9)
    statistics = network.state_dict()
    update_batch_norm(network, TRAIN[0])
    assert _bits(network.state_dict()) == _bits(statistics)


def test_the_average_has_the_result_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    recorder = _Recorder()
    network, _, _ = _fit(WeightAveraging(start_epoch=1), recorder)
    module = torch.nn.ParameterDict({n.replace(".", "_"): torch.tensor(a) for n, a in recorder.seen[0].items()})
    average = torch.optim.swa_utils.AveragedModel(module)
    for seen in recorder.seen[1:]:
        with torch.no_grad():
            for name, array in seen.items():
                module[name.replace(".", "_")].copy_(torch.from_numpy(array))
        average.update_parameters(module)
    for p in network.parameters():
        wanted = average.module[p.name.replace(".", "_")].detach().numpy()
        np.testing.assert_allclose(p.value, wanted, rtol=1e-5, atol=1e-6)


def test_the_moving_average_of_the_optimizer_is_given_if_asked() -> None:
    network, optimizer, _ = _fit(WeightAveraging(), ema=0.9)
    plain, other, _ = _fit(ema=0.9)
    assert _bits(optimizer.averages) == _bits(other.averages)
    for p in network.parameters():
        np.testing.assert_array_equal(p.value, optimizer.averages[p.name])
    assert plain.layers[0].weight.tobytes() != network.layers[0].weight.tobytes()
    statistics = network.state_dict()
    update_batch_norm(network, TRAIN[0])
    assert _bits(network.state_dict()) == _bits(statistics)


def test_training_and_its_metrics_are_those_without_the_callback() -> None:
    _, optimizer, history = _fit(WeightAveraging(start_epoch=2))
    _, other, plain = _fit()
    assert history.train_loss == plain.train_loss
    assert _bits(optimizer.state_dict()) == _bits(other.state_dict())


def test_before_the_start_epoch_the_network_keeps_its_weights() -> None:
    network, _, _ = _fit(WeightAveraging(start_epoch=100))
    plain, _, _ = _fit()
    assert _bits(network.state_dict()) == _bits(plain.state_dict())


@pytest.mark.parametrize("cut", [1, 3, 5])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_resumed_run_is_bit_identical(cut: int, ema: float | None, tmp_path: Path) -> None:
    def averaging() -> WeightAveraging:
        return WeightAveraging(2 if ema is None else None)

    whole = _fit(averaging(), ema=ema)
    path = tmp_path / "run.npz"
    with pytest.raises(_PowerCutError):
        _fit(averaging(), _cut(cut), ema=ema, checkpoint=path)
    resumed = _fit(averaging(), _cut(-1), seed=9, ema=ema, checkpoint=path, resume=True)
    assert _bits(resumed[0].state_dict()) == _bits(whole[0].state_dict())
    assert _bits(resumed[1].state_dict()) == _bits(whole[1].state_dict())
    again = _fit(averaging(), _cut(-1), seed=9, ema=ema, checkpoint=path, resume=True)  # a finished run
    assert _bits(again[0].state_dict()) == _bits(whole[0].state_dict())


def test_another_start_epoch_is_another_run(tmp_path: Path) -> None:
    _fit(WeightAveraging(2), checkpoint=tmp_path / "run.npz")
    with pytest.raises(ValueError, match=r"callbacks\[0\]\.start_epoch was 2, is 3"):
        _fit(WeightAveraging(3), checkpoint=tmp_path / "run.npz", resume=True)


def test_a_second_fit_starts_a_new_average() -> None:
    averaging = WeightAveraging(4)
    first, _, _ = _fit(averaging)
    second, _, _ = _fit(averaging)
    assert averaging.averaged_epochs == 2
    assert _bits(first.state_dict()) == _bits(second.state_dict())


@pytest.mark.parametrize("start", [0, None])
def test_divergence_leaves_a_finite_average(start: int | None) -> None:
    def explode(state: FitState) -> None:
        state.optimizer.lr = 1e30 if state.epoch == 3 else state.optimizer.lr

    averaging, recorder = WeightAveraging(start), _Recorder()
    with pytest.warns(DivergenceWarning):
        network, optimizer, history = _fit(explode, averaging, recorder, ema=0.9)
    assert history.diverged is not None
    assert len(history) == 5
    assert all(np.isfinite(array).all() for array in network.state_dict().values())
    if start is not None:
        assert averaging.averaged_epochs == 4
        for p in network.parameters():
            mean = np.mean([seen[p.name].astype(np.float64) for seen in recorder.seen[:4]], axis=0)
            np.testing.assert_allclose(p.value, mean, rtol=1e-7, atol=1e-9)
    else:
        assert all(np.isfinite(array).all() for array in optimizer.averages.values())


def test_statistics_that_are_not_finite_leave_the_trained_network() -> None:
    """The average itself is finite, but the variances of its activations are not."""

    class Huge(Callback):
        def on_train_end(self, state: FitState) -> None:
            for name in averaging._averages:
                averaging._averages[name][...] = 3e38

    averaging = WeightAveraging(0)
    with np.errstate(over="ignore", invalid="ignore"):
        network, _, _ = _fit(Huge(), averaging)
    plain, _, _ = _fit()
    assert _bits(network.state_dict()) == _bits(plain.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {**s, "averaged_epochs": np.array(-1)}, "averaged_epochs must be at least 0, got -1"),
        (lambda s: {**s, "average.0.bias": np.full(8, np.nan)}, r"average\.0\.bias must be finite"),
        (lambda s: {**s, "average.0.bias": np.zeros(7)}, r"average\.0\.bias must be float64 of shape \(8,\)"),
        (lambda s: {name: a for name, a in s.items() if name != "average.0.bias"}, r"missing average\.0\.bias"),
        (lambda s: [], "state must be a mapping"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change: Any, message: str) -> None:
    averaging = WeightAveraging(0)
    _fit(averaging)
    before = averaging.state_dict()
    with pytest.raises((TypeError, ValueError), match=message):
        averaging.load_state_dict(change(averaging.state_dict()))
    assert _bits(averaging.state_dict()) == _bits(before)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: WeightAveraging(-1), ValueError, "start_epoch must be at least 0, got -1"),
        (lambda: WeightAveraging(1.5), TypeError, "start_epoch must be an int"),
        (lambda: _fit(WeightAveraging()), ValueError, "start_epoch must be an int, or the optimizer must have an ema_"),
    ],
)
def test_wrong_arguments_are_refused_by_name(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_an_optimizer_of_one_layer_gives_its_average_to_that_layer() -> None:
    network = _network()
    optimizer = SGD(network.layers[-1], lr=0.1, ema_momentum=0.9)
    before = network.layers[0].weight.copy()
    fit(network, mean_squared_error, optimizer, TRAIN, None, 2, seed=0, callbacks=[WeightAveraging()])
    np.testing.assert_array_equal(network.layers[0].weight, before)
    np.testing.assert_array_equal(network.layers[-1].weight, optimizer.averages["weight"])
