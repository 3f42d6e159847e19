"""The record of a training run."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple

from cregkit import _files as files
from cregkit._files import Path


class Divergence(NamedTuple):
    """Where training stopped being finite: epoch, step of that epoch, both from 0, and what was not finite."""

    epoch: int
    step: int
    what: str

    def __str__(self) -> str:
        """Say it in a line."""
        return f"epoch {self.epoch}, step {self.step} (both from 0): {self.what}"


@dataclass
class History:
    """One entry per epoch in each list: mean losses, accuracies in percent, and the gap between the accuracies.

    ``gap`` is train minus test accuracy in percentage points: what the network knows of its training set alone. What
    was not measured is NaN. ``seconds`` is the time each epoch took, its measurements included; it does not count when
    histories are compared. ``interrupted`` says that Ctrl-C ended the run before its last epoch. ``diverged`` says
    where training stopped being finite, None if it did not; the figures of that epoch, the last, are NaN.
    """

    train_loss: list[float] = field(default_factory=list)
    train_acc: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_acc: list[float] = field(default_factory=list)
    gap: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list, compare=False)
    interrupted: bool = False
    diverged: Divergence | None = None

    def __len__(self) -> int:
        """Return the number of epochs recorded."""
        return len(self.gap)

    def record(self, train: tuple[float, float], test: tuple[float, float], seconds: float = math.nan) -> None:
        """Append an epoch, given as (loss, accuracy in percent) on the training and on the test set."""
        self.train_loss.append(train[0])
        self.train_acc.append(train[1])
        self.test_loss.append(test[0])
        self.test_acc.append(test[1])
        self.seconds.append(seconds)
        self.gap.append(train[1] - test[1])

    def _columns(self) -> dict[str, list[float]]:
        return {name: column for name, column in vars(self).items() if isinstance(column, list)}

    def to_json(self, path: Path) -> None:
        """Write the history to ``path`` as a JSON object with a list per figure; NaN and infinities become null.

        Raises:
            OSError: the file cannot be written.
        """
        diverged = self.diverged and self.diverged._asdict()
        files.write_json(path, {**self._columns(), "interrupted": self.interrupted, "diverged": diverged})

    def to_csv(self, path: Path) -> None:
        """Write the history to ``path`` as CSV: a row per epoch, from 0; NaN and infinities become empty cells.

        Raises:
            OSError: the file cannot be written.
        """
        columns = self._columns()
        rows = zip_longest(*columns.values(), fillvalue=math.nan)
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *columns])
            writer.writerows([epoch, *(x if math.isfinite(x) else "" for x in row)] for epoch, row in enumerate(rows))

    @classmethod
    def from_json(cls, path: Path) -> History:
        """Return the history that ``to_json`` wrote to ``path``; null becomes NaN.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is no such history.
        """
        with open(path, encoding="utf-8") as file:
            try:
                content = json.load(file)
            except ValueError as error:
                raise ValueError(f"{os.fspath(path)} is not JSON: {error}") from None
        return cls._from_columns(path, content if isinstance(content, dict) else {})

    @classmethod
    def from_csv(cls, path: Path) -> History:
        """Return the history that ``to_csv`` wrote to ``path``; an empty cell becomes NaN.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is no such history.
        """
        with open(path, encoding="utf-8", newline="") as file:
            try:
                header, *rows = list(csv.reader(file)) or [[]]
            except (ValueError, csv.Error) as error:
                raise ValueError(f"{os.fspath(path)} is not CSV: {error}") from None
        if any(len(row) != len(header) for row in rows):
            raise ValueError(f"{os.fspath(path)}: a row has not as many cells as the header, {len(header)}")
        return cls._from_columns(path, {name: [row[i] for row in rows] for i, name in enumerate(header)})

    @classmethod
    def _from_columns(cls, path: Path, columns: Mapping[str, Any]) -> History:
        history = cls()
        own = history._columns()
        if missing := ", ".join(name for name in own if name not in columns):
            raise ValueError(f"{os.fspath(path)} is no history of cregkit: it has no {missing}")
        try:
            for name, column in own.items():
                column.extend(math.nan if x is None or x == "" else float(x) for x in columns[name])
            if diverged := columns.get("diverged"):
                history.diverged = Divergence(int(diverged["epoch"]), int(diverged["step"]), str(diverged["what"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} is no history of cregkit: {error}") from None
        history.interrupted = bool(columns.get("interrupted", False))
        return history
