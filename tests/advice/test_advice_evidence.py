"""What the advice stands on: intervals, undecided gaps, the patience, wasted epochs, figures behind each statement."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

import cregkit as ck
from cregkit import commands
from cregkit.advice import prompt, rules
from cregkit.advice.intervals import Z, samples_to_decide, wilson

RISING = (1 + (np.arange(20) - 8) ** 2 / 100).tolist()  # lowest, 1, in epoch 8; 2.21 in the last


@pytest.mark.parametrize("samples", [1, 7, 100, 10_000])
@pytest.mark.parametrize("accuracy", [0, 3, 50, 90, 99.9, 100])
def test_the_limits_of_the_interval_are_one_quantile_away(accuracy, samples):
    limits = wilson(accuracy, samples)
    assert 0 <= limits[0] <= accuracy <= limits[1] <= 100
    for limit, end in zip(limits, (0, 100), strict=True):
        if accuracy != end:  # there the limit is the end itself
            q = limit / 100
            assert abs(accuracy / 100 - q) == pytest.approx(Z * math.sqrt(q * (1 - q) / samples), rel=1e-9)


@pytest.mark.parametrize(("train", "test"), [(95, 90), (90, 95), (100, 60), (80, 79.5), (1, 0)])
def test_from_that_many_samples_on_the_gap_is_decided(train, test):
    needed = samples_to_decide(train, test)
    outside = [not wilson(test, n)[0] <= train <= wilson(test, n)[1] for n in (max(1, needed - 1), needed, needed + 1)]
    assert outside == [needed == 1, True, True]
    assert samples_to_decide(test, test) is None


def test_a_gap_within_the_interval_is_undecided():
    advice = ck.advise(95, 85, test_samples=15)
    low, high = wilson(85, 15)
    assert low < 95 < high
    assert advice.test_interval == (low, high)
    assert advice.gap_interval == pytest.approx((95 - high, 95 - low))
    assert advice.decided is False
    assert advice.summary.startswith("Undecided")
    assert "undecided" in advice.evidence
    assert f"from {samples_to_decide(95, 85)} on" in advice.warnings[0]
    assert advice.regime == ck.advise(95, 85).regime  # the limits are those of the gap
    decided = ck.advise(95, 85, test_samples=10_000)
    assert (decided.decided, decided.summary) == (True, rules.REGIMES["gap 5-10"])
    assert "either side of 10" in decided.warnings[0]
    assert not ck.advise(95, 75, test_samples=10_000).warnings
    assert ck.advise(95, 85).test_interval is None


def test_the_interval_needs_an_accuracy():
    losses = ck.advise(history={"mae": [3, 2, 1], "val_mae": [3, 2, 2]}, test_samples=10)
    assert losses.test_interval is None
    assert "no interval from test_samples: there is no test accuracy" in losses.warnings
    scores = ck.advise(history={"f1": [0.7, 0.9], "val_f1": [0.7, 0.8]}, test_samples=10)
    assert scores.test_interval is None
    assert "no interval from test_samples: val_f1 is no accuracy" in scores.warnings
    alone = ck.advise(history={"val_acc": [0.7, 0.8]}, test_samples=10)
    assert alone.test_interval == wilson(80, 10)
    assert alone.gap_interval is None


def test_several_runs_have_the_interval_of_their_mean():
    runs = [{"acc": [0.99], "val_acc": [value]} for value in (0.8, 0.9)]
    advice = ck.advise(history=runs, test_samples=100)
    assert advice.test_interval == wilson(85, 100)
    assert [run.test_interval for run in advice.runs] == [wilson(80, 100), wilson(90, 100)]


@pytest.mark.parametrize("wrong", [0, -3, 2.5, True])
def test_a_wrong_number_of_test_samples_is_refused(wrong):
    with pytest.raises((TypeError, ValueError), match="test_samples"):
        ck.advise(99, 60, test_samples=wrong)


def test_the_command_prints_the_interval(capsys):
    argv = ["advise", "--train-acc", "95", "--test-acc", "85", "--test-samples", "15"]
    assert commands.main(argv) == 0
    advice = ck.advise(95, 85, test_samples=15)
    words = " ".join(capsys.readouterr().out.split())
    assert f"Evidence: {advice.evidence}." in words
    assert advice.summary in words
    assert commands.main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gap_interval"] == list(advice.gap_interval)
    assert commands.main([*argv[:-1], "0"]) == 2
    assert "--test-samples" in capsys.readouterr().err


# Losses alone ---------------------------------------------------------------------------------------------------------


def figures(losses, **others):
    return ck.advise(history={"val_loss": losses, **others}).history


def test_the_patience_is_the_longest_wait_before_the_best_epoch():
    losses = [9.0, 8, 7, 9, 9, 9, 6, 5, 4, 3, 2, 1, 5, 5, 5, 5, 5, 5, 5, 5]
    assert figures(losses).patience == 4  # from 7 in epoch 2 to 6 in epoch 6
    assert figures([float(20 - n) for n in range(20)]).patience == 1
    flat = [5.0, 4, 3, 2, 1, *itertools.repeat(1.0, 30), 0.999, 1.0]
    assert figures(flat).patience == 1  # the last improvement is below what counts
    assert figures([3.0, 2, 1]).patience is None
    assert ck.advise(history={"val_acc": [90 - loss for loss in losses]}).history.patience == 4


@pytest.mark.parametrize("seed", range(20))
def test_early_stopping_with_that_patience_ends_at_a_loss_as_good(seed):
    rng = np.random.default_rng(seed)
    epochs = np.arange(80)
    losses = 1 + (epochs - 40) ** 2 / 1600 + 0.05 * rng.standard_normal(80)
    found = figures(losses.tolist())
    kept = stopped(losses, found.patience)
    assert kept <= losses.min() + max(found.test_loss_noise, rules.RISE * losses.min())
    assert found.patience == 1 or stopped(losses, found.patience - 1) > kept


def stopped(losses, patience):
    """Return the loss that is kept when training ends ``patience`` epochs after the lowest loss so far."""
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best]:
            best = epoch
        elif epoch - best >= patience:
            break
    return losses[best]


def test_the_epochs_after_the_best_are_wasted():
    found = figures(RISING)
    assert (found.best_epoch, found.last_epoch, found.wasted_epochs, found.epochs) == (8, 19, 11, 20)
    assert figures([3.0, 2, 1]).wasted_epochs == 0
    assert ck.advise(history={"val_acc": [60, 80, 70]}).history.wasted_epochs == 1


def test_the_rise_of_the_loss_sets_the_rates():
    rates = {}
    for height in (0.1, 1.0):
        losses = 1 + height * (np.array(RISING) - 1) / (max(RISING) - 1)
        advice = ck.advise(history={"val_loss": losses.tolist()})
        assert advice.regime == "loss turned up"
        assert (advice.history.rise > rules.RISE_HEAVY) == (height == 1.0)
        rates[height] = [remedy.rate for remedy in advice.remedies]
    assert rates == {
        0.1: ["0.1-0.2", "0.001-0.01", "patience 5-20"],
        1.0: ["0.3-0.5", "0.01-0.1", "patience 5-20"],
    }


def test_the_rates_of_a_turn_lie_within_those_of_its_regime():
    whole = rules.GAP_RULES["loss turned up"]
    for rule in rules.TURNED_UP.values():
        for name in ("dropout", "weight_decay"):
            wide, part = getattr(whole, name), getattr(rule, name)
            assert wide.low <= part.low <= part.start <= part.high <= wide.high
    text = prompt()
    assert f"by at most {100 * rules.RISE_HEAVY:g} % of its minimum" in " ".join(text.split())


# Evidence -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "regime", "words"),
    [
        (
            {"acc": [0.7, 0.99], "val_acc": [0.7, 0.6]},
            "gap over 10",
            "training accuracy 99.0 %, test accuracy 60.0 % in epoch 1: generalisation gap 39.0 points",
        ),
        ({"val_loss": RISING}, "loss turned up", "test loss best in epoch 8 of 19: 1; smoothed, it has risen by 1"),
        (
            {"val_acc": [100 - 10 * x for x in RISING]},
            "loss turned up",
            "test accuracy best in epoch 8 of 19: 90.0 %; smoothed, it has fallen since epoch 8",
        ),
        (
            {"val_loss": [float(20 - n) for n in range(20)]},
            "loss still falling",
            "test loss best in epoch 19 of 19: 1; it still improved in the last fifth of the run",
        ),
        ({"loss": [0.1] * 9, "val_loss": [0.5] * 9}, "loss gap", "in epoch 0 of 8: 0.5, 0.4 above the training loss"),
        ({"loss": [0.5] * 9, "val_loss": [0.5] * 9}, "loss level", "in epoch 0 of 8: 0.5; no turn beyond its noise"),
        ({"loss": [1, 2, float("inf")], "val_loss": [1, 2, None]}, "diverged", "a loss is not finite from epoch 2 on"),
    ],
)
def test_every_statement_names_its_epochs_and_figures(history, regime, words):
    advice = ck.advise(history=history)
    assert advice.regime == regime
    assert words in advice.evidence
    assert all(remedy.evidence for remedy in advice.remedies)


def test_the_evidence_of_several_runs_says_how_many_agree():
    advice = ck.advise(history=[{"val_loss": RISING}, {"val_loss": [1.0] * 20}])
    assert advice.regime == "loss turned up"
    assert advice.evidence.startswith("1 of 2 runs are so (medians and means): test loss best in epoch 0 of 19: 1")
    assert "no turn" not in advice.evidence


def test_the_words_are_those_of_the_field():
    words = " ".join(rules.REGIMES.values()).lower()
    for word in ("overfitting", "underfitting", "generalisation gap", "converged", "divergence"):
        assert word in words
    for word in ("overfitting", "underfitting", "generalisation gap", "Wilson", "patience"):
        assert word in prompt()


# Curves ---------------------------------------------------------------------------------------------------------------


def test_the_curves_are_the_series_and_their_moving_averages():
    advice = ck.advise(history={"loss": [1.0] * 20, "val_loss": RISING, "val_acc": [None, 50] * 10})
    assert advice.curves.epochs == tuple(range(20))
    assert advice.curves.raw["test_loss"] == tuple(RISING)
    assert advice.curves.raw["test_acc"] == (None, 50.0) * 10
    smooth = advice.curves.smooth["test_loss"]
    assert (smooth[0], smooth[-1]) == (None, None)
    assert smooth[1:-1] == pytest.approx(np.convolve(RISING, np.full(3, 1 / 3), "valid"))
    assert advice.curves.smooth["test_acc"][3:18:2] == pytest.approx([50.0] * 8)
    assert advice.curves.smooth["test_acc"][2] is None
    assert json.loads(json.dumps(advice.to_dict()))["curves"]["raw"]["test_acc"][:2] == [None, 50.0]
    assert ck.advise(99, 60).curves is None


def test_the_curves_of_several_runs_are_their_mean_where_all_have_one():
    runs = [{"val_loss": [1.0, 2, 3]}, {"val_loss": [3.0, 4], "val_acc": [50, 60]}]
    advice = ck.advise(history=runs)
    assert advice.curves.epochs == (0, 1)
    assert advice.curves.raw == {"test_loss": (2.0, 3.0)}
    assert advice.runs[0].curves.raw == {"test_loss": (1.0, 2.0, 3.0)}
