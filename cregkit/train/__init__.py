"""Training: losses, the history of a run and the network that is trained."""

from cregkit.train.history import History
from cregkit.train.losses import binary_cross_entropy
from cregkit.train.network import Data, RegularizedNetwork

__all__ = ["Data", "History", "RegularizedNetwork", "binary_cross_entropy"]
