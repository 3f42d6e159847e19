"""Augmentation with little training data: images of digits, and tones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from cregkit.augment import (
    AddNoise,
    Augmentation,
    AugmentBatches,
    Compose,
    Gain,
    GaussianNoise,
    Rotation,
    TimeShift,
    Transform,
)
from cregkit.lab import figures, sheet
from cregkit.lab.experiments import training
from cregkit.lab.experiments.words import compared
from cregkit.lab.framework import TRAIN_TEST_GAP, Claim, Experiment, Row, Table, Trial, difference_of
from cregkit.layers.base import Array
from cregkit.train import AdamW, Data, softmax_cross_entropy

N_DIGITS, N_TONES, N_TEST = 100, 40, 1000
HIDDEN = 128
SAMPLES, RATE = 64, 1000  # samples per tone, and samples per second
PITCHES = (60.0, 90.0, 130.0, 190.0)
IMAGES = Compose(Rotation(12), GaussianNoise((0.0, 0.2)))
SOUNDS = Compose(TimeShift(0.032, RATE, wrap=True), Gain(6), AddNoise((5, 20)))
NONE, AUGMENTED = "none", "augmented"


def tones(n: int, rng: np.random.Generator) -> Data:
    """Return ``n`` tones of one of four pitches with random detuning, phase, overtone and noise."""
    labels = np.arange(n) % len(PITCHES)
    pitch = np.array(PITCHES)[labels] * rng.uniform(0.96, 1.04, n)
    turns = pitch[:, np.newaxis] * np.arange(SAMPLES) / RATE + rng.uniform(0, 1, (n, 1))
    overtone = rng.uniform(0, 0.5, (n, 1)) * np.sin(4 * np.pi * turns + rng.uniform(0, 2 * np.pi, (n, 1)))
    clips = np.sin(2 * np.pi * turns) + overtone + 0.3 * rng.standard_normal((n, SAMPLES))
    return clips.astype(np.float32), labels


def _tone_task(seed: int) -> training.Task:
    train, test = (tones(n, np.random.default_rng([seed, n])) for n in (N_TONES, N_TEST))
    return training.Task(train, test, softmax_cross_entropy, SAMPLES, len(PITCHES))


class _Set(NamedTuple):
    transform: Transform
    shape: tuple[int, ...]


SETS: Mapping[str, _Set] = {"digits": _Set(IMAGES, (1, 8, 8)), "tones": _Set(SOUNDS, (SAMPLES,))}
ROWS: list[Row] = [(name, how) for name in SETS for how in (NONE, AUGMENTED)]


def _trials(seed: int, epochs: int) -> Iterator[Trial]:
    for name, how in ROWS:
        task = _tone_task(seed) if name == "tones" else training.digits(seed, N_DIGITS, N_TEST)
        network = training.perceptron(task, (HIDDEN,), seed)
        hook = AugmentBatches(Augmentation(SETS[name].transform, seed=seed), SETS[name].shape)
        callbacks = [hook] if how == AUGMENTED else []
        optimizer = AdamW(network, 0.003)
        history = training.train(network, task, optimizer, epochs, seed, batch_size=20, callbacks=callbacks)
        yield Trial((name, how), training.outcome(network, task, history))


def _conclude(table: Table) -> str:
    phrases = []
    for name in SETS:
        with_, without = (name, AUGMENTED), (name, NONE)
        test = compared(table.difference(with_, without, "test_acc"))
        phrases.append(
            f"on {name} augmentation leaves a gap of {table.mean(with_, 'gap'):.1f} points against "
            f"{table.mean(without, 'gap'):.1f}, with a test accuracy {test}"
        )
    sentence = "; ".join(phrases) + "."
    return sentence[0].upper() + sentence[1:]


def _draw(figure: Any, table: Table) -> None:
    above, middle, below = figure.subfigures(3, 1, height_ratios=(1.15, 1.6, 1.3))
    ax = above.subplots()
    rows = list(table.rows)
    figures.gap_bars(ax, table, rows, [f"{name}, {how}" for name, how in rows])
    ax.legend(loc="lower left", frameon=False, fontsize=8, labelcolor=figures.INK)
    images, _ = training.digits(0, N_DIGITS, 10).train
    _digit_sheet(middle, images.reshape(-1, 1, 8, 8))
    _tone_sheet(below, tones(4, np.random.default_rng(0))[0])


def _digit_sheet(figure: Any, images: Array) -> None:
    """Draw three digits and eight augmented samples of each."""
    axes = figure.subplots(3, 9)
    for line, image in zip(axes, images, strict=False):
        outcomes = IMAGES(np.repeat(image[np.newaxis], 8, axis=0), index=np.arange(8), seed=0)
        for ax, shown in zip(line, [image, *outcomes], strict=True):
            sheet.show(ax, shown)
    axes[0, 0].set_title("original", fontsize=9, color=figures.INK)
    axes[0, 4].set_title("augmented", fontsize=9, color=figures.INK)


def _tone_sheet(figure: Any, clips: Array) -> None:
    """Draw two tones and four augmented samples of each."""
    axes = figure.subplots(2, 5, sharey=True)
    for line, clip in zip(axes, clips, strict=False):
        outcomes = SOUNDS(np.repeat(clip[np.newaxis], 4, axis=0), index=np.arange(4), seed=0)
        for k, (ax, shown) in enumerate(zip(line, [clip, *outcomes], strict=True)):
            ax.plot(shown, color=figures.TRAIN if k else figures.TEST, linewidth=0.9)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    axes[0, 0].set_title("original", fontsize=9, color=figures.INK)
    axes[0, 2].set_title("augmented", fontsize=9, color=figures.INK)


EXPERIMENT = Experiment(
    name="augmentation",
    question="With little training data, how does augmentation change the gap?",
    setup=(
        f"digits, {N_DIGITS} training and {N_TEST} test images, rotated and with noise; tones of {len(PITCHES)} "
        f"pitches, {N_TONES} training and {N_TEST} test clips of {SAMPLES} samples, with shift, gain and noise; "
        f"{HIDDEN} hidden neurons, AdamW"
    ),
    seeds=5,
    epochs=120,
    labels=("data", "augmentation"),
    rows=ROWS,
    columns=TRAIN_TEST_GAP,
    trials=_trials,
    conclude=_conclude,
    draw=_draw,
    claims=[
        *(
            Claim(f"augmentation narrows the gap ({name})", difference_of((name, NONE), (name, AUGMENTED), "gap"))
            for name in SETS
        ),
        *(
            Claim(
                f"augmentation raises test accuracy ({name})",
                difference_of((name, AUGMENTED), (name, NONE), "test_acc"),
            )
            for name in SETS
        ),
    ],
    size=(5.6, 8.0),
)
