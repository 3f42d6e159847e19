"""cregkit.torch.TransformerEncoderLayer: the results of PyTorch; fused where possible, otherwise step by step."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch_support import assert_close, fresh, gradients_of, kernels_in_graphs, pickles, twins  # noqa: E402

import cregkit.torch as ct  # noqa: E402
from cregkit.torch import autograd, transformer  # noqa: E402
from cregkit.torch.bridge import draw_seed  # noqa: E402

N, T, D = 3, 7, 16
FORWARD, BACKWARD = "dropout_add_layer_norm_forward", "dropout_add_layer_norm_backward"
ORDERS = pytest.mark.parametrize("norm_first", [False, True], ids=["Post-LN", "Pre-LN"])


def layer(norm_first=False, p=0.0, **options):
    """Weights large enough that each part of the layer shows in its output."""
    torch.manual_seed(0)
    made = nn.TransformerEncoderLayer(D, 2, 24, p, norm_first=norm_first, **{"batch_first": True, **options})
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter) + (parameter.dim() == 1))
    return made


def passes(norm_first):
    """The number of additions to the residual stream that are followed by a norm."""
    return 1 if norm_first else 2


MASKS = {
    "none": {},
    "causal": {"src_mask": nn.Transformer.generate_square_subsequent_mask(T), "is_causal": True},
    "bool pairs": {"src_mask": torch.ones(T, T, dtype=torch.bool).triu(1)},
    "padding": {"src_key_padding_mask": torch.arange(T) >= torch.tensor([[T], [4], [1]])},
}


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@ORDERS
def test_the_layer_has_the_results_of_pytorch(norm_first, training, masks, kernel_calls):
    """Outputs and all gradients against float64; one fused pass for each norm after an addition."""
    results = []
    x = torch.randn(N, T, D, requires_grad=True)
    made = layer(norm_first, 0.0 if training else 0.3).train(training)
    for module, dtype in zip(twins(made), (torch.float32, torch.float64), strict=True):
        (leaf,), masked = fresh([x], dtype), MASKS[masks]
        given = {
            k: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in masked.items()
        }
        y = module(leaf, **given)
        results.append([y, *gradients_of(y, [leaf, *module.parameters()])])
    assert_close(*results)
    assert [kernel_calls.count(name) for name in (FORWARD, BACKWARD)] == [passes(norm_first)] * 2


@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": False},
        {"bias": False},
        {"activation": "gelu"},
        {"activation": nn.Tanh()},
        {"layer_norm_eps": 0.1},
    ],
    ids=str,
)
@ORDERS
def test_the_layer_has_the_results_of_pytorch_with_other_arguments(norm_first, options, kernel_calls):
    results = []
    x = torch.randn(N, T, D, requires_grad=True)
    for module, dtype in zip(twins(layer(norm_first, **options)), (torch.float32, torch.float64), strict=True):
        (leaf,) = fresh([x], dtype)
        y = module(leaf)
        results.append([y, *gradients_of(y, [leaf, *module.parameters()])])
    assert_close(*results)
    assert FORWARD in kernel_calls


@ORDERS
def test_one_sequence_without_a_batch_has_the_results_of_pytorch(norm_first, kernel_calls):
    ours, stock = twins(layer(norm_first))
    x = torch.randn(T, D)
    assert_close([ours(x)], [stock(x.double())])
    assert kernel_calls.count(FORWARD) == passes(norm_first)


def watch(made, *names):
    """Hooks on parts of a layer that record their calls, and so prevent the fused pass."""
    seen = []
    for name in names:
        made.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
    return seen


@pytest.mark.parametrize("p", [0.1, 0.5])
@ORDERS
def test_the_fused_pass_has_the_bits_of_separate_modules(norm_first, p, kernel_calls):
    """The batch is the second axis: with batch_first, attention returns a transposed view, and ``Dropout`` drops in the
    order of memory."""
    fused = ct.convert(layer(norm_first, p, batch_first=False))
    stepwise = copy.deepcopy(fused)
    seen = watch(stepwise, "norm1", "norm2")
    x = torch.randn(N, T, D, requires_grad=True)
    results = []
    for module in (fused, stepwise):
        torch.manual_seed(3)
        (leaf,) = fresh([x])
        y = module(leaf)
        results.append([y, *gradients_of(y, [leaf, *module.parameters()])])
    assert all(map(torch.equal, *results))
    assert seen == ["norm1", "norm2"]
    assert kernel_calls.count(FORWARD) == passes(norm_first)
    torch.manual_seed(4)
    assert not torch.equal(fused(x), results[0][0])


@pytest.mark.parametrize("part", ["norm1", "norm2", "dropout1", "dropout2", "dropout", "linear1", "self_attn"])
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
@ORDERS
def test_hooks_on_every_part_are_called(norm_first, kind, part, kernel_calls):
    """Each kind of hook on each part is called once in a step; the other norms remain fused."""
    made = ct.convert(layer(norm_first, 0.2))
    seen = []
    getattr(made.get_submodule(part), f"register_{kind}_hook")(lambda *_: seen.append(part))
    made(torch.randn(N, T, D, requires_grad=True)).sum().backward()
    assert seen == [part]
    fused = ["dropout1", "norm2"] if norm_first else ["dropout1", "norm1", "dropout2", "norm2"]
    assert kernel_calls.count(FORWARD) == passes(norm_first) - (part in fused)


def test_global_hooks_see_every_module(kernel_calls):
    made = ct.convert(layer())
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        made(torch.randn(N, T, D))
    finally:
        handle.remove()
    # attention uses the weights of its output projection without calling it
    assert {*map(id, seen)} == {id(module) for name, module in made.named_modules() if "out_proj" not in name}
    assert FORWARD not in kernel_calls


class MyNorm(nn.LayerNorm):
    def forward(self, x):
        return -super().forward(x)


def replaced(made):
    made.norm2 = MyNorm(D)


def patched(made):
    made.dropout1.forward = lambda x: 2 * x


def parametrized(made):
    nn.utils.parametrize.register_parametrization(made.norm1, "weight", nn.Identity())
    nn.utils.parametrize.register_parametrization(made.norm2, "weight", nn.Identity())


def in_place(made):
    made.dropout1.inplace = made.dropout2.inplace = True


def everything_dropped(made):
    made.dropout1.p = made.dropout2.p = 1.0


@pytest.mark.parametrize(
    ("change", "norm_first", "fused"),
    [
        (replaced, False, 1),
        (replaced, True, 0),
        (patched, False, 1),
        (parametrized, False, 0),
        (in_place, False, 0),
        (everything_dropped, False, 0),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_replaced_parts_are_called(change, norm_first, fused, kernel_calls):
    """A module in the place of a norm or dropout computes, as in the layer of PyTorch."""
    stock = layer(norm_first)
    change(stock)
    ours = ct.convert(copy.deepcopy(stock))
    x = torch.randn(N, T, D)
    assert_close([ours(x)], [stock(x).double()])
    assert kernel_calls.count(FORWARD) == fused


OTHER = {
    "float64": (lambda made: made.double(), lambda x: x.double()),
    "bfloat16": (lambda made: made.bfloat16(), lambda x: x.bfloat16()),
    "strided": (lambda made: made, lambda x: x.repeat(1, 2, 1)[:, ::2]),
    "negated view": (lambda made: made, torch._neg_view),
    "a subclass": (lambda made: made, lambda x: x.as_subclass(type("Mine", (torch.Tensor,), {}))),
}


@pytest.mark.parametrize("what", OTHER)
@ORDERS
def test_other_tensors_fall_back(norm_first, what, kernel_calls):
    """Tensors that no kernel takes have the results of PyTorch."""
    change, view = OTHER[what]
    stock = change(layer(norm_first))
    ours = ct.convert(copy.deepcopy(stock))
    x = view(torch.randn(N, T, D))
    y, expected = ours(x), stock(x)
    assert type(y) is type(expected)
    assert y.dtype is expected.dtype
    torch.testing.assert_close(y, expected)
    assert kernel_calls.count(FORWARD) == (passes(norm_first) - 1 if what in ("strided", "negated view") else 0)


def test_autocast_and_transforms_fall_back(kernel_calls):
    stock = layer()
    ours = ct.convert(copy.deepcopy(stock))
    x, v = torch.randn(N, T, D), torch.randn(N, T, D)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ours(x), stock(x))
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):  # other backends have no forward-mode derivative
        assert torch.equal(torch.func.jvp(ours, (x,), (v,))[1], torch.func.jvp(stock, (x,), (v,))[1])
    gradients = [torch.func.grad(lambda x, made=made: made(x).sin().sum())(x) for made in (ours, stock)]
    assert torch.equal(*gradients)
    assert FORWARD not in kernel_calls


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_evaluation_without_gradients_uses_the_fast_path_of_pytorch(kernel_calls):
    """Also for nested tensors. Where PyTorch has no fast path (batch second), norms are fused."""
    stock = layer().eval()
    ours = ct.convert(copy.deepcopy(stock))
    x = torch.randn(N, T, D)
    with torch.no_grad():
        assert torch.equal(ours(x), stock(x))
        encoders = [nn.TransformerEncoder(made, 2, enable_nested_tensor=True).eval() for made in (stock, ours)]
        expected, found = (
            encoder(x, src_key_padding_mask=MASKS["padding"]["src_key_padding_mask"]) for encoder in encoders
        )
        assert torch.equal(found, expected)
        assert kernel_calls == []
        second = layer(batch_first=False).eval()
        assert_close([ct.convert(copy.deepcopy(second))(x)], [second(x).double()])
    assert kernel_calls == [FORWARD] * 2


@kernels_in_graphs
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@ORDERS
def test_graphs_of_the_layer_have_its_results(norm_first, kernel_calls):
    """A compiled, exported or traced converted layer has the results of PyTorch, by PyTorch's ops."""
    stock = layer(norm_first)
    x = torch.randn(N, T, D)
    expected = stock(x)
    torch._dynamo.reset()
    graphs = [
        torch.compile(ct.convert(copy.deepcopy(stock)), backend="aot_eager", fullgraph=True),
        torch.jit.trace(ct.convert(copy.deepcopy(stock)), x, check_trace=False),
        torch.export.export(ct.convert(copy.deepcopy(stock)), (x,)).module(),
    ]
    for graph in graphs:
        torch.testing.assert_close(graph(x), expected)
    assert kernel_calls == []


def test_the_fused_function_has_the_derivatives_of_pytorch(kernel_calls):
    """Double backward uses the formula of PyTorch through both outputs; either output may be unused."""
    x, residual = (torch.randn(4, 5, requires_grad=True) for _ in range(2))
    weight, bias = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
    inputs = (x, residual, weight, bias)
    torch.manual_seed(7)
    mask = autograd.scaled_mask((4, 5), 0.4, draw_seed())

    def ours(*inputs):
        torch.manual_seed(7)
        return autograd.dropout_add_layer_norm(*inputs, 0.4, 1e-5)

    def stock(x, residual, weight, bias):
        h = residual + x * mask.to(x.dtype)
        return F.layer_norm(h, (5,), weight, bias), h

    def derivatives(op, dtype):
        leaves = fresh(list(inputs), dtype)
        y, h = op(*leaves)
        results = []
        for outputs, used in (((y, h), leaves), ((y,), leaves), ((h,), leaves[:2])):
            dys = [(output.detach() + 1).requires_grad_() for output in outputs]
            first = torch.autograd.grad(outputs, used, dys, retain_graph=True)
            again = torch.autograd.grad(outputs, used, dys, create_graph=True)
            once = sum(gradient.sin().sum() for gradient in again)
            second = torch.autograd.grad(once, [*used, *dys], retain_graph=True, materialize_grads=True)
            results += [*first, *again, *second]
        return [y, h, *results]

    assert_close(derivatives(ours, torch.float32), derivatives(stock, torch.float64), 1e-4)
    assert kernel_calls.count(BACKWARD) == 6  # once for each gradient, once more where the second derivative reaches h


def test_frozen_parts_get_no_gradient(kernel_calls):
    made = ct.convert(layer(p=0.2))
    for parameter in (*made.norm1.parameters(), made.norm2.bias, *made.self_attn.parameters()):
        parameter.requires_grad_(False)
    made(torch.randn(N, T, D)).sum().backward()
    assert {name for name, parameter in made.named_parameters() if parameter.grad is not None} == {
        "linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias", "norm2.weight"
    }  # fmt: skip


@pickles
def test_a_layer_made_directly_is_a_converted_layer():
    """The constructor takes the arguments of PyTorch and swaps the parts; state, pickle and revert work."""
    stock, ours = (
        kind(D, 2, 24, batch_first=True) for kind in (nn.TransformerEncoderLayer, ct.TransformerEncoderLayer)
    )
    assert repr(ours) == repr(stock)
    ours.load_state_dict(stock.state_dict())
    assert {type(part) for part in ours.modules()} == {
        type(part) for part in ct.convert(copy.deepcopy(stock)).modules()
    }
    again = pickle.loads(pickle.dumps(ours))
    x = torch.randn(N, T, D)
    assert torch.equal(again.eval()(x), ours.eval()(x))
    stock.load_state_dict(ours.state_dict())
    assert {type(part) for part in ct.revert(ours).modules()} == {type(part) for part in stock.modules()}


def test_skip_of_a_fused_part_keeps_the_layer_of_pytorch():
    """A layer is not swapped if a part that it would fuse is skipped."""
    assert type(ct.convert(layer(), skip="norm1")) is nn.TransformerEncoderLayer
    assert type(ct.convert(layer(), skip=nn.Dropout)) is nn.TransformerEncoderLayer
    assert (
        type(ct.convert(layer(norm_first=True), skip="norm1")) is ct.TransformerEncoderLayer
    )  # norm1 follows no addition
    assert type(ct.convert(layer(), skip="self_attn")) is ct.TransformerEncoderLayer
    alone = ct.convert(layer(), only=nn.TransformerEncoderLayer)
    assert [entry.name for entry in ct.report(alone).swapped] == [""]


def test_a_layer_with_the_parts_of_pytorch_is_fused(kernel_calls):
    ct.convert(layer(), only=nn.TransformerEncoderLayer)(torch.randn(N, T, D))
    assert kernel_calls == [FORWARD] * 2


def test_the_report_says_what_is_not_fused():
    made = ct.convert(layer())
    assert {entry.note for entry in ct.report(made).entries} == {""}
    made.norm2 = MyNorm(D)
    watch(made, "dropout1")
    note = ct.report(made).entries[0].note
    assert note == (
        "dropout1 and norm1 one after another: hooks on a Dropout; "
        "dropout2 and norm2 one after another: a MyNorm instead of a LayerNorm"
    )
    assert ct.report(ct.convert(layer().half())).entries[0].note.startswith("falls back to PyTorch's: parameters are")


def test_the_layer_raises_the_errors_of_pytorch(kernel_calls):
    """For a mask of a wrong shape or dtype, and an input of a wrong width."""
    stock = layer()
    ours = ct.convert(copy.deepcopy(stock))
    x = torch.randn(N, T, D)
    for args in ((x, torch.ones(2, 3)), (x, torch.ones(T, T, dtype=torch.int64)), (torch.randn(N, T, D + 1),)):
        errors = []
        for made in (stock, ours):
            try:
                made(*args)
            except (AssertionError, RuntimeError) as error:
                errors.append((type(error), str(error)))
        assert errors[0] == errors[1]


def test_small_layers_use_the_ops_of_pytorch():
    assert transformer.takes(torch.randn(128, 128), "dropout_add_layer_norm")
    assert not transformer.takes(torch.randn(N, T, D), "dropout_add_layer_norm")
