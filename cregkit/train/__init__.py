"""Training: losses, optimisers, the fit loop with early stopping and checkpoints, the history of a run, networks."""

from cregkit.train.callbacks import Callback, FitState
from cregkit.train.early_stopping import EarlyStopping
from cregkit.train.evaluation import Data, binary_accuracy, class_accuracy, evaluate, predict
from cregkit.train.fit import batches, fit, train_step
from cregkit.train.history import History
from cregkit.train.losses import Loss, binary_cross_entropy, mean_squared_error, softmax_cross_entropy
from cregkit.train.network import RegularizedNetwork
from cregkit.train.optimizers import SGD, Adam, AdamW, Optimizer, ParameterGroup

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Callback",
    "Data",
    "EarlyStopping",
    "FitState",
    "History",
    "Loss",
    "Optimizer",
    "ParameterGroup",
    "RegularizedNetwork",
    "batches",
    "binary_accuracy",
    "binary_cross_entropy",
    "class_accuracy",
    "evaluate",
    "fit",
    "mean_squared_error",
    "predict",
    "softmax_cross_entropy",
    "train_step",
]
