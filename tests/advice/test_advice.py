"""The advice: regimes, rates, warnings, code that does what it says, the command and the prompt."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cregkit as ck
import cregkit.train
from cregkit import commands
from cregkit.advice import prompt, rules
from cregkit.commands import advise as command

MODELS = (None, *rules.MODELS)
OPTIMIZERS = (None, *rules.OPTIMIZERS)
ACCURACIES = {
    "underfit": (60, 58),
    "good": (95, 92),
    "gap under 5": (85, 82),
    "gap 5-10": (95, 88),
    "gap over 10": (99, 60),
    "test above train": (85, 90),
}


def remedy(advice, name):
    (found,) = [remedy for remedy in advice.remedies if remedy.name == name]
    return found


def names(advice):
    return [remedy.name for remedy in advice.remedies]


@pytest.mark.parametrize(
    ("train", "test", "regime"),
    [
        *((*accuracies, regime) for regime, accuracies in ACCURACIES.items()),
        (0, 0, "underfit"),
        (79.9, 79.9, "underfit"),
        (80, 79, "gap under 5"),
        (79, 80.5, "gap under 5"),
        (60, 66, "underfit"),
        (79, 81.5, "test above train"),
        (90, 85.1, "good"),
        (90, 85, "gap 5-10"),
        (64.1, 59.1, "gap 5-10"),  # in float64 the difference is below 5
        (64.4, 54.4, "gap 5-10"),  # and here above 10
        (95.1, 85.0, "gap over 10"),
        (60, 40, "gap over 10"),
        (100, 100, "good"),
        (92, 94, "good"),
        (92, 94.1, "test above train"),
    ],
)
def test_accuracies_set_the_regime(train, test, regime):
    advice = ck.advise(train, test)
    assert advice.regime == regime
    assert advice.gap == pytest.approx(train - test, abs=1e-9)
    assert (advice.train_acc, advice.test_acc, advice.history) == (train, test, None)
    assert advice.summary == rules.REGIMES[regime]


@pytest.mark.parametrize(
    ("regime", "dropout", "decay", "others"),
    [
        ("gap over 10", "0.3-0.5", "0.01-0.1", ["augmentation", "early stopping"]),
        ("gap 5-10", "0.1-0.2", "0.001-0.01", ["LayerNorm"]),
        ("gap under 5", "0.05-0.1", "0.0001", []),
        ("good", "0.05-0.1", "0.0001", []),
    ],
)
def test_the_gap_sets_the_rates(regime, dropout, decay, others):
    advice = ck.advise(*ACCURACIES[regime])
    assert names(advice) == ["dropout", "weight decay", *others]
    assert remedy(advice, "dropout").rate == dropout
    assert remedy(advice, "weight decay").rate == decay


@pytest.mark.parametrize(
    ("model", "norm", "rates"),
    [
        ("mlp", "BatchNorm", ("0.5", "0.1-0.2", "0.05-0.1")),
        ("cnn", "BatchNorm", ("0.3", "0.2", "0.05-0.1")),
        ("transformer", "LayerNorm", ("0.1", "0.1", "0.1")),
        ("llm", "RMSNorm", ("0.1", "0.1", "0.1")),
    ],
)
def test_the_model_sets_norm_and_dropout(model, norm, rates):
    for regime, rate in zip(("gap over 10", "gap 5-10", "gap under 5"), rates, strict=True):
        advice = ck.advise(*ACCURACIES[regime], model=model)
        assert names(advice).count(norm) == 1
        dropout = remedy(advice, "dropout")
        assert dropout.rate == rate
        low, _, high = rate.partition("-")
        assert float(low) <= dropout.value <= float(high or low)
        assert f"{rules.MODELS[model].dropout}, " in dropout.reason


@pytest.mark.parametrize("regime", ["good", "gap under 5", "gap 5-10", "gap over 10", "underfit"])
def test_small_batches_get_no_batch_norm(regime):
    for model, size in itertools.product(MODELS, (1, 31)):
        advice = ck.advise(*ACCURACIES[regime], model=model, batch_size=size)
        assert not any("BatchNorm(" in remedy.code or remedy.name == "BatchNorm" for remedy in advice.remedies)
        assert any(f"batches of {size}: no BatchNorm" in warning for warning in advice.warnings)
    advice = ck.advise(*ACCURACIES[regime], model="cnn", batch_size=32)
    assert "BatchNorm(" in remedy(advice, "BatchNorm").code
    assert not any("batches of" in warning for warning in advice.warnings)


def test_users_of_adam_get_adamw():
    for regime, accuracies in ACCURACIES.items():
        advice = ck.advise(*accuracies, optimizer="adam")
        assert not any("ck.train.SGD(" in remedy.code for remedy in advice.remedies)
        assert any("AdamW" in text for text in [*advice.warnings, *(remedy.reason for remedy in advice.remedies)]), (
            regime
        )
    assert "AdamW(" in remedy(ck.advise(99, 60, optimizer="adam"), "weight decay").code
    assert "SGD(" in remedy(ck.advise(99, 60, optimizer="sgd"), "weight decay").code


def test_test_above_train_advises_to_check_the_measurement():
    advice = ck.advise(85, 90)
    assert names(advice) == ["measure both in evaluation mode", "look for leakage"]
    assert any("above training accuracy" in warning for warning in advice.warnings)
    assert any("above training accuracy" in warning for warning in ck.advise(95, 95.5).warnings)
    assert not ck.advise(95, 95).warnings


@pytest.mark.parametrize(
    ("accuracies", "words"), [((70, 50), "capacity"), ((60, 58), "noisy labels"), ((99, 0.6), "both in percent?")]
)
def test_doubtful_accuracies_give_a_warning(accuracies, words):
    assert any(words in warning for warning in ck.advise(*accuracies).warnings)


# The code ------------------------------------------------------------------------------------------------------------


def every_remedy():
    """Yield each different remedy once."""
    seen = set()
    for accuracies, model, optimizer, size in itertools.product(ACCURACIES.values(), MODELS, OPTIMIZERS, (None, 8, 64)):
        for found in ck.advise(*accuracies, model=model, optimizer=optimizer, batch_size=size).remedies:
            if found.code not in seen:
                seen.add(found.code)
                yield pytest.param(found, id=found.code[:60])


def executed(code, **given):
    """Run a line after the imports, and return all names."""
    scope = dict(given)
    exec(rules.IMPORTS, scope)
    exec(f"result = {code}" if code.startswith("ck.train.fit") else code, scope)
    return scope


def samples(code):
    """Return an input of the shape in the line."""
    rng = np.random.default_rng(0)
    if "(N, H, W" in code:
        shape = (4, 8, 8, 64)
    elif "H, W" in code or "1, 1, 1" in code:
        shape = (4, 64, 8, 8)
    elif "Linear(512" in code:
        shape = (4, 6, 512)
    else:
        shape = (16, 784)
    return rng.standard_normal(shape, dtype=np.float32)


def small_fit():
    """Return the names that lines with ``fit`` use: a network, and random labels that it can only overfit."""
    rng = np.random.default_rng(0)
    network = ck.Sequential(ck.Linear(4, 16, seed=0), ck.ReLU(), ck.Linear(16, 2, seed=1))
    x, x_val = rng.standard_normal((2, 16, 4), dtype=np.float32)
    y, y_val = rng.integers(0, 2, (2, 16))
    loss = cregkit.train.softmax_cross_entropy
    optimizer = cregkit.train.SGD(network, lr=0.5)
    return {"network": network, "x": x, "y": y, "x_val": x_val, "y_val": y_val, "loss": loss, "optimizer": optimizer}


def check_layers(found):
    x = samples(found.code)
    scope = executed(found.code)
    (layer,) = [value for value in scope.values() if isinstance(value, ck.Layer)]
    layers = [child for _, child in layer._walk()]
    if found.name == "dropout":
        (drop,) = [child for child in layers if isinstance(child, ck.Dropout)]
        assert drop.p == found.value
    elif found.name.endswith("Norm"):
        (norm,) = [child for child in layers if type(child).__name__.endswith("Norm")]
        assert type(norm).__name__ == found.name
    else:
        assert not any(isinstance(child, ck.Dropout) for child in layers)
    y = layer(x)
    assert layer.backward(np.ones_like(y)).shape == x.shape


def check_optimizer(found):
    given = small_fit()
    optimizer = executed(found.code, **given)["optimizer"]
    weights, others = optimizer.groups
    assert (weights.weight_decay, others.weight_decay) == (found.value, 0.0)
    given["network"].backward(given["network"](given["x"]))
    before = given["network"].state_dict()
    optimizer.step()
    assert any((given["network"].state_dict()[name] != before[name]).any() for name in before)


def check_augmentation(found):
    if "tokens" in found.code:
        tokens = np.arange(1, 1001)
        changed = executed(found.code, tokens=tokens, mask_id=0)["tokens"]
        assert set(changed[changed != tokens]) == {0}
        assert 50 <= (changed != tokens).sum() <= 150
        return
    x = np.concatenate([samples(found.code)] * 10)
    changed = executed(found.code, x=x)["x"]
    assert (changed.dtype, changed.shape) == (np.float32, x.shape)
    different = changed != x
    if x.ndim == 4:
        flipped = different.any(axis=(1, 2, 3))
        assert 0 < flipped.sum() < len(x)
        np.testing.assert_array_equal(changed[flipped], x[flipped][..., ::-1])
    else:
        assert np.abs(changed - x).std() == pytest.approx(0.06, abs=0.01)  # the deviation of |N(0, 0.1)| is 0.0603


def check_early_stopping(found):
    history = executed(found.code, **small_fit())["result"]
    best = int(np.argmin(history.test_loss))
    assert found.value == 20
    assert len(history) == best + 1 + found.value < 1000


def check_longer_training(found):
    history = executed(found.code, **small_fit())["result"]
    assert len(history) == 1000
    assert history.train_acc[-1] > history.train_acc[0]


def check_evaluation_mode(found):
    given = small_fit()
    given["network"] = ck.Sequential(given["network"], ck.Dropout(1.0))
    wanted = 100 * (given["network"].layers[0](given["x"]).argmax(axis=1) == given["y"]).mean()
    assert executed(found.code, **given)["train_acc"] == wanted


def check_leakage(found):
    given = small_fit()
    assert not executed(found.code, **given)["shared"]
    given["x_val"][3] = given["x"][5]
    assert executed(found.code, **given)["shared"] == {given["x"][5].tobytes()}


CHECKS = {
    "dropout": check_layers,
    "BatchNorm": check_layers,
    "LayerNorm": check_layers,
    "RMSNorm": check_layers,
    "more capacity, no dropout": check_layers,
    "weight decay": check_optimizer,
    "no weight decay": check_optimizer,
    "augmentation": check_augmentation,
    "early stopping": check_early_stopping,
    "longer training": check_longer_training,
    "measure both in evaluation mode": check_evaluation_mode,
    "look for leakage": check_leakage,
}


@pytest.mark.parametrize("found", list(every_remedy()))
def test_the_code_of_a_remedy_does_what_it_says(found):
    assert "\n" not in found.code
    CHECKS[found.name](found)


# Arguments, the command, the prompt -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((), TypeError, "needs train_acc and test_acc"),
        ((99,), TypeError, "needs train_acc and test_acc"),
        ((140, 60), ValueError, "train_acc (percent) must be in [0, 100], got 140"),
        ((99, -1), ValueError, "test_acc (percent) must be in [0, 100], got -1"),
        ((float("nan"), 60), ValueError, "train_acc (percent) must be in [0, 100], got nan"),
        ((99, float("inf")), ValueError, "got inf"),
        (("99", 60), TypeError, "train_acc (percent) must be a number, got str"),
        ((True, 60), TypeError, "train_acc (percent) must be a number, got bool"),
        ((0.99, 0.6), ValueError, "look like fractions: give 99 and 60"),
        ((1, 0), ValueError, "look like fractions"),
    ],
)
def test_wrong_accuracies_are_refused(arguments, error, words):
    with pytest.raises(error) as caught:
        ck.advise(*arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": "rnn"}, ValueError, "model must be None or one of 'mlp', 'cnn', 'transformer', 'llm', got 'rnn'"),
        ({"optimizer": "lion"}, ValueError, "optimizer must be None or one of 'sgd', 'adam', got 'lion'"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 8.0}, TypeError, "batch_size must be an int, got float"),
        ({"history": "log.csv"}, TypeError, "or a history, not both"),
    ],
)
def test_wrong_options_are_refused(options, error, words):
    with pytest.raises(error) as caught:
        ck.advise(99, 60, **options)
    assert words in str(caught.value)


def test_the_command_prints_the_whole_advice(capsys):
    argv = ["advise", "--train-acc", "99", "--test-acc", "60", "--model", "cnn", "--batch-size", "8"]
    assert commands.main([*argv, "--optimizer", "adam"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    advice = ck.advise(99, 60, model="cnn", batch_size=8, optimizer="adam")
    assert out.startswith("gap over 10: train 99.0 %, test 60.0 %, gap 39.0 points\n")
    words = " ".join(out.split())
    for found in advice.remedies:
        assert f"{found.name} {found.rate or ''}".strip() in words
        assert found.reason in words
        assert f">>> {found.code}\n" in out
    assert all(warning in words for warning in advice.warnings)
    assert rules.IMPORTS in out


def test_json_without_a_path_is_printed(capsys):
    argv = ["advise", "--train-acc", "99", "--test-acc", "60"]
    assert commands.main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ck.advise(99, 60).to_dict()


def test_json_with_a_path_is_written_there(capsys, tmp_path):
    argv = ["advise", "--train-acc", "99", "--test-acc", "60"]
    path = tmp_path / "advice.json"
    assert commands.main([*argv, "--json", str(path)]) == 0
    assert capsys.readouterr().out == ""
    assert json.loads(path.read_text()) == ck.advise(99, 60).to_dict()


def test_the_prompt_has_every_rule(capsys):
    assert commands.main(["advise", "--prompt"]) == 0
    text = capsys.readouterr().out
    assert text == prompt()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    of_regime = {regime: row for row in rows if len(row) == 4 for regime in row[0].split(", ")}
    for regime, rule in rules.GAP_RULES.items():
        row = of_regime[regime]
        assert row[1] == str(rule.dropout)
        assert row[2] == str(rule.weight_decay)
        assert ("norm layer" in row[3], "augmentation" in row[3], "early stopping" in row[3]) == (
            rule.norm,
            rule.augmentation,
            rule.early_stopping,
        )
    models = [row for row in rows if len(row) == 4 and row[1].endswith("Norm")]
    assert [row[1:3] for row in models] == [[rule.norm, str(rule.dropout)] for rule in rules.MODELS.values()]
    for limit in (rules.FITTED, rules.GOOD):
        assert f"{limit:g} %" in text
    assert f"more than {-rules.INVERTED:g} points" in text
    assert f"under {rules.BATCH_NORM_FROM} samples" in text


def test_the_page_of_the_room_has_the_rates_of_the_rules():
    text = Path(rules.__file__).with_name("README.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    of_regime = {row[0]: row for row in rows if len(row) == 5}
    assert set(rules.REGIMES) <= set(of_regime)
    for regime, rule in rules.GAP_RULES.items():
        assert of_regime[regime][2:4] == [str(rule.dropout), str(rule.weight_decay)]
    words = " ".join(text.split())
    for rule in rules.MODELS.values():
        assert f"{rule.title.removesuffix('s')}: {rule.norm}, {rule.dropout}".lower() in words.lower()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "--train-acc and --test-acc missing"),
        (["--train-acc", "99"], "--test-acc missing"),
        (["--train-acc", "140", "--test-acc", "60"], "train_acc (percent) must be in [0, 100], got 140"),
        (["--train-acc", "nan", "--test-acc", "60"], "got nan"),
        (["--train-acc", "high", "--test-acc", "60"], "--train-acc: must be a number, got 'high'"),
        (["--train-acc", "0.99", "--test-acc", "0.6"], "fractions"),
        (["--train-acc", "99", "--test-acc", "60", "--history", "log.csv"], "not both"),
        (["--train-acc", "99", "--test-acc", "60", "--model", "rnn"], "--model"),
        (["--train-acc", "99", "--test-acc", "60", "--batch-size", "0"], "--batch-size"),
        (["--train-acc", "99", "--test-acc", "60", "--json", "no/such.json"], "no/such.json: No such file"),
        (["--history", "missing.csv"], "missing.csv: No such file"),
        (["--history", "."], ".: found no log in this folder"),
        (["--columns", "test_loss=foo"], "give --history FILE too"),
        (["--history", "log.csv", "--columns", "foo=test_loss"], "--columns: must be FIGURE=COLUMN"),
    ],
)
def test_a_wrong_argument_prints_one_line_and_writes_nothing(argv, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commands.main(["advise", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("cregkit")
    assert named in err
    assert not list(tmp_path.iterdir())


def test_the_choices_of_the_command_are_those_of_the_rules(capsys):
    assert commands.main(["advise", "--help"]) == 0
    text = capsys.readouterr().out
    assert f"--model {{{','.join(rules.MODELS)}}}" in text
    assert all(name in text for name in rules.OPTIMIZERS)
    assert command.STDOUT == "-"


def test_advice_loads_on_first_use_and_without_kernels():
    code = (
        "import sys, cregkit; assert 'cregkit.advice' not in sys.modules; cregkit.advise(99, 60); "
        "assert not [name for name in sys.modules if name.startswith(('cregkit.kernels', 'cregkit.train'))]"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
