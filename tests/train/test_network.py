"""RegularizedNetwork: its loss and data, gradients, training, and what weight decay changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gradients import assert_gradients

from cregkit.lab.data import circle_data
from cregkit.train import SGD, DivergenceWarning, History, RegularizedNetwork, batches, binary_cross_entropy, train_step

TRAIN, TEST = circle_data(60, seed=1), circle_data(40, seed=2)

CONFIGURATIONS = {
    "plain": {},
    "dropout": {"dropout_p": 0.4},
    "batch": {"norm": "batch"},
    "layer": {"norm": "layer"},
    "rms": {"norm": "rms", "dropout_p": 0.4},
}


class _WithLoss(RegularizedNetwork):
    """The network followed by its loss, as one layer with one output."""

    targets = TRAIN[1][:9, None]

    def forward(self, x):
        loss, self._dlogits = binary_cross_entropy(super().forward(x), self.targets)
        return np.full((1,), loss, dtype=np.float64)

    def backward(self, dy):
        return super().backward((self._dlogits * dy).astype(np.float32))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_gradients_of_the_whole_network_match_finite_differences(name, training):
    network = _WithLoss(8, seed=3, **CONFIGURATIONS[name])
    rng = np.random.default_rng(0)
    network.load_state_dict(
        {
            key: value + rng.uniform(0.1, 0.3, value.shape).astype(np.float32) if value.dtype == np.float32 else value
            for key, value in network.state_dict().items()
        }
    )
    network.train() if training else network.eval()
    assert_gradients(network, TRAIN[0][:9])


def test_the_loss_follows_its_definition():
    z = np.array([-2.0, 0.0, 0.5, 3.0], dtype=np.float32)
    t = np.array([0.0, 1.0, 0.25, 1.0], dtype=np.float32)
    s = 1 / (1 + np.exp(-z.astype(np.float64)))
    loss, dlogits = binary_cross_entropy(z, t)
    assert loss == pytest.approx(-(t * np.log(s) + (1 - t) * np.log(1 - s)).mean(), rel=1e-12)
    np.testing.assert_allclose(dlogits, (s - t) / 4, rtol=1e-7)
    assert dlogits.dtype == np.float32


def test_the_loss_is_exact_where_its_definition_overflows():
    z = np.array([3e38, -3e38, 30.0], dtype=np.float32)
    loss, dlogits = binary_cross_entropy(z, np.array([1, 0, 1], dtype=np.float32))
    assert loss == pytest.approx(math.log1p(math.exp(-30)) / 3, rel=1e-12)
    assert dlogits[2] == pytest.approx(-math.exp(-30) / 3, rel=1e-2)  # 1 - sigmoid(30) in float64 keeps two digits
    assert binary_cross_entropy(z, np.array([0, 0, 1], dtype=np.float32))[0] == pytest.approx(1e38, rel=1e-6)


def test_circle_data_are_float32_points_labelled_by_the_circle():
    points, labels = circle_data()
    assert (points.shape, points.dtype, labels.shape, labels.dtype) == ((200, 2), np.float32, (200,), np.float32)
    assert np.abs(points).max() <= 2
    np.testing.assert_array_equal(labels, points[:, 0] ** 2 + points[:, 1] ** 2 < 1.5)


def test_circle_data_have_the_share_of_the_circle_within():
    _, labels = circle_data(20_000, seed=0)
    assert abs(labels.mean() - 1.5 * math.pi / 16) < 0.01


def test_noise_flips_its_share_of_labels_alone():
    points, labels = circle_data(20_000, seed=0)
    noisy_points, noisy = circle_data(20_000, seed=0, noise=0.1)
    np.testing.assert_array_equal(noisy_points, points)
    assert abs((noisy != labels).mean() - 0.1) < 0.01


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_seed_gives_the_same_history(name):
    def history(seed):
        return RegularizedNetwork(8, seed=seed, **CONFIGURATIONS[name]).fit(TRAIN, TEST, 3, batch_size=7)

    assert history(5) == history(5)
    assert history(5) != history(6)


def test_initial_weights_and_order_do_not_depend_on_the_regularisation():
    plain = RegularizedNetwork(8, seed=5)
    dropped = RegularizedNetwork(8, seed=5, dropout_p=0.5, weight_decay=0.1, norm="batch")
    np.testing.assert_array_equal(plain.layers[0].weight, dropped.layers[0].weight)
    np.testing.assert_array_equal(plain.layers[-1].weight, dropped.layers[-1].weight)
    np.testing.assert_array_equal(plain._order.permutation(50), dropped._order.permutation(50))


def test_the_network_learns_the_circle():
    train, test = circle_data(200), circle_data(500, seed=7)
    network = RegularizedNetwork()
    history = network.fit(train, test, 100, batch_size=1)
    assert history.train_loss[-1] < 0.3 * history.train_loss[0]
    assert min(history.train_acc[-1], history.test_acc[-1]) > 90
    probability = network.predict_proba(np.array([[0, 0], [1.9, 1.9]], dtype=np.float32))
    assert probability[0] > 0.9 > 0.1 > probability[1]


def test_on_epoch_is_called_after_each_epoch():
    seen = []
    RegularizedNetwork(8).fit(TRAIN, TEST, 4, on_epoch=lambda epoch, so_far: seen.append((epoch, len(so_far))))
    assert seen == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_history_is_an_evaluation_of_both_sets():
    network = RegularizedNetwork(8, dropout_p=0.5, norm="batch")
    history = network.fit(TRAIN, TEST, 4, batch_size=8)
    assert (history.train_loss[-1], history.train_acc[-1]) == network.evaluate(TRAIN)
    assert (history.test_loss[-1], history.test_acc[-1]) == network.evaluate(TEST)
    assert history.gap == [a - b for a, b in zip(history.train_acc, history.test_acc, strict=True)]
    probability = network.predict_proba(TEST[0])
    assert history.test_acc[-1] == pytest.approx(100 * ((probability >= 0.5) == (TEST[1] == 1)).mean())


def test_evaluation_and_prediction_change_no_state():
    network = RegularizedNetwork(8, dropout_p=0.5, norm="batch")
    before = network.state_dict()
    network.evaluate(TEST)
    network.predict_proba(TEST[0])
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_weight_decay_changes_weights_alone():
    """Targets equal to the predictions give no gradient: only decay changes parameters."""
    network = RegularizedNetwork(4, norm="batch").eval()
    for parameter in network.parameters():
        parameter.value[...] += 0.25
    before = {parameter.name: parameter.value.copy() for parameter in network.parameters()}
    targets = network.predict_proba(TRAIN[0])[:, None]
    train_step(network, binary_cross_entropy, SGD(network, 0.5, weight_decay=0.1), TRAIN[0], targets)
    for parameter in network.parameters():
        factor = 1 - 0.5 * 0.1 if parameter.name.endswith("weight") else 1
        np.testing.assert_allclose(parameter.value, factor * before[parameter.name], rtol=0, atol=1e-6)


def test_a_step_follows_sgd():
    network = RegularizedNetwork(4)
    x, targets = TRAIN[0][:8], TRAIN[1][:8, None]
    before = {parameter.name: parameter.value.copy() for parameter in network.parameters()}
    train_step(network, binary_cross_entropy, SGD(network, 0.25, weight_decay=0.5), x, targets)
    for parameter in network.parameters():
        gradient = parameter.grad + (0.5 * before[parameter.name] if parameter.decay else 0)
        np.testing.assert_allclose(parameter.value, before[parameter.name] - 0.25 * gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("join_single", "n", "batch_size", "sizes"),
    [
        (False, 9, 4, [4, 4, 1]),
        (False, 8, 4, [4, 4]),
        (False, 3, 1, [1, 1, 1]),
        (False, 2, 7, [2]),
        (True, 9, 4, [4, 5]),
        (True, 10, 4, [4, 4, 2]),
        (True, 3, 2, [3]),
        (True, 2, 7, [2]),
        (True, 1, 7, [1]),
        (True, 3, 1, [1, 1, 1]),
    ],
)
def test_batches_cover_an_epoch_once(join_single, n, batch_size, sizes):
    slices = [np.arange(n)[rows] for rows in batches(n, batch_size, join_single=join_single)]
    np.testing.assert_array_equal(np.concatenate(slices), np.arange(n))
    assert [len(rows) for rows in slices] == sizes


def test_batch_norm_trains_with_a_last_batch_of_one():
    history = RegularizedNetwork(4, norm="batch").fit(circle_data(9), TEST, 2, batch_size=4)
    assert np.isfinite(history.train_loss).all()


def test_a_saved_network_predicts_the_same(tmp_path):
    network = RegularizedNetwork(8, dropout_p=0.3, norm="batch", seed=1)
    network.fit(TRAIN, TEST, 2)
    network.save(tmp_path / "network.npz")
    other = RegularizedNetwork(8, dropout_p=0.3, norm="batch", seed=2)
    other.load(tmp_path / "network.npz")
    np.testing.assert_array_equal(other.predict_proba(TEST[0]), network.predict_proba(TEST[0]))


def test_record_appends_to_every_list_of_the_history():
    history = History()
    history.record((0.5, 90.0), (0.75, 80.0))
    assert history == History([0.5], [90.0], [0.75], [80.0], [10.0])
    assert len(history) == 1


X, Y = TRAIN
MISTAKES = [
    (lambda: RegularizedNetwork(0), ValueError, "hidden_size"),
    (lambda: RegularizedNetwork(lr=float("nan")), ValueError, "lr"),
    (lambda: RegularizedNetwork(dropout_p=2), ValueError, "dropout_p"),
    (lambda: RegularizedNetwork(weight_decay=-1), ValueError, "weight_decay"),
    (lambda: RegularizedNetwork(norm="group"), ValueError, "norm must be None or one of 'batch', 'layer', 'rms'"),
    (lambda: RegularizedNetwork(seed="x"), TypeError, "seed"),
    (lambda: RegularizedNetwork().fit(TRAIN, TEST, 0), ValueError, "epochs"),
    (lambda: RegularizedNetwork().fit(TRAIN, TEST, batch_size=0), ValueError, "batch_size"),
    (lambda: RegularizedNetwork(norm="batch").fit(TRAIN, TEST, batch_size=1), ValueError, "batch_size"),
    (lambda: RegularizedNetwork(norm="batch").fit((X[:1], Y[:1]), TEST), ValueError, "train"),
    (lambda: RegularizedNetwork().fit((X[:5], Y[:4]), TEST), ValueError, "train"),
    (lambda: RegularizedNetwork().fit(TRAIN, (X.astype(float), Y)), TypeError, r"test\[0\]"),
    (lambda: RegularizedNetwork().fit((X, 2 * Y - 1), TEST), ValueError, "train"),
    (lambda: RegularizedNetwork().fit(X, TEST), TypeError, "train must be a tuple"),
    (lambda: RegularizedNetwork().evaluate((X[:0], Y[:0])), ValueError, "data"),
    (lambda: RegularizedNetwork().predict_proba(X[:, :1]), ValueError, "x must have shape"),
    (lambda: binary_cross_entropy(Y[:3], Y[:2]), ValueError, "targets"),
    (lambda: binary_cross_entropy(Y, Y.astype(np.int64)), TypeError, "targets"),
    (lambda: circle_data(0), ValueError, "n must be"),
    (lambda: circle_data(noise=1.5), ValueError, "noise"),
]


@pytest.mark.parametrize(("mistake", "error", "named"), MISTAKES)
def test_wrong_arguments_are_refused_by_name(mistake, error, named):
    with pytest.raises(error, match=named):
        mistake()


def test_a_network_that_diverges_warns_and_predicts_finite_numbers():
    network = RegularizedNetwork(lr=1e30, seed=0)
    with pytest.warns(DivergenceWarning, match=r"epoch 0, step \d+"):
        history = network.fit(TRAIN, TEST, 20)
    assert history.diverged is not None
    assert len(history) == 1
    assert np.isfinite(network.predict_proba(TEST[0])).all()
