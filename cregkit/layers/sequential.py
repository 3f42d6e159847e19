"""A chain of layers."""

from __future__ import annotations

from collections.abc import Iterator

from cregkit import _validate as validate
from cregkit.layers.base import Layer, Tensor


class Sequential(Layer):
    """Chain of layers: ``y = layers[-1](...layers[0](x))``; backward runs in reverse order.

    Names of parameters and state start with the index of the layer: ``0.weight``, ``2.gamma``.

    Parameters
    ----------
    *layers
        At least one layer, in the order of the forward. No layer may occur twice, because a layer saves the values of
        one forward only.

    Raises
    ------
    TypeError
        An argument is not a Layer.
    ValueError
        There is no layer, or one occurs twice.

    Examples
    --------
    >>> import numpy as np
    >>> from cregkit import LayerNorm, Linear, ReLU, Sequential
    >>> network = Sequential(Linear(4, 8, seed=0), LayerNorm(8), ReLU(), Linear(8, 2, seed=1))
    >>> y = network(np.ones((5, 4), dtype=np.float32))
    >>> network.backward(np.ones_like(y)).shape
    (5, 4)
    >>> [parameter.name for parameter in network.parameters()]
    ['0.weight', '0.bias', '1.gamma', '1.beta', '3.weight', '3.bias']
    """

    def __init__(self, *layers: Layer) -> None:
        """Check and keep the layers."""
        for layer in layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"layers must be Layer objects, got {validate.shown(layer)}")
        if not layers:
            raise ValueError("layers must hold at least one layer, got none")
        self.layers = layers
        if len({id(layer) for _, layer in self._walk()}) < sum(1 for _ in self._walk()):
            raise ValueError("layers must hold each layer once, got the same layer twice; make a second layer")

    def _children(self) -> Iterator[tuple[str, Layer]]:
        return ((str(index), layer) for index, layer in enumerate(self.layers))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the last layer.

        If a layer raises an error, the running statistics and dropout offsets of the layers before it have advanced
        already, and backward needs a new forward.

        Parameters
        ----------
        x
            Input of the first layer.

        Returns
        -------
        y
            Output of the last layer.
        """
        try:
            for layer in self.layers:
                x = layer(x)
        except BaseException:
            self._forget()
            raise
        return x

    def backward(self, dy: Tensor) -> Tensor:
        """Return ``dx`` and set the gradients of all layers."""
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy
