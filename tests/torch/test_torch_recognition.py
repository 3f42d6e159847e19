"""convert takes subclasses that inherit forward, and norms of any class that their numbers verify, and no others."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from functools import partial

import pytest

torch = pytest.importorskip("torch")

import torch_norms as norms  # noqa: E402
from torch import nn  # noqa: E402
from torch_support import pickles  # noqa: E402

import cregkit.torch as ct  # noqa: E402
from cregkit.torch import bridge, dispatch  # noqa: E402
from cregkit.torch.recognition import describe, recognise  # noqa: E402

needs_library = pytest.mark.skipif(dispatch.library is None, reason="needs the native library")
WITH_BIAS = (norms.HandLayerNorm, norms.ConvNextLayerNorm, norms.Unbiased)
OF_CHANNELS = (norms.TimmLayerNorm2d, norms.ConvNextLayerNorm)

KNOWN = {
    norms.LlamaRMSNorm: "RMS norm, eps 1e-06",
    norms.WeightBeforeCast: "RMS norm, eps 1e-06",
    norms.T5LayerNorm: "RMS norm, eps 1e-06",
    norms.GatedRMSNorm: "RMS norm, eps 1e-06",
    norms.HiddenEps: "RMS norm, eps 0.000234567",
    norms.GemmaRMSNorm: "RMS norm with gain 1 + weight, eps 1e-06",
    norms.HandLayerNorm: "layer norm, eps 1e-06",
    norms.TimmLayerNorm: "layer norm, eps 1e-06",
    norms.Float32LayerNorm: "layer norm, eps 1e-05",
    norms.TimmLayerNorm2d: "layer norm of channels, channels last in memory, eps 1e-06",
    norms.ConvNextLayerNorm: "layer norm of channels, eps 1e-06",
}
UNKNOWN = [
    norms.Unbiased,
    norms.EpsOutside,
    norms.Clamped,
    norms.ClampedInput,
    norms.ClampedOutput,
    norms.WithoutNaN,
    norms.ScaleNorm,
    norms.L2Normalise,
    norms.WithoutEps,
    norms.RightInTwoDimensions,
    norms.OtherInTraining,
    norms.OtherInEvaluation,
    norms.OtherWithoutGradients,
    norms.CountsCalls,
    norms.Noisy,
    norms.DrawsAndIgnores,
    norms.Raises,
    norms.OnlyThreeDimensions,
    norms.ChangesItsInput,
    norms.ChangesItsInputAfterwards,
    norms.ChangesItsWeight,
    norms.DetachedRoot,
    norms.DetachedWeight,
    norms.Detached,
    norms.WithBuffer,
    norms.WithConfiguration,
    norms.Nothing,
    norms.NotANumber,
    norms.Scaled,
    norms.Doubled,
    norms.ReturnsTuple,
    norms.ReturnsFloat64,
    norms.ReturnsTransposed,
    nn.PReLU,
]


def made(kind, features=64):
    """A module with parameters that differ from each other."""
    module = kind(features, bias=True) if kind in WITH_BIAS else kind(features)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def inputs(kind, features=64):
    torch.manual_seed(2)
    return torch.randn(4, features, 8, 8) if kind in OF_CHANNELS else torch.randn(4, 16, features)


def results(module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    y.backward(torch.rand(y.shape, generator=torch.Generator().manual_seed(3)))
    gradients = [x.grad, *(p.grad for p in module.parameters())]
    module.zero_grad()
    return [y.detach(), *gradients]


def assert_equal_to_rounding(got, expected):
    assert (got - expected).norm() <= 2e-6 * expected.norm()


def is_swapped(module):
    return bool(ct.report(module).swapped)


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("features", [4, 33, 64, 768])
def test_a_norm_of_another_library_is_recognised(kind, features):
    assert str(recognise(describe(made(kind, features)))) == KNOWN[kind]


@pytest.mark.parametrize("eps", [1e-12, 1.1920928955078125e-07, 1e-5, 0.01, 0.7])
def test_eps_is_that_of_the_module(eps):
    assert recognise(describe(norms.LlamaRMSNorm(64, eps))).eps == eps


@pytest.mark.parametrize("kind", UNKNOWN, ids=lambda kind: kind.__name__)
def test_a_module_that_computes_anything_else_stays(kind):
    module = made(kind) if kind is not nn.PReLU else nn.PReLU(64)
    before = copy.deepcopy(module.state_dict())
    random = torch.get_rng_state()
    assert type(ct.convert(module)) is kind
    assert ct.report(module).entries == ()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.__name__)
def test_a_swapped_norm_equals_the_original(kind, kernel_calls):
    stock = made(kind)
    ours = ct.convert(copy.deepcopy(stock))
    x = inputs(kind)
    layouts = (torch.contiguous_format, torch.channels_last) if x.dim() == 4 else (torch.contiguous_format,)
    for layout in layouts:
        ordered = x.to(memory_format=layout)
        kernel_calls.clear()
        for got, expected in zip(results(ours, ordered), results(stock, ordered), strict=True):
            assert_equal_to_rounding(got, expected)
        assert [name.removeprefix("rms_norm").removeprefix("layer_norm") for name in kernel_calls] == [
            "_forward",
            "_backward",
        ]
        assert ours(ordered).stride() == stock(ordered).stride()
        with torch.no_grad():
            assert_equal_to_rounding(ours(ordered), stock(ordered))


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e4])
@pytest.mark.parametrize("kind", [norms.LlamaRMSNorm, norms.TimmLayerNorm, norms.HiddenEps])
def test_the_rounding_is_float32s_at_every_scale(kind, scale, kernel_calls):
    stock = made(kind)
    ours = ct.convert(copy.deepcopy(stock))
    x = scale * inputs(kind)
    exact = copy.deepcopy(stock).double()
    expected = exact(x.double()) if kind is norms.HiddenEps else stock(x).double()
    error = (ours(x) - expected).abs().max() / expected.abs().max()
    assert error < 5e-7
    assert kernel_calls


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.__name__)
def test_everything_but_the_class_stays(kind):
    """State, repr, names, hooks and class checks are those of the original; revert gives its class back."""
    stock = made(kind)
    ours = copy.deepcopy(stock)
    attributes, tensors = dict(vars(ours)), dict(ours.named_parameters())
    called = []
    ours.register_forward_hook(lambda *_: called.append("forward"))
    ours.register_full_backward_hook(lambda *_: called.append("backward"))
    ct.convert(ours)
    assert isinstance(ours, kind)
    assert type(ours) is not kind
    assert (type(ours).__name__, type(ours).__qualname__, type(ours).__module__) == (
        kind.__name__,
        kind.__qualname__,
        kind.__module__,
    )
    assert repr(ours) == repr(stock)
    assert vars(ours).keys() == attributes.keys()
    assert all(tensors[name] is parameter for name, parameter in ours.named_parameters())
    assert [*ours.state_dict()] == [*stock.state_dict()]
    results(ours, inputs(kind))
    assert called == ["forward", "backward"]
    assert is_swapped(ours)
    assert type(ct.convert(ours)) is type(ct.convert(copy.deepcopy(stock)))
    assert type(ct.revert(ours)) is kind


def test_probes_run_neither_hooks_nor_the_module():
    """Nothing but the class changes, also under no_grad, and no warning of a probed forward gets out."""
    module = norms.NotesCalls(64)
    module.register_forward_hook(lambda *_: norms.CALLS.append("hook"))
    module.weight.requires_grad_(False)
    module.eval()
    before = {name: copy.copy(value) for name, value in vars(module).items()}
    norms.CALLS.clear()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: norms.CALLS.append("global"))
    try:
        with torch.no_grad(), torch.inference_mode():
            ct.convert(module)
    finally:
        handle.remove()
    assert norms.CALLS == []
    assert vars(module) == before
    assert is_swapped(module)
    module(torch.zeros(2, 64))
    assert norms.CALLS == ["call", "hook"]


@pickles
@pytest.mark.parametrize("kind", [*KNOWN, norms.QuietLayerNorm], ids=lambda kind: kind.__name__)
def test_copies_and_pickles_stay_swapped(kind, kernel_calls):
    ours = ct.convert(made(kind))
    x = inputs(kind)
    expected = ours(x)
    buffer = io.BytesIO()
    torch.save(nn.Sequential(ours), buffer)
    buffer.seek(0)
    copies = [
        copy.copy(ours),
        copy.deepcopy(ours),
        *(pickle.loads(pickle.dumps(ours, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)),
        torch.load(buffer, weights_only=False)[0],
    ]
    for each in copies:
        assert type(each) is type(ours)
        kernel_calls.clear()
        assert torch.equal(each(x), expected)
        assert kernel_calls
        assert type(ct.revert(each)) is kind


def test_a_swapped_norm_follows_its_weight():
    """Training, load_state_dict, and a new parameter: the weight is read at every call."""
    torch.manual_seed(0)
    stock = nn.Sequential(nn.Linear(64, 64), made(norms.GemmaRMSNorm), nn.Linear(64, 1))
    ours = ct.convert(copy.deepcopy(stock))
    x, target = torch.randn(256, 64), torch.randn(256, 1)
    for model in (stock, ours):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), target).backward()
            optimizer.step()
    torch.testing.assert_close(ours(x), stock(x), rtol=1e-4, atol=1e-4)
    state = {"weight": torch.randn(64)}
    for assign in (False, True):
        ours[1].load_state_dict(state, assign=assign)
        stock[1].load_state_dict(state)
        torch.testing.assert_close(ours(x), stock(x), rtol=1e-4, atol=1e-4)
    ours[1].weight = stock[1].weight = nn.Parameter(torch.randn(64))
    torch.testing.assert_close(ours(x), stock(x), rtol=1e-4, atol=1e-4)
    assert is_swapped(ours[1])


@pytest.mark.parametrize(
    ("name", "value"), [("variance_epsilon", 1e-2), ("scale", 3.0), ("weight", None), ("bias", nn.Parameter)], ids=str
)
def test_a_changed_attribute_gives_the_class_back(name, value):
    stock, ours = norms.LlamaRMSNorm(64), ct.convert(norms.LlamaRMSNorm(64))
    for module in (stock, ours):
        setattr(module, name, nn.Parameter(torch.ones(64)) if value is nn.Parameter else value)
    assert type(ours) is norms.LlamaRMSNorm
    if name != "weight":
        x = 0.01 * torch.randn(8, 64)
        assert torch.equal(ours(x), stock(x))
        assert recognise(describe(stock)) is None or is_swapped(ct.convert(ours))


def test_train_and_eval_and_requires_grad_keep_the_swap():
    ours = ct.convert(norms.LlamaRMSNorm(64))
    ours.eval().train().requires_grad_(False).to(torch.float64).float()
    assert is_swapped(ours)


@pytest.mark.parametrize("parametrized", ["before", "after"])
@pytest.mark.parametrize("kind", [norms.LlamaRMSNorm, norms.QuietLayerNorm])
def test_a_parametrized_norm_is_right(kind, parametrized):
    """PyTorch makes a class of its own for it, and gives the former class back."""

    class Double(nn.Module):
        def forward(self, weight):
            return 2.0 * weight

    stock = made(kind)
    ours = copy.deepcopy(stock)
    parametrize = partial(nn.utils.parametrize.register_parametrization, tensor_name="weight", parametrization=Double())
    parametrize(stock)
    for step in (ct.convert, parametrize) if parametrized == "after" else (parametrize, ct.convert):
        step(ours)
    x = inputs(kind)
    torch.testing.assert_close(ours(x), stock(x))
    ct.revert(ours)
    torch.testing.assert_close(ours(x), stock(x))
    for module in (stock, ours):
        nn.utils.parametrize.remove_parametrizations(module, "weight")
    torch.testing.assert_close(ours(x), stock(x))
    assert isinstance(ours, kind)


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.__name__)
def test_what_is_not_float32_on_the_cpu_has_the_bits_of_the_original(kind, kernel_calls):
    stock = made(kind)
    ours = ct.convert(copy.deepcopy(stock))
    x = inputs(kind)
    for dtype in (torch.bfloat16, torch.float16):
        if not issubclass(kind, norms.TimmLayerNorm):  # with float32 parameters, it does not support them
            assert torch.equal(ours(x.to(dtype)), stock(x.to(dtype)))
    transposed = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(ours(transposed), stock(transposed))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x), stock(x))
    for dtype in (torch.bfloat16, torch.float64):
        if kind is not norms.Float32LayerNorm:  # it supports float32 parameters alone
            assert torch.equal(ours.to(dtype)(x.to(dtype)), stock.to(dtype)(x.to(dtype)))
    assert kernel_calls == []


def test_other_arguments_go_to_the_original(kernel_calls):
    stock = made(norms.GatedRMSNorm)
    ours = ct.convert(copy.deepcopy(stock))
    x, gate = torch.randn(2, 8, 64)
    assert torch.equal(ours(x, gate), stock(x, gate))
    assert torch.equal(ours(x=x), stock(x=x))
    for wrong in (torch.ones(3, 5), None, [1.0]):
        with pytest.raises((RuntimeError, TypeError, AttributeError)) as ours_error:
            ours(wrong)
        with pytest.raises((RuntimeError, TypeError, AttributeError)) as stock_error:
            stock(wrong)
        assert str(ours_error.value) == str(stock_error.value)
    one_axis = torch.randn(64)
    assert torch.equal(ours(one_axis), stock(one_axis))
    assert kernel_calls == []


@pytest.mark.parametrize("kind", [norms.LlamaRMSNorm, norms.TimmLayerNorm2d, norms.QuietLayerNorm])
def test_tracing_transforming_and_compiling_see_the_original(kind):
    stock = made(kind)
    ours = nn.Sequential(ct.convert(copy.deepcopy(stock)))
    x = inputs(kind)
    expected = stock(x)
    torch.testing.assert_close(torch.jit.trace(ours, x)(x), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(ours)(x), expected)
    torch.testing.assert_close(torch.compile(ours, backend="eager", fullgraph=True)(x), expected)
    torch.testing.assert_close(torch.export.export(ours, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.func.vmap(ours)(x[None])[0], expected)
    assert is_swapped(ours)


@pytest.mark.parametrize("kind", [norms.T5LayerNorm, norms.TimmLayerNorm2d, norms.QuietLayerNorm])
def test_torchscript_compiles_the_original(kind):
    """PyTorch puts what it compiles into the eager model, which still has the same modules."""
    stock = made(kind)
    ours = nn.Sequential(ct.convert(copy.deepcopy(stock)))
    norm = ours[0]
    x = inputs(kind)
    torch.testing.assert_close(torch.jit.script(ours)(x), stock(x))
    assert ours[0] is norm
    torch.testing.assert_close(ct.convert(ours)(x), stock(x))
    assert is_swapped(ours)


def test_subclasses_that_inherit_forward_are_swapped(kernel_calls):
    torch.manual_seed(0)
    model = nn.Sequential(norms.QuietLayerNorm(64), norms.QuietDropout(0.5), norms.QuietInstanceNorm(16, affine=True))
    stock = copy.deepcopy(model).eval()
    assert str(ct.report(model)).count("convert() would swap it") == 3
    ct.convert(model)
    entries = ct.report(model).swapped
    assert [entry.note for entry in entries] == [
        "inherits the forward of LayerNorm",
        "inherits the forward of Dropout",
        "inherits the forward of InstanceNorm1d",
    ]
    assert [entry.kind for entry in entries] == ["QuietLayerNorm", "QuietDropout", "QuietInstanceNorm"]
    x = torch.randn(4, 16, 64)
    for got, expected in zip(results(model.eval(), x), results(stock, x), strict=True):
        assert_equal_to_rounding(got, expected)
    dropped = model[1].train()(torch.ones(64, 64))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert {"layer_norm_forward", "dropout"} & set(kernel_calls)
    assert isinstance(model[0], norms.QuietLayerNorm)
    assert isinstance(model[0], ct.LayerNorm)
    ct.revert(model)
    assert [type(module) for module in model] == [type(module) for module in stock]


@pytest.mark.parametrize(
    "module",
    [
        norms.ScaledInstanceNorm(16),
        norms.BatchNormAct(16),
        norms.Registers(16),
        type("Attention", (nn.MultiheadAttention,), {})(16, 2),
        type("Layer", (nn.TransformerEncoderLayer,), {})(16, 2),
    ],
    ids=lambda module: type(module).__name__,
)
def test_other_subclasses_stay(module):
    kind = type(module)
    ct.convert(module)
    assert type(module) is kind
    assert norms.Registers.subclasses == []
    if not isinstance(module, norms.Registers):
        assert ct.report(module).entries[0].note.endswith("may compute something else")


def test_the_report_names_what_was_recognised():
    model = nn.ModuleDict(
        {
            "a": norms.LlamaRMSNorm(64),
            "b": norms.LlamaRMSNorm(64, 1e-5),
            "narrow": norms.GemmaRMSNorm(64).bfloat16(),
            "later": norms.TimmLayerNorm(64),
            "other": norms.Doubled(64),
        }
    )
    before = {entry.name: entry.note for entry in ct.report(model).left}
    narrow = "RMS norm with gain 1 + weight, eps 1e-06, but its parameters are torch.bfloat16, not float32 on the CPU"
    assert before == {
        "a": "RMS norm, eps 1e-06, verified by its numbers: convert() would swap it",
        "b": "RMS norm, eps 1e-05, verified by its numbers: convert() would swap it",
        "narrow": narrow,
        "later": "layer norm, eps 1e-06, verified by its numbers: convert() would swap it",
    }
    ct.convert(model)["later"].double()
    floats = "float32 or bfloat16 or float16" if dispatch.library else "float32"
    assert {entry.name: entry.note for entry in ct.report(model).swapped} == {
        "a": "RMS norm, eps 1e-06, verified by its numbers",
        "b": "RMS norm, eps 1e-05, verified by its numbers",
        "later": "layer norm, eps 1e-06, verified by its numbers; falls back to that of its class: "
        f"parameters are torch.float64, not {floats} on the CPU",
    }
    assert [entry.note for entry in ct.report(model).left] == [narrow]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"only": norms.LlamaRMSNorm}, {"0", "1"}),
        ({"skip": norms.LlamaRMSNorm}, {"2", "3"}),
        ({"only": nn.LayerNorm}, {"2", "3"}),
        ({"only": [norms.TimmLayerNorm, "0"]}, {"0", "2"}),
        ({"skip": ["1", nn.LayerNorm]}, {"0"}),
    ],
    ids=str,
)
def test_only_and_skip_take_the_classes_of_the_model(choice, expected):
    def model():
        kinds = norms.LlamaRMSNorm, norms.WeightBeforeCast, norms.TimmLayerNorm, norms.QuietLayerNorm
        return nn.Sequential(*(kind(64) for kind in kinds))

    converted = ct.convert(model(), **choice)
    assert {entry.name for entry in ct.report(converted).swapped} == expected
    assert {entry.name for entry in ct.report(ct.convert(converted, **choice)).swapped} == expected
    for wrong in (nn.Linear, norms.Doubled):
        with pytest.raises(ValueError, match=f"got {wrong.__name__}"):
            ct.convert(model().append(norms.Doubled(64)), only=wrong)


def test_global_settings_of_pytorch_do_not_matter():
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
            assert recognise(describe(norms.LlamaRMSNorm(64))).kind == "RMS norm"
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_model_is_probed_once_per_kind_of_norm(monkeypatch):
    """The same class with the same attributes; a class that changed is probed again."""
    calls = []
    forward = norms.LlamaRMSNorm.forward
    monkeypatch.setattr(norms.LlamaRMSNorm, "forward", lambda self, x: calls.append(1) or forward(self, x))
    ct.convert(nn.Sequential(norms.LlamaRMSNorm(64)))
    once = len(calls)
    calls.clear()
    ct.convert(nn.Sequential(*(norms.LlamaRMSNorm(64) for _ in range(50))))
    assert len(calls) == once
    monkeypatch.setattr(norms.LlamaRMSNorm, "forward", lambda self, x: 2.0 * forward(self, x))
    assert not is_swapped(ct.convert(norms.LlamaRMSNorm(64)))


def test_small_tensors_are_left_to_pytorchs_function():
    assert bridge.SMALLEST["rms_norm"] > 64
    stock = norms.LlamaRMSNorm(64)
    x = torch.randn(1, 1, 64)
    torch.testing.assert_close(ct.convert(copy.deepcopy(stock))(x), stock(x))


@needs_library
@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.__name__)
def test_a_norm_that_calls_pytorchs_op_keeps_its_forward(kind):
    """And computes what PyTorch's op supports, beyond float32, by the kernel."""
    norm = recognise(describe(made(kind)))
    assert norm.uses_op == issubclass(kind, (norms.TimmLayerNorm, norms.Float32LayerNorm))
    ours = ct.convert(made(kind))
    before = ct.usage()["layer_norm"]["taken"]
    ours(inputs(kind))
    assert ct.usage()["layer_norm"]["taken"] == before + norm.kind.startswith("layer norm")
    if kind is norms.TimmLayerNorm:
        ours.bfloat16()(inputs(kind).bfloat16())
        assert ct.usage()["layer_norm"]["taken"] == before + 2


def python_calls(function, *arguments):
    """Count the Python functions that a call enters."""
    entered = 0

    def note(frame, event, argument):
        nonlocal entered
        entered += event == "call"

    sys.setprofile(note)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return entered


SHORT = {
    "layer norm": (nn.LayerNorm(64), (8, 64)),
    "another library's layer norm": (norms.TimmLayerNorm(64), (8, 64)),
    "RMS norm": (nn.RMSNorm(64), (8, 64)),
    "batch norm": (nn.BatchNorm2d(4), (2, 4, 8, 8)),
    "group norm": (nn.GroupNorm(2, 4), (2, 4, 8, 8)),
    "dropout": (nn.Dropout(0.1), (8, 64)),
}


@needs_library
@pytest.mark.parametrize("name", SHORT)
def test_a_converted_module_enters_few_more_functions_than_pytorchs(name):
    """In a model the caches are cold: each function costs some microseconds there, and a fraction alone."""
    module, shape = SHORT[name]
    stock, ours = copy.deepcopy(module).eval(), ct.convert(copy.deepcopy(module)).eval()
    x = torch.randn(shape)
    assert python_calls(ours, x) <= python_calls(stock, x) + 5


@pytest.mark.parametrize("module", [nn.LayerNorm(8), nn.BatchNorm1d(8), norms.TimmLayerNorm(8)], ids=str)
def test_modules_of_16_bit_parameters_use_the_kernels_of_pytorchs_op(module):
    """Where the native library has them; the report says so."""
    model = nn.Sequential(copy.deepcopy(module)).bfloat16()
    (entry,) = ct.report(ct.convert(model)).entries
    assert ("falls back" in entry.note or "but its" in entry.note) == (dispatch.library is None)
    assert is_swapped(model[0]) or dispatch.library is None
