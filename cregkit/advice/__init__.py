"""Advice on regularisation: the regime of a training run, and the remedies and rates that suit it."""

from cregkit.advice.advisor import Advice, Remedy, advise, prompt
from cregkit.advice.figures import HistoryFigures

__all__ = ["Advice", "HistoryFigures", "Remedy", "advise", "prompt"]
