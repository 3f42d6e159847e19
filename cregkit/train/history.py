"""The record of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class History:
    """One entry per epoch in each list: mean losses, accuracies in percent, and the gap between the accuracies.

    ``gap`` is train minus test accuracy in percentage points: what the network knows of its training set alone. What
    was not measured is NaN. ``seconds`` is the time each epoch took, its measurements included; it does not count when
    histories are compared. ``interrupted`` says that Ctrl-C ended the run before its last epoch.
    """

    train_loss: list[float] = field(default_factory=list)
    train_acc: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_acc: list[float] = field(default_factory=list)
    gap: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list, compare=False)
    interrupted: bool = False

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
