"""Checkpoints: all there is to a fit between two epochs, in one ``.npz`` file without pickle."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit.layers import files
from cregkit.train.callbacks import Callback, FitState
from cregkit.train.evaluation import Data
from cregkit.train.losses import Loss

_FORMAT = 2


class Checkpoint:
    """The file of a fit: written after each epoch, read to go on from there.

    It holds the states of network, optimiser and callbacks, the history, the state of the generator that orders the
    samples, and what tells this run from another: batch size, loss, the optimiser with what it was made with, kinds of
    callbacks and generator, and checksums of the data. The step size and weight decay to go on with are the file's.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        state: FitState,
        loss: Loss,
        callbacks: Sequence[Callback],
        order: np.random.Generator,
        batch_size: int,
    ) -> None:
        """Remember whose state to write; nothing is written yet."""
        self.path = path
        self._state = state
        self._callbacks = callbacks
        self._order = order
        self._identity = {
            "format": _FORMAT,
            "batch_size": batch_size,
            "loss": _name_of(loss),
            "optimizer": type(state.optimizer).__name__,
            **state.optimizer.settings,
            "order": type(order.bit_generator).__name__,
            "callbacks": [type(callback).__name__ for callback in callbacks],
            "train": _fingerprint(state.train),
            "test": _fingerprint(state.test),
        }

    def exists(self) -> bool:
        """Return whether there is a file at ``path``."""
        return os.path.exists(self.path)

    def save(self) -> None:
        """Write the file: whole or not at all, even if the machine stops."""
        arrays = {
            f"{part}/{name}": array
            for part, owner in self._parts().items()
            for name, array in owner.state_dict().items()
        }
        history = self._state.history
        arrays.update((f"history/{name}", np.array(getattr(history, name))) for name in _history_lists(history))
        meta = {
            "identity": self._identity,
            "order": self._order.bit_generator.state,
            "stop": self._state.stop,
        }
        arrays["meta"] = np.array(json.dumps(meta, default=np.ndarray.tolist))
        files.save_arrays(self.path, arrays)

    def read(self) -> dict[str, NDArray[Any]]:
        """Return what is in the file.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is damaged.
        """
        return files.load_arrays(self.path)

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Put everything back to where ``save`` found it, by what ``read`` returned.

        Raises:
            ValueError: that is no checkpoint, or that of another run; nothing has been changed then.
        """
        owners = self._parts()
        before = {part: owner.state_dict() for part, owner in owners.items()}, self._order.bit_generator.state
        try:
            self._take_over(arrays)
        except (
            LookupError,
            TypeError,
            ValueError,
        ) as error:  # what json, a mapping or a generator say of a damaged file
            for part, owner in owners.items():
                owner.load_state_dict(before[0][part])
            self._order.bit_generator.state = before[1]
            raise ValueError(f"checkpoint {os.fspath(self.path)} cannot be gone on from: {error}") from None

    def _take_over(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        if "meta" not in arrays:
            raise ValueError("it is no checkpoint of a fit: it has no entry 'meta'")
        meta = json.loads(str(arrays["meta"]))
        for name, value in self._identity.items():
            if (was := meta["identity"][name]) != value:
                raise ValueError(f"it belongs to another run: {name} was {was}, is {value}")
        for part, owner in self._parts().items():
            owner.load_state_dict(_under(f"{part}/", arrays))
        self._order.bit_generator.state = meta["order"]
        self._state.stop = meta["stop"]
        history = self._state.history
        lists = {name: arrays[f"history/{name}"].tolist() for name in _history_lists(history)}
        vars(history).update(lists)

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"network": self._state.network, "optimizer": self._state.optimizer}
        parts.update((f"callback{index}", callback) for index, callback in enumerate(self._callbacks))
        return parts


def _name_of(loss: Loss) -> str:
    """Return the name of a loss and what it was given beforehand: softmax_cross_entropy(label_smoothing=0.1)."""
    if not isinstance(loss, partial):
        return str(getattr(loss, "__name__", type(loss).__name__))
    plain = (bool, int, float, str, type(None))
    given = {name: value if isinstance(value, plain) else type(value).__name__ for name, value in loss.keywords.items()}
    return f"{_name_of(loss.func)}({', '.join(f'{name}={value!r}' for name, value in sorted(given.items()))})"


def _under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _history_lists(history: object) -> list[str]:
    return [field.name for field in fields(history) if isinstance(getattr(history, field.name), list)]  # type: ignore[arg-type]


def _fingerprint(data: Data | None) -> list[Any] | None:
    """Return shapes, dtypes and checksums of a data set."""
    if data is None:
        return None
    return [[list(array.shape), array.dtype.str, zlib.crc32(np.ascontiguousarray(array).data)] for array in data]
