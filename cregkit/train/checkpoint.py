"""Checkpoints: the complete state of a fit between two epochs, in one ``.npz`` file without pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit import _files as files
from cregkit._files import Path
from cregkit.train.callbacks import Callback, FitState
from cregkit.train.divergence import first_not_finite
from cregkit.train.identity import described, first_difference, layers_of, normalised

_FORMAT = 4


class Checkpoint:
    """Checkpoint file of a fit: written after each epoch, read to resume.

    The file contains the state of the network, the optimiser and the callbacks, the history, the state of the generator
    that shuffles the samples, and the settings that identify the run (see ``resume`` of ``fit``).

    Parameters
    ----------
    path
        The file.
    state
        State of the fit.
    callbacks
        Callbacks of the fit.
    order
        Generator that shuffles the samples.
    settings
        Further settings that identify the run: those known to ``fit`` alone.
    """

    def __init__(
        self,
        path: Path,
        state: FitState,
        callbacks: Sequence[Callback],
        order: np.random.Generator,
        settings: Mapping[str, Any],
    ) -> None:
        """Store the arguments and compute the identity of the run; no file is written."""
        self.path = path
        self._state = state
        self._callbacks = callbacks
        self._order = order
        self._identity = normalised(
            {
                "format": _FORMAT,
                **settings,
                "optimizer": type(state.optimizer).__name__,
                **state.optimizer.settings,
                "trained": _trained(state),
                "order": type(order.bit_generator).__name__,
                "network": layers_of(state.network),
                "callbacks": [type(callback).__name__ for callback in callbacks],
                **{f"callbacks[{i}]": described(callback.settings) for i, callback in enumerate(callbacks)},
                "train": _described_data(state.train),
                "test": _described_data(state.test),
            }
        )

    def exists(self) -> bool:
        """Return whether the file exists."""
        return os.path.exists(self.path)

    def save(self) -> None:
        """Write the file atomically, even if the machine fails."""
        arrays = {
            f"{part}/{name}": array
            for part, owner in self._parts().items()
            for name, array in owner.state_dict().items()
        }
        arrays.update(
            (f"history/{name}", np.array(figures)) for name, figures in self._state.history._columns().items()
        )
        meta = {
            "identity": self._identity,
            "order": self._order.bit_generator.state,
            "stop": self._state.stop and not any(callback.stopped for callback in self._callbacks),
        }
        arrays["meta"] = np.array(json.dumps(meta, default=np.ndarray.tolist))
        files.save_arrays(self.path, arrays)

    def read(self) -> dict[str, NDArray[Any]]:
        """Read the file.

        Returns
        -------
        dict
            The arrays by name.

        Raises
        ------
        OSError
            The file cannot be read.
        ValueError
            The file is damaged.
        """
        return files.load_arrays(self.path)

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore the state that ``save`` wrote.

        Parameters
        ----------
        arrays
            Arrays returned by ``read``.

        Raises
        ------
        ValueError
            The arrays are not a checkpoint, or belong to another run. Nothing is changed in this case.
        """
        owners = self._parts()
        before = {part: owner.state_dict() for part, owner in owners.items()}, self._order.bit_generator.state
        try:
            self._take_over(arrays)
        except (
            LookupError,
            TypeError,
            ValueError,
        ) as error:  # raised by json, a mapping or a generator for a damaged file
            for part, owner in owners.items():
                owner.load_state_dict(before[0][part])
            self._order.bit_generator.state = before[1]
            raise ValueError(f"cannot resume from checkpoint {os.fspath(self.path)}: {error}") from None

    def _take_over(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        if "meta" not in arrays:
            raise ValueError("it is not a checkpoint of fit: the entry 'meta' is missing")
        meta = json.loads(str(arrays["meta"]))
        self._require_same(meta["identity"])
        history = {name: arrays[f"history/{name}"] for name in self._state.history._columns()}
        if len({figures.shape for figures in history.values()}) != 1 or history["gap"].ndim != 1:
            lengths = {name: len(figures) for name, figures in history.items() if figures.ndim}
            raise ValueError(f"the lists of its history must have one length, got {lengths}")
        if len(history["gap"]) > self._state.epochs:
            raise ValueError(
                f"epochs must be at least {len(history['gap'])}, the number already trained, got {self._state.epochs}"
            )
        if name := first_not_finite({name: a for name, a in arrays.items() if name.startswith(("network/", "opt"))}):
            raise ValueError(f"{name} is not finite")
        for part, owner in self._parts().items():
            owner.load_state_dict(_under(f"{part}/", arrays))
        self._order.bit_generator.state = meta["order"]
        self._state.stop = bool(meta["stop"]) or any(callback.stopped for callback in self._callbacks)
        for name, figures in self._state.history._columns().items():
            figures[:] = history[name].tolist()

    def _require_same(self, identity: Mapping[str, Any]) -> None:
        """Raise if the settings differ. Without an int seed in either run, the order of the file is used."""
        was, now = dict(identity), dict(self._identity)
        if was["format"] != _FORMAT:
            raise ValueError(f"its format must be {_FORMAT}, got {was['format']}: another version of cregkit wrote it")
        if None in (was.get("seed"), now["seed"]):
            was["seed"] = now["seed"] = None
        if difference := first_difference(was, now):
            raise ValueError(f"it belongs to another run: {difference}")

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"network": self._state.network, "optimizer": self._state.optimizer}
        parts.update((f"callback{index}", callback) for index, callback in enumerate(self._callbacks))
        return parts


def _trained(state: FitState) -> dict[str, str]:
    """Return whether weight decay applies, for each parameter that the optimiser trains, by name in the network."""
    network, part = state.network, state.optimizer.network
    prefix = next(prefix for prefix, layer in network._walk() if layer is part)
    return {prefix + p.name: "decays" if p.decay else "does not decay" for p in part.parameters()}


def _under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _described_data(data: Any) -> Any:
    """Return the identity of a data set; of an iterable other than a list, the class and the length alone."""
    if data is None or isinstance(data, (tuple, list)):
        return described(data)
    return {"class": type(data).__qualname__, "length": len(data) if isinstance(data, Sized) else None}
