"""The advisor: maps accuracies, or a training history, to a regime and its remedies."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from statistics import fmean, stdev
from typing import Protocol, TypeAlias

from cregkit import _validate as validate
from cregkit._files import Path
from cregkit.advice import curves, logs, rules
from cregkit.advice.evidence import with_evidence, with_interval
from cregkit.advice.figures import HistoryFigures, figures, final_accuracies, together
from cregkit.advice.logs import Run
from cregkit.advice.result import Advice, Remedy


class SupportsHistory(Protocol):
    """The interface of ``cregkit.train.History``: one list per metric, accuracies in percent."""

    train_loss: list[float]
    train_acc: list[float]
    test_loss: list[float]
    test_acc: list[float]


OneHistory: TypeAlias = Path | Mapping[str, object] | SupportsHistory


@dataclass(frozen=True)
class Setting:
    """The settings of the training besides its metrics."""

    model: str | None
    batch_size: int | None
    optimizer: str | None
    test_samples: int | None

    @property
    def rule(self) -> rules.ModelRule:
        """The rule of the kind of model."""
        return rules.ANY_MODEL if self.model is None else rules.MODELS[self.model]

    @property
    def small_batches(self) -> bool:
        """Whether batches are too small for BatchNorm."""
        return self.batch_size is not None and self.batch_size < rules.BATCH_NORM_FROM


def advise(
    train_acc: float | None = None,
    test_acc: float | None = None,
    *,
    history: OneHistory | Sequence[OneHistory] | None = None,
    columns: Mapping[str, str] | None = None,
    model: str | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    test_samples: int | None = None,
) -> Advice:
    """Determine the regime of a training run and the remedies that suit it.

    With gap = train_acc - test_acc in percentage points, the first row that applies is the regime:

    ==================  =========================================
    gap over 10         gap > 10
    gap 5-10            5 <= gap <= 10
    underfit            both accuracies below 80
    test above train    gap < -2
    good                train_acc >= 90
    gap under 5         otherwise
    ==================  =========================================

    A history without both accuracies is judged by its test loss, else by its test accuracy:

    ==================  ====================================================================
    diverged            a loss is NaN or infinite to the end (whatever else the log has)
    loss turned up      the smoothed curve got worse since its best epoch, beyond its noise
    loss still falling  it improved in the last fifth of the run, beyond its noise
    loss gap            test loss - training loss > 0.2 test loss in the best epoch
    loss level          otherwise
    ==================  ====================================================================

    The rates are those of ``cregkit.advice.rules``.

    Parameters
    ----------
    train_acc
        Training accuracy in percent, best measured in evaluation mode.
    test_acc
        Test or validation accuracy in percent.
    history
        The whole run instead of the accuracies: a ``History``, a mapping of column names to lists, a list of records,
        or the path of a log: CSV or JSON of any usual logger, TensorBoard's event files, or a folder of logs. Losses
        or validation figures alone suffice. Accuracies may be fractions if none exceeds 1. The last epoch is judged.
        Several runs, in one log or in a list of histories, are judged each by itself and then together.
    columns
        The columns of the log whose names do not tell what they are, such as ``{"test_loss": "foo"}``; the keys are
        "train_loss", "train_acc", "test_loss", "test_acc" and "epoch".
    model
        ``"mlp"``, ``"cnn"``, ``"transformer"`` or ``"llm"``.
    batch_size
        Samples per training step, at least 1.
    optimizer
        ``"adam"`` or ``"sgd"``.
    test_samples
        Samples of the test set, at least 1. They give the interval of the test accuracy (``intervals.wilson``); a gap
        within it is undecided.

    Returns
    -------
    Advice
        The regime, the remedies and warnings.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has the wrong value, or the file is not such a log; the message is one line.
    OSError
        The file is missing or cannot be read.
    ImportError
        Event files need TensorBoard.

    Examples
    --------
    >>> from cregkit import advise
    >>> advice = advise(train_acc=98, test_acc=91, model="cnn", batch_size=64)
    >>> advice.regime
    'gap 5-10'
    >>> [(remedy.name, remedy.rate) for remedy in advice.remedies]
    [('dropout', '0.2'), ('weight decay', '0.001-0.01'), ('BatchNorm', None)]

    A gap that 20 test samples cannot show:

    >>> advice = advise(train_acc=90, test_acc=80, test_samples=20)
    >>> advice.decided, [round(limit, 1) for limit in advice.gap_interval]
    (False, [-1.9, 31.6])

    A log of losses, which turn up after epoch 3:

    >>> advice = advise(history={"loss": [9, 7, 5, 4, 3, 2, 2, 1, 1], "val_loss": [9, 8, 7, 6, 7, 8, 9, 10, 11]})
    >>> advice.regime, advice.history.best_epoch, advice.history.turned_up_epoch
    ('loss turned up', 3, 3)
    """
    given = setting(model, batch_size, optimizer, test_samples)
    if history is None:
        if train_acc is None or test_acc is None:
            raise TypeError(
                "advise needs train_acc and test_acc, both in percent, or a history, "
                f"got train_acc={train_acc}, test_acc={test_acc}"
            )
        train, test = _percent("train_acc", train_acc), _percent("test_acc", test_acc)
        if 0 < max(train, test) <= 1:
            raise ValueError(
                f"train_acc and test_acc must be in percent, got {train} and {test}, which look like fractions: "
                f"give {100 * train:g} and {100 * test:g}"
            )
        return _advice(train, test, given, None, None)
    if train_acc is not None or test_acc is not None:
        raise TypeError("advise takes train_acc and test_acc or a history, not both")
    return judged(_runs(history, columns), given)


def judged(runs: Sequence[Run], setting: Setting) -> Advice:
    """Return the advice for the runs of a history."""
    singles = [_advice(*final_accuracies(run), setting, run, figures(run)) for run in runs]
    if len(singles) == 1:
        return singles[0]
    return _together([replace(advice, name=run.name) for advice, run in zip(singles, runs, strict=True)], setting)


def prompt() -> str:
    """Return the advisor as a prompt for a language model (``prompt-regularization-advisor.md`` of the package).

    Returns
    -------
    str
        The prompt, as Markdown.

    Examples
    --------
    >>> from cregkit.advice import prompt
    >>> prompt().splitlines()[0]
    '# Regularisation advisor'
    """
    return (resources.files("cregkit.advice") / "prompt-regularization-advisor.md").read_text(encoding="utf-8")


def setting(
    model: str | None, batch_size: int | None, optimizer: str | None, test_samples: int | None = None
) -> Setting:
    """Return the checked settings; see ``advise``."""
    for name, value, known in (("model", model, rules.MODELS), ("optimizer", optimizer, rules.OPTIMIZERS)):
        if value is not None and value not in known:
            raise ValueError(f"{name} must be None or one of {', '.join(map(repr, known))}, got {value!r}")
    counts = {"batch_size": batch_size, "test_samples": test_samples}
    checked = {name: None if n is None else validate.positive_int(name, n) for name, n in counts.items()}
    return Setting(model, optimizer=optimizer, **checked)


def _percent(name: str, value: object) -> float:
    return validate.real(f"{name} (percent)", value, 0, 100)


def _runs(history: OneHistory | Sequence[OneHistory], columns: Mapping[str, str] | None) -> list[Run]:
    """Return the runs of one history or several; pieces of a run in several files are joined."""
    if isinstance(history, (str, os.PathLike)):
        return logs.read(history, columns)
    if isinstance(history, Mapping):
        return logs.from_columns(history, columns)
    if all(hasattr(history, name) for name in SupportsHistory.__annotations__):
        return logs.from_columns(_finite(vars(history)), columns)
    if isinstance(history, Sequence) and len(history):
        if all(isinstance(one, (str, os.PathLike)) for one in history):
            return logs.read(history, columns)  # type: ignore[arg-type]
        if all(isinstance(one, Mapping) for one in history):
            return logs.from_columns({"history": list(history)}, columns)
        return [
            replace(run, name=f"{run.name} {number}")
            for number, one in enumerate(history, 1)
            for run in _runs(one, columns)
        ]
    raise TypeError(
        f"history must be a path, a History or a mapping of lists, got {type(history).__name__} {history!r:.60}; "
        "a list of these is several runs"
    )


def _finite(columns: Mapping[str, object]) -> dict[str, object]:
    """Return the lists of a History with None for values that are not finite, as in its files."""
    return {
        name: [x if math.isfinite(x) else None for x in column]
        for name, column in columns.items()
        if isinstance(column, list)
    }


def _advice(
    train: float | None, test: float | None, setting: Setting, run: Run | None, found: HistoryFigures | None
) -> Advice:
    gap = None if train is None or test is None else round(train - test, 9)  # 64.1 - 59.1 is 5, not 4.999999999999993
    regime = _regime(train, test, gap, found)
    warnings = [*_log_warnings(run, found, regime)] if run is not None and found is not None else []
    advice = Advice(
        regime=regime,
        summary=rules.REGIMES[regime],
        train_acc=train,
        test_acc=test,
        gap=gap,
        remedies=tuple(_remedies(regime, setting, found)),
        warnings=(*warnings, *_warnings(regime, train, test, gap, setting, found)),
        history=found,
        curves=None if run is None else curves.curves(run),
    )
    return with_evidence(with_interval(advice, setting.test_samples))


def _together(singles: Sequence[Advice], setting: Setting) -> Advice:
    """Return the advice for several runs: that for their mean accuracies, else the most frequent regime."""
    stable = [advice for advice in singles if advice.regime != "diverged"] or singles
    found = together([advice.history for advice in stable if advice.history is not None])
    values = {name: [getattr(advice, name) for advice in stable] for name in ("train_acc", "test_acc", "gap")}
    values["best_test_loss"] = [advice.history.best_test_loss for advice in stable if advice.history is not None]
    known = {name: list(entries) for name, entries in values.items() if None not in entries}
    train, test = (fmean(known[name]) if name in known else None for name in ("train_acc", "test_acc"))
    gap = round(train - test, 9) if train is not None and test is not None and "gap" in known else None
    regimes = [advice.regime for advice in stable]
    regime = _regime(train, test, gap, found) if gap is not None else max(rules.REGIMES, key=regimes.count)
    lost = [advice.name for advice in singles if advice not in stable]
    shared = dict.fromkeys(text for advice in singles for text in advice.warnings)
    drawn = [advice.curves for advice in stable if advice.curves is not None]
    advice = Advice(
        regime=regime,
        summary=rules.REGIMES[regime],
        train_acc=train,
        test_acc=test,
        gap=gap,
        remedies=tuple(_remedies(regime, setting, found)),
        warnings=(
            *([f"{len(lost)} of {len(singles)} runs diverged and are left out: {', '.join(lost)}"] if lost else []),
            *shared,
        ),
        history=found,
        runs=tuple(singles),
        spread={name: stdev(entries) for name, entries in known.items() if len(entries) > 1},
        curves=curves.mean(drawn),
    )
    return with_evidence(with_interval(advice, setting.test_samples))


def _regime(train: float | None, test: float | None, gap: float | None, found: HistoryFigures | None) -> str:
    if found is not None and found.diverged_epoch is not None:
        return "diverged"
    if train is None or test is None or gap is None:
        return "loss level" if found is None else _regime_of_loss(found)
    if gap > rules.GAP_HEAVY:
        return "gap over 10"
    if gap >= rules.GAP_LIGHT:
        return "gap 5-10"
    if max(train, test) < rules.FITTED:
        return "underfit"
    if gap < rules.INVERTED:
        return "test above train"
    return "good" if train >= rules.GOOD else "gap under 5"


def _regime_of_loss(found: HistoryFigures) -> str:
    """Return the regime of a run without both accuracies."""
    turn = found.acc_turned_down_epoch if found.best_test_loss is None else found.turned_up_epoch
    if turn is not None:
        return "loss turned up"
    if found.test_improving:
        return "loss still falling"
    if found.loss_gap is not None and found.loss_gap > rules.LOSS_GAP * abs(found.best_test_loss or 0.0):
        return "loss gap"
    return "loss level"


def _remedies(regime: str, setting: Setting, found: HistoryFigures | None) -> Iterator[Remedy]:
    turned = found is not None and found.turned_up_epoch is not None
    if regime == "underfit":
        yield from _against_underfitting(setting)
    elif regime == "test above train":
        yield from _against_wrong_figures()
        return
    elif regime == "diverged":
        code = rules.SLOWER[setting.optimizer or "sgd"]
        yield Remedy("lower learning rate", None, None, rules.WHY_SLOWER, code)
    elif regime == "loss still falling":
        yield Remedy("longer training", None, None, rules.WHY_LONGER, rules.LONGER_CODE)
        return
    else:
        rule = _rule(regime, found)
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


def _rule(regime: str, found: HistoryFigures | None) -> rules.GapRule:
    """Return the rates of a regime; those of a loss that turned up follow its rise."""
    if regime != "loss turned up" or found is None or found.best_test_loss is None or found.rise is None:
        return rules.GAP_RULES[regime]
    return rules.TURNED_UP[found.rise > rules.RISE_HEAVY * abs(found.best_test_loss)]


def _dropout(rule: rules.GapRule, setting: Setting) -> Remedy:
    rate = rule.dropout.within(setting.rule.dropout)
    reason = rules.WHY_DROPOUT
    if setting.model is not None:
        reason += f" {setting.rule.title} use {setting.rule.dropout}, this gap calls for {rule.dropout}."
    return Remedy("dropout", str(rate), rate.start, reason, setting.rule.dropout_code.format(value=rate.start))


def _weight_decay(rate: rules.Rate, setting: Setting) -> Remedy:
    reason = rules.WHY_DECAY + (f" {rules.WHY_ADAMW}" if setting.optimizer == "adam" else "")
    code = rules.OPTIMIZERS[setting.optimizer or "sgd"].format(value=rate.start)
    return Remedy("weight decay", str(rate), rate.start, reason, code)


def _early_stopping(found: HistoryFigures | None) -> Remedy:
    patience, evidence = rules.PATIENCE.start, ""
    if found is not None and found.patience is not None:
        patience = min(max(rules.PATIENCE.low, float(found.patience)), rules.PATIENCE.high)
        evidence = (
            f"the best {found.unit} is {found.best_epoch:.15g}, {found.wasted_epochs} of {found.epochs} came after it; "
            f"a patience of {found.patience} reaches it but for its noise"
        )
    if found is not None and found.turned_up_epoch is not None:
        evidence += (
            f"; smoothed, the loss has risen by {found.rise:.3g} since {found.unit} {found.turned_up_epoch:.15g}"
        )
    code = rules.EARLY_STOPPING_CODE.format(value=patience)
    return Remedy("early stopping", f"patience {rules.PATIENCE}", patience, rules.WHY_STOPPING, code, evidence)


def _norm(setting: Setting) -> Remedy:
    rule = setting.rule
    norm, reason = rule.norm, rule.why_norm
    if norm == "BatchNorm" and setting.small_batches:
        norm, reason = "LayerNorm", rules.WHY_SMALL_BATCH
    size = "" if setting.batch_size is None else f", batches of {setting.batch_size}"
    evidence = f"{rule.title}{size}" if setting.model is not None else ""
    return Remedy(norm, None, None, reason, rule.norm_code[norm], evidence)


def _against_underfitting(setting: Setting) -> Iterator[Remedy]:
    yield Remedy(
        "more capacity, no dropout",
        None,
        None,
        "A network that cannot fit its training set is too small or too constrained; dropout constrains it further.",
        rules.WIDER_CODE,
    )
    code = rules.OPTIMIZERS[setting.optimizer or "sgd"].format(value=0.0)
    yield Remedy("no weight decay", None, 0.0, "Decay holds back the weights that the fit needs.", code)
    reason = "Training accuracy may still be rising; try a higher learning rate as well."
    yield Remedy("longer training", None, None, reason, rules.LONGER_CODE)


def _against_wrong_figures() -> Iterator[Remedy]:
    yield Remedy(
        "measure both in evaluation mode",
        None,
        None,
        "Training accuracy is too low if it was measured with dropout or augmentation switched on.",
        rules.EVALUATE_CODE,
    )
    yield Remedy(
        "look for leakage",
        None,
        None,
        "Test samples that are also in the training set, or an easy test set, make the test accuracy too high.",
        rules.LEAK_CODE,
    )


def _warnings(
    regime: str,
    train: float | None,
    test: float | None,
    gap: float | None,
    setting: Setting,
    found: HistoryFigures | None,
) -> Iterator[str]:
    if train is not None and test is not None and gap is not None:
        yield from _accuracy_warnings(regime, train, test, gap, found)
    if setting.small_batches:
        yield f"batches of {setting.batch_size}: no BatchNorm below {rules.BATCH_NORM_FROM}, its statistics are noisy"
    if setting.optimizer == "adam" and regime in ("underfit", "test above train"):
        yield f"if you add weight decay: {rules.WHY_ADAMW}".rstrip(".")


def _accuracy_warnings(
    regime: str, train: float, test: float, gap: float, found: HistoryFigures | None
) -> Iterator[str]:
    if gap < 0:
        yield (
            "test accuracy is above training accuracy: perhaps training accuracy was measured with dropout or "
            "augmentation on, training samples leaked into the test set, or the test set is small or easy"
        )
    if gap >= rules.GAP_LIGHT and train < rules.FITTED:
        yield (
            f"training accuracy is below {rules.FITTED:g} % too: unless the data allow no more, the network needs more "
            "capacity along with the regularisation"
        )
    if regime == "underfit":
        yield (
            f"underfit means that both accuracies are below {rules.FITTED:g} %: with noisy labels or very many classes "
            "that may be the best possible"
        )
    if test <= 1 < train:
        yield f"the test accuracy is {test:g} % and the training accuracy {train:g} %: are both in percent?"
    noise = None if found is None else found.gap_noise
    for limit in (rules.GAP_LIGHT, rules.GAP_HEAVY):
        if noise is not None and abs(gap - limit) < 2 * noise:
            yield (
                f"the gap varies by about {noise:.1f} points from epoch to epoch, so it may be on either "
                f"side of {limit:g}"
            )


def _log_warnings(run: Run, found: HistoryFigures, regime: str) -> Iterator[str]:
    yield from (f"the {run.source}: {note}" for note in run.notes)
    if run.while_training and (run.has("train_acc") or run.has("train_loss")):
        figure = "accuracy" if run.has("train_acc") else "loss"
        yield (
            f"such a log usually averages the training {figure} over the epoch, with dropout on and changing weights: "
            "in evaluation mode the gap is probably larger"
        )
    if found.diverged_epoch is not None:
        yield f"a loss is not finite from {run.unit} {found.diverged_epoch:g} on, so the training diverged there"
    if regime == "underfit" and math.isfinite(run.test_loss[-1]) and found.best_epoch == run.epochs[-1]:
        yield "the test loss was lowest in the last epoch: it may still be falling, so train longer first"
    if not run.has("test_loss") and run.has("test_acc"):
        yield "the log has no test loss, so its minimum is unknown; the best epoch is that of the test accuracy"
    if regime.startswith("loss") and not (run.has("train_loss") or run.has("train_acc")):
        yield "the log has no figures of the training set, so how far the network overfits is unknown"
    if regime.startswith("loss") and found.test_improving is None:
        yield "too few epochs to see whether the test curve turned or still improves"
