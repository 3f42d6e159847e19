"""Advice on regularisation: the regime of a training run, and the remedies and rates that suit it."""

from cregkit.advice.advisor import advise, prompt
from cregkit.advice.curves import Curves
from cregkit.advice.figures import HistoryFigures
from cregkit.advice.result import Advice, Remedy

__all__ = ["Advice", "Curves", "HistoryFigures", "Remedy", "advise", "prompt"]
