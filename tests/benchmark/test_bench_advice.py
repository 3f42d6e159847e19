"""The evidence for the advice: truths, early stops and remedies of simulated runs, and the page about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import bench_script

import cregkit as ck
from cregkit.train import EarlyStopping, fit
from cregkit.train.losses import binary_cross_entropy
from cregkit.train.optimizers import SGD

bench = bench_script("bench_advice")


@pytest.fixture(scope="module")
def outcome():
    """A short run."""
    return bench.simulate(bench.Setup(3, 900, 0.1, {"hidden_size": 16, "lr": 0.3}))


def test_a_setup_depends_on_its_seed_alone():
    setups = [bench.draw(seed) for seed in range(200)]
    assert setups == [bench.draw(seed) for seed in range(200)]
    assert all(20 <= setup.samples <= 2000 for setup in setups)
    assert {bool({"dropout_p", "weight_decay", "norm"} & set(setup.network)) for setup in setups} == {False, True}


def test_an_outcome_has_the_truth_and_every_remedy(outcome):
    setup = outcome.setup
    assert len(outcome.true) == len(outcome.validation) == setup.epochs
    assert set(outcome.after) == set(bench.REMEDIES)
    network = ck.RegularizedNetwork(**setup.network, seed=setup.seed)
    train, validation, true = bench._data(setup)
    network.fit(train, validation, setup.epochs, batch_size=bench.BATCH_SIZE)
    loss, accuracy = network.evaluate(true)
    assert outcome.true[-1] == loss
    assert outcome.gap == network.evaluate(train)[1] - accuracy
    assert outcome.advice.regime in bench.rules.REGIMES


def test_a_remedy_changes_one_thing(outcome):
    train, _, true = bench._data(outcome.setup)
    plain = replace(outcome.setup, network={**outcome.setup.network, "norm": "batch"})
    network = ck.RegularizedNetwork(**plain.network, seed=plain.seed)
    network.fit(train, true, plain.epochs, batch_size=bench.BATCH_SIZE)
    assert outcome.after["norm"][0] == network.evaluate(true)[0]


@pytest.mark.parametrize(
    ("true", "after", "truth"),
    [([2.0, 1.0, 1.2], 1.2, "overfits"), ([2.0, 1.0, 1.05], 0.5, "underfits"), ([2.0, 1.0, 1.05], 1.0, "fits")],
)
def test_the_truth_follows_from_the_true_losses(outcome, true, after, truth):
    after = {"more capacity": (after, 0.0), "longer training": (2.0, 0.0)}
    assert replace(outcome, true=true, after=after).truth == truth


@pytest.mark.parametrize("patience", [1, 3, 8])
def test_the_simulated_stop_is_that_of_early_stopping(patience):
    train, validation = ck.lab.data.circle_data(30, 0, 0.2), ck.lab.data.circle_data(60, 1, 0.2)
    network = ck.RegularizedNetwork(32, 0.5, seed=0)
    losses = network.fit(train, validation, 60).test_loss
    stopping = EarlyStopping(patience)
    network = ck.RegularizedNetwork(32, 0.5, seed=0)
    fit(network, binary_cross_entropy, SGD(network, 0.5), train, validation, 60, batch_size=16, seed=network._order,
        callbacks=[stopping])  # fmt: skip
    assert losses[bench.stopped(losses, patience)] == network.evaluate(validation)[0]


def test_the_page_counts_every_run(outcome):
    overfitted = {"acc": [0.99] * 20, "val_acc": [0.6] * 20, "val_loss": [1 + (n - 8) ** 2 / 100 for n in range(20)]}
    run = replace(outcome, advice=ck.advise(history=overfitted), true=[1.0] * outcome.setup.epochs)
    better = replace(run, after=dict.fromkeys(bench.REMEDIES, (0.0, -100.0)))
    worse = replace(run, after=dict.fromkeys(bench.REMEDIES, (99.0, 100.0)))
    text = "\n".join(bench.page([better] * 3 + [worse] * 9))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    regime = next(row for row in rows if row[0] == "gap over 10" and len(row) == 4)
    assert sum(map(int, regime[1:])) == 12
    dropout = next(row for row in rows if row[0] == "dropout")
    assert dropout[1:3] == ["3 (25%)", "9"]
    assert "- dropout lowers the true loss in 25% of 12 runs with the recommendation" in text
    assert "None." in "\n".join(bench.page([better] * 12))


def test_the_page_of_the_room_is_that_of_the_script():
    text = (Path(bench.rules.__file__).parent / "EVIDENCE.md").read_text(encoding="utf-8")
    runs = int(text.split(" simulated runs")[0].rsplit("\n", 1)[-1])
    assert runs >= 200
    assert text.startswith(bench.INTRODUCTION.format(runs=runs))
    for part in (bench.STOPS_INTRODUCTION, bench.REMEDIES_INTRODUCTION, bench.WORSE_INTRODUCTION):
        assert part in text
    counts = [line.split("|")[2:5] for line in text.split("## Early stops")[0].splitlines() if "|" in line]
    numbers = [[int(cell) for cell in row] for row in counts if row[0].strip().isdigit()]
    assert np.sum(numbers) == 2 * runs  # each run once in each of the two tables
