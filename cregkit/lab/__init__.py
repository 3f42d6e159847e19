"""The training lab: data sets, the demonstration, and the experiments of ``cregkit lab``."""
