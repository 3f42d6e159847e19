"""PyTorch's own samples, contracts, compiler and worker processes with the kernels in its dispatcher."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import run_python

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch_support import Taken, assert_close, fresh, module_results_of, results_of  # noqa: E402

import cregkit.torch  # noqa: E402
from cregkit.torch import dispatch  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the module warns of a deprecated module that it imports
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

pytestmark = pytest.mark.skipif(dispatch.library is None, reason="cregkit was built without PyTorch")

TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 1.6e-2, torch.float16: 2e-3, torch.float64: 1e-11}
"""The largest error of results, relative to their largest magnitude."""

NORMS = {
    "nn.functional.layer_norm": "layer_norm",
    "nn.functional.rms_norm": "rms_norm",
    "nn.functional.batch_norm": "batch_norm",
    "nn.functional.group_norm": "group_norm",
    "nn.functional.instance_norm": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_batch_norm": "batch_norm",
    "native_group_norm": "group_norm",
}
DROPOUTS = {
    "nn.functional.dropout": "dropout",
    "nn.functional.dropout2d": "bernoulli",
    "nn.functional.dropout3d": "bernoulli",
    "nn.functional.alpha_dropout": "bernoulli",
    "nn.functional.feature_alpha_dropout": "bernoulli",
}
OPS = {
    op.name: op
    for op in reversed(op_db)
    if op.name in {*NORMS, *DROPOUTS, "bernoulli"} and op.variant_test_name != "without_train"
}
MODULES = {
    "BatchNorm1d": "batch_norm",
    "BatchNorm2d": "batch_norm",
    "BatchNorm3d": "batch_norm",
    "GroupNorm": "group_norm",
    "InstanceNorm1d": "batch_norm",
    "InstanceNorm2d": "batch_norm",
    "InstanceNorm3d": "batch_norm",
    "LayerNorm": "layer_norm",
    "RMSNorm": "rms_norm",
    "TransformerEncoderLayer": "layer_norm",
    "TransformerEncoder": "layer_norm",
    "TransformerDecoderLayer": "layer_norm",
    "Transformer": "layer_norm",
    "MultiheadAttention": None,
    "RNN": None,
    "LSTM": None,
    "GRU": None,
}
each_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


# ---- samples ----


def samples_of(name: str, dtype: torch.dtype) -> Iterator[Any]:
    for sample in OPS[name].sample_inputs("cpu", dtype, requires_grad=True):
        yield (sample.input, *sample.args), sample.kwargs


@each_dtype
@pytest.mark.parametrize("name", NORMS)
def test_norms_have_the_results_of_pytorch_on_its_samples(name, dtype, kernels):
    """Kernels against PyTorch in float64, which the kernels leave to PyTorch."""
    with Taken() as taken:
        found = [results_of(OPS[name].op, arguments, dtype) for arguments in samples_of(name, dtype)]
    assert (taken.calls[NORMS[name]] > 0) == (dtype is not torch.float64)
    cregkit.torch.disable()
    for ours, arguments in zip(found, samples_of(name, dtype), strict=True):
        assert ours[0].dtype is dtype
        assert_close(ours, results_of(OPS[name].op, arguments, torch.float64), TOLERANCES[dtype])
    assert found
