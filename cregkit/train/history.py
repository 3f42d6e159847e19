"""The metrics of a training run, per epoch."""

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
    """Where training diverged.

    Attributes
    ----------
    epoch
        Epoch, from 0.
    step
        Step of that epoch, from 0.
    what
        The quantity that was not finite.

    Examples
    --------
    >>> from cregkit.train import Divergence
    >>> print(Divergence(3, 17, "the loss is nan"))
    epoch 3, step 17 (both from 0): the loss is nan
    """

    epoch: int
    step: int
    what: str

    def __str__(self) -> str:
        """Summarise in one line."""
        return f"epoch {self.epoch}, step {self.step} (both from 0): {self.what}"


@dataclass
class History:
    """Metrics of a training run: each list has one entry per epoch, NaN where there was no measurement.

    Attributes
    ----------
    train_loss, test_loss
        Mean losses.
    train_acc, test_acc
        Accuracies in percent.
    gap
        Generalisation gap: training minus test accuracy, in percentage points.
    seconds
        Duration of each epoch with its evaluation. Ignored when histories are compared.
    metrics
        Further metrics: the lists ``train_NAME`` and ``test_NAME`` of each metric of ``fit``, by name.
    interrupted
        Whether Ctrl-C ended the run before its last epoch.
    diverged
        Where training diverged, or None. The metrics of that epoch, the last, are NaN.

    Examples
    --------
    >>> from cregkit.train import History
    >>> history = History()
    >>> history.record(train=(0.30, 92.0), test=(0.45, 85.0))
    >>> history.gap
    [7.0]
    >>> len(history)
    1
    """

    train_loss: list[float] = field(default_factory=list)
    train_acc: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_acc: list[float] = field(default_factory=list)
    gap: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list, compare=False)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    interrupted: bool = False
    diverged: Divergence | None = None

    def __len__(self) -> int:
        """Return the number of epochs recorded."""
        return len(self.gap)

    def record(
        self,
        train: tuple[float, float],
        test: tuple[float, float],
        seconds: float = math.nan,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Append an epoch.

        Parameters
        ----------
        train, test
            (loss, accuracy in percent) on the training set and on the test set.
        seconds
            Duration of the epoch.
        metrics
            Further metrics by name, such as ``train_f1``; the same names in every epoch.
        """
        self.train_loss.append(train[0])
        self.train_acc.append(train[1])
        self.test_loss.append(test[0])
        self.test_acc.append(test[1])
        self.seconds.append(seconds)
        self.gap.append(train[1] - test[1])
        for name, value in (metrics or {}).items():
            self.metrics.setdefault(name, []).append(value)

    def _columns(self) -> dict[str, list[float]]:
        own = {name: column for name, column in vars(self).items() if isinstance(column, list)}
        return {**own, **self.metrics}

    def to_json(self, path: Path) -> None:
        """Write the history as a JSON object with one list per metric; NaN and infinities become null.

        Parameters
        ----------
        path
            The file.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        diverged = self.diverged and self.diverged._asdict()
        files.write_json(path, {**self._columns(), "interrupted": self.interrupted, "diverged": diverged})

    def to_csv(self, path: Path) -> None:
        """Write the history as CSV with one row per epoch, from 0; NaN and infinities become empty cells.

        Parameters
        ----------
        path
            The file.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        columns = self._columns()
        rows = zip_longest(*columns.values(), fillvalue=math.nan)
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *columns])
            writer.writerows([epoch, *(x if math.isfinite(x) else "" for x in row)] for epoch, row in enumerate(rows))

    @classmethod
    def from_json(cls, path: Path) -> History:
        """Read a history that ``to_json`` wrote; null becomes NaN.

        Parameters
        ----------
        path
            The file.

        Returns
        -------
        History
            The history.

        Raises
        ------
        OSError
            The file cannot be read.
        ValueError
            The file is not such a history.
        """
        with open(path, encoding="utf-8") as file:
            try:
                content = json.load(file)
            except ValueError as error:
                raise ValueError(f"{os.fspath(path)} is not JSON: {error}") from None
        return cls._from_columns(path, content if isinstance(content, dict) else {})

    @classmethod
    def from_csv(cls, path: Path) -> History:
        """Read a history that ``to_csv`` wrote; an empty cell becomes NaN.

        Parameters
        ----------
        path
            The file.

        Returns
        -------
        History
            The history.

        Raises
        ------
        OSError
            The file cannot be read.
        ValueError
            The file is not such a history.
        """
        with open(path, encoding="utf-8", newline="") as file:
            try:
                header, *rows = list(csv.reader(file)) or [[]]
            except (ValueError, csv.Error) as error:
                raise ValueError(f"{os.fspath(path)} is not CSV: {error}") from None
        if wrong := {len(row) for row in rows} - {len(header)}:
            raise ValueError(
                f"{os.fspath(path)}: each row must have as many cells as the header, {len(header)}, got {min(wrong)}"
            )
        return cls._from_columns(path, {name: [row[i] for row in rows] for i, name in enumerate(header)})

    @classmethod
    def _from_columns(cls, path: Path, columns: Mapping[str, Any]) -> History:
        history = cls()
        history.metrics = {name: [] for name, column in columns.items() if _is_metric(name, column)}
        own = history._columns()
        if missing := ", ".join(name for name in own if name not in columns):
            raise ValueError(f"{os.fspath(path)} is not a cregkit history: missing {missing}")
        try:
            for name, column in own.items():
                column.extend(math.nan if x is None or x == "" else float(x) for x in columns[name])
            if diverged := columns.get("diverged"):
                history.diverged = Divergence(int(diverged["epoch"]), int(diverged["step"]), str(diverged["what"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} is not a cregkit history: {error}") from None
        history.interrupted = bool(columns.get("interrupted", False))
        return history


def _is_metric(name: str, column: object) -> bool:
    """Return whether a column of a file is a list of ``History.metrics``."""
    return name.startswith(("train_", "test_")) and isinstance(column, list) and name not in History().__dict__
