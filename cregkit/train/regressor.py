"""A scikit-learn regressor built on ``fit``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if

from cregkit.layers import Sequential
from cregkit.layers.base import Array
from cregkit.train.estimators import RegularizedMLP, takes_parts
from cregkit.train.losses import Loss, mean_squared_error


class RegularizedMLPRegressor(RegressorMixin, RegularizedMLP):  # type: ignore[misc] # numpydoc ignore=PR02
    """Multi-layer perceptron for regression with selectable regularisation, as a scikit-learn estimator.

    Linear -> [norm] -> ReLU -> [Dropout] for each hidden size, then Linear to one value per output, trained by AdamW on
    the mean squared error. The output biases start at the means of ``y``. Data are cast to float32, the dtype of the
    layers; scale features to about unit variance first (``StandardScaler``), and targets too
    (``TransformedTargetRegressor``). Fits and predictions use one thread, so the result does not depend on the number
    of threads; ``n_jobs`` of a search runs several fits at once.

    Parameters
    ----------
    hidden_sizes
        Neurons of each hidden layer, from first to last; () gives linear regression.
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
        Fraction held out, in (0, 1).
    warm_start
        Whether ``fit`` continues from the present network, with a new optimiser.
    augment
        Callback that changes each training batch, such as ``cregkit.augment.AugmentBatches``; each fit uses a copy.
    verbose
        Whether to show a progress bar, if stderr is a terminal.
    random_state
        An int, a ``numpy.random.RandomState`` or None: source of the initial weights, sample order, dropout masks and
        held-out samples.

    Attributes
    ----------
    n_features_in_ : int
        Number of features seen in ``fit``; ``feature_names_in_`` holds their names, if they have any.
    n_outputs_ : int
        Number of outputs of the network.
    out_activation_ : str
        ``"identity"``.
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
        From ``fit``: training diverged. From ``predict``: values in ``X`` are so large that the
        outputs are not finite. It is a ValueError. After an error, the estimator is as it was before.

    Examples
    --------
    >>> from cregkit.train import RegularizedMLPRegressor
    >>> X, y = [[-2.0], [-1.0], [1.0], [2.0]], [2.0, 1.0, 1.0, 2.0]
    >>> regressor = RegularizedMLPRegressor((8,), epochs=200, lr=0.02, random_state=0).fit(X, y)
    >>> regressor.predict([[-1.5], [1.5]]).round(1).tolist()
    [1.5, 1.5]
    """

    _y_numeric = True

    def __sklearn_tags__(self) -> Any:
        """Say that y may have several outputs."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _targets(self, y: NDArray[Any], known: bool, partial: bool) -> Array:
        """Return ``y`` as float32 of shape (n, outputs)."""
        with np.errstate(over="ignore"):
            targets: Array = y.reshape(len(y), -1).astype(np.float32, order="C")
        if not np.isfinite(targets).all():
            raise ValueError(f"y must be finite in float32, got {y.flat[np.isfinite(targets).argmin()]}")
        if known and targets.shape[1] != self.n_outputs_:
            raise ValueError(f"y must have {self.n_outputs_} outputs as in the first fit, got {targets.shape[1]}")
        self.n_outputs_, self.out_activation_ = targets.shape[1], "identity"
        return targets

    def _begin(self, network: Sequential, targets: NDArray[Any], sample_weight: NDArray[Any] | None = None) -> None:
        """Start the output biases at the means of the targets."""
        last = network.layers[-1]
        means = np.average(targets.astype(np.float64), axis=0, weights=sample_weight).astype(np.float32)
        last.load_state_dict({**last.state_dict(), "bias": means})

    def _loss(self) -> Loss:
        return mean_squared_error

    def _score(self, outputs: Array, targets: NDArray[Any], sample_weight: NDArray[Any] | None = None) -> float:
        if len(targets) < 2:
            return float("nan")
        return float(r2_score(targets, outputs, sample_weight=sample_weight))

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> RegularizedMLPRegressor:
        """Train the regressor; with ``warm_start``, a second fit continues from the present network.

        Parameters
        ----------
        X : shape (n_samples, n_features)
            Features: an array, a data frame, or a sparse matrix, of which the rows of a batch are made dense.
        y : shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : shape (n_samples,)
            Weights of the samples in the loss, at least 0; None means 1.

        Returns
        -------
        RegularizedMLPRegressor
            The estimator itself.
        """
        with self._all_or_nothing():
            self._train(X, y, sample_weight)
        return self

    @available_if(takes_parts)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> RegularizedMLPRegressor:
        """Train for one more epoch, on these samples; the first call makes the network.

        Parameters
        ----------
        X : shape (n_samples, n_features)
            Features, as for ``fit``.
        y : shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : shape (n_samples,)
            Weights of the samples in the loss, at least 0; None means 1.

        Returns
        -------
        RegularizedMLPRegressor
            The estimator itself.
        """
        with self._all_or_nothing():
            self._train(X, y, sample_weight, partial=True)
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return the predictions.

        Parameters
        ----------
        X : shape (n_samples, n_features)
            Features, as for ``fit``.

        Returns
        -------
        array, shape (n_samples,) or (n_samples, n_outputs)
            Predictions.
        """
        outputs = self._outputs(X).astype(np.float64)
        return outputs[:, 0] if self.n_outputs_ == 1 else outputs
