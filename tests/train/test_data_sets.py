"""What ``fit`` and ``evaluate`` take: weights, metrics, validation_split, iterables of batches, objects of rows."""

from __future__ import annotations

import functools
import itertools
import math
import signal

import numpy as np
import pytest

from cregkit.advice import advise
from cregkit.augment import Augmentation, AugmentBatches, GaussianNoise, Mixup
from cregkit.layers import BatchNorm, Dropout, Linear, ReLU, Sequential, Transformer
from cregkit.train import (
    SGD,
    AdamW,
    Callback,
    DivergenceWarning,
    EarlyStopping,
    History,
    binary_cross_entropy,
    class_accuracy,
    evaluate,
    fit,
    mean_squared_error,
    predict,
    softmax_cross_entropy,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 6)).astype(np.float32)
CLASSES = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)
WEIGHT = RNG.uniform(0, 3, 50).astype(np.float32) * (np.arange(50) % 5 > 0)


def _network(outputs=3):
    return Sequential(Linear(6, 8, seed=1), BatchNorm(8), ReLU(), Dropout(0.3, seed=1), Linear(8, outputs, seed=2))


def _fit(network, train, test=None, epochs=3, loss=softmax_cross_entropy, **options):
    options = {"seed": 4, **options}
    return fit(network, loss, options.pop("optimizer", None) or AdamW(network, 0.02), train, test, epochs, **options)


def _same(first, second):
    return all((value == second[name]).all() for name, value in first.items())


def _by_hand(network, epochs, batches, data, loss=softmax_cross_entropy):
    """Train on the batches of each epoch; return the losses on the data after each epoch."""
    optimizer, losses = AdamW(network, 0.02), []
    for _ in range(epochs):
        network.train()
        for x, targets, weight in batches():
            network.backward(loss(network(x), targets, sample_weight=weight)[1])
            optimizer.step()
        network.eval()
        x, targets, weight = data
        losses.append(loss(network(x), targets, sample_weight=weight)[0])
    return losses


# Weights


def test_fit_weights_the_loss_and_the_accuracy_as_a_loop_by_hand_does():
    network, by_hand, order = _network(), _network(), np.random.default_rng(4)

    def batches():
        return [(X[rows], CLASSES[rows], WEIGHT[rows]) for rows in np.split(order.permutation(50), 5)]

    history = _fit(network, (X, CLASSES, WEIGHT), (X, CLASSES, WEIGHT), batch_size=10)
    losses = _by_hand(by_hand, 3, batches, (X, CLASSES, WEIGHT))
    assert history.train_loss == losses
    assert _same(network.state_dict(), by_hand.state_dict())
    right = predict(network, X).argmax(1) == CLASSES
    assert history.test_acc[-1] == pytest.approx(100 * WEIGHT[right].sum() / WEIGHT.sum(), rel=1e-6)


LARGE = RNG.normal(size=(9001, 6)).astype(np.float32)
LARGE_CLASSES = np.where(np.arange(9001) < 4000, -100, RNG.integers(3, size=9001))
IGNORING = functools.partial(softmax_cross_entropy, ignore_index=-100)


@pytest.mark.parametrize("weight", [None, np.arange(9001) % 7, np.arange(9001) < 5000], ids=["none", "ints", "mask"])
@pytest.mark.parametrize("loss", [IGNORING, functools.partial(IGNORING, class_weight=[1, 5, 2], label_smoothing=0.1)])
def test_large_sets_are_merged_by_what_counts(loss, weight):
    """The parts of an evaluation have very different total weights."""
    network = _network().eval()
    data = (LARGE, LARGE_CLASSES) if weight is None else (LARGE, LARGE_CLASSES, weight)
    found, accuracy = evaluate(network, loss, data)
    outputs = predict(network, LARGE)
    assert found == pytest.approx(loss(outputs, LARGE_CLASSES, sample_weight=weight)[0], rel=1e-12)
    expected = class_accuracy(outputs, LARGE_CLASSES, ignore_index=-100, sample_weight=weight)
    assert accuracy == pytest.approx(expected, rel=1e-12)
    cuts = [0, 10, 3000, 4500, 9001]
    parts = [tuple(a[i:j] for a in data) for i, j in itertools.pairwise(cuts)]
    assert evaluate(network, loss, parts) == pytest.approx((found, accuracy), rel=1e-6)


def test_where_nothing_counts_the_loss_is_0_and_there_is_no_accuracy():
    loss, accuracy = evaluate(_network(), IGNORING, (LARGE[:4000], LARGE_CLASSES[:4000]))
    assert loss == 0
    assert math.isnan(accuracy)


def test_whole_weights_count_like_repeated_samples():
    times = np.arange(50) % 4
    network = _network()
    repeated = evaluate(network, softmax_cross_entropy, (X.repeat(times, axis=0), CLASSES.repeat(times)))
    assert evaluate(network, softmax_cross_entropy, (X, CLASSES, times)) == pytest.approx(repeated, rel=1e-6)


@pytest.mark.parametrize("shape", [(50,), (50, 1)])
def test_missing_targets_are_left_out_by_a_mask(shape):
    targets = X[:, :1].reshape(shape).copy()
    targets[::3] = np.nan
    network = Sequential(Linear(6, 1, seed=1))
    mask = ~np.isnan(targets)
    history = _fit(
        network, (X, targets, mask), None, 40, mean_squared_error, batch_size=10, optimizer=SGD(network, 0.2)
    )
    assert history.train_loss[-1] < 0.01 * history.train_loss[0]
    assert history.diverged is None


def test_padded_positions_of_sequences_do_not_count():
    ids = RNG.integers(1, 11, (40, 6))
    padding = np.arange(6) >= RNG.integers(2, 7, (40, 1))
    figures = []
    for targets, weight, loss in (
        (np.where(padding, -100, ids), None, IGNORING),
        (np.where(padding, 0, ids), ~padding, softmax_cross_entropy),
    ):
        network = Transformer(11, 6, 1, 16, 2, seed=1)
        data = (ids, targets) if weight is None else (ids, targets, weight)
        history = _fit(network, data, data, 3, loss, batch_size=8)
        figures.append((history.train_loss, history.test_acc))
    assert figures[0] == figures[1]
    right = (predict(network, ids).argmax(-1) == ids)[~padding]
    assert figures[0][1][-1] == pytest.approx(100 * right.mean())


def test_an_accuracy_from_outside_gets_weights_if_it_takes_them():
    def plain(outputs, targets):
        return 100.0 * len(outputs)

    def weighted(outputs, targets, sample_weight=None):
        return float(sample_weight.sum())

    network = _network()
    assert evaluate(network, softmax_cross_entropy, (X, CLASSES, WEIGHT), plain)[1] == 5000
    found = evaluate(network, softmax_cross_entropy, (X, CLASSES, WEIGHT), weighted)[1]
    assert found == pytest.approx(float(WEIGHT.sum()))


def test_a_loss_from_outside_may_be_weighted():
    def loss(outputs, targets, sample_weight):
        return softmax_cross_entropy(outputs, targets, sample_weight=sample_weight)

    histories = [
        _fit(_network(), (X, CLASSES, WEIGHT), (X, CLASSES, WEIGHT), loss=f) for f in (loss, softmax_cross_entropy)
    ]
    assert histories[0].train_loss == histories[1].train_loss


class _Seen(Callback):
    def __init__(self):
        self.rows, self.weights = [], []

    def on_batch_begin(self, state, rows, x, targets):
        self.rows.append(rows)
        self.weights.append(state.sample_weight)
        return x, targets


def test_augmentation_keeps_the_weights_of_its_samples():
    seen = _Seen()
    noise = AugmentBatches(Augmentation(GaussianNoise(0.1), seed=0), shape=(1, 6))
    _fit(_network(), (X, CLASSES, WEIGHT), callbacks=[noise, seen], batch_size=10)
    for rows, weight in zip(seen.rows, seen.weights, strict=True):
        np.testing.assert_array_equal(weight, WEIGHT[rows])
    _fit(_network(), (X, CLASSES), callbacks=[seen], batch_size=50, epochs=1)
    assert seen.weights[-1] is None


@pytest.mark.parametrize("classes", [CLASSES, np.eye(3, dtype=np.float32)[CLASSES]], ids=["classes", "soft"])
def test_a_mixture_has_the_loss_of_both_samples_with_their_weights(classes):
    mix = Augmentation(mix=Mixup(alpha=1.0), classes=3, seed=1)
    rows = RNG.permutation(50)
    x, soft, weight = mix((X, classes, WEIGHT), rows, epoch=2)
    # the targets of data whose targets are their own numbers give partner and mixing weight
    positions = np.eye(50, dtype=np.float32)
    _, parts = Augmentation(mix=Mixup(alpha=1.0), classes=50, seed=1)((X, positions), rows, epoch=2)
    outputs = predict(_network(), x)
    each = -(outputs - np.log(np.exp(outputs.astype(float)).sum(1, keepdims=True)))
    w = parts * WEIGHT
    expected = (w[:, :, None] * np.eye(3)[CLASSES] * each[:, None]).sum() / w.sum()
    assert softmax_cross_entropy(outputs, soft, sample_weight=weight)[0] == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(weight, w.sum(1), rtol=1e-6)


def test_a_mixture_with_a_sample_of_weight_0_takes_the_target_of_the_other():
    classes = np.where(WEIGHT > 0, CLASSES, -100)
    mix = Augmentation(mix=Mixup(alpha=1.0), classes=3, seed=1)
    _, soft, weight = mix((X, classes, WEIGHT), np.arange(50), epoch=0)
    assert soft.min() >= 0
    np.testing.assert_allclose(soft.sum(1), weight > 0, rtol=1e-6)
    _, _, of_elements = Augmentation(mix=Mixup(alpha=1.0), seed=1)(
        (X, np.float32(X > 0), np.float32(X > 1)), np.arange(50), epoch=0
    )
    assert of_elements.shape == (50, 6)


def test_mixing_trains_on_weighted_data():
    mix = AugmentBatches(Augmentation(mix=Mixup(alpha=1.0), classes=3, seed=1))
    history = _fit(_network(), (X, CLASSES, WEIGHT), epochs=30, callbacks=[mix], batch_size=10)
    assert history.train_acc[-1] > 85


def test_a_callback_may_replace_the_weights():
    class First(Callback):
        def on_batch_begin(self, state, rows, x, targets):
            state.sample_weight = rows < 25
            return x, targets

    network, masked = _network(), _network()
    _fit(network, (X, CLASSES), callbacks=[First()], batch_size=10)
    _fit(masked, (X, CLASSES, np.arange(50) < 25), batch_size=10)
    assert _same(network.state_dict(), masked.state_dict())


def test_checkpoints_compare_weights_and_metrics(tmp_path):
    file = tmp_path / "run.npz"

    def run(weight, epochs=2, **options):
        network = _network()
        history = _fit(network, (X, CLASSES, weight), (X, CLASSES), epochs, batch_size=10, **options)
        return history, network.state_dict()

    metrics = {"error": lambda outputs, targets: float((outputs.argmax(1) != targets).mean())}
    run(WEIGHT, checkpoint=file, metrics=metrics)
    resumed, whole = run(WEIGHT, 4, checkpoint=file, resume=True, metrics=metrics), run(WEIGHT, 4, metrics=metrics)
    assert resumed[0] == whole[0]
    assert len(resumed[0].metrics["test_error"]) == 4
    assert _same(resumed[1], whole[1])
    for weight, options, message in (
        (WEIGHT * 2, {"metrics": metrics}, "it belongs to another run: train"),
        (WEIGHT, {}, "it belongs to another run: metrics.error is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            run(weight, 4, checkpoint=file, resume=True, **options)


# validation_split


def test_the_last_fraction_of_the_training_set_becomes_the_test_set():
    for data in ((X, CLASSES), (X, CLASSES, WEIGHT)):
        network, by_hand = _network(), _network()
        history = _fit(network, data, validation_split=0.3, callbacks=[EarlyStopping(2)])
        parts = tuple(a[:35] for a in data), tuple(a[35:] for a in data)
        assert history == _fit(by_hand, *parts, callbacks=[EarlyStopping(2)])
        assert _same(network.state_dict(), by_hand.state_dict())


# Metrics


def _spread(outputs, targets, sample_weight=None):
    """No mean over samples: it depends on all outputs at once."""
    return float(outputs.max() - outputs.min()) + len(targets)


def test_metrics_are_those_of_whole_sets():
    network = _network()
    data = (LARGE, np.maximum(LARGE_CLASSES, 0))
    seen = []

    def watched(outputs, targets, sample_weight=None):
        seen.append(sample_weight)
        return 1.0

    history = _fit(
        network, data, (X, CLASSES, WEIGHT), 1, batch_size=3000, metrics=[_spread, functools.partial(watched)]
    )
    assert list(history.metrics) == ["train__spread", "train_watched", "test__spread", "test_watched"]
    assert history.metrics["train__spread"] == [_spread(predict(network, LARGE), LARGE_CLASSES)]
    assert seen[0] is None
    np.testing.assert_array_equal(seen[1], WEIGHT)
    assert all(map(math.isnan, _fit(_network(), (X, CLASSES), metrics=[_spread]).metrics["test__spread"]))


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_files_of_a_history_hold_its_metrics(kind, tmp_path):
    network = _network()
    metrics = {"f1": lambda outputs, targets: 0.5, "accuracy": lambda outputs, targets: 0.25}
    history = _fit(network, (X, CLASSES), (X, CLASSES), 4, metrics=metrics)
    file = tmp_path / f"history.{kind}"
    getattr(history, f"to_{kind}")(file)
    read = getattr(History, f"from_{kind}")(file)
    assert read == history
    assert read.metrics["test_f1"] == [0.5] * 4
    plain = tmp_path / "plain"
    getattr(_fit(_network(), (X, CLASSES), (X, CLASSES), 4), f"to_{kind}")(plain)
    assert str(advise(history=file)) == str(advise(history=plain)) == str(advise(history=history))


# Iterables


class _Loader:
    """Batches of a fixed order, and the number of passes."""

    def __init__(self, data, size=10):
        self.data, self.size, self.passes = data, size, 0

    def __iter__(self):
        self.passes += 1
        for start in range(0, len(self), self.size):
            yield tuple(array[start : start + self.size] for array in self.data)

    def __len__(self):
        return len(self.data[0])


def test_an_iterable_is_passed_once_to_train_and_once_to_evaluate_in_each_epoch():
    train, test, seen = _Loader((X, CLASSES, WEIGHT)), _Loader((X, CLASSES)), _Seen()
    network, by_hand = _network(), _network()
    history = _fit(network, train, test, 3, metrics=[_spread], callbacks=[seen])
    assert (train.passes, test.passes) == (6, 3)
    losses = _by_hand(by_hand, 3, lambda: iter(_Loader((X, CLASSES, WEIGHT))), (X, CLASSES, WEIGHT))
    assert _same(network.state_dict(), by_hand.state_dict())
    assert history.train_loss == pytest.approx(losses, rel=1e-6)
    assert history.metrics["test__spread"][-1] == pytest.approx(_spread(predict(network, X), CLASSES), rel=1e-6)
    assert [rows.tolist() for rows in seen.rows[5:7]] == [list(range(10)), list(range(10, 20))]
    assert evaluate(network, softmax_cross_entropy, (batch for batch in test)) == pytest.approx(
        evaluate(network, softmax_cross_entropy, (X, CLASSES)), rel=1e-6
    )


def test_a_data_loader_of_pytorch_is_fitted():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(*map(torch.from_numpy, (X, CLASSES, WEIGHT)))
    generator = torch.Generator().manual_seed(1)
    loader = torch.utils.data.DataLoader(data, batch_size=10, shuffle=True, generator=generator)
    history = _fit(_network(), loader, loader, 20)
    assert history.train_acc[-1] > 85
    assert history.test_loss == pytest.approx(history.train_loss, rel=1e-5)


def test_a_run_on_a_list_of_batches_resumes(tmp_path):
    batches, file = list(_Loader((X, CLASSES))), tmp_path / "run.npz"
    for data in (batches, _Loader((X, CLASSES))):
        whole = _fit(_network(), data, data, 4)
        file.unlink(missing_ok=True)
        _fit(_network(), data, data, 2, checkpoint=file)
        assert _fit(_network(), data, data, 4, checkpoint=file, resume=True) == whole
    for other in (batches, _Loader((X[:40], CLASSES[:40]))):
        with pytest.raises(ValueError, match="it belongs to another run: train"):
            _fit(_network(), other, batches, 4, checkpoint=file, resume=True)


class _Spoilt(_Loader):
    """NaN in the third batch of the second training pass."""

    def __iter__(self):
        for number, (x, *rest) in enumerate(super().__iter__()):
            yield (x * np.float32(np.nan) if (self.passes, number) == (3, 2) else x, *rest)


def test_an_iterable_that_diverges_ends_with_the_last_finite_state():
    network = Sequential(Linear(6, 8, seed=1), ReLU(), Linear(8, 3, seed=2))
    optimizer = AdamW(network, 0.02)
    with pytest.warns(DivergenceWarning, match="epoch 1, step 2"):
        history = _fit(network, _Spoilt((X, CLASSES, WEIGHT)), None, 5, optimizer=optimizer, metrics=[_spread])
    assert (len(history), optimizer.steps) == (2, 7)
    assert math.isnan(history.metrics["train__spread"][-1])
    assert all(np.isfinite(value).all() for value in network.state_dict().values())


def test_weighted_training_that_diverges_ends():
    network = Sequential(Linear(6, 8, seed=1), ReLU(), Linear(8, 3, seed=2))
    with pytest.warns(DivergenceWarning, match="training diverged"):
        history = _fit(network, (X, CLASSES, WEIGHT), None, 5, optimizer=SGD(network, 1e38))
    assert history.diverged is not None
    assert all(np.isfinite(value).all() for value in network.state_dict().values())


def test_ctrl_c_ends_a_fit_on_an_iterable():
    def press(state):
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        history = _fit(_network(), _Loader((X, CLASSES)), None, 5, callbacks=[press])
    finally:
        signal.signal(signal.SIGINT, before)
    assert history.interrupted
    assert len(history) == 1


class _Once:
    """An iterable that yields its batches only in the first pass."""

    def __init__(self):
        self.batches = iter(list(_Loader((X, CLASSES))))

    def __iter__(self):
        yield from self.batches


# Objects of rows


class _File:
    """Samples as in an HDF5 data set: rows at a slice, or at increasing positions, are read as arrays."""

    def __init__(self, array):
        self._array, self.largest = array, 0
        self.shape, self.dtype = array.shape, array.dtype

    def __len__(self):
        return len(self._array)

    def __getitem__(self, rows):
        assert isinstance(rows, slice) or (np.diff(rows) > 0).all(), "increasing positions"
        found = self._array[rows].copy()
        self.largest = max(self.largest, len(found))
        return found


@pytest.mark.parametrize("options", [{}, {"validation_split": 0.2}, {"checkpoint": True}], ids=str)
def test_rows_are_read_batch_by_batch_with_the_results_of_arrays(options, tmp_path):
    x = RNG.normal(size=(10000, 6)).astype(np.float32)
    classes = (x[:, 0] > 0).astype(np.int64)
    results = []
    for given in (_File(x), x):
        own = {"checkpoint": tmp_path / "run.npz", "resume": True} if options.get("checkpoint") else options
        network = _network()
        test = None if "validation_split" in options else (given, classes)
        # the second run resumes the finished run of the first: their data have the same identity
        results.append((_fit(network, (given, classes), test, 2, batch_size=1000, **own), network.state_dict()))
        np.testing.assert_array_equal(predict(network, given), predict(network, x))
        if given is not x:
            assert given.largest <= 4096
    assert results[0][0] == results[1][0]
    assert _same(results[0][1], results[1][1])


def test_ids_of_an_object_of_rows_are_checked_and_trained():
    ids = RNG.integers(0, 11, (5000, 6))
    network, late = Transformer(11, 6, 1, 16, 2, seed=1), ids.copy()
    late[4900, 3] = 11
    with pytest.raises(ValueError, match="ids from 0 to 10, the vocabulary, got 11"):
        _fit(network, (_File(late), ids))
    assert _fit(network, (_File(ids), ids), epochs=1, batch_size=500).train_loss[0] < 2.5


def test_a_memory_map_is_trained(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert _fit(_network(), (mapped, CLASSES)).train_loss == _fit(_network(), (X, CLASSES)).train_loss


def test_rows_are_augmented():
    mix = Augmentation(GaussianNoise(0.1), mix=Mixup(alpha=1.0), classes=3, seed=1)
    results = [_fit(_network(), (x, CLASSES), callbacks=[AugmentBatches(mix)]).train_loss for x in (_File(X), X)]
    assert results[0] == results[1]


# Mistakes

BATCHES = list(_Loader((X, CLASSES)))
SHAPED = AugmentBatches(Augmentation(GaussianNoise(0.1), seed=0), shape=(1, 6))
MISTAKES = [
    (
        {"train": (X, CLASSES, WEIGHT[:3])},
        ValueError,
        r"train\[2\] is not valid: sample_weight must have shape \(50,\)",
    ),
    ({"train": (X, CLASSES, -WEIGHT)}, ValueError, r"train\[2\] .* sample_weight must be from 0"),
    ({"train": (X, CLASSES, list(WEIGHT))}, TypeError, r"train\[2\] .* sample_weight must be an array .* got list"),
    ({"train": (X, CLASSES, np.ones((50, 3)))}, ValueError, "train is incompatible .* sample_weight"),
    ({"train": (X, CLASSES, WEIGHT, WEIGHT)}, TypeError, r"train must be a tuple \(x, y\) or \(x, y, sample_weight\)"),
    (
        {"train": (X, CLASSES, WEIGHT), "loss": lambda outputs, targets: softmax_cross_entropy(outputs, targets)},
        TypeError,
        "train is incompatible .* 'sample_weight'",
    ),
    ({"validation_split": 1.0}, ValueError, "validation_split must leave at least one sample"),
    ({"validation_split": 0.99}, ValueError, "validation_split must leave .* got 0.99 of 50 samples"),
    ({"validation_split": -0.1}, ValueError, "validation_split must be in"),
    ({"validation_split": 0.2, "test": (X, CLASSES)}, ValueError, "validation_split must be 0 if there is a test set"),
    ({"validation_split": 0.2, "train": BATCHES}, ValueError, "validation_split must be 0 if train is an iterable"),
    ({"metrics": print}, TypeError, "metrics must be a list of functions, or a dict"),
    ({"metrics": [3]}, TypeError, "int must be a function of outputs and targets, got int 3"),
    ({"metrics": [_spread, _spread]}, ValueError, "metrics must have different names, got _spread: pass a dict"),
    ({"metrics": {"loss": _spread}}, ValueError, "metrics must have names other than .* got 'loss'"),
    ({"train": iter(BATCHES)}, TypeError, "train must be iterable more than once"),
    ({"test": (batch for batch in BATCHES)}, TypeError, "test must be iterable more than once.*generator"),
    ({"train": _Once()}, ValueError, "train must yield at least one batch each time it is iterated, got none"),
    ({"train": []}, ValueError, "train must yield at least one batch"),
    ({"train": [X, CLASSES]}, TypeError, r"train must be a tuple \(x, y\) or .* got list whose entry 0 is ndarray"),
    ({"train": [(X, CLASSES[:3])]}, ValueError, r"train \(batch 0\) must hold one target for each sample"),
    ({"train": [(X, CLASSES + 9)]}, ValueError, "train is incompatible with network and loss"),
    ({"test": [(X[:, :3].copy(), CLASSES)]}, ValueError, "test is incompatible with network and loss"),
    ({"train": BATCHES, "batch_size": 8}, ValueError, "batch_size must be None if train is an iterable"),
    ({"train": BATCHES, "callbacks": [SHAPED]}, TypeError, "train must hold arrays for AugmentBatches, got .* list"),
    ({"train": (_File(X), CLASSES), "callbacks": [SHAPED]}, TypeError, r"train\[0\] must be an array for shape"),
    ({"train": (_File(X.astype(float)), CLASSES)}, TypeError, r"train\[0\] must have dtype float32, .* got float64"),
    ({"train": (_File(X), CLASSES[:3])}, ValueError, "train must hold one target for each sample"),
]


@pytest.mark.parametrize(("options", "error", "named"), MISTAKES)
def test_wrong_arguments_are_refused_by_name(options, error, named):
    with pytest.raises(error, match=named):
        _fit(_network(), **{"train": (X, CLASSES), **options})


def test_a_sparse_matrix_without_a_wrapper_is_refused():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"train\[0\] must be a float32, float16 or bfloat16 array, got csr_"):
        _fit(_network(), (sparse.csr_array(X), CLASSES))


def test_binary_targets_of_one_axis_are_weighted():
    bits = np.float32(CLASSES > 0)
    network = _network(1)
    history = _fit(network, (X, bits, WEIGHT), None, 30, binary_cross_entropy, batch_size=10)
    right = (predict(network, X)[:, 0] >= 0) == bits
    assert history.train_acc[-1] == pytest.approx(100 * WEIGHT[right].sum() / WEIGHT.sum(), rel=1e-6)
