"""cregkit.torch.profile: the model and PyTorch's state stay as they are; outputs, advice and errors. No times."""

from __future__ import annotations

import copy
import math
import statistics
from contextlib import nullcontext
from dataclasses import FrozenInstanceError, astuple, dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import cregkit.torch as ct  # noqa: E402
from cregkit.torch import dispatch, profiling  # noqa: E402


@dataclass
class Output:
    logits: Any
    classes: Any


class Net(nn.Module):
    """Dropouts, attention, norms with running statistics, a frozen layer; outputs in the form of ``wrap``."""

    seen: ClassVar[list[Any]] = []

    def __init__(self, wrap=lambda y: y):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(0.25, inplace=True))
        self.attention = nn.MultiheadAttention(16, 2, dropout=0.25)
        self.layers[0].requires_grad_(False)
        self.wrap = wrap

    def forward(self, x, *rest):
        self.seen.append((type(self.layers[2]), self.attention.dropout, torch.is_grad_enabled(), ct.enabled()))
        y = self.layers(x)
        return self.wrap(y + self.attention(y, y, y)[0])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("converted", [True, False])
def test_the_model_its_inputs_and_the_generator_stay_as_they_are(training, converted):
    """Bit for bit: parameters, gradients, running statistics, modes, classes, inputs and random numbers."""
    torch.manual_seed(0)
    model = Net().train(training)
    if converted:
        ct.convert(model)
    model.layers[1].eval()
    leaf = torch.randn(8, 16, requires_grad=True)
    x = leaf * 2
    model(x).sum().backward(retain_graph=True)
    before = copy.deepcopy([model.state_dict(), [p.grad for p in model.parameters()], x.detach(), leaf.grad])
    modules = [(type(module), module.training) for module in model.modules()]
    generator = torch.get_rng_state()
    result = ct.profile(model, x, {"other": leaf}, steps=2)
    assert torch.equal(torch.get_rng_state(), generator)
    after = [model.state_dict(), [p.grad for p in model.parameters()], x.detach(), leaf.grad]
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
    assert [(type(module), module.training) for module in model.modules()] == modules
    assert all(value > 0 for value in astuple(result) if isinstance(value, float) and not math.isnan(value))


def test_a_round_has_a_step_of_each_state(monkeypatch):
    """PyTorch's modules, cregkit's, PyTorch's in an enable block and without dropout and norms; with gradients."""
    ways = [(nn.Dropout, 0.25, True, frozenset()), (ct.Dropout, 0.25, True, frozenset())]
    if dispatch.library is not None:
        ways.append((nn.Dropout, 0.25, True, frozenset(dispatch.SMALLEST)))
    without = [(nn.Dropout, 0.0, True, frozenset())] * 2
    monkeypatch.setattr(Net, "seen", [])
    with torch.no_grad():
        ct.profile(Net().eval(), torch.randn(8, 16), steps=2)
    assert Net.seen == [ways[0], *[*ways, *without] * (profiling.WARM_UP + 2)]


class Gain(nn.Module):
    """An RMS norm written by hand."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16))
        self.eps = 1e-6

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Functional(nn.Module):
    """Dropout and norms as functions, in recurrent layers and in attention, and a norm written by hand."""

    def __init__(self):
        super().__init__()
        self.linear, self.gain = nn.Linear(16, 16), Gain()
        self.lstm = nn.LSTM(16, 16, 2, dropout=0.5)
        self.attention = nn.MultiheadAttention(16, 2, dropout=0.5)

    def forward(self, x):
        y = nn.functional.dropout(self.linear(x), 0.5, training=True)
        y = torch.dropout(input=y, p=0.5, train=True)
        y = nn.functional.layer_norm(self.gain(y), (16,))
        y = y + self.lstm(y)[0] + self.attention(y, y, y)[0]
        heads = y.view(8, 1, 2, 8).transpose(1, 2)
        attended = nn.functional.scaled_dot_product_attention(heads, heads, heads, None, 0.5)
        attended = attended + nn.functional.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.5)
        return attended.transpose(1, 2).reshape(8, 16)


def test_without_dropout_every_dropout_does_nothing():
    torch.manual_seed(0)
    model, x = Functional(), torch.randn(8, 16)
    with profiling._without(model, profiling._DROPOUTS, ()):
        once, again = model(x), model(x)
    assert torch.equal(once, again)
    assert not torch.equal(model(x), model(x))
    assert model.lstm.dropout == model.attention.dropout == 0.5


def test_without_norms_they_return_their_input():
    """Functions, modules of PyTorch, and norms that convert recognises; also if nothing else has parameters."""
    model = Functional()
    norms = list(profiling._norms(ct.convert(model)))
    ct.revert(model)
    assert norms == [model.gain]
    x = torch.randn(4, 16, 3, 3)
    stock = nn.Sequential(
        nn.BatchNorm2d(16), nn.GroupNorm(4, 16), nn.InstanceNorm2d(16), nn.LayerNorm(3), nn.RMSNorm(3)
    )
    assert list(profiling._norms(stock)) == list(stock)
    with profiling._without(stock, profiling._NORMS, [model.gain]):
        assert stock(x) is x
        assert model.gain(x) is x
    assert "forward" not in vars(model.gain)
    assert ct.profile(stock, x, steps=1).without_both > 0


def test_medians_speed_up_and_noise(monkeypatch):
    """Of the timed rounds alone; a single round has no noise to compare with."""
    rounds = [[4.0, 2.0, 1.0, 0.5], [6.0, 2.0, 2.0, 0.5], [9.0, 2.0, 3.0, 0.75], [8.0, 4.0, 4.0, 1.0]]
    times = iter([100.0, 1.0, 1.0, 1.0] * profiling.WARM_UP + [t for times in rounds for t in times])
    monkeypatch.setattr(profiling, "_time", lambda *_: next(times))
    monkeypatch.setattr(dispatch, "library", None)
    found = ct.profile(Net(), torch.randn(8, 16), steps=4)
    low, middle, high = statistics.quantiles([2.0, 3.0, 4.5, 2.0])
    assert astuple(found)[:2] + astuple(found)[3:] == (
        *(7.0, 2.0, 2.5, 0.625),
        *("convert(model)", middle, (high - low) / middle),
    )
    assert math.isnan(found.enabled)
    with pytest.raises(FrozenInstanceError):
        found.stock = 1.0
    times = iter([2.0, 1.0, 1.0, 0.5] * (profiling.WARM_UP + 1))
    single = ct.profile(Net(), torch.randn(8, 16), steps=1)
    assert (single.stock, single.speedup, single.noise) == (2.0, 2.0, math.inf)


def test_the_faster_way_is_advised(monkeypatch):
    times = iter([2.0, 1.6, 1.0, 0.9, 0.8] * (profiling.WARM_UP + 2))
    monkeypatch.setattr(profiling, "_time", lambda *_: next(times))
    monkeypatch.setattr(dispatch, "library", SimpleNamespace(is_on=lambda op: False))
    monkeypatch.setattr(dispatch, "enable", nullcontext)
    found = ct.profile(Net(), torch.randn(8, 16), steps=2)
    assert (found.enabled, found.way, found.speedup, found.noise) == (1.0, "enable()", 2.0, 0.0)


@pytest.mark.parametrize(
    ("speedup", "noise", "advice"),
    [
        (1.21, 0.02, "convert(model) makes a training step 1.21x faster (noise 2 %)"),
        (1.01, 0.02, "no gain beyond noise (2 %): leave the model as it is"),
        (0.99, 0.05, "no gain beyond noise (5 %): leave the model as it is"),
        (0.8, 0.1, "no gain beyond noise (10 %): leave the model as it is"),
        (2.0, math.inf, "no gain beyond noise (inf %): leave the model as it is"),
    ],
)
def test_the_advice_follows_from_speed_up_and_noise(speedup, noise, advice):
    found = ct.Profile(2e-3, 1.25e-3, math.nan, 1e-3, 0.5e-3, "convert(model)", speedup, noise)
    assert found.advice == advice
    assert str(found).splitlines() == [
        "training step                 ms  dropout and norms",
        "PyTorch                    2.000               75 %",
        "converted                  1.250               60 %",
        "without dropout            1.000               50 %",
        "without dropout and norms  0.500",
        advice,
    ]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: (y.argmax(), y),
        lambda y: {"logits": y, "more": [None, y.detach()]},
        lambda y: Output(logits=[y], classes=y.argmax(-1)),
    ],
    ids=["tuple", "dict", "dataclass"],
)
def test_outputs_may_be_nested(wrap):
    assert ct.profile(Net(wrap), torch.randn(8, 16), steps=1).stock > 0


def test_bad_arguments_have_errors_that_name_them():
    x = torch.randn(8, 16)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got int"):
        ct.profile(3, x)
    with pytest.raises(TypeError, match="inputs must be the arguments of the model, got none"):
        ct.profile(Net())
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        ct.profile(Net(), x, steps=0)
    with pytest.raises(TypeError, match=r"steps must be an int, got float 1\.5"):
        ct.profile(Net(), x, steps=1.5)
    with pytest.raises(ValueError, match=r"model must be on the CPU, got layers\.0\.weight on meta: model\.cpu"):
        ct.profile(Net().to("meta"), x)
    with pytest.raises(ValueError, match=r"must return floating-point tensors that need a gradient, .* got Tensor"):
        ct.profile(Net(lambda y: y.argmax()), x)
