"""Optimisers: they step the parameters of a network along the gradients of its last backward, by the fused kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cregkit.functional import adamw_step, sgd_step
from cregkit.layers import Layer, Parameter, validate
from cregkit.layers.base import Array, matching


@dataclass
class ParameterGroup:
    """Parameters, by dotted name, that share a step size and a weight decay; both may be set between steps."""

    names: tuple[str, ...]
    lr: float
    weight_decay: float


class Optimizer:
    """What the optimisers share: groups of parameters, and state that can be saved.

    ``groups`` holds two: the parameters that weight decay applies to, which are the weights, and the others, biases,
    gamma and beta, whose weight decay is 0. To leave layers as they are, give the optimiser the layers to train alone:
    ``SGD(network.layers[-1])``.

    A subclass names its state arrays, one of each per parameter, in ``_slots`` and writes ``_update``.
    """

    _slots: tuple[str, ...] = ()

    def __init__(self, network: Layer, lr: float, weight_decay: float) -> None:
        """Sort the parameters of ``network`` into groups; the state starts at 0."""
        if not isinstance(network, Layer):
            raise TypeError(f"network must be a Layer, got {type(network).__name__}")
        parameters = list(network.parameters())
        if not parameters:
            raise ValueError(f"network must have parameters to train, got {type(network).__name__} without any")
        lr, weight_decay = validate.real("lr", lr, 0), validate.real("weight_decay", weight_decay, 0)
        self.network = network
        self._made_with = {"lr": lr, "weight_decay": weight_decay}
        self.groups = tuple(
            ParameterGroup(tuple(p.name for p in parameters if p.decay is decay), lr, weight_decay if decay else 0.0)
            for decay in (True, False)
        )
        self._slot_arrays: dict[str, Array] = {
            f"{slot}.{parameter.name}": np.zeros_like(parameter.value)
            for slot in self._slots
            for parameter in parameters
        }
        self._steps = np.zeros((), dtype=np.int64)

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return int(self._steps)

    @property
    def lr(self) -> float:
        """The step size; setting it sets that of all groups."""
        return self.groups[0].lr

    @lr.setter
    def lr(self, lr: float) -> None:
        lr = validate.real("lr", lr, 0)
        for group in self.groups:
            group.lr = lr

    @property
    def settings(self) -> dict[str, Any]:
        """What the optimiser was made with, by the names of its arguments: a checkpoint wants the same again."""
        return dict(self._made_with)

    def step(self) -> None:
        """Change every parameter in place along its gradient.

        Raises:
            RuntimeError: a parameter has no gradient yet: call ``backward`` first; nothing has been changed.
            ValueError: a group's ``lr`` or ``weight_decay`` is not a finite number of at least 0.
        """
        group_of = {name: group for group in self.groups for name in group.names}
        gradients = [(parameter, parameter.grad) for parameter in self.network.parameters()]
        if missing := [parameter.name for parameter, gradient in gradients if gradient is None]:
            raise RuntimeError(f"no gradient yet for {', '.join(missing)}: call the network's backward before step")
        self._steps += 1
        for parameter, gradient in gradients:
            assert gradient is not None
            self._update(parameter, gradient, group_of[parameter.name])

    def _update(self, parameter: Parameter, gradient: Array, group: ParameterGroup) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _update")

    def _slot(self, slot: str, parameter: Parameter) -> Array:
        return self._slot_arrays[f"{slot}.{parameter.name}"]

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of all state: the slots by dotted name, ``steps``, and ``lr`` and ``weight_decay`` by group."""
        return {name: array.copy() for name, array in self._state()}

    def _state(self) -> Iterator[tuple[str, NDArray[Any]]]:
        yield from self._slot_arrays.items()
        yield "steps", self._steps
        yield "lr", np.array([group.lr for group in self.groups], dtype=np.float64)
        yield "weight_decay", np.array([group.weight_decay for group in self.groups], dtype=np.float64)

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over ``state``, all or nothing; the optimiser then goes on as the saved one would have.

        Raises:
            TypeError: ``state`` is not a mapping.
            ValueError: keys are missing or too many, or an array has the wrong shape or dtype.
        """
        arrays = matching(dict(self._state()), state)
        for name, array in self._slot_arrays.items():
            array[...] = arrays[name]
        self._steps[...] = arrays["steps"]
        for group, lr, weight_decay in zip(self.groups, arrays["lr"], arrays["weight_decay"], strict=True):
            group.lr, group.weight_decay = float(lr), float(weight_decay)


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted.

    g = dw + weight_decay * w;  velocity = momentum * velocity + g;  w -= lr * velocity (without momentum: lr * g).
    As ``torch.optim.SGD`` (Polyak, 1964; Sutskever et al., 2013).

    Args:
        network: the layer whose parameters to train.
        lr: step size, at least 0.
        momentum: in [0, 1].
        weight_decay: L2 coefficient of the weights, at least 0.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value, or the network has no parameters.
    """

    def __init__(self, network: Layer, lr: float = 0.01, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        """Start with a velocity of 0."""
        self.momentum = validate.real("momentum", momentum, 0, 1)
        if momentum:
            self._slots = ("velocity",)
        super().__init__(network, lr, weight_decay)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments lr, weight_decay and momentum."""
        return {**super().settings, "momentum": self.momentum}

    def _update(self, parameter: Parameter, gradient: Array, group: ParameterGroup) -> None:
        sgd_step(
            parameter.value,
            gradient,
            group.lr,
            weight_decay=group.weight_decay,
            momentum=self.momentum,
            velocity=self._slot("velocity", parameter) if self.momentum else None,
        )


class Adam(Optimizer):
    """Adam with weight decay coupled, that is, as L2 within the gradient (Kingma & Ba, 2015).

    g = dw + weight_decay * w;  m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g**2;
    w -= lr * m_hat / (sqrt(v_hat) + eps), with m_hat = m / (1 - beta1**t) and v_hat = v / (1 - beta2**t).
    As ``torch.optim.Adam``.

    Args:
        network: the layer whose parameters to train.
        lr: step size, at least 0.
        betas: decay of the moments m and v, each in [0, 1).
        eps: added to the root of v_hat, at least 0.
        weight_decay: L2 coefficient of the weights, at least 0.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value, or the network has no parameters.
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
    ) -> None:
        """Start with moments of 0."""
        if not isinstance(betas, tuple) or len(betas) != 2:
            raise ValueError(f"betas must be a tuple of two numbers, got {betas!r}")
        below_one = float(np.nextafter(1.0, 0.0))
        self.betas = (
            validate.real("betas[0]", betas[0], 0, below_one),
            validate.real("betas[1]", betas[1], 0, below_one),
        )
        self.eps = validate.real("eps", eps, 0)
        super().__init__(network, lr, weight_decay)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments lr, weight_decay, betas and eps."""
        return {**super().settings, "betas": list(self.betas), "eps": self.eps}

    def _update(self, parameter: Parameter, gradient: Array, group: ParameterGroup) -> None:
        adamw_step(
            parameter.value,
            gradient,
            self._slot("m", parameter),
            self._slot("v", parameter),
            self.steps,
            group.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=group.weight_decay,
            decoupled=self._decoupled,
        )


class AdamW(Adam):
    """Adam with weight decay decoupled from the gradient (Loshchilov & Hutter, 2019).

    w *= 1 - lr * weight_decay, then as Adam with g = dw: the decay does not pass through the moments, so it is the same
    for weights with large and small gradients. As ``torch.optim.AdamW``.

    Args:
        network: the layer whose parameters to train.
        lr: step size, at least 0.
        betas: decay of the moments m and v, each in [0, 1).
        eps: added to the root of v_hat, at least 0.
        weight_decay: decay of the weights per step and unit of ``lr``, at least 0.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value, or the network has no parameters.
    """

    _decoupled = True

    def __init__(
        self,
        network: Layer,
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        """Start with moments of 0."""
        super().__init__(network, lr, betas, eps, weight_decay)
