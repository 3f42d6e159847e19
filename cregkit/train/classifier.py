"""A scikit-learn classifier over the fit loop."""

from __future__ import annotations

import functools
import itertools
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("RegularizedMLPClassifier needs scikit-learn 1.6 or newer: pip install 'cregkit[lab]'") from error

from cregkit import _validate as validate
from cregkit.layers import Dropout, Layer, Linear, ReLU, Sequential
from cregkit.layers.base import Array
from cregkit.layers.norms import norm_layers
from cregkit.train.divergence import DivergenceError, DivergenceWarning
from cregkit.train.early_stopping import EarlyStopping
from cregkit.train.evaluation import Data, predict
from cregkit.train.fit import fit
from cregkit.train.losses import softmax_cross_entropy
from cregkit.train.optimizers import AdamW


class RegularizedMLPClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Multi-layer perceptron with the regularisation of your choice, as a scikit-learn estimator.

    (Linear -> [norm] -> ReLU -> [Dropout]) for each hidden size, then Linear to one logit per class; trained by AdamW
    on the softmax cross-entropy. Works in ``Pipeline``, ``GridSearchCV`` and ``cross_val_score``. Data are cast to
    float32, as that is what the layers compute in; scale features to about unit size first (``StandardScaler``).

    Args:
        hidden_sizes: neurons of each hidden layer, from the first to the last; () gives logistic regression.
        dropout: probability of dropping a hidden neuron in training, in [0, 1].
        weight_decay: decoupled decay of the weights, at least 0; biases, gamma and beta do not decay.
        norm: None, "batch", "layer" or "rms": the normalisation before each ReLU.
        lr: step size of AdamW.
        epochs: how often to go through the data, at most if ``early_stopping``.
        batch_size: samples per step.
        label_smoothing: in [0, 1].
        early_stopping: hold out a part of the data, stop when the loss on it has not got lower for ``patience``
            epochs, and keep the best epoch's weights.
        patience: see ``early_stopping``.
        validation_fraction: the part held out, in (0, 1), class by class where they are large enough.
        random_state: int, ``numpy.random.RandomState`` or None: initial weights, order of the samples, dropout masks
            and what is held out.

    Attributes:
        classes_: the labels, sorted.
        n_features_in_: features seen in ``fit``; ``feature_names_in_`` has their names if they have any.
        network_: the trained ``Sequential``, in evaluation mode.
        history_: the ``History``; its test figures are those of the part held out, NaN without early stopping.
        n_iter_: epochs run.

    Raises:
        TypeError, ValueError: from ``fit``: a parameter or the data have the wrong type or value.
        DivergenceError: a ValueError, from ``fit``: the training diverged, so there is no answer; from ``predict`` and
            ``predict_proba``: ``X`` holds numbers so large that the network's outputs are not finite.
    """

    def __init__(
        self,
        hidden_sizes: tuple[int, ...] = (64,),
        *,
        dropout: float = 0.0,
        weight_decay: float = 0.01,
        norm: str | None = None,
        lr: float = 0.003,
        epochs: int = 100,
        batch_size: int = 32,
        label_smoothing: float = 0.0,
        early_stopping: bool = False,
        patience: int = 20,
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        """Keep the parameters; ``fit`` checks them."""
        self.hidden_sizes = hidden_sizes
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.norm = norm
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.label_smoothing = label_smoothing
        self.early_stopping = early_stopping
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> RegularizedMLPClassifier:
        """Train on ``X``, numbers of shape (n_samples, n_features), and labels ``y`` of shape (n_samples,)."""
        X, y = validate_data(self, X, y, dtype=np.float32, order="C")
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        random = check_random_state(self.random_state)
        seeds = np.random.SeedSequence(random.randint(2**32, size=4, dtype=np.uint32).tolist())
        train, held_out = self._split((X, codes), random)
        network = self._network(X.shape[1], len(classes), np.random.default_rng(seeds.spawn(1)[0]))
        optimizer = AdamW(network, self.lr, weight_decay=self.weight_decay)
        loss = functools.partial(softmax_cross_entropy, label_smoothing=self.label_smoothing)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergenceWarning)  # it becomes an error below
            history = fit(
                network,
                loss,
                optimizer,
                train,
                held_out,
                self.epochs,
                batch_size=self.batch_size,
                seed=seeds,
                callbacks=[EarlyStopping(self.patience)] if self.early_stopping else (),
            )
        if history.interrupted:
            raise KeyboardInterrupt  # so that a search over parameters ends too
        if history.diverged is not None:
            raise DivergenceError(
                f"training diverged in {history.diverged}; lr must be smaller than {self.lr}, or the features scaled "
                "to about unit size, for instance by StandardScaler"
            )
        self.classes_, self.network_, self.history_, self.n_iter_ = classes, network, history, len(history)
        return self

    def _network(self, n_features: int, n_classes: int, rng: np.random.Generator) -> Sequential:
        """Return the untrained network. Weights are drawn first, so they do not depend on dropout and norm."""
        if not isinstance(self.hidden_sizes, (tuple, list)):
            raise TypeError(f"hidden_sizes must be a tuple of ints, got {validate.shown(self.hidden_sizes)}")
        sizes = [n_features, *(validate.positive_int("hidden_sizes", size) for size in self.hidden_sizes)]
        dropout = validate.real("dropout", self.dropout, 0, 1)
        hidden = [Linear(*ends, seed=rng) for ends in itertools.pairwise(sizes)]
        last = Linear(sizes[-1], n_classes, seed=rng)
        layers: list[Layer] = []
        for linear, size in zip(hidden, sizes[1:], strict=True):
            layers += [linear, *norm_layers(self.norm, size), ReLU()]
            if dropout > 0:
                layers.append(Dropout(dropout, seed=rng))
        return Sequential(*layers, last)

    def _split(self, data: Data, random: np.random.RandomState) -> tuple[Data, Data | None]:
        """Return what to train on and what to hold out, if anything."""
        if not self.early_stopping:
            return data, None
        if not 0 < validate.real("validation_fraction", self.validation_fraction, 0, 1) < 1:
            raise ValueError(f"validation_fraction must be above 0 and below 1, got {self.validation_fraction}")
        X, codes = data
        held_out = round(self.validation_fraction * len(X))
        of_class = np.bincount(codes)
        balanced = of_class.min() >= 2 and min(held_out, len(X) - held_out) >= len(of_class)
        X_train, X_test, codes_train, codes_test = train_test_split(
            X, codes, test_size=self.validation_fraction, random_state=random, stratify=codes if balanced else None
        )
        return (X_train, codes_train), (X_test, codes_test)

    def _logits(self, X: Any) -> Array:
        check_is_fitted(self, "network_")  # a fit that failed leaves n_features_in_
        X = validate_data(self, X, dtype=np.float32, order="C", reset=False)
        with np.errstate(over="ignore", invalid="ignore"):
            logits = predict(self.network_, X)
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            row = int(finite.argmin())
            raise DivergenceError(
                f"X must hold numbers of about unit size, got up to {np.abs(X[row]).max():g} in row {row}, for which "
                "the network's outputs are not finite"
            )
        return logits

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each class, in the order of ``classes_``: shape (n_samples, n_classes)."""
        logits = self._logits(X).astype(np.float64)
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: NDArray[np.float64] = e / e.sum(axis=1, keepdims=True)
        return probabilities

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable label of each sample: shape (n_samples,)."""
        logits = self._logits(X)  # before classes_, so that an estimator that was not fitted says so
        labels: NDArray[Any] = self.classes_[logits.argmax(axis=1)]
        return labels
