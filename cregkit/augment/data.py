"""Augmentation of a data set: by sample index, as a callback of ``fit``, and as a PyTorch data set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import ForkingPickler
from multiprocessing.sharedctypes import RawValue
from typing import Any

import numpy as np

from cregkit import _validate as validate
from cregkit.augment.base import Index, Transform, checked_index, seed_of_epoch, uniform
from cregkit.augment.mixing import Mixing
from cregkit.kernels.noise import derive_seed
from cregkit.layers import Seed, draw_seed
from cregkit.layers.base import Array
from cregkit.train.callbacks import Callback, FitState
from cregkit.train.data import is_rows, taken
from cregkit.train.weights import Weights


class Augmentation:
    """Augment samples of a data set as a function of (seed, epoch, sample index) alone.

    Parameters
    ----------
    transform
        Transform of each sample, or None.
    mix
        ``Mixup`` or ``CutMix``, or None. The second sample is drawn uniformly from the data set and is transformed as
        it would be at its own index in the same epoch.
    classes
        Number of classes, or None where targets are not class indices. With ``mix``, class indices become
        probabilities: float32 of shape (N, classes).
    seed
        An int in [0, 2**64), a Generator, a SeedSequence, or None for fresh entropy.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has the wrong value.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import Augmentation, HorizontalFlip, Mixup
    >>> images = np.arange(4, dtype=np.float32).reshape(2, 1, 1, 2)
    >>> labels = np.array([0, 1])
    >>> augmentation = Augmentation(HorizontalFlip(p=1.0), mix=Mixup(alpha=1.0), classes=2, seed=1)
    >>> x, targets = augmentation((images, labels), [0, 1], epoch=0)
    >>> x[:, 0, 0].round(2)
    array([[1.  , 0.  ],
           [2.41, 1.41]], dtype=float32)
    >>> targets.round(2)
    array([[1. , 0. ],
           [0.3, 0.7]], dtype=float32)
    """

    def __init__(
        self,
        transform: Transform | None = None,
        *,
        mix: Mixing | None = None,
        classes: int | None = None,
        seed: Seed = None,
    ) -> None:
        """Validate and store the settings."""
        if transform is not None and not isinstance(transform, Transform):
            raise TypeError(f"transform must be a Transform or None, got {validate.shown(transform)}")
        if mix is not None and not isinstance(mix, Mixing):
            raise TypeError(f"mix must be Mixup, CutMix or None, got {validate.shown(mix)}")
        self.transform, self.mix = transform, mix
        self.classes = None if classes is None else validate.positive_int("classes", classes)
        self.seed = draw_seed(seed)

    def __call__(self, data: Any, index: Any, *, epoch: int) -> tuple[Any, ...]:
        """Return the samples ``index`` of ``data`` and their targets, augmented for the given epoch.

        Parameters
        ----------
        data
            A tuple (x, targets) or (x, targets, sample_weight) of arrays, where ``x`` may also be a list of strings or
            arrays, or a sequence of pairs (sample, target). Samples may differ in shape if the transform gives them one
            shape.
        index : shape (N,), integers
            Sample indices in [0, len(data)).
        epoch
            Epoch number, in [0, 2**64).

        Returns
        -------
        x : array or list
            The N augmented samples: an array, or a list of strings.
        targets : array, shape (N, ...)
            Their targets.
        sample_weight : array, shape (N, ...)
            Their weights, if ``data`` has weights. The loss of a mixture of w * x and (1 - w) * other is that of both
            targets with w and 1 - w times their sample weights: its weight is the sum of these.

        Raises
        ------
        TypeError
            An argument has the wrong type.
        ValueError
            An argument has the wrong shape or value, or the samples still differ in shape after the transform.
        """
        rows = checked_index(index, len(index))
        seed = seed_of_epoch(self.seed, epoch)
        weight = data[2] if isinstance(data, tuple) and len(data) == 3 else None
        data = data if weight is None else data[:2]
        x, targets = self._samples(data, rows, seed)
        if self.mix is None:
            return (x, targets) if weight is None else (x, targets, weight[rows])
        partners = np.floor(uniform(rows, 1, derive_seed(seed, 1))[:, 0] * _size(data)).astype(np.int64)
        other, other_targets = self._samples(data, partners, seed)
        mix = functools.partial(self.mix, index=rows, seed=derive_seed(seed, 2))
        if weight is None:
            return mix(x, self._soft(targets), other, self._soft(other_targets))
        of_x, of_other = self._weighed(targets, weight[rows]), self._weighed(other_targets, weight[partners])
        mixed, both = mix(x, of_x, other, of_other)
        return mixed, *_parted(both, weight.ndim)

    def _weighed(self, targets: Array, weight: Weights) -> Array:
        """Return the soft targets times their weights, and the weights, stacked on axis 1."""
        counts = _expanded(weight, targets.ndim) > 0
        soft = self._soft(np.where(counts, targets, targets.dtype.type(0)))
        w = np.broadcast_to(_expanded(weight, soft.ndim), soft.shape).astype(np.float32)
        return np.stack([w * soft, w], axis=1)

    def _samples(self, data: Any, rows: Index, seed: int) -> tuple[Any, Any]:
        if not len(rows) and _size(data):  # an empty batch: its shape and dtype are those of any sample
            x, targets = self._samples(data, np.zeros(1, np.int64), seed)
            return x[:0], targets[:0]
        x, targets = _taken(data, rows)
        if self.transform is None:
            return _batch(x), targets
        own_seed = derive_seed(seed, 0)
        if not _is_ragged(x):
            return self.transform.apply(_batch(x), rows, own_seed, overwrite=False), targets
        alone = [
            self.transform.apply(sample[np.newaxis], row, own_seed, overwrite=False)[0]
            for sample, row in zip(x, rows[:, np.newaxis], strict=True)
        ]
        return _batch(alone), targets

    def _soft(self, targets: Array) -> Array:
        if not np.issubdtype(targets.dtype, np.integer):
            if self.classes is not None and (targets.ndim < 2 or targets.shape[-1] != self.classes):
                raise ValueError(
                    f"targets must be class indices of an integer dtype, or probabilities of classes = {self.classes} "
                    f"on the last axis, got {targets.dtype} of shape {targets.shape}: use targets.astype(np.int64) for "
                    f"class indices, and classes=None if targets are not classes"
                )
            return targets.astype(np.float32)
        if self.classes is None:
            raise ValueError(
                "classes must be the number of classes, got None: a mixture of two classes is a vector of probabilities"
            )
        wanted = f"targets must be class indices from 0 to {self.classes - 1} for classes={self.classes}"
        validate.within(wanted, targets, 0, self.classes - 1)
        soft: Array = np.eye(self.classes, dtype=np.float32)[targets]
        return soft


def _expanded(weight: Weights, ndim: int) -> Weights:
    return weight.reshape(weight.shape + (1,) * (ndim - weight.ndim))


def _parted(both: Array, ndim: int) -> tuple[Array, Array]:
    """Return the soft targets and their weights, of ``ndim`` axes, from the mixture of ``Augmentation._weighed``."""
    weighed, w = both[:, 0], both[:, 1]
    soft = np.divide(weighed, w, where=w > 0, out=np.zeros_like(w))
    first: tuple[Any, ...] = (..., *(0,) * (w.ndim - ndim))
    return soft, w[first]


def _size(data: Any) -> int:
    return len(data[0]) if isinstance(data, tuple) else len(data)


def _taken(data: Any, rows: Index) -> tuple[Any, Any]:
    """Return the samples (an array, or a list of strings or arrays) and their targets."""
    if isinstance(data, tuple):
        x, targets = data
        if isinstance(x, np.ndarray) and x.dtype != object:
            return x.take(rows, axis=0), np.asarray(targets)[rows]
        if is_rows(x):
            return taken(x, rows), np.asarray(targets)[rows]
        samples, of_rows = [x[int(i)] for i in rows], np.asarray(targets)[rows]
    else:
        pairs = [data[int(i)] for i in rows]
        samples, of_rows = [sample for sample, _ in pairs], np.array([target for _, target in pairs])
    return [sample if isinstance(sample, str) else np.asarray(sample, order="C") for sample in samples], of_rows


def _is_ragged(x: Any) -> bool:
    """Return whether the samples are arrays that differ in shape or dtype."""
    return isinstance(x, list) and len({(s.shape, s.dtype) for s in x if isinstance(s, np.ndarray)}) > 1


def _batch(x: Any) -> Any:
    """Return the samples as one array, or text as a list."""
    if isinstance(x, np.ndarray) or not x or isinstance(x[0], str):
        return x
    for sample in x:
        if sample.shape != x[0].shape:
            raise ValueError(
                f"samples of a batch must have one shape after the transform, got {x[0].shape} and {sample.shape}: "
                f"resize them in the data set or in the transform, for images with RandomCrop"
            )
    return np.stack(x)


class AugmentBatches(Callback):
    """Callback of ``fit`` that trains on augmented samples; evaluation uses the original samples.

    Parameters
    ----------
    augmentation
        The augmentation.
    shape
        Shape of a sample for the transforms, such as (1, 8, 8), if the network takes another shape.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        ``shape`` has a value below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.augment import AugmentBatches, Augmentation, GaussianNoise
    >>> from cregkit.train import AdamW, fit, softmax_cross_entropy
    >>> x = np.eye(4, dtype=np.float32)
    >>> targets = np.arange(4)
    >>> network = Linear(4, 4, seed=0)
    >>> noise = AugmentBatches(Augmentation(GaussianNoise(0.1), seed=0))
    >>> optimizer = AdamW(network, lr=0.1)
    >>> history = fit(network, softmax_cross_entropy, optimizer, (x, targets), None, 20, callbacks=[noise], seed=0)
    >>> history.train_acc[-1]
    100.0
    """

    def __init__(self, augmentation: Augmentation, shape: Sequence[int] | None = None) -> None:
        """Validate and store the settings."""
        if not isinstance(augmentation, Augmentation):
            raise TypeError(f"augmentation must be an Augmentation, got {validate.shown(augmentation)}")
        self.augmentation = augmentation
        self.shape = None if shape is None else tuple(validate.positive_int("shape", side) for side in shape)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The augmentation with its seed, and ``shape``."""
        return {"augmentation": self.augmentation, "shape": self.shape}

    def on_train_begin(self, state: FitState) -> None:
        """Raise unless the samples of ``state.train`` can be selected by number."""
        if not isinstance(state.train, tuple):
            raise TypeError(
                f"train must hold arrays for AugmentBatches, got an iterable, {type(state.train).__name__}: augment "
                "its samples in the iterable, for example with AugmentedDataset"
            )
        if self.shape is not None and not isinstance(state.train[0], np.ndarray):
            raise TypeError(f"train[0] must be an array for shape={self.shape}, got {type(state.train[0]).__name__}")

    def on_batch_begin(self, state: FitState, rows: Any, x: Array, targets: Array) -> tuple[Array, Array]:
        """Return the samples ``rows`` of ``state.train``, augmented for this epoch, and set their weights."""
        data: Any = state.train
        if self.shape is not None:
            data = (data[0].reshape(len(data[0]), *self.shape), *data[1:])
        augmented, targets, *weight = self.augmentation(data, rows, epoch=state.epoch + 1)
        if weight:
            state.sample_weight = weight[0]
        if self.shape is None:
            return augmented, targets
        if augmented.shape[1:] != self.shape:
            raise ValueError(
                f"the transform must keep samples of shape {self.shape}, because the network takes {x.shape[1:]}, got "
                f"{augmented.shape[1:]}"
            )
        return np.ascontiguousarray(augmented.reshape(x.shape)), targets


class AugmentedDataset:
    """Augmented data set for PyTorch's ``DataLoader``.

    The samples do not depend on the number of workers or the batch size. Call ``set_epoch`` before each epoch, before
    iterating over the ``DataLoader``.

    Parameters
    ----------
    data
        A tuple (x, targets) or (x, targets, sample_weight), or a sequence of pairs (sample, target), as for
        ``Augmentation``; a PyTorch data set of pairs works.
    augmentation
        The augmentation.

    Raises
    ------
    TypeError
        ``augmentation`` is not an ``Augmentation``.

    Notes
    -----
    Processes that receive the data set when they start share its epoch: the workers of a ``DataLoader`` (persistent
    ones too), a ``Process``, the initialiser of a ``Pool``; with fork, spawn and forkserver. ``copy.copy`` shares it
    too. Any other copy (``copy.deepcopy``, ``pickle``, an argument of a pool task, joblib) starts with the epoch of the
    original, and keeps its own epoch from then on.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit.augment import AugmentedDataset, Augmentation, GaussianNoise
    >>> x, targets = np.zeros((2, 3), np.float32), np.array([0, 1])
    >>> dataset = AugmentedDataset((x, targets), Augmentation(GaussianNoise(0.1), seed=0))
    >>> dataset.set_epoch(1)
    >>> sample, target = dataset[1]
    >>> sample.shape, int(target)
    ((3,), 1)
    """

    def __init__(self, data: Any, augmentation: Augmentation) -> None:
        """Validate and store the arguments."""
        if not isinstance(augmentation, Augmentation):
            raise TypeError(f"augmentation must be an Augmentation, got {validate.shown(augmentation)}")
        self.data, self.augmentation = data, augmentation
        self._epoch = _Epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch, in [0, 2**64), that determines the random numbers."""
        seed_of_epoch(0, epoch)  # validates the epoch
        self._epoch.number.value = epoch

    def __len__(self) -> int:
        """Return the number of samples."""
        return _size(self.data)

    def __getitem__(self, i: int) -> tuple[Any, ...]:
        """Return a sample, its target, and its weight if the data have weights."""
        return self.__getitems__([i])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return a batch; ``DataLoader`` calls this once per batch."""
        n = len(self)
        for i in rows:
            if not -n <= i < n:
                raise IndexError(f"index must be in [{-n}, {n}), the samples of the data set, got {i}")
        parts = self.augmentation(self.data, [i % n for i in rows], epoch=self._epoch.number.value)
        return list(zip(*parts, strict=True))


class _Epoch:
    """The epoch number, in memory shared with processes that receive it when they start; other copies have their own.

    There is no lock: a named semaphore would depend on the start method of the processes.
    """

    def __init__(self, number: int) -> None:
        self.number = RawValue("Q", number)

    def __reduce__(self) -> tuple[Callable[..., _Epoch], tuple[Any]]:
        return _Epoch, (self.number.value,)


def _reduced(epoch: _Epoch) -> tuple[Callable[..., _Epoch], tuple[Any]]:
    """Return the pickle of an epoch: the shared memory for a process that is starting, the number for any other."""
    return epoch.__reduce__() if get_spawning_popen() is None else (_sharing, (epoch.number,))


def _sharing(number: Any) -> _Epoch:
    epoch = _Epoch.__new__(_Epoch)
    epoch.number = number
    return epoch


ForkingPickler.register(_Epoch, _reduced)
