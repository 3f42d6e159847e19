"""Layers one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from cregkit import _validate as validate
from cregkit.layers.base import Array, Layer


class Sequential(Layer):
    """``y = layers[-1](... layers[0](x))``; backward goes through them in reverse.

    Names of parameters and state begin with the position of the layer: ``0.weight``, ``2.gamma``.

    Raises:
        TypeError: something is not a Layer.
        ValueError: there is no layer, or one comes twice (it could keep only one of its two forwards for backward).
    """

    def __init__(self, *layers: Layer) -> None:
        """Take the layers in the order of the forward."""
        for layer in layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"layers must be Layer objects, got {validate.shown(layer)}")
        if not layers:
            raise ValueError("layers must hold at least one layer, got none")
        self.layers = layers
        if len({id(layer) for _, layer in self._walk()}) < sum(1 for _ in self._walk()):
            raise ValueError("layers holds the same layer twice; make a second one")

    def _children(self) -> Iterator[tuple[str, Layer]]:
        return ((str(index), layer) for index, layer in enumerate(self.layers))

    def forward(self, x: Array) -> Array:
        """Return ``x`` sent through all layers.

        If one fails, those before it have done their forward: running statistics and dropout's position have moved on.
        Backward then asks for a new forward, lest it mix the two.
        """
        try:
            for layer in self.layers:
                x = layer(x)
        except BaseException:
            self._forget()
            raise
        return x

    def backward(self, dy: Array) -> Array:
        """Return ``dx`` and set the gradients of all layers; errors are those of the layers."""
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy
