"""Dropout, addition and a norm in one pass: the bits of separate ops, bad values, gradients and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Array, each_isa

from cregkit import functional, oracle

NORMS = ("layer_norm", "rms_norm")
RATES = (0.0, 0.1, 0.5, 1.0)
SEED = 20170612


def data(shape: tuple[int, ...], count: int) -> list[Array]:
    rng = np.random.default_rng(shape)
    return [rng.standard_normal(shape, np.float32) for _ in range(count)]


def parameters(norm: str, cols: int) -> list[Array]:
    return [np.linspace(0.5, 1.5, cols, dtype=np.float32), np.linspace(-1, 1, cols, dtype=np.float32)][
        : 2 if norm == "layer_norm" else 1
    ]


def assert_same_bits(got: Any, wanted: Any) -> None:
    for one, other in zip(got, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            assert one.tobytes() == other.tobytes()


def assert_bits_of_separate_ops(
    norm: str, x: Array, residual: Array, dy: Array, dh: Array | None, p: float, offset: int, *, gain: bool = True
) -> None:
    """Compare forward and backward on every instruction set."""
    fused, alone = (
        [getattr(functional, f"{name}_{direction}") for direction in ("forward", "backward")]
        for name in (f"dropout_add_{norm}", norm)
    )
    given = parameters(norm, x.shape[-1]) if gain else []
    random = {"seed": SEED, "offset": offset}
    for _ in each_isa():
        y, h, *saved = fused[0](x, residual, *given, p=p, **random)
        wanted_h = residual + functional.dropout(x, p, **random)
        wanted_y, *wanted_saved = alone[0](wanted_h, *given, **({} if norm == "layer_norm" else {"eps": 1e-6}))
        assert_same_bits([y, h, *saved], [wanted_y, wanted_h, *wanted_saved])
        dx, dresidual, *sums = fused[1](dy, h, *saved, *given[:1], p=p, dh=dh, **random)
        wanted_dh, *wanted_sums = alone[1](dy, h, *saved, *given[:1])
        if dh is not None:
            wanted_dh = wanted_dh + dh
        assert_same_bits([dresidual, *sums], [wanted_dh, *wanted_sums])
        assert_same_bits([dx], [functional.dropout_backward(wanted_dh, p, **random)])


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("norm", NORMS)
def test_the_fused_op_has_the_bits_of_separate_ops(norm: str, p: float) -> None:
    for shape in ((1, 1), (3, 4), (70, 33), (5, 127), (3, 7, 128), (9, 513), (130, 1025), (3, 4096), (5, 9001)):
        x, residual, dy, dh = data(shape, 4)
        assert_bits_of_separate_ops(norm, x, residual, dy, dh, p, offset=77)
        assert_bits_of_separate_ops(norm, x, residual, dy, None, p, offset=128, gain=False)


@given(data_=st.data())
def test_any_shape_rate_and_offset_has_the_bits_of_separate_ops(data_: st.DataObject) -> None:
    shape = data_.draw(st.one_of(st.tuples(st.integers(0, 40), st.integers(1, 300)), st.tuples(st.integers(1, 9000))))
    p = data_.draw(st.floats(0, 1))
    offset = data_.draw(st.integers(0, 2**63))
    x, residual, dy, dh = data(shape, 4)
    assert_bits_of_separate_ops(data_.draw(st.sampled_from(NORMS)), x, residual, dy, dh, p, offset)


@pytest.mark.parametrize("p", RATES)
def test_a_gain_offset_has_the_bits_of_its_sum_with_gamma(p: float) -> None:
    x, residual, dy, dh = data((70, 33), 4)
    gamma, gain_offset = np.linspace(-1.5, 0.7, 33, dtype=np.float32), 0.1
    gain = np.float32(gain_offset) + gamma
    random = {"p": p, "seed": SEED}
    for _ in each_isa():
        results = [
            functional.dropout_add_rms_norm_forward(x, residual, g, **options, **random)
            for g, options in ((gamma, {"gain_offset": gain_offset}), (gain, {}))
        ]
        assert_same_bits(*results)
        _, h, rstd = results[0]
        backward = functional.dropout_add_rms_norm_backward
        assert_same_bits(
            backward(dy, h, rstd, gamma, dh=dh, gain_offset=gain_offset, **random),
            backward(dy, h, rstd, gain, dh=dh, **random),
        )


@pytest.mark.parametrize("shape", [(2053, 4093), (2049, 4099)])  # narrow enough for its own tile, and too wide
@pytest.mark.parametrize("norm", NORMS)
def test_streaming_stores_change_no_bit(norm: str, shape: tuple[int, int]) -> None:
    """Outputs of this size are written with streaming stores."""
    x, residual = data(shape, 2)
    assert_bits_of_separate_ops(norm, x, residual, residual[::-1].copy(), x, 0.1, offset=5)


@pytest.mark.parametrize("norm", NORMS)
def test_huge_and_tiny_rows_have_the_bits_of_separate_ops(norm: str) -> None:
    x, residual, dy, dh = data((4, 130), 4)
    residual[0] *= np.float32(1e30)
    residual[1], x[1] = residual[1] * np.float32(1e-30), x[1] * np.float32(1e-30)
    assert_bits_of_separate_ops(norm, x, residual, dy, dh, 0.1, offset=0)


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("norm", NORMS)
def test_a_bad_value_is_dropped_or_stays_in_its_row(norm: str, p: float) -> None:
    forward = getattr(functional, f"dropout_add_{norm}_forward")
    x, residual = data((64, 130), 2)
    keep = functional.dropout_keep(x.shape, p, seed=SEED) if p else np.ones(x.shape, bool)
    x[:32][~keep[:32]] = np.nan
    x[40, :] = np.inf
    for _ in each_isa():
        y, h, *saved = forward(x, residual, p=p, seed=SEED)
        fine = np.isfinite(h).all(axis=1)
        assert fine[:32].all()
        assert fine[40] == (p == 1.0)
        assert np.isfinite(y[fine]).all()
        assert fine.sum() >= 63
        assert all(np.isfinite(value[fine]).all() for value in saved)


def test_without_dropout_dx_is_dresidual() -> None:
    dy, h = data((3, 8), 2)
    _, mean, rstd = functional.layer_norm_forward(h)
    dx, dresidual, *_ = functional.dropout_add_layer_norm_backward(dy, h, mean, rstd)
    assert dx is dresidual
    dx, dresidual, *_ = functional.dropout_add_layer_norm_backward(dy, h, mean, rstd, p=0.5, seed=1)
    assert not np.shares_memory(dx, dresidual)


@pytest.mark.parametrize("norm", NORMS)
def test_a_positive_p_without_a_seed_is_refused(norm: str) -> None:
    x, h = data((3, 8), 2)
    _, *saved = getattr(functional, f"{norm}_forward")(h)
    with pytest.raises(TypeError, match=r"seed is missing, and p = 0\.5 draws"):
        getattr(functional, f"dropout_add_{norm}_forward")(x, h, p=0.5)
    with pytest.raises(TypeError, match="seed is missing"):
        getattr(functional, f"dropout_add_{norm}_backward")(x, h, *saved, p=0.5)


@pytest.mark.parametrize("norm", NORMS)
def test_the_oracle_agrees_with_finite_differences(norm: str) -> None:
    """In float64 a step of 1e-6 gives nine digits of the gradient."""
    rng = np.random.default_rng(8)
    x, residual, dy, dh = rng.standard_normal((4, 3, 7))
    gamma = rng.uniform(0.5, 1.5, 7)
    random = {"p": 0.4, "seed": 3, "offset": 9}
    forward, backward = (getattr(oracle, f"dropout_add_{norm}_{direction}") for direction in ("forward", "backward"))

    def loss(x: Array, residual: Array, gamma: Array) -> float:
        y, h, *_ = forward(x, residual, gamma, **random)
        return float((y * dy).sum() + (h * dh).sum())

    _, h, *saved = forward(x, residual, gamma, **random)
    dx, dresidual, dgamma, *_ = backward(dy, h, *saved, gamma, dh=dh, **random)
    for k, gradient in enumerate((dx, dresidual, dgamma)):
        for index in np.ndindex(gradient.shape):
            points = []
            for step in (1e-6, -1e-6):
                moved = [x.copy(), residual.copy(), gamma.copy()]
                moved[k][index] += step
                points.append(loss(*moved))
            assert gradient[index] == pytest.approx((points[0] - points[1]) / 2e-6, rel=1e-6, abs=1e-7)
