"""The classifier for scikit-learn: searches, labels, weights of classes, parameters, divergence."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from support import run_python

sklearn = pytest.importorskip("sklearn")

from scipy.sparse import csr_array, csr_matrix  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.exceptions import FitFailedWarning, NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

from cregkit.layers import BatchNorm, DropConnect, Dropout, LayerNorm, Linear, ReLU, RMSNorm  # noqa: E402
from cregkit.train import DivergenceError, RegularizedMLPClassifier  # noqa: E402

X, Y = load_digits(return_X_y=True)
X, Y = X[:300] / 16, Y[:300]


def _fitted(**options):
    return RegularizedMLPClassifier(**{"epochs": 3, "random_state": 0, **options}).fit(X, Y)


def test_a_grid_search_tries_dropout_weight_decay_and_norm():
    grid = {"dropout": [0.0, 0.4], "weight_decay": [0.0, 0.1], "norm": [None, "batch", "layer", "rms"]}
    estimator = RegularizedMLPClassifier((16,), epochs=12, lr=0.01, random_state=0)
    search = GridSearchCV(estimator, grid, cv=2).fit(X, Y)
    scores = search.cv_results_["mean_test_score"]
    assert len(scores) == 16
    assert len(set(scores)) > 8  # the parameters reach the network
    assert search.best_score_ > 0.8
    assert search.best_estimator_.get_params()["norm"] == search.best_params_["norm"]


def test_it_learns_labels_of_any_type_in_a_pipeline():
    names = np.array(["zero", "one"], dtype=object)[(Y > 4).astype(int)]
    pipeline = make_pipeline(StandardScaler(), RegularizedMLPClassifier(epochs=30, random_state=0)).fit(X, names)
    assert pipeline.score(X, names) > 0.95
    assert set(pipeline.predict(X)) == {"zero", "one"}
    probability = pipeline.predict_proba(X)
    assert probability.shape == (300, 2)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(pipeline.classes_[probability.argmax(axis=1)], pipeline.predict(X))


def test_the_parameters_set_the_layers():
    def kinds(**options):
        return [type(layer) for layer in _fitted(epochs=1, **options).network_.layers]

    assert kinds() == [Linear, ReLU, Linear]
    assert kinds(hidden_sizes=()) == [Linear]
    block = [Linear, BatchNorm, ReLU, Dropout]
    assert kinds(hidden_sizes=(8, 4), norm="batch", dropout=0.5) == [*block, *block, Linear]
    assert kinds(hidden_sizes=(8,), drop_connect=0.5) == [DropConnect, ReLU, Linear]
    assert kinds(norm="layer")[1] is LayerNorm
    assert kinds(norm="rms")[1] is RMSNorm


def test_a_seed_gives_the_same_bits():
    first, second = (_fitted(dropout=0.3).predict_proba(X) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (_fitted(dropout=0.3, random_state=1).predict_proba(X) != first).any()
    np.testing.assert_array_equal(clone(_fitted(dropout=0.3)).fit(X, Y).predict_proba(X), first)
    assert (_fitted(dropout=0.3, label_smoothing=0.5).predict_proba(X) != first).any()


def test_initial_weights_do_not_depend_on_the_regularisation():
    regularised = {"dropout": 0.5, "norm": "layer", "drop_connect": 0.5}
    plain, other = (_fitted(lr=0.0, **options).network_ for options in ({}, regularised))
    np.testing.assert_array_equal(plain.layers[0].weight, other.layers[0].weight)
    np.testing.assert_array_equal(plain.layers[-1].weight, other.layers[-1].weight)


def test_early_stopping_holds_out_samples_and_keeps_the_best_epoch():
    classifier = _fitted(epochs=300, early_stopping=True, patience=3, lr=0.03, validation_fraction=0.2)
    losses = classifier.history_.test_loss
    assert classifier.n_iter_ == len(losses) == int(np.argmin(losses)) + 4 < 300
    whole = _fitted()
    assert whole.n_iter_ == 3
    assert np.isnan(whole.history_.test_loss).all()


def test_probabilities_and_their_logarithms_agree():
    classifier = _fitted()
    np.testing.assert_allclose(np.exp(classifier.predict_log_proba(X)), classifier.predict_proba(X), rtol=1e-12)
    classifier.network_.layers[-1].weight *= 1e4
    assert (classifier.predict_proba(X) == 0).any()
    assert np.isfinite(classifier.predict_log_proba(X)).all()


@pytest.mark.parametrize("labels", [Y.astype(str), Y > 4, Y * 1000 - 5, Y.astype(np.uint8), Y * 1.0])
def test_labels_of_every_type_give_the_same_network(labels):
    classifier = RegularizedMLPClassifier(epochs=3, random_state=0).fit(X, labels)
    assert classifier.classes_.dtype == labels.dtype
    np.testing.assert_array_equal(classifier.classes_, np.unique(labels))
    assert classifier.predict(X).dtype == labels.dtype
    if len(classifier.classes_) == 10:
        codes = _fitted().predict_proba(X)
        np.testing.assert_array_equal(classifier.predict_proba(X)[:, np.argsort(np.unique(labels.astype(str)))], codes)


INDICATOR = np.stack([Y % 2, Y > 4, Y == 3], axis=1).astype(int)


def test_a_sample_may_have_several_labels():
    classifier = RegularizedMLPClassifier(epochs=60, random_state=0).fit(X, INDICATOR)
    assert (classifier.out_activation_, classifier.n_outputs_, classifier.classes_.tolist()) == (
        "logistic",
        3,
        [0, 1, 2],
    )
    assert classifier.score(X, INDICATOR) == (classifier.predict(X) == INDICATOR).all(axis=1).mean() > 0.95
    probability = classifier.predict_proba(X)
    np.testing.assert_array_equal(probability > 0.5, classifier.predict(X))
    np.testing.assert_allclose(np.exp(classifier.predict_log_proba(X)), probability, rtol=1e-12)
    for other in (INDICATOR.astype(bool), csr_array(INDICATOR), csr_matrix(INDICATOR)):
        again = RegularizedMLPClassifier(epochs=60, random_state=0).fit(X, other)
        np.testing.assert_array_equal(again.predict_proba(X), probability)
    early = RegularizedMLPClassifier(epochs=5, early_stopping=True, random_state=0).fit(X, INDICATOR)
    assert len(early.validation_scores_) == 5
    steps = RegularizedMLPClassifier(random_state=0).partial_fit(X, INDICATOR, classes=[0, 1, 2])
    assert steps.partial_fit(X[:9], INDICATOR[:9]).predict(X).shape == (300, 3)
    with pytest.raises(ValueError, match="y must have 3 columns, one per label, got 2"):
        steps.partial_fit(X, INDICATOR[:, :2])
    with pytest.raises(ValueError, match="y must be an indicator matrix, as in the first fit, got multiclass"):
        steps.partial_fit(X, Y)
    with pytest.raises(ValueError, match=r"y must be labels or an indicator matrix .*multiclass-multioutput"):
        steps.fit(X, np.stack([Y, Y], axis=1))


def test_class_weights_multiply_sample_weights():
    weight = np.where(Y == 8, 5.0, 1.0)
    by_sample = RegularizedMLPClassifier(epochs=3, random_state=0).fit(X, Y, weight).predict_proba(X)
    np.testing.assert_array_equal(_fitted(class_weight={8: 5}).predict_proba(X), by_sample)
    half = RegularizedMLPClassifier(epochs=3, random_state=0, class_weight={8: 10}).fit(X, Y, np.full(300, 0.5))
    np.testing.assert_array_equal(
        half.predict_proba(X),
        RegularizedMLPClassifier(epochs=3, random_state=0).fit(X, Y, np.where(Y == 8, 5, 0.5)).predict_proba(X),
    )
    balanced = dict(zip(np.unique(Y), len(Y) / (10 * np.bincount(Y)), strict=True))
    np.testing.assert_array_equal(
        _fitted(class_weight="balanced").predict_proba(X), _fitted(class_weight=balanced).predict_proba(X)
    )
    rare = np.where(Y == 8, 8, 0)[:60]
    plain, heavy = (
        RegularizedMLPClassifier((), epochs=5, class_weight=w, random_state=0).fit(X[:60], rare)
        for w in (None, "balanced")
    )
    assert (heavy.predict(X[:60]) == 8).sum() > (plain.predict(X[:60]) == 8).sum()
    with pytest.raises(ValueError, match="class_weight must be a mapping for partial_fit"):
        RegularizedMLPClassifier(class_weight="balanced").partial_fit(X, Y, classes=np.unique(Y))


def test_partial_fit_needs_all_classes_once():
    classifier = RegularizedMLPClassifier(random_state=0)
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        classifier.partial_fit(X, Y)
    with pytest.raises(ValueError, match=r"y must have only the classes \[0 1\]"):
        classifier.partial_fit(X, Y, classes=[0, 1])
    assert not hasattr(classifier, "classes_")
    few = Y < 5
    classifier.partial_fit(X[few], Y[few], classes=np.arange(10))
    assert classifier.predict_proba(X).shape == (300, 10)
    classifier.partial_fit(X, Y)
    with pytest.raises(ValueError, match="is not the same as on last call"):
        classifier.partial_fit(X, Y, classes=[0, 1])


def test_a_warm_start_needs_the_same_classes():
    classifier = _fitted(warm_start=True)
    for labels in (Y + 1, np.where(Y == 9, 0, Y)):
        with pytest.raises(ValueError, match=r"y must have the classes \[0 1 2"):
            classifier.fit(X, labels)
    classifier.fit(X, Y)
    assert len(classifier.loss_curve_) == 6


def test_its_probabilities_can_be_calibrated():
    calibrated = CalibratedClassifierCV(RegularizedMLPClassifier(epochs=10, random_state=0), cv=2).fit(X, Y)
    assert calibrated.score(X, Y) > 0.9


def test_a_pickled_estimator_predicts_the_same():
    classifier = _fitted(norm="batch", dropout=0.2)
    loaded = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(loaded.predict_proba(X), classifier.predict_proba(X))


DIVERGING = {"lr": 1e30, "random_state": 0}


@pytest.mark.parametrize("options", [{}, {"norm": "batch"}, {"dropout": 0.3}, {"early_stopping": True}, {"epochs": 2}])
def test_a_fit_that_diverges_is_an_error_and_changes_nothing(options):
    classifier = _fitted(**options)
    before = classifier.predict_proba(X)
    classifier.set_params(**{**DIVERGING, **options})
    with pytest.raises(
        DivergenceError, match=r"training diverged in epoch \d+, step \d+.* smaller than 1e\+30"
    ) as caught:
        classifier.fit(X, Y > 4)
    assert isinstance(caught.value, ValueError)
    np.testing.assert_array_equal(classifier.predict_proba(X), before)
    assert len(classifier.classes_) == before.shape[1]


def test_a_search_gives_a_diverged_fit_its_error_score():
    grid = {"lr": [0.01, 1e30]}
    search = GridSearchCV(RegularizedMLPClassifier(epochs=5, random_state=0), grid, cv=2, error_score=-1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitFailedWarning)
        search.fit(X, Y)
    assert search.cv_results_["mean_test_score"][1] == -1
    assert search.best_params_ == {"lr": 0.01}


def test_samples_too_large_for_the_network_are_refused():
    classifier = _fitted()
    samples = X.copy()
    samples[7] = 3e38
    for method in (classifier.predict, classifier.predict_proba):
        with pytest.raises(DivergenceError, match=r"X must hold values of about unit size, got 3e\+38 in row 7"):
            method(samples)


MISTAKES = [
    ({"hidden_sizes": 64}, TypeError, "hidden_sizes must be a tuple of ints, got int"),
    ({"hidden_sizes": (0,)}, ValueError, "hidden_sizes"),
    ({"dropout": 2}, ValueError, "dropout"),
    ({"drop_connect": 2}, ValueError, "drop_connect"),
    ({"norm": "group"}, ValueError, "norm must be None or one of"),
    ({"weight_decay": -1}, ValueError, "weight_decay"),
    ({"lr": "fast"}, TypeError, "lr"),
    ({"epochs": 0}, ValueError, "epochs"),
    ({"batch_size": 0}, ValueError, "batch_size"),
    ({"label_smoothing": 2}, ValueError, "label_smoothing"),
    ({"early_stopping": True, "patience": 0}, ValueError, "patience"),
    ({"early_stopping": True, "validation_fraction": 3.0}, ValueError, "validation_fraction"),
    ({"early_stopping": True, "validation_fraction": 0}, ValueError, "validation_fraction must be above 0 .* got 0"),
    ({"early_stopping": True, "validation_fraction": 1.0}, ValueError, r"validation_fraction .* below 1, got 1\.0"),
]


@pytest.mark.parametrize(("options", "error", "named"), MISTAKES)
def test_wrong_parameters_are_refused_by_name(options, error, named):
    with pytest.raises(error, match=named):
        _fitted(**options)


def test_predicting_before_a_fit_is_an_error():
    for method in ("predict", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(RegularizedMLPClassifier(), method)(X)


def test_predicting_after_a_first_fit_that_diverged_is_an_error():
    classifier = RegularizedMLPClassifier(**DIVERGING)
    with pytest.raises(DivergenceError):
        classifier.fit(X, Y)
    for method in ("predict", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(classifier, method)(X)


def test_without_scikit_learn_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import cregkit.train\n"
        "assert 'sklearn.base' not in sys.modules\n"
        "try:\n    cregkit.train.RegularizedMLPClassifier\n"
        "except ImportError as error: print(error)"
    )
    result = run_python("-c", code)
    assert "needs scikit-learn" in result.stdout, result.stderr
    assert "pip install 'cregkit[lab]'" in result.stdout


def test_importing_the_package_does_not_import_scikit_learn():
    result = run_python("-c", "import sys, cregkit.train; print('sklearn' in sys.modules)")
    assert result.stdout == "False\n", result.stderr
