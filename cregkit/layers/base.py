"""What all layers share: train/eval, parameters with their gradients, state as plain arrays, and files of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from cregkit import _files as files
from cregkit._files import Path

Array: TypeAlias = NDArray[np.float32]
Self = TypeVar("Self", bound="Layer")
_PLAIN = (bool, int, float, str, type(None))


class Parameter(NamedTuple):
    """A trainable array, the gradient the last backward gave it (None before the first), and whether it decays."""

    name: str
    value: Array
    grad: Array | None
    decay: bool


class Layer:
    """A function with state: ``y = layer(x)``, then ``dx = layer.backward(dy)``.

    ``forward`` keeps what ``backward`` needs, ``x`` itself among it and not a copy: leave ``x`` as it is until backward
    has run. Each forward allows one backward, in training and in evaluation alike; gradients are replaced, not added
    up. A layer is made in training mode.

    A subclass writes ``forward`` (which sets ``_saved``) and ``_gradient``, and names its arrays in ``_parameters``,
    ``_decayed`` (those of the parameters that weight decay applies to) and ``_buffers`` (saved but not trained). The
    gradient of parameter ``gamma`` is the attribute ``dgamma``.
    """

    _parameters: ClassVar[tuple[str, ...]] = ()
    _decayed: ClassVar[tuple[str, ...]] = ()
    _buffers: ClassVar[tuple[str, ...]] = ()
    _trainable: ClassVar[tuple[tuple[str, str, bool], ...]] = ()
    """Of each parameter its name, that of its gradient, and whether it decays."""

    training: bool = True
    _saved: Any = None
    _after_backward: Callable[[Layer], None] | None = None
    """Called when the gradients of this layer's own parameters are there, while backward goes on below."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make ``layer(x)`` the forward itself: a wrapper would cost a second call on every use."""
        super().__init_subclass__(**kwargs)
        cls._trainable = tuple((name, sys.intern("d" + name), name in cls._decayed) for name in cls._parameters)
        cls.__call__ = cls.forward  # type: ignore[method-assign]

    def __call__(self, x: Array) -> Array:
        """Return ``forward(x)``."""
        return self.forward(x)

    def forward(self, x: Array) -> Array:
        """Return the layer's output for the float32 array ``x``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def backward(self, dy: Array) -> Array:
        """Return ``dx`` for the last forward and set the gradients of the parameters.

        Raises:
            RuntimeError: there is no forward that has not had its backward yet.
            ValueError: ``dy`` has not the shape of the forward's output.
        """
        if self._saved is None:
            raise RuntimeError(f"{type(self).__name__}.backward needs a forward of its own first: call them in turn")
        dx = self._gradient(dy, self._saved)
        self._finish_backward()
        return dx

    def _finish_backward(self) -> None:
        self._saved = None
        if self._after_backward is not None:
            self._after_backward(self)

    def _gradient(self, dy: Array, saved: Any) -> Array:
        """Return ``dx`` from ``dy`` and what forward saved, and set the gradients of the parameters."""
        raise NotImplementedError(f"{type(self).__name__} must define _gradient")

    def train(self: Self) -> Self:
        """Switch this layer and all layers in it to training mode; return it."""
        return self._set_training(True)

    def eval(self: Self) -> Self:
        """Switch this layer and all layers in it to evaluation mode; return it."""
        return self._set_training(False)

    def _set_training(self: Self, training: bool) -> Self:
        for _, layer in self._walk():
            layer.training = training
        return self

    def _children(self) -> Iterator[tuple[str, Layer]]:
        """Yield the layers directly inside this one, with their names."""
        return iter(())

    def _walk(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """Yield this layer and all layers in it, each with the prefix of its dotted names."""
        yield prefix, self
        for name, child in self._children():
            yield from child._walk(f"{prefix}{name}.")

    def parameters(self) -> Iterator[Parameter]:
        """Yield every trainable array with its dotted name, its gradient and whether weight decay applies to it."""
        for prefix, layer in self._walk():
            for name, gradient, decays in layer._trainable:
                if (value := getattr(layer, name)) is not None:
                    yield Parameter(prefix + name, value, getattr(layer, gradient), decays)

    def _settings(self) -> dict[str, Any]:
        """Return what this layer was made with: its class, and its public attributes that are plain values.

        A checkpoint of a fit wants the same again. Arrays are state, and other layers have settings of their own.
        """
        changing = {"training", *("d" + name for name in self._parameters)}
        plain = {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, _PLAIN) and name[0] != "_" and name not in changing
        }
        return {"class": type(self).__name__, **plain}

    def _state(self) -> dict[str, NDArray[Any]]:
        """Return the very arrays that make up the state, by dotted name; a private array goes by its public name."""
        return {
            prefix + name.removeprefix("_"): value
            for prefix, layer in self._walk()
            for name in layer._parameters + layer._buffers
            if (value := getattr(layer, name)) is not None
        }

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of all parameters and buffers (running statistics, seeds and offsets) by dotted name."""
        return {name: value.copy() for name, value in self._state().items()}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Copy ``state`` into the existing arrays, all or nothing; a forward still without its backward is forgotten.

        Raises:
            TypeError: ``state`` is not a mapping.
            ValueError: keys are missing or too many, or an array has the wrong shape or dtype; the message names each,
                and the layer is as it was.
        """
        own = self._state()
        arrays = matching(own, state)
        for name, array in arrays.items():
            own[name][...] = array
        self._forget()

    def _forget(self) -> None:
        """Forget the forward that waits for its backward, here and in all layers within."""
        for _, layer in self._walk():
            layer._saved = None

    def save(self, path: Path) -> None:
        """Write the state to ``path`` as ``.npz`` without pickle: whole or not at all, even if the machine stops.

        Raises:
            OSError: the file cannot be written; a file that was there before is untouched.
        """
        files.save_arrays(path, self._state())

    def load(self, path: Path) -> None:
        """Load the state that ``save`` wrote to ``path``.

        Raises:
            OSError: the file is missing or cannot be read.
            ValueError: the file is damaged, is not such a file, or holds the state of another layer; the layer is as
                it was.
        """
        arrays = files.load_arrays(path)
        try:
            self.load_state_dict(arrays)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def matching(own: Mapping[str, NDArray[Any]], state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return copies of the arrays of ``state`` if each fits its namesake in ``own``; else say all that is wrong."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping of names to arrays, got {type(state).__name__}")
    problems = []
    if missing := sorted(own.keys() - state.keys()):
        problems.append(f"missing {', '.join(missing)}")
    if extra := sorted(map(str, state.keys() - own.keys())):
        problems.append(f"unknown {', '.join(extra)}")
    for name in own.keys() & state.keys():
        problems.extend(_misfits(name, own[name], state[name]))
    if problems:
        raise ValueError(f"state does not fit, nothing was loaded: {'; '.join(problems)}")
    return {name: state[name].copy() for name in own}


def _misfits(name: str, own: NDArray[Any], came: object) -> Iterator[str]:
    if not own.flags.writeable:
        yield f"{name} of the layer is read-only"
    if not isinstance(came, np.ndarray):
        yield f"{name} must be an array, got {type(came).__name__}"
    elif came.dtype != own.dtype or came.shape != own.shape:
        yield f"{name} must be {own.dtype} of shape {own.shape}, got {came.dtype} of shape {came.shape}"
