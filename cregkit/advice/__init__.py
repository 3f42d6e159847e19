"""Advice on regularisation: which regime a training run is in, and which remedies at which rates fit it."""

from cregkit.advice.advisor import Advice, Remedy, advise, prompt
from cregkit.advice.figures import HistoryFigures

__all__ = ["Advice", "HistoryFigures", "Remedy", "advise", "prompt"]
