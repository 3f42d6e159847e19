"""Names of columns: which figure on which set a name such as ``val_acc``, ``loss/train`` or ``evalLoss`` means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

TRAIN, TEST = "train", "test"


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SIDES = {
    TRAIN: "train training trained trn tr learn fit",
    TEST: "val valid validation validate vld va dev eval evaluation evaluate holdout oof "
    "test testing tst te",  # codespell:ignore te
}
SIDE_OF = {word: side for side, words in _SIDES.items() for word in words.split()}
"""The set that a word names."""
_OF_TEST = ("test", "testing", "tst", "te")  # codespell:ignore te

# Figures that are minimised, then those that are maximised, in the order in which they are preferred.
_KINDS = {
    "loss": "loss losses cost",
    "cross entropy": "logloss mlogloss nll ce bce xent crossentropy deviance perplexity ppl",
    "squared error": "mse rmse msle rmsle l2",
    "absolute error": "mae l1 mape huber quantile",  # codespell:ignore mape
    "R2": "r2 r2score",
    "accuracy": "acc accuracy accuracies accs top1 acc1 prec1",
    "error rate": "error err errors merror errs",
    "F1": "f1 fscore f1score fmeasure",
    "AUC": "auc auroc rocauc",
    "overlap": "dice iou jaccard",
}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words.split()}
_ACCURACIES = ("accuracy", "error rate", "F1", "AUC", "overlap")

_PHRASES = {
    "rmse": r"root mean squared? (log(arithmic)? )?error",
    "mape": r"mean absolute percentage error",  # codespell:ignore mape
    "mse": r"(mean )?squared (log(arithmic)? )?error",
    "mae": r"(mean )?abs(olute)? error",
    "nll": r"(negative )?log likelihood",
    "ce": r"(categorical |binary |sparse )*cross entropy",
    "logloss": r"(binary |multi )?log ?loss",
    "error": r"(binary|multi|misclassification|classification) error|error rate|misclassification( rate)?",
    "r2": r"r 2( score)?|r squared|r2 score",
    "f1": r"f 1|f score|f measure",
    "holdout": r"hold out|held out",
    "auc": r"roc auc|au roc",
}
"""Phrases, and the word that stands for each."""
_PHRASE = re.compile("|".join(rf"\b(?P<{short}>{phrase})\b" for short, phrase in _PHRASES.items()))
_TOP = re.compile(r"(?:top|(?:acc|accuracy|prec|precision|err|error)[\s_-]*@)[\s_@-]*(\d+)")

# Words of columns that are no figure of an epoch: settings, times, and statistics of a figure.
_OTHER = _set(
    "lr rate learning time times second seconds sec runtime duration grad gradient norm best min max std stdv stddev "
    "var patience scale scaler weight weights gap diff difference delta samples memory eta count num size target "
    "threshold improvement lower upper wall date momentum precision recall"
)
_FILLERS = _set(
    "avg average mean total overall running epoch step global metric metrics score scores history log logs value final "
    "current cur multi binary categorical sparse softmax classification micro macro weighted the of on set data model "
    "results result per s pct percent percentage sample"
)
EPOCHS = frozenset(["epoch", "epochs", "ep"])
STEPS = _set("step steps iter iters iteration iterations round rounds batch it update updates")
_INDEX_FILLERS = _set("num number n no nr current cur global trainer idx index train training boosting")
_RUNS = _set("fold folds kfold run runs seed trial repeat repetition replicate experiment exp")
_RUN_FILLERS = _set("id name number num no idx index cv k n random state")
SIDE_COLUMNS = _set("phase mode split stage subset dataset partition set data part side")
METRIC_COLUMNS = _set("metric metrics name tag key variable measure")


@dataclass(frozen=True)
class Meaning:
    """What the name of a column says."""

    figure: str
    """``loss`` or ``acc``."""
    kind: str
    """Kind of the figure, such as "accuracy", "error rate" or "squared error"."""
    side: str
    """``train``, ``test``, or "" if the name does not tell."""
    of_test: bool
    """Whether the name says test rather than validation: in many logs it is measured at the end only."""
    extra: tuple[str, ...]
    """Other words of the name, such as that of an output."""
    of_step: bool
    """Whether the figure is that of a step, where one of the epoch may exist."""
    percent: bool
    """Whether the name says that the figure is in percent."""

    @property
    def rank(self) -> tuple[int, int, bool, bool]:
        """Order of preference among columns of the same figure and side; the lowest is preferred."""
        return list(_KINDS).index(self.kind), len(self.extra), self.of_test, self.of_step

    def comparable(self, other: Meaning) -> bool:
        """Return whether the difference of two figures of these kinds means something."""
        same = ({"loss", "cross entropy"}, {"accuracy", "error rate"})
        return self.kind == other.kind or any({self.kind, other.kind} <= kinds for kinds in same)


def canonical(name: str) -> str:
    """Return ``name`` in canonical spelling: ``Train/Acc``, ``trainAcc`` and ``train-acc`` become ``train_acc``."""
    return "_".join(words(name))


@lru_cache(4096)
def words(name: str) -> tuple[str, ...]:
    """Return the words of a name in lower case, phrases such as "mean squared error" as one word."""
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name[:500])
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1 \2", name).lower()
    name = _TOP.sub(lambda match: f"{'error ' if match[0].startswith('err') else ' '}top{match[1]} ", name)
    found: list[str] = []
    for word in re.findall(r"[^\W\d_]+\d*|\d+", name):
        found += _split(word)
    return tuple(_PHRASE.sub(lambda match: str(match.lastgroup), " ".join(found)).split())


def _split(word: str) -> tuple[str, ...]:
    """Return the two words of ``valloss`` or ``accval``; any other word as it is."""
    if word in SIDE_OF or word in _KIND_OF or word in _OTHER:
        return (word,)
    for i in range(2, len(word) - 1):
        first, second = word[:i], word[i:]
        if (first in SIDE_OF and second in _KIND_OF) or (first in _KIND_OF and second in SIDE_OF):
            return first, second
    return (word,)


@lru_cache(4096)
def meaning(name: str) -> Meaning | None:
    """Return what the name of a column means; None if it is no figure.

    Parameters
    ----------
    name
        The name of a column.

    Returns
    -------
    Meaning or None
        The figure and its set.

    Examples
    --------
    >>> from cregkit.advice.names import meaning
    >>> found = meaning("metrics/valTop1")
    >>> found.figure, found.kind, found.side
    ('acc', 'accuracy', 'test')
    >>> meaning("learning_rate") is None
    True
    """
    parts = words(name)
    kinds = sorted((_KIND_OF[word] for word in parts if word in _KIND_OF), key=list(_KINDS).index)
    if not kinds or not _OTHER.isdisjoint(parts):
        return None
    kind = kinds[0]
    if kind == "loss" and len(kinds) > 1:  # val_loss_mse is a squared error; acc_loss and loss_dice are losses
        kind = kinds[1] if kinds[1] not in _ACCURACIES else kind
    if kind == "accuracy" and "error rate" in kinds:  # top1_err
        kind = "error rate"
    sides = [word for word in parts if word in SIDE_OF]
    known = {*_FILLERS, *STEPS, *SIDE_OF, *_KIND_OF}
    return Meaning(
        figure="acc" if kind in _ACCURACIES else "loss",
        kind=kind,
        side=SIDE_OF[sides[-1]] if sides else "",
        of_test=bool(sides) and sides[-1] in _OF_TEST,
        extra=tuple(word for word in parts if word not in known),
        of_step=not STEPS.isdisjoint(parts),
        percent="%" in name or not {"pct", "percent", "percentage"}.isdisjoint(parts),
    )


def side(text: str) -> str:
    """Return the set that ``text`` names, such as "validation" or "phase: train"; "" if none."""
    found = [SIDE_OF[word] for word in words(text) if word in SIDE_OF]
    return found[-1] if found else ""


def is_index(name: str, heads: frozenset[str]) -> bool:
    """Return whether a column with this name counts ``heads``: epochs or steps."""
    parts = words(name)
    return not heads.isdisjoint(parts) and heads.union(_INDEX_FILLERS).issuperset(parts)


def is_run(name: str) -> bool:
    """Return whether a column with this name tells runs apart, such as ``fold`` or ``seed``."""
    parts = words(name)
    return not _RUNS.isdisjoint(parts) and _RUNS.union(_RUN_FILLERS).issuperset(parts)


def without_figures(name: str) -> str:
    """Return the words of ``name`` besides those of a figure and its set: what is left names the run."""
    known = {*SIDE_OF, *_KIND_OF, *_FILLERS, *EPOCHS, *STEPS, *METRIC_COLUMNS, "tag"}
    return " ".join(word for word in words(name) if word not in known - {"run"})
