"""A scikit-learn classifier built on ``fit``."""

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
from cregkit.train.data import Data
from cregkit.train.divergence import DivergenceError, DivergenceWarning
from cregkit.train.early_stopping import EarlyStopping
from cregkit.train.evaluation import predict
from cregkit.train.fit import fit
from cregkit.train.losses import softmax_cross_entropy
from cregkit.train.optimizers import AdamW


class RegularizedMLPClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Multi-layer perceptron with selectable regularisation, as a scikit-learn estimator.

    Linear -> [norm] -> ReLU -> [Dropout] for each hidden size, then Linear to one logit per class, trained by AdamW on
    the softmax cross-entropy. Works in ``Pipeline``, ``GridSearchCV`` and ``cross_val_score``. Data are cast to
    float32, the dtype of the layers; scale features to about unit variance first (``StandardScaler``).

    Parameters
    ----------
    hidden_sizes
        Neurons of each hidden layer, from first to last; () gives logistic regression.
    dropout
        Dropout probability of the hidden neurons, in [0, 1].
    weight_decay
        Decoupled weight decay, at least 0; biases, gamma and beta do not decay.
    norm
        Normalisation before each ReLU: None, ``"batch"``, ``"layer"`` or ``"rms"``.
    lr
        Learning rate of AdamW.
    epochs
        Number of epochs, or its maximum with ``early_stopping``.
    batch_size
        Samples per step.
    label_smoothing
        Label smoothing, in [0, 1].
    early_stopping
        Whether to hold out a part of the data, stop when its loss has not decreased for ``patience`` epochs, and
        restore the weights of the best epoch.
    patience
        Epochs without improvement before stopping, at least 1.
    validation_fraction
        Fraction held out, in (0, 1); stratified by class where the classes are large enough.
    random_state
        An int, a ``numpy.random.RandomState`` or None: source of the initial weights, sample order, dropout masks and
        held-out samples.

    Attributes
    ----------
    classes_ : array, shape (n_classes,)
        Sorted labels.
    n_features_in_ : int
        Number of features seen in ``fit``; ``feature_names_in_`` holds their names, if they have any.
    network_ : Sequential
        The trained network, in evaluation mode.
    history_ : History
        Metrics per epoch; test metrics are those of the held-out part, NaN without early stopping.
    n_iter_ : int
        Number of epochs run.

    Raises
    ------
    TypeError
        From ``fit``: a parameter or the data have the wrong type.
    ValueError
        From ``fit``: a parameter or the data have the wrong value.
    DivergenceError
        From ``fit``: training diverged. From ``predict`` and ``predict_proba``: values in ``X`` are so large that the
        outputs are not finite. It is a ValueError.

    Examples
    --------
    >>> from cregkit.train import RegularizedMLPClassifier
    >>> X, y = [[-2.0], [-1.0], [1.0], [2.0]], ["low", "low", "high", "high"]
    >>> classifier = RegularizedMLPClassifier((8,), epochs=50, random_state=0).fit(X, y)
    >>> classifier.predict([[-1.5], [1.5]]).tolist()
    ['low', 'high']
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
        """Store the parameters; ``fit`` validates them."""
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
        """Train the classifier.

        Parameters
        ----------
        X : shape (n_samples, n_features)
            Features.
        y : shape (n_samples,)
            Labels.

        Returns
        -------
        RegularizedMLPClassifier
            The estimator itself.
        """
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
            raise KeyboardInterrupt  # ends a search over parameters too
        if history.diverged is not None:
            raise DivergenceError(
                f"training diverged in {history.diverged}; use an lr smaller than {self.lr}, or scale the features to "
                "about unit variance, for example with StandardScaler"
            )
        self.classes_, self.network_, self.history_, self.n_iter_ = classes, network, history, len(history)
        return self

    def _network(self, n_features: int, n_classes: int, rng: np.random.Generator) -> Sequential:
        """Return the untrained network; weights are drawn first, so they do not depend on dropout and norm."""
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
        """Split the data into a training part and, with early stopping, a held-out part."""
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
        check_is_fitted(self, "network_")  # a failed fit sets n_features_in_ but not network_
        X = validate_data(self, X, dtype=np.float32, order="C", reset=False)
        with np.errstate(over="ignore", invalid="ignore"):
            logits = predict(self.network_, X)
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            row = int(finite.argmin())
            raise DivergenceError(
                f"X must hold values of about unit size, got {np.abs(X[row]).max():g} in row {row}, for which the "
                "network's outputs are not finite"
            )
        return logits

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the class probabilities.

        Parameters
        ----------
        X : shape (n_samples, n_features)
            Features.

        Returns
        -------
        array, shape (n_samples, n_classes)
            Probabilities, in the order of ``classes_``.
        """
        logits = self._logits(X).astype(np.float64)
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: NDArray[np.float64] = e / e.sum(axis=1, keepdims=True)
        return probabilities

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable label of each sample.

        Parameters
        ----------
        X : shape (n_samples, n_features)
            Features.

        Returns
        -------
        array, shape (n_samples,)
            Labels.
        """
        logits = self._logits(X)  # before classes_: raises NotFittedError if the estimator is not fitted
        labels: NDArray[Any] = self.classes_[logits.argmax(axis=1)]
        return labels
