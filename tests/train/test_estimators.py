"""What the classifier and the regressor for scikit-learn share: scikit-learn's checks, sparse data, weights."""

from __future__ import annotations

import pickle
import threading
import warnings
from functools import partial

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")

from scipy import sparse  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402
from threadpoolctl import threadpool_info, threadpool_limits  # noqa: E402

from cregkit.augment import Augmentation, AugmentBatches, GaussianNoise  # noqa: E402
from cregkit.layers import BatchNorm, GroupNorm, Linear  # noqa: E402
from cregkit.train import DivergenceError, RegularizedMLPClassifier, RegularizedMLPRegressor  # noqa: E402
from cregkit.train.estimators import BLOCK  # noqa: E402
from cregkit.train.threads import one_thread  # noqa: E402

X, LABELS = load_digits(return_X_y=True)
X, LABELS = X[:300] / 16, LABELS[:300]
NUMBERS = X[:, :32].sum(axis=1) - X[:, 32:].sum(axis=1)
TARGETS = {RegularizedMLPClassifier: LABELS, RegularizedMLPRegressor: (NUMBERS - NUMBERS.mean()) / NUMBERS.std()}
KINDS = pytest.mark.parametrize("kind", TARGETS)


def made(kind, **options):
    return kind(**{"epochs": 3, "random_state": 0, **options})


def fitted(kind, X=X, sample_weight=None, **options):
    return made(kind, **options).fit(X, TARGETS[kind], sample_weight)


def outputs(estimator, X=X):
    return estimator.predict_log_proba(X) if hasattr(estimator, "predict_log_proba") else estimator.predict(X)


def same(first, second):
    np.testing.assert_array_equal(outputs(first), outputs(second))


# Batches of weighted and of repeated samples differ; scikit-learn's own stochastic estimators fail these checks too.
STOCHASTIC = {
    f"check_sample_weight_equivalence_on_{kind}_data": "stochastic: batches of repeated samples are other batches"
    for kind in ("dense", "sparse")
}
CONFIGURATIONS = [
    {},
    {"dropout": 0.2, "norm": "batch", "drop_connect": 0.1},
    {"early_stopping": True, "patience": 5, "tol": 1e-3, "lr": 0.02},
    {"warm_start": True, "norm": "rms"},
    {"hidden_sizes": (), "tol": 1e-4, "batch_size": 8, "lr": 0.02},
]


# They fit one estimator twice.
CONTINUED = dict.fromkeys(
    ("check_supervised_y_2d", "check_classifiers_multilabel_representation_invariance"), "a second fit continues"
)


@KINDS
@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_the_estimator_passes_the_checks_of_scikit_learn(kind, options):
    expected = {**STOCHASTIC, **(CONTINUED if options.get("warm_start") else {})}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Skipping check")  # checks of packages that are not installed
        warnings.simplefilter("ignore", ConvergenceWarning)
        results = check_estimator(kind(**{"epochs": 40, **options}), expected_failed_checks=expected)
    status = [result["status"] for result in results]
    assert status.count("passed") >= 45
    assert status.count("failed") == 0


@KINDS
@pytest.mark.parametrize("form", ["csr_array", "csc_array", "coo_array", "csr_matrix", "csc_matrix", "coo_matrix"])
def test_sparse_samples_give_the_bits_of_dense_samples(kind, form):
    samples = getattr(sparse, form)(X)
    estimator = fitted(kind, samples, early_stopping=True, dropout=0.2)
    same(estimator, fitted(kind, early_stopping=True, dropout=0.2))
    np.testing.assert_array_equal(outputs(estimator, samples), outputs(estimator))
    estimator.set_params(early_stopping=False).partial_fit(samples, TARGETS[kind])
    assert np.isfinite(outputs(estimator)).all()


@KINDS
def test_no_more_than_4096_sparse_rows_are_dense_at_once(kind, monkeypatch):
    samples = sparse.csr_array(np.eye(9000, 50))
    rows = []
    to_array = sparse.csr_array.toarray
    monkeypatch.setattr(sparse.csr_array, "toarray", lambda m, *a, **k: rows.append(m.shape[0]) or to_array(m, *a, **k))
    made(kind, epochs=1).fit(samples, np.arange(9000) % 3).predict(samples)
    assert max(rows) == 4096


@KINDS
def test_each_partial_fit_is_an_epoch_of_the_same_training(kind):
    options = {"dropout": 0.3, "norm": "batch"}
    steps = made(kind, **options)
    first = {"classes": np.unique(LABELS)} if kind is RegularizedMLPClassifier else {}
    for _ in range(3):
        steps.partial_fit(X, TARGETS[kind], **first)
    whole = fitted(kind, **options)
    same(steps, whole)
    assert steps.loss_curve_ == whole.loss_curve_
    assert (steps.n_iter_, whole.n_iter_, steps.t_, whole.t_) == (1, 3, 900, 900)
    same(pickle.loads(pickle.dumps(steps)).partial_fit(X, TARGETS[kind]), steps.partial_fit(X, TARGETS[kind]))


@KINDS
def test_partial_fit_refuses_other_data_and_stays_as_it_was(kind):
    estimator = fitted(kind)
    names, before = set(vars(estimator)), outputs(estimator)
    with pytest.raises(ValueError, match="3 features, but"):
        estimator.partial_fit(X[:, :3], TARGETS[kind])
    with pytest.raises(ValueError, match="y must"):
        estimator.partial_fit(X, np.zeros((300, 2), np.int64))
    assert not hasattr(estimator.set_params(early_stopping=True), "partial_fit")
    estimator.set_params(early_stopping=False)
    with pytest.raises(DivergenceError):
        estimator.partial_fit(X * 1e30, TARGETS[kind])
    np.testing.assert_array_equal(outputs(estimator), before)
    assert set(vars(estimator)) == names
    same(estimator.partial_fit(X, TARGETS[kind]), fitted(kind).partial_fit(X, TARGETS[kind]))


@KINDS
def test_a_warm_start_continues_from_the_present_network(kind):
    estimator = fitted(kind, warm_start=True)
    weight = estimator.network_.layers[0].weight.copy()
    estimator.set_params(lr=0.0).fit(X, TARGETS[kind])
    np.testing.assert_array_equal(estimator.network_.layers[0].weight, weight)
    assert (len(estimator.loss_curve_), estimator.n_iter_, estimator.t_) == (6, 3, 1800)
    estimator.set_params(lr=0.003).fit(X, TARGETS[kind])
    assert estimator.loss_ == estimator.loss_curve_[-1] < estimator.loss_curve_[2]
    before = outputs(estimator)
    with pytest.raises(ValueError, match=r"state does not fit.*0\.weight must be"):
        estimator.set_params(hidden_sizes=(3,)).fit(X, TARGETS[kind])
    np.testing.assert_array_equal(outputs(estimator), before)
    estimator.set_params(hidden_sizes=(64,), warm_start=False, epochs=1).fit(X, TARGETS[kind])
    assert len(estimator.loss_curve_) == 1


@KINDS
def test_a_weight_is_a_number_of_repetitions(kind):
    weight = np.arange(300) % 3
    options = {"batch_size": 1000, "epochs": 20, "lr": 0.001}  # one batch holds all samples
    weighted = fitted(kind, sample_weight=weight, **options)
    repeated = made(kind, **options).fit(X.repeat(weight, axis=0), TARGETS[kind].repeat(weight))
    np.testing.assert_allclose(outputs(weighted), outputs(repeated), atol=2e-4)
    assert abs(outputs(weighted) - outputs(fitted(kind, **options))).max() > 1e-2
    np.testing.assert_allclose(
        weighted.score(X, TARGETS[kind], weight), weighted.score(X.repeat(weight, axis=0), TARGETS[kind].repeat(weight))
    )
    same(fitted(kind, sample_weight=np.ones(300)), fitted(kind, sample_weight=2 * np.ones(300)))


@KINDS
def test_samples_of_weight_0_are_as_absent(kind):
    weight = np.where(np.arange(300) % 3, 0.5, 0)
    options = {"early_stopping": True, "norm": "batch"}
    some = made(kind, **options).fit(X[weight > 0], TARGETS[kind][weight > 0], weight[weight > 0])
    same(fitted(kind, sample_weight=weight, **options), some)


@KINDS
@pytest.mark.parametrize("width", [1, 3, 64, 1000])
def test_a_prediction_does_not_depend_on_the_samples_beside_it(kind, width):
    samples, others = np.random.default_rng(0).standard_normal((2, 300, width))
    estimator = made(kind, hidden_sizes=(50, 7)).fit(samples, TARGETS[kind])
    together = outputs(estimator, samples)
    np.testing.assert_array_equal(outputs(estimator, samples[:1]), together[:1])
    np.testing.assert_array_equal(outputs(estimator, samples[:200]), together[:200])
    np.testing.assert_array_equal(
        outputs(estimator, np.where(np.arange(300)[:, None] % 3, others, samples))[::3], together[::3]
    )


def rounds_by_place(network):
    """Whether BLAS rounds equal rows of a product in more than one way, for a layer of the network."""
    weights = [layer.weight for layer in network.layers if isinstance(layer, Linear)]
    random = np.random.default_rng(0)
    products = (
        np.tile(random.standard_normal(w.shape[1], np.float32), (BLOCK, 1)) @ w.T for w in weights for _ in range(16)
    )
    return any((y != y[0]).any() for y in products)


@KINDS
@pytest.mark.parametrize("width", [1, 3, 64, 1000])
def test_a_prediction_depends_on_the_place_of_its_sample_by_rounding_alone(kind, width):
    samples = np.random.default_rng(0).standard_normal((300, width))
    estimator = made(kind, hidden_sizes=(50, 7)).fit(samples, TARGETS[kind])
    together = outputs(estimator, samples)
    alone = np.concatenate([outputs(estimator, samples[i : i + 1]) for i in range(0, 300, 13)])
    reversed_ = outputs(estimator, samples[::-1])[::-1]
    with one_thread():
        error = 1e-6 if rounds_by_place(estimator.network_) else 0
    np.testing.assert_allclose(alone, together[::13], rtol=0, atol=error)
    np.testing.assert_allclose(reversed_, together, rtol=0, atol=error)


@KINDS
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-np.ones(300), "sample_weight and class_weight must be at least 0"),
        (np.zeros(300), "(?i)sample.weight"),
        (np.ones(3), "sample_weight"),
    ],
)
def test_wrong_sample_weights_are_refused(kind, weight, message):
    with pytest.raises(ValueError, match=message):
        fitted(kind, sample_weight=weight)


@KINDS
def test_sample_weights_are_routed_through_a_search(kind):
    weight = np.linspace(0, 1, 300)
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = made(kind).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        estimator.set_partial_fit_request(sample_weight=True)
        search = GridSearchCV(estimator, {"dropout": [0.0]}, cv=2).fit(X, TARGETS[kind], sample_weight=weight)
    same(search.best_estimator_, fitted(kind, sample_weight=weight))


@KINDS
def test_training_stops_when_the_loss_no_longer_improves_by_tol(kind):
    estimator = fitted(kind, epochs=500, tol=0.01, patience=4)
    curve = np.array(estimator.loss_curve_)
    assert estimator.n_iter_ == len(curve) < 500
    assert curve[-5] - 0.01 <= curve[-4:].min()
    with pytest.warns(ConvergenceWarning, match="did not converge in epochs=3: train_loss"):
        fitted(kind, tol=0.0)
    with pytest.warns(ConvergenceWarning, match="test_loss"):
        fitted(kind, tol=0.0, early_stopping=True)
    for tol, error in ((-1.0, ValueError), ("small", TypeError)):
        with pytest.raises(error, match="tol must be"):
            fitted(kind, tol=tol)


@KINDS
def test_the_validation_score_is_that_of_the_restored_network(kind):
    estimator = fitted(kind, epochs=60, early_stopping=True, patience=5, validation_fraction=0.5, lr=0.03, tol=0.0)
    best = int(np.argmin(estimator.history_.test_loss))
    assert len(estimator.validation_scores_) == estimator.n_iter_ < 60
    assert estimator.best_validation_score_ == estimator.validation_scores_[best]
    if kind is RegularizedMLPClassifier:
        np.testing.assert_allclose(estimator.validation_scores_, np.array(estimator.history_.test_acc) / 100)
    assert fitted(kind).validation_scores_ is fitted(kind).best_validation_score_ is None


@KINDS
def test_a_callback_augments_the_batches_and_is_not_changed(kind):
    hook = AugmentBatches(Augmentation(GaussianNoise(0.5), seed=1))
    estimator = fitted(kind, augment=hook)
    assert estimator.augment is hook
    same(estimator, fitted(kind, augment=hook))
    assert (outputs(estimator) != outputs(fitted(kind))).any()
    fitted(kind, augment=hook, sample_weight=np.ones(300))
    with pytest.raises(TypeError, match=r"augment must be a Callback .*got str 'flip'"):
        fitted(kind, augment="flip")


@KINDS
def test_l1_and_max_norm_limit_the_weights(kind):
    weights = [fitted(kind, **options).network_.layers[0].weight for options in ({}, {"l1": 0.5}, {"max_norm": 0.25})]
    assert (weights[0] != 0).all()
    assert (weights[1] == 0).mean() > 0.1
    norms = [np.linalg.norm(weight.astype(np.float64), axis=1).max() for weight in weights]
    assert norms[2] <= 0.25 * (1 + 1e-6) < norms[0]
    for name in ("l1", "max_norm"):
        with pytest.raises(ValueError, match=name):
            fitted(kind, **{name: -1.0})


@KINDS
def test_norm_may_be_a_function(kind):
    assert isinstance(fitted(kind, norm=partial(GroupNorm, 4)).network_.layers[1], GroupNorm)
    same(fitted(kind, norm=BatchNorm), clone(fitted(kind, norm="batch")).fit(X, TARGETS[kind]))
    with pytest.raises(ValueError, match="norm must be None or one of"):
        fitted(kind, norm="group")


@KINDS
def test_the_bits_do_not_depend_on_threads(kind):
    wide = np.random.default_rng(0).standard_normal((300, 1000))  # several BLAS threads round its products otherwise
    found = []
    for n in (1, 2, 4):
        with threadpool_limits(n, "blas"):
            estimator = fitted(kind, wide, batch_size=200)
            found.append(outputs(estimator, wide))
            assert {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"} == {n}
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_blas_keeps_one_thread_until_the_last_block_ends():
    def blas():
        return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}

    began, end = threading.Event(), threading.Event()

    def hold():
        with one_thread():
            began.set()
            end.wait()

    other = threading.Thread(target=hold, daemon=True)
    with threadpool_limits(2, "blas"):
        with one_thread():
            other.start()
            began.wait()
        assert blas() == {1}
        end.set()
        other.join()
        assert blas() == {2}


@KINDS
def test_a_search_in_processes_finds_the_same(kind):
    pipeline = make_pipeline(StandardScaler(), made(kind, dropout=0.1))
    grid = {f"{kind.__name__.lower()}__norm": [None, "batch"]}
    one, two = (GridSearchCV(pipeline, grid, cv=2, n_jobs=n).fit(X, TARGETS[kind]) for n in (1, 2))
    np.testing.assert_array_equal(one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"])
    same(one.best_estimator_, two.best_estimator_)
    same(pickle.loads(pickle.dumps(one)), one)


@KINDS
def test_the_columns_of_a_pandas_frame_are_known_by_name(kind):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    check_frame(kind, pandas.DataFrame(X, columns=[f"p{i}" for i in range(64)]), pandas.Series(TARGETS[kind]))


@KINDS
def test_the_columns_of_a_polars_frame_are_known_by_name(kind):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    check_frame(kind, polars.DataFrame({f"p{i}": X[:, i] for i in range(64)}), polars.Series(TARGETS[kind]))


def check_frame(kind, frame, y):
    estimator = made(kind).fit(frame, y)
    assert estimator.feature_names_in_.tolist() == list(frame.columns)
    np.testing.assert_array_equal(outputs(estimator, frame), outputs(fitted(kind)))
    assert estimator.score(frame, y) == fitted(kind).score(X, TARGETS[kind])
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.predict(frame[list(frame.columns)[::-1]])
