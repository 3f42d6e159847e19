"""The fit loop: shuffled mini-batches, metrics per epoch, callbacks, checkpoints, and a clean stop on Ctrl-C."""

from __future__ import annotations

import errno
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from cregkit.train.data import Batch, Batches, DataSet, Inputs, Rows, Samples, opened, taken
from cregkit.train.divergence import DivergenceError, DivergenceWarning, first_not_finite
from cregkit.train.evaluation import NUMBERS, ROWS, Accuracy, Figures, Metric, accuracy_of, called, fitted
from cregkit.train.history import Divergence, History
from cregkit.train.identity import function_name
from cregkit.train.losses import Loss
from cregkit.train.optimizers import Optimizer
from cregkit.train.parallel import Parallel


def fit(
    network: Layer,
    loss: Loss,
    optimizer: Optimizer,
    train: DataSet,
    test: DataSet | None,
    epochs: int,
    *,
    batch_size: int | None = None,
    validation_split: float = 0.0,
    seed: Seed = None,
    accuracy: Accuracy | None = None,
    metrics: Sequence[Metric] | Mapping[str, Metric] = (),
    callbacks: Sequence[AnyCallback] = (),
    progress: bool = False,
    checkpoint: Path | None = None,
    resume: bool = False,
    parallel: Parallel | None = None,
) -> History:
    """Train a network and return the metrics of every epoch.

    Each epoch passes once over ``train`` in a new random order, in training mode, with one optimiser step per
    mini-batch. Both sets are then evaluated in evaluation mode, without dropout, so training and test metrics describe
    the same network. Losses exclude the weight decay penalty and include label smoothing if ``loss`` does.

    Parameters
    ----------
    network
        Layer that maps x to the outputs that ``loss`` takes. It is left in evaluation mode.
    loss
        ``loss(outputs, targets)`` returns the mean over the batch and its gradient with respect to the outputs.
    optimizer
        Optimiser made for ``network``, or for a layer in it, which alone is trained.
    train
        (x, targets), samples on the first axis. x is C-contiguous: float32, float16 or bfloat16, or ids of any integer
        dtype for ``Embedding``, ``Transformer`` and ``BertEncoder``. Targets are those ``loss`` takes, one per sample;
        float targets of shape (N,) match outputs of shape (N, 1). Nothing is cast. (x, targets, sample_weight) weights
        the loss and the accuracy: an array of weights, at least 0, or a bool mask, one per sample or per position that
        counts, as ``loss`` takes. x may also be an object with ``shape``, ``dtype`` and ``len`` whose rows at a slice
        or at sorted positions are arrays (HDF5, Zarr), or ``train`` an iterable of batches; see Notes.
    test
        Test set in the same formats, or None. It is evaluated, never trained on.
    epochs
        Number of passes over ``train``. With ``resume``, it includes the epochs before the checkpoint.
    batch_size
        Samples per step; None means 32. The last batch of an epoch may be smaller. If the network contains a BatchNorm,
        a last batch of one sample, which has no variance, is merged into the batch before it.
    validation_split
        Fraction of ``train``, in [0, 1), that becomes the test set: its last samples, before any shuffling. Above 0,
        ``test`` must be None.
    seed
        Seed of the sample order: an int in [0, 2**64), a SeedSequence, None for fresh entropy, or a Generator, which is
        used directly and therefore continues in a later fit.
    accuracy
        ``accuracy(outputs, targets)`` in percent. None selects the accuracy of ``loss`` (or of the function that
        ``loss`` is a ``functools.partial`` of): ``binary_accuracy`` or ``class_accuracy``, and NaN for
        losses of regression and for losses from outside this package. Rows with the loss's ``ignore_index`` do not
        count. Where the data have weights, it is the percentage of the weight, if the function takes
        ``sample_weight``.
    metrics
        Further figures of each epoch: functions, or functions by name, of the outputs and targets of a whole set, such
        as ``f(outputs, targets)`` or ``f(outputs, targets, sample_weight=None)``, that return a float. The history
        holds them as ``history.metrics["train_f"]`` and ``["test_f"]``.
    callbacks
        ``Callback`` objects, or functions of a ``FitState`` to call at the end of each epoch; they run in this order.
    progress
        Whether to show a progress bar with losses, accuracies, gap and remaining time, if stderr is a terminal.
    checkpoint
        File to write atomically after each epoch (``.npz``), or None.
    resume
        Whether to resume from ``checkpoint`` if the file exists; see Notes.
    parallel
        ``cregkit.mpi.DataParallel(network)`` if several processes share each batch. All of them call ``fit`` with the
        same arguments and return the same history; the leader writes the checkpoint.

    Returns
    -------
    History
        The metrics of each epoch.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has the wrong value or shape, network, loss and targets do not match, or the checkpoint is damaged
        or belongs to another run. Nothing is trained in this case.
    FileExistsError
        The file ``checkpoint`` exists and ``resume`` is False.
    OSError
        The checkpoint cannot be written or read.

    Warns
    -----
    DivergenceWarning
        Training diverged.

    Notes
    -----
    Divergence. Training ends if the loss of a batch or a gradient is not finite, before the step of that batch. It also
    ends if after an epoch the loss on ``train``, a parameter, a running statistic or the optimiser state is not finite.
    ``fit`` then warns, ``history.diverged`` holds the epoch, the step and the reason, and the last entry of the history
    is NaN. Network and optimiser keep their state from before the failed step; if that state is not finite, or its loss
    on ``train`` is not, they are restored to the end of the previous epoch, or to the start of the fit. The epoch is
    not written to the checkpoint. ``on_epoch_end`` and ``on_train_end`` still run, so EarlyStopping restores the best
    epoch. With several processes, all end together. NumPy's overflow warnings are suppressed.

    Weights. They concern the loss, the accuracy and the metrics that take ``sample_weight``: all means are over the
    weight, also over batches and processes. A sample of weight 0 still passes through the network: its inputs must be
    finite, and BatchNorm counts it.

    Iterables. ``train`` and ``test`` may be iterables of batches (x, targets) or (x, targets, sample_weight), such as a
    list or a ``DataLoader``. An epoch iterates ``train`` once to train and once to evaluate; a generator, which can be
    iterated only once, is refused. Batch size and order are those of the iterable: ``batch_size`` and
    ``validation_split`` are refused, ``seed`` has no effect, and a resumed run starts with the first pass of the
    iterable. A BatchNorm needs batches of more than one sample. ``AugmentBatches`` needs arrays. With several
    processes, each iterates the same batches.

    Ctrl-C. The fit ends after the current batch without an exception; the history has the completed epochs, and
    ``interrupted`` is True. A second Ctrl-C raises KeyboardInterrupt immediately.

    Resuming. A run resumes bit-identically: the result is that of an uninterrupted run with the present settings.
    Otherwise ``fit`` raises ValueError and names the difference. "Same" means that the values are compared:

    =========================  =========================================================================================
    epochs                     more: continues; equal: returns the finished run; fewer: ValueError
    batch_size                 same
    seed                       same int (or SeedSequence); with None or a Generator, the order of the file is used
    train, test                same shapes, dtypes and bits, of weights too; of an iterable other than a list, the same
                               class and length
    loss, accuracy, metrics    same name, ``partial`` arguments, and floats and strings in the closure; the code is not
                               compared
    network                    same layers with the same public attributes (sizes, ``p``, ``eps``, ...); parameters,
                               running statistics and dropout seeds are loaded from the file
    optimizer                  same class, parameters, and settings before its first step (``lr``, ``betas``, ...)
    callbacks                  same classes in the same order, each with the same ``settings``; functions like losses
    EarlyStopping              same ``monitor`` and ``min_delta``; a larger ``patience`` continues a stopped run; a
                               smaller one that would have stopped the run earlier is a ValueError
    AugmentBatches             same seed, transforms, mixing and shape
    a callback that set stop   returns the finished run
    number of processes        may differ; SyncBatchNorm is equivalent to BatchNorm
    =========================  =========================================================================================

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.train import SGD, fit, mean_squared_error
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> network = Linear(1, 1, seed=0)
    >>> history = fit(network, mean_squared_error, SGD(network, lr=0.1), (x, 3 * x), None, epochs=50, seed=0)
    >>> history.train_loss[-1] < 1e-3
    True
    """
    validate.positive_int("epochs", epochs)
    _check_network(network, optimizer)
    measure = accuracy or accuracy_of(loss)
    of_name = _named(metrics)
    for name, function in (("loss", loss), ("accuracy", measure), *of_name.items()):
        if not callable(function):
            raise TypeError(f"{name} must be a function of outputs and targets, got {validate.shown(function)}")
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks must be a list of Callback objects and functions, got {validate.shown(callbacks)}")
    train, test = _split(train, test, validation_split)
    train_set = _checked_set("train", train, network, loss)
    test_set = None if test is None else _checked_set("test", test, network, loss)
    batch_size = _batch_size(batch_size, train_set)
    join_single = _check_batch_norm(network, train_set, batch_size)
    together = parallel or Parallel()
    drawn = None if seed is None or isinstance(seed, np.random.Generator) else draw_seed(seed)
    order = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(drawn)
    order.bit_generator.state = together.from_leader(lambda: order.bit_generator.state)
    watchers = [_as_callback(callback) for callback in callbacks]
    state = FitState(network, optimizer, train, test, epochs, History(metrics={name: [] for name in _columns(of_name)}))
    for watcher in watchers:
        watcher.on_train_begin(state)
    file = None
    if checkpoint is not None:
        settings = {
            "batch_size": batch_size,
            "loss": function_name(loss),
            "accuracy": function_name(measure),
            "metrics": {name: function_name(metric) for name, metric in of_name.items()},
            "seed": drawn,
        }
        file = _open(Checkpoint(checkpoint, state, watchers, order, settings), resume, together)
    history = state.history
    kept = _Kept(state, together, lambda: together.evaluate(network, loss, train_set, measure).loss)
    not_measured = Figures(math.nan, math.nan, dict.fromkeys(of_name, math.nan))

    with (
        _progress_bar(state, progress and together.leads) as show,
        _ctrl_c() as interrupted,
        np.errstate(over="ignore", invalid="ignore"),
    ):
        while len(history) < epochs and not together.any(state.stop or interrupted()):
            start, epoch = time.perf_counter(), len(history)
            drawn_batches = _epoch(train_set, order, batch_size, join_single, together)
            figures = test_figures = not_measured
            if steps := _train_epoch(state, loss, drawn_batches, watchers, kept, interrupted):
                figures = together.evaluate(network, loss, train_set, measure, of_name)
                if test_set is not None:
                    test_figures = together.evaluate(network, loss, test_set, measure, of_name)
                kept.check(epoch, steps - 1, figures.loss)
            elif history.diverged is None:
                break
            if history.diverged is not None:
                figures = test_figures = not_measured
            of_columns = dict(
                zip(_columns(of_name), [*figures.metrics.values(), *test_figures.metrics.values()], strict=True)
            )
            history.record(figures[:2], test_figures[:2], time.perf_counter() - start, of_columns)
            for watcher in watchers:
                watcher.on_epoch_end(state)
            if watchers:  # they may have changed the state
                kept.check(epoch, steps - 1)
            state.stop = together.any(state.stop or history.diverged is not None)
            if file is not None and history.diverged is None:
                together.from_leader(file.save)
            show()
    history.interrupted = together.any(interrupted())  # after Python's handler is back: no Ctrl-C is lost in between
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
    drawn_batches: Iterable[tuple[NDArray[np.int64], Batch]],
    watchers: Sequence[Callback],
    kept: _Kept,
    interrupted: Callable[[], bool],
) -> int:
    """Take a step on each batch; return their number, or 0 if training was interrupted or diverged."""
    together = kept.together
    state.network.train()
    step = -1
    for step, (rows, (x, targets, state.sample_weight)) in enumerate(drawn_batches):
        for watcher in watchers:
            x, targets = watcher.on_batch_begin(state, rows, x, targets)
        try:
            state.batch_loss = together.step(state.network, loss, state.optimizer, x, targets, state.sample_weight)
        except DivergenceError as error:
            kept.diverge(Divergence(state.epoch + 1, step, str(error)))
            return 0
        for watcher in watchers:
            watcher.on_batch_end(state)
        if together.any(interrupted()):
            return 0
    return step + 1


def _epoch(
    data: Samples | Batches, order: np.random.Generator, batch_size: int, join_single: bool, together: Parallel
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """Yield this process's rows of each batch of an epoch: their positions in the data set, and the samples."""
    if isinstance(data, Batches):
        first = 0
        for batch in data:
            own = together.own(np.arange(len(batch.x)))
            yield first + own, batch if len(own) == len(batch.x) else Samples(*batch).at(own)
            first += len(batch.x)
        return
    shuffled = order.permutation(len(data.targets))
    for part in batches(len(shuffled), batch_size, join_single=join_single):
        own = together.own(shuffled[part])
        yield own, data.at(own)


class _Kept:
    """The state of network and optimiser at the end of the last finite epoch, to restore after a divergence."""

    def __init__(self, state: FitState, together: Parallel, measured: Callable[[], float]) -> None:
        self.together = together
        self._state, self._measured = state, measured
        self._keep()

    def _keep(self) -> None:
        self._kept = self._state.network.state_dict(), self._state.optimizer.state_dict()

    def _not_finite(self) -> str | None:
        return first_not_finite(self._state.network._state(), dict(self._state.optimizer._state()))

    def check(self, epoch: int, step: int, loss: float = 0.0) -> None:
        """Keep the present state, whose training loss is ``loss``, or record a divergence if it is not finite."""
        if self._state.history.diverged is not None:
            return
        broken = self._not_finite()
        if math.isfinite(loss) and not self.together.any(broken is not None):
            self._keep()
        else:
            self.diverge(Divergence(epoch, step, f"after this step {broken or 'the loss on train'} is not finite"))

    def diverge(self, divergence: Divergence) -> None:
        """Record the divergence; restore the kept state unless the present state and its loss are finite."""
        self._state.history.diverged = divergence
        if self.together.any(self._not_finite() is not None) or not math.isfinite(self._measured()):
            network, optimizer = self._kept
            self._state.network.load_state_dict(network)
            self._state.optimizer.load_state_dict(optimizer)


def batches(n: int, batch_size: int, *, join_single: bool = False) -> Iterator[slice]:
    """Yield the slices that divide an epoch into mini-batches.

    Parameters
    ----------
    n
        Number of samples.
    batch_size
        Samples per batch, at least 1.
    join_single
        Whether to merge a last batch of one sample into the batch before it.

    Yields
    ------
    slice
        Positions of the batch in the shuffled samples.

    Examples
    --------
    >>> from cregkit.train import batches
    >>> list(batches(9, 4))
    [slice(0, 4, None), slice(4, 8, None), slice(8, 9, None)]
    >>> list(batches(9, 4, join_single=True))
    [slice(0, 4, None), slice(4, 9, None)]
    """
    last = n - 1 if join_single and n > 1 and n % batch_size == 1 else n
    for start in range(0, last, batch_size):
        stop = start + batch_size
        yield slice(start, n if stop >= last else stop)


def _check_network(network: Layer, optimizer: Optimizer) -> None:
    """Raise if the optimiser was not made for the network or for a layer in it."""
    if not isinstance(network, Layer):
        raise TypeError(f"network must be a Layer, got {validate.shown(network)}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be an Optimizer such as SGD(network), got {validate.shown(optimizer)}")
    if not any(layer is optimizer.network for _, layer in network._walk()):
        raise ValueError("optimizer must be made for network or for a layer in it, got one made for another network")


def _split(train: DataSet, test: DataSet | None, validation_split: float) -> tuple[DataSet, DataSet | None]:
    """Return the training and the test set, which is the last part of ``train`` if ``validation_split`` is above 0."""
    fraction = validate.real("validation_split", validation_split, 0, 1)
    if not fraction:
        return train, test
    if test is not None:
        raise ValueError(f"validation_split must be 0 if there is a test set, got {fraction:g} and test")
    samples = opened("train", train)
    if isinstance(samples, Batches):
        raise ValueError(f"validation_split must be 0 if train is an iterable of batches, got {fraction:g}: pass test")
    n = len(samples.targets)
    at = math.floor(n * (1 - fraction))
    if not 0 < at < n:
        raise ValueError(
            f"validation_split must leave at least one sample for training and one for the test, got {fraction:g} of "
            f"{n} samples"
        )
    return samples.between(0, at), samples.between(at, n)


def _named(metrics: Sequence[Metric] | Mapping[str, Metric]) -> dict[str, Metric]:
    """Return the metrics by name; a function is named by its ``__name__``."""
    if isinstance(metrics, Mapping):
        of_name = dict(metrics)
    elif isinstance(metrics, (list, tuple)):
        functions = list(metrics)
        of_name = {getattr(getattr(f, "func", f), "__name__", type(f).__name__): f for f in functions}
        if len(of_name) < len(functions):
            raise ValueError(f"metrics must have different names, got {', '.join(of_name)}: pass a dict")
    else:
        raise TypeError(
            f"metrics must be a list of functions, or a dict of them by name, got {validate.shown(metrics)}"
        )
    for name in of_name:
        if not isinstance(name, str) or name in ("loss", "acc"):
            raise ValueError(f"metrics must have names other than 'loss' and 'acc', got {name!r}")
    return of_name


def _columns(metrics: Iterable[str]) -> list[str]:
    return [f"{part}_{name}" for part in ("train", "test") for name in metrics]


def _batch_size(batch_size: int | None, train: Samples | Batches) -> int:
    if batch_size is None:
        return 32
    if isinstance(train, Batches):
        raise ValueError(f"batch_size must be None if train is an iterable of batches, got {batch_size}")
    return validate.positive_int("batch_size", batch_size)


def _checked_set(name: str, data: DataSet, network: Layer, loss: Loss) -> Samples | Batches:
    """Return a data set after validation; of an iterable, the first batch is checked here."""
    if isinstance(data, Iterator):
        raise TypeError(
            f"{name} must be iterable more than once, because each epoch iterates it, got the iterator "
            f"{type(data).__name__}: pass a list of batches, or an object whose __iter__ returns a new iterator"
        )
    opened_set = opened(name, data)
    _check_data(name, Samples(*opened_set.first) if isinstance(opened_set, Batches) else opened_set, network, loss)
    return opened_set


def _check_data(name: str, data: Samples, network: Layer, loss: Loss) -> None:
    """Run the network on one sample and the loss on all targets, so that mismatches raise before training."""
    network.eval()
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            row = network(_samples_to_try(data.x))[:1]
            step = max(min(ROWS, NUMBERS // max(row.size, 1)), 1)
            for start in range(0, len(data.targets), step):
                rows = slice(start, start + step)
                outputs = np.repeat(row, len(data.targets[rows]), axis=0)
                weight = None if data.sample_weight is None else data.sample_weight[rows]
                called(loss, outputs, fitted(data.targets[rows], outputs), weight)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} is incompatible with network and loss: {error}") from None


def _samples_to_try(x: Inputs | Rows) -> Inputs:
    """Return the first sample, and for ids also the smallest and largest id at each position, to check the range."""
    first = taken(x, slice(0, 1))
    if x.dtype.kind not in "iu":
        return first
    step = len(x) if isinstance(x, np.ndarray) else ROWS
    parts = (taken(x, slice(start, start + step)) for start in range(0, len(x), step))
    low, high = zip(*((part.min(axis=0), part.max(axis=0)) for part in parts), strict=True)
    return np.stack([first[0], np.min(low, axis=0), np.max(high, axis=0)])


def _check_batch_norm(network: Layer, train: Samples | Batches, batch_size: int) -> bool:
    """Return whether the network has a BatchNorm; raise if a batch would have one value per channel."""
    if isinstance(train, Batches) or not any(isinstance(layer, BatchNorm) for _, layer in network._walk()):
        return False
    x = train.x
    if x.dtype.kind not in "iu" and len(x.shape) == 2 and min(batch_size, len(x)) < 2:
        raise ValueError(
            f"batch_size must be at least 2 and train must have at least 2 samples for a network with BatchNorm: one "
            f"sample has no variance; got batch_size={batch_size} and {len(x)} samples"
        )
    return True


def _as_callback(callback: AnyCallback) -> Callback:
    if isinstance(callback, Callback):
        return callback
    if not callable(callback):
        raise TypeError(f"callbacks must hold Callback objects or functions, got {validate.shown(callback)}")
    return EpochEnd(callback)


def _open(checkpoint: Checkpoint, resume: bool, together: Parallel) -> Checkpoint:
    """Return ``checkpoint``, loaded if it exists and ``resume`` is True; raise if it cannot be written."""

    def read() -> dict[str, NDArray[Any]] | None:
        if checkpoint.exists() and not resume:
            raise FileExistsError(
                errno.EEXIST,
                "the checkpoint exists; resume from it with resume=True, or delete it",
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
    """Show a bar of the remaining epochs; the yielded function advances it by one."""
    history = state.history
    with _progress.progress(state.epochs - len(history), quiet=not wanted) as step:
        yield lambda: step(_figures(history))


def _figures(history: History) -> str:
    """Format the metrics of the last epoch, with those of the test set if there is one."""
    if math.isnan(history.test_loss[-1]):
        return f"loss {history.train_loss[-1]:.4f}  accuracy {history.train_acc[-1]:.1f}"
    return (
        f"loss {history.train_loss[-1]:.4f}/{history.test_loss[-1]:.4f}  "
        f"accuracy {history.train_acc[-1]:.1f}/{history.test_acc[-1]:.1f}  gap {history.gap[-1]:.1f}"
    )


@contextmanager
def _ctrl_c() -> Iterator[Callable[[], bool]]:
    """Record the first Ctrl-C instead of raising KeyboardInterrupt, so that steps complete; a second one raises.

    Python allows signal handlers in the main thread only. In other threads, and if the program has its own handler or
    ignores the signal, nothing is changed.
    """
    pressed: list[int] = []  # no variable: a tracing debugger before Python 3.13 would set it back

    def note(number: int, frame: FrameType | None) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
