"""Augmentation of a data set: by sample numbers, as a callback of ``fit``, and as a data set for PyTorch."""

from __future__ import annotations

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


class Augmentation:
    """Samples of a data set, augmented: a function of (seed, epoch, sample numbers) alone.

    Args:
        transform: what is done to each sample, or None.
        mix: ``Mixup`` or ``CutMix``, or None. The other sample may be any of the data set; it is transformed as it
            would be in its own place in this epoch.
        classes: the number of classes; with ``mix``, class numbers become probabilities, float32 of shape (N, classes).
            None where targets are no classes.
        seed: int in [0, 2**64), Generator, SeedSequence, or None for fresh entropy.
    """

    def __init__(
        self,
        transform: Transform | None = None,
        *,
        mix: Mixing | None = None,
        classes: int | None = None,
        seed: Seed = None,
    ) -> None:
        """Keep the settings."""
        if transform is not None and not isinstance(transform, Transform):
            raise TypeError(f"transform must be a Transform or None, got {validate.shown(transform)}")
        if mix is not None and not isinstance(mix, Mixing):
            raise TypeError(f"mix must be Mixup, CutMix or None, got {validate.shown(mix)}")
        self.transform, self.mix = transform, mix
        self.classes = None if classes is None else validate.positive_int("classes", classes)
        self.seed = draw_seed(seed)

    def __call__(self, data: Any, index: Any, *, epoch: int) -> tuple[Any, Any]:
        """Return samples ``index`` of ``data`` and their targets, augmented as in this epoch.

        Args:
            data: a tuple (x, targets) of arrays (x may be a list of strings or of arrays), or a sequence of pairs
                (sample, target). Samples may differ in shape if the transform makes them equal.
            index: whole numbers of samples, 0 to len - 1.
            epoch: 0 to 2**64 - 1.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape or value, or samples of the batch still differ
                in shape after the transform.
        """
        rows = checked_index(index, len(index))
        seed = seed_of_epoch(self.seed, epoch)
        x, targets = self._samples(data, rows, seed)
        if self.mix is None:
            return x, targets
        partners = np.floor(uniform(rows, 1, derive_seed(seed, 1))[:, 0] * _size(data)).astype(np.int64)
        other, other_targets = self._samples(data, partners, seed)
        soft, other_soft = self._soft(targets), self._soft(other_targets)
        return self.mix(x, soft, other, other_soft, index=rows, seed=derive_seed(seed, 2))

    def _samples(self, data: Any, rows: Index, seed: int) -> tuple[Any, Any]:
        if not len(rows) and _size(data):  # any sample tells the shape of none
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
                    f"targets must be class numbers of an integer dtype, or probabilities of classes = {self.classes} "
                    f"on the last axis, got {targets.dtype} of shape {targets.shape}: use targets.astype(np.int64) for "
                    f"class numbers, and classes=None where there are no classes"
                )
            return targets.astype(np.float32)
        if self.classes is None:
            raise ValueError("classes must say how many there are, because mixtures have no whole class number")
        wanted = f"targets must be class numbers below classes = {self.classes}, from 0"
        validate.within(wanted, targets, 0, self.classes - 1)
        soft: Array = np.eye(self.classes, dtype=np.float32)[targets]
        return soft


def _size(data: Any) -> int:
    return len(data[0]) if isinstance(data, tuple) else len(data)


def _taken(data: Any, rows: Index) -> tuple[Any, Any]:
    """Return the samples, an array or a list of strings or of arrays, and their targets."""
    if isinstance(data, tuple):
        x, targets = data
        if isinstance(x, np.ndarray) and x.dtype != object:
            return x.take(rows, axis=0), np.asarray(targets)[rows]
        samples, of_rows = [x[int(i)] for i in rows], np.asarray(targets)[rows]
    else:
        pairs = [data[int(i)] for i in rows]
        samples, of_rows = [sample for sample, _ in pairs], np.array([target for _, target in pairs])
    return [sample if isinstance(sample, str) else np.asarray(sample, order="C") for sample in samples], of_rows


def _is_ragged(x: Any) -> bool:
    """Whether these samples are arrays that differ in shape or dtype."""
    return isinstance(x, list) and len({(s.shape, s.dtype) for s in x if isinstance(s, np.ndarray)}) > 1


def _batch(x: Any) -> Any:
    """Return the samples as an array, text as a list."""
    if isinstance(x, np.ndarray) or not x or isinstance(x[0], str):
        return x
    for sample in x:
        if sample.shape != x[0].shape:
            raise ValueError(
                f"samples of a batch must have one shape after the transform, got {x[0].shape} and {sample.shape}: "
                f"make them equal in the data set or in the transform, by RandomCrop for images"
            )
    return np.stack(x)


class AugmentBatches(Callback):
    """A callback of ``fit``: every step is taken on augmented samples; the figures are of the samples as they are.

    Args:
        augmentation: what is done.
        shape: of a sample for the transforms, such as (1, 8, 8), where the network takes another.
    """

    def __init__(self, augmentation: Augmentation, shape: Sequence[int] | None = None) -> None:
        """Keep the settings."""
        if not isinstance(augmentation, Augmentation):
            raise TypeError(f"augmentation must be an Augmentation, got {validate.shown(augmentation)}")
        self.augmentation = augmentation
        self.shape = None if shape is None else tuple(validate.positive_int("shape", side) for side in shape)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The augmentation with its seed, and the shape."""
        return {"augmentation": self.augmentation, "shape": self.shape}

    def on_batch_begin(self, state: FitState, rows: Any, x: Array, targets: Array) -> tuple[Array, Array]:
        """Return the samples ``rows`` of ``state.train`` as they are in this epoch."""
        data = state.train
        if self.shape is not None:
            data = (data[0].reshape(len(data[0]), *self.shape), data[1])
        augmented, targets = self.augmentation(data, rows, epoch=state.epoch + 1)
        if self.shape is None:
            return augmented, targets
        if augmented.shape[1:] != self.shape:
            raise ValueError(
                f"the transform must keep samples of shape {self.shape}, because the network takes {x.shape[1:]}, got "
                f"{augmented.shape[1:]}"
            )
        return np.ascontiguousarray(augmented.reshape(x.shape)), targets


class AugmentedDataset:
    """A data set for PyTorch's ``DataLoader``: the same samples for any number of workers and any batch size.

    Args:
        data: as ``Augmentation`` takes it: (x, targets) as arrays, or a data set of pairs, PyTorch's included.
        augmentation: what is done.

    Call ``set_epoch`` before each epoch, before the loop over the ``DataLoader``. Processes that get the data set when
    they start (``DataLoader``'s workers, persistent ones included, ``Process`` and the initialiser of a ``Pool``) share
    its epoch, whether forked, spawned or from a fork server, and so does ``copy.copy``. Any other copy
    (``copy.deepcopy``, ``pickle``, an argument of a task for a pool, all that joblib sends) begins with the epoch of
    its original and has its own from then on.
    """

    def __init__(self, data: Any, augmentation: Augmentation) -> None:
        """Keep the data."""
        if not isinstance(augmentation, Augmentation):
            raise TypeError(f"augmentation must be an Augmentation, got {validate.shown(augmentation)}")
        self.data, self.augmentation = data, augmentation
        self._epoch = _Epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Let the samples be those of ``epoch``, 0 to 2**64 - 1."""
        seed_of_epoch(0, epoch)  # refuses what is no epoch
        self._epoch.number.value = epoch

    def __len__(self) -> int:
        """Return the number of samples."""
        return _size(self.data)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        """Return a sample and its target."""
        return self.__getitems__([i])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[Any, Any]]:
        """Return a batch: ``DataLoader`` asks for whole ones."""
        n = len(self)
        for i in rows:
            if not -n <= i < n:
                raise IndexError(f"sample {i} of a data set of {n}")
        x, targets = self.augmentation(self.data, [i % n for i in rows], epoch=self._epoch.number.value)
        return list(zip(x, targets, strict=True))


class _Epoch:
    """An epoch's number in memory that processes share if they get it when they start; other copies have their own.

    Memory without a lock: a named semaphore would tie it to the way in which processes start.
    """

    def __init__(self, number: int) -> None:
        self.number = RawValue("Q", number)

    def __reduce__(self) -> tuple[Callable[..., _Epoch], tuple[Any]]:
        return _Epoch, (self.number.value,)


def _reduced(epoch: _Epoch) -> tuple[Callable[..., _Epoch], tuple[Any]]:
    """Return what multiprocessing sends: the memory to a process that it starts, the number to any other."""
    return epoch.__reduce__() if get_spawning_popen() is None else (_sharing, (epoch.number,))


def _sharing(number: Any) -> _Epoch:
    epoch = _Epoch.__new__(_Epoch)
    epoch.number = number
    return epoch


ForkingPickler.register(_Epoch, _reduced)
