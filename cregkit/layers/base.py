"""The base class of all layers: training mode, parameters and gradients, state as plain arrays, saving and loading."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cregkit import _files as files
from cregkit import _validate as validate
from cregkit._files import Path

Array: TypeAlias = NDArray[np.float32]
Tensor: TypeAlias = NDArray[Any]
"""A float32, float16 or bfloat16 array: an input or output of a layer, its gradient, or a parameter."""
Self = TypeVar("Self", bound="Layer")
_PLAIN = (bool, int, float, str, type(None))


class Parameter(NamedTuple):
    """A trainable array with its gradient.

    Examples
    --------
    >>> from cregkit import LayerNorm
    >>> [parameter.name for parameter in LayerNorm(4).parameters()]
    ['gamma', 'beta']
    """

    name: str
    """Dotted name, such as ``0.weight``."""
    value: Tensor
    """The array itself, float32 unless the network comes from ``astype``; an optimizer updates it in place."""
    grad: Array | None
    """Gradient from the last backward, float32 of the shape of ``value``; None before the first backward."""
    decay: bool
    """Whether weight decay applies."""


class Layer:
    """Base class: ``y = layer(x)``, then ``dx = layer.backward(dy)``.

    ``forward`` saves what ``backward`` needs. It saves ``x`` without a copy, so do not write to ``x`` before backward.
    Each forward allows one backward, in training mode and in evaluation mode. Backward replaces gradients, it does not
    accumulate them. A new layer is in training mode.

    ``x`` is a float32, float16 or bfloat16 (``ml_dtypes.bfloat16``) array, and ``y``, ``dy`` and ``dx`` have its dtype.
    The result of a 16-bit ``x`` is that of the same values in float32, rounded once; a layer made of other layers
    rounds the result of each. Parameters are float32, or have the dtype of ``x`` after ``astype``. Their gradients and
    running statistics are always float32.

    A subclass implements ``forward``, which sets ``_saved``, and ``_gradient``. It lists its arrays by name:
    ``_parameters`` are trained, ``_decayed`` are the parameters with weight decay, ``_buffers`` are saved but not
    trained. The gradient of parameter ``gamma`` is the attribute ``dgamma``.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Layer
    >>> class Double(Layer):
    ...     def forward(self, x):
    ...         self._saved = ()
    ...         return 2 * x
    ...
    ...     def _gradient(self, dy, saved):
    ...         return 2 * dy
    >>> layer = Double()
    >>> x = np.array([1, 2], dtype=np.float32)
    >>> layer(x)
    array([2., 4.], dtype=float32)
    >>> layer.backward(x)
    array([2., 4.], dtype=float32)
    """

    _parameters: ClassVar[tuple[str, ...]] = ()
    _decayed: ClassVar[tuple[str, ...]] = ()
    _buffers: ClassVar[tuple[str, ...]] = ()
    _trainable: ClassVar[tuple[tuple[str, str, bool], ...]] = ()
    """For each parameter: its name, the name of its gradient, whether weight decay applies."""

    training: bool = True
    _saved: Any = None
    _after_backward: Callable[[Layer], None] | None = None
    """Called once the gradients of this layer's own parameters are set; backward of earlier layers has not run yet."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make ``__call__`` the forward itself: this saves one Python call per use."""
        super().__init_subclass__(**kwargs)
        cls._trainable = tuple((name, sys.intern("d" + name), name in cls._decayed) for name in cls._parameters)
        cls.__call__ = cls.forward  # type: ignore[method-assign]

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``forward(x)``."""
        return self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for the array ``x``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def backward(self, dy: Tensor) -> Tensor:
        """Return ``dx`` for the last forward and set the gradients of the parameters.

        Parameters
        ----------
        dy
            Gradient of the loss with respect to the forward's output, of its shape and dtype.

        Returns
        -------
        dx
            Gradient with respect to the forward's input, of its shape and dtype.

        Raises
        ------
        RuntimeError
            No forward precedes this backward.
        TypeError
            ``dy`` does not have the dtype of the forward's output.
        ValueError
            ``dy`` does not have the shape of the forward's output.
        """
        if self._saved is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward needs a forward before each backward: call the layer first"
            )
        dx = self._gradient(dy, self._saved)
        self._finish_backward()
        return dx

    def _finish_backward(self) -> None:
        self._saved = None
        if self._after_backward is not None:
            self._after_backward(self)

    def _gradient(self, dy: Tensor, saved: Any) -> Tensor:
        """Return ``dx`` from ``dy`` and the values that forward saved; set the gradients of the parameters."""
        raise NotImplementedError(f"{type(self).__name__} must define _gradient")

    def train(self: Self) -> Self:
        """Switch this layer and its sublayers to training mode; return the layer."""
        return self._set_training(True)

    def eval(self: Self) -> Self:
        """Switch this layer and its sublayers to evaluation mode; return the layer."""
        return self._set_training(False)

    def _set_training(self: Self, training: bool) -> Self:
        for _, layer in self._walk():
            layer.training = training
        return self

    def _children(self) -> Iterator[tuple[str, Layer]]:
        """Yield the direct sublayers with their names."""
        return iter(())

    def _walk(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """Yield this layer and all sublayers, each with the prefix of its dotted names."""
        yield prefix, self
        for name, child in self._children():
            yield from child._walk(f"{prefix}{name}.")

    def parameters(self) -> Iterator[Parameter]:
        """Yield the parameters of this layer and of its sublayers."""
        for prefix, layer in self._walk():
            for name, gradient, decays in layer._trainable:
                if (value := getattr(layer, name)) is not None:
                    yield Parameter(prefix + name, value, getattr(layer, gradient), decays)

    def astype(self: Self, dtype: DTypeLike) -> Self:
        """Return a copy whose parameters, here and in all sublayers, have another dtype.

        Use it to save memory and file size: inference takes inputs of this dtype, and training needs float32. Running
        statistics stay float32, because a variance may exceed the range of float16. The layer itself is unchanged.

        Parameters
        ----------
        dtype
            One of float32, float16 and ``ml_dtypes.bfloat16``. Values are rounded as by ``numpy.ndarray.astype``.

        Returns
        -------
        layer
            The copy, in the same mode.

        Raises
        ------
        TypeError
            ``dtype`` is another dtype.

        Examples
        --------
        >>> import numpy as np
        >>> from cregkit import Linear
        >>> half = Linear(3, 2, seed=0).astype(np.float16)
        >>> half.weight.dtype, half(np.ones((1, 3), np.float16)).dtype
        (dtype('float16'), dtype('float16'))
        """
        wanted = validate.tensor_dtype("dtype", dtype)
        cast = {id(parameter.value): parameter.value.astype(wanted) for parameter in self.parameters()}
        twin = copy.deepcopy(self, cast)
        twin._forget()
        return twin

    def _settings(self) -> dict[str, Any]:
        """Return the class and the public attributes with plain values, which come from the constructor.

        A checkpoint is loaded into equal settings only. Arrays are state; sublayers have their own settings.
        """
        changing = {"training", *("d" + name for name in self._parameters)}
        plain = {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, _PLAIN) and name[0] != "_" and name not in changing
        }
        return {"class": type(self).__name__, **plain}

    def _state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of the state, not copies, by dotted name; the leading underscore of a name is removed."""
        return {
            prefix + name.removeprefix("_"): value
            for prefix, layer in self._walk()
            for name in layer._parameters + layer._buffers
            if (value := getattr(layer, name)) is not None
        }

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of all parameters and buffers (running statistics, seeds, offsets) by dotted name."""
        return {name: value.copy() for name, value in self._state().items()}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Copy ``state`` into the existing arrays: all of it, or nothing on an error.

        Nothing is cast: load 16-bit parameters into a layer from ``astype``. Values saved by a forward for its backward
        are dropped.

        Parameters
        ----------
        state
            Arrays by dotted name, as from ``state_dict``.

        Raises
        ------
        TypeError
            ``state`` is not a mapping.
        ValueError
            Names are missing or unknown, or an array has the wrong shape or dtype. The message lists every problem, and
            the layer is unchanged.
        """
        own = self._state()
        arrays = matching(own, state)
        for name, array in arrays.items():
            own[name][...] = array
        self._forget()

    def _forget(self) -> None:
        """Drop the values saved for backward, here and in all sublayers."""
        for _, layer in self._walk():
            layer._saved = None

    def save(self, path: Path) -> None:
        """Write the state to an ``.npz`` file without pickle.

        The write is atomic: after a crash, the file has either its old or its new content.

        Parameters
        ----------
        path
            File to write.

        Raises
        ------
        OSError
            The file cannot be written. An existing file keeps its content.
        """
        files.save_arrays(path, self._state())

    def load(self, path: Path) -> None:
        """Load the state from a file written by ``save``.

        Parameters
        ----------
        path
            File to read; it need not be trusted.

        Raises
        ------
        ImportError
            An array is bfloat16, and ``ml_dtypes`` is not installed.
        OSError
            The file is missing or cannot be read.
        ValueError
            The file is damaged, has another format, or holds the state of a different layer. The layer is unchanged.
        """
        arrays = files.load_arrays(path)
        try:
            self.load_state_dict(arrays)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def matching(own: Mapping[str, NDArray[Any]], state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return copies of the arrays of ``state`` if every one matches ``own``; raise an error that lists all problems."""
    validate.state(state)
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
