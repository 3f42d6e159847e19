"""PyTorch's regularisation and normalisation modules on cregkit's CPU kernels.

``profile`` measures what ``convert`` gains for a model. ``convert`` swaps the modules of a model in place, ``revert``
swaps them back, and ``report`` lists them. The modules subclass PyTorch's modules and take the same arguments.
``functional`` has the functions that they call, with the signatures of ``torch.nn.functional``.

Examples
--------
>>> import torch
>>> import cregkit.torch
>>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.LayerNorm(64), torch.nn.Dropout(0.1))
>>> model = cregkit.torch.convert(model)
>>> print(cregkit.torch.report(model))
2 of 2 modules computed by cregkit
swapped  LayerNorm  1
swapped  Dropout    2
"""

from cregkit.torch import _requirements as _requirements  # first: without PyTorch, it says what to install
from cregkit.torch import functional
from cregkit.torch.convert import Entry, Report, convert, report, revert
from cregkit.torch.dispatch import OpEntry, OpReport, disable, enable, enabled, usage
from cregkit.torch.distributed import SyncBatchNorm
from cregkit.torch.modules import (
    BatchNorm1d,
    BatchNorm2d,
    Dropout,
    Dropout1d,
    Dropout2d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    MultiheadAttention,
    RMSNorm,
)
from cregkit.torch.profiling import Profile, profile
from cregkit.torch.transformer import TransformerEncoderLayer

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Entry",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "MultiheadAttention",
    "OpEntry",
    "OpReport",
    "Profile",
    "RMSNorm",
    "Report",
    "SyncBatchNorm",
    "TransformerEncoderLayer",
    "convert",
    "disable",
    "enable",
    "enabled",
    "functional",
    "profile",
    "report",
    "revert",
    "usage",
]
