"""PyTorch's regularisation and normalisation layers, computed by cregkit's kernels on the CPU.

>>> import torch
>>> import cregkit.torch
>>> model = torch.nn.Sequential(torch.nn.Linear(784, 256), torch.nn.Dropout(0.3))
>>> model = cregkit.torch.convert(model)  # in place; train as before

``convert`` swaps what a model has, ``revert`` undoes it, ``report`` tells what was swapped. The modules can be built
directly too: they subclass PyTorch's own and take the same arguments. ``functional`` has the functions behind them,
with the signatures of ``torch.nn.functional``.
"""

from cregkit.torch import _requirements as _requirements  # first: it says what to install where PyTorch is missing
from cregkit.torch import functional
from cregkit.torch.convert import Entry, Report, convert, report, revert
from cregkit.torch.distributed import SyncBatchNorm
from cregkit.torch.modules import (
    BatchNorm1d,
    BatchNorm2d,
    Dropout,
    Dropout1d,
    Dropout2d,
    LayerNorm,
    MultiheadAttention,
    RMSNorm,
)
from cregkit.torch.transformer import TransformerEncoderLayer

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Entry",
    "LayerNorm",
    "MultiheadAttention",
    "RMSNorm",
    "Report",
    "SyncBatchNorm",
    "TransformerEncoderLayer",
    "convert",
    "functional",
    "report",
    "revert",
]
