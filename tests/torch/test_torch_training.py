"""Training converted models: the loss curve of PyTorch without dropout, its accuracy with dropout."""

from __future__ import annotations

import copy
import io

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import cregkit.torch as ct  # noqa: E402


class Block(nn.Module):
    """A transformer block with a classifier on the mean of its tokens."""

    def __init__(self, p):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, dropout=p)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.RMSNorm(16)
        self.feed = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16), nn.Dropout(p))
        self.dropout = nn.Dropout(p)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        attended, _ = self.attention(x, x, x)
        x = self.norm1(x + self.dropout(attended))
        return self.head(self.norm2(x + self.feed(x)).mean(dim=0))


def conv_block(p):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(p), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip


def mlp(p):
    return nn.Sequential(
        nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(p),
        nn.Linear(32, 16), nn.LayerNorm(16), nn.ReLU(), nn.Dropout(p), nn.Linear(16, 3),
    )  # fmt: skip


def digits_cnn(p):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(p), nn.Flatten(), nn.Linear(288, 32),
        nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(p), nn.Linear(32, 10),
    )  # fmt: skip


MODELS = {"conv": (conv_block, (16, 3, 10, 10)), "mlp": (mlp, (32, 20)), "transformer": (Block, (12, 16, 16))}


def curve(model, x, y, steps=50):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return torch.tensor(losses, dtype=torch.float64)


def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits()
    x = torch.tensor(data.images[:, None] / 16, dtype=torch.float32)
    return x, torch.tensor(data.target)


@pytest.mark.parametrize("name", [*MODELS, "digits"])
def test_without_dropout_the_loss_curve_is_that_of_pytorch(name, kernel_calls):
    """Over 50 steps, within ten times the distance between PyTorch's float32 and float64 curves."""
    torch.manual_seed(0)
    if name == "digits":
        make = digits_cnn
        x, y = (part[:256] for part in digits())
    else:
        make, shape = MODELS[name]
        x = torch.randn(shape)
        y = torch.randint(3, (shape[1] if name == "transformer" else shape[0],))
    stock = make(0.0)
    ours, exact = ct.convert(copy.deepcopy(stock)), copy.deepcopy(stock).double()
    curves = [curve(stock, x, y), curve(ours, x, y), curve(exact, x.double(), y)]
    assert float(curves[2][-1]) < 0.8 * float(curves[2][0])  # it learns
    theirs, own = (float((found - curves[2]).abs().max()) for found in curves[:2])
    assert own <= 10 * theirs + 1e-6
    assert kernel_calls


def test_with_dropout_the_digits_reach_the_accuracy_of_pytorch(kernel_calls):
    """Over five seeds the means differ by less than the sum of the standard deviations."""
    x, y = digits()
    accuracies = {}
    for change in (ct.revert, ct.convert):
        found = []
        for seed in range(5):
            torch.manual_seed(seed)
            model = change(digits_cnn(0.3))
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            for _ in range(3):
                for batch in torch.randperm(1200).split(100):
                    optimizer.zero_grad()
                    F.cross_entropy(model(x[batch]), y[batch]).backward()
                    optimizer.step()
            with torch.no_grad():
                found.append(float((model.eval()(x[1200:]).argmax(1) == y[1200:]).float().mean()))
        accuracies[change] = torch.tensor(found)
    stock, ours = accuracies[ct.revert], accuracies[ct.convert]
    assert min(stock.min(), ours.min()) > 0.8
    assert float((stock.mean() - ours.mean()).abs()) <= float(stock.std() + ours.std())


@pytest.mark.parametrize("name", MODELS)
def test_pytorch_loads_a_model_trained_with_the_kernels(name, kernel_calls):
    """After training with dropout, the unconverted model makes the same predictions."""
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = ct.convert(make(0.2))
    x = torch.randn(shape)
    y = torch.randint(3, (shape[1] if name == "transformer" else shape[0],))
    curve(model, x, y, steps=5)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    stock = make(0.2)
    stock.load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(stock.eval()(x), model.eval()(x))
    assert {"dropout", "dropout_backward"} <= {*kernel_calls}
