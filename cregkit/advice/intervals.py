"""Confidence intervals of accuracies, which a finite test set estimates."""

from __future__ import annotations

import math

Z = 1.959963984540054
"""Quantile of the normal distribution for intervals of 95 %."""


def wilson(accuracy: float, samples: int) -> tuple[float, float]:
    """Return the Wilson score interval (95 %) of an accuracy that was measured on ``samples`` samples.

    With p = accuracy / 100 and z = 1.96, these are the two solutions q of abs(p - q) = z sqrt(q (1 - q) / samples).

    Parameters
    ----------
    accuracy
        Accuracy in percent.
    samples
        Number of samples, at least 1.

    Returns
    -------
    low, high : float
        The limits in percent, within [0, 100].

    References
    ----------
    E. B. Wilson (1927), "Probable inference, the law of succession, and statistical inference", Journal of the American
    Statistical Association 22, 209-212.

    Examples
    --------
    >>> from cregkit.advice.intervals import wilson
    >>> low, high = wilson(90, 100)
    >>> round(low, 1), round(high, 1)
    (82.6, 94.5)
    """
    p, share = accuracy / 100, Z**2 / samples
    centre = (p + share / 2) / (1 + share)
    half = math.sqrt(p * (1 - p) * share + share**2 / 4) / (1 + share)
    low = 0.0 if accuracy == 0 else 100 * max(0.0, centre - half)
    high = 100.0 if accuracy == 100 else 100 * min(1.0, centre + half)
    return low, high


def samples_to_decide(train: float, test: float) -> int | None:
    """Return from how many test samples on the Wilson interval of ``test`` excludes ``train``; None if they are equal.

    Parameters
    ----------
    train
        Training accuracy in percent.
    test
        Test accuracy in percent.

    Returns
    -------
    int or None
        The number of samples.

    Examples
    --------
    >>> from cregkit.advice.intervals import samples_to_decide, wilson
    >>> samples_to_decide(95, 90)
    73
    >>> wilson(90, 72)[1] > 95 > wilson(90, 73)[1]
    True
    """
    if train == test:
        return None
    p = train / 100
    return max(1, math.floor(p * (1 - p) * (Z / (p - test / 100)) ** 2) + 1)
