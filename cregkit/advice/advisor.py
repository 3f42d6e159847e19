"""The advisor: from accuracies, or a whole training history, to a regime and its remedies."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, Protocol

import numpy as np

from cregkit import _validate as validate
from cregkit._files import Path
from cregkit.advice import logs, rules
from cregkit.advice.figures import HistoryFigures, figures, final_accuracies
from cregkit.advice.logs import Curves


class SupportsHistory(Protocol):
    """What ``cregkit.train.History`` has: a list per figure, accuracies in percent."""

    train_loss: list[float]
    train_acc: list[float]
    test_loss: list[float]
    test_acc: list[float]


@dataclass(frozen=True)
class Remedy:
    """A remedy, why it helps, and the line of code that applies it."""

    name: str
    rate: str | None
    """The range of sensible rates, such as "0.3-0.5"; None where there is no rate."""
    value: float | None
    """The rate in the code: where to start."""
    reason: str
    code: str
    """A line that runs after ``cregkit.advice.rules.IMPORTS``; ``network``, ``x``, ``y`` and so on are yours."""


@dataclass(frozen=True)
class Advice:
    """What ``advise`` found. Accuracies in percent, the gap (train minus test) in percentage points."""

    regime: str
    """One of "underfit", "good", "gap under 5", "gap 5-10", "gap over 10", "test above train"."""
    summary: str
    train_acc: float
    test_acc: float
    gap: float
    remedies: tuple[Remedy, ...]
    warnings: tuple[str, ...]
    history: HistoryFigures | None = None
    """The figures read from the history, if one was given."""

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain dicts, lists, strings and numbers, ready for JSON."""
        content = asdict(self)
        return {**content, "remedies": list(content["remedies"]), "warnings": list(content["warnings"])}


@dataclass(frozen=True)
class _Setting:
    """What is known about the training besides its figures."""

    model: str | None
    batch_size: int | None
    optimizer: str | None

    @property
    def rule(self) -> rules.ModelRule:
        return rules.ANY_MODEL if self.model is None else rules.MODELS[self.model]

    @property
    def small_batches(self) -> bool:
        return self.batch_size is not None and self.batch_size < rules.BATCH_NORM_FROM


def advise(
    train_acc: float | None = None,
    test_acc: float | None = None,
    *,
    history: Path | Mapping[str, object] | SupportsHistory | None = None,
    model: str | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
) -> Advice:
    """Say which regime a training run is in, and which remedies at which rates fit it.

    By the gap = train_acc - test_acc in percentage points: "gap over 10", "gap 5-10" (both ends included), below 5
    "good" if train_acc is at least 90 and "gap under 5" if not. Before these, "underfit" if the gap is below 5 and both
    accuracies are below 80: then it is training accuracy that says the network is too weak. "test above train" if it is
    not underfit and the gap is below -2. The rates are those of ``cregkit.advice.rules``.

    Args:
        train_acc: accuracy on the training set in percent, best measured in evaluation mode.
        test_acc: accuracy on the test or validation set in percent.
        history: instead of the accuracies, the whole run: a ``History``, a mapping of column names to lists, or the
            path of a file: our history as JSON or CSV, the CSV of Keras' or Lightning's ``CSVLogger``, or a CSV with
            such columns. Its accuracies may be fractions if none in it exceeds 1. The last epoch is judged.
        model: "mlp", "cnn", "transformer" or "llm".
        batch_size: samples per training step.
        optimizer: "adam" or "sgd".

    Raises:
        TypeError, ValueError: an argument has the wrong type or value, or the file is no such log: one line says what
            was found and what is needed.
        OSError: the file is missing or cannot be read.
    """
    setting = _setting(model, batch_size, optimizer)
    if history is None:
        if train_acc is None or test_acc is None:
            raise TypeError("advise needs train_acc and test_acc, both in percent, or a history")
        train, test = _percent("train_acc", train_acc), _percent("test_acc", test_acc)
        if 0 < max(train, test) <= 1:
            raise ValueError(
                f"train_acc and test_acc must be in percent, got {train} and {test}, which look like fractions: "
                f"give {100 * train:g} and {100 * test:g}"
            )
        return _advice(train, test, setting, None, None)
    if train_acc is not None or test_acc is not None:
        raise TypeError("advise takes train_acc and test_acc or a history, not both")
    curves = _curves(history)
    return _advice(*final_accuracies(curves), setting, curves, figures(curves))


def prompt() -> str:
    """Return the advisor as a prompt for a language model: the package's ``prompt-regularization-advisor.md``."""
    return (resources.files("cregkit.advice") / "prompt-regularization-advisor.md").read_text(encoding="utf-8")


def _setting(model: str | None, batch_size: int | None, optimizer: str | None) -> _Setting:
    for name, value, known in (("model", model, rules.MODELS), ("optimizer", optimizer, rules.OPTIMIZERS)):
        if value is not None and value not in known:
            raise ValueError(f"{name} must be None or one of {', '.join(map(repr, known))}, got {value!r}")
    return _Setting(model, None if batch_size is None else validate.positive_int("batch_size", batch_size), optimizer)


def _percent(name: str, value: object) -> float:
    return validate.real(f"{name} (percent)", value, 0, 100)


def _curves(history: Path | Mapping[str, object] | SupportsHistory) -> Curves:
    if isinstance(history, (str, os.PathLike)):
        return logs.read(history)
    if isinstance(history, Mapping):
        return logs.from_columns(history)
    if all(hasattr(history, name) for name in SupportsHistory.__annotations__):
        return logs.from_columns(_finite(vars(history)))
    raise TypeError(f"history must be a path, a History or a mapping of lists, got {type(history).__name__}")


def _finite(columns: Mapping[str, object]) -> dict[str, object]:
    """Return the lists of a History with None for what is not finite, as its files have it."""
    return {
        name: [x if math.isfinite(x) else None for x in column]
        for name, column in columns.items()
        if isinstance(column, list)
    }


def _advice(
    train: float, test: float, setting: _Setting, curves: Curves | None, found: HistoryFigures | None
) -> Advice:
    gap = round(train - test, 9)  # 64.1 - 59.1 is 5, not 4.999999999999993
    regime = _regime(train, test, gap)
    return Advice(
        regime=regime,
        summary=rules.REGIMES[regime],
        train_acc=train,
        test_acc=test,
        gap=gap,
        remedies=tuple(_remedies(regime, setting, found)),
        warnings=tuple(_warnings(regime, train, test, gap, setting, curves, found)),
        history=found,
    )


def _regime(train: float, test: float, gap: float) -> str:
    if gap > rules.GAP_HEAVY:
        return "gap over 10"
    if gap >= rules.GAP_LIGHT:
        return "gap 5-10"
    if max(train, test) < rules.FITTED:
        return "underfit"
    if gap < rules.INVERTED:
        return "test above train"
    return "good" if train >= rules.GOOD else "gap under 5"


def _remedies(regime: str, setting: _Setting, found: HistoryFigures | None) -> Iterator[Remedy]:
    turned = found is not None and found.turned_up_epoch is not None
    if regime == "underfit":
        yield from _against_underfitting(setting)
    elif regime == "test above train":
        yield from _against_wrong_figures()
        return
    else:
        rule = rules.GAP_RULES[regime]
        yield _dropout(rule, setting)
        yield _weight_decay(rule.weight_decay, setting)
        if rule.augmentation:
            yield Remedy("augmentation", None, None, rules.WHY_AUGMENTATION, setting.rule.augmentation_code)
        if rule.early_stopping or turned:
            yield _early_stopping(found)
        if rule.norm and setting.model is None:
            yield _norm(setting)
    if setting.model is not None:
        yield _norm(setting)


def _dropout(rule: rules.GapRule, setting: _Setting) -> Remedy:
    rate = rule.dropout.within(setting.rule.dropout)
    reason = rules.WHY_DROPOUT
    if setting.model is not None:
        reason += f" {setting.rule.title} use {setting.rule.dropout}, this gap calls for {rule.dropout}."
    return Remedy("dropout", str(rate), rate.start, reason, setting.rule.dropout_code.format(value=rate.start))


def _weight_decay(rate: rules.Rate, setting: _Setting) -> Remedy:
    reason = rules.WHY_DECAY + (f" {rules.WHY_ADAMW}" if setting.optimizer == "adam" else "")
    code = rules.OPTIMIZERS[setting.optimizer or "sgd"].format(value=rate.start)
    return Remedy("weight decay", str(rate), rate.start, reason, code)


def _early_stopping(found: HistoryFigures | None) -> Remedy:
    reason = rules.WHY_STOPPING
    if found is not None and found.turned_up_epoch is not None:
        reason += f" Here it has risen by {found.rise:.3g} since epoch {found.turned_up_epoch}."
    return Remedy("early stopping", "patience 5-20", 20.0, reason, rules.EARLY_STOPPING_CODE)


def _norm(setting: _Setting) -> Remedy:
    rule = setting.rule
    norm, reason = rule.norm, rule.why_norm
    if norm == "BatchNorm" and setting.small_batches:
        norm, reason = "LayerNorm", rules.WHY_SMALL_BATCH
    return Remedy(norm, None, None, reason, rule.norm_code[norm])


def _against_underfitting(setting: _Setting) -> Iterator[Remedy]:
    yield Remedy(
        "more capacity, no dropout",
        None,
        None,
        "A network that cannot fit its training set is too small or too constrained; dropout constrains it further.",
        rules.WIDER_CODE,
    )
    code = rules.OPTIMIZERS[setting.optimizer or "sgd"].format(value=0.0)
    yield Remedy("no weight decay", None, 0.0, "Decay holds back the weights that the fit needs.", code)
    reason = "Training accuracy may just not have got there yet; try a higher learning rate as well."
    yield Remedy("longer training", None, None, reason, rules.LONGER_CODE)


def _against_wrong_figures() -> Iterator[Remedy]:
    yield Remedy(
        "measure both in evaluation mode",
        None,
        None,
        "Dropout or augmentation that was on while training accuracy was taken lowers it below its real value.",
        rules.EVALUATE_CODE,
    )
    yield Remedy(
        "look for leakage",
        None,
        None,
        "Test samples that are also in the training set, or a test set of easy ones, flatter the test accuracy.",
        rules.LEAK_CODE,
    )


def _warnings(
    regime: str,
    train: float,
    test: float,
    gap: float,
    setting: _Setting,
    curves: Curves | None,
    found: HistoryFigures | None,
) -> Iterator[str]:
    if curves is not None and found is not None:
        yield from (f"the {curves.source}: {note}" for note in curves.notes)
        yield from _history_warnings(regime, gap, curves, found)
    if gap < 0:
        yield (
            "test accuracy is above training accuracy: perhaps dropout or augmentation was on for the latter, "
            "training samples leaked into the test set, or the test set is small or easy"
        )
    if gap >= rules.GAP_LIGHT and train < rules.FITTED:
        yield (
            f"training accuracy is below {rules.FITTED:g} % too: if that is not as good as these data allow, "
            "the network needs more capacity along with the regularisation"
        )
    if regime == "underfit":
        yield (
            f"underfit means that both accuracies are below {rules.FITTED:g} %: with noisy labels or very many classes "
            "that may be as good as it gets"
        )
    if test <= 1 < train:
        yield f"a test accuracy of {test:g} % beside {train:g} % in training: are both in percent?"
    if setting.small_batches:
        yield f"batches of {setting.batch_size}: no BatchNorm below {rules.BATCH_NORM_FROM}, its statistics are noisy"
    if setting.optimizer == "adam" and regime in ("underfit", "test above train"):
        yield f"once you use weight decay: {rules.WHY_ADAMW}".rstrip(".")


def _history_warnings(regime: str, gap: float, curves: Curves, found: HistoryFigures) -> Iterator[str]:
    if curves.while_training:
        yield (
            "such a log usually takes the training accuracy while it trains, dropout on and weights still moving: "
            "measured in evaluation mode the gap is likely larger"
        )
    spread = 2 * (found.gap_noise or 0.0)
    for limit in (rules.GAP_LIGHT, rules.GAP_HEAVY):
        if abs(gap - limit) < spread:
            yield (
                f"the gap moves by about {found.gap_noise:.1f} points from epoch to epoch, so it may be on either side "
                f"of {limit:g}"
            )
    if regime == "underfit" and math.isfinite(curves.test_loss[-1]) and found.best_epoch == curves.epochs[-1]:
        yield "the test loss was lowest in the last epoch: it may still be falling, so train longer first"
    if not np.isfinite(curves.test_loss).any():
        yield "the log has no test loss, so when it turned up cannot be seen; the best epoch is that of the accuracy"
