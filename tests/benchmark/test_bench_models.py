"""The benchmark of other libraries' models: rates, checks that find planted faults, rows, table and picture."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
from models_section import SECTION, row
from support import bench_script

torch = pytest.importorskip("torch", reason="needs PyTorch")

import cregkit.torch  # noqa: E402
from cregkit.torch import dispatch  # noqa: E402

bench, report = bench_script("bench_models"), bench_script("models_report")
nn, F = torch.nn, torch.nn.functional
native = pytest.mark.skipif(dispatch.library is None, reason="needs the native library")


class Path(nn.Module):
    """Functional dropout whose rates are attributes of the module and of a configuration."""

    def __init__(self):
        super().__init__()
        self.drop_prob, self.eps = 0.2, 0.01
        self.config = SimpleNamespace(attention_dropout=0.1, scale=0.5)

    def forward(self, x):
        x = F.dropout(x, self.drop_prob, self.training)
        return F.dropout(x, self.config.attention_dropout, self.training)


def tiny():
    hidden = nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), Path(), nn.LayerNorm(32)
    return nn.Sequential(*hidden, nn.Linear(32, 8)), (torch.randn(64, 16),)


TINY = bench.Workload("tiny", "torch", "64 rows", tiny)


@pytest.fixture(autouse=True)
def one_thread():
    """Small models are as fast on one thread, and on a busy machine faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def subject():
    yield bench.Subject(TINY, "float32")
    cregkit.torch.disable()


def test_every_rate_of_modules_and_configurations_is_found(subject):
    found = {name: rate for _, name, rate in subject.rates}
    assert found == {"p": 0.3, "drop_prob": 0.2, "attention_dropout": 0.1}


def test_outermost_norms_are_found():
    class BatchNormAct(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.BatchNorm1d(4)

    class Conv2dNormActivation(nn.Sequential):
        pass

    block = Conv2dNormActivation(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    model = nn.Sequential(BatchNormAct(), nn.Linear(4, 4), nn.LayerNorm(4), block)
    assert bench.norms(model) == [model[0], model[2], block[1]]


@native
def test_a_model_passes_its_checks_and_becomes_stock_again(subject):
    assert list(bench.checks(subject)) == []
    for state in report.STATES:
        subject.become(state)
        assert bool(cregkit.torch.enabled()) == (state == report.ENABLED)
        assert ("cregkit" in type(subject.task.model[1]).__module__) == (state == report.CONVERTED)
        rates = [rate for *_, rate in bench.rates(subject.task)]
        assert len(rates) == (0 if state in (report.WITHOUT_DROPOUT, report.WITHOUT_BOTH) else 3)
    x = 3 * torch.ones(2, 32)
    assert torch.equal(subject.task.model[5](x), x)  # the norm does nothing
    subject.become(report.STOCK)
    assert not torch.equal(subject.task.model[5](x), x)


class Planted(bench.Subject):
    """A fault in the results of the converted model."""

    fault = ""

    def become(self, state, training=True, dropout=True):
        super().become(state, training, dropout)
        self.wrong = state == report.CONVERTED

    def output(self):
        found = super().output()
        return {"output": found["output"] + 1e-3} if self.wrong and self.fault == "output" else found

    def gradients(self):
        found = super().gradients()
        if self.wrong and self.fault == "gradient":
            found["model.5.bias"] = 1.01 * found["model.5.bias"]
        if self.wrong and self.fault == "no gradient":
            del found["model.5.bias"]
        return found

    def forward(self):
        loss = super().forward()
        if self.wrong and self.fault == "seed":
            return loss + torch.rand((), generator=torch.Generator().manual_seed(id(loss)))
        return 0 * loss if self.wrong and self.fault == "no dropout" else loss


@native
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("output", "output, converted: output is less accurate"),
        ("gradient", r"gradients, converted: model\.5\.bias is less accurate"),
        ("no gradient", r"gradients, converted: only one has model\.5\.bias"),
        ("seed", "converted: a seed gives two losses"),
        ("no dropout", "converted: two seeds give the same loss"),
    ],
)
def test_a_planted_fault_is_found(fault, message, monkeypatch):
    monkeypatch.setattr(Planted, "fault", fault)
    monkeypatch.setattr(bench, "Subject", Planted)
    (failed,) = bench.rows_of(TINY, "float32", 0.0)
    assert failed["model"] == "tiny"
    assert re.search(message, failed["failed"])
    assert "stock_ms" not in failed


@native
def test_a_changed_state_dict_is_found(subject, monkeypatch):
    def convert(model):
        with torch.no_grad():
            model.model[5].weight += 1
        return model

    monkeypatch.setattr(cregkit.torch, "convert", convert)
    assert next(bench.checks(subject)) == "convert changes the state_dict"


@native
def test_a_rate_that_is_not_found_is_a_failure(subject, monkeypatch):
    subject.rates = subject.rates[1:]
    assert "a dropout rate was not found" in list(bench.checks(subject))[-1]


def test_rounding_is_no_inaccuracy():
    exact = {"a": torch.ones(4), "b": torch.zeros(4)}
    stock = {"a": torch.ones(4) + 1e-4, "b": torch.full((4,), 1e-7)}
    twice, five = ({name: exact[name] + n * (stock[name] - exact[name]) for name in exact} for n in (2, 50))
    assert bench.inaccurate(twice, exact, [exact, stock]) == []
    assert bench.inaccurate(five, exact, [exact, stock]) == ["a", "b"]
    assert bench.inaccurate({"a": torch.full((4,), float("nan"))}, exact, [exact, stock]) == ["a"]


@native
@pytest.mark.parametrize("mode", ["float32", "bfloat16"])
def test_a_model_gives_a_row_for_each_phase(mode):
    training, inference = bench.rows_of(TINY, mode, 0.0)
    about = {"model": "tiny", "library": "torch", "batch": "64 rows", "mode": mode}
    assert training.items() >= {**about, "phase": "training"}.items()
    assert inference.items() >= {**about, "phase": "inference"}.items()
    assert {"without_dropout_ms", "without_both", "converted", "enabled"} < training.keys()
    assert "without_both" not in inference
    for measured in (training, inference):
        assert measured["rounds"] >= 9
        assert measured["enabled"] == pytest.approx(measured["enabled_ms"] / measured["stock_ms"], abs=0.01)
        low, high = measured["enabled_interval"]
        assert low <= measured["enabled"] <= high
        assert report.line(measured).startswith("tiny")


@native
def test_a_script_records_rows_and_names_missing_libraries(tmp_path, monkeypatch, capsys):
    def broken():
        raise ValueError("no such option")

    others = [("broken", "torch", broken), ("far", "a_package_that_nobody_has", broken)]
    models = (TINY, *(bench.Workload(name, library, "", build) for name, library, build in others))
    monkeypatch.setattr(bench, "WORKLOADS", models)
    path = tmp_path / "results.json"
    monkeypatch.setattr("sys.argv", ["bench_models.py", "--quick", "--record", str(path)])
    assert bench.main() == 1
    printed = capsys.readouterr().out
    assert "pip install a_package_that_nobody_has\n" in printed
    section = json.loads(path.read_text())["models"]
    assert [figure["model"] for figure in section["figures"]] == ["tiny", "tiny", "broken"]
    assert section["figures"][-1]["failed"] == "ValueError: no such option"
    assert "Failed, and not timed: broken, float32 (ValueError: no such option)." in report.table(section)
    monkeypatch.setattr("sys.argv", ["bench_models.py", "--only", "tiny", "--quick"])
    assert bench.main() == 0


def test_a_full_run_has_further_modes():
    modes = {mode for _, mode in bench.plan("", quick=False)}
    assert modes == {"float32", "bfloat16", "compiled"}
    assert {mode for _, mode in bench.plan("", quick=True)} == {"float32"}
    assert len(bench.WORKLOADS) >= 25
    assert set(bench.FURTHER) <= {workload.name for workload in bench.WORKLOADS}
    assert len({workload.name for workload in bench.WORKLOADS}) == len(bench.WORKLOADS)


def test_the_table_has_a_row_for_each_model_and_says_what_is_slower():
    text = report.table(SECTION)
    assert "| ViT-tiny (timm) | 4 x 96 px | 100.0 | 0.90 | 0.80 | 0.75 | 30 % | 100.0 | 0.99 | 1.03 |" in text
    assert "| ResNet-50 (timm) | 4 x 96 px | 100.0 | 0.80 | 0.60 |  | 50 % | 100.0 | 1.00 | 1.00 |" in text
    assert "| ViT-tiny (timm) | 4 x 96 px | 100.0 | 0.90 | 0.80 | 0.90 |  |  |  |  |" in text
    assert "training 0.85 converted, 0.69 enabled; inference 0.99 converted, 1.01 enabled." in text
    assert "above 1: ViT-tiny inference enabled 1.03 (1.01 to 1.05). Chance alone gives 0 such" in text
    assert " in 14 comparisons. Others above 1.02, with an interval that contains 1: 0." in text
    assert "Failed, and not timed: OPT, float32 (gradient" in text


def test_a_difference_within_noise_is_counted_apart():
    noisy = {**row("BERT", converted=1.04), "converted_interval": [0.99, 1.06]}
    assert report.slower([noisy]) == (
        "More than 2 % slower than stock, with a 95 % interval above 1: none. Chance alone gives 0 such intervals in "
        "2 comparisons. Others above 1.02, with an interval that contains 1: 1."
    )


@pytest.mark.parametrize(("factor", "low", "high"), [(1.0, 1.0, 1.0), (1.1, 1.1, 1.1)])
def test_disturbances_of_whole_rounds_cancel_in_the_interval(factor, low, high):
    stock = [1.0, 3.0, 1.0, 1.0, 9.0, 1.0, 1.0, 2.0, 1.0]
    assert bench.interval([factor * seconds for seconds in stock], stock) == [low, high]


def test_the_interval_of_noise_contains_1_and_narrows_with_rounds():
    noise = torch.distributions.Normal(1.0, 0.05)
    torch.manual_seed(0)
    few, many = (bench.interval(noise.sample((n,)).tolist(), noise.sample((n,)).tolist()) for n in (16, 1024))
    assert few[0] < many[0] < 1 < many[1] < few[1]


def test_the_picture_has_a_bar_for_each_model_and_the_fastest_on_top():
    pytest.importorskip("matplotlib")
    (ax,) = report.picture(SECTION).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ViT-tiny", "ResNet-50"]
    assert [bar.get_width() for bar in ax.patches] == [0.8, 0.6]
    converted, floors = ax.lines[:2]
    assert list(converted.get_xdata()) == [0.9, 0.8]
    assert list(floors.get_xdata()) == [0.75]


def test_a_slower_row_is_named_with_its_mode():
    rows = [row("A", converted=1.021, mode="bfloat16"), row("B", converted=1.02)]
    assert "above 1: A bfloat16 training converted 1.02 (1.00 to 1.04). Chance" in report.slower(rows)


def test_a_row_has_a_cell_for_each_header():
    with pytest.raises(ValueError, match="must have 2 cells"):
        bench_script("report_table").table(["a", "b"], [["1", "2"], ["3"]])
