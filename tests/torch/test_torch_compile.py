"""cregkit.torch under torch.compile: dropout stays a kernel in the graph, in forward and backward."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.autograd.forward_ad as forward_ad  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from torch_support import assert_close, gradients_of, kernels_in_graphs  # noqa: E402

import cregkit.torch as ct  # noqa: E402
from cregkit.torch import autograd, compiled, dispatch, functional  # noqa: E402

OPS = (torch.ops.cregkit.dropout.default, torch.ops.cregkit.dropout_kernel.default)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LARGE = (96, 128)


OWN_WARNING = "ignore:`torch._prims_common.check`:FutureWarning"  # of PyTorch's own code, while it compiles
pytestmark = [kernels_in_graphs, pytest.mark.filterwarnings(OWN_WARNING)]


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of the tensors that the kernel in graphs gets."""
    shapes: list[tuple[int, ...]] = []
    run = compiled.run

    def noting_run(kernel: Callable[..., Any], x: Any, *arguments: Any, **options: Any) -> Any:
        shapes.append(tuple(x.shape))
        return run(kernel, x, *arguments, **options)

    def noting(x: Tensor, p: float, seed: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return compiled._kernel(x, p, seed)

    if dispatch.library is None:
        monkeypatch.setattr(compiled, "run", noting_run)
        yield shapes
        return
    library = torch.library.Library("cregkit", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)
        library.impl("dropout_kernel", noting, "CPU", allow_override=True)
    yield shapes
    library._destroy()


@pytest.mark.skipif(dispatch.library is None, reason="needs the native library")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_native_op_and_the_one_in_python_give_the_same_bits(dtype):
    """Contiguous tensors, others, and such without elements or axes; results are contiguous."""
    seed = torch.tensor([2**62 + 5])
    for x in (
        torch.randn(37, 53),
        torch.randn(53, 37).t(),
        torch.randn(8, 6, 5)[:, ::2],
        torch.ones(0, 3),
        torch.ones(()),
    ):
        native = OPS[1](x.to(dtype), 0.3, seed)
        assert torch.equal(native, compiled._kernel(x.to(dtype), 0.3, seed))
        assert native.dtype is dtype
        assert native.is_contiguous()


def test_the_kernel_in_graphs_refuses_what_it_cannot_compute():
    with pytest.raises(TypeError, match="x must be float32"):
        OPS[1](torch.ones(3, dtype=torch.float64), 0.3, torch.tensor([1]))
    with pytest.raises(ValueError, match=r"p must be .* 1\.5"):
        OPS[1](torch.ones(3), 1.5, torch.tensor([1]))


def compile_whole(function: Any, backend: str = "aot_eager", **options: Any) -> Any:
    """Compile without graph breaks."""
    return torch.compile(function, backend=backend, fullgraph=True, **options)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # PyTorch's opcheck reads it
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ops_meet_the_contract_of_pytorch(dtype):
    """Schema, shapes without data, autograd, AOT autograd: dense, channels last, with gaps, empty, of no axes."""
    images = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    for x in (torch.randn(3, 4), images, torch.randn(6, 8)[:, ::2], torch.randn(0, 3), torch.randn(())):
        for op in OPS:
            torch.library.opcheck(op, (x.to(dtype), 0.3, torch.tensor([7])))
    torch.library.opcheck(OPS[0], (torch.randn(3, 4, dtype=dtype, requires_grad=True), 0.3, torch.tensor([7])))


@pytest.mark.parametrize("has_ml_dtypes", [True, False])
def test_the_op_gives_the_result_of_the_kernel_in_every_dtype(has_ml_dtypes, monkeypatch):
    """16-bit results are rounded once from those in float32; the layout of the input does not change the mask."""
    if has_ml_dtypes:
        pytest.importorskip("ml_dtypes")
    else:
        monkeypatch.setattr(compiled, "bfloat16", None)
    x, seed = torch.randn(40, 33), torch.tensor([5])
    for dtype in DTYPES:
        given = x.to(dtype)
        expected = autograd.dropped_by_mask(given.float(), 0.3, 5).to(dtype)
        for layout in (given, given.T.contiguous().T):
            found = OPS[0](layout, 0.3, seed)
            assert found.is_contiguous()
            assert torch.equal(found, expected)


def test_the_op_has_higher_derivatives_and_drops_nan():
    seed = torch.tensor([5])
    x = torch.randn(6, 7, dtype=torch.float32, requires_grad=True)
    mask = autograd.scaled_mask((6, 7), 0.4, 5)
    (gradient,) = torch.autograd.grad(OPS[0](x * x, 0.4, seed).sum(), x, create_graph=True)
    torch.testing.assert_close(gradient, 2 * x * mask)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    torch.testing.assert_close(second, 2 * mask)
    dropped = OPS[0](torch.full((6, 7), torch.nan), 0.4, seed)
    assert torch.equal(dropped == 0.0, mask == 0.0)


def test_a_wrong_dtype_or_seed_has_an_error_that_names_it():
    with pytest.raises(TypeError, match="x must be float32"):
        OPS[0](torch.ones(3, dtype=torch.float64), 0.3, torch.tensor([5]))
    with pytest.raises(ValueError, match="seed must be"):
        OPS[0](torch.ones(3), 0.3, torch.tensor([-1]))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_graph_keeps_the_kernel_and_the_mask_of_backward(backend, drawn):
    """torch.manual_seed decides the mask; two calls differ; no seed and no call breaks or recompiles the graph."""
    layer = ct.Dropout(0.3)
    step = compile_whole(lambda x: layer(2 * x) * 3, backend)
    x = torch.rand(LARGE).add_(1).requires_grad_()
    results = []
    for seed in (0, 0, None, 1):
        if seed is not None:
            torch.manual_seed(seed)
        x.grad = None
        y = step(x)
        y.sum().backward()
        torch.testing.assert_close(x.grad, (y / x).detach())
        assert 0.25 < float((y == 0).float().mean()) < 0.35
        results.append(y)
    first, again, next_call, other = results
    assert torch.equal(first, again)
    assert not torch.equal(first, next_call)
    assert not torch.equal(first, other)
    assert drawn == [LARGE] * 8
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("size", ["static", "dynamic", "of the data"])
def test_layouts_and_sizes(size, drawn):
    """Contiguous, channels last, transposed, with gaps; sizes that differ by call or depend on the data."""

    def dropped(x: Tensor) -> Tensor:
        return functional.dropout(x[x[:, 0, 0, 0].nonzero()[:, 0]] if size == "of the data" else x, 0.3)

    images = torch.rand(3, 16, 32, 32) + 1
    inputs = [images, images.to(memory_format=torch.channels_last), images.transpose(2, 3), images[..., ::2]]
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for x in inputs:
            step = compile_whole(dropped, dynamic=size != "static")
            for n in (3, 2):
                leaf = x[:n].detach().requires_grad_()
                y = step(leaf)
                y.sum().backward()
                torch.testing.assert_close(leaf.grad, (y / leaf).detach())
                if size != "of the data":
                    last = torch.channels_last
                    assert y.is_contiguous(memory_format=last) == leaf.is_contiguous(memory_format=last)
    assert len(drawn) == 4 * len(inputs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_in_place_and_without_gradient(dtype, drawn):
    step = compile_whole(lambda x: functional.dropout(x, 0.3, inplace=True))
    x = torch.ones(LARGE, dtype=dtype)
    y = step(x)
    assert y is x
    assert len(x.unique()) == 2
    whole = torch.ones(96, 256)
    step(whole[:, ::2])
    assert bool((whole[:, 1::2] == 1).all())
    assert len(drawn) == 2


def test_pytorch_computes_what_the_kernel_does_not(drawn):
    """Small and float64 tensors, extreme rates, evaluation mode, transforms of torch.func, forward-mode gradients."""
    x = torch.ones(LARGE)
    for p in (0.0, 1.0):
        assert len(compile_whole(lambda x, p=p: functional.dropout(x, p))(x).unique()) == 1
    assert torch.equal(compile_whole(lambda x: functional.dropout(x, 0.3, training=False))(x), x)
    for given in (x.double(), x[:10].clone()):
        assert len(compile_whole(lambda x: functional.dropout(x, 0.3), dynamic=False)(given).unique()) == 2
    with pytest.raises(Exception, match="dropout probability has to be between 0 and 1"):
        compile_whole(lambda x: functional.dropout(x, 1.5))(x)

    def tangent(x: Tensor) -> tuple[Tensor, Tensor]:
        with forward_ad.dual_level():
            return tuple(forward_ad.unpack_dual(functional.dropout(forward_ad.make_dual(x, x), 0.3)))

    for derivative in (
        torch.func.vmap(lambda x: (functional.dropout(x, 0.3),) * 2, randomness="different"),
        lambda x: torch.func.jvp(lambda x: functional.dropout(x, 0.3), (x,), (x,)),
        lambda x: (torch.func.grad(lambda x: functional.dropout(x, 0.3).sum())(x),) * 2,
        tangent,
    ):
        y, dy = compile_whole(derivative)(x)
        assert torch.equal(y, dy)
        assert len(y.unique()) == 2
    assert drawn == []


def test_activation_checkpointing_draws_the_same_mask_again(drawn):
    def block(x: Tensor) -> Tensor:
        return functional.dropout(x * x, 0.3).exp()

    x = torch.rand(LARGE).add_(0.5).requires_grad_()
    y = compile_whole(lambda x: checkpoint(block, x, use_reentrant=False), "inductor")(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, (y * y.log() * 2 / x).detach())
    assert {*drawn} == {LARGE}


def test_a_compiled_model_has_the_gradients_of_its_masks(drawn):
    """Training steps of a converted MLP equal those of PyTorch in float64 with the same masks."""
    torch.manual_seed(0)
    front, back = nn.Sequential(nn.Linear(20, 128), nn.BatchNorm1d(128), nn.ReLU()), nn.Linear(128, 5)
    parts, stock = ct.convert(nn.Sequential(copy.deepcopy(front), nn.Dropout(0.3), copy.deepcopy(back))), (front, back)

    @compile_whole
    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        h = parts[1](parts[0](x))
        return h, parts[2](h)

    front.double()
    back.double()
    for _ in range(2):
        x = torch.randn(96, 20)
        h, y = step(x)
        expected = back(front(x.double()) * (h != 0).double() / 0.7)
        assert_close(
            [y, *gradients_of(y, list(parts.parameters())), *parts.buffers()],
            [expected, *gradients_of(expected, [p for part in stock for p in part.parameters()]), *front.buffers()],
        )
    assert drawn == [LARGE] * 4


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_model_in_training_has_the_ops_of_pytorch(strict, drawn):
    model = ct.convert(nn.Sequential(nn.Linear(128, 128), nn.LayerNorm(128), nn.Dropout(0.3)))
    program = torch.export.export(model, (torch.ones(LARGE),), strict=strict)
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert names == {"aten.linear.default", "aten.layer_norm.default", "aten.dropout.default"}
    program.module()(torch.ones(LARGE))
    assert drawn == []


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "masked"])
def test_attention_weights_are_dropped_by_the_kernel(masked, need_weights, drawn):
    """With v = 1 and identity projections, the output is the sum of the dropped weights."""
    attention = ct.convert(nn.MultiheadAttention(32, 4, dropout=0.25, batch_first=True))
    x = torch.randn(2, 64, 32, requires_grad=True)
    mask = torch.triu(torch.ones(64, 64, dtype=torch.bool), 1) if masked else None
    step = compile_whole(lambda x: attention(x, x, x, attn_mask=mask, need_weights=need_weights))
    y, weights = step(x)
    y.sum().backward()
    assert drawn == 2 * [(8, 64, 64)]  # forward and backward
    assert bool(x.grad.isfinite().all())
    if need_weights:
        assert weights.shape == (2, 64, 64)
        per_head = attention(x, x, x, attn_mask=mask, need_weights=True)[1]
        assert abs(float((weights.sum() - per_head.sum()).detach())) < 0.1 * float(per_head.detach().sum())
    assert not masked or y.isfinite().all()


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_in_a_graph_has_the_results_of_pytorch(need_weights):
    """In evaluation mode, and in training with a probability that drops nothing."""
    stock = nn.MultiheadAttention(32, 4, dropout=2.0**-60, batch_first=True)
    converted = ct.convert(copy.deepcopy(stock))
    x, mask = torch.randn(2, 64, 32), torch.randn(64, 64)
    padding = torch.zeros(2, 64).masked_fill(torch.arange(64) > 50, -float("inf"))
    options = {"attn_mask": mask, "key_padding_mask": padding, "need_weights": need_weights}
    for training in (True, False):
        ours = compile_whole(converted.train(training))(x, x, x, **options)
        theirs = stock.train(training)(x, x, x, **options)
        assert_close([t for t in ours if t is not None], [t for t in theirs if t is not None])
