"""The advice and its remedies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cregkit.advice.curves import Curves
from cregkit.advice.figures import HistoryFigures


@dataclass(frozen=True)
class Remedy:
    """A remedy, the reason it helps, and the line of code that applies it.

    Examples
    --------
    >>> from cregkit.advice import advise
    >>> remedy = advise(train_acc=98, test_acc=84).remedies[0]
    >>> remedy.name, remedy.rate, remedy.value
    ('dropout', '0.3-0.5', 0.4)
    >>> remedy.code
    'network = ck.Sequential(ck.Linear(784, 256), ck.ReLU(), ck.Dropout(0.4), ck.Linear(256, 10))'
    """

    name: str
    """Name of the remedy."""
    rate: str | None
    """Range of recommended rates, such as "0.3-0.5"; None if the remedy has no rate."""
    value: float | None
    """Rate in the code: a starting value."""
    reason: str
    """Why it helps."""
    code: str
    """A line of code that runs after ``cregkit.advice.rules.IMPORTS``; ``network``, ``x``, ``y`` ... are the user's."""
    evidence: str = ""
    """The figures and epochs of the run for which it is recommended."""


@dataclass(frozen=True)
class Advice:
    """The result of ``advise``.

    Examples
    --------
    >>> from cregkit.advice import advise
    >>> advice = advise(train_acc=98, test_acc=84)
    >>> advice.regime, advice.gap
    ('gap over 10', 14.0)
    >>> [remedy.name for remedy in advice.remedies]
    ['dropout', 'weight decay', 'augmentation', 'early stopping']
    """

    regime: str
    """One of "underfit", "good", "gap under 5", "gap 5-10", "gap over 10", "test above train"; without both accuracies
    "loss turned up", "loss still falling", "loss gap", "loss level"; "diverged"."""
    summary: str
    """The regime in one or two sentences."""
    train_acc: float | None
    """Training accuracy in percent; None if the log has none."""
    test_acc: float | None
    """Test accuracy in percent; None if the log has none."""
    gap: float | None
    """Training minus test accuracy, in percentage points."""
    remedies: tuple[Remedy, ...]
    """Remedies, the strongest first."""
    warnings: tuple[str, ...]
    """Doubts about the figures or the settings."""
    evidence: str = ""
    """The figures and epochs that set the regime."""
    test_interval: tuple[float, float] | None = None
    """95 % confidence interval of the test accuracy, in percent; None without ``test_samples``."""
    gap_interval: tuple[float, float] | None = None
    """Training accuracy minus that interval, in percentage points."""
    decided: bool | None = None
    """Whether the interval of the test accuracy excludes the training accuracy; False: the gap is undecided."""
    history: HistoryFigures | None = None
    """Metrics derived from the history, if one was given."""
    name: str = ""
    """Name of the run, of several."""
    runs: tuple[Advice, ...] = ()
    """The advice for each run by itself, if the history has several; the rest is that for all of them together."""
    spread: Mapping[str, float] = field(default_factory=dict)
    """Standard deviation of "train_acc", "test_acc", "gap" and "best_test_loss" over several runs."""
    curves: Curves | None = field(default=None, repr=False)
    """The curves of the history, of several runs their mean."""

    def to_dict(self) -> dict[str, Any]:
        """Return the advice as plain dicts, lists, strings and numbers, ready for JSON."""
        content: dict[str, Any] = _plain(asdict(self))
        return content


def _plain(value: Any) -> Any:
    """Return ``value`` with lists for tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
