"""The fit loop: shuffled mini-batches, figures of every epoch, callbacks, checkpoints, and a clean stop on Ctrl-C."""

from __future__ import annotations

import errno
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import console
from cregkit.layers import BatchNorm, Layer, Seed, draw_seed, validate
from cregkit.layers.base import Array, Path
from cregkit.train.callbacks import AnyCallback, Callback, EpochEnd, FitState
from cregkit.train.checkpoint import Checkpoint
from cregkit.train.evaluation import ROWS, Accuracy, Data, accuracy_of, checked_data, fitted
from cregkit.train.history import History
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
    evaluation mode. A network that diverges shows as inf and NaN in the history, without NumPy's warnings.

    Ctrl-C ends the fit after the batch it came in, without an exception: the history has the epochs that were over and
    ``interrupted`` is True. A second Ctrl-C raises KeyboardInterrupt at once.

    Args:
        network: maps float32 x to the outputs that ``loss`` takes.
        loss: ``loss(outputs, targets)`` returns the mean over the batch and its gradient for the outputs.
        optimizer: made for ``network``, or for a layer in it to train that alone.
        train: (x, targets): x float32, C-contiguous, its first axis the samples; targets as ``loss`` takes them, one
            for each sample. Float targets of shape (n,) go with outputs of shape (n, 1).
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
        resume: go on from ``checkpoint`` if that file exists. The result has the same bits as that of a run that was
            never interrupted; network, loss, optimizer and callbacks must be made as they were for the run to go on
            with.
        parallel: ``cregkit.mpi.DataParallel(network)`` where several processes share each batch. All of them call
            ``fit`` with the same arguments and get the same history; one of them decides, and writes the checkpoint.

    Raises:
        TypeError, ValueError: an argument has the wrong type, value or shape, network, loss and targets do not suit
            each other, or the checkpoint is damaged or that of another run; nothing has been trained then.
        FileExistsError: there is a file at ``checkpoint`` and ``resume`` is False.
        OSError: the checkpoint cannot be written or read.
    """
    validate.positive_int("epochs", epochs)
    validate.positive_int("batch_size", batch_size)
    _check_network(network, optimizer)
    for name, data in (("train", train), ("test", test)):
        if data is not None:
            _check_data(name, data, network, loss)
    join_single = _check_batch_norm(network, train[0], batch_size)
    together = parallel or Parallel()
    order = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(draw_seed(seed))
    order.bit_generator.state = together.from_leader(lambda: order.bit_generator.state)
    watchers = [_as_callback(callback) for callback in callbacks]
    state = FitState(network, optimizer, train, test, epochs, History())
    for watcher in watchers:
        watcher.on_train_begin(state)
    file = None
    if checkpoint is not None:
        file = _open(Checkpoint(checkpoint, state, loss, watchers, order, batch_size), resume, together)
    history, measure = state.history, accuracy or accuracy_of(loss)

    with (
        _progress_bar(state, progress and together.leads) as show,
        _ctrl_c() as interrupted,
        np.errstate(over="ignore", invalid="ignore"),
    ):
        while len(history) < epochs and not together.any(state.stop or interrupted()):
            start = time.perf_counter()
            network.train()
            shuffled = order.permutation(len(train[0]))
            for rows in batches(len(shuffled), batch_size, join_single=join_single):
                own = together.own(shuffled[rows])
                x, targets = (array[own] for array in train)
                for watcher in watchers:
                    x, targets = watcher.on_batch_begin(state, own, x, targets)
                state.batch_loss = together.step(network, loss, optimizer, x, targets)
                for watcher in watchers:
                    watcher.on_batch_end(state)
                if together.any(interrupted()):
                    break
            else:
                figures = together.evaluate(network, loss, train, measure)
                test_figures = _NOT_MEASURED if test is None else together.evaluate(network, loss, test, measure)
                history.record(figures, test_figures, time.perf_counter() - start)
                for watcher in watchers:
                    watcher.on_epoch_end(state)
                state.stop = together.any(state.stop)
                if file is not None:
                    together.from_leader(file.save)
                show()
        history.interrupted = together.any(interrupted())
    network.eval()
    for watcher in watchers:
        watcher.on_train_end(state)
    return history


def batches(n: int, batch_size: int, *, join_single: bool = False) -> Iterator[slice]:
    """Yield the slices of an epoch of ``n`` samples; with ``join_single`` a single last one joins the slice before."""
    last = n - 1 if join_single and n > 1 and n % batch_size == 1 else n
    for start in range(0, last, batch_size):
        stop = start + batch_size
        yield slice(start, n if stop >= last else stop)


def _check_network(network: Layer, optimizer: Optimizer) -> None:
    """Refuse an optimiser that would train something else."""
    if not isinstance(network, Layer):
        raise TypeError(f"network must be a Layer, got {type(network).__name__}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be an Optimizer such as SGD(network), got {type(optimizer).__name__}")
    if not any(layer is optimizer.network for _, layer in network._walk()):
        raise ValueError("optimizer was made for another network; make it for this one or for a layer in it")


def _check_data(name: str, data: Data, network: Layer, loss: Loss) -> None:
    """Let the network see one sample and the loss all targets, so that what does not fit is seen before training."""
    x, targets = checked_data(name, data)
    row = network.eval()(x[:1])
    try:
        for start in range(0, len(x), ROWS):
            some = targets[start : start + ROWS]
            outputs = np.repeat(row, len(some), axis=0)
            loss(outputs, fitted(some, outputs))
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} does not suit network and loss: {error}") from None


def _check_batch_norm(network: Layer, x: Array, batch_size: int) -> bool:
    """Return whether the network has a BatchNorm; refuse batches of one sample then, if that is one value a channel."""
    if not any(isinstance(layer, BatchNorm) for _, layer in network._walk()):
        return False
    if x.ndim == 2 and min(batch_size, len(x)) < 2:
        raise ValueError(
            f"batch_size must be at least 2, and train too, for a network with BatchNorm: one sample has no variance; "
            f"got batch_size={batch_size} and {len(x)} samples"
        )
    return True


def _as_callback(callback: AnyCallback) -> Callback:
    if isinstance(callback, Callback):
        return callback
    if not callable(callback):
        raise TypeError(f"callbacks must hold Callback objects or functions, got {type(callback).__name__}")
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
        console.check_writable(str(checkpoint.path))
        return checkpoint.read() if checkpoint.exists() else None

    arrays = together.from_leader(read)
    if arrays is not None:
        checkpoint.load(arrays)
    return checkpoint


@contextmanager
def _progress_bar(state: FitState, wanted: bool) -> Iterator[Callable[[], None]]:
    """Show a bar of the epochs to come; call the function it gives after each."""
    history = state.history
    with console.progress(state.epochs - len(history), quiet=not wanted) as step:
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
