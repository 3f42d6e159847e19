"""Training: losses, optimisers, ``fit`` with callbacks, early stopping and checkpoints, metrics and networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cregkit.train.averaging import WeightAveraging, update_batch_norm
from cregkit.train.callbacks import Callback, FitState
from cregkit.train.data import Data, DataSet
from cregkit.train.divergence import DivergenceError, DivergenceWarning
from cregkit.train.early_stopping import EarlyStopping
from cregkit.train.evaluation import binary_accuracy, class_accuracy, evaluate, predict
from cregkit.train.fit import batches, fit
from cregkit.train.history import Divergence, History
from cregkit.train.losses import (
    Loss,
    binary_cross_entropy,
    huber,
    mean_absolute_error,
    mean_squared_error,
    softmax_cross_entropy,
)
from cregkit.train.optimizers import SGD, Adam, AdamW, Optimizer, ParameterGroup
from cregkit.train.parallel import Parallel, train_step
from cregkit.train.schedules import ReduceOnPlateau, Schedule, cosine_schedule, step_schedule, steps_per_epoch

if TYPE_CHECKING:
    from cregkit.lab.network import RegularizedNetwork
    from cregkit.train.classifier import RegularizedMLPClassifier
    from cregkit.train.regressor import RegularizedMLPRegressor

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Callback",
    "Data",
    "DataSet",
    "Divergence",
    "DivergenceError",
    "DivergenceWarning",
    "EarlyStopping",
    "FitState",
    "History",
    "Loss",
    "Optimizer",
    "Parallel",
    "ParameterGroup",
    "ReduceOnPlateau",
    "RegularizedMLPClassifier",
    "RegularizedMLPRegressor",
    "RegularizedNetwork",
    "Schedule",
    "WeightAveraging",
    "batches",
    "binary_accuracy",
    "binary_cross_entropy",
    "class_accuracy",
    "cosine_schedule",
    "evaluate",
    "fit",
    "huber",
    "mean_absolute_error",
    "mean_squared_error",
    "predict",
    "softmax_cross_entropy",
    "step_schedule",
    "steps_per_epoch",
    "train_step",
    "update_batch_norm",
]


_LAZY = {
    "RegularizedMLPClassifier": "cregkit.train.classifier",  # needs scikit-learn
    "RegularizedMLPRegressor": "cregkit.train.regressor",
    "RegularizedNetwork": "cregkit.lab.network",  # the lab imports this package
}


def __getattr__(name: str) -> Any:
    """Import a name of ``_LAZY`` on first access."""
    if name not in _LAZY:
        raise AttributeError(f"module 'cregkit.train' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        raise ImportError(f"{name} needs scikit-learn 1.6 or newer: pip install 'cregkit[lab]'") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
