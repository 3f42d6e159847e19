"""The fit loop: shuffled mini-batches, figures of every epoch, callbacks, checkpoints, and a clean stop on Ctrl-C."""

from __future__ import annotations

import errno
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _files as files
from cregkit import _progress
from cregkit import _validate as validate
from cregkit._files import Path
from cregkit.layers import BatchNorm, Layer, Seed, draw_seed
from cregkit.train.callbacks import AnyCallback, Callback, EpochEnd, FitState
from cregkit.train.checkpoint import Checkpoint
from cregkit.train.divergence import DivergenceError, DivergenceWarning, first_not_finite
from cregkit.train.evaluation import NUMBERS, ROWS, Accuracy, Data, Inputs, accuracy_of, checked_data, fitted
from cregkit.train.history import Divergence, History
from cregkit.train.identity import function_name
from cregkit.train.losses import Loss
from cregkit.train.optimizers import Optimizer
from cregkit.train.parallel import Parallel

_NOT_MEASURED = (float("nan"), float("nan"))


def fit(
    network: Layer,
    loss: Loss,
    optimizer: Optimizer,
    train: Data,
    test: Data | None,
    epochs: int,
    *,
    batch_size: int = 32,
    seed: Seed = None,
    accuracy: Accuracy | None = None,
    callbacks: Sequence[AnyCallback] = (),
    progress: bool = False,
    checkpoint: Path | None = None,
    resume: bool = False,
    parallel: Parallel | None = None,
) -> History:
    """Train ``network`` and return the figures of every epoch.

    Each epoch goes through ``train`` once in a new order, in training mode, one step of ``optimizer`` per mini-batch.
    Then both sets are measured in evaluation mode, which leaves running statistics and dropout's position alone: the
    training figures are those of the same network as the test figures, without dropout's noise in the gap. The losses
    leave out the penalty of weight decay and include label smoothing if ``loss`` does. The network is left in
    evaluation mode.

    Training that diverges ends: when a batch's loss or a gradient is not finite, before the step of that batch, and
    when after an epoch the loss on ``train`` is not, or a parameter, a running statistic or the optimiser's state.
    There is a DivergenceWarning then, ``diverged`` of the history says in which epoch and step and why, and the last
    entry of the history, that of this epoch, is NaN. Network and optimiser stay as they were before the step that was
    not taken; if their state is not finite or gives no finite loss on ``train``, they go back to what they were at the
    end of the epoch before, or when the fit began. No checkpoint is written of that epoch. ``on_epoch_end`` and
    ``on_train_end`` of the callbacks run as ever, so EarlyStopping still gives the best epoch back. Several processes
    end together. NumPy's own warnings of overflow are not shown.

    Ctrl-C ends the fit after the batch it came in, without an exception: the history has the epochs that were over and
    ``interrupted`` is True. A second Ctrl-C raises KeyboardInterrupt at once.

    Args:
        network: any layer; maps x to the outputs that ``loss`` takes.
        loss: ``loss(outputs, targets)`` returns the mean over the batch and its gradient for the outputs.
        optimizer: made for ``network``, or for a layer in it to train that alone.
        train: (x, targets): x float32, or ids of any integer dtype for a layer that takes such (``Embedding``,
            ``Transformer``, ``BertEncoder``), C-contiguous, its first axis the samples; nothing is cast. Targets as
            ``loss`` takes them, one for each sample. Float targets of shape (n,) go with outputs of shape (n, 1).
        test: the like, or None; it is only looked at.
        epochs: how often to go through ``train``; with ``resume``, the epochs before the checkpoint count.
        batch_size: samples per step. The last batch of an epoch is smaller when the numbers do not divide; if the
            network has a BatchNorm, a last batch of one sample, which has no variance, joins the one before.
        seed: what the order of the samples is drawn from: int in [0, 2**64), SeedSequence, None for fresh entropy, or a
            Generator, which is drawn from directly and so goes on in a next fit.
        accuracy: ``accuracy(outputs, targets)`` in percent. None: the one that belongs to ``loss``, or to what it is a
            ``functools.partial`` of; NaN for ``mean_squared_error`` and for losses that are not of this package.
        callbacks: ``Callback`` objects, or functions of a ``FitState`` to call at the end of each epoch, in this order.
        progress: show a bar with losses, accuracies, gap and the time left, if stderr is a terminal.
        checkpoint: file to write after each epoch (``.npz``, whole or not at all), or None.
        resume: go on from ``checkpoint`` if that file exists; see below.
        parallel: ``cregkit.mpi.DataParallel(network)`` where several processes share each batch. All of them call
            ``fit`` with the same arguments and get the same history; one of them decides, and writes the checkpoint.

    A resumed run has the same bits as one that was never interrupted and had the settings that ``resume`` is called
    with. Where that cannot be, it is refused with the name of what differs. What is written here as "same" is compared:

    =========================  =========================================================================================
    epochs                     more: goes on; as many as it has had: comes back as it ended; fewer: refused
    batch_size                 same
    seed                       same int (or SeedSequence). None, or a Generator, takes over the order of the file
    train, test                same shapes, dtypes and bits
    loss, accuracy             same name, arguments of a ``partial``, and floats and strings that a function encloses;
                               its code is not compared
    network                    same layers with the same public attributes (sizes, ``p``, ``eps``, ...). Its parameters,
                               running statistics and dropout's seeds are those of the file, whatever it was made with
    optimizer                  same class, parameters, and settings before its first step (``lr``, ``betas``, ...)
    callbacks                  same classes in the same order, each with the same ``settings``; functions as losses
    EarlyStopping              same ``monitor`` and ``min_delta``. ``patience`` may be another: a run that it ended goes
                               on with more; less is refused if it would have ended the run earlier
    AugmentBatches             same seed, transforms, mixing and shape
    a callback that set stop   the run is over and comes back as it ended
    number of processes        may be another; SyncBatchNorm counts as BatchNorm
    =========================  =========================================================================================

    Raises:
        TypeError, ValueError: an argument has the wrong type, value or shape, network, loss and targets do not suit
            each other, or the checkpoint is damaged or that of another run; nothing has been trained then.
        FileExistsError: there is a file at ``checkpoint`` and ``resume`` is False.
        OSError: the checkpoint cannot be written or read.

    Warns:
        DivergenceWarning: the training diverged.

    Example:
        >>> import numpy as np
        >>> import cregkit as ck
        >>> from cregkit.train import SGD, fit, mean_squared_error
        >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
        >>> network = ck.Linear(1, 1, seed=0)
        >>> history = fit(network, mean_squared_error, SGD(network, lr=0.1), (x, 3 * x), None, epochs=50, seed=0)
        >>> history.train_loss[-1] < 1e-3
        True
    """
    validate.positive_int("epochs", epochs)
    validate.positive_int("batch_size", batch_size)
    _check_network(network, optimizer)
    measure = accuracy or accuracy_of(loss)
    for name, function in (("loss", loss), ("accuracy", measure)):
        if not callable(function):
            raise TypeError(f"{name} must be a function of outputs and targets, got {validate.shown(function)}")
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks must be a list of Callback objects and functions, got {validate.shown(callbacks)}")
    for name, data in (("train", train), ("test", test)):
        if data is not None:
            _check_data(name, data, network, loss)
    join_single = _check_batch_norm(network, train[0], batch_size)
    together = parallel or Parallel()
    drawn = None if seed is None or isinstance(seed, np.random.Generator) else draw_seed(seed)
    order = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(drawn)
    order.bit_generator.state = together.from_leader(lambda: order.bit_generator.state)
    watchers = [_as_callback(callback) for callback in callbacks]
    state = FitState(network, optimizer, train, test, epochs, History())
    for watcher in watchers:
        watcher.on_train_begin(state)
    file = None
    if checkpoint is not None:
        settings = {
            "batch_size": batch_size,
            "loss": function_name(loss),
            "accuracy": function_name(measure),
            "seed": drawn,
        }
        file = _open(Checkpoint(checkpoint, state, watchers, order, settings), resume, together)
    history = state.history
    kept = _Kept(state, together, lambda: together.evaluate(network, loss, train, measure)[0])

    with (
        _progress_bar(state, progress and together.leads) as show,
        _ctrl_c() as interrupted,
        np.errstate(over="ignore", invalid="ignore"),
    ):
        while len(history) < epochs and not together.any(state.stop or interrupted()):
            start, epoch = time.perf_counter(), len(history)
            shuffled = order.permutation(len(train[0]))
            rows = [shuffled[part] for part in batches(len(shuffled), batch_size, join_single=join_single)]
            if _train_epoch(state, loss, rows, watchers, kept, interrupted):
                figures = together.evaluate(network, loss, train, measure)
                test_figures = _NOT_MEASURED if test is None else together.evaluate(network, loss, test, measure)
                kept.check(epoch, len(rows) - 1, figures[0])
            elif history.diverged is None:
                break
            if history.diverged is not None:
                figures = test_figures = _NOT_MEASURED
            history.record(figures, test_figures, time.perf_counter() - start)
            for watcher in watchers:
                watcher.on_epoch_end(state)
            kept.check(epoch, len(rows) - 1)
            state.stop = together.any(state.stop or history.diverged is not None)
            if file is not None and history.diverged is None:
                together.from_leader(file.save)
            show()
        history.interrupted = together.any(interrupted())
    network.eval()
    for watcher in watchers:
        watcher.on_train_end(state)
    if history.diverged is not None and together.leads:
        warnings.warn(
            f"training diverged in {history.diverged}; network and optimizer keep their last finite state. "
            f"Try a smaller lr than {optimizer.lr:g}, and look for NaN, inf and very large values in the data",
            DivergenceWarning,
            stacklevel=2,
        )
    return history


def _train_epoch(
    state: FitState,
    loss: Loss,
    batches_of_rows: Sequence[NDArray[np.int64]],
    watchers: Sequence[Callback],
    kept: _Kept,
    interrupted: Callable[[], bool],
) -> bool:
    """Take a step on each batch; return whether all were taken, neither interrupted nor diverged."""
    together = kept.together
    state.network.train()
    for step, rows in enumerate(batches_of_rows):
        own = together.own(rows)
        x, targets = (array[own] for array in state.train)
        for watcher in watchers:
            x, targets = watcher.on_batch_begin(state, own, x, targets)
        try:
            state.batch_loss = together.step(state.network, loss, state.optimizer, x, targets)
        except DivergenceError as error:
            kept.diverge(Divergence(state.epoch + 1, step, str(error)))
            return False
        for watcher in watchers:
            watcher.on_batch_end(state)
        if together.any(interrupted()):
            return False
    return True


class _Kept:
    """The state of network and optimiser at the end of the last epoch that was finite, to go back to."""

    def __init__(self, state: FitState, together: Parallel, measured: Callable[[], float]) -> None:
        self.together = together
        self._state, self._measured = state, measured
        self._keep()

    def _keep(self) -> None:
        self._kept = self._state.network.state_dict(), self._state.optimizer.state_dict()

    def _not_finite(self) -> str | None:
        return first_not_finite(self._state.network._state(), dict(self._state.optimizer._state()))

    def check(self, epoch: int, step: int, loss: float = 0.0) -> None:
        """Keep the present state, which gives this loss; if anything in it is not finite, the fit has diverged."""
        if self._state.history.diverged is not None:
            return
        broken = self._not_finite()
        if math.isfinite(loss) and not self.together.any(broken is not None):
            self._keep()
        else:
            self.diverge(Divergence(epoch, step, f"after it {broken or 'the loss on train'} is not finite"))

    def diverge(self, divergence: Divergence) -> None:
        """Note the divergence, and go back unless the present state is finite and gives a finite loss."""
        self._state.history.diverged = divergence
        if self.together.any(self._not_finite() is not None) or not math.isfinite(self._measured()):
            network, optimizer = self._kept
            self._state.network.load_state_dict(network)
            self._state.optimizer.load_state_dict(optimizer)


def batches(n: int, batch_size: int, *, join_single: bool = False) -> Iterator[slice]:
    """Yield the slices of an epoch of ``n`` samples; with ``join_single`` a single last one joins the slice before."""
    last = n - 1 if join_single and n > 1 and n % batch_size == 1 else n
    for start in range(0, last, batch_size):
        stop = start + batch_size
        yield slice(start, n if stop >= last else stop)


def _check_network(network: Layer, optimizer: Optimizer) -> None:
    """Refuse an optimiser that would train something else."""
    if not isinstance(network, Layer):
        raise TypeError(f"network must be a Layer, got {validate.shown(network)}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be an Optimizer such as SGD(network), got {validate.shown(optimizer)}")
    if not any(layer is optimizer.network for _, layer in network._walk()):
        raise ValueError("optimizer was made for another network; make it for this one or for a layer in it")


def _check_data(name: str, data: Data, network: Layer, loss: Loss) -> None:
    """Let the network see one sample and the loss all targets, so that what does not fit is seen before training."""
    x, targets = checked_data(name, data)
    network.eval()
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            row = network(_samples_to_try(x))[:1]
            step = max(min(ROWS, NUMBERS // max(row.size, 1)), 1)
            for start in range(0, len(x), step):
                some = targets[start : start + step]
                outputs = np.repeat(row, len(some), axis=0)
                loss(outputs, fitted(some, outputs))
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} does not suit network and loss: {error}") from None


def _samples_to_try(x: Inputs) -> Inputs:
    """Return the first sample; of ids also the smallest and the largest at each place, to try the whole vocabulary."""
    return x[:1] if x.dtype.kind == "f" else np.stack([x[0], x.min(axis=0), x.max(axis=0)])


def _check_batch_norm(network: Layer, x: Inputs, batch_size: int) -> bool:
    """Return whether the network has a BatchNorm; refuse batches of one sample then, if that is one value a channel."""
    if not any(isinstance(layer, BatchNorm) for _, layer in network._walk()):
        return False
    if x.dtype.kind == "f" and x.ndim == 2 and min(batch_size, len(x)) < 2:
        raise ValueError(
            f"batch_size must be at least 2, and train too, for a network with BatchNorm: one sample has no variance; "
            f"got batch_size={batch_size} and {len(x)} samples"
        )
    return True


def _as_callback(callback: AnyCallback) -> Callback:
    if isinstance(callback, Callback):
        return callback
    if not callable(callback):
        raise TypeError(f"callbacks must hold Callback objects or functions, got {validate.shown(callback)}")
    return EpochEnd(callback)


def _open(checkpoint: Checkpoint, resume: bool, together: Parallel) -> Checkpoint:
    """Return ``checkpoint``, loaded if it is there and that is wanted; find out now if it cannot be written."""

    def read() -> dict[str, NDArray[Any]] | None:
        if checkpoint.exists() and not resume:
            raise FileExistsError(
                errno.EEXIST,
                "a checkpoint is there; go on from it with resume=True, or delete it",
                str(checkpoint.path),
            )
        files.check_writable(checkpoint.path)
        return checkpoint.read() if checkpoint.exists() else None

    arrays = together.from_leader(read)
    if arrays is not None:
        together.in_all(lambda: checkpoint.load(arrays))
    return checkpoint


@contextmanager
def _progress_bar(state: FitState, wanted: bool) -> Iterator[Callable[[], None]]:
    """Show a bar of the epochs to come; call the function it gives after each."""
    history = state.history
    with _progress.progress(state.epochs - len(history), quiet=not wanted) as step:
        yield lambda: step(_figures(history))


def _figures(history: History) -> str:
    """Return the last epoch's figures, those of the test set where there is one."""
    if math.isnan(history.test_loss[-1]):
        return f"loss {history.train_loss[-1]:.4f}  accuracy {history.train_acc[-1]:.1f}"
    return (
        f"loss {history.train_loss[-1]:.4f}/{history.test_loss[-1]:.4f}  "
        f"accuracy {history.train_acc[-1]:.1f}/{history.test_acc[-1]:.1f}  gap {history.gap[-1]:.1f}"
    )


@contextmanager
def _ctrl_c() -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C instead of raising it: no step is left half done; a second one raises as ever.

    Python allows handlers in the main thread alone, and Ctrl-C comes there: in another thread nothing is changed, nor
    where the program has a handler of its own or ignores the signal.
    """
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
