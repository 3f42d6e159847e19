"""Training on float16 and bfloat16: losses, evaluation, fit, divergence and checkpoints."""

from __future__ import annotations

import numpy as np
import pytest

from cregkit.layers import BatchNorm, Dropout, LayerNorm, Linear, ReLU, Sequential, Transformer
from cregkit.train import (
    SGD,
    AdamW,
    DivergenceWarning,
    EarlyStopping,
    binary_accuracy,
    binary_cross_entropy,
    class_accuracy,
    evaluate,
    fit,
    mean_squared_error,
    predict,
    softmax_cross_entropy,
)
from cregkit.train.divergence import first_not_finite

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 6), dtype=np.float32)
CLASSES = (X[:, 0] > 0).astype(np.int64)
BITS = RNG.integers(2, size=(40, 3)).astype(np.float32)
LOGITS = 3 * RNG.standard_normal((40, 3), dtype=np.float32)


@pytest.fixture(params=["float16", "bfloat16"])
def dtype(request):
    if request.param == "float16":
        return np.dtype(np.float16)
    return np.dtype(pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16)


def _network(seed=1):
    return Sequential(
        Linear(6, 8, seed=seed), BatchNorm(8), ReLU(), Dropout(0.2, seed=seed), LayerNorm(8), Linear(8, 2, seed=seed)
    )


LOSSES = {
    "binary": (binary_cross_entropy, BITS),
    "softmax": (softmax_cross_entropy, np.arange(40) % 3),
    "squared": (mean_squared_error, BITS),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_16_bit_outputs_is_that_of_their_values(name, dtype):
    loss, targets = LOSSES[name]
    outputs = LOGITS.astype(dtype)
    value, gradient = loss(outputs, targets)
    value32, gradient32 = loss(outputs.astype(np.float32), targets)
    assert value == value32
    assert gradient.dtype == dtype
    assert gradient32.dtype == np.float32
    np.testing.assert_array_equal(gradient, gradient32.astype(dtype))


def test_a_gradient_beyond_float16_is_infinite_without_a_warning():
    loss, gradient = mean_squared_error(np.array([6e4], np.float16), np.array([-6e4], np.float32))
    assert loss == pytest.approx(1.44e10, rel=1e-3)
    assert gradient[0] == np.inf


@pytest.mark.parametrize("name", LOSSES)
def test_losses_name_the_dtypes_that_they_take(name):
    loss, targets = LOSSES[name]
    with pytest.raises(TypeError, match="must be a float32, float16 or bfloat16 array, got a float64 array"):
        loss(LOGITS.astype(np.float64), targets)


def test_accuracies_take_16_bits(dtype):
    nan = np.where(np.arange(40)[:, None] == 3, np.nan, LOGITS).astype(dtype)
    for logits in (LOGITS.astype(dtype), nan):
        wide = logits.astype(np.float32)
        assert binary_accuracy(logits, BITS) == binary_accuracy(wide, BITS)
        assert class_accuracy(logits, np.arange(40) % 3) == class_accuracy(wide, np.arange(40) % 3)


def test_predict_and_evaluate_take_16_bits(dtype):
    network = _network()
    outputs = predict(network, X.astype(dtype))
    assert outputs.dtype == dtype
    np.testing.assert_array_equal(outputs, network(X.astype(dtype)))
    loss, accuracy = evaluate(network, softmax_cross_entropy, (X.astype(dtype), CLASSES))
    assert loss == softmax_cross_entropy(outputs, CLASSES)[0]
    assert accuracy == class_accuracy(outputs, CLASSES)


def test_predict_takes_ids_for_a_cast_transformer(dtype):
    network = Transformer(5, 4, 1, 8, 2, seed=1).astype(dtype)
    assert predict(network, np.arange(12).reshape(3, 4) % 5).dtype == dtype


def test_fit_trains_float32_parameters_on_16_bits(dtype):
    network = _network()
    data = X.astype(dtype), CLASSES
    history = fit(network, softmax_cross_entropy, AdamW(network, lr=0.02), data, data, 30, batch_size=8, seed=1)
    assert history.test_acc[-1] > 90
    assert history.diverged is None
    assert all(p.value.dtype == p.grad.dtype == np.float32 for p in network.parameters())


def test_fit_trains_a_head_on_a_cast_network(dtype):
    base, head = Sequential(Linear(6, 8, seed=1), ReLU()).astype(dtype), Linear(8, 2, seed=2)
    frozen = base.state_dict()
    network = Sequential(base, head)
    data = X.astype(dtype), CLASSES
    history = fit(network, softmax_cross_entropy, SGD(head, lr=0.5), data, None, 30, batch_size=8, seed=1)
    assert history.train_loss[-1] < history.train_loss[0]
    for name, value in base.state_dict().items():
        assert value.dtype == dtype
        np.testing.assert_array_equal(value, frozen[name])


def test_fit_refuses_batches_of_one_sample_for_a_batch_norm(dtype):
    network = _network()
    with pytest.raises(ValueError, match="batch_size must be at least 2"):
        fit(network, softmax_cross_entropy, SGD(network), (X.astype(dtype), CLASSES), None, 1, batch_size=1)


def test_fit_refuses_float64_and_names_the_dtypes_that_it_takes():
    network = _network()
    with pytest.raises(TypeError, match=r"train\[0\] must be a float32, float16 or bfloat16 array, got a float64"):
        fit(network, softmax_cross_entropy, SGD(network), (X.astype(np.float64), CLASSES), None, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_of_16_bits_that_are_not_finite_are_found(value, dtype):
    assert first_not_finite({"a": np.ones(3, dtype), "b": np.array([1, value], dtype)}) == "b"
    assert first_not_finite({"a": np.ones(3, dtype)}) is None


def test_a_diverged_fit_on_16_bits_is_noticed(dtype):
    network = _network()
    with pytest.warns(DivergenceWarning, match="training diverged"):
        history = fit(network, softmax_cross_entropy, SGD(network, lr=1e38), (X.astype(dtype), CLASSES), None, 5)
    assert history.diverged is not None
    assert all(np.isfinite(value).all() for value in network.state_dict().values())


def test_a_checkpoint_keeps_dtypes_and_resumes_bit_identically(dtype, tmp_path):
    data = X.astype(dtype), CLASSES

    def run(epochs, **options):
        base, head = _network(1).astype(dtype).eval(), Linear(2, 2, seed=2)
        network, stopping = Sequential(base, head), EarlyStopping(50)
        options = {"batch_size": 8, "seed": 1, "callbacks": [stopping], **options}
        history = fit(network, softmax_cross_entropy, AdamW(head, lr=0.02), data, data, epochs, **options)
        return network.state_dict(), history.test_loss

    state, losses = run(6)
    file = tmp_path / "run.npz"
    run(3, checkpoint=file)
    resumed, resumed_losses = run(6, checkpoint=file, resume=True)
    assert resumed_losses == losses
    assert resumed["0.0.weight"].dtype == dtype
    for name, value in state.items():
        assert resumed[name].dtype == value.dtype
        assert resumed[name].tobytes() == value.tobytes()


def test_a_run_on_other_bits_is_another_run(dtype, tmp_path):
    def run(x):
        network = _network()
        fit(network, softmax_cross_entropy, SGD(network), (x, CLASSES), None, 1, seed=1, checkpoint=file, resume=True)

    file = tmp_path / "run.npz"
    run(X.astype(dtype))
    for other in (X, (X + 1).astype(dtype)):
        with pytest.raises(ValueError, match="it belongs to another run: train"):
            run(other)
