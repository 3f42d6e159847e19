"""convert, revert and report: which modules are swapped, what stays the same, and what is refused."""

from __future__ import annotations

import copy
import io

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch_support import tensors_in  # noqa: E402

import cregkit.torch as ct  # noqa: E402
from cregkit.torch import dispatch, private  # noqa: E402

FLOATS = "float32 or bfloat16 or float16" if dispatch.library else "float32"

KINDS = {
    "Dropout": lambda m: m.Dropout(0.25, inplace=True),
    "Dropout1d": lambda m: m.Dropout1d(0.25),
    "Dropout2d": lambda m: m.Dropout2d(p=0.25),
    "BatchNorm1d": lambda m: m.BatchNorm1d(6, eps=1e-3, momentum=None),
    "BatchNorm2d": lambda m: m.BatchNorm2d(6, affine=False),
    "GroupNorm": lambda m: m.GroupNorm(2, 6, eps=1e-3),
    "InstanceNorm1d": lambda m: m.InstanceNorm1d(6, affine=True),
    "InstanceNorm2d": lambda m: m.InstanceNorm2d(6, momentum=None, track_running_stats=True),
    "InstanceNorm3d": lambda m: m.InstanceNorm3d(6),
    "LayerNorm": lambda m: m.LayerNorm((4, 6), bias=False),
    "RMSNorm": lambda m: m.RMSNorm(6, eps=1e-3),
    "MultiheadAttention": lambda m: m.MultiheadAttention(6, 2, dropout=0.25, kdim=5, batch_first=True),
    "TransformerEncoderLayer": lambda m: m.TransformerEncoderLayer(6, 2, 8, 0.25, bias=False, norm_first=True),
}


class Net(nn.Module):
    """Nested modules: a shared one, a subclass of a PyTorch module, and one without a kernel."""

    def __init__(self):
        super().__init__()

        class MyNorm(nn.LayerNorm):
            def forward(self, x):
                return -super().forward(x)

        self.shared = nn.LayerNorm(12)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(12, 12), self.shared, nn.Dropout(0.2)) for _ in range(2))
        self.encoder = nn.TransformerEncoderLayer(12, 2, 24, dropout=0.1, batch_first=True)
        self.mine = MyNorm(12)
        self.response = nn.LocalResponseNorm(3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        x = self.mine(self.encoder(x))
        return self.response(x.transpose(1, 2)).transpose(1, 2)


def kinds(model):
    return {name: type(module) for name, module in model.named_modules()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_differs_from_pytorchs_in_its_forward_alone(kind):
    """Constructor, repr, state dict, flags and defaults are those of PyTorch; each loads the state of the other."""
    torch.manual_seed(0)
    stock, ours = KINDS[kind](nn), KINDS[kind](ct)
    assert isinstance(ours, type(stock))
    assert repr(ours) == repr(stock)
    assert [*ours.state_dict()] == [*stock.state_dict()]
    ours.load_state_dict(stock.state_dict())
    stock.load_state_dict(ours.state_dict())
    assert all(map(torch.equal, tensors_in(ours.state_dict()), tensors_in(stock.state_dict())))
    assert {k: v for k, v in vars(ours).items() if isinstance(v, (int, float, tuple))} == {
        k: v for k, v in vars(stock).items() if isinstance(v, (int, float, tuple))
    }
    converted = ct.convert(copy.deepcopy(stock))
    assert type(converted) is type(ours)
    assert type(ct.revert(converted)) is type(stock)


def test_convert_keeps_everything_but_the_class():
    model = Net()
    before = dict(model.named_modules())
    tensors = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    called = []
    model.shared.register_forward_hook(lambda *_: called.append("hook"))
    model.eval()
    assert ct.convert(model) is model
    assert {name: id(module) for name, module in model.named_modules()} == {n: id(m) for n, m in before.items()}
    assert {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()} == tensors
    assert model.blocks[0][1] is model.blocks[1][1] is model.shared
    assert not any(module.training for module in model.modules())
    model(torch.randn(2, 5, 12))
    assert called == ["hook"] * 2
    once = kinds(model)
    assert kinds(ct.convert(model)) == once
    assert {name for name, kind in once.items() if kind.__module__.startswith("cregkit")} == {
        "shared", "blocks.0.2", "blocks.1.2", "encoder", "encoder.self_attn", "encoder.norm1", "encoder.norm2",
        "encoder.dropout", "encoder.dropout1", "encoder.dropout2",
    }  # fmt: skip
    assert kinds(ct.revert(model)) == kinds(Net()) | {"mine": type(model.mine)}


def test_an_optimizer_made_before_convert_still_works():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    ct.convert(model)
    before = [parameter.clone() for parameter in model.parameters()]
    model(torch.randn(16, 4)).pow(2).sum().backward()
    optimizer.step()
    assert not any(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"only": nn.Dropout}, {"blocks.0.2", "blocks.1.2", "encoder.dropout", "encoder.dropout1", "encoder.dropout2"}),
        ({"only": "encoder", "skip": nn.Dropout}, {"encoder.self_attn", "encoder.norm1", "encoder.norm2"}),
        ({"only": ["blocks.0", nn.MultiheadAttention]}, {"shared", "blocks.0.2", "encoder.self_attn"}),
        ({"skip": ("encoder", "blocks.1")}, {"blocks.0.2"}),
        ({"only": ()}, set()),
    ],
    ids=str,
)
def test_only_and_skip_choose_the_modules(choice, expected):
    """Both take classes, names of modules with everything in them, or a mixture."""
    model = ct.convert(Net(), **choice)
    assert {entry.name for entry in ct.report(model).swapped} == expected


def test_a_wrong_choice_is_refused_and_changes_nothing():
    model = Net()
    before = kinds(model)
    for choice, error, text in [
        ({"only": "encodr"}, ValueError, "only must name modules of the model, got 'encodr': see"),
        ({"skip": nn.Linear}, ValueError, r"skip must be a class that convert swaps \(Batch.*, got Linear"),
        (
            {"only": 3},
            TypeError,
            "only must be the name of a module, a class of modules, or an iterable of both, got 3",
        ),
        ({"skip": [nn.Dropout(0.1)]}, TypeError, "skip must be the name of a module"),
    ]:
        with pytest.raises(error, match=text):
            ct.convert(model, **choice)
    assert kinds(model) == before


@pytest.mark.parametrize("function", [ct.convert, ct.revert, ct.report])
def test_a_state_dict_instead_of_a_model_is_refused(function):
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got OrderedDict"):
        function(Net().state_dict())


def test_torchscript_is_refused_or_reported():
    """A TorchScript model is refused; a TorchScript part of a model is reported and not swapped."""
    frozen = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Dropout(0.1)).eval()))
    with pytest.raises(TypeError, match="got a TorchScript module, whose graph is fixed"):
        ct.convert(frozen)
    model = nn.Sequential(torch.jit.script(nn.Dropout(0.5)), nn.Dropout(0.5))
    entries = {entry.name: entry for entry in ct.report(ct.convert(model)).entries}
    assert entries["0"].note == "TorchScript: its graph is fixed; convert before scripting"
    assert entries["1"].swapped


def test_the_report_says_why_a_module_is_not_swapped():
    model = Net()
    model.lazy = nn.LazyBatchNorm1d()
    model.patched = nn.Dropout(0.1)
    model.patched.forward = lambda x: x
    model.wide = nn.LayerNorm(12).double()
    ct.convert(model, skip="encoder.norm2")
    found = {entry.name: entry for entry in ct.report(model).entries}
    assert {name: entry.note for name, entry in found.items() if entry.note} == {
        "mine": "a subclass of LayerNorm: may compute something else",
        "response": "no kernel for it",
        "lazy": "not initialised yet: run a batch through the model, then convert again",
        "patched": "its forward is overridden on the instance",
        "encoder": "PyTorch's: convert() would swap it",
        "encoder.norm2": "PyTorch's: convert() would swap it",
        "wide": f"falls back to PyTorch's: parameters are torch.float64, not {FLOATS} on the CPU",
    }
    assert found["wide"].swapped
    assert len(ct.report(model).left) == 6
    lines = str(ct.report(model)).splitlines()
    assert lines[0] == "9 of 15 modules computed by cregkit"
    assert "left     MyNorm                   mine" in "\n".join(lines)


def test_the_report_counts_modules_that_could_be_swapped():
    lacks = "".join(f"\nwithout {name}: {private.NAMES[name]}" for name in private.MISSING)
    assert str(ct.report(ct.Dropout())) == f"1 of 1 modules computed by cregkit\nswapped  Dropout  (model){lacks}"
    assert str(ct.report(nn.ReLU())) == f"0 of 0 modules computed by cregkit{lacks}"


def test_a_lazy_module_is_swapped_after_it_is_initialised():
    model = ct.convert(nn.Sequential(nn.LazyBatchNorm1d()))
    model(torch.randn(4, 3))
    assert type(ct.convert(model)[0]) is ct.BatchNorm1d


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_have_the_bits_of_pytorch(dtype, without_library):
    torch.manual_seed(0)
    stock = nn.Sequential(nn.Linear(512, 512), nn.LayerNorm(512), nn.BatchNorm1d(512), nn.RMSNorm(512)).to(dtype)
    ours = ct.convert(copy.deepcopy(stock))
    x = torch.randn(512, 512, dtype=dtype)
    assert torch.equal(ours(x), stock(x))


def test_pytorch_loads_the_state_of_a_converted_model():
    """PyTorch's model loads the state dict with weights_only=True, and gives the same results."""
    torch.manual_seed(0)
    model = ct.convert(Net())
    model(torch.randn(4, 5, 12)).sum().backward()
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    stock = Net()
    stock.load_state_dict(torch.load(buffer, weights_only=True))
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(stock.eval()(x), model.eval()(x))
