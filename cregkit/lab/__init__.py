"""The experiments: data sets and the demonstration."""
