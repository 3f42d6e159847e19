"""Averages of weights over training, and the running statistics of batch norm that belong to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.layers import BatchNorm, Layer
from cregkit.layers.base import matching
from cregkit.train.callbacks import Callback, FitState
from cregkit.train.data import Batches, Inputs, Rows, check_inputs, is_rows, taken
from cregkit.train.divergence import first_not_finite
from cregkit.train.fit import batches

_AVERAGE = "average."


def update_batch_norm(network: Layer, x: Inputs | Rows | Iterable[Any], *, batch_size: int = 256) -> None:
    """Compute the running statistics of every ``BatchNorm`` anew, as the means over the batches of ``x``.

    Mean and variance of a batch count by its number of samples. Averaged weights need this, because their activations
    differ from those of the weights that were trained. Only ``BatchNorm`` is in training mode meanwhile: nothing is
    dropped, so that the statistics are those of the network in use. Virtual batches are not formed.

    Parameters
    ----------
    network
        Any layer; it is left in evaluation mode. Without a ``BatchNorm``, nothing is computed.
    x : shape (N, ...)
        Samples, as for ``predict``, on which the network was trained; or an iterable of batches, as for ``fit``.
    batch_size
        Samples per batch of an ``x`` that is no iterable of batches, at least 1. A last batch of one sample is merged
        into the batch before it.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has the wrong value, or ``x`` does not match the network. No statistic is changed then.

    References
    ----------
    Izmailov, Podoprikhin, Garipov, Vetrov and Wilson (2018), "Averaging Weights Leads to Wider Optima and Better
    Generalization", arXiv:1803.05407.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import BatchNorm
    >>> from cregkit.train import update_batch_norm
    >>> norm = BatchNorm(1)
    >>> update_batch_norm(norm, np.array([[1], [3], [4], [8]], np.float32), batch_size=2)
    >>> norm.running_mean, norm.running_var
    (array([4.], dtype=float32), array([2.5], dtype=float32))
    """
    if not isinstance(network, Layer):
        raise TypeError(f"network must be a Layer, got {validate.shown(network)}")
    validate.positive_int("batch_size", batch_size)
    parts = _parts(x, batch_size)
    network.eval()
    norms = [layer for _, layer in network._walk() if isinstance(layer, BatchNorm)]
    settings = [(norm.momentum, norm.virtual_batch_size) for norm in norms]
    before = network.state_dict()
    try:
        samples = 0
        for part in parts if norms else ():
            samples += len(part)
            for norm in norms:
                norm.training, norm.virtual_batch_size, norm.momentum = True, None, len(part) / samples
            network(part)
    except BaseException:
        network.load_state_dict(before)
        raise
    finally:
        for norm, (momentum, virtual_batch_size) in zip(norms, settings, strict=True):
            norm.training, norm.momentum, norm.virtual_batch_size = False, momentum, virtual_batch_size


def _parts(x: Inputs | Rows | Iterable[Any], batch_size: int) -> Iterator[Inputs]:
    """Return the samples by batches, after validating them."""
    if isinstance(x, Iterable) and not isinstance(x, np.ndarray) and not is_rows(x):
        return (batch.x for batch in Batches("x", x))
    check_inputs("x", x)
    if not len(x.shape) or not len(x):
        raise ValueError(f"x must hold at least one sample, got shape {x.shape}")
    return (taken(x, rows) for rows in batches(len(x), batch_size, join_single=True))


class WeightAveraging(Callback):
    """Give the network the average of its weights when the fit ends: stochastic weight averaging (SWA), or the EMA.

    With ``start_epoch``, the average is the equal mean of the weights at the end of each epoch from that one on, in
    float64, rounded once. A large, constant learning rate in these epochs lets the weights explore. Without it, the
    average is the optimiser's exponential moving average (``ema_momentum``). At the end of the fit, also one that was
    stopped or interrupted, the network gets the average, and ``update_batch_norm`` computes its running statistics over
    the training set. Epochs that diverged do not count; if the running statistics of the average are not finite, or if
    there is no average yet, the network keeps its trained weights.

    The metrics in ``History`` are those of the trained weights: evaluate the network after the fit. Of several
    callbacks that change the network at the end, such as ``EarlyStopping``, the last one prevails.

    Parameters
    ----------
    start_epoch
        First epoch whose weights count, from 0 as in the lists of ``History``; None: the optimiser's average.

    Raises
    ------
    TypeError
        ``start_epoch`` is not an int.
    ValueError
        ``start_epoch`` is negative; when the fit starts, also if it is None and the optimiser has no average.

    References
    ----------
    Izmailov, Podoprikhin, Garipov, Vetrov and Wilson (2018), "Averaging Weights Leads to Wider Optima and Better
    Generalization", arXiv:1803.05407.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.train import SGD, WeightAveraging, fit, mean_squared_error
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> network = Linear(1, 1, seed=0)
    >>> averaging = WeightAveraging(start_epoch=5)
    >>> history = fit(
    ...     network, mean_squared_error, SGD(network, lr=0.4), (x, 3 * x), None, 20, seed=0, callbacks=[averaging]
    ... )
    >>> averaging.averaged_epochs
    15
    >>> network.weight.round(2)
    array([[2.99]], dtype=float32)
    """

    def __init__(self, start_epoch: int | None = None) -> None:
        """Validate the setting; there is no average yet."""
        self.start_epoch = None if start_epoch is None else validate.integer("start_epoch", start_epoch, 0)
        self._reset({})

    def _reset(self, averages: dict[str, NDArray[np.float64]]) -> None:
        self._averaged_epochs = 0
        self._averages = averages

    @property
    def averaged_epochs(self) -> int:
        """Number of epochs in the equal average."""
        return self._averaged_epochs

    @property
    def settings(self) -> Mapping[str, Any]:
        """The setting."""
        return {"start_epoch": self.start_epoch}

    def on_train_begin(self, state: FitState) -> None:
        """Reset the state of an earlier fit."""
        if self.start_epoch is None:
            if state.optimizer.ema_momentum is None:
                raise ValueError(
                    "start_epoch must be an int, or the optimizer must have an ema_momentum, got None for both"
                )
            self._reset({})
        else:
            self._reset({p.name: np.zeros(p.value.shape, np.float64) for p in state.network.parameters()})

    def on_epoch_end(self, state: FitState) -> None:
        """Add the weights of this epoch to the average."""
        if self.start_epoch is None or state.epoch < self.start_epoch or state.history.diverged is not None:
            return
        self._averaged_epochs += 1
        for name, value, *_ in state.network.parameters():
            average = self._averages[name]
            average += (value - average) / self._averaged_epochs

    def on_train_end(self, state: FitState) -> None:
        """Give the network the average, and recompute the running statistics."""
        if self.start_epoch is None:
            self._apply(state, state.optimizer.network, state.optimizer.averages if state.optimizer.steps else {})
        elif self._averaged_epochs:
            self._apply(state, state.network, {name: a.astype(np.float32) for name, a in self._averages.items()})

    def _apply(self, state: FitState, part: Layer, averages: Mapping[str, NDArray[np.float32]]) -> None:
        """Load averages of the parameters of ``part``; keep the state of the network if the result is not finite."""
        before = state.network.state_dict()
        part.load_state_dict({**part._state(), **averages})
        update_batch_norm(state.network, state.train[0] if isinstance(state.train, tuple) else state.train)
        if first_not_finite(state.network._state()):
            state.network.load_state_dict(before)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return the average and the number of its epochs."""
        return {name: array.copy() for name, array in self._state().items()}

    def _state(self) -> dict[str, NDArray[Any]]:
        averages = {_AVERAGE + name: average for name, average in self._averages.items()}
        return {"averaged_epochs": np.array(self._averaged_epochs, dtype=np.int64), **averages}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Load a state from ``state_dict`` of a fit of the same network, all or nothing.

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
        arrays = matching(self._state(), state)
        epochs = int(arrays.pop("averaged_epochs"))
        if epochs < 0 or (name := first_not_finite(arrays)):
            what = f"averaged_epochs must be at least 0, got {epochs}" if epochs < 0 else f"{name} must be finite"
            raise ValueError(f"state does not fit, nothing was loaded: {what}")
        self._averaged_epochs = epochs
        self._averages = {name.removeprefix(_AVERAGE): array for name, array in arrays.items()}
