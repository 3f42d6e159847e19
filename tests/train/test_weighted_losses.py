"""Losses with weights: the mean over what counts, its gradient, the results of PyTorch, merging, and errors."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from cregkit.train import (
    binary_accuracy,
    binary_cross_entropy,
    class_accuracy,
    huber,
    mean_absolute_error,
    mean_squared_error,
    softmax_cross_entropy,
)
from cregkit.train.weights import total_weight

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (6, 4, 5)).astype(np.float32)
CLASSES = RNG.integers(5, size=(6, 4))
SOFT = RNG.dirichlet(np.ones(5), (6, 4)).astype(np.float32)
VALUES = RNG.random((6, 4, 5), dtype=np.float32)
PER_CLASS = np.array([0.5, 2.0, 0.0, 1.0, 3.0])
PER_SAMPLE = RNG.uniform(0.1, 3, 6).astype(np.float32) * (np.arange(6) != 2)
PER_ROW = RNG.uniform(0.1, 3, (6, 4)) * (RNG.random((6, 4)) > 0.3)
PER_ELEMENT = RNG.uniform(0.1, 3, (6, 4, 5)) * (RNG.random((6, 4, 5)) > 0.3)
MASK = RNG.random((6, 4)) > 0.4
SAMPLE_WEIGHTS = {"samples": PER_SAMPLE, "rows": PER_ROW, "mask": MASK, "ints": MASK.astype(np.int8) * 3}

ELEMENTWISE = {
    "binary": binary_cross_entropy,
    "binary, positive weights": partial(binary_cross_entropy, pos_weight=PER_CLASS, label_smoothing=0.2),
    "squared": mean_squared_error,
    "absolute": mean_absolute_error,
    "huber": partial(huber, delta=0.7),
}
SOFTMAX = {
    "softmax": softmax_cross_entropy,
    "softmax, ignored": partial(softmax_cross_entropy, ignore_index=1, label_smoothing=0.2),
    "softmax, classes": partial(softmax_cross_entropy, class_weight=PER_CLASS, label_smoothing=0.2),
}


@pytest.mark.parametrize("weight", [PER_SAMPLE, PER_ROW, MASK, PER_ELEMENT], ids=str)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_an_elementwise_loss_is_the_mean_over_the_weight(name, weight):
    loss = ELEMENTWISE[name]
    w = np.broadcast_to(weight.astype(float).reshape(weight.shape + (1,) * (3 - weight.ndim)), LOGITS.shape)
    values = np.empty(LOGITS.shape)
    for index in np.ndindex(LOGITS.shape):
        of_class = {"pos_weight": PER_CLASS[index[-1]]} if "positive" in name else {}
        values[index] = loss(LOGITS[index].reshape(1), VALUES[index].reshape(1), **of_class)[0]
    found, gradient = loss(LOGITS, VALUES, sample_weight=weight)
    assert found == pytest.approx((w * values).sum() / w.sum(), rel=1e-12)
    assert total_weight(loss, VALUES, weight) == pytest.approx(w.sum(), rel=1e-12)
    assert not gradient[w == 0].any()


@pytest.mark.parametrize("weight", SAMPLE_WEIGHTS)
@pytest.mark.parametrize("name", SOFTMAX)
def test_a_softmax_loss_is_the_mean_over_the_weight(name, weight):
    w = SAMPLE_WEIGHTS[weight].astype(float)
    w = np.broadcast_to(w[:, None] if w.ndim == 1 else w, CLASSES.shape) * 1.0
    log_p = LOGITS - np.log(np.exp(LOGITS.astype(float)).sum(-1, keepdims=True))
    t = np.eye(5)[CLASSES]
    u = t if name == "softmax" else 0.8 * t + 0.2 / 5
    c = PER_CLASS if "classes" in name else np.ones(5)
    if "ignored" in name:
        w[CLASSES == 1] = 0
    w *= c[CLASSES] > 0
    total = (w * c[CLASSES]).sum()
    expected = -(w[..., None] * c * u * log_p).sum() / total
    given = {"sample_weight": SAMPLE_WEIGHTS[weight]}
    loss, gradient = SOFTMAX[name](LOGITS, CLASSES, **given)
    assert loss == pytest.approx(expected, rel=1e-12)
    assert total_weight(SOFTMAX[name], CLASSES, SAMPLE_WEIGHTS[weight]) == pytest.approx(total, rel=1e-12)
    assert not gradient[w == 0].any()
    if "ignored" not in name:  # one-hot probabilities have the loss of their class
        assert SOFTMAX[name](LOGITS, np.float32(t), **given)[0] == pytest.approx(loss, rel=1e-12)


WEIGHTED = {
    **{name: partial(loss, sample_weight=PER_ELEMENT) for name, loss in ELEMENTWISE.items()},
    **{name: partial(loss, sample_weight=PER_ROW) for name, loss in SOFTMAX.items()},
}


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        *((name, VALUES) for name in ELEMENTWISE),
        *((name, targets) for name in SOFTMAX for targets in (CLASSES, SOFT)),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.dtype),
)
def test_weighted_gradients_match_finite_differences(name, targets):
    loss = WEIGHTED[name]
    gradient = loss(LOGITS, targets)[1]
    for index in np.ndindex(LOGITS.shape):
        up, down = LOGITS.copy(), LOGITS.copy()
        up[index] += 1e-3
        down[index] -= 1e-3
        slope = (loss(up, targets)[0] - loss(down, targets)[0]) / (float(up[index]) - float(down[index]))
        assert abs(slope - gradient[index]) <= 1e-6


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignored", [-100, 3])
@pytest.mark.parametrize("class_weight", [None, PER_CLASS + 0.25])
def test_softmax_cross_entropy_of_classes_has_the_results_of_pytorch(class_weight, ignored, smoothing):
    torch = pytest.importorskip("torch")
    classes = np.where(MASK, CLASSES, ignored)
    z = torch.tensor(LOGITS.reshape(-1, 5), dtype=torch.float64, requires_grad=True)
    weight = None if class_weight is None else torch.tensor(class_weight)
    theirs = torch.nn.CrossEntropyLoss(weight, ignore_index=ignored, label_smoothing=smoothing)(
        z, torch.tensor(classes.ravel())
    )
    (gradient,) = torch.autograd.grad(theirs, z)
    loss, ours = softmax_cross_entropy(
        LOGITS, classes, class_weight=class_weight, ignore_index=ignored, label_smoothing=smoothing
    )
    assert loss == pytest.approx(theirs.item(), rel=1e-12)
    np.testing.assert_allclose(ours.reshape(-1, 5), gradient.numpy(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_of_probabilities_are_those_of_pytorch_but_for_the_divisor(smoothing):
    """PyTorch divides by the number of rows, here by the sum of the rows' weights."""
    torch = pytest.importorskip("torch")
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(PER_CLASS), label_smoothing=smoothing)(
        torch.tensor(LOGITS.reshape(-1, 5), dtype=torch.float64), torch.tensor(SOFT.reshape(-1, 5).astype(float))
    )
    loss, _ = softmax_cross_entropy(LOGITS, SOFT, class_weight=PER_CLASS, label_smoothing=smoothing)
    total = total_weight(partial(softmax_cross_entropy, class_weight=PER_CLASS), SOFT)
    assert loss * total == pytest.approx(theirs.item() * 24, rel=1e-12)


@pytest.mark.parametrize("pos_weight", [3.0, PER_CLASS])
def test_positive_weights_are_those_of_pytorch(pos_weight):
    torch = pytest.importorskip("torch")
    z = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    theirs = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(pos_weight))(z, torch.tensor(VALUES.astype(float)))
    (gradient,) = torch.autograd.grad(theirs, z)
    loss, ours = binary_cross_entropy(LOGITS, VALUES, pos_weight=pos_weight)
    assert loss == pytest.approx(theirs.item(), rel=1e-12)
    np.testing.assert_allclose(ours, gradient.numpy(), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize(
    ("loss", "theirs"), [(partial(huber, delta=0.7), "HuberLoss"), (mean_absolute_error, "L1Loss")]
)
def test_robust_losses_have_the_results_of_pytorch(loss, theirs):
    torch = pytest.importorskip("torch")
    options = {"delta": 0.7} if theirs == "HuberLoss" else {}
    y = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    wanted = getattr(torch.nn, theirs)(**options)(y, torch.tensor(VALUES.astype(float)))
    (gradient,) = torch.autograd.grad(wanted, y)
    found, ours = loss(LOGITS, VALUES)
    assert found == pytest.approx(wanted.item(), rel=1e-12)
    np.testing.assert_allclose(ours, gradient.numpy(), rtol=1e-6)


ALL = {
    **{name: (loss, VALUES, PER_ELEMENT) for name, loss in ELEMENTWISE.items()},
    **{name: (loss, CLASSES, PER_ROW) for name, loss in SOFTMAX.items()},
    "softmax, probabilities": (SOFTMAX["softmax, classes"], SOFT, PER_ROW),
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ALL)
def test_rows_that_do_not_count_change_nothing(name, dtype):
    loss, targets, weight = ALL[name]
    outputs = LOGITS.astype(dtype if dtype != "bfloat16" else pytest.importorskip("ml_dtypes").bfloat16)
    wanted = loss(outputs, targets, sample_weight=weight)
    spoiled, outputs = targets.copy(), outputs.copy()
    outputs[weight == 0] = np.nan
    spoiled[weight == 0] = np.nan if targets.dtype == np.float32 else 77
    found = loss(outputs, spoiled, sample_weight=weight)
    assert found[0] == wanted[0]
    np.testing.assert_array_equal(found[1], wanted[1])
    assert found[1].dtype == outputs.dtype
    assert total_weight(loss, spoiled, weight) == total_weight(loss, targets, weight)
    nothing = loss(outputs * outputs.dtype.type(np.nan), spoiled, sample_weight=0 * weight)
    assert nothing[0] == 0
    assert not nothing[1].any()


def test_ignored_rows_and_classes_of_weight_0_may_hold_nan():
    logits, classes = LOGITS.copy(), CLASSES.astype(np.uint8)
    logits[CLASSES == 2] = np.nan
    for options in ({"class_weight": PER_CLASS, "label_smoothing": 0.1}, {"ignore_index": 2}):
        loss, gradient = softmax_cross_entropy(logits, classes, **options)
        wanted = softmax_cross_entropy(LOGITS[CLASSES != 2], CLASSES[CLASSES != 2], **options)
        assert loss == pytest.approx(wanted[0], rel=1e-12)
        np.testing.assert_allclose(gradient[CLASSES != 2], wanted[1], rtol=1e-6)
    assert softmax_cross_entropy(LOGITS, np.full((6, 4), -100), ignore_index=-100)[0] == 0
    assert softmax_cross_entropy(LOGITS, classes, ignore_index=-100)[0] == softmax_cross_entropy(LOGITS, classes)[0]


@pytest.mark.parametrize("size", [5000.0, 3e38])
def test_weighted_losses_are_stable_at_extreme_logits(size):
    z = np.array([[size, -size], [-size, size]], np.float32)
    ones, w = np.ones((2, 2), np.float32), np.array([1, 3])
    loss, gradient = softmax_cross_entropy(z, np.array([0, 0]), class_weight=[1, 5], sample_weight=w)
    assert loss == pytest.approx(0.75 * 2 * float(z[0, 0]))
    np.testing.assert_array_equal(gradient, [[0, 0], [-0.75, 0.75]])
    loss, gradient = binary_cross_entropy(z, ones, pos_weight=2.0, sample_weight=w)
    assert loss == pytest.approx(float(z[0, 0]))
    np.testing.assert_array_equal(gradient, [[0, -0.25], [-0.75, 0]])
    assert binary_cross_entropy(z, ones, pos_weight=0.0) == (0, pytest.approx(0 * z))


@pytest.mark.parametrize("name", ALL)
def test_means_of_parts_merge_by_their_total_weights(name):
    loss, targets, weight = ALL[name]
    totals = [total_weight(loss, targets[i : i + 1], weight[i : i + 1]) for i in range(6)]
    means = [loss(LOGITS[i : i + 1], targets[i : i + 1], sample_weight=weight[i : i + 1])[0] for i in range(6)]
    assert np.dot(totals, means) / sum(totals) == pytest.approx(
        loss(LOGITS, targets, sample_weight=weight)[0], rel=1e-12
    )
    assert total_weight(loss, targets, weight) == pytest.approx(sum(totals), rel=1e-12)


def test_a_loss_from_outside_counts_samples_unless_it_has_a_total_weight():
    def loss(outputs, targets, sample_weight=None):
        return 0.0, outputs

    assert total_weight(loss, VALUES) == 6
    assert total_weight(loss, VALUES, PER_SAMPLE) == pytest.approx(float(PER_SAMPLE.astype(float).sum()))
    loss.total_weight = lambda targets, sample_weight=None, scale=1: 2.0 * scale
    assert total_weight(partial(loss, scale=3), VALUES) == 6


def test_accuracies_are_percentages_of_the_weight():
    logits, classes = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]], np.array([0, 1, 2, -100])
    assert class_accuracy(logits, classes, sample_weight=np.array([1, 2, 5, 0])) == pytest.approx(100 * 3 / 8)
    assert class_accuracy(logits, classes, ignore_index=-100) == pytest.approx(200 / 3)
    assert np.isnan(class_accuracy(logits, classes, sample_weight=np.zeros(4)))
    z, t = np.array([[1, -1], [1, np.nan]], np.float32), np.array([[1, 1], [0, np.nan]], np.float32)
    assert binary_accuracy(z, t, sample_weight=~np.isnan(t)) == pytest.approx(100 / 3)
    assert binary_accuracy(z, t, sample_weight=np.array([3, 1])) == pytest.approx(100 * 3 / 8)


ROWS, ONE = LOGITS[0], np.ones(4)
MISTAKES = [
    (lambda: softmax_cross_entropy(ROWS, CLASSES[0], sample_weight=[1] * 4), TypeError, "sample_weight .* got list"),
    (lambda: softmax_cross_entropy(ROWS, CLASSES[0], sample_weight=ONE * 1j), TypeError, "sample_weight .* complex128"),
    (lambda: softmax_cross_entropy(ROWS, CLASSES[0], sample_weight=ONE[:3]), ValueError, r"shape \(4,\).*got \(3,\)"),
    (lambda: softmax_cross_entropy(ROWS, CLASSES[0], sample_weight=-ONE), ValueError, "sample_weight must be .* -1"),
    (lambda: mean_squared_error(ROWS, SOFT[0], sample_weight=ONE * np.nan), ValueError, "sample_weight must be .* nan"),
    (lambda: huber(ROWS, SOFT[0], sample_weight=np.ones((4, 4))), ValueError, r"sample_weight .* got \(4, 4\)"),
    (lambda: huber(ROWS, SOFT[0], sample_weight=np.array(1.0)), ValueError, r"sample_weight .* got \(\)"),
    (lambda: huber(ROWS, SOFT[0], delta=0.0), ValueError, "delta must be above 0, got 0"),
    (lambda: softmax_cross_entropy(ROWS, CLASSES[0], class_weight=ONE), ValueError, r"class_weight .*\(5,\).*\(4,\)"),
    (lambda: softmax_cross_entropy(ROWS, CLASSES[0], class_weight=-PER_CLASS), ValueError, "class_weight must be .* -"),
    (lambda: softmax_cross_entropy(ROWS, CLASSES[0], class_weight={1: 2}), TypeError, "class_weight must be an array"),
    (lambda: softmax_cross_entropy(ROWS, CLASSES[0], ignore_index=1.0), TypeError, "ignore_index must be an int"),
    (lambda: softmax_cross_entropy(ROWS, CLASSES[0] - 9, ignore_index=-100), ValueError, "targets must be from 0 to 4"),
    (lambda: binary_cross_entropy(ROWS, SOFT[0], pos_weight=ONE), ValueError, r"pos_weight .*\(5,\).*got \(4,\)"),
    (lambda: binary_cross_entropy(ROWS, SOFT[0], pos_weight=-1), ValueError, "pos_weight must be from 0"),
]


@pytest.mark.parametrize(("mistake", "error", "named"), MISTAKES)
def test_wrong_weights_are_refused_by_name(mistake, error, named):
    with pytest.raises(error, match=named):
        mistake()
