"""The losses: definitions, gradients, the results of PyTorch, extreme logits, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cregkit.train import binary_cross_entropy, mean_squared_error, softmax_cross_entropy

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (7, 5)).astype(np.float32)
CLASSES = RNG.integers(5, size=7)
SOFT = RNG.dirichlet(np.ones(5), 7).astype(np.float32)
BITS = RNG.integers(2, size=(7, 5)).astype(np.float32)
SMOOTHINGS = (0.0, 0.1, 1.0)


def _log_softmax(z):
    z = z.astype(np.longdouble)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("targets", [CLASSES, SOFT], ids=["classes", "soft"])
def test_softmax_cross_entropy_follows_its_definition(targets, smoothing):
    t = np.eye(5)[targets] if targets.ndim == 1 else targets.astype(np.float64)
    t = (1 - smoothing) * t + smoothing / 5
    log_p = _log_softmax(LOGITS)
    loss, dlogits = softmax_cross_entropy(LOGITS, targets, label_smoothing=smoothing)
    assert loss == pytest.approx(float(-(t * log_p).sum() / 7), rel=1e-12)
    expected = (np.exp(log_p) * t.sum(axis=1, keepdims=True) - t) / 7
    np.testing.assert_allclose(dlogits, expected.astype(np.float64), rtol=1e-7, atol=1e-12)
    assert dlogits.dtype == np.float32


LOSSES = {
    "binary": (lambda z: binary_cross_entropy(z, BITS, label_smoothing=0.3), LOGITS),
    "softmax, classes": (lambda z: softmax_cross_entropy(z, CLASSES, label_smoothing=0.3), LOGITS),
    "softmax, soft": (lambda z: softmax_cross_entropy(z, SOFT, label_smoothing=0.3), LOGITS),
    "squares": (lambda z: mean_squared_error(z, SOFT), LOGITS),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_match_finite_differences(name):
    loss, z = LOSSES[name]
    _, gradient = loss(z)
    for index in np.ndindex(z.shape):
        up, down = z.copy(), z.copy()
        up[index] += 2e-3
        down[index] -= 2e-3
        slope = (loss(up)[0] - loss(down)[0]) / (float(up[index]) - float(down[index]))
        assert abs(slope - gradient[index]) <= 1e-6  # truncation: step**2 / 6 times a third derivative below 1


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_softmax_cross_entropy_has_the_results_of_pytorch(smoothing):
    torch = pytest.importorskip("torch")
    z = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    for targets in (CLASSES, SOFT):
        wanted = torch.tensor(targets if targets is CLASSES else targets.astype(np.float64))
        theirs = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(z, wanted)
        (gradient,) = torch.autograd.grad(theirs, z)
        loss, dlogits = softmax_cross_entropy(LOGITS, targets, label_smoothing=smoothing)
        assert loss == pytest.approx(theirs.item(), rel=1e-12)
        np.testing.assert_allclose(dlogits, gradient.numpy(), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_binary_cross_entropy_has_the_results_of_pytorch(smoothing):
    torch = pytest.importorskip("torch")
    z = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    smoothed = torch.tensor(BITS.astype(np.float64) * (1 - smoothing) + 0.5 * smoothing)
    theirs = torch.nn.BCEWithLogitsLoss()(z, smoothed)
    (gradient,) = torch.autograd.grad(theirs, z)
    loss, dlogits = binary_cross_entropy(LOGITS, BITS, label_smoothing=smoothing)
    assert loss == pytest.approx(theirs.item(), rel=1e-12)
    np.testing.assert_allclose(dlogits, gradient.numpy(), rtol=1e-7, atol=1e-12)


def test_mean_squared_error_has_the_result_of_pytorch():
    torch = pytest.importorskip("torch")
    squares = torch.nn.MSELoss()(torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(SOFT.astype(np.float64)))
    assert mean_squared_error(LOGITS, SOFT)[0] == pytest.approx(squares.item(), rel=1e-12)


def test_softmax_of_two_classes_gives_the_binary_loss():
    pair = np.stack([np.zeros(7, np.float32), LOGITS[:, 0]], axis=1)
    two = softmax_cross_entropy(pair, BITS[:, 0].astype(np.int64), label_smoothing=0.2)
    one = binary_cross_entropy(LOGITS[:, 0], BITS[:, 0], label_smoothing=0.2)
    assert two[0] == pytest.approx(one[0], rel=1e-12)
    np.testing.assert_allclose(two[1][:, 1], one[1], rtol=1e-6)


def test_rows_may_have_several_axes():
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(4, 3, 2, 5)).astype(np.float32)
    classes = rng.integers(0, 5, (4, 3, 2))
    soft = np.eye(5, dtype=np.float32)[classes]
    wanted = softmax_cross_entropy(logits.reshape(-1, 5), classes.ravel(), label_smoothing=0.1)
    for targets in (classes, soft):
        loss, dlogits = softmax_cross_entropy(logits, targets, label_smoothing=0.1)
        assert loss == wanted[0]
        np.testing.assert_array_equal(dlogits, wanted[1].reshape(logits.shape))


def test_flat_targets_for_rows_of_several_axes_are_refused():
    logits, classes = np.zeros((4, 3, 2, 5), np.float32), np.zeros((4, 3, 2), np.int64)
    with pytest.raises(ValueError, match=r"targets must have shape \(4, 3, 2\), one for each row, got \(24,\)"):
        softmax_cross_entropy(logits, classes.ravel())


def test_logits_whose_exp_overflows_give_the_exact_loss():
    z = np.array([[3e38, -3e38, 0.0], [0.0, 1e4, 0.0]], dtype=np.float32)
    assert softmax_cross_entropy(z, np.array([0, 1]))[0] == 0
    loss, dlogits = softmax_cross_entropy(z, np.array([0, 0]))
    assert loss == pytest.approx(5e3)
    np.testing.assert_array_equal(dlogits, [[0, 0, 0], [-0.5, 0.5, 0]])


def test_a_logit_of_minus_infinity_excludes_its_class():
    z = np.array([[0.0, -np.inf, 0.0]], dtype=np.float32)
    assert softmax_cross_entropy(z, np.array([2]))[0] == pytest.approx(math.log(2))
    assert softmax_cross_entropy(z, np.array([1]))[0] == math.inf


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_give_no_finite_loss_and_no_warning(value):
    z = np.full((2, 3), value, dtype=np.float32)
    ones = np.ones((2, 3), dtype=np.float32)
    for loss, _ in (softmax_cross_entropy(z, np.array([0, 1])), mean_squared_error(z, ones)):
        assert not math.isfinite(loss)
    assert math.isnan(binary_cross_entropy(z, ones)[0])


Z, T = LOGITS[:, 0], BITS[:, 0]
MISTAKES = [
    (lambda: binary_cross_entropy(Z, T, label_smoothing=1.5), ValueError, "label_smoothing"),
    (lambda: binary_cross_entropy(Z, 2 * T), ValueError, r"targets must be in \[0, 1\], got 2"),
    (lambda: binary_cross_entropy(Z, T * np.float32("nan")), ValueError, "targets"),
    (
        lambda: binary_cross_entropy(Z.astype(float), T),
        TypeError,
        "logits must be a float32, float16 or bfloat16",
    ),
    (lambda: softmax_cross_entropy(Z, CLASSES), ValueError, r"logits must have shape \(N, C\)"),
    (lambda: softmax_cross_entropy(LOGITS[:0], CLASSES[:0]), ValueError, "not empty"),
    (lambda: softmax_cross_entropy(LOGITS, CLASSES[:3]), ValueError, r"targets must have shape \(7,\)"),
    (lambda: softmax_cross_entropy(LOGITS, CLASSES + 1), ValueError, "targets must be from 0 to 4"),
    (lambda: softmax_cross_entropy(LOGITS, CLASSES - 1), ValueError, "targets must be from 0 to 4"),
    (lambda: softmax_cross_entropy(LOGITS, SOFT[:, :3]), ValueError, "float32 targets must have the shape of logits"),
    (lambda: softmax_cross_entropy(LOGITS, -SOFT), ValueError, "targets must be in"),
    (lambda: softmax_cross_entropy(LOGITS, SOFT.astype(float)), TypeError, "targets .* got a float64 array"),
    (lambda: softmax_cross_entropy(LOGITS, CLASSES > 2), TypeError, "targets .* got a bool array"),
    (lambda: softmax_cross_entropy(LOGITS, [0] * 7), TypeError, "targets .* got list"),
    (lambda: softmax_cross_entropy(LOGITS, CLASSES, label_smoothing=-1), ValueError, "label_smoothing"),
    (lambda: mean_squared_error(Z, T[:2]), ValueError, "targets and predictions"),
    (lambda: mean_squared_error(Z, T.astype(int)), TypeError, "targets must be a float32 array"),
]


@pytest.mark.parametrize(("mistake", "error", "named"), MISTAKES)
def test_wrong_arguments_are_refused_by_name(mistake, error, named):
    with pytest.raises(error, match=named):
        mistake()
