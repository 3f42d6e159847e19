"""The names of PyTorch that begin with an underscore or are experimental: no other module of this package uses one.

PyTorch may drop such a name in any release. Each is looked up once, at import. ``NAMES`` says what happens without it:
results stay right, and ``MISSING`` holds the names that this PyTorch lacks, which a report shows.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_NOT_FUSED = "PyTorch computes TransformerEncoderLayer, its modules one after another"
_WATCHED = "only kernels of the native library compute, because PyTorch may be recording or transforming ops"
_UNSEEN = "a report lists only subclasses of PyTorch's public classes"
_SLOWER_MEMORY = "without the native library, the storage of a tensor that a kernel reads cannot be resized"
_NOT_RECOGNISED = "norms that other libraries write by hand may not be recognised"

NAMES: Mapping[str, str] = {
    "torch._C._get_tracing_state": "torch.jit.is_tracing answers in its place",
    "torch._C._are_functorch_transforms_active": _WATCHED,
    "torch._C._len_torch_dispatch_stack": _WATCHED,
    "torch.autograd.forward_ad._current_level": _WATCHED,
    "torch._C._FunctionBase": "without the native library, calls with gradients take longer",
    "torch._C._to_dlpack_versioned": _SLOWER_MEMORY,
    "torch.Tensor._is_zerotensor": _SLOWER_MEMORY,
    "torch.Tensor._base": "PyTorch computes dropout in place where gradients are on",
    "torch._softmax_backward_data": "attention's softmax is differentiated in three steps",
    "torch.nn.BatchNorm2d._check_input_dim": "batch norm checks the dimensions of its input itself",
    "torch.nn.SyncBatchNorm._check_non_zero_input_channels": "SyncBatchNorm does not refuse inputs without channels",
    "torch.nn.InstanceNorm1d._apply_instance_norm": "PyTorch computes instance norm",
    "torch.nn.modules.dropout._DropoutNd": _UNSEEN,
    "torch.nn.modules.batchnorm._NormBase": _UNSEEN,
    "torch.nn.Module()._parameters": _NOT_RECOGNISED,
    "torch.nn.Module()._modules": _NOT_RECOGNISED,
    "torch.nn.Module()._buffers": _NOT_RECOGNISED,
    "torch.nn.TransformerEncoderLayer._sa_block": _NOT_FUSED,
    "torch.nn.TransformerEncoderLayer._ff_block": _NOT_FUSED,
    "torch.nn.functional._canonical_mask": _NOT_FUSED,
    "torch.nn.functional._none_or_dtype": _NOT_FUSED,
    "torch.nn.modules.module._global_forward_hooks": _NOT_FUSED,
    "torch.nn.modules.module._global_forward_pre_hooks": _NOT_FUSED,
    "torch.nn.modules.module._global_backward_hooks": _NOT_FUSED,
    "torch.nn.modules.module._global_backward_pre_hooks": _NOT_FUSED,
    "torch.nn.Module()._forward_hooks": _NOT_FUSED,
    "torch.nn.Module()._forward_pre_hooks": _NOT_FUSED,
    "torch.nn.Module()._backward_hooks": _NOT_FUSED,
    "torch.nn.Module()._backward_pre_hooks": _NOT_FUSED,
    "torch.compiler._is_exporting_flag": "under torch.compile, dropout is PyTorch's, as in an exported program",
    "torch.fx.experimental.symbolic_shapes.statically_known_true": (
        "under torch.compile, dropout of tensors whose size varies between calls is a kernel for any size"
    ),
}
"""What happens without each name."""


def _find(name: str) -> Any:
    """Return what a dotted name stands for, where ``()`` makes an instance of a class; None if PyTorch lacks it."""
    found: Any = torch
    for part in name.split(".")[1:]:
        found = getattr(found, part.removesuffix("()"), None)
        found = found() if part.endswith("()") else found
    return found


with suppress(ImportError):
    importlib.import_module("torch.fx.experimental.symbolic_shapes")
_found = {name: _find(name) for name in NAMES}
MISSING: Mapping[str, str] = {name: NAMES[name] for name, found in _found.items() if found is None}
"""The names that this PyTorch lacks, and what happens without them."""


# What PyTorch does with ops. Who cannot tell assumes that it watches them.


def _is_tracing() -> Any:
    return torch.jit.is_tracing() or None  # type: ignore[no-untyped-call]


tracing_state: Callable[[], Any] = _found["torch._C._get_tracing_state"] or _is_tracing
"""None, unless ``torch.jit`` traces."""
_functorch: Callable[[], bool] = _found["torch._C._are_functorch_transforms_active"]
_dispatch_modes: Callable[[], int] = _found["torch._C._len_torch_dispatch_stack"]


def _is_watched() -> bool:
    return tracing_state() is not None or _functorch() or _dispatch_modes() > 0 or forward_ad._current_level >= 0


def _is_transformed() -> bool:
    return _functorch() or forward_ad._current_level >= 0


def _perhaps() -> bool:
    return True


is_watched: Callable[[], bool] = _perhaps if _WATCHED in MISSING.values() else _is_watched
"""Whether PyTorch records or transforms ops: tracing, functorch, dispatch modes, forward-mode differentiation."""
is_transformed: Callable[[], bool] = _perhaps if _WATCHED in MISSING.values() else _is_transformed
"""Whether functorch or forward-mode differentiation transforms ops."""


def _is_exporting() -> bool:
    return bool(torch.compiler._is_exporting_flag)


_HAS_FLAG = _found["torch.compiler._is_exporting_flag"] is not None
is_exporting: Callable[[], bool] = _is_exporting if _HAS_FLAG else torch.compiler.is_compiling
"""Whether ``torch.export`` traces. The public function is true under torch.compile too before PyTorch 2.12."""


def _is_true(condition: Any) -> bool:
    return condition is True


statically_known_true: Callable[[Any], bool] = (
    _found["torch.fx.experimental.symbolic_shapes.statically_known_true"] or _is_true
)
"""Whether a condition holds for every size that a graph may get; it adds no guard."""


# Tensors and autograd.

to_dlpack: Any = _found["torch._C._to_dlpack_versioned"] if _found["torch.Tensor._is_zerotensor"] else None
"""Export the memory of a tensor whose memory holds its values; None: with NumPy's function alone."""
is_zerotensor: Callable[[Tensor], bool] = _found["torch.Tensor._is_zerotensor"]
"""Whether a tensor is all zeros without having memory; there wherever ``to_dlpack`` is."""

_Base = _found["torch._C._FunctionBase"] or torch.autograd.Function
apply: Any = vars(_Base)["apply"]
"""``torch.autograd.Function.apply`` without PyTorch's check for functorch transforms."""


def _is_of_leaf(x: Tensor) -> bool:
    whole = x if x._base is None else x._base
    return whole.is_leaf and whole.requires_grad


def _perhaps_of_leaf(x: Tensor) -> bool:
    return True


is_of_leaf: Callable[[Tensor], bool] = _is_of_leaf if _found["torch.Tensor._base"] else _perhaps_of_leaf
"""Whether a tensor is, or is a view of, a leaf that needs a gradient: PyTorch does not change it in place."""

_softmax_backward_data: Callable[..., Tensor] | None = _found["torch._softmax_backward_data"]


def softmax_backward(dy: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of the input of a softmax over the last axis; ``dy`` may be overwritten."""
    if _softmax_backward_data is None:
        return y * (dy - (dy * y).sum(-1, keepdim=True))
    return _softmax_backward_data(dy, y.contiguous(), -1, torch.float32, grad_input=dy)  # PyTorch 2.4 ignores strides


# Modules.


def _check_input(module: Any, x: Tensor) -> None:
    module._check_input_dim(x)


def _check_dimensions(module: Any, x: Tensor) -> None:
    dims = (2, 3) if isinstance(module, nn.BatchNorm1d) else (4,) if isinstance(module, nn.BatchNorm2d) else None
    if x.dim() not in dims if dims else x.dim() < 2:
        expected = " or ".join(f"{n}D" for n in dims or ()) or "at least 2D"
        raise ValueError(f"expected {expected} input (got {x.dim()}D input)")


check_input: Callable[[Any, Tensor], None] = (
    _check_input if _found["torch.nn.BatchNorm2d._check_input_dim"] else _check_dimensions
)
"""Raise ValueError for an input whose number of dimensions a batch norm does not take."""

_check_channels: Callable[[Any, Tensor], None] | None = _found["torch.nn.SyncBatchNorm._check_non_zero_input_channels"]


def check_channels(module: nn.SyncBatchNorm, x: Tensor) -> None:
    """Raise ValueError for an input of a ``SyncBatchNorm`` without channels."""
    if _check_channels is not None:
        _check_channels(module, x)


DROPOUTS: tuple[type[nn.Module], ...] = (
    (_found["torch.nn.modules.dropout._DropoutNd"],)
    if _found["torch.nn.modules.dropout._DropoutNd"]
    else (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
)
"""Of which classes all dropouts of PyTorch are."""
NORMS: tuple[type[nn.Module], ...] = (
    (_found["torch.nn.modules.batchnorm._NormBase"],)
    if _found["torch.nn.modules.batchnorm._NormBase"]
    else (
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
        *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    )
)
"""Of which classes all batch and instance norms of PyTorch are."""

INSTANCE_NORM = "_apply_instance_norm"
"""The method that ``forward`` of PyTorch's instance norms calls once it has checked the input."""

stock_instance_norm: Callable[[Any, Tensor], Tensor] = (
    _found[f"torch.nn.InstanceNorm1d.{INSTANCE_NORM}"] or nn.InstanceNorm1d.forward
)
"""PyTorch's method of this name; where there is none, nothing calls it."""

_PARAMETERS, _MODULES, _BUFFERS = (f"torch.nn.Module().{name}" for name in ("_parameters", "_modules", "_buffers"))


def _named_parameters(module: nn.Module) -> dict[str, Any]:
    return dict(module.named_parameters(recurse=False))


parameters: Callable[[nn.Module], dict[str, Any]] = (
    _named_parameters if _PARAMETERS in MISSING else operator.attrgetter("_parameters")
)
"""A module's own parameters by name; where PyTorch shows them, also those that are None."""


def is_alone(module: nn.Module) -> bool:
    """Whether a module has neither submodules nor buffers; where PyTorch shows them, also none that are None."""
    modules = vars(module)["_modules"] if _MODULES not in MISSING else [*module.children()]
    buffers = vars(module)["_buffers"] if _BUFFERS not in MISSING else [*module.buffers(recurse=False)]
    return not modules and not buffers


# TransformerEncoderLayer.

FUSES = _NOT_FUSED not in MISSING.values()
"""Whether PyTorch has all that tells whether the layer's dropout, addition and norm are one computation."""
canonical_mask: Callable[..., Any] = _found["torch.nn.functional._canonical_mask"]
none_or_dtype: Callable[..., Any] = _found["torch.nn.functional._none_or_dtype"]
_GLOBAL_HOOKS = [
    _found[f"torch.nn.modules.module._global_{kind}_hooks"]
    for kind in ("forward", "forward_pre", "backward", "backward_pre")
]


def has_any_global_hook() -> bool:
    """Whether hooks are registered that PyTorch calls for every module."""
    return any(_GLOBAL_HOOKS)


_BLOCKS = {name: _found[f"torch.nn.TransformerEncoderLayer.{name}"] for name in ("_sa_block", "_ff_block")}
_HOOKS = tuple(
    name
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if f"torch.nn.Module().{name}" not in MISSING
)


def has_own_blocks(layer: nn.TransformerEncoderLayer) -> bool:
    """Whether the class or the instance overrides a method that PyTorch's ``forward`` calls."""
    return any(getattr(getattr(layer, name), "__func__", None) is not method for name, method in _BLOCKS.items())


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks, as far as PyTorch shows them."""
    return any(getattr(module, name) for name in _HOOKS)
