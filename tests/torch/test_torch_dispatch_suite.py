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
SAMPLED = [name for name in NORMS if name in OPS or name != "native_group_norm"]
"""PyTorch has samples of native_group_norm from 2.13 on."""
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
}
MODELS = ["TransformerEncoderLayer", "TransformerDecoderLayer", "MultiheadAttention", "RNN", "LSTM", "GRU"]
"""Compared in float32: in 16 bits the error of PyTorch's matrix products is far larger than that of the kernels."""

each_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


# ---- samples ----


def samples_of(name: str, dtype: torch.dtype) -> Iterator[Any]:
    for sample in OPS[name].sample_inputs("cpu", dtype, requires_grad=True):
        yield (sample.input, *sample.args), sample.kwargs


@each_dtype
@pytest.mark.parametrize("name", SAMPLED)
def test_norms_have_the_results_of_pytorch_on_its_samples(name, dtype, kernels):
    """Kernels against PyTorch in float64, which the kernels leave to PyTorch."""
    found = []
    for arguments in samples_of(name, dtype):
        with Taken() as taken:
            found.append((results_of(OPS[name].op, arguments, dtype), taken))
    assert any(taken.calls[NORMS[name]] for _, taken in found) == (dtype is not torch.float64)
    cregkit.torch.disable()
    for (ours, taken), arguments in zip(found, samples_of(name, dtype), strict=True):
        assert ours[0].dtype is dtype
        exact = results_of(OPS[name].op, arguments, torch.float64)
        if taken.fates["dtype"] and dtype.itemsize == 2:
            ours, exact = ours[:1], exact[:1]  # PyTorch computes the gradients for a bias without a gain: less exact
        assert_close(ours, exact, TOLERANCES[dtype])
    assert found


@each_dtype
@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_drops_or_changes_all_alike_on_the_samples_of_pytorch(name, dtype, kernels):
    """Each element is kept and scaled, or dropped: y = x * dy/dx + shift, with two values of dy/dx and of the shift."""
    with Taken() as taken, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, for 3-D and 5-D inputs of dropout2d
        for args, kwargs in samples_of(name, dtype):
            x = fresh(args)[0].to(dtype).detach().requires_grad_()
            y = OPS[name].op(x, *args[1:], **kwargs)
            assert (y.dtype, y.shape) == (dtype, x.shape)
            (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
            dropped = dx == 0
            if not kwargs.get("training", True):
                assert torch.equal(y, x)
            shift = (y.double() - x.double() * dx.double()).detach()
            for part, change in ((dropped, shift), (~dropped, shift), (~dropped, dx.double())):
                if bool(part.any()):
                    assert float(change[part].max() - change[part].min()) <= 20 * TOLERANCES[dtype]
            if name in ("nn.functional.dropout", "nn.functional.dropout2d", "nn.functional.dropout3d"):
                p = kwargs.get("p", 0.5) if kwargs.get("training", True) else 0.0
                assert not y[dropped].any()
                assert torch.allclose(dx[~dropped].double(), torch.tensor(1 / (1 - min(p, 0.99))).double(), rtol=1e-2)
    assert (taken.calls[DROPOUTS[name]] > 0) == (dtype is not torch.float64)


@each_dtype
def test_bernoulli_draws_zeros_and_ones_on_the_samples_of_pytorch(dtype, kernels):
    for args, kwargs in samples_of("bernoulli", dtype):
        y = OPS["bernoulli"].op(args[0].detach(), *args[1:], **kwargs)
        assert y.dtype is dtype
        assert set(y.flatten().tolist()) <= {0.0, 1.0}
    with Taken("bernoulli") as taken:
        y = torch.empty(40_000, dtype=torch.float32).bernoulli_(0.25)
    assert taken.calls["bernoulli"] == 1
    assert abs(float(y.mean()) - 0.25) < 0.02


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.error_inputs_func])
def test_error_samples_raise_the_errors_of_pytorch(name, kernels):
    cases = list(OPS[name].error_inputs("cpu"))
    for case in cases:
        sample = case.sample_input
        with pytest.raises(case.error_type, match=case.error_regex):
            OPS[name].op(sample.input, *sample.args, **sample.kwargs)
    assert cases


def module_cases(name: str, dtype: torch.dtype, training: bool) -> Iterator[tuple[nn.Module, Any]]:
    """A module, and the arguments of a call, of each sample of PyTorch; their dropout is 0."""
    (info,) = (info for info in module_db if info.module_cls.__name__ == name)
    for case in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training):
        if case.forward_input is None:
            continue
        module = info.module_cls(*case.constructor_input.args, **case.constructor_input.kwargs).to(dtype)
        yield module.train(training), (case.forward_input.args, case.forward_input.kwargs)


def assert_modules_close(name: str, dtype: torch.dtype, training: bool) -> None:
    """Outputs, gradients and buffers of modules against PyTorch's in float64."""
    for module, arguments in module_cases(name, dtype, training):
        exact = copy.deepcopy(module).double()
        ours = module_results_of(module, arguments, dtype)
        with cregkit.torch.enable(only=()):
            assert_close(ours, module_results_of(exact, arguments, torch.float64), TOLERANCES[dtype])


each_mode = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


@each_mode
@each_dtype
@pytest.mark.parametrize("name", MODULES)
def test_modules_have_the_results_of_pytorch_on_its_samples(name, dtype, training, kernels):
    with Taken() as taken:
        assert_modules_close(name, dtype, training)
    assert (taken.calls[MODULES[name]] > 0) == (dtype is not torch.float64)


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@each_mode
@pytest.mark.parametrize("name", MODELS)
def test_models_have_the_results_of_pytorch_on_its_samples(name, training, kernels):
    with Taken() as taken:
        assert_modules_close(name, torch.float32, training)
    assert not name.startswith("Transformer") or taken.calls["layer_norm"] > 0


# ---- the contract of ops ----

X, IMAGES, W, B = torch.randn(4, 6), torch.randn(4, 6, 5), torch.rand(6) + 0.5, torch.randn(6)
ATEN = torch.ops.aten
CALLS = {
    "layer_norm": (ATEN.native_layer_norm.default, (X, [6], W, B, 1e-5)),
    "layer_norm, no parameters": (ATEN.native_layer_norm.default, (X, [6], None, None, 1e-5)),
    "rms_norm": (ATEN.rms_norm.default, (X, [6], W, 1e-5)),
    "rms_norm, no parameters": (ATEN.rms_norm.default, (X, [6])),
    "batch_norm": (ATEN.native_batch_norm.default, (IMAGES, W, B, None, None, True, 0.1, 1e-5)),
    "batch_norm, evaluation": (
        ATEN.native_batch_norm.default, (IMAGES, W, B, torch.zeros(6), torch.ones(6), False, 0.1, 1e-5)
    ),
    "group_norm": (ATEN.native_group_norm.default, (IMAGES, W, B, 4, 6, 5, 3, 1e-5)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # opcheck of PyTorch 2.14 reads it
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "test", ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
)
def test_the_ops_meet_the_contract_of_pytorch(name, test, kernels):
    op, arguments = CALLS[name]
    leaves = tuple(x.clone().requires_grad_() if x is IMAGES or x is X or x is W or x is B else x for x in arguments)
    with Taken(name.partition(",")[0]):
        op(*leaves)
    torch.library.opcheck(op, leaves, test_utils=test)


# ---- torch.compile ----


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 128), nn.LayerNorm(128), nn.RMSNorm(128), nn.Unflatten(1, (8, 16)), nn.GroupNorm(2, 8),
        nn.BatchNorm1d(8), nn.InstanceNorm1d(8, affine=True), nn.Flatten(), nn.Dropout(0.0), nn.Linear(128, 3),
    )  # fmt: skip


def curve(model: Callable[[Tensor], Tensor], parameters: list[nn.Parameter], toggling: bool = False) -> list[Tensor]:
    """The losses of training, and the parameters at its end; toggling turns the kernels on in every other step."""
    x = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    losses = []
    for step in range(6):
        if toggling:
            cregkit.torch.disable() if step % 2 else cregkit.torch.enable()
        optimizer.zero_grad()
        loss = (model(x) - x[:, :3].sign()).square().mean()
        if toggling and step >= 3:  # between forward and backward
            cregkit.torch.enable() if step % 2 else cregkit.torch.disable()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [*losses, *(p.detach() for p in parameters)]


@pytest.fixture
def _no_graphs_of_other_tests() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch._prims_common.check`:FutureWarning")
@pytest.mark.usefixtures("_no_graphs_of_other_tests")
@pytest.mark.parametrize("toggling", [False, True], ids=["on", "toggling"])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_models_train_as_pytorchs_do(backend, toggling, kernels):
    """Without graph breaks; dropout and norms are on all the time, or by turns."""
    stock, ours = network(), network()
    with cregkit.torch.enable(only=()):
        expected = curve(stock, [*stock.parameters()])
    compiled = torch.compile(ours, backend=backend, fullgraph=True)
    found = curve(compiled, [*ours.parameters()], toggling)
    assert_close(found, expected)
    assert float(expected[5]) < float(expected[0])
    cregkit.torch.enable()
    assert_close([compiled.eval()(torch.ones(32, 16))], [stock.eval()(torch.ones(32, 16))])


# ---- worker processes ----

LOADER = """
import torch
from torch.nn import functional as F
import cregkit.torch
from cregkit.torch import dispatch

for op in dispatch.SMALLEST:
    dispatch.library.set_smallest(op, 1, 1)

class Normalised(torch.utils.data.Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, i):
        return results(i)

def results(i):
    before = cregkit.torch.usage()
    x = torch.randn(64, 1024, generator=torch.Generator().manual_seed(i)).requires_grad_()
    y = F.rms_norm(F.layer_norm(x, (1024,)), (1024,))
    z = F.group_norm(F.batch_norm(y.view(64, 32, 32), None, None, training=True), 4)
    torch.manual_seed(i)
    F.dropout(z, 0.3).sum().backward()
    after = cregkit.torch.usage()
    assert all(after[op]["taken"] > before[op]["taken"] for op in after if op != "bernoulli")
    return z.detach(), x.grad

def child(connection):
    torch.set_num_threads(1)
    connection.send([[t.numpy() for t in results(i)] for i in range(6)])

def check(found):
    for (y, dx), (z, dz) in zip(found, wanted, strict=True):
        assert torch.equal(torch.as_tensor(y), z) and torch.allclose(torch.as_tensor(dx), dz, atol=1e-6)

if __name__ == "__main__":
    cregkit.torch.enable()
    torch.set_num_threads(3)
    torch.ones(4096, 1024).softmax(1)  # OpenMP's threads run before the workers are forked
    with torch.no_grad():
        F.layer_norm(torch.ones(4096, 1024), (1024,))
    wanted = [results(i) for i in range(6)]
    loader = torch.utils.data.DataLoader(Normalised(), batch_size=None, num_workers=2, multiprocessing_context="fork",
                                         timeout=40)
    check(list(loader))
    context = torch.multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=child, args=(there,), daemon=True)
    process.start()
    assert here.poll(40)
    check(here.recv())
    process.join(40)
    assert process.exitcode == 0
"""


def test_forked_workers_compute_with_the_kernels() -> None:
    """Of a DataLoader, and of torch.multiprocessing with one thread: right results, no hang."""
    done = run_python("-c", LOADER, OMP_NUM_THREADS="3")
    assert done.returncode == 0, done.stderr
