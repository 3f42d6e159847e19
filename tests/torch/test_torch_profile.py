"""cregkit.torch.profile: the model and PyTorch's state stay as they are; outputs, advice and errors. No times."""

from __future__ import annotations

import copy
import math
import statistics
from dataclasses import FrozenInstanceError, astuple, dataclass
from typing import Any, ClassVar

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import cregkit.torch as ct  # noqa: E402
from cregkit.torch import profiling  # noqa: E402


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
        self.seen.append((type(self.layers[2]), self.layers[2].p, self.attention.dropout, self.training))
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
    assert all(value > 0 for value in astuple(result))


def test_a_round_has_a_step_of_each_state(monkeypatch):
    """PyTorch's modules, cregkit's, and PyTorch's at rate 0, in training mode, also if no_grad is on."""
    monkeypatch.setattr(Net, "seen", [])
    with torch.no_grad():
        ct.profile(Net().eval(), torch.randn(8, 16), steps=2)
    states = [(nn.Dropout, 0.25, 0.25, True), (ct.Dropout, 0.25, 0.25, True), (nn.Dropout, 0.0, 0.0, True)]
    assert Net.seen == states * (profiling.WARM_UP + 2)


def test_medians_speed_up_and_noise(monkeypatch):
    """Of the timed rounds alone; a single round has no noise to compare with."""
    rounds = [[4.0, 2.0, 1.0], [6.0, 2.0, 2.0], [9.0, 2.0, 3.0], [8.0, 4.0, 4.0]]
    times = iter([100.0, 1.0, 1.0] * profiling.WARM_UP + [t for times in rounds for t in times])
    monkeypatch.setattr(profiling, "_time", lambda *_: next(times))
    found = ct.profile(Net(), torch.randn(8, 16), steps=4)
    low, middle, high = statistics.quantiles([2.0, 3.0, 4.5, 2.0])
    assert found == ct.Profile(7.0, 2.0, 2.5, middle, (high - low) / middle)
    with pytest.raises(FrozenInstanceError):
        found.stock = 1.0
    times = iter([2.0, 1.0, 1.0] * (profiling.WARM_UP + 1))
    assert ct.profile(Net(), torch.randn(8, 16), steps=1) == ct.Profile(2.0, 1.0, 1.0, 2.0, math.inf)


@pytest.mark.parametrize(
    ("speedup", "noise", "advice"),
    [
        (1.21, 0.02, "convert() makes a training step 1.21x faster (noise 2 %)"),
        (1.01, 0.02, "no gain beyond noise (2 %): leave the model as it is"),
        (0.99, 0.05, "no gain beyond noise (5 %): leave the model as it is"),
        (0.8, 0.1, "no gain beyond noise (10 %): leave the model as it is"),
        (2.0, math.inf, "no gain beyond noise (inf %): leave the model as it is"),
    ],
)
def test_the_advice_follows_from_speed_up_and_noise(speedup, noise, advice):
    found = ct.Profile(2e-3, 1.25e-3, 1e-3, speedup, noise)
    assert found.advice == advice
    assert str(found).splitlines() == [
        "training step          ms  dropout",
        "PyTorch             2.000     50 %",
        "converted           1.250     20 %",
        "without dropout     1.000",
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
