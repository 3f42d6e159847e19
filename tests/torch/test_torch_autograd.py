"""cregkit.torch does what PyTorch does around its ops: derivatives of every kind, hooks, inference mode, storage."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from support import run_python  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.autograd.graph import saved_tensors_hooks  # noqa: E402
from torch_support import assert_close, fresh, resizable, tensors_in, twins  # noqa: E402

import cregkit.torch as ct  # noqa: E402
from cregkit.torch import autograd, dispatch, functional  # noqa: E402

TINY = 1e-12  # drops nothing, but uses the code of dropout


class Op:
    """An op of cregkit in float32 and its twin of PyTorch in float64, both of the same leaves."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], ours: Callable[..., Any], stock: Callable[..., Any]) -> None:
        self.shapes, self.ours, self.stock = shapes, ours, stock

    def leaves(self) -> list[Tensor]:
        torch.manual_seed(0)
        return [torch.randn(shape).requires_grad_() for shape in self.shapes.values()]


def both(shapes: dict[str, tuple[int, ...]], call: Callable[..., Any]) -> Op:
    """The same call of ``cregkit.torch.functional`` and of ``torch.nn.functional``."""
    return Op(shapes, lambda *leaves: call(functional, TINY, *leaves), lambda *leaves: call(F, 0.0, *leaves))


def of_module(made: nn.Module, shapes: dict[str, tuple[int, ...]], inputs: int) -> Op:
    """A module as a function of its input, repeated, and of the parameters among the leaves."""
    torch.manual_seed(0)
    names = [name for name in shapes if name != "x"]

    def call(module: nn.Module, x: Tensor, *parameters: Tensor) -> Any:
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(module, given, (x,) * inputs)

    ours, stock = twins(made)
    for part in stock.modules():
        if isinstance(part, (nn.Dropout, nn.MultiheadAttention)):
            setattr(part, "p" if isinstance(part, nn.Dropout) else "dropout", 0.0)
    return Op(shapes, partial(call, ours), partial(call, stock))


def fused(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Any:
    return autograd.dropout_add_layer_norm(x, residual, weight, bias, TINY, 1e-5)


def stepwise(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Any:
    return F.layer_norm(x + residual, x.shape[-1:], weight, bias), x + residual


ROWS = {"x": (4, 5), "weight": (5,), "bias": (5,)}
CHANNELS = {"x": (3, 4, 5), "weight": (4,), "bias": (4,)}
MEAN, VAR = torch.linspace(-1, 1, 4), torch.linspace(0.5, 2, 4)
OPS = {
    "layer_norm": both(ROWS, lambda f, p, x, w, b: f.layer_norm(x, (5,), w, b)),
    "rms_norm": both({"x": (4, 5), "weight": (5,)}, lambda f, p, x, w: f.rms_norm(x, (5,), w, 1e-6)),
    "batch_norm": both(CHANNELS, lambda f, p, x, w, b: f.batch_norm(x, None, None, w, b, True)),
    "batch_norm_inference": both(
        CHANNELS, lambda f, p, x, w, b: f.batch_norm(x, MEAN.to(x.dtype), VAR.to(x.dtype), w, b)
    ),
    "group_norm": both(CHANNELS, lambda f, p, x, w, b: f.group_norm(x, 2, w, b)),
    "instance_norm": both(CHANNELS, lambda f, p, x, w, b: f.instance_norm(x, None, None, w, b)),
    "dropout": both({"x": (4, 5)}, lambda f, p, x: f.dropout(x, p)),
    "dropout1d": both({"x": (3, 4, 5)}, lambda f, p, x: f.dropout1d(x, p)),
    "dropout2d": both({"x": (3, 4, 5, 2)}, lambda f, p, x: f.dropout2d(x, p)),
    "dropout_in_place": both({"x": (4, 5)}, lambda f, p, x: f.dropout(x * 2, p, inplace=True)),
    "dropout_add_layer_norm": Op({"x": (4, 5), "residual": (4, 5), "weight": (5,), "bias": (5,)}, fused, stepwise),
    "attention": of_module(
        nn.MultiheadAttention(4, 2, dropout=TINY, bias=False, batch_first=True),
        {"x": (2, 3, 4), "in_proj_weight": (12, 4), "out_proj.weight": (4, 4)},
        3,
    ),
    "encoder_layer": of_module(
        nn.TransformerEncoderLayer(4, 2, 6, TINY, batch_first=True),
        {"x": (2, 3, 4), "norm1.weight": (4,), "norm1.bias": (4,), "linear1.weight": (6, 4)},
        1,
    ),
}
MODULES = ("attention", "encoder_layer")
every_op = pytest.mark.parametrize("name", OPS)


def loss_of(op: Callable[..., Any]) -> Callable[..., Tensor]:
    """A function with a second derivative in every input; norms have none of the plain sum."""
    return lambda *leaves: sum((y.sin() * (2 + y.cos())).sum() for y in tensors_in(op(*leaves)))


def compared(name: str, results: Callable[[Callable[..., Any], list[Tensor]], Any], tolerance: float = 2e-4) -> None:
    """Compare what ``results`` makes of the op of cregkit in float32 and of PyTorch's in float64."""
    op = OPS[name]
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):  # others have no second or forward-mode derivative
        found, expected = (
            tensors_in(results(call, fresh(op.leaves(), dtype)))
            for call, dtype in ((op.ours, torch.float32), (op.stock, torch.float64))
        )
    assert found
    assert_close(found, expected, tolerance)


@every_op
@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen"])
def test_a_gradient_penalty_has_the_gradients_of_pytorch(name, frozen, kernel_calls):
    def results(op, leaves):
        for parameter in leaves[1:]:
            parameter.requires_grad_(not frozen)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        first = torch.autograd.grad(loss_of(op)(*leaves), wanted, create_graph=True)
        penalty = sum((gradient.norm() - 1) ** 2 for gradient in first)
        return [*first, *torch.autograd.grad(penalty, wanted, allow_unused=True, materialize_grads=True)]

    compared(name, results)
    assert kernel_calls


@every_op
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # PyTorch's own, of vmap
def test_batched_gradients_are_those_of_pytorch(name, kernel_calls):
    def results(op, leaves):
        outputs = tensors_in(op(*leaves))
        generator = torch.Generator().manual_seed(1)
        dys = [torch.randn(3, *y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in outputs]
        return torch.autograd.grad(outputs, leaves, dys, is_grads_batched=True)

    compared(name, results)
    assert kernel_calls


FUNCTIONAL = {
    "jvp": lambda f, leaves, vs: torch.autograd.functional.jvp(f, leaves, vs),
    "vjp": lambda f, leaves, vs: torch.autograd.functional.vjp(f, leaves),
    "hvp": lambda f, leaves, vs: torch.autograd.functional.hvp(f, leaves, vs),
    "vhp": lambda f, leaves, vs: torch.autograd.functional.vhp(f, leaves, vs),
    "hessian": lambda f, leaves, vs: torch.autograd.functional.hessian(f, leaves),
    "vectorized hessian": lambda f, leaves, vs: torch.autograd.functional.hessian(f, leaves, vectorize=True),
    "jacobian": lambda f, leaves, vs: torch.autograd.functional.jacobian(f, leaves, vectorize=True),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in OPS
        for kind in FUNCTIONAL
        if (name, kind) != ("group_norm", "vectorized hessian")  # PyTorch's own raises an error
    ],
)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_the_derivatives_of_autograd_functional_are_those_of_pytorch(name, kind, kernel_calls):
    def results(op, leaves):
        vs = tuple(torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x) for x in leaves)
        return FUNCTIONAL[kind](loss_of(op), tuple(leaves), vs)

    compared(name, results, 1e-3)


TRANSFORMS = {
    "grad": lambda f, leaves, vs: torch.func.grad(f, argnums=tuple(range(len(leaves))))(*leaves),
    "jvp": lambda f, leaves, vs: torch.func.jvp(f, leaves, vs),
    "vjp": lambda f, leaves, vs: torch.func.vjp(f, *leaves)[1](torch.ones_like(leaves[0].sum())),
    "hessian": lambda f, leaves, vs: torch.func.hessian(f, argnums=tuple(range(len(leaves))))(*leaves),
    "vmap": lambda f, leaves, vs: torch.vmap(f, randomness="different")(*(torch.stack([x, 2 * x]) for x in leaves)),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in OPS
        for kind in TRANSFORMS
        if name != "dropout_add_layer_norm" and (kind != "hessian" or "norm" in name)  # a hessian allows no dropout
    ],
)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_the_transforms_of_torch_func_are_those_of_pytorch(name, kind, kernel_calls):
    def results(op, leaves):
        inputs = tuple(x.detach() for x in leaves)
        vs = tuple(torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x) for x in leaves)
        return TRANSFORMS[kind](loss_of(op), inputs, vs)

    compared(name, results, 1e-3)


@every_op
def test_a_parameter_may_be_frozen_after_the_forward(name, kernel_calls):
    """The graph ends in its gradient all the same."""

    def results(op, leaves):
        loss = loss_of(op)(*leaves)
        for parameter in leaves[1:]:
            parameter.requires_grad_(False)
        loss.backward(create_graph=True)
        return leaves[0].grad

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of backward(create_graph=True)
        compared(name, results)


@pytest.mark.parametrize("name", [name for name in OPS if OPS[name].shapes == CHANNELS])
def test_a_bias_may_change_before_the_backward(name, kernel_calls):
    """No derivative depends on it, so that PyTorch does not save it."""

    def results(op, leaves):
        loss = loss_of(op)(*leaves)
        with torch.no_grad():
            leaves[-1].add_(1.0)
        return torch.autograd.grad(loss, leaves)

    compared(name, results)


HOOKS = {
    "the same": (lambda x: x, lambda x: x, 2e-4),
    "a transposed copy": (
        lambda x: x.detach().transpose(-1, 0).contiguous(),
        lambda x: x.transpose(-1, 0),
        2e-4,
    ),
    "every second element": (lambda x: x.detach().repeat_interleave(2, -1), lambda x: x[..., ::2], 2e-4),
    "an array": (lambda x: x.detach().numpy(), torch.from_numpy, 2e-4),
    "float16, back as float32": (lambda x: x.detach().half(), lambda x: x.float(), 2e-2),
    "float64": (lambda x: x.detach().double(), lambda x: x, 2e-4),
    "bfloat16": (lambda x: x.detach().bfloat16(), lambda x: x, 0.2),
}


@pytest.mark.parametrize(
    ("name", "kind"), [(n, kind) for n in OPS for kind in HOOKS if n not in MODULES or "float" not in kind]
)
def test_hooks_may_change_the_layout_and_dtype_of_saved_tensors(name, kind, kernel_calls):
    """PyTorch's ops take another layout, and its RMS norm another dtype too; its linear layers do not."""
    pack, unpack, tolerance = HOOKS[kind]

    def results(op, leaves):
        if leaves[0].dtype is torch.float32:
            with saved_tensors_hooks(pack, unpack):
                outputs = tensors_in(op(*leaves))
        else:
            outputs = tensors_in(op(*leaves))
        return torch.autograd.grad([y.sum() * 2 + y[0].sum() for y in outputs], leaves)

    compared(name, results, tolerance)


def outcome(call: Callable[[], Any]) -> Any:
    """The type and text of the error, or the type of the result."""
    try:
        return type(call())
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("name", [name for name in OPS if name != "dropout_add_layer_norm"])
def test_inference_tensors_do_what_they_do_in_pytorch(name, kernel_calls):
    """Where autograd cannot save them, PyTorch raises its error; where an op need not save them, it computes."""
    op = OPS[name]
    outcomes = []
    for call, dtype in ((op.ours, torch.float32), (op.stock, torch.float64)):
        x, *parameters = fresh(op.leaves(), dtype)
        with torch.inference_mode():
            inference = x.detach().clone()
            assert all(y.is_inference() for y in tensors_in(call(inference.clone(), *parameters)))
        outcomes.append(outcome(lambda call=call, x=inference, parameters=parameters: call(x, *parameters)))
    assert outcomes[0] == outcomes[1]


def test_a_trainable_rms_norm_takes_inference_tensors(kernel_calls):
    module, stock = ct.RMSNorm(8), nn.RMSNorm(8)
    with torch.inference_mode():
        x = torch.randn(4, 8)
    assert torch.equal(module(x), stock(x))


def test_attention_takes_inference_masks(kernel_calls):
    module = ct.MultiheadAttention(4, 2, dropout=TINY)
    x = torch.randn(3, 2, 4)
    with torch.inference_mode():
        mask = torch.randn(3, 3)
    module(x, x, x, attn_mask=mask)[0].sum().backward()
    assert module.in_proj_weight.grad is not None


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "dropout", "group_norm", "batch_norm", "dropout2d"])
def test_nested_tensors_do_what_they_do_in_pytorch(name, layout, kernel_calls):
    op = OPS[name]
    rows = [torch.randn(3, 5), torch.randn(2, 5)]
    x = torch.nested.nested_tensor(rows, layout=layout)
    parameters = op.leaves()[1:]
    found, expected = (outcome(lambda call=call: call(x, *parameters)) for call in (op.ours, op.stock))
    assert found == expected
    if name == "layer_norm":
        pairs = zip(op.ours(x, *parameters).unbind(), (op.stock(row, *parameters) for row in rows), strict=True)
        assert all(torch.equal(y, z) for y, z in pairs)
    assert kernel_calls == []


@resizable
@every_op
def test_the_storage_of_every_tensor_can_be_resized(name, kernel_calls):
    """Of inputs, parameters, outputs and gradients; FSDP frees and allocates parameters in this way."""
    op = OPS[name]
    leaves = op.leaves()
    outputs = tensors_in(op.ours(*leaves))
    sum(y.sum() for y in outputs).backward()
    assert kernel_calls
    shapes = [y.shape for y in outputs]
    gradients = [leaf.grad for leaf in leaves]
    for x in [*outputs, *leaves, *gradients]:
        assert x.untyped_storage().resizable()
    for x in [*(y.detach() for y in outputs), *gradients]:
        size = x.untyped_storage().nbytes()
        x.resize_(2 * x.numel())
        x.untyped_storage().resize_(0)
        x.untyped_storage().resize_(size)
    assert [y.shape for y in outputs] == shapes


@resizable
def test_running_statistics_stay_resizable(kernel_calls):
    module = ct.BatchNorm1d(4)
    module(torch.randn(8, 4))
    module.eval()(torch.randn(8, 4))
    assert kernel_calls == ["batch_norm_forward", "batch_norm_inference_backward"[: len("batch_norm")]]
    assert all(x.untyped_storage().resizable() for x in module.state_dict().values())


@resizable
@pytest.mark.parametrize("size", ["default", "0"])
def test_without_a_memory_pool_large_outputs_can_be_resized_too(size, monkeypatch):
    """Without the native library, PyTorch cannot resize an output of 4 MiB and more, which is in the pool."""
    monkeypatch.delenv("CREGKIT_POOL_MB", raising=False)
    if size != "default":
        monkeypatch.setenv("CREGKIT_POOL_MB", size)
    code = """
import torch
from cregkit.torch.functional import layer_norm
x, small = torch.randn(1024, 1024), torch.randn(1023, 1024)
print([y.untyped_storage().resizable() for y in (layer_norm(x, (1024,)), layer_norm(small, (1024,)), x)])
"""
    assert run_python("-c", code).stdout == f"[{size == '0' or dispatch.library is not None}, True, True]\n"


@every_op
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_there_is_no_autograd_node(name, mode, kernel_calls, monkeypatch):
    """Ops in place go through autograd, which counts the change."""

    def refuse(*_):
        raise AssertionError("an autograd node")

    op = OPS[name]
    leaves = op.leaves()
    if name != "dropout_in_place":
        for function in autograd.Function.__subclasses__():
            monkeypatch.setattr(function, "apply", refuse)
    with mode():
        found = tensors_in(op.ours(*leaves))
        expected = tensors_in(op.stock(*fresh(leaves, torch.float64)))
    assert_close(found, expected)
    assert kernel_calls
    assert not any(name.endswith("backward") for name in kernel_calls)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("inplace", [False, True], ids=["new", "in place"])
def test_the_kernel_drops_nan_and_inf(inplace, layout, bad, kernel_calls):
    x = torch.full((4, 8, 6, 5), bad).to(memory_format=layout)
    torch.manual_seed(0)
    y = ct.Dropout(0.5, inplace=inplace)(x)
    assert (y is x) == inplace
    dropped = y == 0
    assert 0.4 <= dropped.float().mean() <= 0.6
    assert not y[~dropped].isfinite().any()
    assert kernel_calls == ["dropout"]


def test_dropout_before_a_fused_norm_drops_nan(kernel_calls):
    x = torch.full((16, 32), float("nan"))
    _, h = autograd.dropout_add_layer_norm(x, torch.ones(16, 32), None, None, 0.5, 1e-5)
    assert {*h[~h.isnan()].tolist()} == {1.0}


FORWARD = "dropout_add_layer_norm_forward"


def encoder(kind: type[nn.Module] = nn.TransformerEncoderLayer, norm_first: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return kind(16, 2, 24, 0.0, batch_first=True, norm_first=norm_first)


@pytest.mark.parametrize("norm_first", [False, True], ids=["Post-LN", "Pre-LN"])
@pytest.mark.parametrize("without_bias", [False, True])
def test_parameters_of_a_layer_may_be_plain_tensors(without_bias, norm_first, kernel_calls):
    """As under FSDP: weights that are views of one flat parameter, and a norm without a bias."""
    stock = encoder(norm_first=norm_first)
    for module in [part for part in stock.modules() if [*part.parameters(recurse=False)]]:
        for name, parameter in [*module.named_parameters(recurse=False)]:
            delattr(module, name)
            setattr(module, name, parameter.detach().clone().requires_grad_())
    if without_bias:
        stock.norm1.bias = stock.norm2.bias = None
    ours = ct.convert(copy.deepcopy(stock))
    x = torch.randn(3, 7, 16)
    results = []
    for layer in (ours, stock):
        y = layer(x)
        weight = layer.norm2.weight
        results.append([y, *torch.autograd.grad(y.sin().sum(), [weight, layer.self_attn.in_proj_weight])])
    torch.testing.assert_close(*results)
    assert kernel_calls.count(FORWARD) == 1 if norm_first else 2


class OwnBlocks(ct.TransformerEncoderLayer):
    def _ff_block(self, x: Tensor) -> Tensor:
        return 3 * super()._ff_block(x)


class OwnAttention(nn.TransformerEncoderLayer):
    def _sa_block(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return -super()._sa_block(x, *arguments, **options)


@pytest.mark.parametrize("norm_first", [False, True], ids=["Post-LN", "Pre-LN"])
def test_blocks_that_are_overridden_compute(norm_first, kernel_calls):
    x = torch.randn(3, 7, 16)
    subclass, plain = encoder(OwnBlocks, norm_first), encoder(ct.TransformerEncoderLayer, norm_first)
    assert not torch.allclose(subclass(x), plain(x), atol=1e-3)
    for name in ("_sa_block", "_ff_block"):
        stock = encoder(norm_first=norm_first)
        ours = ct.convert(copy.deepcopy(stock))
        for layer in (stock, ours):
            setattr(layer, name, lambda x, *_, **__: 2 * x)
        torch.testing.assert_close(ours(x), stock(x))
    mixed = encoder(OwnAttention, norm_first)
    expected = mixed(x)
    torch.testing.assert_close(ct.convert(mixed)(x), expected)


def test_attention_of_another_class_may_return_more(kernel_calls):
    class Attention(nn.MultiheadAttention):
        def forward(self, *arguments, **options):
            return *super().forward(*arguments, **options), "more"

    stock = encoder()
    stock.self_attn.__class__ = Attention
    x = torch.randn(3, 7, 16)
    torch.testing.assert_close(ct.convert(copy.deepcopy(stock))(x), stock(x))
    assert FORWARD in kernel_calls
