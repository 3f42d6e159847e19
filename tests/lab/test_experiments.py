"""The experiments, with small budgets: complete tables, effects of the claimed sign, sentences that fit the table."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest

from cregkit.lab import figures
from cregkit.lab.experiments import (
    EXPERIMENTS,
    batch_size,
    batchnorm_lr,
    constraints,
    early_stopping,
    label_smoothing,
    ln_vs_rms,
    mlp,
    overfit,
    random_labels,
    spatial_dropout,
    training,
)
from cregkit.lab.experiments.running import run
from cregkit.lab.experiments.spatial_dropout import GroupDropout
from cregkit.lab.experiments.words import compared, narrowest
from cregkit.lab.framework import CONFIRMED, CONTRADICTED, UNDECIDED, Settings, Table
from cregkit.lab.spread import Interval
from cregkit.layers import Dropout
from cregkit.train import SGD, EarlyStopping, fit
from cregkit.train.threads import one_thread

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


def measured(experiment, rows, seeds=3, epochs=None):
    """Return the table of the first ``rows`` rows, at a smaller budget than the experiment's own."""
    trials = {row: [] for row in experiment.rows[:rows]}
    with one_thread():  # as in a run: these networks are too small for more threads
        for seed in range(seeds):
            for trial in itertools.islice(experiment.trials(seed, epochs or experiment.epochs), rows):
                trials[trial.row].append(trial)
    return Table(list(trials), trials)


def verdict(experiment, words, table):
    (claim,) = (claim for claim in experiment.claims if words in claim.text)
    return claim.verdict(table)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_row_and_column_is_filled_and_drawn(name):
    experiment = EXPERIMENTS[name]
    result = run(experiment, Settings(seeds=1, epochs=1))
    assert result.complete
    assert result.table.rows == list(experiment.rows)
    for row in experiment.rows:
        for column in experiment.columns:
            assert len(result.table.values(row, column.key)) == 1
            assert all(column.key in trial.figures for trial in result.table.trials[row])
    assert re.fullmatch(r"[A-Z].*\.", result.sentence)
    assert {outcome for _, outcome in result.claims} <= {UNDECIDED}  # one seed decides no claim
    assert figures.png(result).startswith(b"\x89PNG")


# Effects, over seeds. Claims that the numbers contradict are tested to be contradicted.


def test_a_network_overfits_shuffled_labels_and_then_guesses():
    table = measured(random_labels.EXPERIMENT, 2, seeds=2, epochs=30)
    assert (table.values(random_labels.SHUFFLED, "train_acc") > 95).all()
    guessed = table.values(random_labels.SHUFFLED, "test_acc")
    assert ((guessed > 3) & (guessed < 17)).all()  # near 10 %, and not zero
    assert (table.values(random_labels.TRUE, "test_acc") > 85).all()


def test_batch_norm_hurts_in_batches_of_two():
    table = measured(batch_size.EXPERIMENT, 1, epochs=6)
    assert verdict(batch_size.EXPERIMENT, "2 samples per batch", table) == CONFIRMED


def test_forgetting_eval_costs_accuracy_and_changes_answers():
    table = measured(mlp.EXPERIMENT, len(mlp.ROWS), seeds=2, epochs=5)
    accuracy = [table.values((mlp.FORGOTTEN, size), "test_acc") for size in ("128", "32", "8", "2")]
    for larger, smaller in itertools.pairwise([table.values(mlp.EVAL, "test_acc"), *accuracy]):
        assert (larger > smaller).all()
    assert (table.values((mlp.FORGOTTEN, "32"), "changed") > 0).all()
    assert verdict(mlp.EXPERIMENT, "small batches make it worse", table) == CONFIRMED
    assert list(table.values(mlp.EVAL, "changed")) == [0, 0]


def test_each_constraint_does_what_its_row_says():
    trials = list(constraints.EXPERIMENT.trials(0, 30))
    assert {trial.row: trial.figures["zeros"] > 0 for trial in trials} == {
        row: row == constraints.L1_ROW for row in constraints.ROWS
    }
    results = {trial.row: (trial.figures["train_acc"], trial.figures["test_acc"]) for trial in trials}
    assert all(result != results[constraints.NONE] for row, result in results.items() if row != constraints.NONE)
    for row, result in results.items():
        assert result[1] > 60, row  # it learned something
    figures_of = {trial.row: trial.figures for trial in trials}
    assert figures_of[constraints.MAX_NORM_ALONE]["gap"] < figures_of[constraints.NONE]["gap"]


def test_a_fifth_of_the_training_labels_is_wrong():
    clean, noisy = training.digits(3, constraints.N_TRAIN, constraints.N_TEST), constraints.task(3)
    assert (noisy.train[1] != clean.train[1]).sum() == 60
    assert (noisy.test[1] == clean.test[1]).all()
    assert (noisy.train[1] == constraints.task(3).train[1]).all()
    assert set(noisy.train[1]) == set(range(10))


def test_early_stopping_saves_most_epochs():
    table = measured(early_stopping.EXPERIMENT, 1, epochs=300)
    assert (table.values(("none",), "saved_share") > 50).all()
    assert (
        table.values(("none",), "best_epoch") + early_stopping.PATIENCE + table.values(("none",), "saved") == 300
    ).all()


def test_rms_norm_is_as_accurate_as_layer_norm():
    table = measured(ln_vs_rms.EXPERIMENT, 4, epochs=40)
    assert abs(table.mean(ln_vs_rms.TEST_ACC, "rms") - table.mean(ln_vs_rms.TEST_ACC, "ln")) < 2
    assert (table.values(ln_vs_rms.GRADIENT, "ln") > 0).all()


def test_the_plain_network_learns_at_rate_0_1():
    table = measured(batchnorm_lr.EXPERIMENT, 3, seeds=2)
    assert verdict(batchnorm_lr.EXPERIMENT, "fails at rate 0.1", table) == CONTRADICTED


def test_every_network_fails_at_a_rate_of_1e6(monkeypatch):
    monkeypatch.setattr(batchnorm_lr, "RATES", (1e6,))
    monkeypatch.setattr(batchnorm_lr, "ROWS", [("1e+06",)])
    (trial,) = batchnorm_lr.EXPERIMENT.trials(0, 20)
    assert trial.figures["plain_failed"] == trial.figures["bn_failed"] == 100


# Sentences, on made-up tables with one outcome and its opposite.


def interval(mean, reach=0.1):
    return Interval(mean, mean - reach, mean + reach)


def test_compared_says_the_sign_and_whether_it_is_chance():
    assert compared(interval(2)) == "2.0 points higher"
    assert compared(interval(-2)) == "2.0 points lower"
    assert compared(interval(-2, 3), "wider", "narrower") == "2.0 points narrower (not significant)"
    assert compared(Interval(2, -math.inf, math.inf)) == "2.0 points higher (one seed)"
    assert compared(Interval.of([1.0, math.inf])) == "inf points higher (not finite)"


def gaps(*rows):
    return Table.of({row: {"train_acc": train, "test_acc": test, "gap": np.subtract(train, test)}
                     for row, train, test in rows})  # fmt: skip


def test_narrowest_names_the_row_with_the_smallest_gap():
    plain, other = ("plain",), ("other",)
    table = gaps((plain, [100, 100], [80, 81]), (other, [95, 96], [90, 91]))
    assert narrowest(table, [plain, other], plain) == (
        "the gap is smallest with other: 5.0 points against 19.5 with plain; its test accuracy is 10.0 points higher"
    )
    table = gaps((plain, [100, 100], [90, 91]), (other, [95, 96], [80, 81]))
    assert narrowest(table, [plain, other], plain) == "the gap is smallest with plain: 9.5 points"


def test_the_sentence_of_overfit_follows_its_table():
    good = {row: ([90, 91], [88, 89]) if row[1] == "dropout" else ([100, 100], [80, 81]) for row in overfit.ROWS}
    table = gaps(*((row, *values) for row, values in good.items()))
    sentence = overfit.EXPERIMENT.conclude(table)
    assert "on the digits the gap is smallest with dropout: 2.0 points against 19.5 with none" in sentence
    assert sentence.startswith("On the circle the gap is smallest with dropout")
    bad = {row: ([100, 100], [95, 96]) if row[1] == "none" else ([100, 100], [80, 81]) for row in overfit.ROWS}
    table = gaps(*((row, *values) for row, values in bad.items()))
    assert overfit.EXPERIMENT.conclude(table).count("the gap is smallest with none: 4.5 points") == 2


def test_the_sentence_of_random_labels_follows_its_table():
    def sentence(plain, with_dropout):
        values = {"dropout": (with_dropout, [10, 11])}
        rows = [(row, *values.get(row[1], ([plain, plain], [10, 11]))) for row in random_labels.ROWS]
        return random_labels.EXPERIMENT.conclude(gaps(*rows))

    assert "fits all shuffled labels, with a training accuracy of 100.0 %" in sentence(100, [50, 51])
    assert "dropout reduces the training accuracy most, to 50.5 %" in sentence(100, [50, 51])
    assert "does not fit all shuffled labels, with a training accuracy of 60.0 %" in sentence(60, [50, 51])
    assert "no remedy reduces the training accuracy" in sentence(100, [100, 100])


def test_the_sentence_of_spatial_dropout_follows_its_table():
    def sentence(groups):
        rows = [(row, [100, 101], groups if row == ("groups of 4",) else [90, 91]) for row in spatial_dropout.ROWS]
        return spatial_dropout.EXPERIMENT.conclude(gaps(*rows))

    assert "leaves a gap 5.0 points narrower, with a test accuracy 5.0 points higher" in sentence([95, 96])
    assert "leaves a gap 5.0 points wider, with a test accuracy 5.0 points lower" in sentence([85, 86])


def test_the_sentence_of_label_smoothing_follows_its_table():
    def sentence(best):
        good = {"test_acc": [95, 96], "gap": [5, 4], "test_loss": [0.1, 0.1]}
        bad = {"test_acc": [90, 91], "gap": [10, 9], "test_loss": [0.5, 0.5]}
        table = Table.of({row: good if row[1] == best else bad for row in label_smoothing.ROWS})
        return label_smoothing.EXPERIMENT.conclude(table)

    assert sentence("smoothing").count("smallest with smoothing: 4.5 points against 9.5 with neither") == 2
    assert sentence("smoothing").count("lowest with smoothing (0.10 against 0.50") == 2
    assert sentence("neither").count("smallest with neither: 4.5 points") == 2


@pytest.mark.parametrize(
    ("plain", "bn", "expected"),
    [
        (None, None, "Neither network fails to learn at any rate up to 20."),
        (5, None, "The plain network fails to learn at rates of 5 and above, the BatchNorm network at none up to 20."),
        (
            None,
            10,
            "The BatchNorm network fails to learn at rates of 10 and above, the plain network at none up to 20.",
        ),
        (2, 10, "of 2 and above, the BatchNorm network at 10 and above, so BatchNorm tolerates 5 times the rate."),
        (
            10,
            5,
            "of 10 and above, the BatchNorm network at 5 and above, so the plain network tolerates 2 times the rate.",
        ),
        (5, 5, "The plain network fails to learn at rates of 5 and above, the BatchNorm network at 5 and above."),
    ],
)
def test_the_sentence_of_batchnorm_lr_follows_its_table(plain, bn, expected):
    def failed(rate, first):
        return [100.0 if first is not None and rate >= first else 0.0] * 2

    table = Table.of({
        row: {"plain_failed": failed(rate, plain), "bn_failed": failed(rate, bn)}
        for row, rate in zip(batchnorm_lr.ROWS, batchnorm_lr.RATES, strict=True)
    })  # fmt: skip
    assert batchnorm_lr.EXPERIMENT.conclude(table).endswith(expected)
    first = [rate or math.inf for rate in (plain, bn)]
    never = plain is None and bn is None
    outcome = UNDECIDED if never else CONFIRMED if first[1] > first[0] else CONTRADICTED
    assert verdict(batchnorm_lr.EXPERIMENT, "BatchNorm tolerates", table) == outcome


def test_the_sentence_of_early_stopping_follows_its_table():
    def sentence(gain):
        of_row = {"best_epoch": [30, 50], "best_acc": [95, 95], "last_acc": [90, 90], "gain": gain, "saved": [900, 940],
                  "saved_share": [90, 94], "seconds_saved": [1, 2]}  # fmt: skip
        return early_stopping.EXPERIMENT.conclude(Table.of(dict.fromkeys(early_stopping.ROWS, of_row)))

    assert "the mean best epoch is 40, stopping saves 920 epochs (92 %, 1.5 s)" in sentence([5, 5])
    assert sentence([5, 5]).endswith("is 5.0 points higher than after the last.")
    assert sentence([-5, -5]).endswith("is 5.0 points lower than after the last.")


def test_the_sentence_of_ln_vs_rms_follows_its_table():
    def table(accuracy, ratio):
        of_row = {"ln": [90, 90], "rms": [accuracy] * 2, "ratio": [ratio] * 2}
        return Table.of(dict.fromkeys(ln_vs_rms.ROWS, of_row))

    better, worse = table(90.5, 0.9), table(80, 1.2)
    assert (
        "test accuracy is 0.5 points higher; its speed-up over LayerNorm is 1.11x for an epoch"
        in ln_vs_rms.EXPERIMENT.conclude(better)
    )
    assert (
        "test accuracy is 10.0 points lower; its speed-up over LayerNorm is 0.83x for an epoch"
        in ln_vs_rms.EXPERIMENT.conclude(worse)
    )
    for words in ("the same test accuracy", "an epoch is faster", "kernels are faster", "about 10 %"):
        assert verdict(ln_vs_rms.EXPERIMENT, words, better) == CONFIRMED
        assert verdict(ln_vs_rms.EXPERIMENT, words, worse) == CONTRADICTED


def test_the_sentence_of_constraints_follows_its_table():
    def table(effect, zeros):
        of_row = {
            "train_acc": [100, 98],
            "test_acc": [80 + effect, 78 + effect],
            "gap": [20 - effect] * 2,
            "zeros": [zeros] * 2,
        }
        same = {**of_row, "test_acc": [80, 78], "gap": [20, 20], "zeros": [0, 0]}
        plain = dict.fromkeys((constraints.NONE, constraints.DROPOUT), same)
        return Table.of({**dict.fromkeys(constraints.ROWS, of_row), **plain})

    helped, hurt = table(2, 90), table(-2, 10)
    assert constraints.EXPERIMENT.conclude(helped) == (
        "The gap is smallest with max-norm: 18.0 points against 20.0 with none; its test accuracy is 2.0 points "
        "higher; L1 leaves 90 % of the weights exactly zero and makes the test accuracy 2.0 points higher; averaging "
        "the weights makes it 2.0 points higher with EMA, 2.0 points higher with SWA."
    )
    assert constraints.EXPERIMENT.conclude(hurt) == (
        "The gap is smallest with none: 20.0 points; L1 leaves 10 % of the weights exactly zero and makes the test "
        "accuracy 2.0 points lower; averaging the weights makes it 2.0 points lower with EMA, 2.0 points lower with "
        "SWA."
    )
    for claim in constraints.EXPERIMENT.claims:
        assert (claim.verdict(helped), claim.verdict(hurt)) == (CONFIRMED, CONTRADICTED)
    cheap = table(-0.5, 90)
    assert verdict(constraints.EXPERIMENT, "no more than 1 point", cheap) == CONFIRMED


def test_the_sentence_of_batch_size_follows_its_table():
    def table(small, large):
        return Table.of({
            row: {"bn": [90, 90], "ln": [90, 90], "lead": [small if int(row[0]) < 32 else large] * 2}
            for row in batch_size.ROWS
        })  # fmt: skip

    hurt, helped = table(-5, 1), table(5, -1)
    assert batch_size.EXPERIMENT.conclude(hurt).startswith(
        "BatchNorm is significantly worse than LayerNorm at batch size 2, 4, 8 and significantly better"
    )
    assert "with 2 samples per batch its test accuracy is 5.0 points higher" in batch_size.EXPERIMENT.conclude(helped)
    assert "worse than LayerNorm at no batch size" in batch_size.EXPERIMENT.conclude(table(5, 1))
    for words in ("2 samples per batch", "under 32"):
        assert verdict(batch_size.EXPERIMENT, words, hurt) == CONFIRMED
        assert verdict(batch_size.EXPERIMENT, words, helped) == CONTRADICTED


def test_the_sentence_of_mlp_follows_its_table():
    def sentence(forgotten):
        table = Table.of({
            row: {"test_acc": [forgotten if row[0] == mlp.FORGOTTEN else 90] * 2, "changed": [7, 7]} for row in mlp.ROWS
        })  # fmt: skip
        return mlp.EXPERIMENT.conclude(table)

    assert "is 10.0 points lower with batches of 128 and 10.0 points lower with batches of 2" in sentence(80)
    assert "is 5.0 points higher with batches of 128" in sentence(95)
    assert "7.0 % of the predictions change" in sentence(80)


# The parts.


def test_networks_of_a_seed_have_the_same_initial_weights():
    task = training.digits(0, 50)
    plain, other = (
        training.perceptron(task, (8, 8), 3, norm=norm, dropout=p) for norm, p in ((None, 0.0), ("batch", 0.5))
    )
    weights = [[p.value for p in network.parameters() if p.decay] for network in (plain, other)]
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    another = next(training.perceptron(task, (8, 8), 4).parameters())
    assert (another.value != weights[0][0]).any()


def test_digits_are_split_by_the_seed():
    first, again, other = (training.digits(seed, 100, 200) for seed in (0, 0, 1))
    assert (len(first.train[0]), len(first.test[0])) == (100, 200)
    np.testing.assert_array_equal(first.train[0], again.train[0])
    assert (first.train[0] != other.train[0]).any()
    assert 0 <= first.train[0].min() < first.train[0].max() == 1


def test_breast_cancer_is_standardised():
    cancer = training.breast_cancer(0, 60)
    assert len(cancer.train[0]) + len(cancer.test[0]) == 569
    np.testing.assert_allclose(cancer.train[0].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(cancer.train[0].std(axis=0), 1, atol=1e-5)


def test_upscaled_digits_repeat_each_pixel():
    x, _ = training.digits(0, 5).train
    large, _ = mlp._upscaled((x, np.arange(5)))
    assert large.shape == (5, 784)
    np.testing.assert_array_equal(large.reshape(5, 28, 28)[:, 3:27:3, 3:27:3].reshape(5, 64), x)
    assert large.sum() == pytest.approx(9 * x.sum())


def test_group_dropout_drops_neighbours_together():
    layer = GroupDropout(4, 0.5, seed=1)
    x = np.ones((100, 32), dtype=np.float32)
    groups = layer(x).reshape(100, 8, 4)
    assert (groups == groups[..., :1]).all()
    assert set(np.unique(groups)) == {0.0, 2.0}
    np.testing.assert_array_equal(layer.backward(x), groups.reshape(x.shape))
    layer.eval()
    np.testing.assert_array_equal(layer(x), x)


def test_stop_on_paper_finds_what_early_stopping_does():
    task = training.circle(0)
    histories, states = {}, {}
    for real in (True, False):
        network = training.perceptron(task, (16,), 0)
        watch = EarlyStopping(5) if real else early_stopping.StopOnPaper(5)
        histories[real] = fit(
            network, task.loss, SGD(network, 0.5), task.train, task.test, 200, seed=0, callbacks=[watch]
        )
        stopping = watch if real else watch.stopping
        stopping.restore(network)
        states[real] = (network.state_dict(), stopping.best_epoch, stopping.epochs_saved)
    assert len(histories[False]) == 200 > len(histories[True])
    assert states[True][1:] == states[False][1:]
    assert states[True][2] == 200 - len(histories[True])
    for name, value in states[True][0].items():
        np.testing.assert_array_equal(value, states[False][0][name])


def test_toggle_sets_the_modes_of_the_row():
    task = training.digits(0, 20)
    network = training.perceptron(task, (8,), 0, norm="batch", dropout=0.5)
    modes = {}
    for mode, _ in mlp.ROWS:
        mlp._toggle(network, mode)
        modes[mode] = {type(layer).__name__: layer.training for layer in network.layers}
    assert [(m["BatchNorm"], m["Dropout"]) for m in modes.values()] == [
        (False, False), (False, True), (True, False), (True, True), (False, False)]  # fmt: skip
    assert any(isinstance(layer, Dropout) for layer in network.layers)
