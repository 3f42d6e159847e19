"""What the estimators for scikit-learn share: parameters, network, training, checks of the data."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from cregkit import _validate as validate
from cregkit.layers import DropConnect, Dropout, Layer, Linear, ReLU, Sequential, draw_seed
from cregkit.layers.base import Array
from cregkit.layers.norms import norm_layers
from cregkit.train.callbacks import Callback, FitState
from cregkit.train.divergence import DivergenceError, DivergenceWarning
from cregkit.train.early_stopping import EarlyStopping
from cregkit.train.fit import fit
from cregkit.train.losses import Loss
from cregkit.train.optimizers import AdamW
from cregkit.train.threads import one_thread

Norm = str | Callable[[int], Layer] | None
Parts = tuple[Any, ...]
"""(X, targets) or (X, targets, weights), where X is an array or a CSR matrix."""


# Predictions take this number of samples at a time, because a matrix product of another shape may round otherwise. So
# the prediction of a sample depends on no other sample. Its place among the samples may change the last digits: some
# BLAS libraries round the rows of one product in two ways (OpenBLAS with AVX2).
BLOCK = 128


class SparseRows:
    """A CSR matrix as the samples of a data set: the rows of a batch are made dense when they are used."""

    def __init__(self, matrix: Any) -> None:
        """Keep the matrix."""
        self._matrix = matrix
        self.shape: tuple[int, int] = matrix.shape
        self.dtype: np.dtype[Any] = matrix.dtype

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Array:
        """Return some rows as an array."""
        dense: Array = self._matrix[rows].toarray()
        return dense


class ValidationScores(Callback):
    """Callback that appends the score of the network after each epoch."""

    def __init__(self, score: Callable[[Layer], float]) -> None:
        """Keep the function from network to score."""
        self._score = score
        self.scores: list[float] = []

    def on_epoch_end(self, state: FitState) -> None:
        """Append the score of this epoch."""
        if state.history.diverged is None:
            self.scores.append(self._score(state.network))


class RegularizedMLP(BaseEstimator):  # type: ignore[misc]
    """Base class of ``RegularizedMLPClassifier`` and ``RegularizedMLPRegressor``, which describe the parameters."""

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
    ) -> None:
        """Store the parameters; ``fit`` validates them."""
        self.hidden_sizes = hidden_sizes
        self.dropout = dropout
        self.drop_connect = drop_connect
        self.weight_decay = weight_decay
        self.l1 = l1
        self.max_norm = max_norm
        self.norm = norm
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.tol = tol
        self.early_stopping = early_stopping
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.augment = augment
        self.verbose = verbose
        self.random_state = random_state

    _y_numeric: bool
    n_outputs_: int
    out_activation_: str

    def _targets(self, y: NDArray[Any], known: bool, partial: bool) -> NDArray[Any]:
        """Return the targets of the loss; set what describes them, or raise if they differ from what is ``known``."""
        raise NotImplementedError

    def _weights(self, y: NDArray[Any], sample_weight: NDArray[Any] | None, partial: bool) -> NDArray[Any] | None:
        """Return the weight of each sample in the loss, or None."""
        return sample_weight

    def _strata(self, targets: NDArray[Any], held_out: int) -> NDArray[Any] | None:
        """Return the classes in whose proportions to hold out ``held_out`` samples, or None."""
        return None

    def _begin(self, network: Sequential, targets: NDArray[Any], sample_weight: NDArray[Any] | None = None) -> None:
        """Adapt the initial weights to the targets."""

    def _loss(self) -> Loss:
        """Return the loss."""
        raise NotImplementedError

    def _score(self, outputs: Array, targets: NDArray[Any], sample_weight: NDArray[Any] | None = None) -> float:
        """Return the score of outputs, as ``score`` does for samples."""
        raise NotImplementedError

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a trained network: a failed first fit leaves none."""
        return hasattr(self, "network_")

    def __sklearn_tags__(self) -> Any:
        """Say that X may be sparse."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Restore all attributes if an error leaves the block."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            self.__dict__ = before
            raise

    def _train(self, X: Any, y: Any, sample_weight: Any, *, partial: bool = False) -> None:
        """Train on the data: ``epochs`` epochs, or one more epoch of the present network if ``partial``."""
        known = self.__sklearn_is_fitted__() and (partial or self.warm_start)
        data = self._validated(X, y, sample_weight, known, partial)
        if not known:
            self.loss_curve_: list[float] = []
            self.t_ = 0
        with one_thread():
            if known and partial:
                network, optimizer, order = copy.deepcopy((self.network_, self._optimizer, self._order))
                self._run(network, optimizer, order, data, None, partial)
            else:
                random = check_random_state(self.random_state)
                seeds = np.random.SeedSequence(random.randint(2**32, size=4, dtype=np.uint32).tolist())
                train, held_out = self._split(data, random)
                network = self._first_network(train, np.random.default_rng(seeds.spawn(1)[0]), known)
                optimizer = AdamW(network, self.lr, weight_decay=self.weight_decay, l1=self.l1, max_norm=self.max_norm)
                self._run(network, optimizer, np.random.default_rng(draw_seed(seeds)), train, held_out, partial)

    def _validated(self, X: Any, y: Any, sample_weight: Any, known: bool, partial: bool) -> Parts:
        X, y = validate_data(
            self,
            X,
            y,
            reset=not known,
            accept_sparse="csr",
            multi_output=True,
            y_numeric=self._y_numeric,
            dtype=np.float32,
            order="C",
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if hasattr(y, "toarray"):
            y = y.toarray()
        targets = self._targets(y, known, partial)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
        weights = self._weights(y, sample_weight, partial)
        return (X, targets) if weights is None else _of_positive_weight(X, targets, weights)

    def _split(self, data: Parts, random: np.random.RandomState) -> tuple[Parts, Parts | None]:
        """Split the data into a training part and, with early stopping, a held-out part."""
        if not self.early_stopping:
            return data, None
        if not 0 < validate.real("validation_fraction", self.validation_fraction, 0, 1) < 1:
            raise ValueError(f"validation_fraction must be above 0 and below 1, got {self.validation_fraction}")
        n = len(data[1])
        strata = self._strata(data[1], round(self.validation_fraction * n))
        parts = train_test_split(np.arange(n), test_size=self.validation_fraction, random_state=random, stratify=strata)
        train, held_out = (tuple(array[rows] for array in data) for rows in parts)
        return train, held_out

    def _first_network(self, train: Parts, rng: np.random.Generator, known: bool) -> Sequential:
        """Return the network before the first step: a new one, or one that continues the present one if ``known``."""
        network = self._network(train[0].shape[1], self.n_outputs_, rng)
        if known:
            network.load_state_dict(self.network_.state_dict())
        else:
            self._begin(network, *train[1:])
        return network

    def _network(self, n_features: int, n_outputs: int, rng: np.random.Generator) -> Sequential:
        """Return the untrained network; weights are drawn first, so they do not depend on dropout and norm."""
        if not isinstance(self.hidden_sizes, (tuple, list)):
            raise TypeError(f"hidden_sizes must be a tuple of ints, got {validate.shown(self.hidden_sizes)}")
        sizes = [n_features, *(validate.positive_int("hidden_sizes", size) for size in self.hidden_sizes)]
        dropout = validate.real("dropout", self.dropout, 0, 1)
        drop_connect = validate.real("drop_connect", self.drop_connect, 0, 1)
        hidden = [
            DropConnect(*ends, drop_connect, seed=rng) if drop_connect > 0 else Linear(*ends, seed=rng)
            for ends in itertools.pairwise(sizes)
        ]
        last = Linear(sizes[-1], n_outputs, seed=rng)
        layers: list[Layer] = []
        for linear, size in zip(hidden, sizes[1:], strict=True):
            layers += [linear, *norm_layers(self.norm, size), ReLU()]
            if dropout > 0:
                layers.append(Dropout(dropout, seed=rng))
        return Sequential(*layers, last)

    def _stopping(self) -> EarlyStopping | None:
        """Return the criterion of convergence, or None."""
        min_delta = 0.0 if self.tol is None else validate.real("tol", self.tol, 0)
        if self.early_stopping:
            return EarlyStopping(self.patience, min_delta)
        return None if self.tol is None else EarlyStopping(self.patience, min_delta, "train_loss")

    def _run(
        self,
        network: Sequential,
        optimizer: AdamW,
        order: np.random.Generator,
        train: Parts,
        held_out: Parts | None,
        partial: bool,
    ) -> None:
        """Run ``fit`` and set the attributes of its result."""
        if self.augment is not None and not isinstance(self.augment, Callback):
            raise TypeError(f"augment must be a Callback such as AugmentBatches, got {validate.shown(self.augment)}")
        stopping = None if partial else self._stopping()
        scores = None
        if held_out is not None:
            X, *wanted = held_out
            scores = ValidationScores(lambda network: self._score(outputs_of(network, X), *wanted))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergenceWarning)  # it becomes an error below
            history = fit(
                network,
                self._loss(),
                optimizer,
                _batchwise(train),
                None if held_out is None else _batchwise(held_out),
                1 if partial else self.epochs,
                batch_size=self.batch_size,
                seed=order,
                callbacks=[hook for hook in (copy.deepcopy(self.augment), stopping, scores) if hook is not None],
                progress=bool(self.verbose),
            )
        if history.interrupted:
            raise KeyboardInterrupt  # ends a search over parameters too
        if history.diverged is not None:
            raise DivergenceError(
                f"training diverged in {history.diverged}; use an lr smaller than {self.lr}, or scale the features to "
                "about unit variance, for example with StandardScaler"
            )
        if self.tol is not None and stopping is not None and not stopping.stopped:
            warnings.warn(
                f"training did not converge in epochs={self.epochs}: {stopping.monitor} still improved by more than "
                f"tol={self.tol} within patience={self.patience} epochs",
                ConvergenceWarning,
                stacklevel=4,
            )
        self.network_, self.history_, self.n_iter_ = network, history, len(history)
        self._optimizer, self._order = optimizer, order
        self.loss_curve_ = [*self.loss_curve_, *history.train_loss]
        self.loss_ = self.loss_curve_[-1]
        self.t_ += len(history) * len(train[1])
        self.validation_scores_ = None if scores is None else scores.scores
        self.best_validation_score_ = None
        if scores is not None and stopping is not None and stopping.best_epoch is not None:
            self.best_validation_score_ = scores.scores[stopping.best_epoch]

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=np.float32, order="C", reset=False)
        with one_thread(), np.errstate(over="ignore", invalid="ignore"):
            outputs = outputs_of(self.network_, X)
        finite = np.isfinite(outputs).all(axis=1)
        if not finite.all():
            row = int(finite.argmin())
            raise DivergenceError(
                f"X must hold values of about unit size, got {abs(X[row]).max():g} in row {row}, for which the "
                "network's outputs are not finite"
            )
        return outputs


def outputs_of(network: Layer, X: Any) -> Array:
    """Return the outputs for the rows of an array or a CSR matrix, each computed in a batch of ``BLOCK`` samples."""
    network.eval()
    found = []
    for start in range(0, X.shape[0], BLOCK):
        rows = X[start : start + BLOCK]
        block = np.zeros((BLOCK, X.shape[1]), np.float32)
        block[: rows.shape[0]] = rows.toarray() if hasattr(rows, "toarray") else rows
        found.append(network(block)[: rows.shape[0]])
    return np.concatenate(found)


def takes_parts(estimator: RegularizedMLP) -> bool:
    """Return whether there is ``partial_fit``: raise AttributeError with early stopping, which holds out samples."""
    if estimator.early_stopping:
        raise AttributeError("early_stopping must be False for partial_fit, which sees a part of the data, got True")
    return True


def _of_positive_weight(X: Any, targets: NDArray[Any], weights: NDArray[np.float64]) -> Parts:
    """Return the data without the samples of weight 0: these train nothing, and are not held out."""
    validate.within("sample_weight and class_weight must be at least 0", weights, 0, np.finfo(np.float64).max)
    counts = weights > 0
    if not counts.any():
        raise ValueError("sample_weight and class_weight must be above 0 for one sample at least, got weights of 0")
    return (X, targets, weights) if counts.all() else (X[counts], targets[counts], weights[counts])


def _batchwise(parts: Parts) -> tuple[Any, ...]:
    """Return the parts of a data set with a sparse X as ``SparseRows``."""
    X, *others = parts
    return SparseRows(X) if hasattr(X, "tocsr") else X, *others
