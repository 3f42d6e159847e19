"""Data sets, the demonstration, and the experiments of ``cregkit lab``."""
