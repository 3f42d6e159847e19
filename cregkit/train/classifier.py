"""A scikit-learn classifier built on ``fit``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets, type_of_target

from cregkit.layers.base import Array
from cregkit.train.callbacks import Callback
from cregkit.train.estimators import Norm, RegularizedMLP, takes_parts
from cregkit.train.losses import Loss, binary_cross_entropy, softmax_cross_entropy


class RegularizedMLPClassifier(ClassifierMixin, RegularizedMLP):  # type: ignore[misc]
    """Multi-layer perceptron with selectable regularisation, as a scikit-learn estimator.

    Linear -> [norm] -> ReLU -> [Dropout] for each hidden size, then Linear to one logit per class, trained by AdamW on
    the softmax cross-entropy; for several labels per sample (``y`` is an indicator matrix) on the binary cross-entropy.
    Works in ``Pipeline``, ``GridSearchCV`` and ``cross_val_score``. Data are cast to float32, the dtype of the layers;
    scale features to about unit variance first (``StandardScaler``). Fits and predictions use one thread, so the result
    does not depend on the number of threads; ``n_jobs`` of a search runs several fits at once.

    Parameters
    ----------
    hidden_sizes
        Neurons of each hidden layer, from first to last; () gives logistic regression.
    dropout
        Dropout probability of the hidden neurons, in [0, 1].
    drop_connect
        Probability of dropping a weight of the hidden layers (DropConnect), in [0, 1].
    weight_decay
        Decoupled weight decay, at least 0; biases, gamma and beta do not decay.
    l1
        Factor of the L1 penalty of the weights, at least 0; it makes weights exactly 0.
    max_norm
        Largest norm of the incoming weights of each neuron, or None.
    norm
        Normalisation before each ReLU: None, ``"batch"``, ``"layer"``, ``"rms"``, or a function from the number of
        features to a layer, such as ``partial(GroupNorm, 4)``.
    lr
        Learning rate of AdamW.
    epochs
        Number of epochs, or its maximum with ``tol`` or ``early_stopping``.
    batch_size
        Samples per step.
    tol
        Smallest decrease of the loss that counts as an improvement, at least 0. Training stops after ``patience``
        epochs without one, and restores the weights of the best epoch; if it ends before, there is a
        ConvergenceWarning. None: all epochs are run, and with ``early_stopping`` any decrease counts; no warning.
    early_stopping
        Whether to hold out a part of the data, stop when its loss has not decreased for ``patience`` epochs, and
        restore the weights of the best epoch. Without it, ``tol`` applies to the loss of the training data.
    patience
        Epochs without improvement before stopping, at least 1.
    validation_fraction
        Fraction held out, in (0, 1); stratified by class where the classes are large enough.
    warm_start
        Whether ``fit`` continues from the present network, with a new optimiser.
    augment
        Callback that changes each training batch, such as ``cregkit.augment.AugmentBatches``; each fit uses a copy.
    verbose
        Whether to show a progress bar, if stderr is a terminal.
    random_state
        An int, a ``numpy.random.RandomState`` or None: source of the initial weights, sample order, dropout masks and
        held-out samples.
    label_smoothing
        Label smoothing, in [0, 1].
    class_weight
        Weights of the classes in the loss, which multiply ``sample_weight``: a mapping from label to weight (1 for
        other labels), or ``"balanced"`` for n_samples / (n_classes * n_samples_of_class), or None. For several labels
        per sample: a list of one mapping per label, or ``"balanced"``; a sample has the product of its weights.

    Attributes
    ----------
    classes_ : array, shape (n_classes,)
        Sorted labels; for several labels per sample 0, 1, ...
    n_features_in_ : int
        Number of features seen in ``fit``; ``feature_names_in_`` holds their names, if they have any.
    n_outputs_ : int
        Number of outputs of the network.
    out_activation_ : str
        ``"softmax"``, or ``"logistic"`` for several labels per sample.
    network_ : Sequential
        The trained network, in evaluation mode.
    history_ : History
        Metrics per epoch of the last call; test metrics are those of the held-out part, NaN without early stopping.
    loss_curve_ : list of float
        Mean loss of the training data after each epoch, of all calls that continued one network.
    loss_ : float
        Its last value.
    validation_scores_ : list of float, or None
        ``score`` of the held-out part after each epoch of the last call; None without early stopping.
    best_validation_score_ : float, or None
        That of the epoch whose weights were restored, which had the smallest held-out loss.
    n_iter_ : int
        Number of epochs run in the last call.
    t_ : int
        Number of samples trained on, once per epoch, in all calls that continued one network.

    Raises
    ------
    TypeError
        From ``fit``: a parameter or the data have the wrong type.
    ValueError
        From ``fit``: a parameter or the data have the wrong value.
    DivergenceError
        From ``fit``: training diverged. From ``predict`` and its relatives: values in ``X`` are so large that the
        outputs are not finite. It is a ValueError. After an error, the estimator is as it was before.

    Examples
    --------
    >>> from cregkit.train import RegularizedMLPClassifier
    >>> X, y = [[-2.0], [-1.0], [1.0], [2.0]], ["low", "low", "high", "high"]
    >>> classifier = RegularizedMLPClassifier((8,), epochs=50, random_state=0).fit(X, y)
    >>> classifier.predict([[-1.5], [1.5]]).tolist()
    ['low', 'high']
    """

    _y_numeric = False

    def __init__(
        self,
        hidden_sizes: tuple[int, ...] = (64,),
        *,
        dropout: float = 0.0,
        drop_connect: float = 0.0,
        weight_decay: float = 0.01,
        l1: float = 0.0,
        max_norm: float | None = None,
        norm: Norm = None,
        lr: float = 0.003,
        epochs: int = 100,
        batch_size: int = 32,
        tol: float | None = None,
        early_stopping: bool = False,
        patience: int = 20,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        augment: Callback | None = None,
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
        label_smoothing: float = 0.0,
        class_weight: Mapping[Any, float] | list[Mapping[Any, float]] | str | None = None,
    ) -> None:
        """Store the parameters; ``fit`` validates them."""
        super().__init__(
            hidden_sizes,
            dropout=dropout,
            drop_connect=drop_connect,
            weight_decay=weight_decay,
            l1=l1,
            max_norm=max_norm,
            norm=norm,
            lr=lr,
            epochs=epochs,
            batch_size=batch_size,
            tol=tol,
            early_stopping=early_stopping,
            patience=patience,
            validation_fraction=validation_fraction,
            warm_start=warm_start,
            augment=augment,
            verbose=verbose,
            random_state=random_state,
        )
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight

    def __sklearn_tags__(self) -> Any:
        """Say that a sample may have several labels."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    @property
    def _multilabel(self) -> bool:
        return self.out_activation_ == "logistic"

    def _targets(self, y: NDArray[Any], known: bool, partial: bool) -> NDArray[Any]:
        """Return the class indices, or the indicator matrix in float32."""
        check_classification_targets(y)
        kind = type_of_target(y)
        multilabel = kind == "multilabel-indicator"
        if y.ndim == 2 and not multilabel:
            raise ValueError(f"y must be labels or an indicator matrix of 0 and 1, got {kind} of shape {y.shape}")
        if known and multilabel != self._multilabel:
            before = "an indicator matrix" if self._multilabel else "labels"
            raise ValueError(f"y must be {before}, as in the first fit, got {kind}")
        labels = np.arange(y.shape[1]) if multilabel else np.unique(y)
        if known or partial:
            self._check_labels(labels, partial or multilabel, multilabel)
        else:
            self.classes_ = labels
        self.n_outputs_, self.out_activation_ = len(self.classes_), "logistic" if multilabel else "softmax"
        return (y != 0).astype(np.float32) if multilabel else np.searchsorted(self.classes_, y)

    def _check_labels(self, labels: NDArray[Any], some: bool, multilabel: bool) -> None:
        """Raise unless the labels are those of ``classes_``, or ``some`` of them."""
        if multilabel:
            if len(labels) != len(self.classes_):
                raise ValueError(f"y must have {len(self.classes_)} columns, one per label, got {len(labels)}")
        elif not (np.isin(labels, self.classes_).all() and (some or len(labels) == len(self.classes_))):
            raise ValueError(f"y must have {'only ' if some else ''}the classes {self.classes_}, got {labels}")

    def _weights(self, y: NDArray[Any], sample_weight: NDArray[Any] | None, partial: bool) -> NDArray[Any] | None:
        """Return the products of the weights of the samples and of their classes."""
        if self.class_weight is None:
            return sample_weight
        if partial and isinstance(self.class_weight, str):
            raise ValueError(
                f"class_weight must be a mapping for partial_fit, which sees a part of the data, got "
                f"{self.class_weight!r}; use sklearn.utils.compute_class_weight on all labels"
            )
        of_class: NDArray[np.float64] = compute_sample_weight(self.class_weight, y)
        return of_class if sample_weight is None else of_class * sample_weight

    def _strata(self, targets: NDArray[Any], held_out: int) -> NDArray[Any] | None:
        """Return the classes if all are large enough for both parts."""
        if self._multilabel:
            return None
        of_class = np.bincount(targets)
        enough = of_class.min() >= 2 and min(held_out, len(targets) - held_out) >= len(of_class)
        return targets if enough else None

    def _loss(self) -> Loss:
        loss = binary_cross_entropy if self._multilabel else softmax_cross_entropy
        return functools.partial(loss, label_smoothing=self.label_smoothing)

    def _score(self, outputs: Array, targets: NDArray[Any], sample_weight: NDArray[Any] | None = None) -> float:
        found = outputs > 0 if self._multilabel else outputs.argmax(axis=1)
        return float(accuracy_score(targets, found, sample_weight=sample_weight))

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> RegularizedMLPClassifier:
        """Train the classifier; with ``warm_start``, a second fit continues from the present network.

        Parameters
        ----------
        X : shape (n_samples, n_features)
            Features: an array, a data frame, or a sparse matrix, of which the rows of a batch are made dense.
        y : shape (n_samples,) or (n_samples, n_labels)
            Labels, or an indicator matrix of 0 and 1, dense or sparse: each sample has any number of labels.
        sample_weight : shape (n_samples,)
            Weights of the samples in the loss, at least 0; None means 1.

        Returns
        -------
        RegularizedMLPClassifier
            The estimator itself.
        """
        with self._all_or_nothing():
            self._train(X, y, sample_weight)
        return self

    @available_if(takes_parts)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> RegularizedMLPClassifier:
        """Train for one more epoch, on these samples; the first call makes the network.

        Parameters
        ----------
        X : shape (n_samples, n_features)
            Features, as for ``fit``.
        y : shape (n_samples,) or (n_samples, n_labels)
            Labels, of which some may be missing, or an indicator matrix.
        sample_weight : shape (n_samples,)
            Weights of the samples in the loss, at least 0; None means 1.
        classes : shape (n_classes,)
            All labels of all calls; needed in the first call.

        Returns
        -------
        RegularizedMLPClassifier
            The estimator itself.
        """
        with self._all_or_nothing():
            _check_partial_fit_first_call(self, classes)  # sets classes_
            self._train(X, y, sample_weight, partial=True)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the class probabilities.

        Parameters
        ----------
        X : shape (n_samples, n_features)
            Features, as for ``fit``.

        Returns
        -------
        array, shape (n_samples, n_classes)
            Probabilities, in the order of ``classes_``. Each row has sum 1, but for several labels per sample.
        """
        logits = self._outputs(X).astype(np.float64)
        if self._multilabel:
            return np.exp(_log_sigmoid(logits))
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: NDArray[np.float64] = e / e.sum(axis=1, keepdims=True)
        return probabilities

    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the logarithms of the class probabilities; they are finite where a probability underflows.

        Parameters
        ----------
        X : shape (n_samples, n_features)
            Features, as for ``fit``.

        Returns
        -------
        array, shape (n_samples, n_classes)
            Logarithms, in the order of ``classes_``.
        """
        logits = self._outputs(X).astype(np.float64)
        if self._multilabel:
            return _log_sigmoid(logits)
        logits -= logits.max(axis=1, keepdims=True)
        logarithms: NDArray[np.float64] = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logarithms

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable label of each sample.

        Parameters
        ----------
        X : shape (n_samples, n_features)
            Features, as for ``fit``.

        Returns
        -------
        array, shape (n_samples,) or (n_samples, n_labels)
            Labels, or an indicator matrix of the labels with a probability above 1/2.
        """
        outputs = self._outputs(X)  # before classes_: raises NotFittedError if the estimator is not fitted
        if self._multilabel:
            return (outputs > 0).astype(np.int64)
        labels: NDArray[Any] = self.classes_[outputs.argmax(axis=1)]
        return labels


def _log_sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(1 / (1 + exp(-z))) without overflow."""
    return -np.logaddexp(0, -z)
