"""What the advice stands on: the figures and epochs behind each statement, and the interval of the test accuracy."""

from __future__ import annotations

from dataclasses import replace

from cregkit.advice import names, rules
from cregkit.advice.figures import HistoryFigures
from cregkit.advice.intervals import samples_to_decide, wilson
from cregkit.advice.result import Advice


def with_interval(advice: Advice, samples: int | None) -> Advice:
    """Return the advice with the 95 % interval of its test accuracy, and a warning of what it leaves undecided."""
    train, test, gap = advice.train_acc, advice.test_acc, advice.gap
    if samples is None:
        return advice
    column = "" if advice.history is None else advice.history.columns.get("test_acc", "")
    meaning = names.meaning(column)
    if test is None or (meaning is not None and meaning.kind in ("F1", "AUC", "overlap")):
        what = f"{column} is no accuracy" if column else "there is no test accuracy"
        return replace(advice, warnings=(*advice.warnings, f"no interval from test_samples: {what}"))
    low, high = wilson(test, samples)
    if train is None or gap is None:
        return replace(advice, test_interval=(low, high))
    bounds, warnings = (round(train - high, 9), round(train - low, 9)), []
    if decided := not low <= train <= high:
        sides = [limit for limit in (rules.GAP_LIGHT, rules.GAP_HEAVY) if bounds[0] < limit < bounds[1]]
        if sides:
            shown = " and ".join(f"{limit:g}" for limit in sides)
            warnings.append(
                f"with {samples} test samples the gap may be {bounds[0]:.1f} to {bounds[1]:.1f} points, so it may be "
                f"on either side of {shown}"
            )
    else:
        needed = samples_to_decide(train, test)
        warnings.append(
            f"the gap of {gap:.1f} points is undecided with {samples} test samples: it may be {bounds[0]:.1f} to "
            f"{bounds[1]:.1f}" + ("" if needed is None else f"; from {needed} on, it would be decided")
        )
    return replace(
        advice,
        summary=advice.summary if decided else f"{_UNDECIDED} {advice.summary}",
        warnings=(*warnings, *advice.warnings),
        test_interval=(low, high),
        gap_interval=bounds,
        decided=decided,
    )


_UNDECIDED = "Undecided: the test set is too small to tell the accuracies apart. If they are right:"


def with_evidence(advice: Advice) -> Advice:
    """Return the advice with the figures and epochs that set its regime and each remedy."""
    evidence = _evidence(advice)
    remedies = tuple(remedy if remedy.evidence else replace(remedy, evidence=evidence) for remedy in advice.remedies)
    return replace(advice, evidence=evidence, remedies=remedies)


def _evidence(advice: Advice) -> str:
    """Return the figures and epochs that set the regime."""
    found, gap = advice.history, advice.gap
    if found is not None and advice.regime == "diverged" and found.diverged_epoch is not None:
        return f"a loss is not finite from {found.unit} {found.diverged_epoch:g} on"
    if gap is not None:
        where = "" if found is None or found.judged_epoch is None else f" in {found.unit} {found.judged_epoch:.15g}"
        text = (
            f"training accuracy {advice.train_acc:.1f} %, test accuracy {advice.test_acc:.1f} %{where}: "
            f"generalisation gap {gap:.1f} points"
        )
        if advice.gap_interval is None:
            return text
        low, high = advice.gap_interval
        return f"{text}, {'' if advice.decided else 'undecided: '}95 % interval {low:.1f} to {high:.1f}"
    if found is None:
        return ""
    text, runs = _evidence_of_curve(advice.regime, found), advice.runs
    if not runs:
        return text
    return f"{sum(run.regime == advice.regime for run in runs)} of {len(runs)} runs are so (medians and means): {text}"


def _evidence_of_curve(regime: str, found: HistoryFigures) -> str:
    unit, figure = found.unit, "test accuracy" if found.best_test_loss is None else "test loss"
    best = f"{found.best_test_acc:.1f} %" if found.best_test_loss is None else f"{found.best_test_loss:.4g}"
    text = f"{figure} best in {unit} {found.best_epoch:.15g} of {found.last_epoch:.15g}: {best}"
    noise = found.test_acc_noise if found.best_test_loss is None else found.test_loss_noise
    shown = "" if noise is None else f" (noise {noise:.2g})"
    if regime == "loss turned up" and found.turned_up_epoch is not None and found.best_test_loss is not None:
        return f"{text}; smoothed, it has risen by {found.rise:.3g} since {unit} {found.turned_up_epoch:.15g}{shown}"
    if regime == "loss turned up" and found.acc_turned_down_epoch is not None:
        return f"{text}; smoothed, it has fallen since {unit} {found.acc_turned_down_epoch:.15g}{shown}"
    if regime == "loss still falling":
        return f"{text}; it still improved in the last fifth of the run{shown}"
    if regime == "loss gap":
        return f"{text}, {found.loss_gap:.3g} above the training loss"
    if regime == "loss turned up":  # of several runs, as many did not turn
        return f"{text}{shown}"
    return f"{text}; no turn beyond its noise since{shown}"
