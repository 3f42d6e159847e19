"""How often the advisor is right: its regimes, early stops and remedies on simulated runs whose truth is known.

    python bench/bench_advice.py > cregkit/advice/EVIDENCE.md    # about 8 minutes on one core

Each run trains the laboratory's network on the circle: 20 to 2000 samples, some with wrong labels, 4 to 128 hidden
neurons, with and without regularisation. The advisor sees the log with 200 validation points. 2000 other points give
the true loss of each epoch. Then each remedy alone is trained from the same seed: at the recommended rate, or, where it
is not recommended, at the rate of a gap of 5 to 10 points.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cregkit.advice import Advice, advise, rules
from cregkit.lab.data import circle_data
from cregkit.lab.network import RegularizedNetwork
from cregkit.train.threads import one_thread

NEAR = 1.1
"""A test loss within 10 % of the lowest counts as good; a rise or fall by less as none."""
FEW = 10
"""Fewest runs from which a share is compared with chance."""
BATCH_SIZE, VALIDATION, TRUE = 64, 200, 2000
STEPS, EPOCHS, LONGER = 900, (30, 200), 2
"""Training steps of a run, if that needs a number of epochs within these limits; longer training has twice as many."""
REGULARISED: Sequence[dict[str, Any]] = ({}, {}, {"dropout_p": 0.3}, {"weight_decay": 0.003}, {"norm": "batch"})
REMEDIES = ("dropout", "weight decay", "norm", "augmentation", "more capacity", "longer training")
NORMS = ("BatchNorm", "LayerNorm", "RMSNorm")
BANDS = ((20, 100), (100, 500), (500, 2001))


@dataclass(frozen=True)
class Setup:
    """A simulated run, drawn from its seed."""

    seed: int
    samples: int
    noise: float
    network: dict[str, Any]

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return int(np.clip(STEPS * BATCH_SIZE // self.samples, *EPOCHS))


@dataclass
class Outcome:
    """What a run showed the advisor, and the truth."""

    setup: Setup
    advice: Advice
    losses_alone: Advice
    validation: Sequence[float]
    """Validation loss by epoch."""
    true: Sequence[float]
    """True test loss by epoch."""
    gap: float
    """True generalisation gap at the end, in points."""
    after: dict[str, tuple[float, float]] = field(default_factory=dict)
    """True loss and gap at the end with each remedy."""

    def recommended(self, remedy: str) -> bool:
        """Return whether the advisor recommends ``remedy``."""
        return any(_kind(found.name) == remedy for found in self.advice.remedies)

    @property
    def truth(self) -> str:
        """The state of the run by its true loss: has it risen, and do capacity or time lower it?"""
        if self.true[-1] > NEAR * min(self.true):
            return "overfits"
        best = min(self.after[name][0] for name in ("more capacity", "longer training"))
        return "underfits" if NEAR * best < self.true[-1] else "fits"


def _kind(name: str) -> str:
    return "norm" if name in NORMS else name.partition(",")[0]


def draw(seed: int) -> Setup:
    """Return a setup; its samples are log-uniform from 20 to 2000."""
    rng = np.random.default_rng(seed)
    network = {"hidden_size": int(rng.choice([4, 16, 64, 128])), "lr": float(rng.choice([0.2, 0.5, 1.0]))}
    regularised = REGULARISED[rng.integers(len(REGULARISED))]
    samples = round(20 * 100 ** rng.random())
    return Setup(seed, samples, float(rng.choice([0.0, 0.1, 0.2])), network | regularised)


def simulate(setup: Setup) -> Outcome:
    """Train the run and each of its remedies."""
    train, validation, true = _data(setup)
    network = RegularizedNetwork(**setup.network, seed=setup.seed)
    truth: list[float] = []
    history = network.fit(
        train,
        validation,
        setup.epochs,
        batch_size=BATCH_SIZE,
        on_epoch=lambda *_: truth.append(network.evaluate(true)[0]),
    )
    settings = {
        "model": "mlp",
        "batch_size": min(BATCH_SIZE, setup.samples),
        "optimizer": "sgd",
        "test_samples": VALIDATION,
    }
    advice = advise(history=history, **settings)
    losses = advise(history={"loss": history.train_loss, "val_loss": history.test_loss}, **settings)
    gap = history.train_acc[-1] - network.evaluate(true)[1]
    outcome = Outcome(setup, advice, losses, history.test_loss, truth, gap)
    for remedy in REMEDIES:
        outcome.after[remedy] = _with(remedy, outcome, train, true)
    return outcome


def _data(setup: Setup) -> list[Any]:
    return [
        circle_data(n, seed=(1000 * setup.seed + part), noise=setup.noise)
        for part, n in enumerate((setup.samples, VALIDATION, TRUE))
    ]


def _with(remedy: str, outcome: Outcome, train: Any, true: Any) -> tuple[float, float]:
    """Return true loss and gap of the run with a remedy."""
    setup, options, epochs = outcome.setup, dict(outcome.setup.network), outcome.setup.epochs
    values = {_kind(found.name): found.value for found in outcome.advice.remedies}
    moderate = rules.GAP_RULES["gap 5-10"]
    if remedy == "dropout":
        options["dropout_p"] = values.get(remedy, moderate.dropout.start)
    elif remedy == "weight decay":
        options["weight_decay"] = values.get(remedy, moderate.weight_decay.start)
    elif remedy == "norm":
        options["norm"] = "layer" if any(found.name == "LayerNorm" for found in outcome.advice.remedies) else "batch"
    elif remedy == "more capacity":
        options |= {"hidden_size": 4 * options["hidden_size"], "dropout_p": 0.0, "weight_decay": 0.0}
    elif remedy == "longer training":
        epochs *= LONGER
    network = RegularizedNetwork(**options, seed=setup.seed)
    x, y = train
    if remedy == "augmentation":
        rng = np.random.default_rng(setup.seed)
        for _ in range(epochs):
            noisy = x + 0.1 * rng.standard_normal(x.shape, dtype=np.float32)
            network.fit((noisy, y), (x[:1], y[:1]), 1, batch_size=BATCH_SIZE)
    else:
        network.fit(train, (x[:1], y[:1]), epochs, batch_size=BATCH_SIZE)
    loss, accuracy = network.evaluate(true)
    return loss, network.evaluate(train)[1] - accuracy


# Early stopping -------------------------------------------------------------------------------------------------------


def stopped(losses: Sequence[float], patience: int) -> int:
    """Return the epoch whose weights early stopping keeps."""
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best]:
            best = epoch
        elif epoch - best >= patience:
            break
    return best


def _patience(outcome: Outcome) -> int:
    for found in outcome.advice.remedies:
        if found.name == "early stopping" and found.value is not None:
            return int(found.value)
    return int(rules.PATIENCE.start)


def _turn(outcome: Outcome) -> int:
    figures = outcome.advice.history
    assert figures is not None
    return len(outcome.true) - 1 if figures.turned_up_epoch is None else int(figures.turned_up_epoch)


NO_STOP = "last epoch"
STOPS: dict[str, Callable[[Outcome], int]] = {
    "best validation epoch": lambda outcome: int(np.argmin(outcome.validation)),
    "early stopping, advised patience": lambda outcome: stopped(outcome.validation, _patience(outcome)),
    "early stopping, patience 5": lambda outcome: stopped(outcome.validation, int(rules.PATIENCE.low)),
    "turning point, else the last epoch": _turn,
    NO_STOP: lambda outcome: len(outcome.true) - 1,
}


def near(outcome: Outcome, epoch: int) -> bool:
    """Return whether the true loss of ``epoch`` is within 10 % of the lowest."""
    return outcome.true[epoch] <= NEAR * min(outcome.true)


# The page -------------------------------------------------------------------------------------------------------------


INTRODUCTION = f"""\
# How often the advice is right

{{runs}} simulated runs of the laboratory's network; `bench/bench_advice.py` writes this page and describes the method.
The runs have 20 to 2000 samples, 0 to 20 % wrong labels, 4 to 128 hidden neurons, three learning rates, with and
without regularisation. The advisor sees {VALIDATION} validation points; {TRUE} others tell the truth. These are small
networks on one task in two dimensions: other tasks may differ. The limits are those of `rules.py`, not fitted to these
runs.

## Regimes

The truth: a run overfits if its true loss ends over 10 % above its lowest; else it underfits if four times the neurons
or twice the epochs lower its true loss by over 10 %; else it fits."""
STOPS_INTRODUCTION = """
## Early stops

How often the true loss of the chosen epoch is within 10 % of the lowest. Chance: an epoch drawn at random.
"""
REMEDIES_INTRODUCTION = """
## Remedies

Each alone, from the same seed: runs in which it lowers the true loss at the end (helps) and narrows the true
generalisation gap. Where it is not recommended, the rate is that of a gap of 5 to 10 points.
"""
WORSE_INTRODUCTION = """
## Worse than chance

Rules that help less often than a coin, or less often where they are recommended than where they are not.
"""
RATED = ("dropout", "weight decay")
"""The remedies whose rates follow the regime."""


def page(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield INTRODUCTION.format(runs=len(outcomes))
    for title, pick in (
        ("from the whole log", lambda o: o.advice.regime),
        ("from losses alone", lambda o: o.losses_alone.regime),
    ):
        yield ""
        yield from _table(
            [f"regime {title}", "overfits", "underfits", "fits"],
            [
                [regime, *(str(sum(o.truth == truth for o in rows)) for truth in ("overfits", "underfits", "fits"))]
                for regime in rules.REGIMES
                if (rows := [o for o in outcomes if pick(o) == regime])
            ],
        )
    yield STOPS_INTRODUCTION
    groups = {f"{low}-{min(high, 2000)} samples": [o for o in outcomes if low <= o.setup.samples < high]
              for low, high in BANDS}  # fmt: skip
    groups |= {"where advised": [o for o in outcomes if o.recommended("early stopping")], "all": list(outcomes)}
    rows = [[name, *(_share([near(o, stop(o)) for o in group]) for group in groups.values())]
            for name, stop in STOPS.items()]  # fmt: skip
    rows.append(
        ["chance", *(_share([near(o, e) for o in group for e in range(len(o.true))]) for group in groups.values())]
    )
    yield from _table(["stop at", *(f"{name} ({len(group)})" for name, group in groups.items())], rows)
    yield REMEDIES_INTRODUCTION
    yield from _table(
        [
            "remedy",
            "recommended: helps",
            "does not",
            "not recommended: helps",
            "does not",
            "narrows: recommended",
            "not",
        ],
        [_remedy_row(name, outcomes) for name in REMEDIES],
    )
    yield ""
    yield from _table(
        ["regime", "runs", *(f"{name}: {what}" for name in RATED for what in ("helps", "narrows"))],
        [_regime_row(regime, outcomes) for regime in rules.REGIMES if any(o.advice.regime == regime for o in outcomes)],
    )
    yield WORSE_INTRODUCTION
    yield from list(_worse(outcomes)) or ["None."]


def _regime_row(regime: str, outcomes: Sequence[Outcome]) -> list[str]:
    rows = [o for o in outcomes if o.advice.regime == regime]
    cells = []
    for name in RATED:
        cells += [_share([helps(o, name) for o in rows]), _share([narrows(o, name) for o in rows])]
    return [regime, str(len(rows)), *cells]


def helps(outcome: Outcome, remedy: str) -> bool:
    """Return whether the remedy lowers the true loss at the end."""
    return outcome.after[remedy][0] < outcome.true[-1]


def narrows(outcome: Outcome, remedy: str) -> bool:
    """Return whether the remedy narrows the true generalisation gap."""
    return outcome.after[remedy][1] < outcome.gap


def _remedy_row(name: str, outcomes: Sequence[Outcome]) -> list[str]:
    cells, gaps = [name], []
    for group in _split(name, outcomes):
        helped = [helps(o, name) for o in group]
        cells += [f"{sum(helped)} ({_share(helped)})", str(len(helped) - sum(helped))]
        gaps.append(_share([narrows(o, name) for o in group]))
    return cells + gaps


def _split(name: str, outcomes: Sequence[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """Return the runs with and without the recommendation, but for those that have a norm already."""
    fresh = [o for o in outcomes if not (name == "norm" and "norm" in o.setup.network)]
    return [o for o in fresh if o.recommended(name)], [o for o in fresh if not o.recommended(name)]


def _worse(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield a line for each rule that is right less often than chance."""
    for name in REMEDIES:
        chosen, others = _split(name, outcomes)
        for what, test in (("lowers the true loss", helps), ("narrows the gap", narrows)):
            here, there = (np.mean([test(o, name) for o in group]) if group else np.nan for group in (chosen, others))
            if len(chosen) >= FEW and (here < 0.5 or (len(others) >= FEW and here < there)):
                yield f"- {name} {what} in {here:.0%} of {len(chosen)} runs with the recommendation" + (
                    f", in {there:.0%} of {len(others)} without" if others else ""
                )
    groups = {
        "all runs": outcomes,
        "runs where it is advised": [o for o in outcomes if o.recommended("early stopping")],
    }
    for where, group in groups.items():
        chance = np.mean([near(o, e) for o in group for e in range(len(o.true))]) if group else 0.0
        for name, stop in STOPS.items():
            if name != NO_STOP and group and (share := np.mean([near(o, stop(o)) for o in group])) < chance:
                yield f"- stop at {name}: {share:.0%} of {where}, chance {chance:.0%}"


def _share(hits: Sequence[bool]) -> str:
    return f"{np.mean(hits):.0%}" if len(hits) else "-"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headers)} |"
    yield "|---" * len(headers) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Simulate the runs and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=210, help="number of simulated runs (default: 210)")
    options = parser.parse_args()
    start = time.perf_counter()
    outcomes = []
    with one_thread():
        for seed in range(options.runs):
            outcomes.append(simulate(draw(seed)))
            print(f"\r{seed + 1} of {options.runs}, {time.perf_counter() - start:.0f} s", end="", file=sys.stderr)
    print(file=sys.stderr)
    print(*page(outcomes), sep="\n")


if __name__ == "__main__":
    main()
