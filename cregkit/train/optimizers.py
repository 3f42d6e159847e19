"""Optimisers: they update the parameters of a network from the gradients of its last backward, by fused kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from cregkit import _validate as validate
from cregkit.functional import adamw_step, max_norm, sgd_step, sum_squares
from cregkit.layers import Layer, Parameter
from cregkit.layers.base import Array, matching
from cregkit.train.divergence import DivergenceError

_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)
_FLOAT32 = np.dtype(np.float32)
_NEW_ARRAY = np.empty((2, 2)).flags.num
"""The flags of a newly allocated array: C-contiguous, aligned, writeable, and the owner of its memory."""
_BELOW_ONE = float(np.nextafter(1.0, 0.0))


def _is_rate(value: object) -> TypeGuard[float]:
    return type(value) is float and 0.0 <= value <= _LARGEST


def _rate(name: str, value: object) -> float:
    """Return ``value`` as a float, at least 0 and finite in float32."""
    number = validate.real(name, value, 0)
    if number > _LARGEST:
        raise ValueError(f"{name} must be finite in float32, got {number}")
    return number


def _is_limit(value: object) -> TypeGuard[float | None]:
    return value is None or (type(value) is float and _SMALLEST <= value <= _LARGEST)


def _limit(name: str, value: object) -> float | None:
    """Return ``value``, None for no limit, or as a float that is positive and normal in float32."""
    if value is None:
        return None
    number = _rate(name, value)
    if number < _SMALLEST:
        raise ValueError(f"{name} must be at least {_SMALLEST:g}, or None for no limit, got {number:g}")
    return number


def _plain(value: float | None) -> float | None:
    return None if value is None else float(value)


@dataclass
class ParameterGroup:
    """Parameters that share a learning rate and what regularises them.

    Attributes
    ----------
    names
        Dotted names of the parameters.
    lr
        Learning rate, at least 0; may be set between steps.
    weight_decay
        Weight decay, at least 0; may be set between steps.
    l1
        Factor of the L1 penalty, at least 0; may be set between steps.
    max_norm
        Largest norm of the incoming weights of a unit, or None; may be set between steps.

    Examples
    --------
    >>> from cregkit import Linear
    >>> from cregkit.train import AdamW
    >>> weights, others = AdamW(Linear(2, 2, seed=0), weight_decay=0.1).groups
    >>> weights
    ParameterGroup(names=('weight',), lr=0.001, weight_decay=0.1, l1=0.0, max_norm=None)
    >>> others
    ParameterGroup(names=('bias',), lr=0.001, weight_decay=0.0, l1=0.0, max_norm=None)
    """

    names: tuple[str, ...]
    lr: float
    weight_decay: float
    l1: float = 0.0
    max_norm: float | None = None


_RATES = ("lr", "weight_decay", "l1", "max_norm")
_Change: TypeAlias = tuple[Parameter, Array, ParameterGroup]


class Optimizer:
    """Base class of optimisers: parameter groups, and a state that can be saved.

    There are two ``groups``: weights, to which weight decay, L1 and max-norm apply, and all other parameters (biases,
    gamma, beta). To freeze layers, construct the optimiser for the layers to train: ``SGD(network.layers[-1])``.

    A step does this, in order, in one pass over the gradients to check them and to sum their squares, one over all
    arrays, and with ``max_norm`` one more over the weights:

    1. ``clipvalue``: each gradient element into ``[-clipvalue, clipvalue]``;
    2. ``global_clipnorm``: all gradients times ``min(1, global_clipnorm / norm)``, ``norm`` being that of all of them;
    3. the update, with weight decay;
    4. ``l1``: ``w = sign(w) * max(abs(w) - lr * l1, 0)``;
    5. ``max_norm``: the incoming weights of each unit times ``min(1, max_norm / norm)``;
    6. ``ema_momentum``: ``average = ema_momentum * average + (1 - ema_momentum) * w``.

    A subclass lists its state arrays, one of each per parameter, in ``_slots`` and implements ``_update``, which does
    what ``_modifiers`` says. It validates its own settings that may change between steps in ``_check_settings``.

    Parameters
    ----------
    network
        Layer whose parameters to train.
    lr
        Learning rate, at least 0.
    weight_decay
        Weight decay of the weights, at least 0.
    l1
        Factor of the L1 penalty of the weights, at least 0. Weights that it takes to 0 are exactly 0. With
        ``weight_decay``, this is the elastic net.
    max_norm
        Largest norm of the incoming weights of each unit, ``weight[i]``, or None. Only for weights of two or more axes.
    clipvalue
        Limit of the magnitude of each gradient element, or None.
    global_clipnorm
        Limit of the norm of all gradients together, or None.
    ema_momentum
        Share of the old average in the exponential moving average of the parameters, in [0, 1]; see ``averaged``. None:
        no average. The first step sets the average to the parameters.

    Raises
    ------
    TypeError
        An argument has the wrong type, or a parameter is not float32.
    ValueError
        An argument has the wrong value, or the network has no parameters.

    References
    ----------
    Pascanu, Mikolov and Bengio (2013), "On the difficulty of training recurrent neural networks", ICML (clipping).
    Parikh and Boyd (2014), "Proximal Algorithms" (L1). Zou and Hastie (2005), "Regularization and variable selection
    via the elastic net". Srivastava et al. (2014), "Dropout: A Simple Way to Prevent Neural Networks from Overfitting"
    (max-norm). Polyak and Juditsky (1992), "Acceleration of Stochastic Approximation by Averaging".

    Examples
    --------
    >>> from cregkit import Linear
    >>> from cregkit.train import Optimizer
    >>> class SignDescent(Optimizer):
    ...     def _update(self, parameter, gradient, group):
    ...         parameter.value[...] -= group.lr * np.sign(gradient)
    >>> import numpy as np
    >>> network = Linear(2, 1, bias=False, seed=0)
    >>> network.weight[...] = 1
    >>> network.backward(network(np.array([[1, -1]], np.float32)) + 1)
    array([[1., 1.]], dtype=float32)
    >>> SignDescent(network, lr=0.5, weight_decay=0.0).step()
    >>> network.weight
    array([[0.5, 1.5]], dtype=float32)
    """

    _slots: tuple[str, ...] = ()

    def __init__(
        self,
        network: Layer,
        lr: float,
        weight_decay: float,
        *,
        l1: float = 0.0,
        max_norm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        ema_momentum: float | None = None,
    ) -> None:
        """Sort the parameters of ``network`` into groups; the state starts at 0."""
        if not isinstance(network, Layer):
            raise TypeError(f"network must be a Layer, got {validate.shown(network)}")
        parameters = list(network.parameters())
        if not parameters:
            raise ValueError(f"network must have parameters to train, got {type(network).__name__} without any")
        for parameter in parameters:
            if parameter.value.dtype != _FLOAT32:
                raise TypeError(
                    f"network must have float32 parameters to train, got {parameter.value.dtype} for {parameter.name}: "
                    f"train network.astype(np.float32)"
                )
        lr, weight_decay = _rate("lr", lr), _rate("weight_decay", weight_decay)
        l1, max_norm = _rate("l1", l1), _limit("max_norm", max_norm)
        self.clipvalue, self.global_clipnorm, self.ema_momentum = clipvalue, global_clipnorm, ema_momentum
        if ema_momentum is not None:
            self._slots = (*self._slots, "average")
        self._check_modifiers()
        self.network = network
        weights, others = (tuple(p.name for p in parameters if p.decay is decay) for decay in (True, False))
        self.groups = ParameterGroup(weights, lr, weight_decay, l1, max_norm), ParameterGroup(others, lr, 0.0)
        self._shapes = {parameter.name: parameter.value.shape for parameter in parameters}
        self._slot_arrays: dict[str, Array] = {
            f"{slot}.{parameter.name}": np.zeros_like(parameter.value)
            for slot in self._slots
            for parameter in parameters
        }
        self._slots_of = {
            parameter.name: tuple(self._slot_arrays[f"{slot}.{parameter.name}"] for slot in self._slots)
            for parameter in parameters
        }
        self._steps = 0
        self._scale = 1.0
        self._in_average = False
        self._began_with: dict[str, float | None] = {}

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return self._steps

    @property
    def lr(self) -> float:
        """The learning rate of the first group; setting it sets that of all groups."""
        return self.groups[0].lr

    @lr.setter
    def lr(self, lr: float) -> None:
        lr = _rate("lr", lr)
        for group in self.groups:
            group.lr = lr

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the first step, by name; a run resumes from a checkpoint only if they are equal."""
        modifiers = {name: _plain(getattr(self, name)) for name in ("clipvalue", "global_clipnorm", "ema_momentum")}
        return {**(self._began_with if self.steps else self._rates()), **modifiers}

    def _rates(self) -> dict[str, float | None]:
        return {
            name if index == 0 else f"groups[{index}].{name}": _plain(getattr(group, name))
            for index, group in enumerate(self.groups)
            for name in _RATES
        }

    def step(self) -> None:
        """Update every parameter in place from its gradient.

        If anything is wrong, no parameter is changed and the step does not count.

        Raises
        ------
        RuntimeError
            A parameter has no gradient yet: call ``backward`` first.
        TypeError
            A setting has the wrong type, or a parameter or gradient is not a float32 array.
        ValueError
            A setting has the wrong value, the parameters differ from those the optimiser was made for, a parameter is
            read-only, or a gradient does not have the shape of its parameter.
        DivergenceError
            A gradient is not finite.
        """
        self._take(self._checked())

    def _checked(self) -> list[_Change]:
        """Return the parameters, gradients and groups of a step after validating all of them."""
        if self._in_average:
            raise RuntimeError("a step inside averaged() would be lost: take it after the with block")
        self._check_settings()
        parameters = list(self.network.parameters())
        if [parameter.name for parameter in parameters] != list(self._shapes):
            raise ValueError(
                f"network must have the parameters that the optimiser was made for, {', '.join(self._shapes)}, got "
                f"{', '.join(parameter.name for parameter in parameters)}; make a new optimiser"
            )
        groups = self._group_of_each()
        changes = []
        for parameter, shape in zip(parameters, self._shapes.values(), strict=True):
            name, value, gradient, _ = parameter
            if gradient is None:
                missing = [parameter.name for parameter in parameters if parameter.grad is None]
                raise RuntimeError(f"no gradient yet for {', '.join(missing)}: call the network's backward before step")
            # Fast path: newly allocated arrays, the usual case, need no further checks.
            if not (
                type(value) is type(gradient) is np.ndarray
                and value.dtype is gradient.dtype is _FLOAT32
                and value.shape == gradient.shape == shape
                and value.flags.num & gradient.flags.num & _NEW_ARRAY == _NEW_ARRAY
                and value is not gradient
            ):
                _check_arrays(name, value, gradient, shape)
            changes.append((parameter, gradient, groups[name]))
        self._scale = self._scale_of(changes)
        return changes

    def _scale_of(self, changes: list[_Change]) -> float:
        """Return the factor that limits the norm of all gradients; raise if one is not finite."""
        total = 0.0
        for parameter, gradient, _ in changes:
            squares = sum_squares(gradient, clipvalue=self.clipvalue)
            if not math.isfinite(squares):
                raise DivergenceError(f"the gradient of {parameter.name} is not finite")
            total += squares
        if self.global_clipnorm is None or total <= self.global_clipnorm**2:
            return 1.0
        return self.global_clipnorm / math.sqrt(total)

    def _check_settings(self) -> None:
        """Validate the settings; a subclass adds its own."""
        for index, group in enumerate(self.groups):
            if not (_is_rate(group.lr) and _is_rate(group.weight_decay) and _is_rate(group.l1)):
                for name in ("lr", "weight_decay", "l1"):
                    _rate(f"groups[{index}].{name}", getattr(group, name))
            if not _is_limit(group.max_norm):
                _limit(f"groups[{index}].max_norm", group.max_norm)
        self._check_modifiers()

    def _check_modifiers(self) -> None:
        if not (_is_limit(self.clipvalue) and _is_limit(self.global_clipnorm)):
            self.clipvalue = _limit("clipvalue", self.clipvalue)
            self.global_clipnorm = _limit("global_clipnorm", self.global_clipnorm)
        if self.ema_momentum is not None:
            self.ema_momentum = validate.real("ema_momentum", self.ema_momentum, 0, 1)
        if (self.ema_momentum is None) == ("average" in self._slots):
            raise ValueError(
                f"ema_momentum must stay None, or stay a number, as when the optimiser was made, "
                f"got {self.ema_momentum}"
            )

    def _group_of_each(self) -> dict[str, ParameterGroup]:
        groups = {name: group for group in self.groups for name in group.names}
        if groups.keys() != self._shapes.keys():
            odd = ", ".join(sorted(groups.keys() ^ self._shapes.keys()))
            raise ValueError(f"groups must hold the names of all parameters and no others, check {odd}")
        if sum(len(group.names) for group in self.groups) != len(groups):
            names = [name for group in self.groups for name in group.names]
            twice = ", ".join(sorted({name for name in names if names.count(name) > 1}))
            raise ValueError(f"groups must hold each parameter once, got {twice} more than once")
        return groups

    def _take(self, changes: list[_Change]) -> None:
        """Apply the changes that ``_checked`` returned."""
        if not self._steps:
            self._began_with = self._rates()
        self._steps += 1
        for parameter, gradient, group in changes:
            self._update(parameter, gradient, group)
            if group.max_norm is not None and parameter.value.ndim > 1:
                max_norm(parameter.value, group.max_norm, **self._averaging(parameter))

    def _modifiers(self, parameter: Parameter, group: ParameterGroup) -> dict[str, Any]:
        """Return what a step does besides its update, as keyword arguments of ``adamw_step`` and ``sgd_step``."""
        modifiers: dict[str, Any] = {}
        if self.clipvalue is not None:
            modifiers["clipvalue"] = self.clipvalue
        if self._scale != 1.0:
            modifiers["scale"] = self._scale
        if group.l1:
            modifiers["l1"] = group.l1
        if group.max_norm is None or parameter.value.ndim < 2:
            modifiers.update(self._averaging(parameter))
        return modifiers

    def _averaging(self, parameter: Parameter) -> dict[str, Any]:
        """Return the average to move and its momentum, as keyword arguments; the first average is the parameter."""
        if self.ema_momentum is None:
            return {}
        momentum = self.ema_momentum if self._steps > 1 else 0.0
        return {"average": self._slot_arrays[f"average.{parameter.name}"], "ema_momentum": momentum}

    @property
    def averages(self) -> dict[str, Array]:
        """The moving averages by the names of the parameters.

        Returns
        -------
        dict
            The arrays themselves, which each step changes.

        Raises
        ------
        ValueError
            The optimiser was made without ``ema_momentum``.
        RuntimeError
            There was no step yet.
        """
        if self.ema_momentum is None:
            raise ValueError("ema_momentum must be a number for averages of the parameters, such as 0.999, got None")
        if not self._steps:
            raise RuntimeError("no average of the parameters yet: take a step first")
        return {name: self._slot_arrays[f"average.{name}"] for name in self._shapes}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the network hold the moving averages of its parameters inside a ``with`` block.

        After the block, also after an exception, the network has its whole state from before: parameters, running
        statistics, dropout's offsets. The running statistics belong to the trained parameters; ``update_batch_norm``
        computes those of the averages.

        Yields
        ------
        None
            Nothing; evaluate the network inside the block.

        Raises
        ------
        ValueError
            The optimiser was made without ``ema_momentum``.
        RuntimeError
            There was no step yet.

        Examples
        --------
        >>> import numpy as np
        >>> from cregkit import Linear
        >>> from cregkit.train import SGD, mean_squared_error, train_step
        >>> network = Linear(1, 1, bias=False, seed=0)
        >>> network.weight[...] = 1
        >>> optimizer = SGD(network, lr=0.25, ema_momentum=0.5)
        >>> x, targets = np.ones((1, 1), np.float32), np.full((1, 1), 3, np.float32)
        >>> for _ in range(2):
        ...     loss = train_step(network, mean_squared_error, optimizer, x, targets)
        >>> with optimizer.averaged():
        ...     print(network.weight)
        [[2.25]]
        >>> network.weight
        array([[2.5]], dtype=float32)
        """
        averages, before = self.averages, self.network.state_dict()
        nested = self._in_average
        self.network.load_state_dict({**before, **averages})
        self._in_average = True
        try:
            yield
        finally:
            self._in_average = nested
            self.network.load_state_dict(before)

    def _update(self, parameter: Parameter, gradient: Array, group: ParameterGroup) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _update")

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of the state: arrays by dotted name, ``steps``, and the rates of the groups.

        Returns
        -------
        dict
            Moments, velocities and averages; ``lr``, ``weight_decay``, ``l1`` and ``max_norm``, one number per group,
            where 0 stands for no ``max_norm``.
        """
        return {name: array.copy() for name, array in self._state()}

    def _state(self) -> Iterator[tuple[str, NDArray[Any]]]:
        yield from self._slot_arrays.items()
        yield "steps", np.array(self._steps, dtype=np.int64)
        for name in _RATES:
            yield name, np.array([getattr(group, name) or 0.0 for group in self.groups], dtype=np.float64)

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Load a state from ``state_dict``, all or nothing; training then continues bit-identically.

        Parameters
        ----------
        state
            State returned by ``state_dict``.

        Raises
        ------
        TypeError
            ``state`` is not a mapping.
        ValueError
            An array is missing, unknown, or has the wrong shape, dtype or value.
        """
        arrays = matching(dict(self._state()), state)
        if arrays["steps"] < 0:
            raise ValueError(f"steps must be at least 0, got {arrays['steps']}; nothing was loaded")
        rates = {
            name: [_rate(f"{name}[{index}]", float(value)) for index, value in enumerate(arrays[name])]
            for name in _RATES
        }
        limits = [_limit(f"max_norm[{index}]", rate or None) for index, rate in enumerate(rates["max_norm"])]
        if not self.steps:
            self._began_with = self._rates()
        for name, array in self._slot_arrays.items():
            array[...] = arrays[name]
        self._steps = int(arrays["steps"])
        for index, group in enumerate(self.groups):
            group.lr, group.weight_decay, group.l1 = (rates[name][index] for name in ("lr", "weight_decay", "l1"))
            group.max_norm = limits[index]


def _check_arrays(name: str, value: Array, gradient: Array, shape: tuple[int, ...]) -> None:
    """Raise if a step cannot read the gradient or write the parameter."""
    for array in (value, gradient):
        what = name if array is value else f"the gradient of {name}"
        if not isinstance(array, np.ndarray) or array.dtype != _FLOAT32:
            validate.float32(what, array)
        flags = array.flags
        if array.shape != shape or not flags.c_contiguous or not flags.aligned:
            raise ValueError(
                f"{what} must be aligned and C-contiguous, of shape {shape} as when the optimiser was made, "
                f"got shape {array.shape} and strides {array.strides}"
            )
    if not value.flags.writeable:
        raise ValueError(
            f"{name} must be writeable, got a read-only array; to freeze it, leave its layer out of network"
        )
    if np.may_share_memory(value, gradient):
        raise ValueError(f"the gradient of {name} must not share memory with {name}")


class SGD(Optimizer):
    """Stochastic gradient descent with optional momentum.

    g = dw + weight_decay * w;  velocity = momentum * velocity + g;  w -= lr * velocity (without momentum: lr * g).
    Same algorithm as ``torch.optim.SGD``.

    Parameters
    ----------
    network
        Layer whose parameters to train.
    lr
        Learning rate, at least 0.
    momentum
        Momentum in [0, 1].
    weight_decay
        L2 coefficient of the weights, at least 0.
    l1, max_norm, clipvalue, global_clipnorm, ema_momentum
        Further regularisation, as for ``Optimizer``.

    Raises
    ------
    TypeError
        An argument has the wrong type, or a parameter is not float32.
    ValueError
        An argument has the wrong value, or the network has no parameters.

    References
    ----------
    Polyak (1964), "Some methods of speeding up the convergence of iteration methods".
    Sutskever et al. (2013), "On the importance of initialization and momentum in deep learning", ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.train import SGD, mean_squared_error, train_step
    >>> network = Linear(1, 1, bias=False, seed=0)
    >>> network.weight[...] = 1
    >>> x, targets = np.ones((1, 1), np.float32), np.full((1, 1), 3, np.float32)
    >>> train_step(network, mean_squared_error, SGD(network, lr=0.25), x, targets)
    4.0
    >>> network.weight
    array([[2.]], dtype=float32)
    """

    def __init__(
        self,
        network: Layer,
        lr: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        l1: float = 0.0,
        max_norm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        ema_momentum: float | None = None,
    ) -> None:
        """Validate the settings; the velocity starts at 0."""
        self.momentum = validate.real("momentum", momentum, 0, 1)
        if momentum:
            self._slots = ("velocity",)
        super().__init__(
            network,
            lr,
            weight_decay,
            l1=l1,
            max_norm=max_norm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            ema_momentum=ema_momentum,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of all optimisers, and ``momentum``."""
        return {**super().settings, "momentum": float(self.momentum)}

    def _check_settings(self) -> None:
        super()._check_settings()
        if validate.real("momentum", self.momentum, 0, 1) and "velocity" not in self._slots:
            raise ValueError(f"momentum must stay 0, as it was when the optimiser was made, got {self.momentum}")

    def _update(self, parameter: Parameter, gradient: Array, group: ParameterGroup) -> None:
        slots = self._slots_of[parameter.name]
        sgd_step(
            parameter.value,
            gradient,
            group.lr,
            weight_decay=group.weight_decay,
            momentum=self.momentum,
            velocity=slots[0] if self.momentum else None,
            **self._modifiers(parameter, group),
        )


class Adam(Optimizer):
    """Adam with coupled weight decay: an L2 term in the gradient.

    g = dw + weight_decay * w;  m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g**2;
    w -= lr * m_hat / (sqrt(v_hat) + eps), with m_hat = m / (1 - beta1**t) and v_hat = v / (1 - beta2**t) in step t.
    Same algorithm as ``torch.optim.Adam``.

    Parameters
    ----------
    network
        Layer whose parameters to train.
    lr
        Learning rate, at least 0.
    betas
        Decay rates (beta1, beta2) of the moments m and v, each in [0, 1).
    eps
        Added to sqrt(v_hat), at least 0.
    weight_decay
        L2 coefficient of the weights, at least 0.
    l1, max_norm, clipvalue, global_clipnorm, ema_momentum
        Further regularisation, as for ``Optimizer``.

    Raises
    ------
    TypeError
        An argument has the wrong type, or a parameter is not float32.
    ValueError
        An argument has the wrong value, or the network has no parameters.

    References
    ----------
    Kingma and Ba (2015), "Adam: A Method for Stochastic Optimization", arXiv:1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.train import Adam, mean_squared_error, train_step
    >>> network = Linear(1, 1, bias=False, seed=0)
    >>> network.weight[...] = 1
    >>> x, targets = np.ones((1, 1), np.float32), np.full((1, 1), 3, np.float32)
    >>> train_step(network, mean_squared_error, Adam(network, lr=0.1), x, targets)
    4.0
    >>> network.weight
    array([[1.1]], dtype=float32)
    """

    _slots = ("m", "v")
    _decoupled = False

    def __init__(
        self,
        network: Layer,
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        l1: float = 0.0,
        max_norm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        ema_momentum: float | None = None,
    ) -> None:
        """Validate the settings; the moments start at 0."""
        self.betas, self.eps = betas, eps
        self._check_moments()
        super().__init__(
            network,
            lr,
            weight_decay,
            l1=l1,
            max_norm=max_norm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            ema_momentum=ema_momentum,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of all optimisers, ``betas`` and ``eps``."""
        return {**super().settings, "betas": [float(beta) for beta in self.betas], "eps": float(self.eps)}

    def _check_settings(self) -> None:
        super()._check_settings()
        self._check_moments()

    def _check_moments(self) -> None:
        if not isinstance(self.betas, tuple) or len(self.betas) != 2:
            raise ValueError(f"betas must be a tuple of two numbers, got {self.betas!r}")
        for index, beta in enumerate(self.betas):
            validate.real(f"betas[{index}]", beta, 0, _BELOW_ONE)
        _rate("eps", self.eps)

    def _update(self, parameter: Parameter, gradient: Array, group: ParameterGroup) -> None:
        m, v = self._slots_of[parameter.name][:2]
        adamw_step(
            parameter.value,
            gradient,
            m,
            v,
            self._steps,
            group.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=group.weight_decay,
            decoupled=self._decoupled,
            **self._modifiers(parameter, group),
        )


class AdamW(Adam):
    """Adam with weight decay decoupled from the gradient.

    w *= 1 - lr * weight_decay, then the update of ``Adam`` with g = dw. The decay does not pass through the moments, so
    it is the same for weights with large and small gradients. Same algorithm as ``torch.optim.AdamW``.

    Parameters
    ----------
    network
        Layer whose parameters to train.
    lr
        Learning rate, at least 0.
    betas
        Decay rates (beta1, beta2) of the moments m and v, each in [0, 1).
    eps
        Added to sqrt(v_hat), at least 0.
    weight_decay
        Decay of the weights per step, relative to ``lr``, at least 0.
    l1, max_norm, clipvalue, global_clipnorm, ema_momentum
        Further regularisation, as for ``Optimizer``.

    Raises
    ------
    TypeError
        An argument has the wrong type, or a parameter is not float32.
    ValueError
        An argument has the wrong value, or the network has no parameters.

    References
    ----------
    Loshchilov and Hutter (2019), "Decoupled Weight Decay Regularization", arXiv:1711.05101.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import Linear
    >>> from cregkit.train import AdamW, mean_squared_error, train_step
    >>> network = Linear(1, 1, bias=False, seed=0)
    >>> network.weight[...] = 1
    >>> x, targets = np.ones((1, 1), np.float32), np.full((1, 1), 3, np.float32)
    >>> train_step(network, mean_squared_error, AdamW(network, lr=0.1, weight_decay=0.5), x, targets)
    4.0
    >>> network.weight
    array([[1.05]], dtype=float32)
    """

    _decoupled = True

    def __init__(
        self,
        network: Layer,
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        l1: float = 0.0,
        max_norm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        ema_momentum: float | None = None,
    ) -> None:
        """Validate the settings; the moments start at 0."""
        super().__init__(
            network,
            lr,
            betas,
            eps,
            weight_decay,
            l1=l1,
            max_norm=max_norm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            ema_momentum=ema_momentum,
        )
