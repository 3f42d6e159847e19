"""cregkit.torch: results of the modules, fallbacks, graphs, memory, random numbers, threads, attention."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from support import run_python  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from torch_support import assert_close, fresh, gradients_of, kernels_in_graphs, mapped, pickles, tensors_in, twins  # noqa: E402

import cregkit  # noqa: E402
import cregkit.torch as ct  # noqa: E402
from cregkit.torch import _requirements, autograd, bridge, functional  # noqa: E402

X = {"1d": (6, 8, 5), "2d": (4, 8, 3, 5)}
OPS = {
    "dropout": lambda f, x: f.dropout(x, 0.4),
    "dropout1d": lambda f, x: f.dropout1d(x, 0.4),
    "dropout2d": lambda f, x: f.dropout2d(x[None], 0.4),
    "batch_norm": lambda f, x: f.batch_norm(x, None, None, training=True),
    "group_norm": lambda f, x: f.group_norm(x, 2),
    "instance_norm": lambda f, x: f.instance_norm(x),
    "layer_norm": lambda f, x: f.layer_norm(x, x.shape[-1:]),
    "rms_norm": lambda f, x: f.rms_norm(x, x.shape[-1:]),
    "layer_norm_of_two_axes": lambda f, x: f.layer_norm(x, x.shape[-2:]),
    "rms_norm_of_two_axes": lambda f, x: f.rms_norm(x, x.shape[-2:]),
}


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": None}, {"track_running_stats": False}, {"affine": False}, {"momentum": 0.5, "eps": 0.1}],
    ids=str,
)
@pytest.mark.parametrize("layout", ["1d", "2d", "channels_last"])
def test_batch_norm_has_the_results_of_pytorch_over_steps(layout, options, kernel_calls):
    """Training steps, then evaluation with a gradient: outputs, gradients, running statistics and their counter."""
    shape = X["1d" if layout == "1d" else "2d"]
    kind = nn.BatchNorm1d if layout == "1d" else nn.BatchNorm2d
    modules = twins(kind(8, **options))
    results = [[], []]
    for step in range(4):
        torch.manual_seed(step)
        x = 3 * torch.randn(shape) + 1
        if layout == "channels_last":
            x = x.to(memory_format=torch.channels_last)
        for module, dtype, found in zip(modules, (torch.float32, torch.float64), results, strict=True):
            module.train(step < 3)
            (leaf,) = fresh([x.requires_grad_()], dtype)
            y = module(leaf)
            assert y.is_contiguous(memory_format=torch.channels_last) == (layout == "channels_last")
            found += [y, *gradients_of(y, [leaf, *module.parameters()]), *module.buffers()]
    assert_close(*results)
    used = {"batch_norm_forward", "batch_norm_backward"}
    if options.get("track_running_stats", True):
        used |= {"batch_norm", "batch_norm_inference_backward"}
    assert {*kernel_calls} == used


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1}], ids=str)
@pytest.mark.parametrize("layout", ["1d", "2d", "channels_last"])
def test_group_norm_has_the_results_of_pytorch_in_both_modes(layout, options, kernel_calls):
    modules = twins(nn.GroupNorm(2, 8, **options))
    results = images_in_both_modes(modules, layout)
    assert_close(*results)
    assert {*kernel_calls} == {"group_norm_forward", "group_norm_backward"}


@pytest.mark.parametrize(
    "options",
    [{}, {"affine": True}, {"eps": 0.1}, {"track_running_stats": True}, {"track_running_stats": True, "momentum": 0.5}],
    ids=str,
)
@pytest.mark.parametrize("layout", ["1d", "2d", "channels_last"])
def test_instance_norm_has_the_results_of_pytorch_in_both_modes(layout, options, kernel_calls):
    kind = nn.InstanceNorm1d if layout == "1d" else nn.InstanceNorm2d
    modules = twins(kind(8, **options))
    assert_close(*images_in_both_modes(modules, layout))
    used = {"group_norm_forward", "group_norm_backward"}
    if "track_running_stats" in options:  # PyTorch computes the steps that update the running statistics
        used = {"batch_norm", "batch_norm_inference_backward"}
    assert {*kernel_calls} == used


def images_in_both_modes(modules, layout):
    """Outputs, gradients and buffers of a converted module and of PyTorch's in float64: two steps, then evaluation."""
    results = [[], []]
    for step in range(3):
        torch.manual_seed(step)
        x = 3 * torch.randn(X["1d" if layout == "1d" else "2d"]) + 1
        if layout == "channels_last":
            x = x.to(memory_format=torch.channels_last)
        for module, dtype, found in zip(modules, (torch.float32, torch.float64), results, strict=True):
            module.train(step < 2)
            (leaf,) = fresh([x.requires_grad_()], dtype)
            y = module(leaf)
            found += [y, *gradients_of(y, [leaf, *module.parameters()]), *module.buffers()]
    return results


def test_a_single_value_per_group_raises_the_error_of_pytorch(kernel_calls):
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        functional.group_norm(torch.randn(1, 4), 4)
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        functional.instance_norm(torch.randn(3, 4, 1))
    assert kernel_calls == []


@pytest.mark.parametrize("shape", [(5,), (8, 5), (6, 8, 5)])
@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm])
def test_norms_over_any_number_of_axes_have_the_results_of_pytorch(kind, shape, kernel_calls):
    """In training and evaluation; the kernels read the tensors as they are."""
    module = kind(shape)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    assert [entry.note for entry in ct.report(ct.convert(copy.deepcopy(module))).swapped] == [""]
    results = [[], []]
    x = 3 * torch.randn(6, 8, 5) + 1
    for converted, dtype, found in zip(twins(module), (torch.float32, torch.float64), results, strict=True):
        (leaf,) = fresh([x.requires_grad_()], dtype)
        y = converted(leaf)
        found += [y, *gradients_of(y, [leaf, *converted.parameters()])]
        with torch.no_grad():
            found.append(converted.eval()(leaf))
    assert_close(*results)
    name = "layer_norm" if kind is nn.LayerNorm else "rms_norm"
    assert kernel_calls == [f"{name}_forward", f"{name}_backward", name]


@pytest.mark.parametrize("name", OPS)
def test_second_derivatives_are_those_of_pytorch(name, kernel_calls):
    """Double backward uses the formula of PyTorch and the mask of the forward."""
    x = torch.randn(6, 4, 5, requires_grad=True)
    torch.manual_seed(3)
    y = OPS[name](functional, x)
    dy = torch.randn_like(y, requires_grad=True)
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
    (plain,) = torch.autograd.grad(y, x, dy.detach(), retain_graph=True)
    assert_close([dx], [plain.double()])
    v = torch.randn_like(dx)
    second = torch.autograd.grad(dx, (x, dy), v, allow_unused=True)
    x64, dy64 = (t.detach().double().requires_grad_() for t in (x, dy))
    if "dropout" in name:
        y64 = x64 * torch.autograd.grad(y, x, torch.ones_like(y))[0].double()
        y64 = y64.view_as(y)
    else:
        y64 = OPS[name](F, x64)
    (dx64,) = torch.autograd.grad(y64, x64, dy64, create_graph=True)
    expected = torch.autograd.grad(dx64, (x64, dy64), v.double(), allow_unused=True)
    assert (second[0] is None) == ("dropout" in name)
    assert_close([g for g in second if g is not None], [g for g in expected if g is not None], 1e-4)


@pytest.mark.parametrize("name", OPS)
def test_float64_passes_gradcheck(name, kernel_calls):
    """float64 tensors use the ops of PyTorch: first and second derivatives are right."""
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)

    def op(x):
        torch.manual_seed(0)
        return OPS[name](functional, x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.autograd.gradcheck(op, x)
        assert torch.autograd.gradgradcheck(op, x)
    assert kernel_calls == []


FALLBACKS = {
    "float64": lambda x: x.double(),
    "bfloat16": lambda x: x.bfloat16(),
    "float16": lambda x: x.half(),
    "meta": lambda x: x.to("meta"),
    "strided": lambda x: x.repeat(1, 2, 1)[:, ::2],
    "subclass": lambda x: x.as_subclass(type("Mine", (torch.Tensor,), {})),
    "negated view": lambda x: torch._neg_view(x),
    "sparse gradient of fake tensors": lambda x: torch._subclasses.FakeTensorMode().from_tensor(x),
}


@pytest.mark.parametrize("what", FALLBACKS)
@pytest.mark.parametrize("name", OPS)
def test_other_tensors_fall_back(name, what, kernel_calls):
    """Every tensor that is not plain, dense, float32 and on the CPU gives the result of PyTorch exactly."""
    x = FALLBACKS[what](torch.randn(6, 4, 5))
    results = []
    for module in (F, functional):
        torch.manual_seed(0)
        with torch.autocast("cpu", enabled=False):
            results.append(OPS[name](module, x))
    assert type(results[1]) is type(results[0])
    assert (results[1].dtype, results[1].device, results[1].shape) == (x.dtype, x.device, results[0].shape)
    if x.device.type == "cpu" and "fake" not in what:
        assert torch.equal(*results)
    assert kernel_calls == []


def test_transforms_fall_back(kernel_calls):
    """functorch, forward mode, dispatch modes and batched gradients of the norms."""
    x, v = torch.randn(6, 4, 5), torch.randn(6, 4, 5)
    for name in ("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"):

        def ours(x, name=name):
            return OPS[name](functional, x)

        def stock(x, name=name):
            return OPS[name](F, x)

        assert torch.equal(torch.func.jvp(ours, (x,), (v,))[1], torch.func.jvp(stock, (x,), (v,))[1])
        assert torch.equal(
            torch.func.grad(lambda x: ours(x).sin().sum())(x), torch.func.grad(lambda x: stock(x).sin().sum())(x)
        )
        if name in ("layer_norm", "rms_norm"):
            assert torch.equal(torch.vmap(ours)(x), torch.vmap(stock)(x))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, v)
            assert torch.autograd.forward_ad.unpack_dual(ours(dual)).tangent is not None
    assert kernel_calls == []
    leaf = x.clone().requires_grad_()
    for name in OPS:
        y = OPS[name](functional, leaf)
        dys = torch.randn(3, *y.shape)
        (batched,) = torch.autograd.grad(y, leaf, dys, is_grads_batched=True, retain_graph=True)
        single = [torch.autograd.grad(y, leaf, dy, retain_graph=True)[0] for dy in dys]
        assert_close([batched], [torch.stack(single).double()])


class Doubled(torch.nn.Parameter):
    """A parameter whose value PyTorch's ops see doubled."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            doubled = mapped(args, lambda x: 2 * x if isinstance(x, cls) else x)
            return function(*doubled, **mapped(kwargs or {}, lambda x: 2 * x if isinstance(x, cls) else x))


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("name", ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"])
def test_subclasses_among_the_parameters_fall_back(name, place, kernel_calls):
    """With a weight, bias or statistic that redefines PyTorch's ops, those ops compute."""
    x = torch.randn(6, 5)
    values = [torch.rand(5) + 1, torch.rand(5) + 1]
    values[place] = Doubled(values[place], requires_grad=False)
    calls = {
        "batch_norm": [lambda f: f.batch_norm(x, None, None, *values, True), lambda f: f.batch_norm(x, *values)],
        "group_norm": [lambda f: f.group_norm(x, 1, *values)],
        "instance_norm": [lambda f: f.instance_norm(x.expand(1, 6, 5).mT.contiguous(), None, None, *values)],
        "layer_norm": [lambda f: f.layer_norm(x, (5,), *values)],
        "rms_norm": [lambda f: f.rms_norm(x, (5,), values[0])] if place == 0 else [],
    }
    for call in calls[name]:
        assert torch.equal(call(functional), call(F))
    assert kernel_calls == []


def test_dispatch_modes_see_every_op(kernel_calls):
    """Under a dispatch mode PyTorch's ops compute forward and backward, so that the mode sees every op."""

    class Names(torch.utils._python_dispatch.TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen.append(function.__name__)
            return function(*args, **(kwargs or {}))

    x = torch.randn(6, 5, requires_grad=True)
    with Names() as forward:
        functional.layer_norm(x, (5,)).sum().backward()
    assert {"native_layer_norm.default", "native_layer_norm_backward.default"} <= {*forward.seen}
    assert kernel_calls == []
    y = functional.layer_norm(x, (5,))
    with Names() as backward:
        y.sum().backward()
    assert "native_layer_norm_backward.default" in backward.seen
    assert kernel_calls == ["layer_norm_forward"]


def small_model():
    images = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.ReLU(), nn.InstanceNorm2d(4)]
    flat = [nn.Dropout2d(0.0), nn.Flatten(), nn.Linear(36, 8)]
    return nn.Sequential(*images, *flat, nn.BatchNorm1d(8), nn.LayerNorm(8), nn.RMSNorm(8), nn.Dropout(0.0))


@kernels_in_graphs
@pytest.mark.parametrize("training", [True, False])
def test_graphs_of_a_converted_model_have_its_results(training, kernel_calls):
    """A compiled, exported, scripted or traced converted model has the results of PyTorch, by PyTorch's ops."""
    torch.manual_seed(0)
    stock = small_model().train(training)
    x = torch.randn(8, 2, 5, 5)
    expected = copy.deepcopy(stock)(x)

    def converted():
        return ct.convert(copy.deepcopy(stock))

    torch._dynamo.reset()
    graphs = {
        "compiled": torch.compile(converted(), backend="aot_eager", fullgraph=True),
        "scripted": torch.jit.script(converted()),
    }
    with warnings.catch_warnings():
        # PyTorch's norms look at the size of their input, and warn of that.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        graphs["traced"] = torch.jit.trace(converted(), x, check_trace=False)
    if not training:
        graphs["exported"] = torch.export.export(converted(), (x,)).module()
    for graph in graphs.values():
        torch.testing.assert_close(graph(x), expected)
    assert kernel_calls == []
    buffer = io.BytesIO()
    torch.jit.save(graphs["scripted"], buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.jit.load(buffer)(x), expected)


@pytest.mark.parametrize("training", [True, False])
def test_fx_keeps_converted_modules_whole(training, kernel_calls):
    """A symbolic trace has one node for each module; the graph computes and trains as the model."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, dropout=0.25, batch_first=True)
            self.norms = nn.Sequential(nn.LayerNorm(16), nn.RMSNorm(16), nn.BatchNorm1d(6), nn.Dropout1d(0.25))
            norms = nn.BatchNorm2d(6), nn.GroupNorm(2, 6), nn.InstanceNorm2d(6)
            self.images = nn.Sequential(*norms, nn.Dropout2d(0.25), nn.Dropout(0.25))
            self.encoder = nn.TransformerEncoderLayer(4, 2, 8)

        def forward(self, x):
            y, _ = self.attention(x, x, x, need_weights=False)
            return self.encoder(self.images(self.norms(y).unflatten(2, (4, 4))).flatten(0, 1))

    torch.manual_seed(0)
    model = Net().train(training)
    x = torch.randn(5, 6, 16)
    names = [node.target for node in torch.fx.symbolic_trace(model).graph.nodes]
    ct.convert(model)
    graph = torch.fx.symbolic_trace(model)
    assert [node.target for node in graph.graph.nodes] == names
    results = []
    for module in (model, graph):
        torch.manual_seed(1)
        y = module(x)
        results.append([y, *gradients_of(y, [*module.parameters()])])
    assert all(map(torch.equal, *results))
    assert {"batch_norm_forward", "dropout"} <= {*kernel_calls} if training else kernel_calls


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own
@pytest.mark.parametrize("dynamo", [True, False], ids=["exported program", "traced"])
def test_an_onnx_file_of_a_converted_model_has_its_results(dynamo, kernel_calls):
    """The file consists of PyTorch's ops; ONNX Runtime computes the results of the PyTorch model."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    if dynamo:
        pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    stock = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(), nn.Flatten(), nn.Linear(36, 8),
        nn.BatchNorm1d(8), nn.LayerNorm(8), nn.Dropout(), nn.TransformerEncoderLayer(8, 2, 16),
    ).eval()  # fmt: skip
    x = torch.randn(6, 2, 5, 5)
    expected = stock(x).detach()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of functions that it replaces and of constants in traces
        if dynamo:
            torch.onnx.export(ct.convert(stock), (x,), dynamo=True, verbose=False).save(buffer)
        else:
            torch.onnx.export(ct.convert(stock), (x,), buffer, dynamo=False)
    assert kernel_calls == []
    session = runtime.InferenceSession(buffer.getvalue())
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_attention_and_dropout_train(dtype, kernel_calls):
    """torch.compile of a converted transformer layer uses PyTorch's ops and gives gradients."""
    torch.manual_seed(0)
    layer = ct.convert(nn.TransformerEncoderLayer(16, 2, 32, dropout=0.2, batch_first=True)).to(dtype)
    x = torch.randn(3, 7, 16, dtype=dtype)
    torch._dynamo.reset()
    torch.compile(layer, backend="aot_eager")(x).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert kernel_calls == []


def test_memory_is_shared_and_recycled(without_library):
    """A kernel reads the memory of the tensor; that of a large output returns to the pool with the tensor."""
    seen = []
    original = autograd.kernels.layer_norm

    def spy(x, *args, **kwargs):
        y = original(x, *args, **kwargs)
        seen.append((x.ctypes.data, y.ctypes.data))
        return y

    x = torch.randn(2048, 512)
    cregkit.clear_pool()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autograd.kernels, "layer_norm", spy)
        y = functional.layer_norm(x, (512,))
    assert seen == [(x.data_ptr(), y.data_ptr())]
    part = y[:1]
    held = cregkit.show_config()["pool"]
    del y
    gc.collect()
    assert cregkit.show_config()["pool"] == held  # a view of it is alive
    address = part.data_ptr()
    del part
    gc.collect()
    assert cregkit.show_config()["pool"] != held
    again = functional.layer_norm(x, (512,))
    assert again.data_ptr() == address


@pytest.mark.parametrize("n", [50, 5000, 300_000])
def test_dropout_follows_manual_seed(n):
    """manual_seed reproduces the mask for any number of threads; backward has the same mask; the next one differs."""
    x = torch.randn(n) + 3
    masks = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(5)
            leaf = x.clone().requires_grad_()
            y = functional.dropout(leaf, 0.3)
            y.sum().backward()
            assert torch.equal(leaf.grad * x, y)
            masks.append(y)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], functional.dropout(x, 0.3))
    kept = float((masks[0] != 0).float().mean())
    assert abs(kept - 0.7) <= 5 * (0.21 / n) ** 0.5


def test_masks_are_those_of_dropout_keep():
    """Small, large, transposed and in place: a seed gives the mask of cregkit.dropout_keep, in the order of memory."""
    for shape in ((64, 100), (512, 300)):
        x = torch.rand(shape) + 1
        torch.manual_seed(1)
        seed = bridge.draw_seed()
        keep = torch.from_numpy(cregkit.dropout_keep(shape, 0.4, seed=seed))
        torch.manual_seed(1)
        assert torch.equal(functional.dropout(x, 0.4) != 0, keep)
        torch.manual_seed(1)
        y = functional.dropout(x.t(), 0.4)
        assert torch.equal(y.t() != 0, keep)
        assert y.stride() == x.t().stride()
        torch.manual_seed(1)
        assert functional.dropout(x, 0.4, inplace=True) is x
        assert torch.equal(x != 0, keep)


def test_inplace_dropout_of_a_saved_tensor_is_an_error(kernel_calls):
    """Overwriting a tensor that backward needs is an error, as in PyTorch; otherwise gradients are right."""
    x = torch.rand(8, 6, requires_grad=True)
    for module in (F, functional):
        saved = x.exp()  # its backward needs the result
        y = module.dropout(saved, 0.5, inplace=True)
        assert y is saved
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
    y = functional.dropout1d(x[None] * 2, 0.5, inplace=True)
    y.sum().backward()
    assert torch.equal(x.grad, torch.where(y[0] != 0, 4.0, 0.0))


def test_inplace_dropout_of_a_leaf_is_an_error_that_changes_nothing(kernel_calls):
    leaf = torch.rand(6, 4, requires_grad=True)
    before = leaf.detach().clone()
    for x in (leaf, leaf.t(), leaf[:3]):
        with pytest.raises(RuntimeError, match="in-place operation"):
            functional.dropout(x, 0.5, inplace=True)
        assert torch.equal(leaf, before)
    with torch.no_grad():
        functional.dropout(leaf, 0.5, inplace=True)
    assert not torch.equal(leaf, before)


def test_inplace_dropout_of_a_view_has_the_right_gradient(kernel_calls):
    """The gradient of the whole tensor is dropped where its view was dropped."""
    x = torch.rand(6, 4, requires_grad=True)
    whole = x * 2
    functional.dropout(whole[:3], 0.5, inplace=True)
    whole.sum().backward()
    assert torch.equal(x.grad[3:], torch.full((3, 4), 2.0))
    assert torch.equal(x.grad[:3], torch.where(whole[:3] == 0, 0.0, 4.0))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_inplace_dropout_drops_nan_and_inf(bad, kernel_calls):
    for name, shape in (("dropout", (64, 50)), ("dropout1d", (8, 6, 5)), ("dropout2d", (8, 6, 5, 5))):
        x = torch.full(shape, bad, requires_grad=True)
        y = getattr(functional, name)(x.clone(), 0.5, inplace=True)
        dropped = y == 0
        assert dropped.any()
        assert not dropped.all()
        y.backward(torch.full_like(y, bad))
        assert torch.equal(x.grad == 0, dropped)


@pytest.mark.filterwarnings("ignore:`torch.cpu.amp.autocast:FutureWarning")  # of PyTorch 2.4's own code
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_recomputes_the_same_mask(reentrant, kernel_calls):
    torch.manual_seed(0)
    model = ct.convert(nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.Dropout(0.4), nn.Linear(32, 16)))
    x = torch.randn(8, 16, requires_grad=True)
    gradients = []
    for run in (model, lambda x: checkpoint(model, x, use_reentrant=reentrant)):
        torch.manual_seed(9)
        y = run(x)
        gradients.append([y.detach(), *torch.autograd.grad(y.sin().sum(), [x, *model.parameters()])]
                         if not reentrant else [y.detach(), *backward(y, model)])  # fmt: skip
    assert all(map(torch.equal, *gradients))


def backward(y, model):
    model.zero_grad()
    y.sin().sum().backward()
    return [parameter.grad for parameter in model.parameters()]


def test_modules_in_python_threads_give_the_same_results(kernel_calls):
    """Replicas in threads, as in DataParallel, have the results of sequential calls."""
    model = ct.convert(nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.ReLU(), nn.RMSNorm(64), nn.Linear(64, 8)))
    batches = [torch.randn(100, 32) for _ in range(8)]
    expected = [model(x).detach() for x in batches]
    found = [None] * 8

    def work(i):
        for _ in range(20):
            y = model(batches[i])
            torch.autograd.grad(y.sum(), list(model.parameters()))
            found[i] = y.detach()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(map(torch.equal, found, expected))


def test_kernels_use_the_number_of_threads_of_pytorch(monkeypatch, without_library):
    """A kernel uses PyTorch's number of threads; that of cregkit does not change."""
    seen = []
    monkeypatch.setattr(
        autograd.kernels, "layer_norm", lambda x, *_, **__: (seen.append(cregkit.get_num_threads()), x)[1]
    )
    before, own = torch.get_num_threads(), cregkit.get_num_threads()
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            functional.layer_norm(torch.zeros(1024, 1024), (1024,))
            assert cregkit.get_num_threads() == own
    finally:
        torch.set_num_threads(before)
    assert seen == ([1, 2, 5] if cregkit.show_config()["openmp"] else [1, 1, 1])


def test_functional_reads_tensors_in_place():
    """cregkit.functional reads tensors in place, and refuses those it cannot read."""
    x = torch.randn(16, 8)
    assert torch.equal(torch.from_numpy(cregkit.layer_norm(x)), torch.from_numpy(cregkit.layer_norm(x.numpy())))
    out = torch.empty(16, 8)
    cregkit.functional.layer_norm(x, out=out if torch.__version__ >= (2, 9) else out.numpy())  # DLPack was read-only
    assert torch.equal(out, torch.from_numpy(cregkit.layer_norm(x)))
    for bad in (x.double(), x.t(), x.clone().requires_grad_(), x.to("meta"), x.bfloat16(), x.to_sparse()):
        with pytest.raises((TypeError, ValueError), match="x "):
            cregkit.functional.layer_norm(bad)


def test_functional_reads_jax_arrays():
    jax = pytest.importorskip("jax")
    x = np.random.default_rng(0).standard_normal((16, 8), dtype=np.float32)
    assert np.array_equal(cregkit.layer_norm(jax.numpy.asarray(x)), cregkit.layer_norm(x))
    with pytest.raises(TypeError, match="x must be float32"):
        cregkit.layer_norm(jax.numpy.asarray(x).astype("float16"))


def test_layer_norm_is_accurate_far_from_zero():
    """Rows around 1e5, where plain float32 sums lose the variance."""
    x = 1e5 + torch.randn(512, 512)
    y = F.layer_norm(x.double(), (512,))
    assert float((functional.layer_norm(x, (512,)) - y).abs().max()) <= 2e-6


MASKS = {
    "none": lambda n, h, t, s: {},
    "causal": lambda n, h, t, s: {"attn_mask": torch.triu(torch.ones(t, s, dtype=torch.bool), 1), "is_causal": True},
    "float": lambda n, h, t, s: {"attn_mask": torch.randn(t, s)},
    "per head": lambda n, h, t, s: {"attn_mask": torch.rand(n * h, t, s) > 0.8},
    "padding": lambda n, h, t, s: {
        "key_padding_mask": torch.arange(s).expand(n, s) >= s - 1 - torch.arange(n)[:, None]
    },
    "both": lambda n, h, t, s: {
        "attn_mask": torch.rand(t, s) > 0.9,
        "key_padding_mask": torch.arange(s).expand(n, s) >= s - 1,
    },
    "hopeless rows": lambda n, h, t, s: {"attn_mask": (torch.arange(t) == 1)[:, None].expand(t, s)},
}
TINY = 1e-12  # drops nothing, but uses the code of dropout


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"kdim": 6, "vdim": 10}, {"bias": False}], ids=str)
def test_attention_has_the_results_of_pytorch(options, need_weights, masks, kernel_calls):
    """Outputs, weights and gradients against PyTorch in float64, with a p that drops nothing."""
    if masks == "hopeless rows" and not need_weights and torch.__version__ < (2, 5):
        pytest.skip("this PyTorch returns NaN for a row without keys")
    torch.manual_seed(0)
    n, h, t, s, e = 3, 2, 5, 7, 8
    shapes = [(t, n, e), (s, n, options.get("kdim", e)), (s, n, options.get("vdim", e))]
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    if options.get("batch_first"):
        inputs = [x.detach().transpose(0, 1).contiguous().requires_grad_() for x in inputs]
    given = MASKS[masks](n, h, t, s)
    ours, stock = twins(nn.MultiheadAttention(e, h, dropout=TINY, **options))
    stock.dropout = 0.0
    for average in (True, False):
        results = []
        for module, dtype in ((ours, torch.float32), (stock, torch.float64)):
            leaves, masks_given = fresh((inputs, given), dtype)
            y = module(*leaves, need_weights=need_weights, average_attn_weights=average, **masks_given)
            assert (y[1] is None) == (not need_weights)
            y = [z for z in y if z is not None]
            results.append([*y, *gradients_of(y, [*leaves, *module.parameters()])])
        assert_close(*results)
    assert {*kernel_calls} == {"dropout", "dropout_backward"}


@pytest.mark.parametrize("batched", [True, False])
def test_attention_drops_and_scales_its_weights(batched, kernel_calls):
    """Weights are 0 or softmax / (1 - p); first and second derivatives match finite differences."""
    torch.manual_seed(0)
    module = ct.MultiheadAttention(8, 2, dropout=0.3)
    exact = nn.MultiheadAttention(8, 2).eval()
    exact.load_state_dict(module.state_dict())
    x = torch.randn((20, 6, 8) if batched else (20, 8))
    _, weights = module(x, x, x, average_attn_weights=False)
    _, full = exact(x, x, x, average_attn_weights=False)
    kept = weights != 0
    torch.testing.assert_close(weights[kept], full[kept] / 0.7)
    assert abs(float(kept.float().mean()) - 0.7) <= 5 * (0.21 / kept.numel()) ** 0.5

    def loss(x, double=False):
        torch.manual_seed(2)
        y, weights = module(x, x, x)
        return (y.sin().sum() + (weights**2).sum()) * 1.0

    leaf = x.clone().requires_grad_()
    (dx,) = torch.autograd.grad(loss(leaf), leaf)
    leaf2 = x.clone().requires_grad_()
    (graph,) = torch.autograd.grad(loss(leaf2), leaf2, create_graph=True)
    torch.testing.assert_close(graph, dx, rtol=1e-4, atol=1e-5)
    v = torch.randn_like(x)
    (second,) = torch.autograd.grad(graph, leaf2, v)
    step = 1e-2
    numeric = (loss(x + step * v) - loss(x - step * v)) / (2 * step)
    torch.testing.assert_close(numeric.detach(), (dx * v).sum(), rtol=2e-2, atol=2e-2)
    ahead, behind = ((x + side * step * v).requires_grad_() for side in (1, -1))
    difference = torch.autograd.grad(loss(ahead), ahead)[0] - torch.autograd.grad(loss(behind), behind)[0]
    torch.testing.assert_close(difference / (2 * step), second, rtol=5e-2, atol=0.1)


def test_attention_raises_the_errors_of_pytorch(kernel_calls):
    """Wrong shapes raise the errors of PyTorch."""
    ours, stock = ct.MultiheadAttention(8, 2, dropout=0.2), nn.MultiheadAttention(8, 2, dropout=0.2)
    x = torch.randn(5, 3, 8)
    bad = [
        ((x, x[:4], x), {}),
        ((x, x, x[0]), {}),
        ((x[..., :7], x, x), {}),
        ((x, x, x), {"attn_mask": torch.zeros(4, 4)}),
        ((x, x, x), {"key_padding_mask": torch.zeros(4, 4)}),
        ((x, x, x), {"is_causal": True}),
        ((x[None], x[None], x[None]), {}),
    ]
    for args, kwargs in bad:
        with pytest.raises(Exception) as expected:  # noqa: PT011
            stock(*args, **kwargs)
        with pytest.raises(expected.type) as found:
            ours(*args, **kwargs)
        assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("batch_first", [True, False])
def test_an_encoder_in_evaluation_has_the_results_of_pytorch(batch_first):
    """A converted layer has the results of both the fast and the ordinary path of PyTorch."""
    torch.manual_seed(0)
    stock = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(64, 4, 128, batch_first=batch_first), 2, enable_nested_tensor=False
    ).eval()
    ours = ct.convert(copy.deepcopy(stock))
    x = torch.randn(64, 32, 64)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(ours(x), stock(x))
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), stock(x))


def test_kernels_compute_in_inference_mode_and_no_grad(kernel_calls):
    """Kernels compute without gradients too, and save nothing for a backward."""
    model = ct.convert(nn.Sequential(nn.LayerNorm(8), nn.RMSNorm(8), nn.BatchNorm1d(8), nn.Dropout(0.5)))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y = model(torch.randn(16, 8))
        assert not y.requires_grad
    assert {*kernel_calls} == {"layer_norm", "rms_norm", "batch_norm_forward", "dropout"}


@pytest.mark.filterwarnings("ignore:Mismatch dtype:UserWarning")  # PyTorch's own, of RMSNorm
def test_autocast_gives_the_dtypes_of_pytorch(kernel_calls):
    """Under autocast results have the dtypes of PyTorch."""
    torch.manual_seed(0)
    stock = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.RMSNorm(8))
    ours = ct.convert(copy.deepcopy(stock))
    attention = ct.MultiheadAttention(8, 2, dropout=0.1)
    x = torch.randn(16, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x), stock(x))
        assert attention(x, x, x)[0].dtype == nn.MultiheadAttention(8, 2, dropout=0.1)(x, x, x)[0].dtype


def test_an_old_pytorch_is_refused():
    with pytest.raises(ImportError, match=r"needs PyTorch 2\.4 or newer, got 1\.13\.1: pip install --upgrade"):
        _requirements.check("1.13.1")


def test_a_pytorch_built_from_source_is_accepted():
    _requirements.check("2.10.0a0+git")


def test_without_pytorch_the_error_says_what_to_install():
    done = run_python("-c", "import sys; sys.modules['torch'] = None; import cregkit.torch")
    assert (
        "ImportError: cregkit.torch needs PyTorch, which is not installed: pip install 'cregkit[torch]'" in done.stderr
    )


def test_no_other_room_imports_pytorch():
    done = run_python(
        "-c", "import sys, cregkit.functional, cregkit.layers, cregkit.commands; print('torch' in sys.modules)"
    )
    assert done.stdout == "False\n"


@pickles
def test_modules_can_be_pickled_and_deep_copied():
    module = ct.BatchNorm2d(4)
    module(torch.randn(8, 4, 5, 5))
    for again in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert type(again) is ct.BatchNorm2d
        assert all(map(torch.equal, tensors_in(again.state_dict()), tensors_in(module.state_dict())))
