"""The benchmark of other libraries' models: rates, checks that find planted faults, rows, table and picture."""

from __future__ import annotations

import copy
import json

import models_report
import pytest
from models_section import SECTION, row

pytest.importorskip("torch", reason="needs PyTorch")

import torch  # noqa: E402
from support import bench_script  # noqa: E402
from torch import nn  # noqa: E402

import cregkit.torch  # noqa: E402
from cregkit.torch import dispatch  # noqa: E402

bench = bench_script("bench_models")
WORKLOAD = bench.Workload


class DropPath(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop_prob = 0.2
        self.config = type("Config", (), {})()
        self.config.attention_dropout = 0.3
        self.config.scale = 0.5

    def forward(self, x):
        return nn.functional.dropout(
            nn.functional.dropout(x, self.drop_prob, self.training), self.config.attention_dropout, self.training
        )


def tiny():
    model = nn.Sequential(
        nn.Linear(16, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(0.3),
        DropPath(),
        nn.LayerNorm(32),
        nn.Linear(32, 8),
    )
    return model, (torch.randn(64, 16),)


TINY = WORKLOAD("tiny", "torch", "64 rows", tiny)


@pytest.fixture(autouse=True)
def _disabled():
    yield
    if dispatch.library is not None:
        cregkit.torch.disable()


@pytest.fixture
def subject():
    if dispatch.library is None:
        pytest.skip("needs the native library")
    return bench.Subject(TINY, "float32")


def test_every_rate_of_modules_and_configurations_is_found():
    model = tiny()[0]
    found = {(type(holder).__name__, name): rate for holder, name, rate in bench.rates(model)}
    assert found == {
        ("Dropout", "p"): 0.3,
        ("DropPath", "drop_prob"): 0.2,
        ("Config", "attention_dropout"): 0.3,
    }


def test_a_model_passes_its_checks_and_becomes_stock_again(subject):
    assert list(bench.checks(subject, "float32")) == []
    rates = [rate for *_, rate in bench.rates(subject.task)]
    assert rates == []  # the last check is of the model without dropout
    subject.become(bench.STOCK)
    assert sorted(rate for *_, rate in bench.rates(subject.task)) == [0.2, 0.3, 0.3]
    assert cregkit.torch.enabled() == frozenset()
    assert type(subject.task.model[1]) is nn.BatchNorm1d
