"""Compares the gradients of a layer with central differences."""

from __future__ import annotations

import numpy as np

STEP = 3e-3
# Of the largest component of a gradient: the truncation of the quotient is STEP**2 / 6 = 1.5e-6 times a third
# derivative, which reaches hundreds of times the first where LayerNorm follows GELU's flat tail.
TRUNCATION = 2e-3
# Rounding of a float32 output, which the quotient divides by 2 * STEP.
ROUNDING = 2.0**-24


def _loss(layer, x, weights, state):
    """Return a scalar of the forward from ``state``, which puts dropout's offset and running statistics back."""
    layer.load_state_dict(state)
    return float((layer.forward(x).astype(np.float64) * weights).sum())


def _difference(loss_of, value):
    """Return the central differences of ``loss_of(changed value)`` in every component of ``value``."""
    gradient = np.zeros(value.shape)
    for index in np.ndindex(value.shape):
        up, down = value.copy(), value.copy()
        up[index] += STEP
        down[index] -= STEP
        gradient[index] = (loss_of(up) - loss_of(down)) / (float(up[index]) - float(down[index]))
    return gradient


def assert_gradients(layer, x):
    """Check dx and the gradient of every parameter of ``layer`` at ``x`` in its present mode."""
    state = layer.state_dict()
    y = layer.forward(x)
    layer.load_state_dict(state)
    layer.forward(x)
    weights = np.random.default_rng(99).normal(size=y.shape).astype(np.float32)
    analytic = {"x": layer.backward(weights)}
    assert analytic["x"].dtype == np.float32
    analytic.update((parameter.name, parameter.grad.copy()) for parameter in layer.parameters())
    numeric = {"x": _difference(lambda moved: _loss(layer, moved, weights, state), x)}
    for name in analytic.keys() - {"x"}:
        numeric[name] = _difference(
            lambda moved, name=name: _loss(layer, x, weights, {**state, name: moved}), state[name]
        )
    layer.load_state_dict(state)
    noise = ROUNDING * float(np.abs(y * weights).sum()) / STEP
    for name, gradient in analytic.items():
        error = np.abs(gradient - numeric[name]).max()
        assert error <= TRUNCATION * np.abs(numeric[name]).max() + noise, f"{name}: off by {error:.2e}"
