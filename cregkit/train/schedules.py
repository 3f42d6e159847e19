"""Learning-rate schedules: callbacks that set the learning rate by the step, or when a metric stops improving."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers.base import matching
from cregkit.train import monitored
from cregkit.train.callbacks import Callback, FitState
from cregkit.train.data import Inputs
from cregkit.train.fit import batches
from cregkit.train.identity import function_name

_BELOW_ONE = float(np.nextafter(1.0, 0.0))


class Schedule(Callback):
    """Set the learning rate before each step: lr = initial lr * function(step), for every parameter group.

    The initial lr of a group is its ``lr`` when the fit starts, so the ratios between groups remain. The step is
    ``optimizer.steps``, from 0: a second fit with the same optimiser continues the schedule. At the end of the fit,
    also after Ctrl-C or a divergence, each group has its initial lr again.

    The function returns a factor, as for ``torch.optim.lr_scheduler.LambdaLR`` with ``scheduler.step()`` after every
    step. A Keras ``LearningRateSchedule`` returns the lr itself: construct the optimiser with ``lr=1.0`` for such a
    function. A run resumes from a checkpoint only with the same function, compared like a ``loss`` (see ``fit``): write
    its settings as arguments of a ``functools.partial``.

    Parameters
    ----------
    function
        ``function(step)`` returns the factor of a step, at least 0.

    Raises
    ------
    TypeError
        ``function`` is not callable; in the fit, also if it does not return a number.
    ValueError
        In the fit: the factor is negative or not finite, or another callback changed the lr.

    See Also
    --------
    cosine_schedule, step_schedule : The usual functions.
    ReduceOnPlateau : Reduces lr when a metric stops improving.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.train import SGD, Schedule, fit, mean_squared_error
    >>> def inverse_time(step: int) -> float:
    ...     return 1 / (1 + step)
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> network = Linear(1, 1, seed=0)
    >>> optimizer = SGD(network, lr=0.4)
    >>> used = []
    >>> history = fit(
    ...     network, mean_squared_error, optimizer, (x, 3 * x), None, 2, seed=0,
    ...     callbacks=[Schedule(inverse_time), lambda state: used.append(state.optimizer.lr)],
    ... )
    >>> used, optimizer.lr
    ([0.2, 0.1], 0.4)
    """

    def __init__(self, function: Callable[[int], float]) -> None:
        """Store ``function``."""
        if not callable(function):
            raise TypeError(f"function must be a function of the step, got {validate.shown(function)}")
        self.function = function
        self._initial: list[float] = []
        self._current: list[float] = []
        self._settings: dict[str, float | None] = {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The function's name and bound arguments."""
        return {"function": function_name(self.function)}

    def on_train_begin(self, state: FitState) -> None:
        """Keep the initial lr of each group."""
        self._initial = self._current = _rates(state)
        self._settings = state.optimizer._rates()

    def on_batch_begin(
        self, state: FitState, rows: NDArray[np.int64], x: Inputs, targets: NDArray[Any]
    ) -> tuple[Inputs, NDArray[Any]]:
        """Set the lr of each group for the next step; return the batch as given."""
        if (came := _rates(state)) != self._current:
            raise ValueError(
                f"lr must be changed by the Schedule alone, got {came} instead of {self._current}: put the change by "
                f"another callback into the Schedule's function, or leave one of them out"
            )
        step = state.optimizer.steps
        factor = validate.real(f"function({step})", self.function(step), 0)
        self._current = [lr * factor for lr in self._initial]
        _set_rates(state, self._current)
        return x, targets

    def on_batch_end(self, state: FitState) -> None:
        """Keep the initial lr as the optimiser's setting of the first step, by which a checkpoint knows its run."""
        if state.optimizer.steps == 1:
            state.optimizer._began_with = self._settings

    def on_train_end(self, state: FitState) -> None:
        """Set each group to its initial lr."""
        _set_rates(state, self._initial)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return the initial and the present lr of each group."""
        return {"initial_lr": np.array(self._initial, np.float64), "lr": np.array(self._current, np.float64)}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Load a state from ``state_dict``, all or nothing.

        Parameters
        ----------
        state
            State returned by ``state_dict``.

        Raises
        ------
        TypeError
            ``state`` is not a mapping.
        ValueError
            An array is missing, unknown or wrong.
        """
        found = matching(self.state_dict(), state)
        for name, rates in found.items():
            validate.within(f"{name} must be finite and at least 0", rates, 0, float(np.finfo(np.float32).max))
        self._initial, self._current = found["initial_lr"].tolist(), found["lr"].tolist()


def _rates(state: FitState) -> list[float]:
    return [group.lr for group in state.optimizer.groups]


def _set_rates(state: FitState, rates: list[float]) -> None:
    for group, lr in zip(state.optimizer.groups, rates, strict=True):
        group.lr = lr


def steps_per_epoch(n: int, batch_size: int, *, join_single: bool = False) -> int:
    """Return the number of steps in an epoch of ``fit``.

    Parameters
    ----------
    n
        Number of training samples.
    batch_size
        Samples per step.
    join_single
        Whether a last batch of one sample is merged into the batch before it, as for a network with BatchNorm.

    Returns
    -------
    int
        The number of batches.

    Examples
    --------
    >>> from cregkit.train import steps_per_epoch
    >>> steps_per_epoch(65, 32), steps_per_epoch(65, 32, join_single=True)
    (3, 2)
    """
    return len(list(batches(n, batch_size, join_single=join_single)))


def cosine_schedule(
    total_steps: int, *, warmup_steps: int = 0, start_factor: float = 0.0, alpha: float = 0.0
) -> Schedule:
    """Return a schedule with a linear warm-up and a cosine decay.

    With w = ``warmup_steps`` and T = ``total_steps``, the factor of step t is

    - t < w: start_factor + (1 - start_factor) * t / w;
    - t >= w: alpha + (1 - alpha) * (1 + cos(pi * min((t - w) / (T - w), 1))) / 2.

    Same values as ``LinearLR`` followed by ``CosineAnnealingLR(T_max=T - w)`` in PyTorch's ``SequentialLR``.

    Parameters
    ----------
    total_steps
        Steps of warm-up and decay together, more than ``warmup_steps``: usually epochs * ``steps_per_epoch``. From then
        on, the factor is ``alpha``.
    warmup_steps
        Steps of the warm-up, at least 0.
    start_factor
        Factor of the warm-up's first step, in [0, 1].
    alpha
        Factor after the decay, in [0, 1].

    Returns
    -------
    Schedule
        The callback; ``schedule.function(step)`` is the factor.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has the wrong value.

    References
    ----------
    Loshchilov and Hutter (2017), "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR, arXiv:1608.03983.
    Goyal et al. (2017), "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", arXiv:1706.02677.

    Examples
    --------
    >>> from cregkit.train import cosine_schedule, steps_per_epoch
    >>> schedule = cosine_schedule(total_steps=20 * steps_per_epoch(64, batch_size=32), warmup_steps=4)
    >>> [round(schedule.function(step), 3) for step in (0, 1, 4, 22, 40)]
    [0.0, 0.25, 1.0, 0.5, 0.0]
    """
    total_steps = validate.positive_int("total_steps", total_steps)
    return Schedule(
        partial(
            _cosine,
            total_steps=total_steps,
            warmup_steps=validate.integer("warmup_steps", warmup_steps, 0, total_steps - 1),
            start_factor=validate.real("start_factor", start_factor, 0, 1),
            alpha=validate.real("alpha", alpha, 0, 1),
        )
    )


def _cosine(step: int, total_steps: int, warmup_steps: int, start_factor: float, alpha: float) -> float:
    if step < warmup_steps:
        return start_factor + (1 - start_factor) * step / warmup_steps
    progress = min((step - warmup_steps) / (total_steps - warmup_steps), 1.0)
    return alpha + (1 - alpha) * (1 + math.cos(math.pi * progress)) / 2


def step_schedule(step_size: int, gamma: float = 0.1) -> Schedule:
    """Return a schedule that multiplies lr by ``gamma`` every ``step_size`` steps.

    The factor of step t is gamma ** floor(t / step_size). Same values as ``torch.optim.lr_scheduler.StepLR``.

    Parameters
    ----------
    step_size
        Steps between two decays, at least 1; for n epochs, n * ``steps_per_epoch``.
    gamma
        Factor of a decay, in [0, 1].

    Returns
    -------
    Schedule
        The callback; ``schedule.function(step)`` is the factor.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has the wrong value.

    Examples
    --------
    >>> from cregkit.train import step_schedule, steps_per_epoch
    >>> schedule = step_schedule(10 * steps_per_epoch(64, batch_size=32), gamma=0.5)
    >>> [schedule.function(step) for step in (0, 19, 20, 40)]
    [1.0, 1.0, 0.5, 0.25]
    """
    return Schedule(
        partial(
            _decay,
            step_size=validate.positive_int("step_size", step_size),
            gamma=validate.real("gamma", gamma, 0, 1),
        )
    )


def _decay(step: int, step_size: int, gamma: float) -> float:
    return gamma ** (step // step_size)


class ReduceOnPlateau(Callback):
    """Reduce the learning rate when the monitored metric has not improved for ``patience`` epochs.

    Every group gets lr = max(lr * factor, min_lr). An improvement is a decrease by more than ``min_delta``, or an
    increase for accuracies; NaN never improves. Same algorithm as ``keras.callbacks.ReduceLROnPlateau``, and as
    ``torch.optim.lr_scheduler.ReduceLROnPlateau`` with ``patience - 1``, ``cooldown - 1`` (at least 0),
    ``threshold=min_delta``, ``threshold_mode="abs"`` and ``eps=0``. Unlike with ``Schedule``, the reduced lr remains
    after the fit; both together in one fit are an error.

    Parameters
    ----------
    factor
        Factor of a reduction, in [0, 1).
    patience
        Epochs without improvement before a reduction, at least 1.
    min_delta
        Smallest change that counts as an improvement, at least 0, in the unit of the metric.
    cooldown
        Number of the first epoch after a reduction that counts towards ``patience`` again, at least 0; 0 and 1 are the
        same.
    min_lr
        Lower bound of the reduced lr, at least 0. A group with a smaller lr keeps it.
    monitor
        Metric of ``History``: ``"test_loss"``, ``"test_acc"``, ``"train_loss"``, ``"train_acc"`` or ``"gap"``.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has the wrong value; when the fit starts, also if ``monitor`` needs a test set and there is none.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.train import SGD, ReduceOnPlateau, fit, mean_squared_error
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> network = Linear(1, 1, seed=0)
    >>> optimizer = SGD(network, lr=0.5)
    >>> reduce = ReduceOnPlateau(factor=0.5, patience=2, min_delta=0.01, monitor="train_loss")
    >>> history = fit(network, mean_squared_error, optimizer, (x, 3 * x), None, 8, seed=0, callbacks=[reduce])
    >>> optimizer.lr
    0.125
    """

    def __init__(
        self,
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        monitor: str = "test_loss",
    ) -> None:
        """Validate the settings."""
        self.factor = validate.real("factor", factor, 0, _BELOW_ONE)
        self.patience = validate.positive_int("patience", patience)
        self.min_delta = validate.real("min_delta", min_delta, 0)
        self.cooldown = validate.integer("cooldown", cooldown, 0)
        self.min_lr = validate.real("min_lr", min_lr, 0)
        self.monitor = monitored.checked(monitor)
        self._reset()

    def _reset(self) -> None:
        self._best = math.nan
        self._wait = 0
        self._cooldown_left = 0

    @property
    def settings(self) -> Mapping[str, Any]:
        """All constructor arguments."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def on_train_begin(self, state: FitState) -> None:
        """Reset the state of an earlier fit."""
        monitored.require_set(self.monitor, state)
        self._reset()

    def on_epoch_end(self, state: FitState) -> None:
        """Compare the metric of this epoch with the best; reduce lr if it has not improved for ``patience`` epochs."""
        if state.history.diverged is not None:
            return
        if self._cooldown_left:
            self._cooldown_left -= 1
        value = monitored.last_value(self.monitor, state)
        if monitored.improves(self.monitor, value, self._best, self.min_delta):
            self._best, self._wait = value, 0
        elif not self._cooldown_left:
            self._wait += 1
            if self._wait >= self.patience:
                self._reduce(state)

    def _reduce(self, state: FitState) -> None:
        for group in state.optimizer.groups:
            if group.lr > self.min_lr:
                group.lr = max(group.lr * self.factor, self.min_lr)
        self._wait, self._cooldown_left = 0, self.cooldown

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return the best metric and the counters."""
        return {
            "best": np.array(self._best, dtype=np.float64),
            "wait": np.array(self._wait, dtype=np.int64),
            "cooldown_left": np.array(self._cooldown_left, dtype=np.int64),
        }

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Load a state from ``state_dict``, all or nothing.

        Parameters
        ----------
        state
            State returned by ``state_dict``.

        Raises
        ------
        TypeError
            ``state`` is not a mapping.
        ValueError
            An array is missing, unknown or wrong.
        """
        found = matching(self.state_dict(), state)
        wait, cooldown_left = int(found["wait"]), int(found["cooldown_left"])
        if not (0 <= wait < self.patience and 0 <= cooldown_left <= self.cooldown):
            raise ValueError(
                f"state does not fit, nothing was loaded: wait must be in [0, {self.patience}) and cooldown_left in "
                f"[0, {self.cooldown}], got {wait} and {cooldown_left}"
            )
        self._best, self._wait, self._cooldown_left = float(found["best"]), wait, cooldown_left
