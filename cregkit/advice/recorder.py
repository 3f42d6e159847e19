"""The figures that a callback collects by epoch, and their advice as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cregkit.advice import logs, text
from cregkit.advice.advisor import judged, setting


class Recorder:
    """Collects the figures of each epoch and prints the advice on them.

    Parameters
    ----------
    model, batch_size, optimizer, test_samples
        See ``cregkit.advise``.

    Examples
    --------
    >>> from cregkit.advice.recorder import Recorder
    >>> recorder = Recorder(model="mlp")
    >>> recorder.add({"accuracy": 0.99, "val_accuracy": 0.6})
    >>> next(recorder.lines())
    'gap over 10: train 99.0 %, test 60.0 %, gap 39.0 points'
    """

    def __init__(
        self,
        model: str | None = None,
        batch_size: int | None = None,
        optimizer: str | None = None,
        test_samples: int | None = None,
    ) -> None:
        """Check the settings."""
        self._setting = setting(model, batch_size, optimizer, test_samples)
        self._rows: list[dict[str, float]] = []

    def restart(self) -> None:
        """Forget the epochs of a former training."""
        self._rows.clear()

    def add(self, figures: Mapping[str, Any]) -> None:
        """Add the figures of an epoch; those that it lacks were not measured in it."""
        self._rows.append({name: float(value) for name, value in figures.items()})

    def lines(self) -> Iterator[str]:
        """Yield the lines of the advice, or one line that says why there is none: training must not end with an error.

        Yields
        ------
        str
            A line.
        """
        names = dict.fromkeys(name for row in self._rows for name in row)
        try:
            runs = logs.from_columns({name: [row.get(name) for row in self._rows] for name in names})
        except ValueError as error:
            yield f"no advice: {error}"
        else:
            yield from text.lines(judged(runs, self._setting))

    def report(self) -> None:
        """Print the advice."""
        for line in self.lines():
            print(line)
