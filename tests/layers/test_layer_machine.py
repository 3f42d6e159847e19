"""Random sequences of calls on a network: every result is right, or an error leaves the network unchanged."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from support import Array

import cregkit as ck

FEATURES = 5


def network(seed: int) -> ck.Sequential:
    return ck.Sequential(
        ck.Linear(FEATURES, FEATURES, seed=seed),
        ck.BatchNorm(FEATURES),
        ck.ReLU(),
        ck.Dropout(0.4, seed=seed),
        ck.LayerNorm(FEATURES),
        ck.GroupNorm(1, FEATURES),
        ck.RMSNorm(FEATURES),
    )


def frozen(layer: ck.Layer) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in layer.state_dict().items()}


def gradients(layer: ck.Layer) -> list[bytes]:
    return [b"" if p.grad is None else p.grad.tobytes() for p in layer.parameters()]


class LayerMachine(RuleBasedStateMachine):
    """Compares a network with a new copy for every forward and backward, which has no history."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network(1)
        self.training = True
        self.pending: tuple[dict[str, Any], bool, Array] | None = None  # state and mode before the last forward, and x
        self.kept = self.network.state_dict()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "state.npz")
        self.network.save(self.path)

    def teardown(self) -> None:
        self.folder.cleanup()

    def fresh(self, state: dict[str, Any], training: bool) -> ck.Sequential:
        copy = network(2)
        copy.load_state_dict(state)
        return copy.train() if training else copy.eval()

    @rule()
    def train(self) -> None:
        self.network.train()
        self.training = True

    @rule()
    def eval(self) -> None:
        self.network.eval()
        self.training = False

    @rule(rows=st.integers(2, 4), seed=st.integers(0, 9), dtype=st.sampled_from([np.float32, np.float16]))
    def forward(self, rows: int, seed: int, dtype: Any) -> None:
        x = np.random.default_rng(seed).standard_normal((rows, FEATURES)).astype(dtype)
        before = self.network.state_dict()
        copy = self.fresh(before, self.training)
        assert self.network(x).tobytes() == copy(x).tobytes()
        assert frozen(self.network) == frozen(copy)
        self.pending = before, self.training, x

    @precondition(lambda self: self.pending)
    @rule(seed=st.integers(0, 9))
    def backward(self, seed: int) -> None:
        assert self.pending is not None
        state, training, x = self.pending
        dy = np.random.default_rng(seed).standard_normal(x.shape).astype(x.dtype)
        copy = self.fresh(state, training)
        copy(x)
        assert self.network.backward(dy).tobytes() == copy.backward(dy).tobytes()
        assert gradients(self.network) == gradients(copy)
        self.pending = None

    @precondition(lambda self: not self.pending)
    @rule()
    def backward_without_forward(self) -> None:
        before = gradients(self.network)
        with pytest.raises(RuntimeError, match="backward needs a forward"):
            self.network.backward(np.ones((2, FEATURES), np.float32))
        assert gradients(self.network) == before

    @precondition(lambda self: self.pending)
    @rule()
    def backward_of_another_shape_or_dtype(self) -> None:
        assert self.pending is not None
        x, before = self.pending[2], gradients(self.network)
        with pytest.raises(ValueError, match="dy"):
            self.network.backward(np.ones((len(x) + 1, FEATURES), x.dtype))
        with pytest.raises(TypeError, match="dy"):
            self.network.backward(np.ones(x.shape, np.float32 if x.dtype == np.float16 else np.float16))
        assert gradients(self.network) == before

    @rule(kind=st.sampled_from(["dtype", "features", "list"]))
    def refused_at_the_door(self, kind: str) -> None:
        """The first layer refuses the input: the state does not change."""
        bad: Any = {
            "dtype": np.ones((2, FEATURES)),
            "features": np.ones((2, FEATURES + 1), np.float32),
            "list": [[1.0] * FEATURES],
        }
        before = frozen(self.network)
        with pytest.raises((TypeError, ValueError), match="x"):
            self.network(bad[kind])
        assert frozen(self.network) == before
        self.pending = None

    @precondition(lambda self: self.training)
    @rule()
    def refused_within(self) -> None:
        """The second layer refuses one sample after the first layer computed it: no backward may use both forwards."""
        before = frozen(self.network)
        with pytest.raises(ValueError, match="two values per channel"):
            self.network(np.ones((1, FEATURES), np.float32))
        assert frozen(self.network) == before
        self.pending = None

    @rule()
    def keep_state(self) -> None:
        self.kept = self.network.state_dict()

    @rule()
    def take_state_back(self) -> None:
        self.network.load_state_dict(self.kept)
        self.pending = None

    @rule()
    def save(self) -> None:
        self.network.save(self.path)

    @rule()
    def load(self) -> None:
        self.network.load(self.path)
        self.pending = None

    @rule()
    def load_nonsense(self) -> None:
        before = frozen(self.network)
        with pytest.raises(ValueError, match="nothing was loaded"):
            self.network.load_state_dict({"gamma": np.ones(3, np.float32)})
        assert frozen(self.network) == before

    @precondition(lambda self: all(gradients(self.network)))
    @rule()
    def step(self) -> None:
        """A step; it ends a pending forward, because the copies would see the new weights."""
        for parameter in self.network.parameters():
            assert parameter.grad is not None
            ck.sgd_step(parameter.value, parameter.grad, lr=0.01)
        self.network.load_state_dict(self.network.state_dict())
        self.pending = None


TestLayerMachine = LayerMachine.TestCase
