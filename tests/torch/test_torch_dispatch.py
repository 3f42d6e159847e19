"""The kernels in PyTorch's dispatcher: results, what PyTorch's transforms make of them, and the switch."""

from __future__ import annotations

import threading
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
from support import run_python

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch_support import Taken  # noqa: E402

import cregkit  # noqa: E402
import cregkit.torch  # noqa: E402
from cregkit.torch import dispatch  # noqa: E402

pytestmark = pytest.mark.skipif(dispatch.library is None, reason="cregkit was built without PyTorch")

TYPES = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
"""The largest error of results, relative to their largest magnitude: a rounding to the type, or two of float32."""


def last(x):
    return x.to(memory_format=torch.channels_last)


NORMS = {
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (48,), w, b), (9, 7, 48), 48),
    "layer_norm, long rows": (lambda x, w, b: F.layer_norm(x, (5000,), w, b), (20, 5000), 5000),
    "layer_norm, few wide rows": (lambda x, w, b: F.layer_norm(x, (9000,), w, b), (3, 9000), 9000),
    "layer_norm, two axes": (lambda x, w, b: F.layer_norm(x, (6, 8), w.view(6, 8), b.view(6, 8)), (9, 6, 8), 48),
    "layer_norm, permuted": (lambda x, w, b: F.layer_norm(x.permute(0, 2, 3, 1), (32,), w, b), (3, 32, 5, 6), 32),
    "layer_norm, sliced": (lambda x, w, b: F.layer_norm(x[:, 1], (48,), w, b), (9, 7, 48), 48),
    "rms_norm": (lambda x, w, b: F.rms_norm(x, (48,), w) + 0 * b, (9, 7, 48), 48),
    "rms_norm, permuted": (lambda x, w, b: F.rms_norm(x.permute(0, 2, 3, 1), (32,), w) + 0 * b, (3, 32, 5, 6), 32),
    "batch_norm": (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), (64, 40), 40),
    "batch_norm, planes": (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), (9, 16, 5, 7), 16),
    "batch_norm, last": (lambda x, w, b: F.batch_norm(last(x), None, None, w, b, True), (9, 16, 5, 7), 16),
    "batch_norm, 3d": (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), (4, 6, 3, 5, 7), 6),
    "group_norm": (lambda x, w, b: F.group_norm(x, 4, w, b), (9, 16, 5, 7), 16),
    "group_norm, last": (lambda x, w, b: F.group_norm(last(x), 4, w, b), (9, 16, 5, 7), 16),
    "instance_norm": (lambda x, w, b: F.instance_norm(x, None, None, w, b), (9, 16, 5, 7), 16),
}
OF = {name: "batch_norm" if name == "instance_norm" else name.partition(",")[0] for name in NORMS}


def parameters(c, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(c, generator=generator) + 0.5).to(dtype), torch.randn(c, generator=generator).to(dtype)


def results(norm, x, w, b, wide=False):
    """Output and gradients."""
    leaves = [(a.double() if wide else a).detach().clone().requires_grad_() for a in (x, w, b)]
    y = norm(*leaves)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(x.dtype).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_norms_have_the_results_of_float64_and_the_tensors_of_pytorch(name, dtype, kernels):
    norm, shape, c = NORMS[name]
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 2 + 1).to(dtype)
    with Taken(OF[name]) as taken:
        ours = results(norm, x, *parameters(c, dtype))
    assert taken.calls[OF[name]] == (1 if OF[name] == "rms_norm" else 2)
    cregkit.torch.disable()
    stock = results(norm, x, *parameters(c, dtype))
    exact = results(norm, x, *parameters(c, dtype), wide=True)
    for a, s, e in zip(ours, stock, exact, strict=True):
        assert (a.dtype, a.shape, a.stride()) == (s.dtype, s.shape, s.stride())
        assert float((a.double() - e).abs().max()) <= TYPES[dtype] * max(float(e.abs().max()), 1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", [name for name in NORMS if OF[name] != "rms_norm" and name != "instance_norm"])
def test_norms_of_16_bits_take_float32_parameters(name, dtype, kernels):
    norm, shape, c = NORMS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    with Taken(OF[name]):
        ours = results(norm, x, *parameters(c))
    cregkit.torch.disable()
    stock, exact = results(norm, x, *parameters(c)), results(norm, x, *parameters(c), wide=True)
    for a, s, e in zip(ours, stock, exact, strict=True):
        assert (a.dtype, a.shape, a.stride()) == (s.dtype, s.shape, s.stride())
        assert float((a.double() - e).abs().max()) <= TYPES[dtype] * max(float(e.abs().max()), 1.0)


@pytest.mark.parametrize("name", [name for name in NORMS if OF[name] != "rms_norm"])
def test_gradients_are_right_far_from_zero(name, kernels):
    """x = 1e6 + N(0, 1): PyTorch's layer norm is off by 1e-2 there."""
    norm, shape, c = NORMS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 1e6
    weight, bias = torch.ones(c), torch.zeros(c)
    exact, *_ = NORMS[name.replace(", last", "")]  # with channels last, PyTorch's float64 is off by 1e-4
    for a, e in zip(results(norm, x, weight, bias), results(exact, x, weight, bias, wide=True), strict=True):
        assert float((a.double() - e).abs().max()) <= 3e-6 * float(e.abs().max())


def test_results_have_the_bits_of_the_numpy_functions(kernels):
    x, (w, b) = torch.randn(300, 96), parameters(96)
    assert np.array_equal(F.layer_norm(x, (96,), w, b).numpy(), cregkit.layer_norm(x.numpy(), w.numpy(), b.numpy()))
    assert np.array_equal(F.rms_norm(x, (96,), w, 1e-6).numpy(), cregkit.rms_norm(x.numpy(), w.numpy(), 1e-6))
    y = F.group_norm(x, 8, w, b)
    assert np.array_equal(y.numpy(), cregkit.group_norm(x.numpy(), 8, w.numpy(), b.numpy()))
    y, mean, rstd = cregkit.batch_norm_forward(x.numpy(), w.numpy(), b.numpy())
    assert np.array_equal(F.batch_norm(x, None, None, w, b, True).numpy(), y)
    dx, dw, db = cregkit.batch_norm_backward(x.numpy(), x.numpy(), mean, rstd, w.numpy())
    coarse = torch.full((96,), float("nan"))  # statistics that are computed again
    ours = torch.ops.aten.native_batch_norm_backward(
        x, x, w, None, None, coarse, coarse, True, 1e-5, [True, True, True]
    )
    assert all(np.array_equal(a.numpy(), e) for a, e in zip(ours, (dx, dw, db), strict=True))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_tracks_running_statistics(momentum, layout, dtype, kernels):
    models = [nn.BatchNorm2d(12, momentum=momentum).to(dtype) for _ in range(2)]
    x = torch.randn(3, 8, 12, 4, 4, generator=torch.Generator().manual_seed(0))
    outputs = []
    for model, on in zip(models, (True, False), strict=True):
        cregkit.torch.enable() if on else cregkit.torch.disable()
        steps = [model(batch.to(dtype).to(memory_format=layout)) for batch in x]
        with Taken(*["batch_norm"] * on):
            outputs.append([*steps, model.eval()(x[0].to(dtype).to(memory_format=layout))])
    for ours, stock in zip([*outputs[0], *models[0].buffers()], [*outputs[1], *models[1].buffers()], strict=True):
        assert (ours.dtype, ours.stride()) == (stock.dtype, stock.stride())
        assert torch.allclose(ours.float(), stock.float(), rtol=2 * TYPES[dtype], atol=2 * TYPES[dtype])


@pytest.mark.parametrize("training", [True, False])
def test_native_ops_return_the_statistics_of_pytorch(training, kernels):
    x, (w, b) = torch.randn(8, 6, 5), parameters(6)
    calls = [
        lambda: torch.ops.aten.native_layer_norm(x, (5,), None, None, 1e-5),
        lambda: torch.ops.aten.native_layer_norm(x.bfloat16(), (5,), torch.ones(5), None, 1e-5),
        lambda: torch.ops.aten.native_batch_norm(x, w, b, torch.zeros(6), torch.ones(6), training, 0.1, 1e-5),
        lambda: torch.ops.aten.native_batch_norm(x.half(), w, b, torch.zeros(6), torch.ones(6), training, 0.1, 1e-5),
        lambda: torch.ops.aten.native_group_norm(x, w, b, 8, 6, 5, 2, 1e-5),
    ]
    for call in calls:
        ours = call()
        cregkit.torch.disable()
        for a, s in zip(ours, call(), strict=True):
            assert (a.dtype, a.shape) == (s.dtype, s.shape)
            assert torch.allclose(a.float(), s.float(), rtol=1e-2, atol=1e-2)
        cregkit.torch.enable()


# ---- dropout ----


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_dropout_drops_scales_and_draws_the_mask_again(dtype, kernels):
    x = (torch.rand(64, 300) + 1).to(dtype).requires_grad_()
    with Taken("dropout"):
        y = F.dropout(x, 0.25)
    y.sum().backward()
    kept = y != 0
    assert torch.equal(kept, x.grad != 0)
    assert torch.equal(y[kept], (x.detach()[kept].float() * np.float32(1 / 0.75)).to(dtype))
    assert abs(float(kept.double().mean()) - 0.75) < 5 * (0.25 * 0.75 / x.numel()) ** 0.5


def test_dropout_saves_no_mask(kernels):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        F.dropout(torch.ones(64, 64, requires_grad=True), 0.5)
    assert not saved


def test_dropout_drops_nan(kernels):
    y = F.dropout(torch.full((10_000,), float("nan")), 0.5)
    assert set(y.isnan().tolist()) == {True, False}
    assert torch.equal(y[~y.isnan()], torch.zeros(int((~y.isnan()).sum())))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x[:, 1],
        lambda x: x.permute(0, 2, 1, 3),
        lambda x: x[:, :, ::2],
        lambda x: x[0, 0, :1].expand(5, 9),
        lambda x: x.transpose(1, 3)[1:],
    ],
    ids=["contiguous", "sliced", "permuted", "gaps", "expanded", "transposed"],
)
def test_dropout_of_any_layout_has_the_strides_of_pytorch(view, kernels):
    x = torch.rand(4, 5, 6, 9) + 1
    cregkit.torch.disable()
    strides = F.dropout(view(x), 0.4).stride()
    cregkit.torch.enable()
    z = view(x.requires_grad_())
    y = F.dropout(z, 0.4)
    assert y.stride() == strides
    for dy in (torch.ones_like(y), torch.ones(y.shape), torch.ones(y.shape[::-1]).permute(*range(y.dim() - 1, -1, -1))):
        (dz,) = torch.autograd.grad(y, z, dy, retain_graph=True)
        assert torch.allclose(y, z * dz)
        assert set(dz.unique().tolist()) <= {0.0, float(np.float32(1 / 0.6))}


def test_manual_seed_decides_the_masks(kernels):
    x = torch.ones(50, 50)

    def draws():
        return F.dropout(x, 0.5), torch.empty(100).bernoulli_(0.3), F.alpha_dropout(x, 0.5, True)

    torch.manual_seed(3)
    first = draws()
    second = draws()
    torch.manual_seed(3)
    assert all(torch.equal(a, b) for a, b in zip(first, draws(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    torch.manual_seed(3)
    with torch.random.fork_rng():
        draws()
    assert all(torch.equal(a, b) for a, b in zip(first, draws(), strict=True))
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    a, b = (torch.empty(1000).bernoulli_(0.3, generator=generator) for generator in generators)
    assert torch.equal(a, b)
    assert 200 < int(a.sum()) < 400


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_masks_do_not_depend_on_the_threads(threads, kernels):
    before = torch.get_num_threads()
    x = torch.ones(200_000)
    torch.manual_seed(0)
    expected = F.dropout(x, 0.5)
    try:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        assert torch.equal(F.dropout(x, 0.5), expected)
    finally:
        torch.set_num_threads(before)


def drop_path(x):
    return x * x.new_empty(x.shape[0], 1, 1).bernoulli_(0.5)


COVERED = {
    "Dropout": ("dropout", lambda x: nn.Dropout(0.5)(x)),
    "F.dropout": ("dropout", lambda x: F.dropout(x)),
    "torch.dropout": ("dropout", lambda x: torch.dropout(x, 0.5, True)),
    "LSTM": ("dropout", lambda x: nn.LSTM(16, 8, num_layers=2, dropout=0.5)(x)[0]),
    "GRU": ("dropout", lambda x: nn.GRU(16, 8, num_layers=2, dropout=0.5)(x)[0]),
    "attention": ("dropout", lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.5)),
    "MultiheadAttention": ("dropout", lambda x: nn.MultiheadAttention(16, 2, dropout=0.5)(x, x, x)[0]),
    "Dropout1d": ("bernoulli", lambda x: nn.Dropout1d(0.5)(x)),
    "Dropout2d": ("bernoulli", lambda x: nn.Dropout2d(0.5)(x[None])),
    "Dropout3d": ("bernoulli", lambda x: nn.Dropout3d(0.5)(x[None, None])),
    "AlphaDropout": ("bernoulli", lambda x: nn.AlphaDropout(0.5)(x)),
    "in place": ("bernoulli", lambda x: F.dropout(x.clone(), inplace=True)),
    "DropPath": ("bernoulli", drop_path),
    "InstanceNorm1d": ("batch_norm", lambda x: nn.InstanceNorm1d(6)(x)),
    "LayerNorm": ("layer_norm", lambda x: nn.LayerNorm(16)(x)),
    "RMSNorm": ("rms_norm", lambda x: nn.RMSNorm(16)(x)),
    "GroupNorm": ("group_norm", lambda x: nn.GroupNorm(2, 6)(x)),
    "BatchNorm1d": ("batch_norm", lambda x: nn.BatchNorm1d(6)(x)),
}


@pytest.mark.parametrize("name", COVERED)
def test_every_caller_of_an_op_is_covered(name, kernels):
    op, call = COVERED[name]
    x = torch.randn(4, 6, 16, requires_grad=True)
    with Taken(op):
        y = call(x)
    y.sum().backward()
    assert bool(x.grad.isfinite().all())


# ---- what PyTorch does with ops ----

OPS = {
    "layer_norm": lambda x, w, b: F.layer_norm(x, (6,), w, b),
    "rms_norm": lambda x, w, b: F.rms_norm(x, (6,), w) + b,
    "batch_norm": lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
    "inference": lambda x, w, b: F.batch_norm(x, torch.full((6,), 0.1), torch.full((6,), 2.0), w, b, False),
    "group_norm": lambda x, w, b: F.group_norm(x, 2, w, b),
    "dropout": lambda x, w, b: F.dropout(x, 0.5) * w + b,
}


def penalty(f, x, w, b):
    y = f(x, w, b)
    (dx,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
    return torch.autograd.grad((dx**2).sum(), (x, w))


def batched(f, x, w, b):
    y = f(x, w, b)
    dy = torch.randn(3, *y.shape, generator=torch.Generator().manual_seed(4))
    return torch.autograd.grad(y, (x, w, b), dy, is_grads_batched=True)


USES = {
    "gradient penalty": penalty,
    "batched gradients": batched,
    "jvp": lambda f, *xs: torch.func.jvp(f, xs, tuple(map(torch.ones_like, xs))),
    "vhp": lambda f, *xs: torch.autograd.functional.vhp(
        lambda *a: (f(*a) ** 2).sum(), xs, tuple(map(torch.ones_like, xs))
    )[1],
    "hessian": lambda f, x, w, b: torch.func.hessian(lambda w: (f(x, w, b) ** 2).sum())(w),
    "jacrev": lambda f, *xs: torch.func.jacrev(f, (0, 1, 2))(*xs),
    "jacfwd": lambda f, *xs: torch.func.jacfwd(f, (0, 1, 2))(*xs),
    "vmap": lambda f, x, w, b: torch.vmap(lambda x: f(x, w, b), randomness="different")(torch.stack([x, x + 1])),
    "grad of vmap": lambda f, x, w, b: torch.func.grad(
        lambda w: torch.vmap(lambda x: f(x, w, b), randomness="same")(torch.stack([x, 2 * x])).pow(2).sum()
    )(w),
    "functional_call": lambda f, *xs: torch.func.vjp(f, *xs)[1](torch.ones(8, 6)),
    "saved tensors": lambda f, *xs: hooked(f, *xs),
    "checkpoint": lambda f, *xs: checkpointed(f, *xs),
}


def hooked(f, *xs):
    """Hooks that transpose in memory, and change the dtype."""
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (t.double().t().contiguous() if t.dim() == 2 else t, t.dtype),
        lambda saved: (saved[0].t() if saved[0].dim() == 2 else saved[0]).to(saved[1]),
    ):
        y = f(*xs)
    return torch.autograd.grad((y**2).sum(), xs)


def checkpointed(f, *xs):
    y = torch.utils.checkpoint.checkpoint(f, *xs, use_reentrant=False)
    gradients = torch.autograd.grad(y.sum(), xs)
    return y, *gradients


def tensors_of(value):
    return [value] if isinstance(value, torch.Tensor) else [t for part in value for t in tensors_of(part)]


def outcome_of(use, op):
    leaves = (torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), *parameters(6))
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tensors_of(use(op, *(x.detach().clone().requires_grad_() for x in leaves)))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", [name for name in OPS if name != "dropout"])
def test_norms_transform_as_pytorchs_do(name, use, kernels):
    ours = outcome_of(USES[use], OPS[name])
    cregkit.torch.disable()
    if use == "saved tensors":  # PyTorch's group norm expects the memory order that it saved
        expected = outcome_of(lambda f, *xs: torch.autograd.grad((f(*xs) ** 2).sum(), xs), OPS[name])
    else:
        expected = outcome_of(USES[use], OPS[name])
    for a, s in zip(ours, expected, strict=True):
        assert torch.allclose(a, s, rtol=1e-4, atol=1e-4 * max(1.0, float(s.detach().abs().max())))


@pytest.mark.parametrize("use", [use for use in USES if use not in ("hessian", "jacfwd")])
def test_dropout_transforms(use, kernels):
    """Those whose vmap allows random numbers."""
    assert all(bool(t.isfinite().all()) for t in outcome_of(USES[use], OPS["dropout"]))


def test_second_derivatives_of_dropout_have_its_mask(kernels):
    x = (torch.rand(100) + 1).requires_grad_()
    y = F.dropout(x, 0.5)
    (dx,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
    (ddx,) = torch.autograd.grad(dx.sum(), x)
    assert torch.allclose(ddx, torch.where(y == 0, 0.0, 8.0))
    y = F.dropout(x, 0.5)
    batch = torch.autograd.grad(y, x, torch.eye(100), is_grads_batched=True)[0]
    assert torch.allclose(batch, torch.diag((y / x).detach()))


@pytest.mark.parametrize("name", OPS)
def test_outputs_and_gradients_can_be_resized(name, kernels):
    for scale in (1, 200_000, 1_200_000):  # malloc's memory, the pool's for outputs, the pool's for gradients too
        x, (w, b) = torch.randn(8, 6).repeat(max(1, scale // 48), 1), parameters(6)
        x.requires_grad_()
        y = OPS[name](x, w, b)
        (dx,) = torch.autograd.grad(y.sum(), x)
        for tensor in (y.detach(), dx):
            tensor.untyped_storage().resize_(0)
            tensor.untyped_storage().resize_(4 * x.numel())
            tensor.resize_(x.numel() + 5)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_there_is_no_node(mode, name, kernels):
    with mode(), Taken() as taken:
        y = OPS[name](torch.randn(8, 6), *parameters(6))
    assert y.grad_fn is None
    assert taken.calls["batch_norm" if name == "inference" else name] == 1


def test_inference_tensors_reach_trainable_norms(kernels):
    with torch.inference_mode():
        x = torch.randn(8, 6)
    for norm in (nn.LayerNorm(6), nn.RMSNorm(6)):
        with torch.no_grad():
            norm(x)
        with pytest.raises(RuntimeError, match=r"[Ii]nference tensors"):
            norm(x).sum().backward()


def test_nested_tensors_reach_layer_norm(kernels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are a prototype
        nested = torch.nested.nested_tensor([torch.randn(3, 6), torch.randn(5, 6)])
    w, b = parameters(6)
    y = F.layer_norm(nested, (6,), w, b)
    assert torch.allclose(y.unbind()[0], F.layer_norm(nested.unbind()[0], (6,), w, b), atol=1e-6)


def test_traces_and_graphs_hold_the_ops_of_pytorch(kernels):
    model = nn.Sequential(nn.LayerNorm(6), nn.RMSNorm(6), nn.Dropout(0.5))
    x = torch.randn(8, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model.eval(), x)
        scripted = torch.jit.script(model)
    exported = torch.export.export(model, (x,)).module()
    for graph in (traced, scripted, exported):
        assert torch.allclose(graph(x), model(x), atol=1e-6)


def test_autocast_computes_bfloat16(kernels):
    x = torch.randn(8, 16, 32, requires_grad=True)
    linear, norm = nn.Linear(32, 32), nn.LayerNorm(32)
    with torch.autocast("cpu", torch.bfloat16), Taken("layer_norm", "dropout"):
        y = F.dropout(norm(linear(x)), 0.5)
    cregkit.torch.disable()
    with torch.autocast("cpu", torch.bfloat16):
        assert y.dtype is norm(linear(x)).dtype
    y.float().sum().backward()


def test_large_outputs_are_in_the_pool(kernels):
    x = torch.randn(1024, 512)
    cregkit.clear_pool()
    y = F.layer_norm(x, (512,))
    address = y.data_ptr()
    before = cregkit.show_config()["pool"]["bytes"]
    del y
    assert cregkit.show_config()["pool"]["bytes"] > before
    assert F.dropout(x).data_ptr() == address


@pytest.mark.parametrize("convert", [False, True])
def test_without_gradients_outputs_of_4_mib_are_in_the_pool(convert):
    layer = torch.nn.LayerNorm(512).requires_grad_(False)
    layer = cregkit.torch.convert(layer) if convert else layer

    def pooled(rows):
        cregkit.clear_pool()
        layer(torch.randn(rows, 512))
        return cregkit.show_config()["pool"]["bytes"]

    with nullcontext() if convert else cregkit.torch.enable():
        with torch.no_grad():
            assert pooled(2047) == 0
            assert pooled(2048) >= 4 << 20
        assert pooled(128) >= 256 << 10
        assert pooled(127) == 0


OUT_OF_MEMORY = """
import resource, torch, torch.nn.functional as F, cregkit.torch
x, w = torch.ones(64, 1024, 1024), torch.ones(1024)
cregkit.torch.enable()
calls = [lambda x: F.layer_norm(x, (1024,), w), F.dropout, lambda x: F.rms_norm(x, (1024,), w)]
for call in calls:
    call(x[0])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
for call in calls:
    try:
        call(x)
    except torch.OutOfMemoryError as error:
        print(str(error).splitlines()[0])
    assert call(x[0]).shape == x[0].shape
"""


def test_too_little_memory_is_an_error_of_pytorch():
    assert run_python("-c", OUT_OF_MEMORY).stdout == 3 * "cregkit: unable to allocate 268435456 bytes\n"


# ---- converted modules ----

MODULES = {
    "layer_norm": lambda: (nn.LayerNorm(48), (9, 48)),
    "rms_norm": lambda: (nn.RMSNorm(48), (9, 48)),
    "batch_norm": lambda: (nn.BatchNorm2d(8), (4, 8, 5, 6)),
    "group_norm": lambda: (nn.GroupNorm(2, 8), (4, 8, 5, 6)),
    "dropout": lambda: (nn.Dropout(0.5), (9, 48)),
}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_converted_modules_use_the_kernels_while_the_ops_are_off(name, dtype, kernels):
    cregkit.torch.disable()
    module, shape = MODULES[name]()
    module.to(dtype)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    with Taken() as taken:
        module(x).sum().backward()
    assert not any(taken.calls.values())
    cregkit.torch.convert(module)
    with Taken(name) as taken:
        module(x).sum().backward()
    assert taken.calls[name] == (1 if name in ("rms_norm", "dropout") else 2)
    assert cregkit.torch.enabled() == frozenset()


def test_a_backward_pass_uses_the_kernel_of_its_forward_pass(kernels):
    x = torch.randn(9, 48, requires_grad=True)
    y = F.layer_norm(x, (48,))
    cregkit.torch.disable()
    with Taken("layer_norm"):
        y.sum().backward()


# ---- the switch ----


def test_nothing_changes_until_it_is_enabled():
    assert cregkit.torch.enabled() == frozenset()
    with Taken() as taken:
        F.dropout(torch.ones(1000, 1000))
    assert not any(taken.calls.values())


def test_only_and_skip_choose_ops():
    try:
        cregkit.torch.enable(only="dropout")
        assert cregkit.torch.enabled() == {"dropout"}
        cregkit.torch.enable(only=["dropout", "layer_norm"], skip="dropout")
        assert cregkit.torch.enabled() == {"layer_norm"}
        cregkit.torch.enable(skip=("layer_norm",))
        assert cregkit.torch.enabled() == set(dispatch.SMALLEST) - {"layer_norm"}
    finally:
        cregkit.torch.disable()
    assert cregkit.torch.enabled() == frozenset()


@pytest.mark.parametrize("argument", ["only", "skip"])
def test_unknown_ops_are_refused_and_change_nothing(argument):
    with cregkit.torch.enable(only="dropout"):
        with pytest.raises(ValueError, match=rf"{argument} must name ops \(layer_norm, .*\), got 'gelu'"):
            cregkit.torch.enable(**{argument: ["gelu"]})
        assert cregkit.torch.enabled() == {"dropout"}


def test_a_block_ends_with_the_ops_that_were_on_before():
    with cregkit.torch.enable(only="dropout"):
        with cregkit.torch.enable(only="layer_norm"):
            assert cregkit.torch.enabled() == {"layer_norm"}
        assert cregkit.torch.enabled() == {"dropout"}
    assert cregkit.torch.enabled() == frozenset()


def test_a_decorated_function_computes_by_the_kernels():
    @cregkit.torch.enable(only="dropout")
    def on():
        return cregkit.torch.enabled()

    assert cregkit.torch.enabled() == frozenset()
    assert on() == {"dropout"}
    assert cregkit.torch.enabled() == frozenset()


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(dispatch, "library", None)
    with pytest.raises(ImportError, match="--no-build-isolation"):
        cregkit.torch.enable()
    cregkit.torch.disable()
    assert cregkit.torch.enabled() == frozenset()


def test_usage_counts_why_pytorch_computed(kernels):
    dispatch.library.set_smallest("layer_norm", 100, 0)
    with Taken("layer_norm") as taken:
        F.layer_norm(torch.randn(20, 10), (10,))
        F.layer_norm(torch.randn(2, 10), (10,))
        F.layer_norm(torch.randn(20, 10, dtype=torch.float64), (10,))
        with pytest.raises(RuntimeError):
            F.layer_norm(torch.randn(20, 10), (11,))
    assert taken.fates == {"taken": 1, "small": 1, "dtype": 1, "layout": 1, "transformed": 0}
    cregkit.torch.enable(only="dropout")
    with Taken("dropout") as taken:
        F.dropout(torch.randn(20, 10))
        with torch.autograd.forward_ad.dual_level():
            F.dropout(torch.autograd.forward_ad.make_dual(torch.randn(20, 10), torch.ones(20, 10)))
    assert taken.fates["transformed"] == taken.fates["taken"] == 1


def test_switching_while_threads_compute_is_safe(kernels):
    x, (w, b) = torch.randn(64, 48), parameters(48)
    expected = F.layer_norm(x, (48,), w, b)
    stop, wrong = threading.Event(), []

    def compute():
        while not stop.is_set():
            leaf = x.clone().requires_grad_()
            y = F.dropout(F.layer_norm(leaf, (48,), w, b), 0.5)
            y.sum().backward()
            if not torch.allclose(F.layer_norm(x, (48,), w, b), expected, atol=1e-5) or not leaf.grad.isfinite().all():
                wrong.append(y)

    workers = [threading.Thread(target=compute) for _ in range(3)]
    for worker in workers:
        worker.start()
    for _ in range(2000):
        cregkit.torch.disable()
        cregkit.torch.enable()
    stop.set()
    for worker in workers:
        worker.join()
    assert not wrong
