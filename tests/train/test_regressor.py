"""The regressor for scikit-learn: shapes of targets, quality, starting point."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_friedman1
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import StandardScaler

from cregkit.train import DivergenceError, RegularizedMLPRegressor

X, Y = make_friedman1(400, 6, random_state=0)
BOTH = np.stack([Y, X[:, 0]], axis=1)


def fitted(y=Y, **options):
    return RegularizedMLPRegressor(**{"epochs": 3, "random_state": 0, **options}).fit(X, y)


def test_it_learns_what_a_linear_model_does_not():
    model = TransformedTargetRegressor(
        RegularizedMLPRegressor(epochs=100, random_state=0), transformer=StandardScaler()
    ).fit(X, Y)
    assert LinearRegression().fit(X, Y).score(X, Y) < 0.8
    assert model.score(X, Y) > 0.95


def test_predictions_have_the_shape_of_the_targets():
    assert fitted().predict(X).shape == (400,)
    model = fitted(BOTH)
    assert model.predict(X).shape == (400, 2)
    assert model.n_outputs_ == 2
    assert model.predict(X).dtype == np.float64
    assert model.out_activation_ == "identity"
    with pytest.warns(DataConversionWarning):
        column = fitted(Y[:, None])
    np.testing.assert_array_equal(column.predict(X), fitted().predict(X))
    assert fitted(BOTH[:, [0, 0]], early_stopping=True).validation_scores_[0] < 1


def test_the_memory_order_of_the_targets_does_not_matter():
    np.testing.assert_array_equal(fitted(np.asfortranarray(BOTH)).predict(X), fitted(BOTH).predict(X))


def test_the_output_biases_start_at_the_means_of_the_targets():
    model = fitted(BOTH + np.array([1e4, 0]), lr=0.0)
    np.testing.assert_allclose(model.network_.layers[-1].bias, [1e4 + Y.mean(), X[:, 0].mean()], rtol=1e-6)
    weight = np.r_[1, np.zeros(399)]
    model = RegularizedMLPRegressor(epochs=1, lr=0.0).fit(X, Y, sample_weight=weight)
    np.testing.assert_allclose(model.network_.layers[-1].bias, Y[:1], rtol=1e-6)


def test_the_loss_is_the_mean_squared_error_on_the_training_data():
    model = fitted(BOTH)
    np.testing.assert_allclose(model.loss_, np.square(model.predict(X) - BOTH.astype(np.float32)).mean(), rtol=1e-6)


def test_targets_that_float32_cannot_hold_are_refused():
    with pytest.raises(ValueError, match=r"y must be finite in float32, got 1e\+300"):
        fitted(np.where(np.arange(400) == 7, 1e300, Y))
    with pytest.raises(ValueError, match="y must have 1 outputs as in the first fit, got 2"):
        fitted().partial_fit(X, BOTH)


def test_predicting_before_a_fit_or_after_a_failed_one_is_an_error():
    model = RegularizedMLPRegressor(lr=1e30)
    with pytest.raises(NotFittedError):
        model.predict(X)
    with pytest.raises(DivergenceError, match="training diverged in epoch"):
        model.fit(X, Y)
    with pytest.raises(NotFittedError):
        model.predict(X)
    assert not hasattr(model, "n_features_in_")
